"""A training that nobody disturbs, what follows from it, and one of its tasks run again."""

import pytest

from tests.cluster.airflow_api import ENDED
from tests.cluster.installation import NAMESPACES, STAGES, stage_pods
from tests.cluster.kubectl import KubectlError, kubectl

TASKS = ["fetch_files", "compute_statistics_and_embeddings", "train_model", "evaluate_model", "register_model"]


@pytest.fixture(scope="module")
def trained(installation):
    """A DAG run of a whole training, and its pods by stage."""
    run = installation.airflow.trigger("model_training", installation.conf())
    pods = {}

    def watch():
        pods.update({pod["metadata"]["labels"]["stage"]: pod for pod in stage_pods()})
        return run.state() in ENDED

    run.wait_for(watch, "the end")
    return run, pods


def test_every_dag_is_listed_and_none_is_broken(airflow):
    assert {"model_training", "hyperparameter_tuning", "model_evaluation"} <= set(airflow.dags())
    assert airflow.import_errors() == []


def test_a_training_succeeds_in_pods_of_its_own(installation, trained, note):
    run, pods = trained
    assert run.state() == "success", run.tasks()
    assert {task: run.tasks()[task] for task in TASKS} == dict.fromkeys(TASKS, ("success", 1))
    assert sorted(pods) == sorted(task.replace("_", "-") for task in TASKS)
    mlflow_run = installation.mlflow_run(run)
    assert {pod["metadata"]["labels"]["mlflow_run_id"] for pod in pods.values()} == {mlflow_run.info.run_id}
    assert mlflow_run.info.status == "FINISHED"
    assert any(name.startswith("test/") for name in mlflow_run.data.metrics)
    for pod in pods.values():
        assert pod["spec"]["serviceAccountName"] == "train-delays"
        assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    note("success, one try each", mlflow_run.info.status)


def test_the_evaluation_decides_on_the_new_model(installation, trained, note):
    run, _ = trained
    trained_run = installation.mlflow_run(run).info
    nested = f"tags.`mlflow.parentRunId` = '{trained_run.run_id}'"

    def decisions():
        windows = installation.mlflow.search_runs([trained_run.experiment_id], nested)
        return [window.data.tags["gate/window"] for window in windows if "gate/window" in window.data.tags]

    run.wait_for(decisions, "the decision on the model")
    for evaluation in installation.airflow.runs("model_evaluation"):  # other tests train models too
        evaluation.wait("success")
    (decision,) = decisions()
    note("model_evaluation started by the asset: success", f"gate: {decision.partition(':')[0]}")


def test_a_cleared_task_runs_again_in_the_same_mlflow_run(installation, trained, note):
    run, _ = trained
    before = installation.mlflow_run(run)
    run.clear("evaluate_model")
    run.wait("success")
    assert run.tasks()["evaluate_model"] == ("success", 2)
    assert run.tasks()["train_model"] == ("success", 1)
    after = installation.mlflow_run(run)
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    note("evaluate_model: success, try 2", after.info.status)


def test_the_service_accounts_may_do_what_the_guide_says():
    def may(account, *what):
        user = f"--as=system:serviceaccount:{NAMESPACES['airflow']}:{account}"
        try:
            return kubectl("auth", "can-i", *what, f"--namespace={STAGES}", user).strip() == "yes"
        except KubectlError:  # kubectl exits with 1 for `no`
            return False

    assert may("airflow-worker", "create", "pods")
    assert may("airflow-triggerer", "get", "pods/log")
    assert may("airflow-triggerer", "delete", "pods")
    assert not may("airflow-worker", "list", "secrets")
    assert not may("train-delays", "get", "pods")
