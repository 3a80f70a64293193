"""Predictions of events about which the training dates say nothing: such predictions rest on averages."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import polars as pl

from transformer.data.events import UNKNOWN_TRAIN_TYPE
from transformer.data.reasons import Reason
from transformer.features.statistics import Statistics
from transformer.prediction.row_files import EvaluationRows, collect_parts

UNKNOWN: Mapping[str, Reason] = MappingProxyType(
    {
        "at a point without events on the training dates": Reason(
            "the model knows neither the point nor the sections that lead to it", "train on newer dates"
        ),
        "of a train type that the training dates lack": Reason(
            "the type may be new, or `journeys.parquet` has no row for the train",
            "train on newer dates, or write the rows of each new date into `journeys.parquet`",
        ),
        "of a train number without history": Reason(
            "the train did not run on the training dates, or its number changes every day",
            "train on newer dates; write a `train_number` that is stable from day to day",
        ),
    }
)


def unknown_counts(rows: EvaluationRows, statistics: Statistics) -> dict[str, int]:
    """Numbers of predictions by what the training dates lack; one prediction may count several times.

    Args:
        rows: predictions with `op_id` (0 = unknown to the model), `train_type` and `train_number`.
    """
    points, types = statistics.vocabulary.op_ids, statistics.vocabulary.train_types
    numbers = statistics.history["train_number"].unique()
    lacking = (
        ~pl.col("op_id").is_in(points.tolist()),
        ~pl.col("train_type").fill_null(UNKNOWN_TRAIN_TYPE).is_in(list(types)),
        ~pl.col("train_number").is_in(numbers.implode()),
    )
    rules = [rule.sum().alias(reason) for reason, rule in zip(UNKNOWN, lacking, strict=True)]
    counts = collect_parts(rows, lambda part: part.select(rules)).sum().row(0, named=True)
    return {reason: count for reason, count in counts.items() if count}


def unknown_text(predictions: int, counts: Mapping[str, int]) -> str:
    """The counts in one line for the log."""
    return "; ".join([f"{predictions:,} predictions", *(f"{count:,} {reason}" for reason, count in counts.items())])
