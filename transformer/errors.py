"""The exceptions that carry a message meant for the person at the keyboard."""

import errno


class UserError(ValueError):
    """The user's input, configuration or data is wrong.

    The message is one line that names the wrong value and the remedy. The command line prints it without a
    traceback and exits 2.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it, so that a notebook says one line too."""
        return [f"error: {self}"]


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that nothing takes it for a failure it could handle."""


class ServiceError(RuntimeError):
    """A service the pipeline needs (MLflow, S3) did not answer; one line, exit 1, and a retry may help."""


class DiskError(OSError):
    """A file or folder cannot be written; one line that names it and the remedy, exit 1."""

    FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
    REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR})

    def __str__(self) -> str:
        remedy = (
            "free space on its disk or name another folder"
            if self.errno in self.FULL
            else "let the user of this process write there or name another folder"
        )
        return f"{self.filename} cannot be written ({self.strerror}); {remedy}, then run again"
