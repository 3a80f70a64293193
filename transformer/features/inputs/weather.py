"""Weather at the points ahead, as known at the instant.

A row of the table is for the hour that begins at `ts`. It is known when the hour has ended. So no sum or mean of an
hour is used within that hour. A source that names hours by their end loses an hour, and leaks nothing.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from transformer.data.event_table import LoadedTable, Vocabulary
from transformer.features.inputs.base import Cells, Columns, Feature, FloatArray, Input

HOUR_S = 3_600
OLD_S = 4 * HOUR_S  # an hour that ended earlier says nothing about the present weather
_SPAN_S = 1 << 33  # beyond any date


class Weather(Input):
    """The newest known hour at the point of each next event."""

    name = "weather"
    features = (
        Feature("temperature_c", 10.0, "air temperature, °C"),
        Feature("precipitation_mm", 1.0, "rain and melted snow of the hour, mm"),
        Feature("snowfall_cm", 1.0, "fresh snow of the hour, cm"),
        Feature("wind_m_s", 5.0, "wind speed, m/s"),
    )

    def __init__(self, rows: pl.DataFrame, vocabulary: Vocabulary) -> None:
        point = vocabulary.encode_points(rows["op_id"].to_numpy()).astype(np.int64)
        known = rows["ts"].dt.epoch("s").to_numpy().astype(np.int64) + HOUR_S
        key = point * _SPAN_S + known
        order = np.argsort(key, kind="stable")
        self._key = np.append(np.int64(-_SPAN_S), key[order])
        values = rows.select(feature.name for feature in self.features).cast(pl.Float32).fill_null(float("nan"))
        unknown = np.full((1, len(self.features)), np.nan, np.float32)
        self._values = np.concatenate([unknown, values.to_numpy()[order].astype(np.float32)])

    def on(self, loaded: LoadedTable) -> Columns:
        point = np.asarray(loaded.table.point)

        def columns(cells: Cells) -> FloatArray:
            key = point[cells.event].astype(np.int64) * _SPAN_S + cells.instant
            row = np.searchsorted(self._key, key, side="right") - 1
            row[(key - self._key[row] >= OLD_S) | (point[cells.event] == 0)] = 0
            return np.asarray(self._values[row])

        return columns
