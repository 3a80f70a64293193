"""The right to write the SQLite file of a study: for one process per machine, and one in all for the bucket's copy.

On a machine, the kernel's lock on a file gives the right. The lock ends with its process. For the bucket, a lease gives
the right. It is an object that its holder writes and renews, each time on the condition that no other process has
written it. The lease expires by the clock of the service, so wrong clocks of machines do not matter.

Some stores have no conditional writes. There a process writes the lease, waits, and reads it back: of several processes
that write at the same time, the last one has it. A holder renews only while the lease is far from expiring, so it never
overwrites the lease of a process that took over.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from transformer.errors import ServiceError, UserError
from transformer.storage.bucket import Bucket
from transformer.waiting import patiently

log = logging.getLogger(__name__)

_TRIES = 3  # to take the lease over from an earlier process of the same study that renews it at the same time


class OccupiedError(UserError):
    """Another process writes the study database."""


@dataclass(frozen=True)
class LeaseSettings:
    """Interval of renewal, and the time without renewal after which another process may take the lease."""

    renew_every_s: float = 30.0
    expires_after_s: float = 180.0
    settles_s: float = 2.0  # longer than a write takes; for stores without conditional writes

    @property
    def renewable_s(self) -> float:
        """The age up to which a lease is renewed without a condition. A process that may take it waits longer."""
        return self.expires_after_s * 2 / 3


@dataclass(frozen=True)
class Writer:
    """A process that writes a study database, as other processes see it."""

    holder: str  # MLflow run of its study, "" = none
    host: str
    pid: int
    token: str  # unique to this process and this opening
    since: str

    @classmethod
    def here(cls, holder: str) -> Writer:
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return cls(holder, socket.gethostname(), os.getpid(), uuid.uuid4().hex, since)

    @classmethod
    def from_text(cls, text: str) -> Writer:
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return cls("", "an unknown host", 0, "", "an unknown time")

    def to_text(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def __str__(self) -> str:
        run = f"MLflow run {self.holder}, " if self.holder else ""
        return f"{run}process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def only_writer_here(path: Path, holder: str) -> Iterator[None]:
    """Keep every other process of this machine from writing `path`. A kill of this process ends the lock too.

    Raises:
        OccupiedError: another process writes `path`; the error names that process.
        UserError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = path.with_name(f"{path.name}.lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"paths.optuna_db={path} cannot be written ({error.strerror}); name another file") from None
    with guard as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            first = Writer.from_text(file.read())
            raise OccupiedError(
                f"{path} is being written by {first}; wait until it ends, or stop process {first.pid}"
            ) from None
        file.truncate(0)
        file.write(Writer.here(holder).to_text())
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # the file stays, because another process may be about to lock it


class Lease:
    """The right to write one object. A second object names the holder. `leased` creates it."""

    def __init__(self, bucket: Bucket, name: str, holder: str, settings: LeaseSettings) -> None:
        self.token = (writer := Writer.here(holder)).token
        self._writer = writer
        self._bucket = bucket
        self._name = name
        self._settings = settings
        self._lost = ""  # the reason, once the lease is lost
        self._renewing = threading.Lock()

    def acquire(self) -> None:
        """Take the lease if it is free, has expired or belongs to the same holder.

        Raises:
            OccupiedError: another process has the lease; the error names that process.
            ServiceError: an earlier process of the same holder is still renewing the lease.
            UserError: the store does not even read back what it wrote, so no process can know that it is alone.
        """
        if not (self._conditional or self._bucket.features.reads_back):
            raise UserError(
                f"{self._bucket.address(self._name)}: this store has no conditional writes and does not read back what "
                "it wrote, so two studies could destroy each other's trials; keep studies in PostgreSQL "
                "(search.storage_url), or set data.save_results_to_s3=false"
            )
        for _ in range(_TRIES):
            first, left_s = self._try_to_acquire()
            if first.token == self.token:
                return
            if not self._same_study(first):
                raise self._occupied(first, left_s)
        raise ServiceError(
            f"{self._bucket.address(self._name)} is being written by an earlier process of the same study: {first}; "
            "stop it, or run the stage again when it has ended"
        )

    def _try_to_acquire(self) -> tuple[Writer, float]:
        """Write the lease if that is allowed. Return who has it now, and the seconds until it expires."""
        stored = self._bucket.read_text(self._name)
        if stored is not None:
            first = Writer.from_text(stored.text)
            left_s = self._settings.expires_after_s - stored.age_s
            if left_s > 0 and not self._same_study(first):
                return first, left_s
            log.warning("S3: %s is taken over from %s", self._bucket.address(self._name), first)
        self._bucket.write_text(self._name, self._writer.to_text(), stored.etag if stored else "")
        if not self._conditional:
            time.sleep(self._settings.settles_s)
        # Read it back: another process may have been faster, or the answer may have been lost.
        stored = self._bucket.read_text(self._name)
        return Writer.from_text(stored.text if stored else ""), self._settings.expires_after_s

    def _same_study(self, first: Writer) -> bool:
        return self._writer.holder != "" and first.holder == self._writer.holder

    @property
    def _conditional(self) -> bool:
        return self._bucket.features.conditional

    def renew(self) -> None:
        """Renew the lease, for its whole time from now on.

        A lease that expired, but that no other process took, belongs to this process again, if the store has
        conditional writes. Otherwise another process may be about to take it.

        Raises:
            ServiceError: another process took the lease for good, or the service does not answer.
        """
        with self._renewing:
            # The conditional write itself waits for the service. Without conditions, look again before each write.
            patiently(self._renew, 0.0 if self._conditional else self._bucket.wait_s)

    def _renew(self) -> None:
        within_s = None if self._conditional else self._settings.expires_after_s / 6
        for _ in range(2):  # the second time, if an answer was lost and the repeated request was refused
            if self._lost:
                break
            stored = self._bucket.read_text(self._name)
            first = Writer.from_text(stored.text if stored else "")
            if stored is None:
                self._lost = "was removed by another process"
            elif first.token != self.token:
                self._lost = f"was taken over by {first}"
            elif not self._conditional and stored.age_s > self._settings.renewable_s:
                self._lost = f"was not renewed for {stored.age_s:.0f} s"
            elif self._bucket.write_text(self._name, self._writer.to_text(), stored.etag, within_s):
                return
        lost = self._lost or "could not be renewed"
        raise ServiceError(f"{self._bucket.address(self._name)} {lost}; this process saves nothing any more")

    def release(self) -> None:
        """Give the lease back if this process still has it."""
        stored = self._bucket.read_text(self._name)
        if stored is not None and Writer.from_text(stored.text).token == self.token:
            self._bucket.delete(self._name, stored.etag)

    def keep(self, stop: threading.Event) -> None:
        """Renew the lease until `stop`, or until another process has it. Errors of the service are tried again."""
        away = False
        while not self._lost and not stop.wait(self._settings.renew_every_s):
            try:
                self.renew()
                away = False
            except (UserError, ServiceError) as error:
                if not away:
                    log.warning("S3: the lease of the study database is not renewed: %s", error)
                away = True

    def _occupied(self, first: Writer, left_s: float) -> OccupiedError:
        return OccupiedError(
            f"{self._bucket.address(self._name)}: the study database is being written by {first}; wait until it ends, "
            f"or stop it; if it is dead, its lease expires in {max(left_s, 1):.0f} s"
        )


@contextmanager
def leased(bucket: Bucket, name: str, holder: str, settings: LeaseSettings) -> Iterator[Lease]:
    """Hold the lease `name`. A process of the same non-empty `holder` takes it over at once, others after it expired.

    Raises:
        OccupiedError: another process has it; the error names holder, host, since when, and when the lease expires.
    """
    lease = Lease(bucket, name, holder, settings)
    lease.acquire()
    stop = threading.Event()
    keeper = threading.Thread(target=lease.keep, args=(stop,), name="lease", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        stop.set()
        keeper.join()
        try:
            lease.release()
        except (UserError, ServiceError) as error:
            log.warning(
                "S3: the lease of the study database is not released and will expire in %.0f s: %s",
                settings.expires_after_s,
                error,
            )
