"""A stage on two nodes: the real operator and its trigger against a Kubernetes API whose pods are processes."""

import asyncio
import json
import os
import re
import signal
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from mlflow import MlflowClient

from delay_pipeline import pods as pause
from delay_pipeline import stage
from delay_pipeline.stage import StageOperator
from tests.e2e.conftest import on_own_disks
from tests.support import commands
from tests.support.cluster import Cluster, Fate
from tests.support.patience import wait_until
from transformer.config import load_config
from transformer.tracking import names, runs
from transformer.tracking.run_log import RunLog
from transformer.training.callbacks import read_history
from transformer.training.checkpoints import CHECKPOINTS, HISTORY

pytestmark = pytest.mark.slow

TWO_NODES = [
    "compute.kubernetes.profiles=[{name: two-nodes, nodes: 2}, {name: cpu-small}, {name: cpu-large}, {name: gpu-1}]",
    "compute.kubernetes.stages.train_model=two-nodes",
]
OK = Fate("import os; print('node', os.environ['NODE_RANK'], 'of', os.environ['TRANSFORMER_NODES'])")
WAITS = """
import signal, sys, time
def end(*_):
    print("terminated", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("waits", flush=True)
time.sleep(3600)
"""

LATE = f"import time; time.sleep(2)\n{WAITS}"  # by then, node 0 waits


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    with Cluster() as cluster:
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", cluster.connection)
        yield cluster


class Tries:
    """The tries of the task `train_model` of one DAG run, each as Airflow and its triggerer run it."""

    def __init__(self, *overrides, run_id="3f2a"):
        run = {"env": "dev", "overrides": [*TWO_NODES, *overrides], "run_id": run_id, "run_url": ""}
        self.run = {**run, "warm_start_run_id": None, "resume_run": False}
        self.number = 0

    def task(self):
        task = StageOperator(task_id="train_model", stage="train-model", mlflow_run=self.run)
        task.poll_interval = task.startup_check_interval_seconds = 0.2
        task.logging_interval = 1
        return task

    def begin(self):
        """Begin a try: `(task, trigger)`, as it waits for its pods."""
        self.number += 1
        ti = {"dag_id": "model_training", "task_id": "train_model", "map_index": -1, "try_number": self.number}
        ti = SimpleNamespace(xcom_push=lambda key, value: None, start_date=datetime.now(UTC), **ti)
        self.context = {"ti": ti, "run_id": "manual__1", "dag": SimpleNamespace()}
        task = self.task()
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(self.context)
        return task, self._sent(deferred.value)

    def _sent(self, deferred):
        """The trigger as the triggerer gets it."""
        _, arguments = deferred.trigger.serialize()
        self.method = deferred.method_name
        return type(deferred.trigger)(**arguments)

    def finish(self, trigger):
        while True:
            event = asyncio.run(anext(trigger.run()))
            try:
                return getattr(self.task(), self.method)(self.context, event.payload)
            except TaskDeferred as deferred:
                trigger = self._sent(deferred)

    def run_one(self):
        _, trigger = self.begin()
        return self.finish(trigger)


def assert_nothing_is_left(cluster):
    wait_until(lambda: all(job.gone for job in cluster.jobs))
    assert all(pod.gone for pod in cluster.pods)
    assert not cluster.services


def lines(pod):
    return [line for _, line in pod.log]


def test_a_stage_on_two_nodes_is_a_job_that_leaves_nothing(cluster, capsys):
    cluster.plan("train-model", OK)
    Tries().run_one()
    assert [lines(pod) for pod in cluster.pods] == [["node 0 of 2"], ["node 1 of 2"]]
    assert len(cluster.jobs) == 1
    assert "[base] logs: node 0 of 2" in capsys.readouterr().out
    assert_nothing_is_left(cluster)


FAILS = "import sys, time; time.sleep(2); print('error: MLflow does not answer'); sys.exit(1)"


@pytest.mark.parametrize(
    ("fate", "said"),
    [
        (Fate(FAILS), "MLflow does not answer (node 1 of 2, pod "),
        (Fate(LATE, ends="OOMKilled"), "train-model ran out of memory; its profile two-nodes has 1 cores, 4Gi: "),
        (Fate(LATE, ends="Evicted"), "train-model: Kubernetes ended its pod: Evicted: The node was low on resource"),
        (Fate(LATE, ends="NodeLost"), "train-model: its pod no longer exists: the node was lost"),
        (Fate(LATE, ends="Drained"), "train-model: its pod "),  # which may be gone already
    ],
    ids=["exit 1", "out of memory", "evicted", "node lost", "drained"],
)
def test_a_node_that_fails_ends_the_others_and_is_named(cluster, caplog, fate, said):
    cluster.plan("train-model", Fate(WAITS), fate, OK)
    tries = Tries()
    with pytest.raises(AirflowException) as failed:
        tries.run_one()
    message = str(failed.value)
    assert message.startswith(said) and "(node 1 of 2" in message and "\n" not in message
    assert not isinstance(failed.value, AirflowFailException)
    first, second = cluster.pods
    wait_until(lambda: first.gone)
    assert lines(first) == ["waits", "terminated"]
    if not second.fate.ends:
        assert second.name in message and "last lines of node 1" in caplog.text
    tries.run_one()
    assert len(cluster.jobs) == 2
    assert_nothing_is_left(cluster)


def test_wrong_input_fails_at_once(cluster):
    cluster.plan("train-model", Fate("import sys; print('error: data/x does not exist'); sys.exit(2)"))
    with pytest.raises(AirflowFailException, match=r"^data/x does not exist \(node [01] of 2, pod "):
        Tries().run_one()
    assert_nothing_is_left(cluster)


def test_a_task_killed_while_deferred_takes_all_nodes_along(cluster):
    cluster.plan("train-model", Fate(WAITS))
    _, trigger = Tries().begin()
    wait_until(lambda: all(pod.log for pod in cluster.pods))

    async def cancel():
        waiting = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.sleep(1)
        assert not waiting.done()
        waiting.cancel()
        await trigger.on_kill()  # what the triggerer calls when a person ends the task

    asyncio.run(cancel())
    assert_nothing_is_left(cluster)
    assert [lines(pod) for pod in cluster.pods] == [["waits", "terminated"]] * 2


def test_a_task_killed_before_it_waits_takes_all_nodes_along(cluster):
    cluster.plan("train-model", Fate(WAITS))
    task, _ = Tries().begin()
    wait_until(lambda: all(pod.log for pod in cluster.pods))
    task.on_kill()
    assert_nothing_is_left(cluster)


def test_a_try_starts_when_the_one_before_is_gone(cluster):
    """The worker was killed: nobody has ended the first try."""
    cluster.plan("train-model", Fate(WAITS), Fate(WAITS), OK)
    tries = Tries()
    tries.begin()
    wait_until(lambda: all(pod.log for pod in cluster.pods))
    _, trigger = tries.begin()
    assert [pod.gone for pod in cluster.pods[:2]] == [True, True]
    assert cluster.jobs[0].gone
    tries.finish(trigger)
    assert_nothing_is_left(cluster)


def test_another_task_is_left_alone(cluster):
    cluster.plan("train-model", Fate(WAITS), Fate(WAITS), OK)
    Tries().begin()
    cluster.jobs[0].manifest["metadata"]["labels"]["run_id"] = "manual__2"
    Tries().run_one()
    assert not cluster.jobs[0].gone


def test_a_job_waits_for_the_quota_as_a_pod_does(cluster, monkeypatch):
    monkeypatch.setattr(stage, "QUOTA_PAUSES_S", (0.1, 0.1))
    cluster.plan("train-model", OK)
    cluster.refusals = 1
    tries = Tries()
    _, trigger = tries.begin()
    assert isinstance(trigger, pause.PauseTrigger)
    assert not cluster.pods
    tries.finish(trigger)
    assert [lines(pod) for pod in cluster.pods] == [["node 0 of 2"], ["node 1 of 2"]]
    assert_nothing_is_left(cluster)


def test_an_old_cluster_is_refused_in_one_line(cluster):
    cluster.version = ("1", "20")
    with pytest.raises(AirflowFailException, match=r"^the cluster has Kubernetes 1\.20, .* needs 1\.24; .*nodes=1$"):
        Tries().begin()
    assert not cluster.jobs


SMALL = [
    "training.max_epochs=3",
    "training.snapshots_per_epoch=64",
    "training.accelerator=cpu",
    "training.log_every_s=0.1",
    "data.grid.step_s=7200",
    "model.d_model=16",
    "model.n_heads=2",
    "model.n_layers=1",
    "model.dropout=0",
    "model.head_dropout=0",
]


def test_two_pods_train_as_one_and_a_killed_one_restarts_both_from_the_last_epoch(cluster, mlflow, s3, tmp_path):
    overrides = [*SMALL, *on_own_disks(mlflow, s3, "two-nodes")]
    config = load_config("dev", overrides)

    def open_run():
        return runs.open_run(config, env="dev", tags={names.AIRFLOW_RUN: "manual__1"})

    def history(run_id):
        return read_history(RunLog(config, run_id).download(f"{CHECKPOINTS}/{HISTORY}", tmp_path / run_id))

    alone = open_run()
    words = [word for override in overrides for word in ("--set", override)]
    done = commands.run("transformer", "train-model", "--env", "dev", "--run-id", alone, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    run_id = open_run()
    tries = Tries(*overrides, run_id=run_id)
    _, trigger = tries.begin()
    first, second = cluster.pods
    wait_until(lambda: "epoch 2/3" in "".join(lines(first)) or first.done)  # the first is saved and copied
    os.killpg(second.process.pid, signal.SIGKILL)
    with pytest.raises(AirflowException, match=re.escape(f"(node 1 of 2, pod {second.name})")):
        tries.finish(trigger)
    assert_nothing_is_left(cluster)
    assert "Traceback" not in "".join(lines(first))

    tries.run_one()
    assert_nothing_is_left(cluster)
    again = cluster.pods[2:]
    assert all("continuing from it" in "".join(lines(pod)) for pod in again)
    assert "epoch 1/3 done" not in "".join(lines(again[0]))
    for row, expected in zip(history(run_id), history(alone), strict=True):
        assert row == pytest.approx(expected, rel=1e-3)
    client = MlflowClient(mlflow)
    assert [metric.step for metric in client.get_metric_history(run_id, "val/best_mae_s")] == [0]
    assert "s3cr3t-planted" not in json.dumps([pod.manifest for pod in cluster.pods])
