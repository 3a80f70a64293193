"""Wobble: how far the forecast of an event moves from one snapshot to the next.

A *change* is a pair of successive forecasts of one event: the same journey, point, type and planned time. Since the
planned time stays, the forecast time moves by the change of the predicted delay. The wobble is the sum of the absolute
changes, divided by the sum of the hours between their snapshots. It is in seconds per hour of one event. Changes that
cancel each other count in full, so snapshots that are closer together may show more wobble.

All rows of a journey belong to one part, so no change is lost between parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

from transformer.evaluation.metrics import HORIZON, TRANSLATION, finite_metrics
from transformer.evaluation.quantiles import EVENT
from transformer.evaluation.sums import exact_sum, number_of
from transformer.prediction.row_files import EvaluationRows, collect_parts

WOBBLE = "wobble_s_per_h"
_DELAYS = {WOBBLE: "predicted_delay_s", TRANSLATION + WOBBLE: "translation_delay_s"}


@dataclass(frozen=True)
class Wobble:
    """The wobble of some rows, in seconds per hour of an event."""

    changes: int
    summary: dict[str, float]  # `wobble_s_per_h`, and `translation_wobble_s_per_h`; NaN = no event has two forecasts
    horizon: pl.DataFrame  # horizon of the later forecast, `changes`, and the names of `summary`

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics under MLflow-legal names: `test/wobble_s_per_h`, `test/horizon/5-10min/wobble_s_per_h`, …

        Undefined values are left out.
        """
        values = {f"{prefix}/{name}": value for name, value in self.summary.items()}
        for group in self.horizon.iter_rows(named=True):
            values |= {f"{prefix}/horizon/{group['horizon']}/{name}": group[name] for name in _DELAYS}
        return finite_metrics(values)


def wobble(rows: EvaluationRows) -> Wobble:
    """Measure how far successive forecasts of the same events move.

    Args:
        rows: rows that `metrics.check_rows` accepts, in any order.
    """
    parts = collect_parts(rows, _changes)
    totals = parts.group_by("horizon").agg(pl.all().sum()).sort("horizon")
    hours = pl.col("seconds").sum() / 3_600
    measures = [(number_of(pl.col(name).sum()) / hours).alias(name) for name in _DELAYS]
    summary = totals.select(measures).row(0, named=True) if totals.height else dict.fromkeys(_DELAYS, math.nan)
    return Wobble(
        int(totals["changes"].sum()),
        summary,
        totals.group_by("horizon", maintain_order=True).agg(pl.col("changes").sum(), *measures),
    )


def _changes(part: pl.LazyFrame) -> pl.LazyFrame:
    """Number, seconds between the snapshots, and sums of the changes of one part, by horizon of the later forecast."""
    ordered = part.sort(*EVENT, "snapshot_ts", "rank")
    passed_s = (pl.col("snapshot_ts") - pl.col("snapshot_ts").shift()).dt.total_seconds()
    same = pl.all_horizontal(pl.col(name) == pl.col(name).shift() for name in EVENT)
    pairs = ordered.select(
        HORIZON.of(pl.col("horizon_s")).alias("horizon"),
        passed_s.alias("seconds"),
        same.alias("same"),
        *((pl.col(column) - pl.col(column).shift()).abs().alias(name) for name, column in _DELAYS.items()),
    ).filter("same", pl.col("seconds") > 0)  # a journey may have an event twice
    return pairs.group_by("horizon").agg(
        pl.len().cast(pl.Int64).alias("changes"), pl.col("seconds").sum(), exact_sum(pl.col(list(_DELAYS)))
    )
