"""One training on two nodes, where the cluster is new enough; otherwise one line says so."""

import json

from delay_pipeline.multi_node import OLDEST
from tests.cluster.installation import stage_pods
from tests.cluster.kubectl import kubectl

PROFILES = [
    {"name": "test", "cpu": 1, "memory": "3Gi", "disk": "2Gi", "shared_memory": "256Mi"},
    {"name": "two", "cpu": 1, "memory": "3Gi", "disk": "2Gi", "shared_memory": "256Mi", "nodes": 2},
]


def test_two_nodes_train_one_model(installation, note):
    two = [f"compute.kubernetes.profiles={json.dumps(PROFILES)}", "compute.kubernetes.stages.train_model=two"]
    run = installation.airflow.trigger("model_training", installation.conf(*two))
    server = json.loads(kubectl("version", "--output=json"))["serverVersion"]
    if (int(server["major"]), int(server["minor"].rstrip("+"))) < OLDEST:
        run.wait("failed")
        error = run.xcom("train_model", "error")
        assert "several nodes needs 1.24" in error
        note(error, installation.mlflow_run(run).info.status)
        return
    seen = set()

    def trains_on_both():
        seen.update(
            pod["metadata"]["name"] for pod in stage_pods() if pod["metadata"]["labels"]["stage"] == "train-model"
        )
        return run.state() in ("success", "failed")

    run.wait_for(trains_on_both, "the end")
    assert run.state() == "success", run.tasks()
    assert len(seen) == 2
    note("train_model in two pods: success", installation.mlflow_run(run).info.status)
