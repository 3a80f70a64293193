"""Make a trained model a version of the registered model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from transformer.registry.logged import log_trained
from transformer.registry.versions import CHALLENGER, DECISION, ModelVersions, Registered
from transformer.tracking.names import DATA_LICENCES, MODEL_VERSION
from transformer.tracking.run_log import RunLog

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)


def register(run: RunLog, folder: Path, example: pl.DataFrame) -> Registered:
    """Make a run's trained model a version with the alias `challenger`. A second call registers nothing new.

    Args:
        folder: the trained model, in the layout of a run folder; see `training.run_folder`.
        example: events (EVENT_SCHEMA); a few of them become the input example.

    Raises:
        UserError: there is no such trained model, or no MLflow server answers at the address.
        ServiceError: the server stopped answering, or this process lost the lock on the registry.
    """
    from transformer.registry.package import content_of  # needs torch, which a process without training may lack

    content = content_of(folder)
    with ModelVersions.open(run.config) as models:
        known = models.of_content(run.run_id, content)
    # The training has logged its model, unless an earlier release trained it.
    model_id = known.model_id if known else log_trained(run, folder, example)
    with ModelVersions.open(run.config) as models, models.locked(f"registering run {run.run_id}"):
        registered = models.of_content(run.run_id, content) or models.create(run.run_id, content, model_id, _card(run))
        if registered.version == models.newest() and DECISION not in registered.tags:
            models.name(CHALLENGER, registered.version)
    log.info("registered as version %d of model %s", registered.version, models.model_name)
    return registered


def describe_version(run: RunLog) -> None:
    """Write the description of the version that a run's model became, if it did, from the results that the run has."""
    if version := run.get_tag(MODEL_VERSION):
        with ModelVersions.open(run.config) as models:
            models.describe(version, _card(run))


def _card(run: RunLog) -> str:
    """The text that MLflow's page of a version shows: the results of the model, and where its data come from."""
    licences = run.get_tag(DATA_LICENCES)
    return run.results() + (f"\n\nData:\n\n{licences}" if licences else "")
