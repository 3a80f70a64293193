"""A Kubernetes API over HTTP. Its pods run the arguments of their container as a process of this machine.

It has the parts of Kubernetes that the pod operator and its trigger use: pods (create, get, list, patch, delete), their
log (also followed), and their events (list and watch). A test sets the behaviour of scheduler and kubelet with a
`Fate`.
"""

import asyncio
import json
import os
import re
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

PODS, EVENTS = kmock.resource("v1/pods"), kmock.resource("v1/events")
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
class Pod:
    manifest: dict
    fate: Fate
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
        ):
            handler[kmock.action(action), resource, kmock.subresource(subresource)] << answer
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
        manifest = request.data
        if self.refusals:
            self.refusals -= 1
            reason = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: ..=8, limited: ..=8"
            name = manifest["metadata"]["name"]
            raise kmock.KubernetesError(403, "Forbidden", f'pods "{name}" is forbidden: {reason}')
        manifest["metadata"] |= {"creationTimestamp": _stamp(), "uid": f"uid-{len(self.pods)}"}
        manifest["status"] = {"phase": "Pending"}
        fates = self._fates.get(manifest["metadata"]["labels"]["stage"], [Fate()])
        pod = Pod(manifest, fates.pop(0) if len(fates) > 1 else fates[0])
        self.pods.append(pod)
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

    async def _log(self, request):
        if not (pod := self._find(request)):
            raise _not_found(request)
        if pod.status["phase"] == "Pending":
            raise kmock.KubernetesError(400, "BadRequest", f'container "base" in pod "{pod.name}" is waiting to start')
        return self._log_lines(pod, request.params)

    async def _log_lines(self, pod, params):
        seconds = params.get("sinceSeconds")
        since = datetime.now(UTC) - timedelta(seconds=int(seconds)) if seconds else datetime.min.replace(tzinfo=UTC)
        sent = 0
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

    # --- scheduler and kubelet ---------------------------------------------------------------------------------------
    def _live(self, pod):
        if pod.fate.unscheduled_s:
            _condition(pod, "PodScheduled", "False", "Unschedulable", NO_NODE)
            self._event(pod, "Warning", "FailedScheduling", NO_NODE)
        if pod.deleted.wait(pod.fate.unscheduled_s):
            pod.gone = True
            return
        _condition(pod, "PodScheduled", "True")
        pod.manifest["spec"]["nodeName"] = "node-1"
        self._event(pod, "Normal", "Scheduled", f"Successfully assigned {pod.name} to node-1")
        if missing := [name for name in pod.secrets if name not in self.secrets]:
            message = f'secret "{missing[0]}" not found'
            _container_state(pod, "waiting", reason="CreateContainerConfigError", message=message)
            pod.deleted.wait()
            pod.gone = True
            return
        pod.process = _start(pod, self.secrets)
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
            self._event(pod, "Warning", "Evicted", pod.status["message"])
        pod.status["phase"] = "Failed" if code else "Succeeded"

    def _terminate(self, pod, grace_s):
        _signal(pod, signal.SIGTERM)
        end = time.monotonic() + grace_s
        while not pod.done and time.monotonic() < end:
            time.sleep(0.05)
        _signal(pod, signal.SIGKILL)
        time.sleep(SANDBOX_S)
        pod.gone = True

    def _event(self, pod, kind, reason, message):
        version = str(len(self._events) + 1)
        self._events.append(
            {
                "kind": "Event",
                "apiVersion": "v1",
                "metadata": {"name": f"event-{version}", "uid": f"event-{version}", "resourceVersion": version},
                "involvedObject": {"kind": "Pod", "name": pod.name},
                "type": kind,
                "reason": reason,
                "message": message,
            }
        )


def _start(pod, secrets):
    variables = {}
    for name in pod.secrets:
        variables |= secrets[name]
    variables |= {variable["name"]: variable["value"] for variable in pod.container["env"]}
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
