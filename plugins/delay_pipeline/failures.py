"""Turn errors of stages and pods into task failures: one line each, kept for `close_run`, retried if it can help."""

import json
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pendulum
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, AirflowTaskTimeout
from airflow.sdk.types import RuntimeTaskInstanceProtocol
from kubernetes.client import V1ContainerState, V1ContainerStateWaiting, V1Pod
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from transformer.errors import ServiceError, UserError
from transformer.protocol import ERROR_XCOM, SKIP_XCOM
from transformer.text import one_line

RETRIES = {  # of every task; a fault that the user must correct is not retried
    "retries": 2,
    "retry_delay": pendulum.duration(seconds=30),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": pendulum.duration(minutes=10),
}
USER_ERROR = 2  # exit status of a stage whose input or configuration is wrong
ERROR_PREFIX = "error: "  # begins the line in which a stage gives its reason
SIGNALS = {128 + number: -number for number in signal.Signals}  # a container's exit status after a signal


@contextmanager
def one_line_failures(ti: RuntimeTaskInstanceProtocol) -> Iterator[None]:
    """Turn errors into task failures, and store the first line of the error as XCom `error`, without credentials.

    Raises:
        AirflowFailException: the user must correct the input; not retried.
        AirflowException: a service failed; retried.
    """
    failure: BaseException
    try:
        yield
        return
    except UserError as error:
        failure = AirflowFailException(one_line(str(error)))
    except ServiceError as error:
        failure = AirflowException(one_line(str(error)))
    except ApiException as error:
        failure = AirflowException(f"Kubernetes refused: {status_message(error)}")
    except HTTPError as error:
        failure = AirflowException(f"Kubernetes does not answer: {' '.join(str(error).split())}")
    except (Exception, AirflowTaskTimeout) as error:
        failure = error
    ti.xcom_push(key=ERROR_XCOM, value=one_line((str(failure) or type(failure).__name__).splitlines()[0]))
    raise failure from None


def skip(context: Context, reason: str) -> AirflowSkipException:
    """Note in an XCom why a task skips itself, which tells it from a skip by hand. Return the exception to raise."""
    context["ti"].xcom_push(key=SKIP_XCOM, value=reason)
    return AirflowSkipException(reason)


def last_word(lines: Iterable[str]) -> str:
    """Return the last `error: …` line of a stage without its prefix, or the last line if there is no such line."""
    last = error = ""
    for line in lines:
        last = line or last
        if line.startswith(ERROR_PREFIX):
            error = line.removeprefix(ERROR_PREFIX)
    return error or last


def stage_failure(stage: str, status: int, said: str) -> AirflowException:
    """Return the failure of a stage.

    Args:
        status: exit status other than 0; negative = the signal that ended the stage.
        said: last line of the stage; "" = none.
    """
    if status < 0:
        hint = "; out of memory is the usual cause" if status == -signal.SIGKILL else ""
        return AirflowException(f"{stage} was killed by {signal.Signals(-status).name}{hint}")
    if status == USER_ERROR:
        return AirflowFailException(said)
    return AirflowException(said or f"{stage} exited with {status} and wrote no output")


def pod_failure(stage: str, pod: V1Pod | None, container: str, remedy: str, reason: str = "") -> AirflowException:
    """Return the failure of a stage, from the status of its pod.

    Args:
        pod: the pod as last seen; None = it no longer exists.
        remedy: text for a pod that ran out of memory or found no node.
        reason: why the cluster ended the pod, if that was seen before it was gone (`taken_away`).
    """
    if reason := (taken_away(pod) if pod else "") or reason:
        return AirflowException(f"{stage}: {reason}")
    if pod is None:
        return AirflowException(f"{stage}: its pod no longer exists: the node was lost or the pod was deleted")
    if reason := cannot_start(pod, container):
        return AirflowFailException(f"{stage}: {reason}")
    state = _state(pod, container)
    if state and (ended := state.terminated):
        if ended.reason == "OOMKilled":
            return AirflowException(f"{stage} ran out of memory; {remedy}")
        status = SIGNALS.get(ended.exit_code, ended.exit_code)
        return stage_failure(stage, status, last_word((ended.message or "").splitlines()))
    waiting = state.waiting if state else None
    return AirflowException(f"{stage}: {_unfinished(pod, waiting, remedy)}")


def taken_away(pod: V1Pod) -> str:
    """Return why the cluster ended the pod, or "" if it did not."""
    if pod.status.reason:  # Evicted, NodeLost, DeadlineExceeded, UnexpectedAdmissionError …
        return f"Kubernetes ended its pod: {pod.status.reason}{_colon(pod.status.message)}"
    for condition in pod.status.conditions or []:
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return f"Kubernetes ended its pod: {condition.reason}{_colon(condition.message)}"
    # Only Kubernetes 1.26 and newer tell an eviction from a deletion.
    if pod.metadata.deletion_timestamp and pod.status.phase != "Succeeded":
        return "its pod was deleted while it ran: by a person, or because its node was drained or lost"
    return ""


def cannot_start(pod: V1Pod, container: str) -> str:
    """Return why the container will not start before a person does something; "" = it may start.

    A secret or config map that the pod names does not exist, or lacks a key.
    """
    state = _state(pod, container)
    if not (state and state.waiting and state.waiting.reason == "CreateContainerConfigError"):
        return ""
    return (
        f"its container cannot start{_colon(state.waiting.message)}; make it in namespace {pod.metadata.namespace}, "
        "or change compute.kubernetes.secret"
    )


def _state(pod: V1Pod, container: str) -> V1ContainerState | None:
    return next((entry.state for entry in pod.status.container_statuses or [] if entry.name == container), None)


def _unfinished(pod: V1Pod, waiting: V1ContainerStateWaiting | None, remedy: str) -> str:
    """Return the state of a pod that did not end in time."""
    if pod.status.phase != "Pending":
        return "it did not end within the execution_timeout of its task"
    conditions = {condition.type: condition for condition in pod.status.conditions or []}
    scheduled = conditions.get("PodScheduled")
    if not scheduled or scheduled.status != "True":
        return f"no node had room for its pod in time{_colon(scheduled.message if scheduled else '')}; {remedy}"
    if waiting and waiting.reason:
        return f"its container did not start: {waiting.reason}{_colon(waiting.message)}"
    return f"its container did not start in time on node {pod.spec.node_name}"


def _colon(message: str | None) -> str:
    return f": {' '.join(message.split())}" if message else ""


def status_message(error: ApiException) -> str:
    """Return the message of the API server. The text of the exception itself has many lines of headers."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
