"""A Kubernetes API over HTTP. Its pods run the arguments of their container as a process of this machine.

It has the parts of Kubernetes that the pod operator and its trigger use: pods (create, get, list, patch, delete), their
log (also followed), and their events (list and watch). It has indexed Jobs (create, list, delete) and the headless
services of their pods (create). A test sets the behaviour of scheduler and kubelet with a `Fate`.
"""

import asyncio
import copy
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import kmock

from tests.support import commands
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port

PODS, EVENTS = kmock.resource("v1/pods"), kmock.resource("v1/events")
JOBS, SERVICES = kmock.resource("batch/v1/jobs"), kmock.resource("v1/services")
INDEX = "batch.kubernetes.io/job-completion-index"
TERMINATION_MESSAGE_BYTES = 2048  # end of the log that the kubelet keeps under FallbackToLogsOnError
SANDBOX_S = 0.5  # for which a deleted pod's object outlives its container; in a cluster, some 10 s
NO_NODE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


@dataclass(frozen=True)
class Fate:
    """The course of a pod.

    Attributes:
        script: Python code to run instead of the container's arguments.
        unscheduled_s: seconds until a node takes the pod.
        ends: reason for which the cluster ends the pod after its first line: `Evicted`, `OOMKilled`, `NodeLost`, or
            `Drained`: it is deleted, as an eviction through the API deletes it.
    """

    script: str = ""
    unscheduled_s: float = 0.0
    ends: str = ""


@dataclass
class Job:
    manifest: dict
    pods: list = field(default_factory=list)
    port: int = field(default_factory=free_port)  # of this machine, in place of the port of its service
    deleted: bool = False
    gone: bool = False

    @property
    def name(self):
        return self.manifest["metadata"]["name"]


@dataclass
class Pod:
    manifest: dict
    fate: Fate
    job: Job | None = None
    log: list = field(default_factory=list)  # (time, line)
    disk: tempfile.TemporaryDirectory = field(default_factory=tempfile.TemporaryDirectory)  # empty; pods share none
    process: subprocess.Popen | commands.Forked | None = None
    deleted: threading.Event = field(default_factory=threading.Event)
    gone: bool = False

    @property
    def name(self):
        return self.manifest["metadata"]["name"]

    @property
    def status(self):
        return self.manifest["status"]

    @property
    def container(self):
        return self.manifest["spec"]["containers"][0]

    @property
    def args(self):
        return self.container["args"]

    @property
    def secrets(self):
        return [source["secretRef"]["name"] for source in self.container.get("envFrom", [])]

    @property
    def done(self):
        return self.gone or self.status["phase"] in ("Succeeded", "Failed")


class Cluster:
    """A context manager; inside it, `connection` is the value of `AIRFLOW_CONN_KUBERNETES_DEFAULT`."""

    def __init__(self):
        self.pods = []  # every pod there ever was, in order of creation
        self.jobs = []  # every Job there ever was
        self.services = []  # manifests of the services that exist
        self.version = ("1", "37")
        self.deletions = []  # (name, grace period in seconds or None)
        self.secrets = {}  # by name, the variables of containers whose `envFrom` names the secret
        self.refusals = 0  # so many pods are refused because a quota is used up
        self._fates = {}
        self._events = []

    def plan(self, stage, *fates):
        """Give the pods of `stage` these fates in order. All further pods get the last one."""
        self._fates[stage] = list(fates)

    def pods_of(self, stage):
        return [pod for pod in self.pods if pod.manifest["metadata"]["labels"]["stage"] == stage]

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        ready = threading.Event()
        self._server = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(ready),))
        self._server.start()
        assert ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *exception):
        for pod in self.pods:
            pod.gone = True
            _signal(pod, signal.SIGKILL)
            if pod.process:
                pod.process.wait()
            pod.disk.cleanup()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._server.join(PATIENCE_S)
        self._loop.close()

    async def _serve(self, ready):
        handler = kmock.KubernetesScaffold()
        for action, resource, subresource, answer in (
            ("create", PODS, None, self._create),
            ("list", PODS, None, self._list),
            ("fetch", PODS, None, self._answer),
            ("update", PODS, None, self._patch),
            ("delete", PODS, None, self._delete),
            ("fetch", PODS, "log", self._log),
            ("list", EVENTS, None, self._list_events),
            ("watch", EVENTS, None, self._watch_events),
            ("create", JOBS, None, self._create_job),
            ("list", JOBS, None, self._list_jobs),
            ("delete", JOBS, None, self._delete_job),
            ("create", SERVICES, None, self._create_service),
        ):
            handler[kmock.action(action), resource, kmock.subresource(subresource)] << answer
        handler["get /version/"] << self._answer_version
        async with handler, kmock.Server(handler) as server:
            config = {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "clusters": [{"name": "test", "cluster": {"server": str(server.url).rstrip("/")}}],
                "users": [{"name": "test", "user": {}}],
            }
            extra = {"kube_config": json.dumps(config)}
            self.connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
            ready.set()
            await self._stop.wait()

    # --- the API -----------------------------------------------------------------------------------------------------
    def _find(self, request):
        for pod in self.pods:
            if pod.name == request.name and not pod.gone:
                return pod
        return None

    def _create(self, request):
        if refusal := self._refusal(request.data["metadata"]["name"]):
            raise kmock.KubernetesError(403, "Forbidden", refusal)
        return self._add(request.data)

    def _refusal(self, name):
        if not self.refusals:
            return ""
        self.refusals -= 1
        reason = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: ..=8, limited: ..=8"
        return f'pods "{name}" is forbidden: {reason}'

    def _add(self, manifest, job=None):
        manifest["metadata"] |= {"creationTimestamp": _stamp(), "uid": f"uid-{len(self.pods)}"}
        manifest["status"] = {"phase": "Pending"}
        fates = self._fates.get(manifest["metadata"]["labels"]["stage"], [Fate()])
        pod = Pod(manifest, fates.pop(0) if len(fates) > 1 else fates[0], job)
        self.pods.append(pod)
        if job:
            job.pods.append(pod)
        threading.Thread(target=self._live, args=(pod,), daemon=True).start()
        return manifest

    def _list(self, request):
        selector = request.params.get("labelSelector", "")
        pods = [pod for pod in self.pods if not pod.gone and _selected(pod.manifest["metadata"]["labels"], selector)]
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod.manifest for pod in pods]}

    def _answer(self, request):
        pod = self._find(request)
        if not pod:
            raise _not_found(request)
        return pod.manifest

    def _patch(self, request):
        if pod := self._find(request):
            pod.manifest["metadata"]["labels"] |= request.data["metadata"]["labels"]
        return self._answer(request)

    def _delete(self, request):
        if not (pod := self._find(request)):
            raise _not_found(request)
        grace_s = request.params.get("gracePeriodSeconds") or (request.data or {}).get("gracePeriodSeconds")
        self.deletions.append((pod.name, int(grace_s) if grace_s else None))
        self._begin_deletion(pod, float(grace_s or pod.manifest["spec"]["terminationGracePeriodSeconds"]))
        return pod.manifest

    def _begin_deletion(self, pod, grace_s):
        pod.manifest["metadata"]["deletionTimestamp"] = _stamp()
        pod.deleted.set()
        threading.Thread(target=self._terminate, args=(pod, grace_s), daemon=True).start()

    def _answer_version(self, request):
        major, minor = self.version
        others = ("gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform")
        return {"major": major, "minor": minor, **dict.fromkeys(others, "")}

    def _create_job(self, request):
        manifest = request.data
        manifest["metadata"] |= {"creationTimestamp": _stamp(), "uid": f"uid-job-{len(self.jobs)}"}
        manifest["status"] = {}
        self.jobs.append(job := Job(manifest))
        threading.Thread(target=self._control, args=(job,), daemon=True).start()
        return manifest

    def _list_jobs(self, request):
        selector = request.params.get("labelSelector", "")
        jobs = [job for job in self.jobs if not job.gone and _selected(job.manifest["metadata"]["labels"], selector)]
        return {"kind": "JobList", "apiVersion": "batch/v1", "metadata": {}, "items": [job.manifest for job in jobs]}

    def _delete_job(self, request):
        job = next((job for job in self.jobs if job.name == request.name and not job.gone), None)
        if not job:
            raise kmock.KubernetesError(404, "NotFound", f'jobs.batch "{request.name}" not found')
        policy = request.params.get("propagationPolicy") or (request.data or {}).get("propagationPolicy")
        assert policy == "Foreground", "the pods of a Job would outlive it for a while"
        job.manifest["metadata"]["deletionTimestamp"] = _stamp()
        job.deleted = True
        return job.manifest

    def _create_service(self, request):
        self.services.append(request.data)
        return request.data

    async def _log(self, request):
        if not (pod := self._find(request)):
            raise _not_found(request)
        if pod.status["phase"] == "Pending":
            raise kmock.KubernetesError(400, "BadRequest", f'container "base" in pod "{pod.name}" is waiting to start')
        return self._log_lines(pod, request.params)

    async def _log_lines(self, pod, params):
        seconds = params.get("sinceSeconds")
        since = datetime.now(UTC) - timedelta(seconds=int(seconds)) if seconds else datetime.min.replace(tzinfo=UTC)
        sent = max(len(pod.log) - int(params["tailLines"]), 0) if "tailLines" in params else 0
        yield b""  # a stream that ends before its first item counts as no answer
        while True:
            done = pod.done
            while sent < len(pod.log):
                at, line = pod.log[sent]
                sent += 1
                if at >= since:
                    prefix = f"{at:%Y-%m-%dT%H:%M:%S.%fZ} " if params.get("timestamps", "").lower() == "true" else ""
                    yield f"{prefix}{line}\n".encode()
            if done or params.get("follow", "").lower() != "true":
                return
            await asyncio.sleep(0.05)

    def _events_of(self, request):
        name = request.params["fieldSelector"].removeprefix("involvedObject.name=")
        return [event for event in self._events if event["involvedObject"]["name"] == name]

    def _list_events(self, request):
        if request.params.get("watch", "").lower() == "true":
            return self._watch_events(request)
        return {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": self._events_of(request)}

    async def _watch_events(self, request):
        sent = int(request.params.get("resourceVersion", 0))
        end = time.monotonic() + float(request.params["timeoutSeconds"])
        yield b""
        while time.monotonic() < end:
            for event in self._events_of(request):
                if (version := int(event["metadata"]["resourceVersion"])) > sent:
                    sent = version
                    yield json.dumps({"type": "ADDED", "object": event}).encode() + b"\n"
            await asyncio.sleep(0.1)

    # --- controllers -------------------------------------------------------------------------------------------------
    def _control(self, job):
        """Make the pods of a Job. End all of them when one has failed, and remove them when the Job is deleted."""
        spec = job.manifest["spec"]
        assert (spec["completionMode"], spec["backoffLimit"]) == ("Indexed", 0)
        for index in range(spec["completions"]):
            manifest = copy.deepcopy(spec["template"])
            name = f"{job.name}-{index}-{secrets.token_hex(3)}"
            if refusal := self._refusal(name):
                self._event(job.name, "Warning", "FailedCreate", f"Error creating: {refusal}", "Job")
                break
            manifest["metadata"] |= {"name": name, "namespace": job.manifest["metadata"]["namespace"]}
            manifest["metadata"]["labels"] |= {"job-name": job.name}
            manifest["metadata"]["annotations"] = {INDEX: str(index)}
            manifest["spec"]["hostname"] = f"{job.name}-{index}"
            self._add({"apiVersion": "v1", "kind": "Pod", **manifest}, job)
        while not (job.deleted and all(pod.gone for pod in job.pods)):
            failed = any(pod.gone or pod.deleted.is_set() or pod.status["phase"] == "Failed" for pod in job.pods)
            for pod in job.pods if job.deleted or failed else []:
                if not pod.deleted.is_set() and (job.deleted or not pod.done):
                    if not job.deleted:
                        self._event(job.name, "Normal", "SuccessfulDelete", f"Deleted pod: {pod.name}", "Job")
                    self._begin_deletion(pod, pod.manifest["spec"]["terminationGracePeriodSeconds"])
            time.sleep(0.05)
        owned = job.manifest["metadata"]["uid"]
        self.services = [found for found in self.services if found["metadata"]["ownerReferences"][0]["uid"] != owned]
        job.gone = True

    def _resolved(self, pod):
        """The address of the first pod of a Job on this machine, if the service of its host name exists."""
        end = time.monotonic() + PATIENCE_S
        while pod.job and not pod.deleted.is_set() and time.monotonic() < end:
            for service in self.services:
                spec = service["spec"]
                if service["metadata"]["name"] == pod.manifest["spec"]["subdomain"]:
                    assert spec["clusterIP"] == "None" and spec["publishNotReadyAddresses"]
                    assert _selected(pod.manifest["metadata"]["labels"], f"job-name={spec['selector']['job-name']}")
                    first = f"{pod.job.name}-0.{service['metadata']['name']}"
                    return {first: "127.0.0.1", str(spec["ports"][0]["port"]): str(pod.job.port)}
            time.sleep(0.05)
        return {}

    # --- scheduler and kubelet ---------------------------------------------------------------------------------------
    def _live(self, pod):
        if pod.fate.unscheduled_s:
            _condition(pod, "PodScheduled", "False", "Unschedulable", NO_NODE)
            self._event(pod.name, "Warning", "FailedScheduling", NO_NODE)
        if pod.deleted.wait(pod.fate.unscheduled_s):
            pod.gone = True
            return
        _condition(pod, "PodScheduled", "True")
        pod.manifest["spec"]["nodeName"] = "node-1"
        self._event(pod.name, "Normal", "Scheduled", f"Successfully assigned {pod.name} to node-1")
        if missing := [name for name in pod.secrets if name not in self.secrets]:
            message = f'secret "{missing[0]}" not found'
            _container_state(pod, "waiting", reason="CreateContainerConfigError", message=message)
            pod.deleted.wait()
            pod.gone = True
            return
        addresses = self._resolved(pod)
        if pod.deleted.is_set():
            pod.gone = True
            return
        try:
            pod.process = _start(pod, self.secrets, addresses)
        except (OSError, AssertionError) as error:
            _container_state(pod, "terminated", exitCode=128, reason="StartError", message=repr(error))
            pod.status["phase"] = "Failed"
            raise
        _container_state(pod, "running", startedAt=_stamp())
        pod.status.update(phase="Running", startTime=_stamp())
        for line in pod.process.stdout:
            pod.log.append((datetime.now(UTC), line.rstrip("\n")))
            if pod.fate.ends == "Drained":
                self._begin_deletion(pod, grace_s=0)
            elif pod.fate.ends:
                _signal(pod, signal.SIGKILL)
        self._finish(pod, pod.process.wait())

    def _finish(self, pod, status):
        if pod.fate.ends == "NodeLost":
            pod.gone = True
            return
        code = 128 - status if status < 0 else status
        reason = "OOMKilled" if pod.fate.ends == "OOMKilled" else "Error" if code else "Completed"
        tail = "\n".join(line for _, line in pod.log[-80:]).encode()[-TERMINATION_MESSAGE_BYTES:].decode()
        message = tail if code and pod.container["terminationMessagePolicy"] == "FallbackToLogsOnError" else ""
        _container_state(pod, "terminated", exitCode=code, reason=reason, message=message, finishedAt=_stamp())
        if pod.fate.ends == "Evicted":
            pod.status.update(reason="Evicted", message="The node was low on resource: ephemeral-storage.")
            self._event(pod.name, "Warning", "Evicted", pod.status["message"])
        pod.status["phase"] = "Failed" if code else "Succeeded"

    def _terminate(self, pod, grace_s):
        _signal(pod, signal.SIGTERM)
        end = time.monotonic() + grace_s
        while not pod.done and time.monotonic() < end:
            time.sleep(0.05)
        _signal(pod, signal.SIGKILL)
        time.sleep(SANDBOX_S)
        pod.gone = True

    def _event(self, name, kind, reason, message, of="Pod"):
        version = str(len(self._events) + 1)
        self._events.append(
            {
                "kind": "Event",
                "apiVersion": "v1",
                "metadata": {"name": f"event-{version}", "uid": f"event-{version}", "resourceVersion": version},
                "involvedObject": {"kind": of, "name": name},
                "type": kind,
                "reason": reason,
                "message": message,
            }
        )


def _start(pod, known_secrets, addresses):
    variables = {}
    for name in pod.secrets:
        variables |= known_secrets[name]
    variables |= {variable["name"]: _value(variable, pod) for variable in pod.container["env"]}
    variables |= {
        name: addresses.get(variables[name], variables[name])
        for name in ("MASTER_ADDR", "MASTER_PORT")
        if name in variables
    }
    environment = os.environ | variables | {"PYTHONUNBUFFERED": "1"}
    where = {"cwd": pod.disk.name, "start_new_session": True}
    if not pod.fate.script:
        assert pod.args[:2] == ["python", "-m"]
        return commands.start(*pod.args[2:], environment=environment, stderr_to_stdout=True, **where)
    # Scripts need only Python, so the packages of its environment are left out.
    return subprocess.Popen(
        [sys.executable, "-S", "-c", pod.fate.script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **where,
    )


def _value(variable, pod):
    if "value" in variable:
        return variable["value"]
    annotation = re.fullmatch(r"metadata\.annotations\['(.+)'\]", variable["valueFrom"]["fieldRef"]["fieldPath"])
    return pod.manifest["metadata"]["annotations"][annotation[1]]


def _signal(pod, number):
    if pod.process and pod.process.poll() is None:
        os.killpg(pod.process.pid, number)


def _condition(pod, kind, status, reason="", message=""):
    pod.status["conditions"] = [{"type": kind, "status": status, "reason": reason, "message": message}]


def _container_state(pod, state, **facts):
    entry = {"name": pod.container["name"], "image": pod.container["image"], "imageID": "", "restartCount": 0}
    pod.status["containerStatuses"] = [entry | {"ready": state == "running", "state": {state: facts}}]


def _selected(labels, selector):
    for term in filter(None, selector.split(",")):
        match = re.fullmatch(r"(!?)([^!=]+)(?:(!?)=(.*))?", term)
        absent, key, unequal, value = match.groups()
        holds = key not in labels if absent else (labels.get(key) != value) if unequal else labels.get(key) == value
        if not holds:
            return False
    return True


def _not_found(request):
    # Raised, not returned: kmock 0.8 keeps the status of a returned response for every later answer.
    return kmock.KubernetesError(404, "NotFound", f'pods "{request.name}" not found')


def _stamp():
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
