"""Wait for a server that does not answer: S3, MLflow or PostgreSQL."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_base

from transformer.errors import Terminated, UnansweredError

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5  # then doubled
LONGEST_PAUSE_S = 5.0
LINES_S = 0.4  # between two log lines of different threads about the same server
SILENT_S = 5.0  # between two log lines about a request that has no answer yet
Answer = TypeVar("Answer")


def patiently(
    request: Callable[[], Answer],
    wait_s: float,
    *,
    carried_out: Callable[[], Answer | None] = lambda: None,
    first_pause_s: float = FIRST_PAUSE_S,
    stop: threading.Event | None = None,
) -> Answer:
    """Return the answer to a request. While the server does not answer, log a line and repeat the request.

    Args:
        request: raises UnansweredError if the server did not answer.
        wait_s: time after the first failure in which the request is repeated, with growing pauses.
        carried_out: if a repetition would do harm, it is called before each, and returns the answer to a request that
            the server carried out although its own answer was lost; None = the server carried out none.
        stop: ends the waiting early, as SIGTERM does.

    Raises:
        UnansweredError: the server did not answer in that time. The error says how long this process waited.
    """
    limit = _Limit(wait_s, stop or threading.Event())

    def report(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, UnansweredError)
        limit.server = error.server
        if _lines.due(error.server):
            log.warning("waiting for %s (%.0f of %.0f s): %s", error.server, limit.waited_s, wait_s, error.reason)

    def once() -> Answer:
        found = None if limit.began is None else carried_out()
        return request() if found is None else found

    attempts = Retrying(
        retry=retry_if_exception_type(UnansweredError),
        stop=limit,
        wait=wait_exponential_jitter(multiplier=first_pause_s, max=LONGEST_PAUSE_S, jitter=min(first_pause_s, 1.0)),
        sleep=sleep_using_event(limit.stopped),
        before_sleep=report,
        reraise=True,
    )
    try:
        answer: Answer = attempts(once)
    except UnansweredError as error:
        raise error.after(limit.waited_s) from None
    if limit.began is not None and _lines.due(f"{limit.server}, again"):
        log.info("%s answers again after %.0f s", limit.server, limit.waited_s)
    return answer


class _Limit(stop_base):
    """Ends the repetitions `wait_s` after the first failure. The time of the first attempt does not count."""

    def __init__(self, wait_s: float, stopped: threading.Event) -> None:
        self.stopped = stopped
        self.server = ""
        self.began: float | None = None  # of waiting
        self._wait_s = wait_s

    @property
    def waited_s(self) -> float:
        return 0.0 if self.began is None else time.monotonic() - self.began

    def __call__(self, retry_state: RetryCallState) -> bool:
        del retry_state
        if self.began is None:
            self.began = time.monotonic()
        return self.stopped.is_set() or Terminated.arrived or self.waited_s >= self._wait_s


class _Lines:
    """Keeps threads that wait for the same server from logging the same line."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()

    def due(self, line: str) -> bool:
        now = time.monotonic()
        with self._lock:
            if now - self._last.get(line, -LINES_S) < LINES_S:
                return False
            self._last[line] = now
        return True


@contextmanager
def reporting_silence(server: str) -> Iterator[None]:
    """Log a line every few seconds while the block waits for an answer of `server`."""
    began = _silence.begin(server)
    try:
        yield
    finally:
        _silence.end(began)


class _Silence:
    """The requests of this process that have no answer yet. One thread reports the slow ones."""

    def __init__(self) -> None:
        self._requests: dict[object, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, server: str) -> object:
        key = object()
        with self._lock:
            self._requests[key] = (server, time.monotonic())
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="silence", daemon=True)
                self._thread.start()
        return key

    def end(self, key: object) -> None:
        with self._lock:
            self._requests.pop(key, None)

    def _watch(self) -> None:
        while True:
            time.sleep(SILENT_S)
            with self._lock:
                waiting = list(self._requests.values())
            oldest: dict[str, float] = {}
            for server, began in waiting:
                oldest[server] = min(began, oldest.get(server, began))
            now = time.monotonic()
            for server, began in oldest.items():
                if now - began >= SILENT_S:
                    log.info("waiting for the answer of %s for %.0f s", server, now - began)


_lines = _Lines()
_silence = _Silence()


def _forget() -> None:
    """A forked process has other threads, and its own requests."""
    global _lines, _silence
    _lines, _silence = _Lines(), _Silence()


os.register_at_fork(after_in_child=_forget)
