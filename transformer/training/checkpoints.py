"""Checkpoint files: their fixed names, and loading the network from them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from transformer.config import to_dict
from transformer.errors import UserError
from transformer.features.embeddings import PointEmbeddings, extend
from transformer.model.module import DelayModule
from transformer.text import first_line

log = logging.getLogger(__name__)

BEST, LAST = "best.ckpt", "last.ckpt"  # fixed names, so resuming and evaluating need no search
CHECKPOINTS = "checkpoints"  # folder in the run's artifacts and in its local folder
HISTORY = "history.json"
POINT_VECTORS = "network.point_vectors"  # a buffer, not learned
CHECKPOINTS_OF = "checkpoints_of"  # tag: the Airflow run whose training wrote the run's checkpoints


def load_module(checkpoint: Path) -> DelayModule:
    """Load a trained module, ready to predict.

    Raises:
        UserError: the file is missing, or not a checkpoint of this model.
    """
    try:
        module = DelayModule.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{checkpoint} does not exist; train the model first") from None
    except Exception as error:
        if "loading state_dict" in str(error) or isinstance(error, UserError):  # its configuration, too, may be another
            raise UserError(f"{checkpoint} belongs to another version of the network; train the model again") from None
        raise UserError(f"{checkpoint} is not a checkpoint of this model ({first_line(error)})") from None
    return module.eval()


def load_weights(module: DelayModule, checkpoint: Path, edges: pl.DataFrame) -> None:
    """Warm start: load the weights of a checkpoint, and its vectors of the points that both models know.

    The weights have learned to read these vectors; in another computation the directions mean other things. Points that
    the checkpoint lacks get the mean of their neighbours over `edges` (see `graph.edge_counts`).

    Raises:
        UserError: inputs differ, or a weight does not fit; the error names every such input, or the first such weight.
    """
    given = load_module(checkpoint)
    if differences := _input_differences(given, module):
        raise UserError(
            f"warm start: the inputs differ from those of that model: {'; '.join(differences)}; "
            "use the same inputs, or train without a warm start"
        )
    weights, own = given.state_dict(), module.state_dict()
    unfit = [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name != POINT_VECTORS and (name not in weights or weights[name].shape != own[name].shape)
    ]
    if unfit:
        raise UserError(
            f"warm start: {len(unfit)} weights do not fit this configuration, first: {unfit[0]}; "
            "use the model configuration of that run"
        )
    op_ids = module.network.shape.op_ids
    known = point_embeddings(given)
    weights[POINT_VECTORS] = torch.from_numpy(extend(known, edges).matrix(op_ids))
    module.load_state_dict(weights)
    shared = len(set(op_ids) & set(given.network.shape.op_ids))
    log.info("warm start: weights loaded; that model knows %d of %d points", shared, len(op_ids))


def point_embeddings(module: DelayModule) -> PointEmbeddings:
    """The point vectors in a module, by kind."""
    shape = module.network.shape
    parts = torch.split(module.network.point_vectors[1:].cpu(), list(shape.embedding_dims.values()), dim=1)
    vectors = {kind: part.numpy().copy() for kind, part in zip(shape.embedding_dims, parts, strict=True)}
    return PointEmbeddings(np.array(shape.op_ids, np.int32), vectors)


def _input_differences(given: DelayModule, own: DelayModule) -> list[str]:
    """`name: theirs → ours` for every difference that gives the same numbers another meaning."""

    def inputs(module: DelayModule) -> dict[str, Any]:
        shape = module.network.shape
        return {
            "data.snapshot.n_prev": shape.n_prev,
            "data.snapshot.n_foll": shape.n_foll,
            "embeddings": shape.embedding_dims,
            "train types": shape.train_types,
            **{f"model.use_inputs.{name}": on for name, on in to_dict(module.network.use).items()},
        }

    theirs, ours = inputs(given), inputs(own)
    return [f"{name}: {theirs[name]} → {ours[name]}" for name in ours if theirs[name] != ours[name]]
