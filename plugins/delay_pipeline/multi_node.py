"""A stage on several nodes: an indexed Job with a pod per node, and the headless service by which they find node 0."""

from __future__ import annotations

import copy
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import pendulum
from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.sdk.exceptions import AirflowException, TaskDeferred
from kubernetes.client import VersionApi
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from kubernetes_asyncio.client import BatchV1Api as AsyncBatchV1Api
from urllib3.exceptions import HTTPError

from delay_pipeline.failures import last_word
from delay_pipeline.pods import StagePodTrigger
from transformer.errors import Terminated, UserError
from transformer.protocol import LOST_PROCESS, NODES_VARIABLE

JOB = "job_name"  # key of the trigger's event
PORT = 29_500  # torch's usual one
OLDEST = (1, 24)  # Kubernetes gives the pods of an indexed Job stable host names from this version on
INDEX = "batch.kubernetes.io/job-completion-index"  # annotation of its pods
TASK_LABELS = ("dag_id", "task_id", "run_id", "map_index")
START_S = 60.0  # the controller makes the pods of a Job in a second
STATUS_S = 20.0  # the status of a pod that has just ended follows within seconds
POLL_S = 1.0
TAIL_LINES = 20  # of the log of each other node, shown after a failure
ALL_PODS = "Foreground"  # a deleted Job is gone when all that it owns is gone

_EVER = pendulum.datetime(1970, 1, 1)

log = logging.getLogger(__name__)


class MultiNodeJob:
    """The Job of one try of a task. Its pods are copies of one pod, and train together.

    One failed pod fails the Job, and Kubernetes then ends the other pods: the retry of the task restarts all of them.
    """

    def __init__(self, hook: KubernetesHook, name: str, namespace: str, nodes: int) -> None:
        self.hook, self.name, self.namespace, self.nodes = hook, name, namespace, nodes

    @classmethod
    def start(cls, hook: KubernetesHook, pod: k8s.V1Pod, nodes: int) -> MultiNodeJob:
        """Create the Job, after the Jobs of earlier tries are gone.

        Raises:
            UserError: the cluster is too old.
            ApiException: Kubernetes refused the Job or one of its pods.
            AirflowException: it made no pods, or an earlier try did not end.
        """
        _check_version(hook)
        job = cls(hook, pod.metadata.name, pod.metadata.namespace, nodes)
        job._delete_earlier(pod)
        manifest = job_manifest(pod, nodes)
        created = hook.batch_v1_client.create_namespaced_job(job.namespace, manifest)
        try:
            hook.core_v1_client.create_namespaced_service(job.namespace, service_manifest(created))
            job._await_pods()
        except BaseException:
            job.delete()
            raise
        return job

    @property
    def event(self) -> dict[str, Any]:
        """The part of the trigger's event that `of_event` reads."""
        return {JOB: self.name}

    @classmethod
    def of_event(cls, hook: KubernetesHook, event: dict[str, Any], nodes: int) -> MultiNodeJob | None:
        """The Job whose first pod the trigger has watched; None if it has watched the only pod of a stage."""
        return cls(hook, event[JOB], event["namespace"], nodes) if JOB in event else None

    def pod(self, node: int) -> k8s.V1Pod:
        return self._pods()[node]

    def delete(self) -> None:
        """Delete the Job, its pods and its service. An error is logged only: the next try deletes what is left."""
        try:
            self.hook.batch_v1_client.delete_namespaced_job(self.name, self.namespace, propagation_policy=ALL_PODS)
        except ApiException as error:
            if error.status != 404:
                log.warning("Job %s could not be deleted: %s", self.name, error.reason)
        except HTTPError as error:
            log.warning("Job %s could not be deleted: %s", self.name, error)

    @contextmanager
    def deleted_in_the_end(self) -> Iterator[None]:
        """Delete the Job after the block, unless the task waits on."""
        try:
            yield
        except TaskDeferred:
            raise
        except BaseException:
            self.delete()
            raise
        self.delete()

    def first_failed(self, container: str) -> tuple[int, k8s.V1Pod | None]:
        """The node that ended the training, and its pod; None if the pod no longer exists.

        Nodes that ended because another one did come last. The status of a node may follow a little later.
        """
        end = time.monotonic() + STATUS_S
        while True:
            pods = self._pods()
            ended = self._ended_by_job()
            part, _, node = min((*_part(pods.get(node), container, node in ended), node) for node in range(self.nodes))
            if part < _Part.LOST or time.monotonic() > end:
                pod = pods.get(node)
                if pod and part is _Part.FAILED:
                    pod.metadata.deletion_timestamp = None  # it had failed before Kubernetes deleted it
                return node, pod
            time.sleep(POLL_S)

    def failure(
        self, container: str, reason: str, failure_of: Callable[[k8s.V1Pod | None, str], AirflowException]
    ) -> AirflowException:
        """The failure of the node that failed first, with the name of its pod. The other nodes' last lines are logged.

        Args:
            reason: why the cluster ended the pod of node 0, if that was seen before it was gone.
            failure_of: the failure of a stage from its pod, and from such a reason.
        """
        node, pod = self.first_failed(container)
        for other, found in sorted(self._pods().items()):
            if other:  # the log of node 0 has been shown
                log.error("last lines of node %d, pod %s:\n%s", other, found.metadata.name, self._tail(found))
        failure = failure_of(pod, reason if node == 0 and pod is None else "")
        which = f"node {node} of {self.nodes}" + (f", pod {pod.metadata.name}" if pod else "")
        return type(failure)(f"{failure} ({which})")

    def _pods(self) -> dict[int, k8s.V1Pod]:
        """The pods of the Job that exist, by their node."""
        found = self.hook.core_v1_client.list_namespaced_pod(self.namespace, label_selector=f"job-name={self.name}")
        return {int(pod.metadata.annotations[INDEX]): pod for pod in found.items}

    def _tail(self, pod: k8s.V1Pod) -> str:
        try:
            return str(
                self.hook.core_v1_client.read_namespaced_pod_log(
                    pod.metadata.name, self.namespace, tail_lines=TAIL_LINES
                )
            )
        except (ApiException, HTTPError):  # its container did not start, or its node is lost
            return "none"

    def _delete_earlier(self, pod: k8s.V1Pod) -> None:
        """Delete the Jobs of earlier tries of the task, and wait until their pods are gone: only one try trains."""
        selector = ",".join(f"{key}={pod.metadata.labels[key]}" for key in TASK_LABELS if key in pod.metadata.labels)
        end = time.monotonic() + pod.spec.termination_grace_period_seconds + START_S
        while earlier := self.hook.batch_v1_client.list_namespaced_job(self.namespace, label_selector=selector).items:
            for job in earlier:
                if not job.metadata.deletion_timestamp:
                    log.info("deleting Job %s of an earlier try", job.metadata.name)
                    MultiNodeJob(self.hook, job.metadata.name, self.namespace, self.nodes).delete()
            if time.monotonic() > end:
                raise AirflowException(f"Job {earlier[0].metadata.name} of an earlier try has not ended in time")
            time.sleep(POLL_S)

    def _await_pods(self) -> None:
        end = time.monotonic() + START_S
        while len(self._pods()) < self.nodes:
            if refusal := self._refusal():
                raise refusal
            if time.monotonic() > end:
                raise AirflowException(f"Kubernetes made no {self.nodes} pods for Job {self.name} in time")
            time.sleep(POLL_S)

    def _refusal(self) -> ApiException | None:
        """Why Kubernetes refused a pod of the Job, as it would have refused the pod itself."""
        for message in self._events("FailedCreate"):
            error = ApiException(status=403, reason="Forbidden")
            error.body = json.dumps({"message": message})
            return error
        return None

    def _ended_by_job(self) -> set[int]:
        """The nodes whose pods Kubernetes deleted because another one had failed."""
        names = [message.rpartition(" ")[2] for message in self._events("SuccessfulDelete")]
        return {int(name.removeprefix(f"{self.name}-").partition("-")[0]) for name in names}

    def _events(self, reason: str) -> list[str]:
        """The messages of the events of the Job with this reason."""
        events = self.hook.core_v1_client.list_namespaced_event(
            self.namespace, field_selector=f"involvedObject.name={self.name}"
        )
        return [event.message for event in events.items if event.reason == reason]


class MultiNodeTrigger(StagePodTrigger):
    """Watches the pod of node 0. If a person ends the task meanwhile, the Job goes with all of its pods."""

    async def on_kill(self) -> None:
        if self._fired_event:
            return
        try:
            async with self.hook.get_conn() as connection:
                await AsyncBatchV1Api(connection).delete_namespaced_job(
                    self.trigger_kwargs[JOB], self.pod_namespace, propagation_policy=ALL_PODS
                )
        except Exception:
            self.log.exception("Job %s could not be deleted", self.trigger_kwargs[JOB])


def job_manifest(pod: k8s.V1Pod, nodes: int) -> k8s.V1Job:
    """An indexed Job of `nodes` copies of a pod, with the variables by which the nodes find each other."""
    name, spec = pod.metadata.name, copy.deepcopy(pod.spec)
    spec.subdomain = name  # of the service
    index = k8s.V1EnvVarSource(field_ref=k8s.V1ObjectFieldSelector(field_path=f"metadata.annotations['{INDEX}']"))
    spec.containers[0].env += [
        k8s.V1EnvVar(name=NODES_VARIABLE, value=str(nodes)),
        k8s.V1EnvVar(name="NODE_RANK", value_from=index),
        k8s.V1EnvVar(name="MASTER_ADDR", value=f"{name}-0.{name}"),
        k8s.V1EnvVar(name="MASTER_PORT", value=str(PORT)),
    ]
    return k8s.V1Job(
        api_version="batch/v1",
        kind="Job",
        metadata=k8s.V1ObjectMeta(name=name, namespace=pod.metadata.namespace, labels=pod.metadata.labels),
        spec=k8s.V1JobSpec(
            completion_mode="Indexed",
            completions=nodes,
            parallelism=nodes,
            backoff_limit=0,  # Airflow retries, so that all nodes restart
            template=k8s.V1PodTemplateSpec(metadata=k8s.V1ObjectMeta(labels=pod.metadata.labels), spec=spec),
        ),
    )


def service_manifest(job: k8s.V1Job) -> k8s.V1Service:
    """The service that gives the pods of a Job host names. Kubernetes deletes it with the Job."""
    name = job.metadata.name
    owner = k8s.V1OwnerReference(api_version="batch/v1", kind="Job", name=name, uid=job.metadata.uid)
    return k8s.V1Service(
        api_version="v1",
        kind="Service",
        metadata=k8s.V1ObjectMeta(
            name=name, namespace=job.metadata.namespace, labels=job.metadata.labels, owner_references=[owner]
        ),
        spec=k8s.V1ServiceSpec(
            cluster_ip="None",
            publish_not_ready_addresses=True,  # the nodes look for each other before any is ready
            selector={"job-name": name},
            ports=[k8s.V1ServicePort(name="rendezvous", port=PORT)],
        ),
    )


def _check_version(hook: KubernetesHook) -> None:
    found = VersionApi(hook.api_client).get_code()
    version, oldest = f"{found.major}.{found.minor}", ".".join(map(str, OLDEST))
    if (int(found.major), int(found.minor.rstrip("+"))) < OLDEST:
        raise UserError(
            f"the cluster has Kubernetes {version}, and a profile with several nodes needs {oldest}; "
            "choose a profile with nodes=1"
        )


class _Part(IntEnum):
    """The part of a node in the end of a training. The node with the least one is the cause."""

    FAILED = 0
    PENDING = 1  # the others have waited for it in vain
    GONE = 2
    DELETED = 3
    LOST = 4  # it ended because another one did, whose status may follow
    ENDED = 5  # Kubernetes ended it because another one had failed
    WELL = 6


def _part(pod: k8s.V1Pod | None, container: str, ended_by_job: bool) -> tuple[_Part, pendulum.DateTime]:
    """The part of a node, and since when it has it."""
    if pod is None:
        return (_Part.ENDED if ended_by_job else _Part.GONE), _EVER
    conditions = {condition.type: condition.status for condition in pod.status.conditions or []}
    states = {entry.name: entry.state.terminated for entry in pod.status.container_statuses or []}
    ended, deleted = states.get(container), pod.metadata.deletion_timestamp
    since = (ended and ended.finished_at) or deleted or _EVER
    if pod.status.reason or conditions.get("DisruptionTarget") == "True":
        return _Part.FAILED, since
    killed = ended and ended.exit_code == 128 + signal.SIGKILL and ended.reason != "OOMKilled"
    if (ended and ended.exit_code == Terminated.STATUS) or (deleted and (killed or not ended)):
        return (_Part.ENDED if ended_by_job else _Part.DELETED), since
    if ended and ended.exit_code:
        lost = last_word((ended.message or "").splitlines()).startswith(LOST_PROCESS)
        return (_Part.LOST if lost else _Part.FAILED), since
    return (_Part.PENDING if pod.status.phase == "Pending" else _Part.WELL), since
