"""The node that a failure names as the one that ended the training, and the refusal of an old cluster."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import VersionApi
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from delay_pipeline import multi_node
from delay_pipeline.failures import pod_failure
from delay_pipeline.multi_node import INDEX, MultiNodeJob
from transformer.errors import UserError
from transformer.protocol import LOST_PROCESS

LOST = f"error: {LOST_PROCESS} (Connection closed by peer)"


def at(second):
    return datetime(2026, 1, 5, 10, 0, second, tzinfo=UTC)


def pod(node, *, exit_code=None, second=0, message="", reason="", deleted=None, phase="", ended_by=""):
    """A pod as Kubernetes shows it."""
    terminated = k8s.V1ContainerStateTerminated(
        exit_code=exit_code or 0, finished_at=at(second), message=message, reason=reason
    )
    state = k8s.V1ContainerState(terminated=terminated if exit_code is not None else None)
    phase = phase or ("Running" if exit_code is None else "Failed" if exit_code else "Succeeded")
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(
            name=f"train-{node}", namespace="dev", annotations={INDEX: str(node)}, deletion_timestamp=deleted
        ),
        status=k8s.V1PodStatus(
            phase=phase,
            reason=ended_by or None,
            container_statuses=[
                k8s.V1ContainerStatus(name="base", image="", image_id="", ready=False, restart_count=0, state=state)
            ],
        ),
    )


@pytest.fixture
def failure(monkeypatch):
    """The failure of a stage on three nodes with these pods; `later`: as Kubernetes shows them at the second look."""
    monkeypatch.setattr(multi_node, "POLL_S", 0)
    monkeypatch.setattr(multi_node, "STATUS_S", 0.2)

    def of(*pods, later=None, reason="", ended_by_job=()):
        shown = [list(pods), later if later is not None else list(pods)]

        def listed(namespace, label_selector):
            assert (namespace, label_selector) == ("dev", "job-name=train")
            return SimpleNamespace(items=shown.pop(0) if len(shown) > 1 else shown[0])

        def no_log(*_, **__):
            raise ApiException(status=404)

        def events(namespace, field_selector):
            assert (namespace, field_selector) == ("dev", "involvedObject.name=train")
            names = [f"Deleted pod: train-{node}-x7f9q" for node in ended_by_job]
            return SimpleNamespace(items=[SimpleNamespace(reason="SuccessfulDelete", message=name) for name in names])

        client = SimpleNamespace(
            list_namespaced_pod=listed, read_namespaced_pod_log=no_log, list_namespaced_event=events
        )
        job = MultiNodeJob(SimpleNamespace(core_v1_client=client), "train", "dev", 3)
        return job.failure("base", reason, lambda pod, why: pod_failure("train-model", pod, "base", "more memory", why))

    return of


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        (
            [pod(0, exit_code=1, second=1, message=LOST), pod(1, exit_code=137, second=2, reason="OOMKilled"), pod(2)],
            "train-model ran out of memory; more memory (node 1 of 3, pod train-1)",
        ),
        (
            [pod(node, exit_code=1, second=9 - node, message=f"error: MLflow {node}") for node in range(3)],
            "MLflow 2 (node 2 of 3, pod train-2)",
        ),
        (
            [
                pod(0, exit_code=143, second=1, deleted=at(1)),
                pod(1, exit_code=1, second=5, message="error: no space"),
                pod(2, exit_code=1, message=LOST),
            ],
            "no space (node 1 of 3, pod train-1)",
        ),
        (
            [pod(0, exit_code=1, message=LOST), pod(1, deleted=at(7)), pod(2, deleted=at(3))],
            "train-model: its pod was deleted while it ran: by a person, or because its node was drained or lost "
            "(node 2 of 3, pod train-2)",
        ),
        (
            [pod(0, exit_code=1, message=LOST), pod(2, deleted=at(7))],
            "train-model: its pod no longer exists: the node was lost or the pod was deleted (node 1 of 3)",
        ),
        (
            [pod(0, exit_code=1, message=LOST), pod(1, exit_code=143), pod(2, phase="Failed", ended_by="Evicted")],
            "train-model: Kubernetes ended its pod: Evicted (node 2 of 3, pod train-2)",
        ),
        (
            [pod(0, exit_code=1, message=LOST), pod(1), pod(2, phase="Pending")],
            "train-model: no node had room for its pod in time; more memory (node 2 of 3, pod train-2)",
        ),
        (
            [pod(0, exit_code=1, message=LOST), pod(1), pod(2)],
            f"{LOST_PROCESS} (Connection closed by peer) (node 0 of 3, pod train-0)",
        ),
    ],
    ids=["memory", "first of three", "error", "deleted", "gone", "evicted", "no room", "hangs"],
)
def test_the_node_that_ended_the_training_is_told(failure, pods, said):
    told = failure(*pods)
    assert str(told) == said
    assert not isinstance(told, AirflowFailException)


def test_a_node_that_kubernetes_ended_with_its_job_is_not_the_cause(failure):
    """All are deleted in the same second, and the first one is gone already."""
    pods = [pod(1, exit_code=137, second=3, deleted=at(3)), pod(2, exit_code=143, second=3, deleted=at(3))]
    assert "(node 1 of 3, pod train-1)" in str(failure(*pods, ended_by_job=[0, 2]))
    assert "(node 2 of 3, pod train-2)" in str(failure(*pods, ended_by_job=[0, 1]))
    assert str(failure(*pods, ended_by_job=[1, 2])).endswith(
        "no longer exists: the node was lost or the pod was deleted (node 0 of 3)"
    )


def test_a_node_that_had_failed_before_kubernetes_deleted_it_is_the_cause(failure):
    pods = [pod(0, exit_code=1, message=LOST), pod(1, exit_code=137, reason="OOMKilled", deleted=at(3)), pod(2)]
    assert "ran out of memory" in str(failure(*pods, ended_by_job=[1, 2]))


def test_the_status_of_a_node_may_follow_that_of_the_others(failure):
    lost = pod(0, exit_code=1, message=LOST)
    told = failure(lost, pod(1), pod(2), later=[lost, pod(1, exit_code=137, reason="OOMKilled"), pod(2)])
    assert "ran out of memory" in str(told) and "(node 1 of 3" in str(told)


def test_what_the_trigger_saw_of_node_0_is_told_if_its_pod_was_the_first_to_go(failure):
    why = "Kubernetes ended its pod: Preempting"
    assert why in str(failure(pod(1, exit_code=1, message=LOST), pod(2), reason=why))
    told = failure(pod(1, exit_code=1, message="error: no space"), pod(2), reason=why)
    assert str(told).startswith("no space (node 1")


def test_wrong_input_is_not_retried(failure):
    told = failure(*[pod(node, exit_code=2, message="error: data/x does not exist") for node in range(3)])
    assert isinstance(told, AirflowFailException)
    assert str(told).startswith("data/x does not exist (node 0 of 3")


@pytest.mark.parametrize(("major", "minor", "refused"), [("1", "20", True), ("1", "23+", True), ("1", "24+", False)])
def test_an_old_cluster_is_refused_before_anything_is_created(monkeypatch, major, minor, refused):
    found = SimpleNamespace(major=major, minor=minor)
    monkeypatch.setattr(VersionApi, "get_code", lambda self: found)
    hook = SimpleNamespace(api_client=object())
    created = pod(0)
    created.metadata.labels, created.spec = {}, k8s.V1PodSpec(containers=[], termination_grace_period_seconds=1)
    with pytest.raises(UserError if refused else AttributeError) as raised:  # the hook has no other client
        MultiNodeJob.start(hook, created, 2)
    if refused:
        assert f"Kubernetes {major}.{minor}" in str(raised.value) and "nodes=1" in str(raised.value)


def test_a_job_that_gets_no_pods_is_deleted_and_told(monkeypatch):
    monkeypatch.setattr(multi_node, "START_S", 0)
    monkeypatch.setattr(multi_node, "_check_version", lambda hook: None)
    deleted = []

    def create(_, job):
        job.metadata.uid = "0123"
        return job

    empty = SimpleNamespace(items=[])
    hook = SimpleNamespace(
        batch_v1_client=SimpleNamespace(
            list_namespaced_job=lambda *_, **__: empty,
            create_namespaced_job=create,
            delete_namespaced_job=lambda name, *_, **__: deleted.append(name),
        ),
        core_v1_client=SimpleNamespace(
            create_namespaced_service=lambda *_: None,
            list_namespaced_pod=lambda *_, **__: empty,
            list_namespaced_event=lambda *_, **__: empty,
        ),
    )
    created = pod(0)
    created.metadata.labels = {"dag_id": "model_training"}
    created.spec = k8s.V1PodSpec(containers=[k8s.V1Container(name="base", env=[])], termination_grace_period_seconds=1)
    with pytest.raises(AirflowException, match="no 2 pods for Job train-0"):
        MultiNodeJob.start(hook, created, 2)
    assert deleted == ["train-0"]
