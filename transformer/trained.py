"""A trained model with everything that it predicts from, as its run keeps it."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import polars as pl
import torch

from transformer.config import Config, with_values
from transformer.data.events import Split, format_dates
from transformer.embeddings import extend
from transformer.errors import UserError
from transformer.evaluation.drift import EventProfile
from transformer.inputs import INPUTS, TrainingInputs, model_values
from transformer.model.module import DelayModule
from transformer.precomputed import Embeddings
from transformer.statistics import Statistics
from transformer.tracking import CONFIG_ARTIFACT, RunLog
from transformer.training import BEST, CHECKPOINTS, load_module, point_embeddings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """The best checkpoint of a run, and the inputs of its training."""

    config: Config  # the run's own as far as it makes the model (`inputs.MODEL_KEYS`), everything else by default
    split: Split
    module: DelayModule
    statistics: Statistics
    embeddings: Embeddings
    reference: EventProfile | None  # of the training dates, to measure drift against

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a run folder, or a copy of the run's artifacts; see `inputs` for the layout.

        Raises:
            UserError: missing or damaged files, or files that are not of one training.
        """
        module = load_module(folder / CHECKPOINTS / BEST)
        inputs = TrainingInputs.load(folder)
        if module.network.shape.op_ids != inputs.statistics.vocabulary.op_ids.tolist():
            raise UserError(f"{folder}: checkpoint and statistics are of different trainings; train the model again")
        return cls(inputs.config, inputs.split, module, inputs.statistics, inputs.embeddings, inputs.reference)

    def located(self, here: Config) -> Config:
        """The run's own configuration, with data, servers and everything else that makes no model where `here` says.

        `data.split` names the dates that the run resolved. What differs from `here` is logged.
        """
        own, given = model_values(self.config), model_values(here)
        differing = [f"{key}={value} (given: {given[key]})" for key, value in own.items() if value != given[key]]
        if differing:
            log.info("configuration: what the model was trained with counts: %s", ", ".join(differing))
        days = {f"data.split.{name}": format_dates(getattr(self.split, name)) for name in self.split.as_dict()}
        return with_values(here, {**own, **days}, "configuration of the run")

    def module_for(self, timetable_edges: pl.DataFrame) -> DelayModule:
        """The module for another timetable: points that had no vector get one from their neighbours in it.

        Args:
            timetable_edges: `graph.edge_counts` of the dates to predict.
        """
        module = copy.deepcopy(self.module)
        points = extend(point_embeddings(module), timetable_edges)
        module.network.point_vectors = torch.from_numpy(points.matrix(self.statistics.vocabulary.op_ids))
        return module


def download_trained(run: RunLog, folder: Path) -> TrainedModel:
    """The trained model of an MLflow run, its files fetched into `folder`.

    Raises:
        UserError: no such run, no training of this program, no finished epoch, or a run that keeps no inputs.
    """
    best = f"{CHECKPOINTS}/{BEST}"
    if not run.holds(CONFIG_ARTIFACT) and not run.holds(best):
        raise UserError(
            f"MLflow run {run.run_id} is no training of this program: it holds no {CONFIG_ARTIFACT}; "
            "name a run that train-model has logged into"
        )
    run.download(best, folder)
    if not run.holds(INPUTS):
        raise UserError(
            f"MLflow run {run.run_id} holds no {INPUTS}/: it is of an older training; train again, "
            f"or add them with `train-model --run-id {run.run_id} --resume` and the configuration of the run"
        )
    run.download(CONFIG_ARTIFACT, folder)
    run.download_folder(INPUTS, folder)
    return TrainedModel.load(folder)
