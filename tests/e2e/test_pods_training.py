"""`airflow dags test model_training` in environment dev: real stages in pods, MLflow and S3 servers, no shared disk."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.e2e.cluster import Cluster
from tests.e2e.conftest import REPOSITORY, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

SMALL = [
    "training.max_epochs=2",
    "training.snapshots_per_epoch=64",
    "training.log_every_s=0.5",
    "data.grid.step_s=7200",
    "model.d_model=16",
    "model.n_heads=2",
    "model.n_layers=1",
    "embeddings.node2vec.enabled=false",
]
BUCKET = "train-delays-dev"  # of environment dev
SECRET = "s3cr3t-planted"


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
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=address)
    client.create_bucket(Bucket=BUCKET)
    for path in tiny_data.rglob("*.parquet"):
        client.upload_file(str(path), BUCKET, f"data/{path.relative_to(tiny_data).as_posix()}")
    yield address
    server.stop()


def test_the_whole_pipeline_in_pods(tmp_path, mlflow, s3):
    overrides = [
        *SMALL,
        f"data.endpoint_url={s3}",
        "data.local_folder=data",  # relative: on each pod's own disk
        "paths.cache=cache",
        "paths.runs=runs",
        f"training.mlflow.tracking_uri={mlflow}",
    ]
    home = tmp_path / "home"
    with Cluster() as cluster:
        environment = os.environ | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": cluster.connection,
        }
        airflow = [sys.executable, "-m", "airflow"]
        subprocess.run([*airflow, "db", "migrate"], env=environment, check=True, capture_output=True)
        conf = json.dumps({"env": "dev", "overrides": overrides})
        done = subprocess.run(
            [*airflow, "dags", "test", "model_training", "--conf", conf],
            env=environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        log = done.stdout + done.stderr
        assert done.returncode == 0, log[-6000:]

    assert [pod.args[3] for pod in cluster.pods] == [
        "fetch-files",
        "compute-statistics-and-embeddings",
        "train-model",
        "evaluate-model",
    ]
    (run_id,) = {pod.args[pod.args.index("--run-id") + 1] for pod in cluster.pods}
    assert re.fullmatch(r"[0-9a-f]{32}", run_id)
    assert {pod.manifest["metadata"]["labels"]["mlflow_run_id"] for pod in cluster.pods} == {run_id}

    found = json.loads(wait_for(f"{mlflow}/api/2.0/mlflow/runs/get?run_id={run_id}", 5))["run"]
    assert found["info"]["status"] == "FINISHED"
    tags = {tag["key"]: tag["value"] for tag in found["data"]["tags"]}
    assert tags["dag_id"] == "model_training"
    metrics = {metric["key"] for metric in found["data"]["metrics"]}
    assert any(name.startswith("test/") for name in metrics)

    keys = [entry["Key"] for entry in boto3.client("s3", endpoint_url=s3).list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert any(key.startswith("statistics/") for key in keys) and any(key.startswith("embeddings/") for key in keys)
    assert log.count("statistics: computing") == 1  # the other pods took them from the bucket

    assert SECRET not in log
    assert SECRET not in json.dumps([pod.manifest for pod in cluster.pods])
