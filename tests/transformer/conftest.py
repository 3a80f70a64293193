"""A small simulated railway, made once, the real data where it is, and MLflow servers."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

from transformer.config import Config, load_config
from transformer.data.simulator.dataset import simulate
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
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Event tables of eight simulated service dates."""
    folder = tmp_path_factory.mktemp("sample") / "data"
    simulate(folder, SimulationConfig(service_dates=8, lines=3, points=24, journeys_per_day=80))
    return folder


@pytest.fixture(scope="session")
def small_overrides(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that make training a matter of seconds, on the simulated railway, with a cache of its own."""
    scratch = tmp_path_factory.mktemp("small")
    return [*SMALL, f"data.local_folder={sample_folder}", f"paths.cache={scratch}/cache", f"paths.runs={scratch}/runs"]


@pytest.fixture
def sample_bucket(monkeypatch: pytest.MonkeyPatch, sample_folder: Path) -> Iterator[str]:
    """Address of an S3 server whose BUCKET holds the simulated railway under `operator/data/`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket=BUCKET)
    for path in sample_folder.rglob("*.parquet"):
        client.upload_file(str(path), BUCKET, f"operator/data/{path.relative_to(sample_folder).as_posix()}")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def small_config(small_overrides: list[str]) -> Config:
    return load_config("local", small_overrides)


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"real train-running data is not at {REAL_DATA.parent.name}/{REAL_DATA.name}")
    return REAL_DATA


@dataclass(frozen=True)
class MlflowServer:
    """A server in a process group of its own, with a database and artifacts in its own folder."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def start_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], MlflowServer]]:
    """Starts an MLflow server on a free port, about 10 s each; those still up at the end are stopped."""
    servers = []

    def start() -> MlflowServer:
        folder = tmp_path_factory.mktemp("mlflow")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"]
        command += ["--artifacts-destination", (folder / "artifacts").as_uri()]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=os.environ | quiet, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        servers.append(server := MlflowServer(f"http://127.0.0.1:{port}", folder, process))
        deadline = time.monotonic() + 120
        while not _is_healthy(server.url):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)
        return server

    yield start
    for server in servers:
        server.stop()


def _is_healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


@pytest.fixture(scope="session")
def mlflow_server(start_mlflow: Callable[[], MlflowServer]) -> str:
    """Base URL of an MLflow server that every test may log to; mark the test slow."""
    return start_mlflow().url


@pytest.fixture(scope="session")
def trained_folder(small_overrides: list[str]) -> Path:
    """Run folder of a model that was trained for an epoch on six of the eight simulated dates, without MLflow."""
    from transformer import stages

    config = load_config("local", [*small_overrides, "training.max_epochs=1"])
    stages.train_model(config, "")
    return stages.run_folder(config, "")
