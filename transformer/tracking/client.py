"""Requests to the MLflow server; its failures become errors of one line.

The import of MLflow takes two seconds of CPU time. A function imports it when it makes a request.
"""

from __future__ import annotations

import os
import re
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformer.config import Config
from transformer.errors import DiskError, ServiceError, UserError
from transformer.files import content_hash, writing
from transformer.text import redact
from transformer.tracking.names import EXPERIMENT_KIND, FAILURE_REASON, MODEL_TRAINING
from transformer.tracking.patient_client import PatientClient, reason_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

BATCH = 100  # params or tags in one request, the server's limit
PARAM_LENGTH = 6_000  # characters of a param, the server's limit
TAG_LENGTH = 8_000  # characters of a tag; the server cuts a longer one off without an error
METRIC_NAME_LENGTH = 250  # characters; the server refuses a request with a longer name
TAGS = "tags"  # artifact folder of a run: the values that are no text for people, or too long for a tag
SHOWN = 200  # characters of such a value in its tag, which also names the artifact
_IN_ARTIFACT = re.compile(r"(?P<shown>.*) \(in artifact (?P<path>tags/\S+)\)", re.DOTALL)
_EARLIER_IN_ARTIFACT = re.compile(r"in artifact (?P<path>tags/\S+?)(: (?P<shown>.*))?", re.DOTALL)  # earlier releases
_HTTP_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # `PatientClient` repeats requests: it says so, and repeats none twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
_PROBE = 1_000_000  # bytes; after a failed download, a disk without room for them was full
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"  # MLflow's names of a run's status
ENDED = (FINISHED, FAILED, KILLED)


def public_address(config: Config) -> str:
    """`training.mlflow.tracking_uri` without user name and password."""
    return str(redact(config.training.mlflow.tracking_uri)).replace("***@", "").rstrip("/")


def check_server(config: Config) -> None:
    """Check that an MLflow server answers and accepts the credentials. It is waited for, see `waiting.patiently`.

    Raises:
        UserError: it is no MLflow server, or it refuses the credentials; the error names the address and the remedy.
        UnansweredError: no server answers.
    """
    client = connect(config)
    try:
        client.search_experiments(max_results=1)
    except (UserError, ServiceError):
        raise
    except Exception as error:
        raise UserError(
            f"no MLflow server is at training.mlflow.tracking_uri={public_address(config)} ({reason_of(error)}); "
            "correct the address, or set training.mlflow.use_mlflow=false"
        ) from None


@contextmanager
def mlflow_errors(config: Config) -> Iterator[None]:
    """Turn every error of MLflow's client and of the network into one line that names the server.

    Other errors inside the block are not the server's fault, and a retry would not help. They pass unchanged.

    Raises:
        ServiceError: for every error that the client raised.
    """
    try:
        yield
    except (UserError, ServiceError, DiskError):
        raise
    except Exception as error:
        if not _of_client(error):
            raise
        # not chained, because its text may hold the address with the password
        raise ServiceError(f"MLflow at {public_address(config)}: {reason_of(error)}") from None


def _of_client(error: Exception) -> bool:
    """Whether MLflow's client raised the error, or a library that the client called."""
    from mlflow.exceptions import MlflowException

    modules = (str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, MlflowException) or any(name.partition(".")[0] == "mlflow" for name in modules)


def refuse_untracked(config: Config, *run_ids: str | None) -> None:
    if any(run_ids) and not config.training.mlflow.use_mlflow:
        raise UserError("training.mlflow.use_mlflow=false allows no run ids; leave the run ids out, or set it to true")


def connect(config: Config) -> MlflowClient:
    from mlflow import MlflowClient

    for name, value in _HTTP_SETTINGS.items():
        os.environ.setdefault(name, value)
    # When a run ends, MLflow prints the run's address with the password.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    uri = config.training.mlflow.tracking_uri
    try:
        client = MlflowClient(tracking_uri=uri)
    except Exception as error:
        raise UserError(
            f"training.mlflow.tracking_uri={public_address(config)} cannot be used ({reason_of(error)}); "
            "set the address of a server, such as http://127.0.0.1:5000, or sqlite:///mlflow.db"
        ) from None
    return cast("MlflowClient", PatientClient(client, public_address(config), config.compute.service_wait_s))


def existing_run(client: MlflowClient, run_id: str, name: str) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise UserError(
                f"{name}={run_id!r} is no run of this MLflow server; copy the id from the run's page"
            ) from None
        raise
    if run.info.lifecycle_stage == "deleted":
        raise UserError(f"{name}={run_id!r} was deleted; restore it in MLflow or name another run")
    return run


def download(client: MlflowClient, run_id: str, artifact: str, folder: str) -> Path:
    """Fetch an artifact, which is a file or a folder, into a local folder.

    Raises:
        DiskError: the disk of the folder is full.
    """
    from mlflow.exceptions import MlflowException

    try:
        return Path(client.download_artifacts(run_id, artifact, folder))
    except MlflowException:
        with writing(Path(folder)), tempfile.TemporaryFile(dir=folder) as probe:  # the client keeps no cause
            probe.write(bytes(_PROBE))
        raise


def reopen(client: MlflowClient, run: Run) -> None:
    """Mark a run as RUNNING again, and delete the reason of an earlier failure."""
    client.update_run(run.info.run_id, status=RUNNING)
    if FAILURE_REASON in run.data.tags:
        client.delete_tag(run.info.run_id, FAILURE_REASON)


def experiment_of(client: MlflowClient, name: str) -> str:
    """The id of the experiment of this name, which is created if there is none.

    An experiment without a kind becomes one of model training. A kind that a person chose stays.

    Raises:
        UserError: the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, tags={EXPERIMENT_KIND: MODEL_TRAINING}))
        except MlflowException:  # another run has created it in the same instant
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise UserError(f"MLflow experiment {name!r} was deleted; restore it or set training.mlflow.experiment_name")
    if EXPERIMENT_KIND not in found.tags:
        client.set_experiment_tag(found.experiment_id, EXPERIMENT_KIND, MODEL_TRAINING)
    return str(found.experiment_id)


def log_params(client: MlflowClient, run: Run, values: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    known = set(run.data.params)
    params = [Param(key, _shortened(str(value))) for key, value in values.items() if key not in known]
    for first in range(0, len(params), BATCH):
        client.log_batch(run.info.run_id, params=params[first : first + BATCH])


def _shortened(text: str) -> str:
    """Cut a param to the server's limit; the configuration artifact holds the full value."""
    return text if len(text) <= PARAM_LENGTH else text[: PARAM_LENGTH - 1] + "…"


def set_tags(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Set tags of a run. A value longer than TAG_LENGTH goes into an artifact, and `read_tag` reads it from there."""
    from mlflow.entities import RunTag

    tags = []
    for key, value in values.items():
        text = str(redact(str(value)))
        if len(text) > TAG_LENGTH:
            text = keep_in_artifact(client, run_id, key, text, text)
        tags.append(RunTag(key, text))
    client.log_batch(run_id, tags=tags)


def keep_in_artifact(client: MlflowClient, run_id: str, key: str, text: str, shown: str, ending: str = "txt") -> str:
    """Keep the value `text` of a tag in an artifact, and return what the tag has to be.

    Args:
        shown: a text for people in the tag; at most SHOWN characters of it are kept.
    """
    artifact = f"{TAGS}/{re.sub(r'[^A-Za-z0-9.-]', '_', key)}-{content_hash(text)}.{ending}"
    log_text(client, run_id, text, artifact)  # before the tag, so that a reader of the tag finds it
    return f"{shown if len(shown) <= SHOWN else f'{shown[:SHOWN]}…'} (in artifact {artifact})"


def copy_tag(client: MlflowClient, run: Run, key: str, target: str) -> str:
    """Return a tag of `run` as it has to be in the run `target`, and copy the artifact that holds its value."""
    value = str(run.data.tags[key])
    if kept := _in_artifact(value):
        log_text(client, target, read_tag(client, run, key), kept["path"])
    return value


def shown_of(tag: str) -> str:
    """The text for people in the tag of a value that an artifact holds; any other tag as it is."""
    kept = _in_artifact(tag)
    return (kept["shown"] or "") if kept else tag


def _in_artifact(tag: str) -> re.Match[str] | None:
    """The path of the artifact that holds the value of a tag, and the text for people; None = the tag is the value."""
    return _IN_ARTIFACT.fullmatch(tag) or _EARLIER_IN_ARTIFACT.fullmatch(tag)


def read_tag(client: MlflowClient, run: Run, name: str) -> str:
    """The whole value of a tag; "" if the run lacks it.

    Raises:
        UserError: the artifact with the value is gone.
    """
    value = str(run.data.tags.get(name, ""))
    if (kept := _in_artifact(value)) is None:
        return value
    artifact = kept["path"]
    run_id = run.info.run_id
    if not has_artifact(client, run_id, artifact):
        raise UserError(f"MLflow run {run_id} lacks the artifact {artifact} of its tag {name!r}; use another run")
    with tempfile.TemporaryDirectory() as temporary:
        return download(client, run_id, artifact, temporary).read_text(encoding="utf-8")


def has_artifact(client: MlflowClient, run_id: str, artifact: str) -> bool:
    """Whether the run has this artifact, which is a file or a folder."""
    return artifact in {entry.path for entry in client.list_artifacts(run_id, artifact.rpartition("/")[0] or None)}


def metric_name(name: str) -> str:
    """The name under which the server keeps a metric.

    A name longer than METRIC_NAME_LENGTH keeps its beginning, and ends with a hash of the whole name.
    """
    if len(name) <= METRIC_NAME_LENGTH:
        return name
    ending = f"-{content_hash(name)}"
    return name[: METRIC_NAME_LENGTH - len(ending)] + ending


def log_text(client: MlflowClient, run_id: str, text: str, artifact: str) -> None:
    folder, _, name = artifact.rpartition("/")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        path.write_text(text, encoding="utf-8")
        client.log_artifact(run_id, str(path), folder)
