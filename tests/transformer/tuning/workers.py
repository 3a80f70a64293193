"""Workers of a study as processes, and what the study must look like when all have ended."""

import json
import os
import re
import time
from pathlib import Path

import optuna
from mlflow import MlflowClient
from optuna.trial import TrialState

from tests.support import commands
from tests.support.held import PROGRAM
from transformer.config import Config
from transformer.tuning.database import read_database
from transformer.tuning.study import progress
from transformer.tuning.trials import superseded

SPACE = [
    {"key": "training.learning_rate", "low": 1e-4, "high": 1e-2, "log": True},
    {"key": "model.dropout", "choices": [0.0, 0.1]},
]
ENDED = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}


def search_overrides(mlflow_server: str) -> list[str]:
    """Overrides of a study of short trials, which is tracked."""
    return [
        "training.mlflow.use_mlflow=true",
        f"training.mlflow.tracking_uri={mlflow_server}",
        "training.snapshots_per_epoch=64",
        f"search.space={json.dumps(SPACE)}",
        "search.pruner.n_startup_trials=2",
        "search.pruner.n_warmup_epochs=1",
    ]


def start(overrides: list[str], run_id: str, disk: Path, worker: int = 0, held: str = "") -> commands.Forked:
    """A worker in its own pod: it writes only to `disk`. With `held` it stops at that line of its log."""
    words = [*([PROGRAM, held] if held else ["transformer"]), "tune", "--run-id", run_id, "--worker", str(worker)]
    for override in [*overrides, f"paths.runs={disk}/runs", f"paths.optuna_db={disk}/studies.db"]:
        words += ["--set", override]
    return commands.start(*words, environment={**os.environ, "POLARS_MAX_THREADS": "1"})


def kill_when(process: commands.Forked, line: str, after_s: float = 0.0) -> str:
    """Send SIGKILL so long after the first log line that matches, and return the log until then."""
    said = ""
    for text in process.stderr:
        said += text
        if re.search(line, text):
            time.sleep(after_s)
            process.kill()
            break
    _, rest = process.communicate()
    return said + rest


def study_of(config: Config) -> optuna.Study:
    """A copy of the study in memory, which outlives its database."""
    copy = optuna.create_study(direction="minimize")
    with read_database(config) as storage:
        copy.add_trials(optuna.load_study(study_name=config.search.study_name, storage=storage).get_trials())
    return copy


def nested_runs(mlflow_server: str, parent: str) -> dict[int, list[tuple[str, str]]]:
    """Status and state of each trial's MLflow runs, by trial number."""
    client = MlflowClient(tracking_uri=mlflow_server)
    experiment = client.get_run(parent).info.experiment_id
    found: dict[int, list[tuple[str, str]]] = {}
    for run in client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'"):
        found.setdefault(int(run.data.tags["trial"]), []).append((run.info.status, run.data.tags["state"]))
    return found


def check_whole(study: optuna.Study, runs: dict[int, list[tuple[str, str]]], n_trials: int) -> None:
    """Each trial counts once, and each begun trial has an MLflow run, closed with the state in the database."""
    found = progress(study)
    assert (found.counted, found.running, found.waiting) == (n_trials, 0, 0)
    retried = superseded(study.trials)
    values = [tuple(trial.params.values()) for trial in study.trials if trial.number not in retried]
    assert len(set(values)) == n_trials
    for trial in study.trials:
        if trial.number in retried:
            assert runs.get(trial.number, []) in ([], [("KILLED", "retried")])
        else:
            status = ENDED[trial.state]
            assert [run[0] for run in runs[trial.number]] == [status], (trial.number, runs[trial.number])
