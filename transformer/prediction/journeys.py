"""Sampled journeys: times of all next events of a train that go together, drawn from the predicted distribution.

Each event alone has the distribution of its calibrated quantiles. Along a train, the times depend on each other as
measured on the validation dates (`transformer.model.copula`), and never run backwards. Trains are independent of each
other, given their snapshot: what one train does to another is in the predicted distributions, and not in the draws.

Legend of dimensions: R rows, N trains, F ranks, Q quantile levels, K sampled journeys.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from transformer.errors import UserError
from transformer.model.coherence import coherent
from transformer.model.copula import delays_at, sample_scores
from transformer.model.network import DelayTransformer
from transformer.prediction.columns import FORECAST, quantile_column

JOURNEYS = 100  # of each train: a probability of one half is then known to 0.05
SEED = 42


def sample_times(
    rows: pl.DataFrame,
    network: DelayTransformer,
    *,
    n_journeys: int = JOURNEYS,
    seed: int = SEED,
    correlation: Tensor | None = None,
) -> npt.NDArray[np.float32]:
    """Times [R, K] of the events of `rows` in sampled journeys, in seconds after their snapshot.

    Column k of all rows of a train is one journey of that train. The draws depend on the seed, on the snapshot and on
    its trains only, so the same snapshot has the same journeys in any frame.

    Args:
        rows: predictions with quantiles, whole snapshots; columns of `columns.ROW_SCHEMA`, in any order.
        network: the network that made the predictions.
        correlation: of the ranks [F, F]; None = that of the network.

    Raises:
        UserError: the model predicts no distribution.
    """
    levels = network.levels
    if len(levels) < 2:
        raise UserError(
            f"the model predicts no distribution (model.quantiles={list(levels)}); train with at least two quantiles"
        )
    if rows.is_empty():
        return np.empty((0, n_journeys), np.float32)
    correlation = network.rank_correlation if correlation is None else correlation
    ordered = rows.select(
        (pl.struct(FORECAST).rank("dense") - 1).cast(pl.Int64).alias("train"),  # in the order of snapshots, then trains
        (pl.col("rank").cast(pl.Int64) - 1).alias("rank"),
        (pl.col("rank").rank("ordinal").over(FORECAST) - 1).cast(pl.Int64).alias("place"),  # among the rows of a train
        pl.col("horizon_s").cast(pl.Float32),
    )
    train, rank, place, planned = (torch.from_numpy(ordered[name].to_numpy().copy()) for name in ordered.columns)
    quantiles = torch.from_numpy(rows.select(map(quantile_column, levels)).to_numpy().astype(np.float32))
    scores = torch.cat(
        [
            sample_scores(correlation, n_trains, n_journeys, torch.Generator().manual_seed(seed + instant))
            for instant, n_trains in _trains_per_snapshot(rows)
        ]
    )
    resolution = network.scales["resolution"]
    delay_RK = delays_at(scores[train, rank], quantiles, levels)
    delay_RK = torch.round(delay_RK / resolution) * resolution  # as observed delays are
    shape = (scores.shape[0], network.shape.n_foll)
    delay_NFK, planned_NF = torch.zeros(*shape, n_journeys), torch.zeros(shape)
    delay_NFK[train, place], planned_NF[train, place] = delay_RK, planned
    found = coherent(delay_NFK, planned_NF, *network.bound)[train, place] + planned[:, None]
    return found.numpy()


def _trains_per_snapshot(rows: pl.DataFrame) -> list[tuple[int, int]]:
    """The instants in their order, in seconds since the Unix epoch, and the number of trains of each."""
    counts = rows.group_by("snapshot_ts").agg(pl.struct(FORECAST).n_unique().alias("trains")).sort("snapshot_ts")
    return counts.select(pl.col("snapshot_ts").dt.epoch("s"), pl.col("trains").cast(pl.Int64)).rows()
