"""Pods that the cluster ends or never starts, and runs that a person ends: one clear line each, and no pod left."""

import json
import re

import pytest

from tests.cluster.airflow_api import ENDED
from tests.cluster.installation import STAGES, stage_pods
from tests.cluster.kubectl import apply, kubectl
from tests.support.patience import wait_until

# An epoch takes some seconds, and no training ends early.
SLOW = ["training.snapshots_per_epoch=256", "training.early_stopping.patience=1000"]
LONG = [*SLOW, "training.max_epochs=1000"]
RETRY = "up_for_retry"


@pytest.fixture(autouse=True)
def _leave_no_run(request, installation):
    """End the runs of a test that failed, since the next run would wait for them."""
    yield
    for run in installation.airflow.runs("model_training"):
        if run.state() not in ENDED:
            run.mark_failed()
            run.wait(*ENDED)


def pod_of(stage):
    """Name of the pod of a stage that is not being deleted, or ""."""
    for pod in stage_pods():
        if pod["metadata"]["labels"]["stage"] == stage and "deletionTimestamp" not in pod["metadata"]:
            return pod["metadata"]["name"]
    return ""


def running(run, tries):
    """Name of the pod of train_model in this try, once Airflow's page shows that it has ended an epoch."""
    run.wait_for_task("train_model", "deferred", tries=tries)
    run.wait_for(lambda: re.search(r"epoch \d+/\d+ done", run.log("train_model", tries)), "an epoch in the log")
    return pod_of("train-model")


def evict(pod):
    """Evict the pod through the API, as `kubectl drain` does."""
    versions = kubectl("api-versions").split()
    policy = "policy/v1" if "policy/v1" in versions else "policy/v1beta1"
    body = {"apiVersion": policy, "kind": "Eviction", "metadata": {"name": pod, "namespace": STAGES}}
    path = f"/api/v1/namespaces/{STAGES}/pods/{pod}/eviction"
    kubectl("create", f"--raw={path}", "--filename=-", stdin=json.dumps(body))


def fails(installation, task, *overrides, state=RETRY):
    """Trigger a training, wait for the first failure of a task, and return the run and the error."""
    run = installation.airflow.trigger("model_training", installation.conf(*overrides))
    seen = []
    run.wait_for(lambda: seen or seen.extend(filter(None, [run.error(task)])), f"the failure of {task}")
    if state != RETRY:  # the next try may have begun
        run.wait_for_task(task, state)
    (error,) = seen
    assert "\n" not in error
    return run, error


def test_a_training_goes_on_after_its_pod_was_deleted_and_evicted(installation, note):
    run = installation.airflow.trigger("model_training", installation.conf(*SLOW, "training.max_epochs=40"))
    kubectl("delete", "pod", f"--namespace={STAGES}", running(run, tries=1), "--wait=false")
    run.wait_for_task("train_model", RETRY)
    deleted = run.xcom("train_model", "error")
    evict(running(run, tries=2))
    run.wait_for_task("train_model", RETRY, tries=2)
    evicted = run.xcom("train_model", "error")
    run.wait("success")
    assert run.tasks()["train_model"] == ("success", 3)
    assert "was deleted" in deleted
    assert "was deleted" in evicted or "Evict" in evicted
    mlflow_run = installation.mlflow_run(run)
    assert mlflow_run.info.status == "FINISHED"
    epochs = [point.step for point in installation.mlflow.get_metric_history(mlflow_run.info.run_id, "val/mae_s")]
    assert sorted(set(epochs)) == sorted(epochs), "an epoch was trained twice"
    note(f"train_model: {evicted.partition(': ')[2]}; success, try 3", f"FINISHED, {len(epochs)} epochs, none twice")


def test_a_lost_node_and_a_run_marked_failed_while_its_task_waits_for_the_retry(installation, note):
    run = installation.airflow.trigger("model_training", installation.conf(*LONG))
    pod = running(run, tries=1)
    kubectl("delete", "pod", f"--namespace={STAGES}", pod, "--force", "--grace-period=0")
    run.wait_for_task("train_model", RETRY)
    error = run.xcom("train_model", "error")
    assert "lost" in error
    run.mark_failed()
    run.wait("failed")
    mlflow_run = installation.mlflow_run(run)
    assert mlflow_run.info.status == "FAILED"
    note(f"{error}; then failed by hand", f"FAILED: {mlflow_run.data.tags['failure_reason']}")


def test_a_run_marked_failed_while_it_trains(installation, note):
    run = installation.airflow.trigger("model_training", installation.conf(*LONG))
    assert running(run, tries=1), "the log came only after the pod's end"
    run.mark_failed()
    run.wait("failed")
    assert installation.mlflow_run(run).info.status == "FAILED"
    note("epochs in the log while the pod runs; then failed by hand", "FAILED")


def test_a_task_marked_failed_while_it_is_deferred(installation, note):
    run = installation.airflow.trigger("model_training", installation.conf(*LONG))
    running(run, tries=1)
    run.mark_task_failed("train_model")
    run.wait("failed")
    assert installation.mlflow_run(run).info.status == "FAILED"
    note("train_model: failed", "FAILED")


@pytest.fixture
def quota():
    """A quota that admits no pod of a stage."""
    meta = {"name": "full", "namespace": STAGES}
    apply([{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {"pods": "0"}}}])
    wait_until(
        lambda: (
            "0"
            in kubectl("get", "resourcequota", "full", f"--namespace={STAGES}", "--output=jsonpath={.status.hard.pods}")
        )
    )
    yield
    kubectl("delete", "resourcequota", "full", f"--namespace={STAGES}", "--ignore-not-found")


def test_a_stage_waits_while_the_quota_is_used_up(installation, quota, note):
    run = installation.airflow.trigger("model_training", installation.conf(*LONG))
    run.wait_for(lambda: "exceeded quota" in run.log("fetch_files"), "the wait for the quota")
    assert run.tasks()["fetch_files"][0] == "deferred"
    kubectl("delete", "resourcequota", "full", f"--namespace={STAGES}")
    run.wait_for_task("fetch_files", "success")
    assert run.tasks()["fetch_files"] == ("success", 1)
    run.mark_failed()
    run.wait("failed")
    note("fetch_files waits, then success, try 1", "–")


PROFILE = '{{"name": "test", "cpu": {cpu}, "memory": "{memory}", "disk": "1Gi", "shared_memory": "64Mi"{more}}}'


@pytest.mark.parametrize(
    ("task", "overrides", "words", "state"),
    [
        ("fetch_files", ["compute.kubernetes.secret=no-such-secret"], ["no-such-secret", "not found"], "failed"),
        ("fetch_files", ["compute.kubernetes.image=registry.example.org/no-such-image:0"], ["image"], RETRY),
        (
            "fetch_files",
            [f"compute.kubernetes.profiles=[{PROFILE.format(cpu=1, memory='70Mi', more='')}]"],
            ["ran out of memory"],
            RETRY,
        ),
        (
            "fetch_files",
            [
                f"compute.kubernetes.profiles=[{PROFILE.format(cpu=10_000, memory='1Gi', more='')}]",
                "compute.kubernetes.schedule_timeout_s=5",
            ],
            ["no node had room"],
            RETRY,
        ),
        ("fetch_files", ["compute.kubernetes.namespace=kube-public"], ["forbidden"], RETRY),
    ],
    ids=["missing secret", "bad image", "out of memory", "unschedulable", "forbidden namespace"],
)
def test_what_cannot_run_says_why_in_one_line(installation, note, task, overrides, words, state):
    run, error = fails(installation, task, *overrides, state=state)
    assert all(word in error for word in words), error
    if run.state() not in ENDED:
        run.mark_failed()
    run.wait("failed")
    note(error, installation.mlflow_run(run).info.status)
