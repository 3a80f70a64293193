"""What a training was given, kept with its checkpoints: whoever uses the model needs no cache and no training data.

Layout, the same in a run's local folder and among its MLflow artifacts: `config/config.yaml`, `checkpoints/best.ckpt`,
`inputs/split.json`, `inputs/reference.json`, `inputs/statistics/` and `inputs/embeddings/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Self

import yaml

from transformer.config import Config, flatten, read_value, to_dict, to_yaml, with_values
from transformer.data.events import Split
from transformer.errors import UserError
from transformer.evaluation.drift import EventProfile, load_profile, save_profile
from transformer.files import atomic_folder, read_json, write_json, write_text
from transformer.precomputed import Embeddings
from transformer.statistics import Statistics, load_statistics, save_statistics
from transformer.tracking import CONFIG_ARTIFACT

INPUTS = "inputs"
REFERENCE = "reference.json"
# What makes a model and its inputs; where data and servers are, and what runs where, is no part of it.
MODEL_KEYS = (
    "data.timezone", "data.split.", "data.validation.", "data.snapshot.", "data.grid.", "data.statistics.",
    "embeddings.", "model.",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingInputs:
    """Configuration, service dates, statistics and embeddings of one training, and what its data were like."""

    config: Config
    split: Split
    statistics: Statistics
    embeddings: Embeddings
    reference: EventProfile | None  # of the training dates; None where an older training kept none

    def save(self, folder: Path) -> None:
        """Write them into the run folder `folder`, in place of earlier ones."""
        write_text(folder / CONFIG_ARTIFACT, to_yaml(self.config))
        with atomic_folder(folder / INPUTS, replace=True) as temporary:
            write_json(temporary / "split.json", self.split.as_dict())
            if self.reference is not None:
                save_profile(self.reference, temporary / REFERENCE)
            save_statistics(self.statistics, temporary / "statistics")
            self.embeddings.save(temporary / "embeddings")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; of the configuration the MODEL_KEYS, everything else by default.

        Raises:
            UserError: missing or damaged files.
        """
        inputs = folder / INPUTS
        if not inputs.is_dir():
            raise UserError(f"{folder} holds no {INPUTS}/: it is of an older training; train the model again")
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
        raise UserError(f"{path} is no configuration; train the model again") from None
    return with_values(Config(), {key: value for key, value in values.items() if key.startswith(MODEL_KEYS)}, str(path))
