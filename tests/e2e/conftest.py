"""A clone of the repository at another path, and the servers that pods need, each with its own ports and data."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.postgres import postgres_server

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = ["--service-dates", "5", "--lines", "2", "--points", "12", "--journeys-per-day", "40"]
BUCKET = "train-delays-dev"  # of environment dev
S3_SECRET = "s3cr3t-planted"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Clone:
    folder: Path
    mlflow_port: int
    airflow_port: int

    @property
    def environment(self):
        """An environment with settings of another MLflow and Airflow, which must have no effect."""
        foreign = {
            "AIRFLOW_HOME": "/nowhere",
            "AIRFLOW__CORE__EXECUTOR": "Nonsense",
            "MLFLOW_TRACKING_URI": "http://no",
        }
        ports = {"MLFLOW_PORT": str(self.mlflow_port), "AIRFLOW_PORT": str(self.airflow_port)}
        return os.environ | foreign | ports

    def run(self, script, *arguments):
        return subprocess.run(
            [sys.executable, str(self.folder / "scripts" / script), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@contextmanager
def cloned(folder):
    """Copy the parts of the repository that a command needs to another path. Stop its servers at the end."""
    for part in ("dags", "plugins", "scripts", "transformer", "include"):
        shutil.copytree(REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    clone = Clone(folder, free_port(), free_port())
    try:
        yield clone
    finally:
        clone.run("services.py", "down")


@pytest.fixture
def clone(tmp_path):
    with cloned(tmp_path / "a clone") as clone:
        yield clone


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    command = [sys.executable, "-m", "transformer", "simulate", "--to", str(folder), *TINY]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return folder


@pytest.fixture
def mlflow(tmp_path):
    """Address of an MLflow server of its own."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    argv += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    argv += ["--artifacts-destination", f"{tmp_path}/artifacts"]
    with (tmp_path / "mlflow.log").open("w") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"{address}/health", 60)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(url, seconds):
    end = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(url, timeout=2).read()
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


@pytest.fixture
def s3(tiny_data, monkeypatch):
    """Address of an S3 server whose bucket holds the event tables."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    bucket = boto3.resource("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
    for path in tiny_data.rglob("*.parquet"):
        bucket.upload_file(str(path), f"data/{path.relative_to(tiny_data).as_posix()}")
    yield address
    bucket.objects.all().delete()  # the servers of one process share what they hold
    bucket.delete()
    server.stop()


@pytest.fixture(scope="session")
def postgres():
    with postgres_server() as server:
        yield server


def on_own_disks(mlflow, s3):
    """Overrides of environment dev for pods that reach these servers and share no disk."""
    return [
        f"data.endpoint_url={s3}",
        "data.local_folder=data",  # relative: on each pod's own disk
        "paths.cache=cache",
        "paths.runs=runs",
        f"training.mlflow.tracking_uri={mlflow}",
    ]


def run_in_pods(dag_id, conf, cluster, home):
    """`airflow dags test` with an Airflow home of its own and the pods of `cluster`; returns its log."""
    environment = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": cluster.connection,
    }
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], env=environment, check=True, capture_output=True)
    done = subprocess.run(
        [*airflow, "dags", "test", dag_id, "--conf", json.dumps(conf)],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-6000:]
    return log
