"""The settings that may differ when a training is resumed, and the refusal of other changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from transformer.config import Config, flatten, to_dict
from transformer.data.dates import Split
from transformer.errors import UserError
from transformer.features.embeddings import FORMER_KINDS
from transformer.text import first_line
from transformer.training.callbacks import History

# A resumed training may run elsewhere and on other hardware, but must compute the same.
_FREE_ON_RESUME = (
    "data.local_folder", "data.bucket_", "data.endpoint_url", "data.download_", "data.save_", "data.split.",
    "evaluation.", "search.", "compute.", "paths.",
    "training.accelerator", "training.devices", "training.strategy", "training.num_workers", "training.log_every_s",
    "training.allow_changes_on_resume", "training.use_precomputed.", "training.mlflow.",
)  # fmt: skip


def training_identity(config: Config, split: Split) -> dict[str, str]:
    """The values that must be the same when a training is resumed: configuration that matters, and service dates."""
    values = {key: str(value) for key, value in flatten(to_dict(config)).items()}
    kept = {key: value for key, value in values.items() if not key.startswith(_FREE_ON_RESUME)}
    return {**kept, **{f"data.split.{name}": ", ".join(days) for name, days in split.as_dict().items()}}


def changed_settings(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """`key: before → now` for each setting of two identities that differs, sorted by key.

    A kind of embeddings that an earlier program knew and did not compute changes nothing.
    """
    off = tuple(f"embeddings.{kind}." for kind in FORMER_KINDS if before.get(f"embeddings.{kind}.enabled") == "False")
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return [
        f"{key}: {before.get(key, 'absent')} → {now.get(key, 'absent')}" for key in differing if not key.startswith(off)
    ]


def refuse_changes(identity: dict[str, str], checkpoint: Path) -> None:
    """Refuse a training that differs from the one that wrote `checkpoint`.

    Raises:
        UserError: there are differences; the error lists all of them.
    """
    try:
        states = torch.load(checkpoint, map_location="cpu", weights_only=True)["callbacks"]
        before: dict[str, str] = states[History.__qualname__]["identity"]
    except Exception as error:
        raise UserError(f"{checkpoint} is not a checkpoint of this model ({first_line(error)})") from None
    if changed := changed_settings(before, identity):
        raise UserError(
            f"resume: the configuration differs from that of the run: {'; '.join(changed)}; "
            "use the same values, or set training.allow_changes_on_resume=true"
        )
