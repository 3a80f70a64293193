"""How the pod of a stage is created and watched: what the provider's classes leave out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import AsyncPodManager, PodLaunchTimeoutException, PodManager
from airflow.triggers.base import BaseTrigger, TriggerEvent
from kubernetes.client import V1Pod
from kubernetes.client.exceptions import ApiException

from delay_pipeline.failures import cannot_start, taken_away

TAKEN_AWAY = "taken_away"  # key of the trigger's event: why the cluster ended the pod, as long as it could be seen


class StagePodManager(PodManager):
    """Creates pods. A refusal is an exception only; the provider also logs the whole manifest and a traceback."""

    def run_pod_async(self, pod: V1Pod, **kwargs: Any) -> V1Pod:
        body = self._client.api_client.sanitize_for_serialization(pod)
        return self._client.create_namespaced_pod(body=body, namespace=pod.metadata.namespace, **kwargs)


class StagePodTrigger(KubernetesPodTrigger):
    """Watches a pod, ends at once if its container cannot start, and remembers why the cluster ended the pod.

    An evicted pod is mostly gone before its task reads it. The event of this trigger therefore has the reason, under
    the key `taken_away`; "" = none was seen.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._taken_away = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return _class_path(self), super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        async for event in super().run():
            yield TriggerEvent({**event.payload, TAKEN_AWAY: self._taken_away})

    @cached_property
    def pod_manager(self) -> AsyncPodManager:
        return _WatchingPodManager(self)

    async def _get_pod(self) -> V1Pod:
        pod = await super()._get_pod()
        self.look_at(pod)
        return pod

    def look_at(self, pod: V1Pod) -> None:
        """Remember what is seen of the pod.

        Raises:
            PodLaunchTimeoutException: its container cannot start. The operator then deletes the pod without waiting.
        """
        self._taken_away = taken_away(pod) or self._taken_away
        if reason := cannot_start(pod, self.base_container_name):
            raise PodLaunchTimeoutException(reason)


class _WatchingPodManager(AsyncPodManager):
    def __init__(self, trigger: StagePodTrigger) -> None:
        super().__init__(async_hook=trigger.hook)
        self._trigger = trigger

    async def read_pod(self, pod: V1Pod) -> V1Pod:
        seen = await super().read_pod(pod)
        self._trigger.look_at(seen)
        return seen


class PauseTrigger(BaseTrigger):
    """Waits before the next try to start a pod, without a worker slot. Its event is `waits_since`.

    Args:
        pause_s: s.
        waits_since: time of the first try, in s since 1970.
    """

    def __init__(self, pause_s: float, waits_since: float) -> None:
        super().__init__()
        self.pause_s, self.waits_since = pause_s, waits_since

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return _class_path(self), {"pause_s": self.pause_s, "waits_since": self.waits_since}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(self.pause_s)
        yield TriggerEvent(self.waits_since)


def _class_path(trigger: BaseTrigger) -> str:
    return f"{type(trigger).__module__}.{type(trigger).__qualname__}"


def exceeded_quota(error: ApiException) -> bool:
    """Return whether the pod was refused because the quota of its namespace is used up."""
    return error.status == 403 and "exceeded quota" in str(error.body)
