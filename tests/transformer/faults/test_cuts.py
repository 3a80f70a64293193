"""Each server is cut off in the middle of each stage, or slowed: the stages wait, and their results stay the same."""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
import optuna
import pytest
from mlflow import MlflowClient

from tests.support import servers
from tests.support.cuts import Cut, Line, line_to
from tests.support.grids import grid
from tests.support.postgres import postgres_server
from tests.transformer.conftest import BUCKET
from tests.transformer.faults.conftest import COMPUTE, EVALUATE, TRAIN, arguments
from transformer.cli import main
from transformer.config import Config, load_config
from transformer.registry.versions import champion
from transformer.storage import bucket
from transformer.tracking.runs import open_run
from transformer.tuning.database import read_database

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn_figures")]

S3, MLFLOW, DATABASE = "S3", "MLflow", "PostgreSQL"
# Lengths of the outages, in seconds. With CUT_SECONDS=1,10,60 TEST_GRID=3, each server is cut off for each length in
# each stage, which takes three quarters of an hour.
SECONDS = [float(text) for text in os.environ.get("CUT_SECONDS", "1").split(",")]
# Names of values that no two runs share: times, and ids that a server gives.
OWN = re.compile(
    r"seconds|duration|_per_s|elapsed|mlflow_run_id|run_id|study_id|folder|file|checkpoints|run_page|creation"
)
SPACE = [{"key": "training.learning_rate", "low": 1e-4, "high": 1e-2, "log": True}]
STUDY = ["search.n_trials=3", f"search.space={json.dumps(SPACE)}", "training.max_epochs=1"]


@dataclass
class Pipeline:
    """Every stage against servers behind lines. `results` is what must not depend on outages."""

    lines: dict[str, Line]
    overrides: list[str]
    folder: Path
    plan: Callable[[str, dict[str, Line]], str] = lambda stage, lines: ""
    results: dict[str, Any] = field(default_factory=dict)
    pieces: dict[str, dict[str, int]] = field(default_factory=dict)

    def run(self) -> None:
        config = load_config("local", self.overrides)
        trained = self._stage("open-run", lambda: open_run(config, env="local", name="training"))
        for stage in ("fetch-files", COMPUTE, TRAIN, "register-model", EVALUATE):
            self._command(stage, self.overrides, "--run-id", trained)
        self._command("promote", self.overrides, "--version", "1")
        for kind, where in (("sqlite", "search.storage_url=''"), ("postgresql", "")):
            study = [*self.overrides, *STUDY, f"search.study_name={kind}", *filter(None, [where])]
            tuned = open_run(load_config("local", study), env="local", name=kind)
            self._command(f"tune {kind}", study, "--run-id", tuned)
            self._command(f"report-study {kind}", study, "--run-id", tuned)
            self.results[f"study {kind}"] = trials_of(load_config("local", study))
        for line in self.lines.values():
            line.begin()
            line.crawls = False
        self.results["MLflow"] = tracked(config)
        self.results["champion"] = getattr(champion(config), "version", None)

    def _command(self, stage: str, overrides: list[str], *options: str) -> None:
        result = self.folder / "result.json"

        def run() -> Any:
            assert main(arguments(stage.split(maxsplit=1)[0], overrides, *options, "--result", str(result))) == 0
            return without_own(json.loads(result.read_text()))

        self._stage(stage, run)

    def _stage(self, stage: str, run: Callable[[], Any]) -> Any:
        bucket._probed.clear()  # each stage is a process of its own
        for line in self.lines.values():
            line.begin()
        self.plan(stage, self.lines)
        result = run()
        self.pieces[stage] = {name: line.pieces for name, line in self.lines.items()}
        self.results[stage] = result if isinstance(result, dict) else None
        return result


def without_own(value: Any) -> Any:
    """The value without what no two runs share."""
    if isinstance(value, dict):
        return {key: without_own(one) for key, one in value.items() if not OWN.search(key)}
    return [without_own(one) for one in value] if isinstance(value, list) else value


def tracked(config: Config) -> dict[str, Any]:
    """Everything that MLflow keeps of the runs of the experiment, by name of the run."""
    client = MlflowClient(config.training.mlflow.tracking_uri)
    experiment = client.get_experiment_by_name(config.training.mlflow.experiment_name)
    found: dict[str, Any] = {}
    for run in client.search_runs([experiment.experiment_id]):
        name = re.sub(r" 20\d\d-.*", "", str(run.info.run_name))
        if "mlflow.parentRunId" in run.data.tags:
            name = f"{name} of {run.data.tags.get('study_name', '')}"
        assert name not in found, f"two runs {name}"
        found[name] = {
            "status": run.info.status,
            "params": dict(run.data.params),
            "tags": sorted(key for key in run.data.tags if not OWN.search(key)),
            "metrics": logged(run.info.run_id),
            "artifacts": artifacts(client, run.info.run_id),
        }
    return found


def logged(run_id: str) -> list[Any]:
    """Every value of every metric, as the server's database has it. A request for each would take minutes."""
    _, folder = servers.mlflow_server()
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        rows = database.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY 1, 2, 3", [run_id])
        return [row for row in rows if not OWN.search(row[0])]


def artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    """Paths of the artifacts; a hash of 16 digits in a path is left out."""
    found = []
    for entry in client.list_artifacts(run_id, folder):
        found += artifacts(client, run_id, entry.path) if entry.is_dir else [re.sub("[0-9a-f]{16}", "…", entry.path)]
    return sorted(found)


def trials_of(config: Config) -> list[Any]:
    with read_database(config) as storage:
        study = optuna.load_study(study_name=config.search.study_name, storage=storage)
        return [
            (trial.number, trial.state.name, trial.params, trial.value, without_own(dict(trial.user_attrs)))
            for trial in study.trials
        ]


@pytest.fixture
def pipeline(
    small_overrides: list[str],
    sample_bucket: str,
    mlflow_server: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Callable[..., Pipeline]]:
    """Makes a pipeline with an experiment, a model, a database and a prefix of its own."""
    postgres = postgres_server()
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    client = boto3.client("s3", endpoint_url=sample_bucket)
    tables = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET, Prefix="operator/")["Contents"]]
    ports = {S3: urlsplit(sample_bucket).port, MLFLOW: urlsplit(mlflow_server).port, DATABASE: postgres.port}
    with line_to(ports[S3]) as s3, line_to(ports[MLFLOW]) as mlflow, line_to(ports[DATABASE]) as database:

        def make(**given: Any) -> Pipeline:
            name = uuid4().hex[:8]
            for key in tables:
                source = {"Bucket": BUCKET, "Key": key}
                client.copy_object(Bucket=BUCKET, Key=key.replace("operator/", f"{name}/"), CopySource=source)
            folder = tmp_path / name
            own = [
                f"data.local_folder={folder}/data",
                f"paths.cache={folder}/cache",
                f"paths.runs={folder}/runs",
                f"paths.optuna_db={folder}/studies.db",
                "data.download_data_from_s3=true",
                "data.save_results_to_s3=true",
                f"data.bucket_name={BUCKET}",
                f"data.bucket_prefix={name}",
                f"data.endpoint_url=http://127.0.0.1:{s3.port}",
                "training.mlflow.use_mlflow=true",
                f"training.mlflow.tracking_uri=http://127.0.0.1:{mlflow.port}",
                f"training.mlflow.experiment_name={name}",
                f"evaluation.registry.model_name={name}",
                f"search.storage_url={postgres.database().replace(str(postgres.port), str(database.port))}",
                "search.heartbeat_s=60",  # an outage must not look like the death of the worker
                "training.max_epochs=2",
            ]
            folder.mkdir()
            return Pipeline({S3: s3, MLFLOW: mlflow, DATABASE: database}, [*small_overrides, *own], folder, **given)

        yield make


def differences(pipeline: Pipeline, expected: Pipeline) -> list[str]:
    """Lines of the results of two pipelines that differ."""
    lines = [comparable(one).splitlines() for one in (expected, pipeline)]
    return list(unified_diff(*lines, "undisturbed", "disturbed", n=3, lineterm=""))


def comparable(pipeline: Pipeline) -> str:
    """The results as text, with the values of the pipeline's own settings replaced."""
    text = json.dumps(pipeline.results, indent=1, sort_keys=True, default=str)
    for own in (str(pipeline.folder), pipeline.folder.name):
        text = text.replace(own, "own")
    for line in pipeline.lines.values():
        text = text.replace(f"127.0.0.1:{line.port}", "server")
    text = re.sub(r"studies_[0-9a-f]{12}|[0-9a-f]{32}|experiments/\d+", "id", text)
    return re.sub(r" +", " ", re.sub(r"(?<![\d.])(\d+ min )?\d+ s\b", "… s", text))  # durations; errors have decimals


def test_results_do_not_depend_on_outages(pipeline: Callable[..., Pipeline], caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(20)
    expected = pipeline()
    expected.run()
    table = []
    for seconds in SECONDS:
        for turn in range(grid(1)):

            def cut(stage: str, lines: dict[str, Line], seconds: float = seconds, turn: int = turn) -> None:
                pieces = {name: count for name, count in expected.pieces[stage].items() if count}
                name = sorted(pieces)[(turn + len(table)) % len(pieces)]
                moment = Cut(chance.randint(1, pieces[name]), seconds, chance.random() < 0.5)
                lines[name].begin(moment)
                table.append((stage, name, moment))

            disturbed = pipeline(plan=cut)
            caplog.clear()
            disturbed.run()
            assert not (found := differences(disturbed, expected)), "\n".join(found)
            assert "waiting for" in caplog.text
    for stage, name, moment in sorted(table, key=str):
        where = "answer lost" if moment.answered else "request lost"
        print(f"| {stage} | {name} | {moment.piece} of {expected.pieces[stage][name]} | {where} | {moment.seconds:g} |")


def test_results_do_not_depend_on_speed(pipeline: Callable[..., Pipeline]) -> None:
    def slow(stage: str, lines: dict[str, Line]) -> None:
        for line in lines.values():
            line.crawls = True

    expected, slowed = pipeline(), pipeline(plan=slow)
    expected.run()
    slowed.run()
    assert not (found := differences(slowed, expected)), "\n".join(found)
