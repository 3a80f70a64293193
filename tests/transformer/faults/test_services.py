"""MLflow or S3 vanishes in the middle of each stage: one line names the service, and the next try loses nothing."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from mlflow import MlflowClient

from tests.support.gate import CLOSED, FAILING, OPEN, SILENT, Gate
from tests.transformer.conftest import BUCKET
from tests.transformer.faults.conftest import COMPUTE, EVALUATE, TRAIN, arguments, unfinished
from transformer import stages
from transformer.cli import main
from transformer.config import load_config
from transformer.data import fetch
from transformer.evaluation import evaluate
from transformer.storage import bucket, shared_folder
from transformer.storage.shared_folder import COMPLETE
from transformer.tracking import names, runs
from transformer.training import callbacks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn_figures")]

SECRET = "geheim"


@pytest.fixture
def vanish(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets a service to a state when a function is called for the n-th time. The state stays."""

    def install(gate: Gate, state: str, owner: Any, name: str, call: int = 1) -> None:
        original, calls = getattr(owner, name), itertools.count(1)

        def called(*given: Any, **named: Any) -> Any:
            if next(calls) == call:
                gate.state = state
            return original(*given, **named)

        monkeypatch.setattr(owner, name, called)

    return install


IMPATIENT = "compute.service_wait_s=1"


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client gives up sooner than usual."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(("compute", "train", "evaluated"), [(CLOSED, FAILING, SILENT), (SILENT, CLOSED, FAILING)])
def test_mlflow_that_vanishes_in_each_stage(
    overrides: list[str],
    mlflow_gate: Gate,
    mlflow_server: str,
    vanish: Callable[..., None],
    fails: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    compute: str,
    train: str,
    evaluated: str,
) -> None:
    address = mlflow_gate.url.replace("//", f"//me:{SECRET}@")
    tracked = [
        *overrides,
        IMPATIENT,
        "training.mlflow.use_mlflow=true",
        f"training.mlflow.tracking_uri={address}",
        "training.max_epochs=2",
    ]
    config = load_config("local", tracked)
    run_id = runs.open_run(config, env="local", tags={names.AIRFLOW_RUN: "manual__1"})
    begins = f"MLflow at {mlflow_gate.url} did not answer"
    for stage, state, owner, name, call in (
        (COMPUTE, compute, stages, "obtain_inputs", 1),
        (TRAIN, train, callbacks.History, "on_train_epoch_end", 2),
        (EVALUATE, evaluated, evaluate, "write_evaluation", 1),
    ):
        command = arguments(stage, tracked, "--run-id", run_id)
        vanish(mlflow_gate, state, owner, name, call)
        message = fails(command)
        assert message.startswith(begins) and SECRET not in message and len(message) > len(begins), message
        assert not unfinished(tmp_path)
        mlflow_gate.state = OPEN
        caplog.clear()
        with caplog.at_level("INFO"):
            assert main(command) == 0
        assert SECRET not in caplog.text
        if stage == COMPUTE:
            assert "statistics: reused" in caplog.text and "embeddings: reused" in caplog.text
        if stage == TRAIN:
            assert "an earlier try of this DAG run left a checkpoint" in caplog.text
            assert "epoch 2/2 done" in caplog.text and "epoch 1/2 done" not in caplog.text
    run = MlflowClient(mlflow_server).get_run(run_id)
    assert run.data.metrics["test/n"] > 100
    assert run.info.status == "RUNNING"  # the last task of the DAG closes it


@pytest.fixture
def s3_gate(sample_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate in front of the S3 server that holds the sample data."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    impatient = partial(bucket.TransferSettings, read_timeout_s=5.0)
    monkeypatch.setattr(bucket, "TransferSettings", impatient)
    gate = Gate(urlsplit(sample_bucket).port or 0)
    yield gate
    gate.stop()


def shared(gate: Gate) -> set[str]:
    """The kinds of complete folders that the bucket holds under the prefix."""
    listed = boto3.client("s3", endpoint_url=gate.url).list_objects_v2(Bucket=BUCKET)["Contents"]
    return {entry["Key"].split("/")[1] for entry in listed if entry["Key"].endswith(COMPLETE)}


@pytest.mark.parametrize("state", [CLOSED, FAILING])
def test_s3_that_vanishes_in_each_stage(
    overrides: list[str],
    s3_gate: Gate,
    vanish: Callable[..., None],
    fails: Callable[..., str],
    tmp_path: Path,
    state: str,
) -> None:
    in_s3 = [
        *overrides,
        IMPATIENT,
        f"data.local_folder={tmp_path}/data",
        "data.download_data_from_s3=true",
        "data.save_results_to_s3=true",
        f"data.bucket_name={BUCKET}",
        "data.bucket_prefix=operator",
        f"data.endpoint_url={s3_gate.url}",
    ]
    for stage, owner, name in (
        ("fetch-files", bucket.Bucket, "download"),
        (COMPUTE, shared_folder, "upload_folder"),
        (TRAIN, fetch, "sync_data"),
        (EVALUATE, evaluate, "fetch_dates"),
    ):
        vanish(s3_gate, state, owner, name)
        message = fails(arguments(stage, in_s3))
        assert message.startswith(f"s3://{BUCKET}") and SECRET not in message
        assert message.endswith("run the stage again")
        assert f"{s3_gate.url} did not answer for" in message
        assert not unfinished(tmp_path)
        s3_gate.state = OPEN
        assert main(arguments(stage, in_s3)) == 0
        if stage == COMPUTE:
            assert shared(s3_gate) == {"statistics", "embeddings"}
    assert not os.environ.get("AWS_ENDPOINT_URL")
