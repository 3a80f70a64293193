"""A clone of the repository at another path, and the servers that pods need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from tests.support.airflow import migrated_database
from tests.support.clones import cloned
from tests.support.models import simulated
from tests.support.postgres import postgres_server
from tests.support.servers import mlflow_server, s3_server
from transformer.data.simulator.settings import SimulationConfig

REPOSITORY = Path(__file__).resolve().parents[2]
BUCKET = "train-delays-dev"  # of environment dev
S3_SECRET = "s3cr3t-planted"


@pytest.fixture
def clone(tmp_path):
    with cloned(tmp_path / "a clone") as clone:
        yield clone


@pytest.fixture(scope="session")
def tiny_data():
    return simulated(SimulationConfig(service_dates=5, lines=2, points=12, journeys_per_day=40))


@pytest.fixture
def mlflow():
    """Address of an MLflow server, which other tests use too."""
    return mlflow_server()[0]


@pytest.fixture
def s3(tiny_data, monkeypatch):
    """Address of an S3 server whose bucket holds the event tables."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with s3_server() as address:
        bucket = boto3.resource("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
        for path in tiny_data.rglob("*.parquet"):
            bucket.upload_file(str(path), f"data/{path.relative_to(tiny_data).as_posix()}")
        yield address
        bucket.objects.all().delete()  # the servers of one process share what they hold
        bucket.delete()


@pytest.fixture(scope="session")
def postgres():
    return postgres_server()


def on_own_disks(mlflow, s3, name):
    """Overrides of environment dev for pods that reach these servers and share no disk.

    Args:
        name: name of the experiment and of the registered model, since other tests use the MLflow server too.
    """
    return [
        f"data.endpoint_url={s3}",
        "data.local_folder=data",  # relative: on each pod's own disk
        "paths.cache=cache",
        "paths.runs=runs",
        f"training.mlflow.tracking_uri={mlflow}",
        f"training.mlflow.experiment_name={name}",
        f"evaluation.registry.model_name={name}",
    ]


def run_in_pods(dag_id, conf, cluster, home):
    """Run `airflow dags test` with a separate Airflow home and the pods of `cluster`, and return its log."""
    if not (home / "airflow.db").exists():
        migrated_database(home)
    environment = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": cluster.connection,
    }
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "test", dag_id, "--conf", json.dumps(conf)],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-6000:]
    return log
