"""Preemption: a killed training continues from its last epoch, and no half-written checkpoint is ever visible."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import torch
from mlflow import MlflowClient

from tests.support import commands
from tests.support.commands import finish
from tests.support.grids import grid
from tests.support.models import history_of
from tests.support.patience import PATIENCE_S, wait_until
from transformer.config import Config, load_config
from transformer.errors import UserError
from transformer.tracking import names, runs
from transformer.tracking.run_log import RunLog
from transformer.training.checkpoints import BEST, CHECKPOINTS, LAST

REPOSITORY = Path(__file__).resolve().parents[3]
EPOCHS = 4


@pytest.fixture(scope="module")
def overrides(small_overrides: list[str], mlflow_server: str) -> list[str]:
    return [
        *small_overrides,
        "training.mlflow.use_mlflow=true",
        f"training.mlflow.tracking_uri={mlflow_server}",
        f"training.max_epochs={EPOCHS}",
        "training.snapshots_per_epoch=320",
        "training.log_every_s=0.1",
    ]


@pytest.fixture(scope="module")
def config(overrides: list[str]) -> Config:
    return load_config("local", overrides)


def open_run(config: Config, dag_run: str = "manual__1") -> str:
    return runs.open_run(config, env="local", tags={names.AIRFLOW_RUN: dag_run})


def arguments(overrides: list[str], run_id: str, runs: Path) -> list[str]:
    words = ["transformer", "train-model", "--run-id", run_id]
    for override in [*overrides, f"paths.runs={runs}"]:
        words += ["--set", override]
    return words


def start(overrides: list[str], run_id: str, runs: Path) -> commands.Forked:
    return commands.start(*arguments(overrides, run_id, runs))


def start_anew(overrides: list[str], run_id: str, runs: Path) -> subprocess.Popen[str]:
    """A process that shares nothing with the others: not even the order of its sets is theirs."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments(overrides, run_id, runs)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def uninterrupted(overrides: list[str], config: Config, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run_id = open_run(config)
    finish(start_anew(overrides, run_id, folder))
    return history_of(config, run_id, folder)


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(grid(2)))
def test_killed_training_is_continued_by_its_retry(
    overrides: list[str], config: Config, uninterrupted, tmp_path: Path, kill: int
):
    """After SIGKILL at a random moment, the retry in an empty folder (a new pod) ends with the same metrics.

    The moment is a random line of the log and a random part of a second: it does not depend on the machine's speed.
    """
    chance = random.Random(kill)
    run_id = open_run(config)
    first = start(overrides, run_id, tmp_path / "first")
    epoch, after_s = chance.randint(0, EPOCHS), chance.uniform(0, 0.5)
    for line in first.stderr:
        if epoch == 0 or f"epoch {epoch}/" in line:
            break
    time.sleep(after_s)
    first.kill()
    first.communicate()
    kept = kept_epochs(config, run_id, tmp_path / "kept")
    (log,) = finish(start(overrides, run_id, tmp_path / "retry"))
    assert history_of(config, run_id, tmp_path / "final") == uninterrupted
    repeated = sum(f"epoch {epoch}/{EPOCHS} done" in log for epoch in range(1, kept + 1))
    assert repeated == 0, "epochs that MLflow had were trained again"
    client = MlflowClient(config.training.mlflow.tracking_uri)
    assert client.get_metric_history(run_id, "val/mae_s")[-1].value == pytest.approx(uninterrupted[-1]["val_mae_s"])
    print(f"killed {after_s:.1f} s into epoch {epoch} of {EPOCHS}: {kept} epochs kept, final figures equal")


def kept_epochs(config: Config, run_id: str, folder: Path) -> int:
    try:
        checkpoint = RunLog(config, run_id).download(f"{CHECKPOINTS}/{LAST}", folder)
    except UserError:
        return 0
    return len(torch.load(checkpoint, weights_only=True)["callbacks"]["History"]["rows"])


@pytest.mark.slow
def test_sigterm_ends_with_one_line_and_what_was_done_in_mlflow(overrides: list[str], config: Config, tmp_path: Path):
    run_id = open_run(config)
    process = start_anew([*overrides, "training.max_epochs=1000"], run_id, tmp_path)  # it cannot end before the signal
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 2/" in line:  # the first is saved and copied
            break
    process.send_signal(signal.SIGTERM)
    log = process.stderr.read()
    assert process.wait(timeout=PATIENCE_S) == 128 + signal.SIGTERM
    assert log.strip().splitlines()[-1] == "error: terminated by SIGTERM"
    assert "Traceback" not in log
    assert kept_epochs(config, run_id, tmp_path / "kept") >= 1
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_a_training_that_ended_in_its_first_epoch_is_begun_again(
    overrides: list[str], config: Config, uninterrupted, tmp_path: Path
):
    """SIGTERM before any checkpoint is in MLflow: the retry does not look for one. The loaders' processes end too."""
    run_id = open_run(config)
    process = start_anew([*overrides, "training.num_workers=2"], run_id, tmp_path / "first")
    assert process.stderr is not None
    for line in process.stderr:
        if f"epoch 1/{EPOCHS}, step" in line:
            break
    loaders = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    log = process.stderr.read()
    assert process.wait(timeout=PATIENCE_S) == 128 + signal.SIGTERM
    # A loader that was just handing over a batch may write a traceback of its own. The operator looks for this line.
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert errors == ["error: terminated by SIGTERM"]
    assert len(loaders) == 2
    wait_until(lambda: not any(loader.is_running() for loader in loaders), "the loaders end")
    assert kept_epochs(config, run_id, tmp_path / "kept") == 0
    (log,) = finish(start(overrides, run_id, tmp_path / "retry"))
    assert f"epoch 1/{EPOCHS} done" in log
    assert history_of(config, run_id, tmp_path / "final") == uninterrupted


@pytest.mark.slow
def test_another_dag_run_logging_into_the_run_starts_afresh(
    overrides: list[str], config: Config, uninterrupted, tmp_path: Path
):
    run_id = open_run(config)
    finish(start(overrides, run_id, tmp_path / "first"))
    runs.open_run(config, env="local", run_id=run_id, tags={names.AIRFLOW_RUN: "manual__2"})
    (log,) = finish(start(overrides, run_id, tmp_path / "second"))
    assert f"epoch 1/{EPOCHS} done" in log
    assert history_of(config, run_id, tmp_path / "final") == uninterrupted


@pytest.mark.slow
def test_half_an_upload_is_never_visible(config: Config, tmp_path: Path):
    """A connection that breaks during the upload of a checkpoint leaves the previous one in place."""
    run = RunLog(config, open_run(config))
    whole = tmp_path / BEST
    whole.write_bytes(b"x" * 3_000_000)
    run.log_artifact(whole, CHECKPOINTS)
    client = MlflowClient(config.training.mlflow.tracking_uri)
    artifacts = urlsplit(client.get_run(run.run_id).info.artifact_uri).path
    address = urlsplit(config.training.mlflow.tracking_uri)
    with socket.create_connection((address.hostname, address.port)) as connection:
        target = f"/api/2.0/mlflow-artifacts/artifacts{artifacts}/{CHECKPOINTS}/{BEST}"
        head = f"PUT {target} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 5000000\r\n\r\n"
        connection.sendall(head.encode() + b"y" * 1_000_000)
        time.sleep(0.5)
    time.sleep(1)
    assert run.download(f"{CHECKPOINTS}/{BEST}", tmp_path / "seen").read_bytes() == whole.read_bytes()
