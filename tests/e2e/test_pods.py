"""`model_training` in pods: the real operator and its trigger against a Kubernetes API, with scripted stages.

MLflow is replaced by a double; `test_pods_training.py` runs the real stages.
"""

import asyncio
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import TaskDeferred

from delay_pipeline import stage
from delay_pipeline.failures import pod_failure
from delay_pipeline.leftovers import delete_leftovers
from delay_pipeline.links import PodLink
from delay_pipeline.stage import StageOperator
from tests.support.cluster import Cluster, Fate
from tests.support.patience import wait_until
from tests.support.tracking_double import FakeTracking
from transformer.config import load_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow_database")]

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = ["fetch-files", "compute-statistics-and-embeddings", "train-model", "evaluate-model", "register-model"]
OK = Fate("print('done')")


@pytest.fixture
def cluster(monkeypatch):
    with Cluster() as cluster:
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", cluster.connection)
        for stage in STAGES:
            cluster.plan(stage, OK)
        yield cluster


@pytest.fixture
def train(monkeypatch, cluster):
    """Run the DAG in environment dev, with shorter waits than in a cluster. Return its run."""
    FakeTracking.install(monkeypatch, opened="3f2a")

    def run(*overrides):
        dag = DagBag(str(REPOSITORY / "dags")).dags["model_training"]
        for task in dag.tasks:
            task.retry_delay = timedelta(seconds=0.1)
            if hasattr(task, "stage"):
                task.poll_interval = task.startup_check_interval_seconds = 0.2
                task.logging_interval = 1
        return dag.test(run_conf={"env": "dev", "overrides": list(overrides)})

    return run


def states(run):
    return {ti.task_id: ti.state for ti in run.get_task_instances()}


def test_every_stage_runs_in_a_pod_of_its_own_and_leaves_none(train, cluster):
    run = train()
    assert run.state == "success"
    assert [pod.args[3] for pod in cluster.pods] == STAGES
    for pod in cluster.pods:
        assert pod.args[:3] == ["python", "-m", "transformer"]
        assert pod.args[4:] == ["--env", "dev", "--run-id", "3f2a"]
        assert len(pod.manifest["spec"]["containers"]) == 1
    assert all(pod.deleted.is_set() for pod in cluster.pods)
    assert FakeTracking.closed == ("3f2a", "FINISHED", "")
    assert all(ti.try_number == 1 for ti in run.get_task_instances())


def test_a_finished_stage_still_links_its_pod(train, cluster):
    run = train("compute.kubernetes.pod_url=https://pods.example.org/{namespace}/pod/{pod}")
    assert run.state == "success"
    (pod,) = cluster.pods_of("train-model")
    (ti,) = [ti for ti in run.get_task_instances() if ti.task_id == "train_model"]
    page = f"https://pods.example.org/{pod.manifest['metadata']['namespace']}/pod/{pod.name}"
    assert ti.xcom_pull(task_ids="train_model", key=PodLink().xcom_key) == page


def test_exit_2_is_not_retried_and_its_line_is_the_reason(train, cluster):
    cluster.plan("train-model", Fate("import sys; print('error: data/x does not exist'); print('bye'); sys.exit(2)"))
    run = train()
    assert run.state == "failed"
    assert states(run)["train_model"] == "failed"
    assert len(cluster.pods_of("train-model")) == 1
    assert FakeTracking.closed == ("3f2a", "FAILED", "train_model: data/x does not exist")


def retried(run, cluster):
    return run.state == "success" and len(cluster.pods_of("train-model")) == 2


TALK = "import time; print('epoch 1', flush=True); time.sleep(3600)"


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        (Fate("import sys; print('error: MLflow does not answer'); sys.exit(1)"), "MLflow does not answer"),
        (Fate(TALK, ends="Evicted"), "train-model: Kubernetes ended its pod: Evicted: The node was low on resource"),
        (Fate(TALK, ends="OOMKilled"), "train-model ran out of memory; its profile gpu-1 has 10 cores, 32Gi, 1 GPUs"),
        (Fate(TALK, ends="NodeLost"), "train-model: its pod no longer exists: the node was lost"),
        (Fate(TALK, ends="Drained"), "train-model: its pod was deleted while it ran"),
    ],
    ids=["exit 1", "evicted", "out of memory", "node lost", "drained"],
)
def test_what_may_pass_is_retried_in_a_new_pod(train, cluster, monkeypatch, fate, message):
    cluster.plan("train-model", fate, OK)
    failures = []

    def record(*arguments):
        failures.append(pod_failure(*arguments))
        return failures[-1]

    monkeypatch.setattr(stage, "pod_failure", record)
    run = train()
    assert run.state == "success"
    assert len(cluster.pods_of("train-model")) == run.get_task_instance("train_model").try_number == 2
    (failure,) = failures
    assert str(failure).startswith(message)
    assert "\n" not in str(failure)


def test_a_pod_whose_secret_is_missing_says_so_at_once(train, cluster):
    run = train("compute.kubernetes.secret=train-delays-s3")
    assert states(run)["fetch_files"] == "failed"
    (pod,) = cluster.pods
    assert pod.deleted.is_set()
    assert re.match(r'fetch_files: fetch-files: .*secret "train-delays-s3" not found; make it', FakeTracking.closed[2])


def test_a_stage_waits_while_the_quota_is_used_up(train, cluster, monkeypatch, capsys):
    monkeypatch.setattr(stage, "QUOTA_PAUSES_S", (0.2, 0.2))
    cluster.refusals = 3
    run = train()
    assert run.state == "success"
    assert [pod.args[3] for pod in cluster.pods] == STAGES
    assert run.get_task_instance("fetch_files").try_number == 1
    said = capsys.readouterr().out
    assert said.count("is forbidden: exceeded quota: gpus") == 3
    assert "Traceback" not in said


def test_a_stage_does_not_wait_for_ever_while_the_quota_is_used_up(train, cluster, monkeypatch):
    monkeypatch.setattr(stage, "QUOTA_PAUSES_S", (0.2, 0.2))
    cluster.refusals = 10_000
    run = train("compute.kubernetes.quota_timeout_s=1")
    assert states(run)["fetch_files"] == "failed"
    assert "exceeded quota: gpus" in FakeTracking.closed[2]
    assert not cluster.pods


def test_a_pod_that_waits_for_its_node_runs_in_the_end(train, cluster):
    cluster.plan("train-model", Fate("print('done')", unscheduled_s=3))
    run = train()
    assert run.state == "success"
    assert len(cluster.pods_of("train-model")) == 1


def test_a_pod_that_finds_no_node_is_removed_and_says_why(train, cluster):
    cluster.plan("train-model", Fate(unscheduled_s=120))
    run = train("compute.kubernetes.schedule_timeout_s=1")
    assert run.state == "failed"
    pods = cluster.pods_of("train-model")
    assert len(pods) == 3
    assert all(pod.deleted.is_set() for pod in pods)
    assert FakeTracking.closed == (
        "3f2a",
        "FAILED",
        "train_model: train-model: no node had room for its pod in time: 0/3 nodes are available: 3 Insufficient "
        "nvidia.com/gpu.; its profile gpu-1 has 10 cores, 32Gi, 1 GPUs: choose another with "
        "compute.kubernetes.stages.train_model",
    )


def test_log_lines_show_while_the_pod_runs(train, cluster, capsys, tmp_path):
    """The pod goes on only when its first line has been shown."""
    shown = tmp_path / "shown"
    script = f"""
import pathlib, time
print("epoch 1")
while not pathlib.Path({str(shown)!r}).exists():
    time.sleep(0.05)
print("epoch 2")
"""
    cluster.plan("train-model", Fate(script))
    said = []

    def first_is_there():
        said.append(capsys.readouterr().out)
        return "[base] epoch 1" in "".join(said)

    def watch():
        try:
            wait_until(first_is_there, "the first line")
            assert not cluster.pods_of("train-model")[0].done
            seen.append(True)
        finally:
            shown.touch()

    seen = []
    watcher = threading.Thread(target=watch)
    watcher.start()
    assert train().state == "success"
    watcher.join()
    assert seen
    lines = ("".join(said) + capsys.readouterr().out).splitlines()
    assert [len([line for line in lines if text in line]) for text in ("[base] epoch 1", "epoch 2")] == [1, 1]


SAVES = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("epoch 1", flush=True)
time.sleep(3600)
"""


@pytest.fixture
def deferred(monkeypatch, cluster):
    """An operator whose pod trains, and its trigger as the triggerer gets it."""
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    cluster.plan("train-model", Fate(SAVES))
    run = {"env": "dev", "overrides": [], "run_id": "3f2a", "warm_start_run_id": None, "resume_run": False}
    task = StageOperator(task_id="train_model", stage="train-model", mlflow_run={**run, "run_url": ""})
    ti = SimpleNamespace(
        xcom_push=lambda key, value: None,
        dag_id="model_training",
        task_id="train_model",
        map_index=-1,
        try_number=1,
        start_date=datetime.now(UTC),
    )
    with pytest.raises(TaskDeferred) as deferral:
        task.execute({"ti": ti, "run_id": "manual__1", "dag": SimpleNamespace()})
    _, arguments = deferral.value.trigger.serialize()
    (pod,) = cluster.pods
    wait_until(lambda: pod.log)
    return task, type(deferral.value.trigger)(**arguments), pod


def saved_and_gone(pod, cluster):
    wait_until(lambda: pod.gone)
    assert cluster.deletions == [(pod.name, 120)]
    assert [line for _, line in pod.log] == ["epoch 1", "saved"]
    assert pod.process.poll() == 143


def test_a_task_killed_while_deferred_takes_its_pod_along(deferred, cluster):
    _, trigger, pod = deferred

    async def cancel():
        waiting = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.sleep(1)
        assert not waiting.done()
        waiting.cancel()
        await trigger.on_kill()  # what the triggerer calls when a person ends the task

    asyncio.run(cancel())
    saved_and_gone(pod, cluster)


def test_the_end_of_a_dag_run_takes_the_pods_along_that_its_tasks_left(deferred, cluster):
    """A person ends the task while it starts to wait, so neither the task nor its trigger deletes the pod."""
    _, _, pod = deferred
    config = load_config("dev")
    delete_leftovers(config, "model_training", "manual__2")
    assert cluster.deletions == []
    delete_leftovers(config, "model_training", "manual__1")
    wait_until(lambda: pod.gone)
    assert [name for name, _ in cluster.deletions] == [pod.name]


def test_a_task_killed_before_it_waits_takes_its_pod_along(deferred, cluster):
    task, _, pod = deferred
    task.on_kill()
    saved_and_gone(pod, cluster)
