"""MLflow's logged models: a packed model that is linked to the run that made it, and that has metrics of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from transformer.config import Config
from transformer.tracking.client import connect, mlflow_errors
from transformer.tracking.names import DESCRIPTION, SOURCE_COMMIT, SOURCE_NAME, SOURCE_TYPE, USER, run_page

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

    from transformer.tracking.patient_client import PatientClient

CONTENT = "content"  # tag: hash of the trained model's files
KIND = "transformer"  # MLflow shows it as the type of the model


@dataclass(frozen=True)
class Scored:
    """The logged model that metrics belong to, and the dataset on which they were measured."""

    model_id: str
    dataset: str
    digest: str


def find_model(config: Config, run_id: str, content: str) -> str:
    """The id of a run's logged model with this content; "" if there is none, as in a run of an earlier release."""
    with mlflow_errors(config):
        found = [model for model in _models(config, run_id) if model.tags.get(CONTENT) == content]
        return next((str(model.model_id) for model in found if model.status == "READY"), "")


def log_model(config: Config, run_id: str, folder: Path, content: str, params: Mapping[str, str]) -> str:
    """Make a packed model the logged model of a run, and return its id.

    A try that ended before the model was complete is continued.

    Args:
        folder: the packed model.
        content: hash of the trained model's files.
        params: settings of the model, at most 100.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    client = connect(config)
    with mlflow_errors(config):
        run = client.get_run(run_id)
        begun = [model for model in _models(config, run_id) if model.tags.get(CONTENT) == content]
        model = begun[0] if begun else client.create_logged_model(
            run.info.experiment_id,
            config.evaluation.registry.model_name,
            run_id,
            tags={CONTENT: content, **_origin(run)},
            params=dict(params),
            model_type=KIND,
        )  # fmt: skip
        client.set_logged_model_tags(model.model_id, {DESCRIPTION: _card(run, model.model_id)})
        client.log_model_artifacts(model.model_id, str(folder))
        linked = run.outputs.model_outputs if run.outputs else []
        if model.model_id not in {output.model_id for output in linked}:
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_id)


def _origin(run: Run) -> dict[str, str]:
    """The tags of a run that the page of its model shows as well."""
    return {key: run.data.tags[key] for key in (USER, SOURCE_NAME, SOURCE_TYPE, SOURCE_COMMIT) if key in run.data.tags}


def _card(run: Run, model_id: str) -> str:
    """The description that the page of a logged model shows."""
    page = run_page("", run.info.experiment_id, run.info.run_id).removeprefix("/")
    load = f'mlflow.pyfunc.load_model("models:/{model_id}")'
    return f"The best epoch of [{run.info.run_name}]({page}). Load it with `{load}`."


def model_location(config: Config, model_id: str) -> str:
    """The address of a logged model's files."""
    with mlflow_errors(config):
        return str(connect(config).get_logged_model(model_id).artifact_location)


def download_model(config: Config, model_id: str, part: str, target: Path) -> Path:
    """Fetch a folder of a logged model's files into the folder `target`, and return the copy's path."""
    address = f"{model_location(config, model_id)}/{part}"
    client = cast("PatientClient", connect(config))
    with mlflow_errors(config):
        return Path(client.download_from(address, str(target)))


def _models(config: Config, run_id: str) -> list[LoggedModel]:
    client = connect(config)
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_logged_models([experiment], f"source_run_id = '{run_id}'"))
