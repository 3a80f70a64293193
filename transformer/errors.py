"""The one exception that carries a message meant for the person at the keyboard."""


class UserError(ValueError):
    """The user's input, configuration or data is wrong.

    The message is one line that names the wrong value and the remedy. The command line prints it without a
    traceback and exits 2.
    """


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that nothing takes it for a failure it could handle."""


class ServiceError(RuntimeError):
    """A service the pipeline needs (MLflow, S3) did not answer; one line, exit 1, and a retry may help."""
