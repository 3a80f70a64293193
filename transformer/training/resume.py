"""The settings that may differ when a training is resumed, and the refusal of other changes, also of the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from transformer.config import Config, flatten, to_dict
from transformer.data.content import changed_tables, listed, tables_content
from transformer.data.dates import Split
from transformer.errors import UserError
from transformer.features.embeddings import FORMER_KINDS
from transformer.model.module import DelayModule
from transformer.text import first_line
from transformer.training.callbacks import History

_DATA = "data table "  # prefix of the entries of an identity that name the content of a table
# A resumed training may run elsewhere and on other hardware, but must compute the same.
_FREE_ON_RESUME = (
    "data.local_folder", "data.bucket_", "data.endpoint_url", "data.download_", "data.save_", "data.split.",
    "evaluation.", "search.", "compute.", "paths.",
    "training.accelerator", "training.devices", "training.strategy", "training.num_workers", "training.log_every_s",
    "training.allow_changes_on_resume", "training.use_precomputed.", "training.schedule.", "training.mlflow.",
)  # fmt: skip


def training_identity(config: Config, split: Split) -> dict[str, str]:
    """The values that must be the same when a training is resumed: configuration that matters, and service dates."""
    values = {key: str(value) for key, value in flatten(to_dict(config)).items()}
    kept = {key: value for key, value in values.items() if not key.startswith(_FREE_ON_RESUME)}
    return {**kept, **{f"data.split.{name}": ", ".join(days) for name, days in split.as_dict().items()}}


def changed_settings(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """`key: before → now` for each setting of two identities that differs, sorted by key.

    A kind of embeddings that an earlier program knew and did not compute changes nothing, nor does an input that is off
    and that an earlier program did not know.
    """
    off = tuple(f"embeddings.{kind}." for kind in FORMER_KINDS if before.get(f"embeddings.{kind}.enabled") == "False")
    unknown = {key for key in now.keys() - before.keys() if key.startswith("model.use_inputs.") and now[key] == "False"}
    differing = sorted(key for key in before.keys() | (now.keys() - unknown) if before.get(key) != now.get(key))
    return [
        f"{key}: {before.get(key, 'absent')} → {now.get(key, 'absent')}" for key in differing if not key.startswith(off)
    ]


def data_identity(config: Config, split: Split) -> dict[str, str]:
    """The content of the tables that train and validate, in the form of `training_identity`."""
    content = tables_content(config.data, [*split.train, *split.validation], config.model.use_inputs)
    return {_DATA + name: digest for name, digest in content.items()}


def refuse_changes(identity: dict[str, str], checkpoint: Path) -> None:
    """Refuse a training that differs from the one that wrote `checkpoint`, in its settings or in its data.

    A checkpoint of an older release does not name its data.

    Raises:
        UserError: there are differences; the error lists all of them.
    """
    states = _read(checkpoint)["callbacks"]
    before: dict[str, str] = states[History.__qualname__]["identity"]
    tables_before, settings_before = _parts(before)
    tables, settings = _parts(identity)
    if changed := changed_settings(settings_before, settings):
        raise UserError(
            f"resume: the configuration differs from that of the run: {'; '.join(changed)}; "
            "use the same values, or set training.allow_changes_on_resume=true"
        )
    if other := changed_tables(tables_before, tables):
        raise UserError(
            f"resume: the data have changed since the training began: {listed(other)}; "
            "restore these tables, train in a new run, or set training.allow_changes_on_resume=true"
        )


def refuse_unfit(module: DelayModule, checkpoint: Path) -> None:
    """Refuse to continue a training with other inputs or sizes, which its weights cannot have.

    Raises:
        UserError: the error names the first difference.
    """
    found = _read(checkpoint)
    theirs, ours = found["hyper_parameters"]["shape"], module.network.shape.as_dict()
    begin = "restore the data with which it began, or begin anew with a warm start from this run"
    for name, what in (("op_ids", "operational points"), ("train_types", "train types")):
        if other := sorted(set(theirs[name]) ^ set(ours[name])):
            raise UserError(
                f"resume: the training knows {len(theirs[name])} {what}, the data have {len(ours[name])}, "
                f"first difference: {other[0]}; {begin}"
            )
    weights, own = found["state_dict"], module.state_dict()
    for name in sorted(weights.keys() | own.keys()):
        shapes = [tuple(state[name].shape) if name in state else "absent" for state in (weights, own)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"resume: the weights {name} have shape {shapes[0]}, this configuration needs {shapes[1]}; "
                "use the model and the embeddings of the run, or begin anew"
            )


def _parts(identity: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The tables and the settings of an identity."""
    tables = {name.removeprefix(_DATA): value for name, value in identity.items() if name.startswith(_DATA)}
    return tables, {name: value for name, value in identity.items() if not name.startswith(_DATA)}


def _read(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint that a training can continue from.

    Raises:
        UserError: it is another file.
    """
    try:
        found: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        _ = found["callbacks"][History.__qualname__]["identity"], found["hyper_parameters"]["shape"]["op_ids"]
    except Exception as error:
        raise UserError(f"{checkpoint} is not a checkpoint of this model ({first_line(error)})") from None
    return found
