"""The status of a pod as a task failure, and the pod configurations that are refused."""

import re
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kubernetes.client import models as k8s

from delay_pipeline.failures import one_line_failures, pod_failure, taken_away
from delay_pipeline.params import read_params
from transformer.config import load_config
from transformer.errors import UserError


def pod(phase, *conditions, state=None, deleted=None, **status):
    containers = [k8s.V1ContainerStatus(name="base", image="i", image_id="", ready=False, restart_count=0, state=state)]
    conditions = [k8s.V1PodCondition(**condition) for condition in conditions]
    spec = k8s.V1PodSpec(containers=[k8s.V1Container(name="base")], node_name="node-1")
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="stage-1", namespace="train-delays-dev", deletion_timestamp=deleted),
        spec=spec,
        status=k8s.V1PodStatus(phase=phase, conditions=conditions, container_statuses=containers, **status),
    )


def ended(code, message="", reason="Error"):
    terminated = k8s.V1ContainerStateTerminated(exit_code=code, reason=reason, message=message)
    return k8s.V1ContainerState(terminated=terminated)


def waiting(reason, message=None):
    return k8s.V1ContainerState(waiting=k8s.V1ContainerStateWaiting(reason=reason, message=message))


SCHEDULED = {"type": "PodScheduled", "status": "True"}
DRAINED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "node\ndrained"}


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (pod("Failed", DRAINED, state=ended(2)), ["Kubernetes", "EvictionByEvictionAPI: node drained"]),
        (pod("Failed", reason="DeadlineExceeded"), ["Kubernetes", "DeadlineExceeded"]),
        (pod("Failed", state=ended(137, reason="OOMKilled")), ["memory", "; choose"]),
        (pod("Failed", state=ended(143)), ["SIGTERM"]),
        (pod("Failed", state=ended(255)), ["255", "no output"]),
        (
            pod("Pending", SCHEDULED, state=waiting("ImagePullBackOff", "no such image")),
            ["container", "ImagePullBackOff: no such image"],
        ),
        (pod("Running", state=ended(143), deleted=datetime.now(UTC)), ["deleted while it ran", "drained"]),
        (pod("Pending", SCHEDULED), ["container", "node-1"]),
        (pod("Pending"), ["no node", "; choose"]),
        (pod("Running"), ["execution_timeout"]),
        (None, ["node was lost", "pod was deleted"]),
    ],
)
def test_why_a_pod_failed_is_one_line_and_retried(seen, words):
    failure = pod_failure("stage-name", seen, "base", "choose")
    assert re.match(r"stage-name\b", str(failure))
    assert all(word in str(failure) for word in words)
    assert ("choose" in str(failure)) == ("; choose" in words)
    assert "\n" not in str(failure)
    assert not isinstance(failure, AirflowFailException)


def test_a_pod_that_is_gone_has_the_reason_that_was_seen_before():
    seen = "Kubernetes ended its pod: EvictionByEvictionAPI"
    assert str(pod_failure("s", None, "base", "choose", seen)) == f"s: {seen}"


def test_a_missing_secret_is_not_retried():
    seen = pod("Pending", SCHEDULED, state=waiting("CreateContainerConfigError", 'secret "x" not found'))
    failure = pod_failure("s", seen, "base", "choose")
    assert isinstance(failure, AirflowFailException)
    assert re.search(r'secret "x" not found; .*train-delays-dev.*compute\.kubernetes\.secret', str(failure))


def test_a_pod_that_was_deleted_after_its_success_was_not_taken_away():
    assert taken_away(pod("Succeeded", state=ended(0), deleted=datetime.now(UTC))) == ""


@pytest.mark.parametrize(
    ("output", "message"),
    [("error: first\nerror: MLflow is away\nbye", "MLflow is away"), ("first words\nlast words\n", "last words")],
)
def test_the_last_error_or_line_of_a_pod_is_its_failure(output, message):
    failure = pod_failure("s", pod("Failed", state=ended(1, output)), "base", "choose")
    assert str(failure) == message
    assert not isinstance(failure, AirflowFailException)


def test_exit_2_of_a_pod_is_not_retried():
    failure = pod_failure("s", pod("Failed", state=ended(2, "error: no such folder")), "base", "choose")
    assert isinstance(failure, AirflowFailException)
    assert str(failure) == "no such folder"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.train_model=gpu-2", ["stages.train_model='gpu-2'", "'gpu-4'"]),
        ("stages.train=gpu-1", ["unknown key", "train"]),
        ("profiles=[a]", ["'a'", "profile", "{name: "]),
        ("profiles=[{cpu: 2}]", ["'cpu': 2", "profile", "{name: "]),
        ("profiles=[{name: a}, {name: a}]", ["'a'", "twice"]),
        ("profiles=[{name: a, cpus: 2}]", ["'a'", "'cpus'"]),
        ("profiles=[{name: a, cpu: many}]", ["'a'", "cpu=", "many"]),
        ("profiles=[{name: a, cpu: 0}]", ["'a'", "cpu=0", "above 0"]),
        ("profiles=[{name: a, memory: 8}]", ["memory=8", "512Mi, 8Gi or 1Ti"]),
        ("profiles=[{name: a, node_selector: [gpu]}]", ["'gpu'", "label", "key=value"]),
        ("profiles=[{name: a, tolerations: [gpu]}]", ["'gpu'", "taint", "key:NoSchedule"]),
        ("profiles=[{name: gpu-1, nodes: 0}]", ["'gpu-1'", "nodes=0", "above 0"]),
        (
            "profiles=[{name: gpu-1, nodes: 2}, {name: cpu-small}, {name: cpu-large}]",
            ["compute.kubernetes.stages.tune='gpu-1'", "several nodes", "only train-model", "nodes=1"],
        ),
        ("namespace=A_b", ["compute.kubernetes.namespace", "'A_b'"]),
        ("image=''", ["compute.kubernetes.image", "''", "registry/name:tag"]),
        ("schedule_timeout_s=0", ["compute.kubernetes.schedule_timeout_s", "0", "above 0"]),
    ],
)
def test_a_wrong_pod_configuration_is_one_line(override, words):
    with pytest.raises(UserError) as refused:
        load_config("prod", [f"compute.kubernetes.{override}"])
    assert all(word in str(refused.value) for word in words), refused.value
    assert "\n" not in str(refused.value)


def test_a_refused_conf_shows_no_password_and_has_a_bounded_length():
    stored = {}
    task = SimpleNamespace(xcom_push=lambda key, value: stored.update({key: value}))
    with pytest.raises(AirflowFailException) as caught, one_line_failures(task):
        read_params({"overrides": "http://me:geheim@host" + "x" * 100_000}, {})
    assert str(caught.value) == stored["error"]
    assert "geheim" not in stored["error"]
    assert len(stored["error"]) < 2_100


def test_no_failure_shows_a_password_to_other_tasks():
    stored = {}
    task = SimpleNamespace(xcom_push=lambda key, value: stored.update({key: value}))
    with pytest.raises(RuntimeError), one_line_failures(task):
        raise RuntimeError("http://me:geheim@host does not answer\nfor long")
    assert stored == {"error": "http://***@host does not answer"}
