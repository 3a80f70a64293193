"""Stands in for `transformer.tracking` where a DAG runs without an MLflow server; remembers how its run was closed."""

import sys

import transformer


class FakeTracking:
    opened = ""  # id of a run that is opened anew
    closed = None  # (run id, status, reason)

    @classmethod
    def open_run(cls, config, **given):
        return given["run_id"] or cls.opened

    @staticmethod
    def run_url(config, run_id):
        return f"http://127.0.0.1:5000/#/{run_id}"

    @classmethod
    def close_run(cls, config, run_id, status="FINISHED", reason=""):
        cls.closed = (run_id, status, reason)

    @classmethod
    def install(cls, monkeypatch, opened):
        monkeypatch.setitem(sys.modules, "transformer.tracking", cls)
        monkeypatch.setattr(transformer, "tracking", cls, raising=False)
        monkeypatch.setattr(cls, "opened", opened)
        monkeypatch.setattr(cls, "closed", None)
