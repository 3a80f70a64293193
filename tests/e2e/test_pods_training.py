"""`airflow dags test model_training` in environment dev: real stages in pods, and an MLflow server."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

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
    "data.download_data_from_s3=false",
    "data.save_results_to_s3=false",
]
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


def test_the_whole_pipeline_in_pods(tmp_path, tiny_data, mlflow):
    overrides = [
        *SMALL,
        f"data.local_folder={tiny_data}",
        f"paths.cache={tmp_path}/cache",
        f"paths.runs={tmp_path}/runs",
        f"training.mlflow.tracking_uri={mlflow}",
    ]
    home = tmp_path / "home"
    with Cluster() as cluster:
        environment = os.environ | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": cluster.connection,
            "AWS_SECRET_ACCESS_KEY": SECRET,
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

    assert SECRET not in log
    assert SECRET not in json.dumps([pod.manifest for pod in cluster.pods])
