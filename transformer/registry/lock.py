"""The lock of the model registry: only one process at a time changes the registry's aliases.

MLflow sets an alias without a condition. Setting an alias and reading it back cannot replace a lock: one process may
read its own value back and report success before another process sets the alias. `docs/log.md` has the counts.

MLflow's server keeps the versions of a registered model unique and in order. A second model therefore serves as a
queue, and each version of this second model is a ticket. The lowest ticket holds the lock. Deleting the ticket releases
the lock. The server never gives a number twice, and a ticket becomes visible only after every lower ticket. No process
can therefore slip in before a visible ticket.

A process that died leaves its ticket behind. A waiting process deletes the ticket once the ticket has been first in the
queue for `expires_s`, by the clock of the waiting process. The ticket is deleted by its number, so two processes may
delete it at the same time. One gap remains: a process may stop for as long between its last look at the queue and its
write. Such a process still writes, because MLflow cannot refuse the write.
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
NO_SOURCE = "ticket:/none"  # a version must name the place of its model, and a ticket has no model
LOST = "this process lost its lock on the model registry because it took too long; run it again"
DESCRIPTION = "A queue, not a model. A version is a ticket to change the aliases of the model named without `.queue`."


class RegistryLock:
    """The right to change the registry's aliases. `locked` creates it."""

    def __init__(self, client: MlflowClient, queue: str, token: str) -> None:
        self._client = client
        self._queue = queue
        self._token = token

    def confirm(self) -> None:
        """Check that this process still holds the lock. Call it before and after a change.

        Raises:
            ServiceError: the process held the lock too long and lost it.
        """
        if not any(map(self._is_own, self._tickets()[:1])):
            raise ServiceError(LOST)

    def take_ticket(self, purpose: str) -> None:
        """Join the queue. A waiting process logs the purpose of the ticket that it waits for."""
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
        """Wait until the own ticket is first, and delete expired tickets before it.

        Raises:
            ServiceError: another process deleted the own ticket.
        """
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
        """Delete every ticket of this process. A repeated request may have created a second ticket."""
        try:
            for ticket in filter(self._is_own, self._tickets()):
                self._remove(ticket)
        except Exception as error:
            log.warning("model registry: could not release the lock, which will expire: %s", type(error).__name__)

    def _tickets(self) -> list[ModelVersion]:
        """The tickets, in the order in which they hold the lock."""
        found = self._client.search_model_versions(f"name = '{self._queue}'")
        return sorted(found, key=lambda ticket: int(ticket.version))

    def _is_own(self, ticket: ModelVersion) -> bool:
        return ticket.tags.get(TOKEN) == self._token

    def _remove(self, ticket: ModelVersion) -> None:
        try:
            self._client.delete_model_version(self._queue, ticket.version)
        except MlflowException as error:  # another process has deleted the ticket
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


@contextmanager
def locked(client: MlflowClient, model_name: str, purpose: str, expires_s: float) -> Iterator[RegistryLock]:
    """Wait for, hold and release the lock of the registered model `model_name`.

    Args:
        purpose: why this process holds the lock, for the log of waiting processes.
        expires_s: a holder that another process waits for loses the lock after this many seconds.
    """
    lock = RegistryLock(client, f"{model_name}.queue", uuid.uuid4().hex)
    try:
        lock.take_ticket(purpose)
        lock.acquire(expires_s)
        yield lock
    finally:
        lock.release()
