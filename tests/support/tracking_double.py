"""A double of `transformer.tracking` for a DAG without an MLflow server. It records how the run was closed."""

import json
import sys
from typing import ClassVar

import transformer.tracking


class FakeTracking:
    opened = ""  # id of a new run
    closed = None  # (run id, status, reason)
    tags: ClassVar = {}  # of every run

    @classmethod
    def open_run(cls, config, **given):
        return given["run_id"] or cls.opened

    @staticmethod
    def run_url(config, run_id):
        return f"http://127.0.0.1:5000/#/{run_id}"

    @classmethod
    def close_run(cls, config, run_id, status="FINISHED", reason=""):
        cls.closed = (run_id, status, reason)

    class RunLog:
        def __init__(self, config, run_id):
            self.run_id = run_id

        def get_tag(self, name):
            return FakeTracking.tags.get(name, "")

        def get_json_tag(self, name):
            return json.loads(self.get_tag(name) or "null")

    @classmethod
    def install(cls, monkeypatch, opened):
        for name in ("runs", "run_log"):
            monkeypatch.setitem(sys.modules, f"transformer.tracking.{name}", cls)
            monkeypatch.setattr(transformer.tracking, name, cls, raising=False)
        monkeypatch.setattr(cls, "opened", opened)
        monkeypatch.setattr(cls, "closed", None)
