"""Features of an event from the statistics of the training dates: usual values for its place and its train."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np
import polars as pl

from transformer.config import StatisticsConfig
from transformer.data.event_table import LoadedTable
from transformer.data.events import UNKNOWN_TRAIN_TYPE
from transformer.data.tables import EVENT_TYPES, JOURNEY
from transformer.features.snapshots import EventFeatures
from transformer.features.statistics import (
    HISTORY,
    HISTORY_PARENT,
    SECTION,
    SECTION_PARENT,
    Statistics,
    mean_and_std,
    without_folds,
)

CUMULATIVE_FEATURES = ("change_mean", "change_middle_mean", "planned_excess", "history_change", "history_median_change")
PLAIN_FEATURES = (
    "change_std", "history_delay", "history_weight", "history_median", "history_low", "history_high",
)  # fmt: skip
FEATURES = (*CUMULATIVE_FEATURES, *PLAIN_FEATURES)
SECTION_FEATURES = ("change_mean", "change_middle_mean", "planned_excess", "change_std")
HISTORY_FEATURES = (
    "history_change", "history_median_change", "history_delay", "history_weight",
    "history_median", "history_low", "history_high",
)  # fmt: skip


def event_features(
    loaded: LoadedTable,
    statistics: Statistics,
    config: StatisticsConfig,
    also_without: Mapping[int, Collection[int]] = MappingProxyType({}),
) -> EventFeatures:
    """The historical features of every event of a table [E, K], K as in `FEATURES`, in seconds.

    - `change_mean`, `change_middle_mean`: usual delay change from the journey's first event up to this event, as
      running sums.
    - `planned_excess`: planned running time so far minus the usual planned running time, as a running sum.
    - `history_delay`: usual delay of this train number at this event.
    - `history_change`: the same. The snapshot builder subtracts its value at the last known event, as it does for the
      running sums.
    - `history_median`, `history_low`, `history_high`: median, smallest and largest of the mean delays per fold of this
      train number at this event. A single extreme date shifts a mean but not the median.
    - `history_median_change`: the median. The snapshot builder subtracts its value at the last known event.
    - `change_std`: standard deviation of the delay change on the section that leads to this event.
    - `history_weight`: share (0…1) of this train number's own past in `history_delay`; the rest comes from all trains
      of its type at this event.

    Args:
        also_without: per fold, the further folds that are left out of the features of its dates.
    """
    table = loaded.table
    decode = np.concatenate([[0], statistics.vocabulary.op_ids]).astype(np.int32)
    names = loaded.journeys.with_row_index("journey").with_columns(pl.col("journey").cast(pl.Int32))
    events = pl.DataFrame(
        {
            "journey": np.asarray(table.journey),
            "to_op": decode[np.asarray(table.point)],
            "to_type": np.array(["", *EVENT_TYPES])[np.asarray(table.event_type)],
            "planned_s": np.asarray(table.planned),
        }
    ).join(names, on="journey", how="left", maintain_order="left")
    events = events.with_columns(
        pl.col("train_type").fill_null(UNKNOWN_TRAIN_TYPE),
        pl.col("service_date")
        .replace_strict(dict(statistics.fold_of), default=-1, return_dtype=pl.Int32)
        .alias("fold"),
        pl.col("to_op").shift(1).over("journey").fill_null(0).alias("from_op"),
        pl.col("to_type").shift(1).over("journey").fill_null("").alias("from_type"),
        (pl.col("planned_s") - pl.col("planned_s").shift(1).over("journey")).fill_null(0).alias("planned"),
        pl.col("to_op").alias("op_id"),
        pl.col("to_type").alias("event_type"),
    ).drop(JOURNEY)
    parts = []
    for fold in sorted(events["fold"].unique().to_list()):
        left_out = {fold, *also_without.get(fold, ())} if fold >= 0 else set()
        part = events.with_row_index("row").filter(pl.col("fold") == fold)
        part = part.join(statistics.section_table(left_out), on=SECTION, how="left")
        part = part.join(_section_parents(statistics, left_out), on=SECTION_PARENT, how="left")
        part = part.join(_history_features(statistics, left_out), on=HISTORY, how="left")
        part = part.join(_history_parents(statistics, left_out), on=HISTORY_PARENT, how="left")
        parts.append(part.select("row", "journey", *_shrunk(config)))
    ordered = pl.concat(parts).sort("row")
    sums = [pl.col(name).cum_sum().over("journey") for name in CUMULATIVE_FEATURES[:3]]
    values = ordered.select(
        *sums,
        pl.col("history_delay").alias("history_change"),
        pl.col("history_median").alias("history_median_change"),
        *(pl.col(name) for name in PLAIN_FEATURES),
    )
    return EventFeatures(
        np.ascontiguousarray(values.select(FEATURES).to_numpy().astype(np.float32)), len(CUMULATIVE_FEATURES)
    )


def varied_folds(statistics: Statistics, generator: np.random.Generator) -> dict[int, tuple[int, ...]]:
    """Draw for each fold other folds that are left out as well, at most about half of them.

    Predictions in service are for dates that differ from every training date. In training, each epoch therefore uses
    the history of other dates, and the model learns how reliable history is. If folds hold several dates each, the
    result is empty, because such folds differ little.
    """
    folds = sorted(set(statistics.fold_of.values()))
    if len(folds) < len(statistics.fold_of):
        return {}
    varied = {}
    for fold in folds:
        others = [other for other in folds if other != fold]
        count = int(generator.integers(0, max(min(len(others) // 2 + 2, len(others)), 1)))
        varied[fold] = tuple(generator.choice(others, count, replace=False).tolist()) if count else ()
    return varied


def _shrunk(config: StatisticsConfig) -> list[pl.Expr]:
    """Mix the values of a section or train number with those of its parent: the fewer observations, the more parent."""
    k = float(max(config.min_count, 1))
    own_k = k / 4 if config.history_min_count is None else config.history_min_count
    n, own_n = pl.col("n").fill_null(0), pl.col("history_n").fill_null(0)
    weight, own_weight = n / (n + k), pl.when(own_n > 0).then(own_n / (own_n + own_k)).otherwise(0.0)

    def mixed(own: str, parent: str, share: pl.Expr) -> pl.Expr:
        return share * pl.col(own).fill_null(0.0) + (1 - share) * pl.col(parent).fill_null(0.0)

    usual = mixed("history_mean", "parent_history_mean", own_weight)
    return [
        mixed("change_mean", "parent_change_mean", weight).alias("change_mean"),
        mixed("change_middle_mean", "parent_change_mean", weight).alias("change_middle_mean"),
        (weight * (pl.col("planned") - pl.col("planned_mean")).fill_null(0.0)).alias("planned_excess"),
        mixed("change_std", "parent_change_std", weight).alias("change_std"),
        usual.alias("history_delay"),
        own_weight.alias("history_weight"),
        *(
            pl.coalesce(f"fold_{name}", mixed("history_mean", "parent_history_mean", own_weight)).alias(
                f"history_{name}"
            )
            for name in ("median", "low", "high")
        ),
    ]


def _section_parents(statistics: Statistics, without: Collection[int]) -> pl.DataFrame:
    sums = (
        without_folds(statistics.sections, without)
        .group_by(SECTION_PARENT)
        .agg(pl.col("n", "change", "change_squares").sum())
    )
    return sums.select(*SECTION_PARENT, *(column.name.prefix("parent_") for column in mean_and_std("change")))


def _history_features(statistics: Statistics, without: Collection[int]) -> pl.DataFrame:
    folds = without_folds(statistics.history, without).group_by("fold", *HISTORY).agg(pl.col("n", "delay").sum())
    of_fold = pl.col("delay") / pl.col("n")
    return folds.group_by(HISTORY).agg(
        pl.col("n").sum().alias("history_n"),
        (pl.col("delay").sum() / pl.col("n").sum()).alias("history_mean"),
        of_fold.median().alias("fold_median"),
        of_fold.min().alias("fold_low"),
        of_fold.max().alias("fold_high"),
    )


def _history_parents(statistics: Statistics, without: Collection[int]) -> pl.DataFrame:
    sums = without_folds(statistics.history, without).group_by(HISTORY_PARENT).agg(pl.col("n", "delay").sum())
    return sums.select(*HISTORY_PARENT, (pl.col("delay") / pl.col("n")).alias("parent_history_mean"))
