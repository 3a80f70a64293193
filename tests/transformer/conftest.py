"""A small simulated railway, which is made once, the real data if present, and the MLflow server."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from tests.support import servers
from tests.support.figures import undrawn
from tests.support.gate import Gate
from tests.support.models import simulated, trained
from transformer import waiting
from transformer.config import Config, load_config
from transformer.data.simulator.settings import SimulationConfig

BUCKET = "train-delays"  # of `sample_bucket`
REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "mav_2024_12"

# A model that learns something in seconds.
SMALL = [
    "data.snapshot.n_prev=5",
    "data.snapshot.n_foll=5",
    "data.grid.step_s=3600",
    "model.d_model=32",
    "model.n_heads=2",
    "model.n_layers=1",
    "model.d_feedforward=32",
    "model.d_point=4",
    "training.max_epochs=3",
    "training.snapshots_per_epoch=48",
    "training.accelerator=cpu",
    "training.mlflow.use_mlflow=false",
]


@pytest.fixture(scope="session")
def sample_folder() -> Path:
    """Event tables of eight simulated service dates."""
    return simulated(SimulationConfig(service_dates=8, lines=3, points=24, journeys_per_day=80))


@pytest.fixture(scope="session")
def small_overrides(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for a training of seconds on the simulated railway, with a separate cache."""
    scratch = tmp_path_factory.mktemp("small")
    return [*SMALL, f"data.local_folder={sample_folder}", f"paths.cache={scratch}/cache", f"paths.runs={scratch}/runs"]


@pytest.fixture
def sample_bucket(monkeypatch: pytest.MonkeyPatch, sample_folder: Path) -> Iterator[str]:
    """Address of an S3 server whose BUCKET holds the simulated railway under `operator/data/`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import boto3

    with servers.s3_server() as address:
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket=BUCKET)
        for path in sample_folder.rglob("*.parquet"):
            client.upload_file(str(path), BUCKET, f"operator/data/{path.relative_to(sample_folder).as_posix()}")
        yield address


@pytest.fixture(scope="session")
def small_config(small_overrides: list[str]) -> Config:
    return load_config("local", small_overrides)


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"real train-running data is not at {REAL_DATA.parent.name}/{REAL_DATA.name}")
    return REAL_DATA


@pytest.fixture(scope="session")
def mlflow_server() -> str:
    """Base URL of the MLflow server, to which every test may log. Mark such a test as slow."""
    return servers.mlflow_server()[0]


@pytest.fixture
def mlflow_gate(mlflow_server: str) -> Iterator[Gate]:
    """An address of that server which can vanish."""
    gate = Gate(urlsplit(mlflow_server).port or 0)
    yield gate
    gate.stop()


@pytest.fixture
def undrawn_figures() -> Iterator[None]:
    """Evaluations take less than half of their time, and save each figure as a PNG of one pixel."""
    with undrawn():
        yield


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that this process would have waited for a server before each repetition. It does not really wait."""
    paused: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(paused), sleep=time.sleep)
    monkeypatch.setattr(waiting, "time", clock)
    monkeypatch.setattr(waiting, "_lines", waiting._Lines())  # its times are those of this clock
    monkeypatch.setattr(waiting, "sleep_using_event", lambda _: paused.append)
    return paused


@pytest.fixture(scope="session")
def trained_folder(sample_folder: Path) -> Path:
    """Run folder of a model that was trained for an epoch on six of the eight simulated dates, without MLflow."""
    return trained([*SMALL, f"data.local_folder={sample_folder}", "training.max_epochs=1"])
