"""A double of the model registry and of MLflow runs, for evaluations without a server."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import transformer.registry
import transformer.tracking
from transformer.errors import ServiceError, UserError


class ChampionChangedError(ServiceError):
    pass


class FakeRegistry:
    """Versions by alias, tags by run id, and the decisions."""

    ChampionChangedError = ChampionChangedError

    def __init__(self, **runs: str) -> None:
        """Take `champion="run id"` and `challenger="run id"`."""
        self.versions = {
            alias: SimpleNamespace(version=number, run_id=run_id, foreign="")
            for number, (alias, run_id) in enumerate(runs.items(), 1)
        }
        self.tags: dict[str, dict[str, str]] = {run_id: {} for run_id in runs.values()}
        self.decided: list[tuple[Any, ...]] = []
        self.changed = False  # whether another model became champion meanwhile

    def champion(self, config):
        return self.versions.get("champion")

    def challenger(self, config):
        return self.versions.get("challenger")

    def promote(self, config, version, *, why, by, instead_of=None):
        if self.changed:
            raise ChampionChangedError("the champion changed meanwhile; compare them again")
        self.decided.append(("promote", version, instead_of, why, by))
        return SimpleNamespace(version=version, run_id="promoted-run")

    def decline(self, config, version, *, why, by):
        self.decided.append(("decline", version, why, by))

    def found(self, run_id: str, request: str, **outcome: Any) -> None:
        """Leave the outcome of an evaluation in its run."""
        from transformer.evaluation.outcome import Outcome

        values = {"window": "2025-01-24..2025-01-25", "headline": "MAE 90.0 s", "report": "evaluation/w/report.html"}
        self.tags[run_id][f"request/{request}"] = json.dumps(Outcome.read(values | outcome).as_dict())

    def double_evaluations(self, monkeypatch) -> None:
        """Let the DAG `model_evaluation` evaluate nothing: each evaluation leaves the outcome in `left` of its run."""
        from delay_pipeline import evaluations

        self.left: dict[str, dict[str, Any]] = {run_id: {} for run_id in self.tags}
        choose = evaluations.open_evaluation

        def open_evaluation(context):
            self.install(monkeypatch)  # it replaces the doubles of the fixture that runs a DAG
            opened = choose(context)
            for model in opened["models"]:
                self.found(model["run_id"], model["request"], **self.left[model["run_id"]])
            return opened

        monkeypatch.setattr(evaluations, "open_evaluation", open_evaluation)

    def install(self, monkeypatch) -> FakeRegistry:
        registry = self

        class RunLog:
            def __init__(self, config, run_id):
                self.run_id = run_id

            def check(self, name="--run-id"):
                if self.run_id not in registry.tags:
                    raise UserError(f"{name}={self.run_id!r} is no run of this MLflow server")
                return "FINISHED"

            def find_child(self, tags):
                return None

            def get_tag(self, name):
                return registry.tags[self.run_id].get(name, "")

            def get_json_tag(self, name):
                return json.loads(self.get_tag(name) or "null")

        tracking = SimpleNamespace(RunLog=RunLog, run_url=lambda config, run_id: f"http://mlflow/#/{run_id}")
        for package, name, double in (
            (transformer.tracking, "runs", tracking),
            (transformer.tracking, "run_log", tracking),
            (transformer.registry, "versions", self),
        ):
            monkeypatch.setitem(sys.modules, f"{package.__name__}.{name}", double)
            monkeypatch.setattr(package, name, double, raising=False)
        # The module is imported again with the double of `tracking`, and removed again together with it.
        monkeypatch.delitem(sys.modules, "transformer.evaluation.outcome", raising=False)
        return self
