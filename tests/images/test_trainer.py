"""The trainer image as a pod runs it: a user without a name, a read-only root, no capabilities, no network."""

import json
import re
import subprocess
import time

import pytest

from tests.support.images import podman, run, start
from tests.support.models import TINY_TRAINING, simulated
from tests.support.patience import wait_until
from transformer.data.simulator.settings import SimulationConfig

STAGES = [
    *("fetch-files", "compute-statistics-and-embeddings", "train-model", "evaluate-model", "register-model"),
    *("tune", "report-study"),
]
SETTINGS = [
    "data.local_folder=/tmp/data",
    "paths.cache=/tmp/cache",
    "paths.runs=/tmp/runs",
    "training.mlflow.use_mlflow=false",
    *TINY_TRAINING,
]

LONG = ["training.max_epochs=1000", "training.snapshots_per_epoch=256", "training.early_stopping.patience=1000"]


def command(stage, *settings):
    words = ["python", "-m", "transformer", stage, "--env", "local"]
    return words + [word for setting in [*SETTINGS, *settings] for word in ("--set", setting)]


@pytest.fixture(scope="session")
def data():
    return [(simulated(SimulationConfig(service_dates=5, lines=2, points=12, journeys_per_day=40)), "/tmp/data", "ro")]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_explains_itself(trainer, stage):
    done = run(trainer, "python", "-m", "transformer", stage, "--help")
    assert done.returncode == 0, done.stdout
    assert f"transformer {stage}" in done.stdout


def test_a_whole_training_without_network(trainer, data):
    stages = ["fetch-files", "compute-statistics-and-embeddings", "train-model", "evaluate-model"]
    script = " && ".join(" ".join(command(stage, "training.max_epochs=1")) for stage in stages)
    done = run(trainer, "sh", "-euc", f"{script} && find /tmp/runs -name report.html", volumes=data)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^/tmp/runs/.*report\.html$", done.stdout, re.MULTILINE)


def test_sigterm_ends_a_training_with_its_checkpoint(trainer, data):
    """Kubernetes ends a pod so, and kills it when 120 s are over."""
    stages = ["fetch-files", "compute-statistics-and-embeddings", "train-model"]
    script = " && ".join(" ".join(command(stage, *LONG)) for stage in stages)
    # exec, since the shell of a pod is not there either: tini signals the stage itself
    script = script.replace("&& python -m transformer train-model", "&& exec python -m transformer train-model")
    container = start(trainer, "sh", "-euc", script, volumes=data)
    try:

        def said():
            return podman("logs", container, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout

        wait_until(lambda: len(re.findall(r"epoch \d+/\d+ done", said())) > 1, "two epochs", every_s=0.5)
        began = time.monotonic()
        podman("stop", "--time=110", container, capture_output=True)
        seconds = time.monotonic() - began
        state = json.loads(podman("inspect", "--format={{json .State}}", container, capture_output=True).stdout)
        assert state["ExitCode"] == 143, said()[-2000:]
        assert re.search(r"terminated after \d+ complete epochs", said())
        assert seconds < 60, f"it lived {seconds:.0f} s longer"
    finally:
        podman("rm", "--force", "--time=0", container, capture_output=True)
