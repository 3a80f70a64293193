"""Cancelled trains at the points ahead, from the time at which each cancellation is known.

The train itself leaves out its own cancelled events as soon as their cancellation is known, with this input or without.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from transformer.data.event_table import LoadedTable, Vocabulary
from transformer.features.inputs.base import Cells, Columns, Feature, FloatArray, Input

HOUR_S = 3_600
_SPAN_S = np.int64(1) << 33  # beyond any date


class Cancellations(Input):
    """Other trains of the service date that are known to be cancelled, at the point of each next event."""

    name = "cancellations"
    features = (
        Feature("cancelled_soon", 1.0, "cancelled trains at the point, planned from now to an hour ahead"),
        Feature("cancelled_lately", 1.0, "cancelled trains at the point, planned in the hour before"),
    )

    def __init__(self, rows: pl.DataFrame, vocabulary: Vocabulary) -> None:
        del rows, vocabulary

    def on(self, loaded: LoadedTable) -> Columns:
        table = loaded.table
        point, journey = np.asarray(table.point).astype(np.int64), np.asarray(table.journey).astype(np.int64)
        place = np.asarray(table.day).astype(np.int64)[journey] * (int(point.max(initial=0)) + 1) + point
        place -= place.min(initial=np.int64(1) << 60)
        runs = np.zeros(table.n_events, np.bool_)
        runs[np.asarray(table.running)] = True
        cancelled = np.flatnonzero(~runs & (point > 0))
        # An arrival and a departure of one train are one train. The arrival comes first.
        pairs = place[cancelled] * table.n_journeys + journey[cancelled]
        cancelled = cancelled[np.unique(pairs, return_index=True)[1]]
        key = place[cancelled] * _SPAN_S + table.planned[cancelled]
        order = np.argsort(key, kind="stable")
        key, whose = key[order], journey[cancelled][order]
        known_from = np.asarray(table.cancellation_known)[whose]

        def count(cells: Cells, begin: int, end: int) -> FloatArray:
            """Cancelled trains [C] planned at the point from t + begin until before t + end, seconds."""
            now = place[cells.event] * _SPAN_S + cells.instant
            low, high = np.searchsorted(key, now + begin), np.searchsorted(key, now + end)
            cell = np.repeat(np.arange(len(low)), high - low)
            row = np.arange(len(cell)) - np.repeat(np.cumsum(high - low) - high, high - low)
            counts = (known_from[row] <= cells.instant[cell]) & (whose[row] != cells.journey[cell])
            return np.bincount(cell[counts], minlength=len(low)).astype(np.float32)

        def columns(cells: Cells) -> FloatArray:
            found = np.column_stack([count(cells, 0, HOUR_S), count(cells, -HOUR_S, 0)])
            found[point[cells.event] == 0] = np.nan
            return np.asarray(found, np.float32)

        return columns
