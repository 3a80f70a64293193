"""The lock of the model registry: only one process at a time changes the registry's aliases.

MLflow sets an alias whatever it was before, and setting it and reading it back cannot replace a lock: of two processes,
the first may have read back and reported success before the second sets the alias. The log has the counts.

MLflow's server does keep the versions of a registered model unique and in order. A second model therefore serves as a
queue: a version of it is a ticket, the lowest ticket holds the lock, and deleting it releases the lock. A number is
never given twice, and a ticket becomes visible only after every lower one, so no process can slip in before it.

A process that died leaves its ticket behind. A waiting process removes it once it has headed the queue for `expires_s`
by its own clock. It removes this one ticket by its number, so two processes that do so at the same time do no harm. A
process that stops for as long *between* its last look at the queue and its write still writes: MLflow cannot refuse it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from transformer.errors import ServiceError

log = logging.getLogger(__name__)

POLL_S = 0.5
TOKEN, HOLDER = "token", "holder"  # tags of a ticket
NO_SOURCE = "ticket:/none"  # a version must say where its model is, and a ticket has none
LOST = "this process lost its lock on the model registry, it took too long; run it again"
DESCRIPTION = "No model: its versions are tickets of who is changing the model of the same name without `.queue`."


class RegistryLock:
    """The right to change the registry's aliases. Made by `locked`."""

    def __init__(self, client: MlflowClient, queue: str, token: str) -> None:
        self._client = client
        self._queue = queue
        self._token = token

    def confirm(self) -> None:
        """Call before and after changing something.

        Raises:
            ServiceError: the lock is lost, because holding it took too long.
        """
        if not any(map(self._is_own, self._tickets()[:1])):
            raise ServiceError(LOST)

    def take_ticket(self, purpose: str) -> None:
        """Join the queue. Processes that wait log the purpose of the one that they wait for."""
        try:
            self._client.create_registered_model(self._queue, description=DESCRIPTION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        holder = f"{purpose}: process {os.getpid()} on {socket.gethostname()}"
        holder += f", since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        tags = {TOKEN: self._token, HOLDER: holder}
        self._client.create_model_version(self._queue, NO_SOURCE, tags=tags, await_creation_for=0)

    def acquire(self, expires_s: float) -> None:
        """Wait until the own ticket is the first, removing those before it that expire."""
        head, since = "", 0.0
        while True:
            tickets = self._tickets()
            if not any(map(self._is_own, tickets)):
                raise ServiceError(LOST)
            first = tickets[0]
            if self._is_own(first):
                return
            if first.version != head:
                head, since = first.version, time.monotonic()
                log.info("model registry: waiting for %s", first.tags.get(HOLDER))
            elif time.monotonic() - since > expires_s:
                log.warning("model registry: taking over after %.0f s from %s", expires_s, first.tags.get(HOLDER))
                self._remove(first)
            time.sleep(POLL_S)

    def release(self) -> None:
        """Delete every ticket of this process; a request that was repeated may have made a second."""
        try:
            for ticket in filter(self._is_own, self._tickets()):
                self._remove(ticket)
        except Exception as error:
            log.warning("model registry: the lock is not released and will expire: %s", type(error).__name__)

    def _tickets(self) -> list[ModelVersion]:
        """In the order in which they hold the lock."""
        found = self._client.search_model_versions(f"name = '{self._queue}'")
        return sorted(found, key=lambda ticket: int(ticket.version))

    def _is_own(self, ticket: ModelVersion) -> bool:
        return ticket.tags.get(TOKEN) == self._token

    def _remove(self, ticket: ModelVersion) -> None:
        try:
            self._client.delete_model_version(self._queue, ticket.version)
        except MlflowException as error:  # somebody else has removed it
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


@contextmanager
def locked(client: MlflowClient, model_name: str, purpose: str, expires_s: float) -> Iterator[RegistryLock]:
    """Wait for, hold and release the lock of the registered model `model_name`.

    Args:
        purpose: why the lock is held, for the log of processes that wait.
        expires_s: after so long a silent holder loses the lock.
    """
    lock = RegistryLock(client, f"{model_name}.queue", uuid.uuid4().hex)
    try:
        lock.take_ticket(purpose)
        lock.acquire(expires_s)
        yield lock
    finally:
        lock.release()
