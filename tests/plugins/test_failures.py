"""What a pod's status becomes as a failure, and which profiles the configuration refuses."""

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kubernetes.client import models as k8s

from delay_pipeline.failures import one_line_failures, pod_failure
from delay_pipeline.params import read_params
from transformer.config import load_config
from transformer.errors import UserError


def pod(phase, *conditions, state=None, **status):
    containers = [k8s.V1ContainerStatus(name="base", image="i", image_id="", ready=False, restart_count=0, state=state)]
    conditions = [k8s.V1PodCondition(**condition) for condition in conditions]
    spec = k8s.V1PodSpec(containers=[k8s.V1Container(name="base")], node_name="node-1")
    return k8s.V1Pod(
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
    ("seen", "message"),
    [
        (pod("Failed", DRAINED, state=ended(2)), "s: Kubernetes ended its pod: EvictionByEvictionAPI: node drained"),
        (pod("Failed", reason="DeadlineExceeded"), "s: Kubernetes ended its pod: DeadlineExceeded"),
        (pod("Failed", state=ended(137, reason="OOMKilled")), "s ran out of memory; choose"),
        (pod("Failed", state=ended(143)), "s was ended by SIGTERM"),
        (pod("Failed", state=ended(1, "error: first\nerror: MLflow is away\nbye")), "MLflow is away"),
        (pod("Failed", state=ended(1, "last words\n")), "last words"),
        (pod("Failed", state=ended(255)), "s exited with 255 and said nothing"),
        (
            pod("Pending", SCHEDULED, state=waiting("CreateContainerConfigError", 'secret "x" not found')),
            's: its container did not start: CreateContainerConfigError: secret "x" not found',
        ),
        (pod("Pending", SCHEDULED), "s: its container did not start in time on node node-1"),
        (pod("Pending"), "s: no node took its pod in time; choose"),
        (pod("Running"), "s: it did not end within the execution_timeout of its task"),
        (None, "s: its pod is gone: the node was lost or the pod was deleted"),
    ],
)
def test_why_a_pod_failed_is_one_line_and_retried(seen, message):
    failure = pod_failure("s", seen, "base", "choose")
    assert str(failure) == message
    assert not isinstance(failure, AirflowFailException)


def test_exit_2_of_a_pod_is_not_retried():
    failure = pod_failure("s", pod("Failed", state=ended(2, "error: no such folder")), "base", "choose")
    assert isinstance(failure, AirflowFailException)
    assert str(failure) == "no such folder"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.train_model=gpu-2", "stages.train_model='gpu-2' is no profile; did you mean 'gpu-4'"),
        ("stages.train=gpu-1", "unknown key"),
        ("profiles=[a]", "'a' is no profile; write it as {name: "),
        ("profiles=[{cpu: 2}]", "{'cpu': 2} is no profile; write it as {name: "),
        ("profiles=[{name: a}, {name: a}]", "profile 'a' is given twice; name each profile once"),
        ("profiles=[{name: a, cpus: 2}]", "profile 'a': unknown key 'cpus'; did you mean 'cpu'?"),
        ("profiles=[{name: a, cpu: many}]", "profile 'a': cpu=\"many\" is not a whole number"),
        ("profiles=[{name: a, cpu: 0}]", "profile 'a': cpu=0 must be above 0"),
        ("profiles=[{name: a, memory: 8}]", "memory=8 is no quantity; write it as 512Mi, 8Gi or 1Ti"),
        ("profiles=[{name: a, node_selector: [gpu]}]", "'gpu' is no label; write it as key=value"),
        ("profiles=[{name: a, tolerations: [gpu]}]", "'gpu' is no taint; write it as key:NoSchedule"),
        ("namespace=A_b", "is no Kubernetes name"),
        ("image=''", "is no image; write registry/name:tag"),
        ("schedule_timeout_s=0", "must be above 0"),
    ],
)
def test_a_wrong_pod_configuration_is_one_line(override, message):
    with pytest.raises(UserError) as refused:
        load_config("prod", [f"compute.kubernetes.{override}"])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_refused_conf_tells_no_password_and_is_of_bounded_length():
    told = {}
    task = SimpleNamespace(xcom_push=lambda key, value: told.update({key: value}))
    with pytest.raises(AirflowFailException) as caught, one_line_failures(task):
        read_params({"overrides": "http://me:geheim@host" + "x" * 100_000}, {})
    assert str(caught.value) == told["error"]
    assert "geheim" not in told["error"]
    assert len(told["error"]) < 2_100


def test_no_failure_tells_a_password_to_other_tasks():
    told = {}
    task = SimpleNamespace(xcom_push=lambda key, value: told.update({key: value}))
    with pytest.raises(RuntimeError), one_line_failures(task):
        raise RuntimeError("http://me:geheim@host does not answer\nfor long")
    assert told == {"error": "http://***@host does not answer"}
