"""Write into and read from one MLflow run."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer.config import Config, to_yaml
from transformer.errors import ServiceError, UserError
from transformer.files import atomic_folder
from transformer.text import redact
from transformer.tracking.client import (
    ENDED,
    FINISHED,
    RUNNING,
    check_server,
    connect,
    copy_tag,
    download,
    existing_run,
    has_artifact,
    log_params,
    log_text,
    metric_name,
    mlflow_errors,
    read_tag,
    refuse_untracked,
    reopen,
    set_tags,
)
from transformer.tracking.datasets import EventTables, context_of, dataset_input
from transformer.tracking.description import describe, headline, newest_windows, results
from transformer.tracking.json_tags import json_tag
from transformer.tracking.logged_models import Scored
from transformer.tracking.names import CONFIG_ARTIFACT, FAILURE_REASON, ORIGIN, PARENT
from transformer.tracking.runs import close_run, configuration_hash

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

log = logging.getLogger(__name__)

METRIC_BATCH = 1_000  # metrics in one request, the server's limit


class RunLog:
    """Writes into one MLflow run. With an empty run id it writes nothing, so callers need no check.

    Raises:
        UserError: there is a run id although `training.mlflow.use_mlflow` is false.
        ServiceError: the server stops answering; every method can raise it.
    """

    def __init__(self, config: Config, run_id: str) -> None:
        refuse_untracked(config, run_id)
        self.config = config
        self.run_id = run_id
        self._client = connect(config) if run_id else None
        self._exists = False  # True once the server has answered that it has the run

    def check(self, name: str = "--run-id") -> str:
        """Check that the run exists, and return its status; "" if there is no run to log into.

        Args:
            name: the option that gave the run id; the error names it.

        Raises:
            UserError: no such run, or no MLflow server at the address.
        """
        if self._client is None:
            return ""
        check_server(self.config)
        with mlflow_errors(self.config):
            return str(existing_run(self._client, self.run_id, name).info.status)

    @contextmanager
    def running_stage(self, finishes: bool) -> Iterator[None]:
        """Check that the run exists, and mark it as RUNNING while the block runs.

        A run that was RUNNING stays RUNNING, because the last task of its DAG run closes it. Nobody else closes a run
        that had ended: after the block it has its former status and reason again.

        Args:
            finishes: a run that had ended is FINISHED if the block succeeds, since it then has what it lacked.

        Raises:
            UserError: no such run, or no MLflow server at the address.
        """
        status = self.check()
        reason = self.get_tag(FAILURE_REASON)
        if self._client is not None:
            with mlflow_errors(self.config):
                reopen(self._client, self._client.get_run(self.run_id))
        succeeded = False
        try:
            yield
            succeeded = True
        finally:
            if status in ENDED:
                self._end_again(succeeded, *((FINISHED, "") if succeeded and finishes else (status, reason)))

    def _end_again(self, succeeded: bool, status: str, reason: str) -> None:
        try:
            self.close(status, reason)
        except ServiceError as error:
            if succeeded:
                raise
            log.warning("MLflow run %s stays RUNNING: %s", self.run_id, error)  # the failure of the stage says more

    def open_child(
        self,
        config: Config,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        contexts: Collection[str] = (),
        inherits: Collection[str] = ORIGIN,
    ) -> RunLog:
        """Open a run nested in this one, with its own configuration.

        Args:
            config: merged configuration of the child, kept as its artifact.
            params: the values that differ between the children.
            tags: short tags of the child.
            contexts: the child inherits the datasets of this run that have these contexts.
            inherits: the child inherits these tags of this run.
        """
        if self._client is None:
            return RunLog(config, "")
        with mlflow_errors(self.config):
            parent = self._client.get_run(self.run_id)
            # A process that is killed right after this leaves a child that can be found by its tags.
            found_by = {PARENT: self.run_id, **{key: str(redact(value)) for key, value in tags.items()}}
            child = self._client.create_run(parent.info.experiment_id, tags=found_by, run_name=name)
            inherited = {
                key: copy_tag(self._client, parent, key, child.info.run_id)
                for key in inherits
                if key in parent.data.tags
            }
            origin = {"configuration_hash": configuration_hash(config)}
            set_tags(self._client, child.info.run_id, inherited | origin)
            log_params(self._client, child, params)
            log_text(self._client, child.info.run_id, to_yaml(config), CONFIG_ARTIFACT)
            if datasets := [used for used in _datasets(parent) if context_of(used) in contexts]:
                self._client.log_inputs(child.info.run_id, datasets)
        return RunLog(config, child.info.run_id)

    def running(self, tags: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Tags of every RUNNING run of this run's experiment that has `tags`, by run id. Long values are not read."""
        if self._client is None:
            return {}
        alike = _with_tags(tags)
        with mlflow_errors(self.config):
            runs = self._search(f"attributes.status = '{RUNNING}'{alike}")
            return {run.info.run_id: dict(run.data.tags) for run in runs}

    def find_child(self, tags: Mapping[str, str]) -> RunLog | None:
        """The newest run nested in this one that has `tags`; None if there is none.

        Args:
            tags: the value of each tag; "" = any value.
        """
        if self._client is None:
            return None
        with mlflow_errors(self.config):
            found = self._search(f"tags.`{PARENT}` = '{self.run_id}'{_with_tags(tags)}")
        return RunLog(self.config, found[0].info.run_id) if found else None

    def _search(self, query: str) -> list[Run]:
        """The runs of this run's experiment that a query finds, the newest first."""
        assert self._client is not None
        experiment = self._client.get_run(self.run_id).info.experiment_id
        found: list[Run] = []
        token: str | None = None
        while token != "":
            page = self._client.search_runs([experiment], query, page_token=token)
            found += page
            token = page.token or ""
        return found

    def log_metrics(self, values: Mapping[str, float], step: int = 0, scored: Scored | None = None) -> None:
        """Log metrics. A name that is too long for the server is shortened, see `client.metric_name`.

        Args:
            scored: the logged model and the dataset that the metrics belong to as well.
        """
        if self._client is not None and values:
            from mlflow.entities import Metric

            now = int(time.time() * 1_000)
            of = (scored.model_id, scored.dataset, scored.digest) if scored else ()
            entries = [Metric(metric_name(name), float(value), now, step, *of) for name, value in values.items()]
            with mlflow_errors(self.config):
                for first in range(0, len(entries), METRIC_BATCH):
                    self._client.log_batch(self.run_id, metrics=entries[first : first + METRIC_BATCH])

    def log_datasets(self, tables: Sequence[EventTables]) -> bool:
        """Name event tables as datasets of the run, if it does not name them yet, and return whether any is new."""
        if self._client is None:
            return False
        with mlflow_errors(self.config):
            used_before = _datasets(self._client.get_run(self.run_id))
            known = {(used.dataset.name, used.dataset.digest) for used in used_before}
            inputs = [dataset_input(entry, self.config.data) for entry in tables]
            if new := [used for used in inputs if (used.dataset.name, used.dataset.digest) not in known]:
                self._client.log_inputs(self.run_id, new)
        return bool(new)

    def log_model_input(self, model_id: str) -> None:
        """Name a logged model as an input of the run."""
        if self._client is not None:
            from mlflow.entities import LoggedModelInput

            with mlflow_errors(self.config):
                inputs = self._client.get_run(self.run_id).inputs
                if model_id not in {used.model_id for used in (inputs.model_inputs if inputs else [])}:
                    self._client.log_inputs(self.run_id, models=[LoggedModelInput(model_id)])

    def set_tags(self, values: Mapping[str, str]) -> None:
        if self._client is not None and values:
            with mlflow_errors(self.config):
                set_tags(self._client, self.run_id, values)

    def set_json_tag(self, name: str, value: Any, shown: str) -> None:
        """Keep a JSON value, which `get_json_tag` reads.

        Args:
            shown: the value in words, for people who look at the tag.
        """
        if self._client is not None:
            with mlflow_errors(self.config):
                set_tags(self._client, self.run_id, {name: json_tag(self._client, self.run_id, name, value, shown)})

    def describe(self) -> None:
        """Write the description of the run anew, see `description.describe`."""
        if self._client is not None:
            with mlflow_errors(self.config):
                describe(self._client, self.run_id, self.config.evaluation.registry.model_name)

    def results(self) -> str:
        """The results of a training's model as Markdown: the best known one in a line, and a table of all."""
        if self._client is None:
            return ""
        with mlflow_errors(self.config):
            run = self._client.get_run(self.run_id)
            line = headline(run)
            return f"{line[0].upper()}{line[1:]}.\n\n{results(run, newest_windows(self._client, run))}"

    def get_tag(self, name: str) -> str:
        """Value of a tag, of any length; "" if the run lacks it or there is no run."""
        if self._client is None:
            return ""
        with mlflow_errors(self.config):
            return read_tag(self._client, self._client.get_run(self.run_id), name)

    def get_json_tag(self, name: str) -> Any:
        """The JSON value of a tag; None if the run lacks the tag or there is no run.

        Raises:
            UserError: the tag is not JSON.
        """
        text = self.get_tag(name)
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise self.unusable_tag(name) from None

    def unusable_tag(self, name: str) -> UserError:
        """The refusal of a tag with a value that this program did not write."""
        return UserError(
            f"MLflow run {self.run_id}: the tag {name!r} does not hold what this program wrote; "
            "restore its value, or delete it and run the stage again that sets it"
        )

    def get_metric(self, name: str) -> float | None:
        """Latest value of a metric; None if the run lacks it or there is no run."""
        if self._client is None:
            return None
        with mlflow_errors(self.config):
            return self._client.get_run(self.run_id).data.metrics.get(metric_name(name))

    def close(self, status: str, reason: str = "") -> None:
        """End the run as FINISHED, FAILED or KILLED, and record `reason`."""
        close_run(self.config, self.run_id, status, reason)

    def log_artifact(self, path: Path, folder: str) -> None:
        """Copy a file into artifact folder `folder`."""
        if self._client is not None:
            with mlflow_errors(self.config):
                self._client.log_artifact(self.run_id, str(path), folder)

    def log_artifacts(self, path: Path, folder: str) -> None:
        """Copy everything in a local folder into artifact folder `folder`."""
        if self._client is not None:
            with mlflow_errors(self.config):
                self._client.log_artifacts(self.run_id, str(path), folder)

    def holds(self, artifact: str) -> bool:
        """Whether the run has this artifact, which is a file or a folder."""
        if self._client is None:
            return False
        with mlflow_errors(self.config):
            return has_artifact(self._client, self.run_id, artifact)

    def download(self, artifact: str, target: Path) -> Path:
        """Fetch one artifact file to `target / artifact`, and return that path. The file appears only when complete.

        Raises:
            UserError: no such run or artifact, or no MLflow server at the address.
        """
        path = target / artifact
        with self._fetched(artifact, target) as fetched:
            path.parent.mkdir(parents=True, exist_ok=True)
            return fetched.replace(path)

    def download_folder(self, artifact: str, target: Path) -> Path:
        """Fetch an artifact folder to `target / artifact`, and return that path. It replaces the old folder as a whole.

        Raises:
            UserError: no such run or artifact, or no MLflow server at the address.
        """
        path = target / artifact
        with self._fetched(artifact, target) as fetched, atomic_folder(path, replace=True) as temporary:
            fetched.rename(temporary)
        return path

    @contextmanager
    def _fetched(self, artifact: str, target: Path) -> Iterator[Path]:
        """An artifact in a temporary folder on the disk of `target`."""
        if self._client is None:
            raise ValueError("no run to download from")
        if not self._exists:
            check_server(self.config)  # in a warm start, this is the first request to the server
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as temporary:
            with mlflow_errors(self.config):
                if not self._exists:
                    existing_run(self._client, self.run_id, "MLflow run")
                    self._exists = True
                if not self.holds(artifact):
                    raise UserError(f"MLflow run {self.run_id} holds no {artifact}; did its training finish an epoch?")
                fetched = download(self._client, self.run_id, artifact, temporary)
            yield fetched


def _with_tags(tags: Mapping[str, str]) -> str:
    """The end of a query for runs that have these tags; "" = any value."""
    compared = {key: f"= '{value}'" if value else "LIKE '%'" for key, value in tags.items()}
    return "".join(f" and tags.`{key}` {comparison}" for key, comparison in compared.items())


def _datasets(run: Run) -> list[DatasetInput]:
    return list(run.inputs.dataset_inputs) if run.inputs else []
