"""`airflow dags test hyperparameter_tuning` in environment dev: workers in pods, their study in PostgreSQL.

`dags test` runs one task at a time, so the first worker leaves no trial for the second.
`tests/transformer/tuning/test_kills.py` has workers that run at the same time.
"""

import json
import re
import sqlite3

import boto3
import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import BUCKET, S3_SECRET, on_own_disks, run_in_pods
from tests.e2e.test_train import SMALL
from tests.support.cluster import Cluster
from tests.support.servers import mlflow_server
from transformer.tracking.client import read_tag
from transformer.tracking.names import BEST_OVERRIDES

pytestmark = pytest.mark.slow

SPACE = [
    {"key": "training.learning_rate", "low": 3e-4, "high": 3e-3, "log": True},
    {"key": "model.dropout", "low": 0.1, "high": 0.4},
]
SECRET_NAME = "train-delays-credentials"
FIGURES = {"history.png", "parallel_coordinates.png", "importances.png", "slice.png", "intermediate_values.png"}


@pytest.fixture
def database_url(postgres, monkeypatch):
    """Address of an empty database, whose password is not in the environment."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    return postgres.database()


def test_a_study_of_two_workers_in_pods(tmp_path, mlflow, s3, postgres, database_url):
    home = tmp_path / "home"
    conf = {
        "env": "dev",
        "overrides": [
            *SMALL,
            "model.round_predictions=false",  # whole minutes would make trials of so little training equal
            *on_own_disks(mlflow, s3, "tuning-in-pods"),
            f"search.storage_url={database_url}",
            f"search.space={json.dumps(SPACE)}",
            "search.pruner.name=none",
            f"compute.kubernetes.secret={SECRET_NAME}",
        ],
        "n_trials": 4,
        "n_workers": 2,
        "study_name": "in-pods",
    }
    with Cluster() as cluster:
        cluster.secrets[SECRET_NAME] = {"PGPASSWORD": postgres.password}
        log = run_in_pods("hyperparameter_tuning", conf, cluster, home)

    with sqlite3.connect(home / "airflow.db") as airflow:
        states = dict(airflow.execute("select task_id || ' ' || map_index, state from task_instance").fetchall())
        assert airflow.execute("select state from dag_run").fetchall() == [("success",)]
    assert states.pop("train_best -1") == "skipped"
    assert states["tune 0"] == states["tune 1"] == "success"
    assert set(states.values()) == {"success"}

    stages = ["fetch-files", "compute-statistics-and-embeddings", "tune", "tune", "report-study"]
    assert [pod.args[3] for pod in cluster.pods] == stages
    (run_id,) = {pod.args[pod.args.index("--run-id") + 1] for pod in cluster.pods}
    workers = cluster.pods_of("tune")
    assert sorted(pod.args[pod.args.index("--worker") + 1] for pod in workers) == ["0", "1"]
    assert {pod.container["resources"]["limits"].get("nvidia.com/gpu") for pod in workers} == {"1"}
    (report,) = cluster.pods_of("report-study")
    small = {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "50Gi"}  # profile cpu-small
    assert report.container["resources"] == {"requests": small, "limits": {"memory": "8Gi"}}

    trials = postgres.admin("SELECT number, state::text FROM trials ORDER BY number", database_url.rpartition("/")[2])
    assert trials == [(number, "COMPLETE") for number in range(4)]

    client = MlflowClient(mlflow)
    parent = client.get_run(run_id)
    nested = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    found = sorted((run.data.tags["trial"], run.info.status, run.data.tags["state"]) for run in nested)
    assert found == [(str(number), "FINISHED", "complete") for number in range(4)]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["study_name"] == "in-pods"
    best = json.loads(read_tag(client, parent, BEST_OVERRIDES))
    assert [override.partition("=")[0] for override in best] == ["model.dropout", "training.learning_rate"]
    assert {f"study/{name}" for name in FIGURES} <= {entry.path for entry in client.list_artifacts(run_id, "study")}

    def said(stage):
        return "\n".join(line for pod in cluster.pods_of(stage) for _, line in pod.log)

    assert said("compute-statistics-and-embeddings").count("statistics: computing") == 1
    assert "computing" not in said("tune") + said("report-study")
    assert len(re.findall(r"S3: \S+/statistics/\w+ downloaded", said("tune"))) == 1  # once, for all trials of the pod
    assert "study in-pods: continued with 4 of 4 trials" in said("tune")

    bucket = boto3.resource("s3", endpoint_url=s3).Bucket(BUCKET)
    servers = (tmp_path, mlflow_server()[1])  # Airflow's folder and MLflow's
    left = {path: path.read_bytes() for folder in servers for path in folder.rglob("*") if path.is_file()}
    left |= {entry.key: entry.get()["Body"].read() for entry in bucket.objects.all()}
    left |= {pod.name: json.dumps([pod.manifest, pod.log], default=str).encode() for pod in cluster.pods}
    left["log"] = log.encode()
    address = database_url.encode()
    for database in (home / "airflow.db", mlflow_server()[1] / "mlflow.db"):
        assert address in left[database]  # a secret would be seen
    for secret in (postgres.password, S3_SECRET):
        assert [name for name, content in left.items() if secret.encode() in content] == []
