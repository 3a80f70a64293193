"""Exceptions whose message is for the user."""

from __future__ import annotations

import errno
import os
import signal


class UserError(ValueError):
    """The user's input, configuration or data is wrong.

    The message is one line that names the wrong value and the remedy. The command line prints it without a
    traceback and exits 2.
    """

    def _render_traceback_(self) -> list[str]:
        """IPython shows this line in place of a traceback."""
        return [f"error: {self}"]


class Terminated(BaseException):
    """SIGTERM arrived. It is not an Exception, so no handler of failures catches it.

    Attributes:
        arrived: True from then on. Nothing waits any more for a server that does not answer.
    """

    arrived = False
    LINE = b"error: terminated by SIGTERM\n"
    STATUS = 128 + signal.SIGTERM


class ServiceError(RuntimeError):
    """A service that the pipeline needs (MLflow, S3) did not answer. One line, exit status 1; a retry may help."""


class UnansweredError(ServiceError):
    """A server did not answer, or answered that it cannot work now. It may answer later, see `waiting.patiently`.

    Attributes:
        server: kind and address of the server.
        reason: what was seen in place of an answer.
    """

    def __init__(self, server: str, reason: str, remedy: str, waited_s: float = 0.0) -> None:
        waited = f" for {waited_s:.0f} s" if waited_s >= 1 else ""
        super().__init__(f"{server} did not answer{waited} ({reason}); {remedy}")
        self.server = server
        self.reason = reason
        self._remedy = remedy

    def after(self, waited_s: float) -> UnansweredError:
        """The same error of a process that waited that long."""
        return UnansweredError(self.server, self.reason, self._remedy, waited_s)


def remedy(*, laptop: str, pod: str) -> str:
    """The remedy that fits the place where this process runs."""
    return pod if "KUBERNETES_SERVICE_HOST" in os.environ else laptop


class DiskError(OSError):
    """A file or folder cannot be written. One line names it and the remedy; exit status 1."""

    FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
    REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR})

    def __str__(self) -> str:
        remedy = (
            "free space on its disk or name another folder"
            if self.errno in self.FULL
            else "let the user of this process write there or name another folder"
        )
        return f"{self.filename} cannot be written ({self.strerror}); {remedy}, then run again"
