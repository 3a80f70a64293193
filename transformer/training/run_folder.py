"""The inputs of a training, stored with its checkpoints. To use the model, no cache and no training data are needed.

Layout, the same in a run's local folder and in its MLflow artifacts: `config/config.yaml`, `checkpoints/best.ckpt`,
`inputs/split.json`, `inputs/reference.json`, `inputs/statistics/` and `inputs/embeddings/`.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Self

import polars as pl
import torch
import yaml

from transformer.config import Config, flatten, read_value, to_dict, to_yaml, with_values
from transformer.data.dates import Split
from transformer.data.profile import EventProfile, load_profile, save_profile
from transformer.errors import UserError
from transformer.features.cache import Embeddings
from transformer.features.embeddings import FORMER_KEYS, extend
from transformer.features.statistics import Statistics, load_statistics, save_statistics
from transformer.files import atomic_folder, read_json, write_json, write_text
from transformer.model.module import DelayModule
from transformer.tracking.names import CONFIG_ARTIFACT
from transformer.tracking.run_log import RunLog
from transformer.training.checkpoints import BEST, CHECKPOINTS, load_module, point_embeddings

log = logging.getLogger(__name__)


INPUTS = "inputs"
REFERENCE = "reference.json"
# Keys that define a model and its inputs. Locations of data and servers, and hardware, are not among them.
MODEL_KEYS = (
    "data.timezone", "data.split.", "data.validation.", "data.snapshot.", "data.grid.", "data.statistics.",
    "embeddings.", "model.",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingInputs:
    """Configuration, service dates, statistics and embeddings of one training, and a profile of its data."""

    config: Config
    split: Split
    statistics: Statistics
    embeddings: Embeddings
    reference: EventProfile | None  # profile of the training dates; None in an older training

    def save(self, folder: Path) -> None:
        """Write the inputs into the run folder `folder`, in place of earlier ones."""
        write_text(folder / CONFIG_ARTIFACT, to_yaml(self.config))
        with atomic_folder(folder / INPUTS, replace=True) as temporary:
            write_json(temporary / "split.json", self.split.as_dict())
            if self.reference is not None:
                save_profile(self.reference, temporary / REFERENCE)
            save_statistics(self.statistics, temporary / "statistics")
            self.embeddings.save(temporary / "embeddings")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the files of `save`. The configuration has the saved MODEL_KEYS; all other keys have their defaults.

        Raises:
            UserError: missing or damaged files.
        """
        inputs = folder / INPUTS
        if not inputs.is_dir():
            raise UserError(f"{folder} holds no {INPUTS}/, since an older release trained it; train the model again")
        days = read_json(inputs / "split.json")
        profile = inputs / REFERENCE
        return cls(
            config=_read_config(folder / CONFIG_ARTIFACT),
            split=Split(*(tuple(map(date.fromisoformat, days[name])) for name in ("train", "validation", "test"))),
            statistics=load_statistics(inputs / "statistics"),
            embeddings=Embeddings.load(inputs / "embeddings"),
            reference=load_profile(profile) if profile.is_file() else None,
        )


def model_values(config: Config) -> dict[str, object]:
    """The MODEL_KEYS of a configuration."""
    return {key: value for key, value in flatten(to_dict(config)).items() if key.startswith(MODEL_KEYS)}


def _read_config(path: Path) -> Config:
    try:
        values = flatten(read_value(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; train the model again") from None
    except (yaml.YAMLError, ValueError, AttributeError):
        raise UserError(f"{path} is not a configuration; train the model again") from None
    kept = {
        key: value for key, value in values.items() if key.startswith(MODEL_KEYS) and not key.startswith(FORMER_KEYS)
    }
    return with_values(Config(), kept, str(path))


@dataclass(frozen=True)
class TrainedModel:
    """The best checkpoint of a run, and the inputs of its training."""

    config: Config  # the run's values for MODEL_KEYS, defaults for all other keys
    split: Split
    module: DelayModule
    statistics: Statistics
    embeddings: Embeddings
    reference: EventProfile | None  # of the training dates, to measure drift against

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a run folder, or a copy of the run's artifacts. The module's docstring describes the layout.

        Raises:
            UserError: missing or damaged files, or files of different trainings.
        """
        module = load_module(folder / CHECKPOINTS / BEST)
        inputs = TrainingInputs.load(folder)
        if module.network.shape.op_ids != inputs.statistics.vocabulary.op_ids.tolist():
            raise UserError(f"{folder}: checkpoint and statistics are from different trainings; train the model again")
        return cls(inputs.config, inputs.split, module, inputs.statistics, inputs.embeddings, inputs.reference)

    def located(self, here: Config) -> Config:
        """The configuration `here` (locations of data and servers, for example), with the run's values of MODEL_KEYS.

        `data.split` names the dates that the run resolved. Differences from `here` are logged.
        """
        own, given = model_values(self.config), model_values(here)
        differing = [f"{key}={value} (given: {given[key]})" for key, value in own.items() if value != given[key]]
        if differing:
            log.info("configuration: the values of the training are used: %s", ", ".join(differing))
        return with_values(here, {**own, **self.split.as_values()}, "configuration of the run")

    def module_for(self, timetable_edges: pl.DataFrame) -> DelayModule:
        """The module for another timetable. Points without a vector get one from their neighbours in that timetable.

        Args:
            timetable_edges: `graph.edge_counts` of the dates to predict.
        """
        module = copy.deepcopy(self.module)
        points = extend(point_embeddings(module), timetable_edges)
        module.network.point_vectors = torch.from_numpy(points.matrix(self.statistics.vocabulary.op_ids))
        return module


def download_trained(run: RunLog, folder: Path) -> TrainedModel:
    """Fetch the files of an MLflow run into `folder`, and load the trained model from there.

    Raises:
        UserError: the run does not exist, is no training of this program, or lacks a finished epoch or its inputs.
    """
    best = f"{CHECKPOINTS}/{BEST}"
    if not run.holds(CONFIG_ARTIFACT) and not run.holds(best):
        raise UserError(
            f"MLflow run {run.run_id} is not a training of this program: it holds no {CONFIG_ARTIFACT}; "
            "name a run that train-model has logged into"
        )
    run.download(best, folder)
    if not run.holds(INPUTS):
        raise UserError(
            f"MLflow run {run.run_id} holds no {INPUTS}/, since an older release trained it; train again, "
            f"or add them with `train-model --run-id {run.run_id} --resume` and the configuration of the run"
        )
    run.download(CONFIG_ARTIFACT, folder)
    run.download_folder(INPUTS, folder)
    return TrainedModel.load(folder)
