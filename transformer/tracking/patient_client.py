"""MLflow's client that waits for a server that goes away.

Every request is repeated until the server answers, see `waiting.patiently`, and if it collided with the request of
another process. The connection may break after the server
has carried out a request, and before its answer arrives. The repetition of such a request changes nothing more.
"""

from __future__ import annotations

import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, TypeVar

from transformer.errors import UnansweredError, UserError, remedy
from transformer.text import redact
from transformer.tracking.names import WORKSPACE_VARIABLE
from transformer.waiting import patiently, reporting_silence

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException

CREATION = "mlflow.creation"  # tag of a run: unique to the request that created it; pages hide names like this
# MLflow joins the errors of several files into a text.
_BROKEN_OFF = re.compile(
    r"Connection(Error|Reset|Closed| aborted| refused| broken)|Max retries exceeded|timed out|IncompleteRead|"
    r"RemoteDisconnected|EndpointConnectionError|Could not connect to the endpoint|too many 5\d\d error responses"
)
# The server looks for a row, and inserts it if it is missing. Two requests at once both insert it, and one fails.
_COLLISION = re.compile(r"IntegrityError|UniqueViolation|[Dd]uplicate (key|entry)")
_COLLISION_PAUSE_S = 0.5  # at most; then the row is there, and the request finds it
_COLLISION_TRIES = 5
# The server looks for a row, and inserts it if it is missing. Two requests at once both insert it, and one fails.
_COLLISION = re.compile(r"IntegrityError|UniqueViolation|[Dd]uplicate (key|entry)")
_COLLISION_PAUSE_S = 0.5  # at most; then the row is there, and the request finds it
_COLLISION_TRIES = 5
_UNAUTHORIZED, _FORBIDDEN = 401, 403
_REFUSALS = (_UNAUTHORIZED, _FORBIDDEN)
# The client reads and writes artifacts in S3 itself, where the server does not pass them on.
_STORE_REFUSES = re.compile(
    r"Unable to locate credentials|Partial credentials|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|"
    r"ExpiredToken|InvalidToken|NoSuchBucket|\((?:401|403)\) when calling"
)
Answer = TypeVar("Answer")


class PatientClient:
    """Has every method of `MlflowClient`.

    Args:
        server: address for messages, without credentials.
        wait_s: see `waiting.patiently`.

    Every method raises UnansweredError if the server did not answer all that time, UserError if it refuses the
    credentials or has no permission for them, and MLflow's own errors otherwise.
    """

    def __init__(self, client: MlflowClient, server: str, wait_s: float) -> None:
        self._client = client
        self._server = server
        self._wait_s = wait_s

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name.startswith("_") or not callable(found):
            return found

        @wraps(found)
        def repeated(*arguments: Any, **named: Any) -> Any:
            return self._patiently(partial(found, *arguments, **named))

        return repeated

    def create_run(self, experiment_id: str, tags: dict[str, Any] | None = None, **named: Any) -> Run:
        mark = uuid.uuid4().hex
        create = partial(self._client.create_run, experiment_id, tags={**(tags or {}), CREATION: mark}, **named)

        def find() -> Run | None:
            found = self._client.search_runs([experiment_id], f"tags.`{CREATION}` = '{mark}'", max_results=1)
            return found[0] if found else None

        return self._patiently(create, find)

    def create_model_version(self, name: str, source: str, run_id: str | None = None, **named: Any) -> ModelVersion:
        create = partial(self._client.create_model_version, name, source, run_id, **named)
        tags = named.get("tags") or {}

        def find() -> ModelVersion | None:
            found = self._client.search_model_versions(f"name = '{name}'")
            same = (entry for entry in found if entry.source == source and entry.tags.items() >= tags.items())
            return next(same, None)

        return self._patiently(create, find)

    def create_logged_model(
        self, experiment_id: str, name: str, source_run_id: str, tags: dict[str, str], **named: Any
    ) -> LoggedModel:
        create = partial(self._client.create_logged_model, experiment_id, name, source_run_id, tags=tags, **named)

        def find() -> LoggedModel | None:
            found = self._client.search_logged_models([experiment_id], f"source_run_id = '{source_run_id}'")
            return next((model for model in found if model.tags.items() >= tags.items()), None)

        return self._patiently(create, find)

    def delete_tag(self, run_id: str, key: str) -> None:
        delete = partial(self._client.delete_tag, run_id, key)

        def find() -> bool | None:
            return None if key in self._client.get_run(run_id).data.tags else True

        self._patiently(delete, find)

    def download_artifacts(self, run_id: str, path: str, dst_path: str) -> str:
        """Download from the place of the artifacts. MLflow's own method forgets why a download failed."""
        uri = self._patiently(partial(self._client.get_run, run_id)).info.artifact_uri
        return self.download_from(f"{uri}/{path}", dst_path)

    def download_from(self, address: str, dst_path: str) -> str:
        """Download a file or folder of artifacts, and return the path of the copy in `dst_path`."""
        from mlflow.artifacts import download_artifacts

        fetch = partial(download_artifacts, dst_path=dst_path, tracking_uri=self._client.tracking_uri)
        return str(self._patiently(partial(fetch, artifact_uri=address)))

    def _patiently(
        self, request: Callable[[], Answer], carried_out: Callable[[], Answer | None] = lambda: None
    ) -> Answer:
        """Send a request until the server answers; `carried_out` is as in `waiting.patiently`."""
        find = self._explaining(carried_out)
        return patiently(self._explaining(request), self._wait_s, carried_out=find)

    def _explaining(self, request: Callable[[], Answer]) -> Callable[[], Answer]:
        """The request, with errors of the pipeline in place of those of MLflow and of the network."""

        def send() -> Answer:
            try:
                with reporting_silence(f"MLflow at {self._server}"):
                    return _past_collisions(request)
            except Exception as error:
                if (explained := self._explained(error)) is not None:
                    raise explained from None
                raise

        return send

    def _explained(self, error: Exception) -> Exception | None:
        """The error to raise instead; None = this one."""
        import requests
        from mlflow.exceptions import MlflowException

        causes = list(_causes(error))
        explained: Exception | None = None
        if any(isinstance(cause, requests.exceptions.SSLError) for cause in causes):
            explained = UserError(
                f"no secure connection to training.mlflow.tracking_uri={self._server} ({reason_of(error)}); check that "
                "it begins with the right one of http:// and https://, and name the server's certificate in "
                "REQUESTS_CA_BUNDLE"
            )
        elif any(map(_is_of_network, causes)) or (
            isinstance(error, MlflowException) and "failures occurred" in str(error) and _BROKEN_OFF.search(str(error))
        ):
            explained = self._unanswered(reason_of(error))
        elif refusal := next(filter(None, map(_refusal_of_store, causes)), ""):
            explained = UserError(
                f"the store of the artifacts of MLflow at {self._server} refuses access ({refusal}); give this process "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for a store other than AWS, MLFLOW_S3_ENDPOINT_URL, or "
                "start MLflow with --serve-artifacts"
            )
        elif isinstance(error, MlflowException) and os.environ.get(WORKSPACE_VARIABLE) and _names_workspace(error):
            explained = UserError(f"MLflow at {self._server}: {reason_of(error)}; correct {WORKSPACE_VARIABLE}")
        elif isinstance(error, MlflowException) and (status := _status(error)) in _REFUSALS:
            explained = UserError(
                f"MLflow at {self._server} refuses access ({status}: {reason_of(error)}); {_access_remedy(status)}"
            )
        return explained

    def _unanswered(self, reason: str) -> UnansweredError:
        return UnansweredError(
            f"MLflow at {self._server}",
            reason,
            remedy(
                laptop="start it with `make up`, correct training.mlflow.tracking_uri, or set "
                "training.mlflow.use_mlflow=false",
                pod="ask those who run it, or correct training.mlflow.tracking_uri of this environment, "
                "then run the stage again",
            ),
        )


def _past_collisions(request: Callable[[], Answer]) -> Answer:
    """Send a request again that failed because another process wrote the same at the same time."""
    from mlflow.exceptions import MlflowException

    for _ in range(_COLLISION_TRIES - 1):
        try:
            return request()
        except MlflowException as error:
            # If a name is taken, the code says so, and no repetition helps.
            if error.error_code != "BAD_REQUEST" or not _COLLISION.search(str(error)):
                raise
        time.sleep(random.uniform(0, _COLLISION_PAUSE_S))
    return request()


def _access_remedy(status: int) -> str:
    if status == _FORBIDDEN:
        return (
            "ask for the permission that is missing, or name what this user may write in "
            f"training.mlflow.experiment_name, evaluation.registry.model_name and {WORKSPACE_VARIABLE}"
        )
    return remedy(
        laptop="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        pod="put MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD into the secret that "
        "compute.kubernetes.secret names",
    )


def _names_workspace(error: MlflowException) -> bool:
    """Whether the server, or the client for it, does not know the workspace."""
    return re.search("workspace.* not (found|support)|support workspaces", str(error), re.IGNORECASE) is not None


def _status(error: MlflowException) -> int:
    return int(error.get_http_status_code())  # type: ignore[no-untyped-call]


def reason_of(error: BaseException) -> str:
    """First line of the first cause: "Connection refused" says more than the error of the request."""
    *_, first = _causes(error)
    lines = (str(first).strip() or type(first).__name__).splitlines()
    line = lines[-1] if lines[0].endswith(":") else lines[0]  # of a download, the first line only announces the reason
    return str(redact(line[:200]))


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    while cause := error.__cause__ or error.__context__:
        error = cause
        yield error


def _refusal_of_store(error: BaseException) -> str:
    """The reason why S3 refuses the credentials or the bucket; "" = this error is something else."""
    import botocore.exceptions as aws
    from boto3.exceptions import Boto3Error

    text = str(error)
    of_store = isinstance(error, aws.BotoCoreError | aws.ClientError | Boto3Error) or "failures occurred" in text
    lines = [line for line in text.splitlines() if _STORE_REFUSES.search(line)]
    return str(redact(lines[0].strip()[:200])) if of_store and lines else ""


def _is_of_network(error: BaseException) -> bool:
    """Whether a server could not be reached, or answered that it cannot work now."""
    import botocore.exceptions as aws
    import requests
    import urllib3

    return isinstance(
        error,
        requests.exceptions.ConnectionError
        | requests.exceptions.Timeout
        | requests.exceptions.RetryError
        | requests.exceptions.ChunkedEncodingError
        | urllib3.exceptions.ProtocolError
        | urllib3.exceptions.TimeoutError
        | aws.HTTPClientError,
    )
