"""MLflow: opening, resuming and closing runs, and what they record. Imports no torch.

Credentials inside `training.mlflow.tracking_uri` reach the server and nothing else: no tag, param, artifact or message.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from transformer.config import Config, content_hash, flatten, redact, to_dict, to_yaml
from transformer.errors import ServiceError, UserError
from transformer.mlflow_pages import run_page

log = logging.getLogger(__name__)

AIRFLOW_RUN = "airflow_run_id"  # tag: the DAG run that a run belongs to

# Tags that say where a run comes from: those nested in it come from there too.
ORIGIN = ("env", "git_commit", "image", "dag_id", AIRFLOW_RUN, "data_fingerprint", "split", "warm_start_run_id")

CONFIG_ARTIFACT = "config/config.yaml"
BATCH = 100  # params or tags in one request, the server's limit
PARAM_LENGTH = 6_000  # characters of a param, likewise
METRIC_BATCH = 1_000  # metrics in one request, likewise
FAILURE_REASON = "failure_reason"  # tag of a failed run
# MLflow's own default retries an unreachable server for minutes; a person waits for the one line that says so.
_HTTP_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",  # seconds; the three retries take about 7 s
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
_RUNNING, FINISHED, _FAILED, _KILLED = (
    RunStatus.to_string(s) for s in (RunStatus.RUNNING, RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED)
)
PARENT = MLFLOW_PARENT_RUN_ID  # tag of a nested run


def configuration_hash(config: Config) -> str:
    """Content hash of the whole configuration; another password does not make it another configuration."""
    return content_hash(redact(to_dict(config)))


def run_folder(config: Config, run_id: str) -> Path:
    """Local folder of a run's checkpoints and reports; without tracking, one per configuration."""
    return Path(config.paths.runs) / (run_id or f"untracked-{configuration_hash(config)}")


def open_run(
    config: Config,
    *,
    env: str,
    name: str = "",
    overrides: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    run_id: str | None = None,
    warm_start_run_id: str | None = None,
    resume: bool = False,
) -> str:
    """Open the MLflow run a training logs into, and record its configuration and origin.

    Args:
        name: what a new run is called, before the time it was opened; "" = its environment.
        tags: more tags of the run, on top of its environment, overrides, configuration hash, commit and image.
        run_id: log into this existing run instead of a new one; it becomes RUNNING again.
        warm_start_run_id: the run whose weights the training begins from; checked here, before anything is spent.
        resume: continue the run `warm_start_run_id` itself.

    Returns:
        The run's id, or "" when `training.mlflow.use_mlflow` is false.

    Raises:
        UserError: a run that does not exist, resuming without a run, or no MLflow server at the address.
        ServiceError: the server stopped answering.
    """
    if resume and not warm_start_run_id:
        raise UserError("resume_run=true needs warm_start_run_id: the run to continue")
    if resume and run_id and run_id != warm_start_run_id:
        raise UserError(
            f"resume_run continues run {warm_start_run_id!r} itself, so run_id={run_id!r} cannot differ; leave it out"
        )
    _refuse_untracked(config, run_id, warm_start_run_id)
    if not config.training.mlflow.use_mlflow:
        return ""
    check_server(config)
    client = _client(config)
    with mlflow_errors(config):
        if warm_start_run_id:
            _existing(client, warm_start_run_id, "warm_start_run_id")
        chosen = warm_start_run_id if resume else run_id
        if chosen:
            run = _existing(client, chosen, "run_id")
            _reopen(client, run)
        else:
            experiment = _experiment(client, config.training.mlflow.experiment_name)
            opened = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            run = client.create_run(experiment, run_name=f"{name or env} {opened}")
        identity = {
            "env": env,
            "overrides": json.dumps(redact(list(overrides))),
            "configuration_hash": configuration_hash(config),
            "git_commit": git_commit(),
            "image": _training_image(config),
            **({"warm_start_run_id": warm_start_run_id} if warm_start_run_id and not resume else {}),
            **(tags or {}),
        }
        _set_tags(client, run.info.run_id, identity)
        # A logged param cannot change: a resumed run keeps the ones it has, its tags tell what it was resumed with.
        _log_params(client, run, flatten(redact(to_dict(config))))
        _log_text(client, run.info.run_id, to_yaml(config), CONFIG_ARTIFACT)
    return str(run.info.run_id)


def close_run(config: Config, run_id: str, status: str = FINISHED, reason: str = "") -> None:
    """End the run as FINISHED, FAILED or KILLED; `reason` says why in a tag that the run's page shows."""
    if not run_id:
        return
    _refuse_untracked(config, run_id)
    if status not in (FINISHED, _FAILED, _KILLED):
        raise ValueError(f"status {status!r}, expected {FINISHED}, {_FAILED} or {_KILLED}")
    client = _client(config)
    with mlflow_errors(config):
        if reason:
            _set_tags(client, run_id, {FAILURE_REASON: reason})
        client.set_terminated(run_id, status)


def run_url(config: Config, run_id: str) -> str:
    """Address of the run's page; "" without a run, or where the tracking address is no web server's."""
    address = (config.training.mlflow.public_uri or public_address(config)).rstrip("/")
    if not run_id or not address.startswith(("http://", "https://")):
        return ""
    with mlflow_errors(config):
        experiment = _client(config).get_run(run_id).info.experiment_id
    return run_page(address, experiment, run_id)


def public_address(config: Config) -> str:
    """`training.mlflow.tracking_uri` without user name and password."""
    return str(redact(config.training.mlflow.tracking_uri)).replace("***@", "").rstrip("/")


def _training_image(config: Config) -> str:
    """The image that trains: of the pods on a cluster, else the one this process runs in."""
    if config.compute.backend == "kubernetes":
        return config.compute.kubernetes.image
    return os.environ.get("TRANSFORMER_IMAGE", "none")


def git_commit() -> str:
    """Commit of the code: TRANSFORMER_GIT_COMMIT where an image was built from it, else the working tree's."""
    if commit := os.environ.get("TRANSFORMER_GIT_COMMIT"):
        return commit
    argv = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def check_server(config: Config) -> None:
    """Refuse at once when no MLflow server answers.

    Raises:
        UserError: naming the address and the remedy.
    """
    client = _client(config)
    try:
        client.search_experiments(max_results=1)
    except Exception as error:
        raise UserError(
            f"no MLflow server answers at training.mlflow.tracking_uri={public_address(config)} ({_reason(error)}); "
            "start it with `make up`, correct the address, or set training.mlflow.use_mlflow=false"
        ) from None


class RunLog:
    """Writes into one MLflow run; with an empty run id it writes nothing, so that callers need not ask.

    Raises:
        UserError: a run id while `training.mlflow.use_mlflow` is false.
        ServiceError: from every method, when the server stops answering.
    """

    def __init__(self, config: Config, run_id: str) -> None:
        _refuse_untracked(config, run_id)
        self.config = config
        self.run_id = run_id
        self._client = _client(config) if run_id else None

    def check(self, name: str = "--run-id") -> str:
        """Check that the run exists, and return its status; "" when there is no run to log into.

        Args:
            name: how whoever is told that there is no such run has given it.

        Raises:
            UserError: no such run, or no MLflow server at the address.
        """
        if self._client is None:
            return ""
        check_server(self.config)
        with mlflow_errors(self.config):
            return str(_existing(self._client, self.run_id, name).info.status)

    def begin(self) -> None:
        """Check that the run exists and mark it RUNNING: a retried stage brings a failed run back.

        Raises:
            UserError: no such run, or no MLflow server at the address.
        """
        self.check()
        if self._client is not None:
            with mlflow_errors(self.config):
                _reopen(self._client, self._client.get_run(self.run_id))

    def open_child(self, config: Config, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> RunLog:
        """Open a run nested in this one, with its own configuration; it inherits what this one says of its origin.

        Args:
            config: merged configuration of the child, kept as its artifact.
            params: what tells it from its siblings.
        """
        if self._client is None:
            return RunLog(config, "")
        with mlflow_errors(self.config):
            parent = self._client.get_run(self.run_id)
            inherited = {key: value for key, value in parent.data.tags.items() if key in ORIGIN}
            child = self._client.create_run(parent.info.experiment_id, tags={PARENT: self.run_id}, run_name=name)
            origin = {"configuration_hash": configuration_hash(config)}
            _set_tags(self._client, child.info.run_id, inherited | origin | dict(tags))
            _log_params(self._client, child, params)
            _log_text(self._client, child.info.run_id, to_yaml(config), CONFIG_ARTIFACT)
        return RunLog(config, child.info.run_id)

    def running(self, tags: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Tags by id of every RUNNING run of this run's experiment that carries `tags`."""
        if self._client is None:
            return {}
        wanted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        query = " and ".join([f"attributes.status = '{_RUNNING}'", *wanted])
        found: dict[str, dict[str, str]] = {}
        with mlflow_errors(self.config):
            experiment = self._client.get_run(self.run_id).info.experiment_id
            token: str | None = None
            while token != "":
                page = self._client.search_runs([experiment], query, page_token=token)
                found |= {run.info.run_id: dict(run.data.tags) for run in page}
                token = page.token or ""
        return found

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        if self._client is not None and values:
            now = int(time.time() * 1_000)
            entries = [Metric(name, float(value), now, step) for name, value in values.items()]
            with mlflow_errors(self.config):
                for first in range(0, len(entries), METRIC_BATCH):
                    self._client.log_batch(self.run_id, metrics=entries[first : first + METRIC_BATCH])

    def tags(self, values: Mapping[str, str]) -> None:
        if self._client is not None and values:
            with mlflow_errors(self.config):
                _set_tags(self._client, self.run_id, values)

    def tag(self, name: str) -> str:
        """Value of a tag, "" when the run does not have it or there is no run."""
        if self._client is None:
            return ""
        with mlflow_errors(self.config):
            return str(self._client.get_run(self.run_id).data.tags.get(name, ""))

    def metric(self, name: str) -> float | None:
        """Latest value of a metric, None when the run does not have it or there is no run."""
        if self._client is None:
            return None
        with mlflow_errors(self.config):
            return self._client.get_run(self.run_id).data.metrics.get(name)

    def close(self, status: str, reason: str = "") -> None:
        """End the run as FINISHED, FAILED or KILLED, for `reason`."""
        close_run(self.config, self.run_id, status, reason)

    def artifact(self, path: Path, folder: str) -> None:
        """Copy a file into artifact folder `folder`."""
        if self._client is not None:
            with mlflow_errors(self.config):
                self._client.log_artifact(self.run_id, str(path), folder)

    def artifacts(self, path: Path, folder: str) -> None:
        """Copy everything in a local folder into artifact folder `folder`."""
        if self._client is not None:
            with mlflow_errors(self.config):
                self._client.log_artifacts(self.run_id, str(path), folder)

    def holds(self, artifact: str) -> bool:
        """Whether the run has this artifact, a file or a folder."""
        if self._client is None:
            return False
        with mlflow_errors(self.config):
            entries = self._client.list_artifacts(self.run_id, artifact.rpartition("/")[0] or None)
        return artifact in {entry.path for entry in entries}

    def download(self, artifact: str, target: Path) -> Path:
        """Fetch one artifact file to `target / artifact`, where it appears whole, and return that path.

        Raises:
            UserError: no such run or artifact, or no MLflow server at the address.
        """
        path = target / artifact
        with self._fetched(artifact, target) as fetched:
            path.parent.mkdir(parents=True, exist_ok=True)
            return fetched.replace(path)

    def download_folder(self, artifact: str, target: Path) -> Path:
        """Fetch an artifact folder to `target / artifact`, all or nothing in place of what was there; return that path.

        Raises:
            UserError: no such run or artifact, or no MLflow server at the address.
        """
        from transformer.files import atomic_folder  # imports polars, which the Airflow image does not hold

        path = target / artifact
        with self._fetched(artifact, target) as fetched, atomic_folder(path, replace=True) as temporary:
            fetched.rename(temporary)
        return path

    @contextmanager
    def _fetched(self, artifact: str, target: Path) -> Iterator[Path]:
        """An artifact in a temporary folder on the disk of `target`."""
        if self._client is None:
            raise ValueError("there is no run to download from")
        check_server(self.config)  # of a warm start, this is the first request
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as temporary:
            with mlflow_errors(self.config):
                _existing(self._client, self.run_id, "MLflow run")
                if not self.holds(artifact):
                    raise UserError(f"MLflow run {self.run_id} holds no {artifact}; did its training finish an epoch?")
                fetched = Path(self._client.download_artifacts(self.run_id, artifact, temporary))
            yield fetched


@contextmanager
def mlflow_errors(config: Config) -> Iterator[None]:
    """Turn whatever MLflow and the network raise into one line that names the server.

    Raises:
        ServiceError: for anything but a UserError.
    """
    try:
        yield
    except (UserError, ServiceError):
        raise
    except Exception as error:  # its own text may hold the whole address, so it is not chained
        raise ServiceError(f"MLflow at {public_address(config)}: {_reason(error)}") from None


def _refuse_untracked(config: Config, *run_ids: str | None) -> None:
    if any(run_ids) and not config.training.mlflow.use_mlflow:
        raise UserError("training.mlflow.use_mlflow=false knows no runs; leave run ids out or switch it on")


def _client(config: Config) -> MlflowClient:
    for name, value in _HTTP_SETTINGS.items():
        os.environ.setdefault(name, value)
    # When a run ends, MLflow prints its address, password included.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    uri = config.training.mlflow.tracking_uri
    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as error:
        raise UserError(
            f"training.mlflow.tracking_uri={public_address(config)} cannot be used ({_reason(error)}); "
            "give a server's address such as http://127.0.0.1:5000, or sqlite:///mlflow.db"
        ) from None


def _existing(client: MlflowClient, run_id: str, name: str) -> Run:
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


def _reopen(client: MlflowClient, run: Run) -> None:
    """Mark a run RUNNING that may have ended; why it once failed is no longer true."""
    client.update_run(run.info.run_id, status=_RUNNING)
    if FAILURE_REASON in run.data.tags:
        client.delete_tag(run.info.run_id, FAILURE_REASON)


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # made by another run in the same instant
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise UserError(f"MLflow experiment {name!r} was deleted; restore it or set training.mlflow.experiment_name")
    return str(found.experiment_id)


def _log_params(client: MlflowClient, run: Run, values: Mapping[str, Any]) -> None:
    known = set(run.data.params)
    params = [Param(key, _shortened(str(value))) for key, value in values.items() if key not in known]
    for first in range(0, len(params), BATCH):
        client.log_batch(run.info.run_id, params=params[first : first + BATCH])


def _shortened(text: str) -> str:
    """What the server takes as a param; the whole of it stands in the configuration artifact."""
    return text if len(text) <= PARAM_LENGTH else text[: PARAM_LENGTH - 1] + "…"


def _set_tags(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    tags = [RunTag(key, redact(str(value))) for key, value in values.items()]
    client.log_batch(run_id, tags=tags)


def _log_text(client: MlflowClient, run_id: str, text: str, artifact: str) -> None:
    folder, _, name = artifact.rpartition("/")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        path.write_text(text, encoding="utf-8")
        client.log_artifact(run_id, str(path), folder)


def _reason(error: BaseException) -> str:
    """First line of the first cause: "Connection refused" says more than the request that met it."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    text = str(error).strip() or type(error).__name__
    return str(redact(text.splitlines()[0][:200]))
