"""Training and evaluation by `airflow dags test` in environment dev: stages in pods, MLflow and S3, no shared disk."""

import json
import re

import boto3
import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import BUCKET, S3_SECRET, on_own_disks, run_in_pods
from tests.support.cluster import Cluster
from tests.support.http import answers
from tests.support.models import TINY_TRAINING

pytestmark = pytest.mark.slow

NAME = "training-in-pods"
SMALL = ["training.max_epochs=2", *TINY_TRAINING]


def test_the_whole_pipeline_in_pods(tmp_path, mlflow, s3):
    conf = {"env": "dev", "overrides": [*SMALL, *on_own_disks(mlflow, s3, NAME)]}
    with Cluster() as cluster:
        log = run_in_pods("model_training", conf, cluster, tmp_path / "home")
    with Cluster() as evaluating:
        evaluation = run_in_pods("model_evaluation", conf, evaluating, tmp_path / "home")

    assert [pod.args[3] for pod in cluster.pods] == [
        "fetch-files",
        "compute-statistics-and-embeddings",
        "train-model",
        "evaluate-model",
        "register-model",
    ]
    (run_id,) = {pod.args[pod.args.index("--run-id") + 1] for pod in cluster.pods}
    assert re.fullmatch(r"[0-9a-f]{32}", run_id)
    assert {pod.manifest["metadata"]["labels"]["mlflow_run_id"] for pod in cluster.pods} == {run_id}

    found = json.loads(answers(f"{mlflow}/api/2.0/mlflow/runs/get?run_id={run_id}"))["run"]
    assert found["info"]["status"] == "FINISHED"
    tags = {tag["key"]: tag["value"] for tag in found["data"]["tags"]}
    assert tags["dag_id"] == "model_training"
    metrics = {metric["key"] for metric in found["data"]["metrics"]}
    assert any(name.startswith("test/") for name in metrics)

    keys = [entry["Key"] for entry in boto3.client("s3", endpoint_url=s3).list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert any(key.startswith("statistics/") for key in keys) and any(key.startswith("embeddings/") for key in keys)
    assert log.count("statistics: computing") == 1  # the other pods took them from the bucket

    (pod,) = evaluating.pods
    assert pod.args[3:4] + pod.args[pod.args.index("--run-id") :][:4] == [
        "evaluate-model",
        *["--run-id", run_id, "--last", "7"],
    ]
    client = MlflowClient(mlflow)
    run = client.get_run(run_id)
    (window,) = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert window.data.metrics["window/mae_s"] == run.data.metrics["test/mae_s"]  # the last date is the test date
    assert run.info.status == window.info.status == "FINISHED"
    decision = window.data.tags["gate/window"].partition(":")[0]
    version = client.get_model_version_by_alias(NAME, "champion" if decision == "promote" else "challenger")
    assert (version.run_id, version.tags["decision"]) == (
        run_id,
        {"promote": "promoted", "decline": "declined"}[decision],
    )
    report = "evaluation/report.html"
    assert f"{window.info.run_id}/artifacts/{report}" in evaluation
    assert report in {entry.path for entry in client.list_artifacts(window.info.run_id, "evaluation")}

    assert S3_SECRET not in log + evaluation
    assert S3_SECRET not in json.dumps([pod.manifest for pod in cluster.pods + evaluating.pods])
