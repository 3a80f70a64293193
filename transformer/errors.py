"""Exceptions whose message is for the user."""

import errno
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
    """SIGTERM arrived. It is not an Exception, so no handler of failures catches it."""

    LINE = b"error: terminated by SIGTERM\n"
    STATUS = 128 + signal.SIGTERM


class ServiceError(RuntimeError):
    """A service that the pipeline needs (MLflow, S3) did not answer. One line, exit status 1; a retry may help."""


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
