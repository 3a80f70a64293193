"""Links of the railway: length and number of tracks of the section that leads to each next event."""

from __future__ import annotations

import numpy as np
import polars as pl

from transformer.data.event_table import LoadedTable, Vocabulary
from transformer.features.inputs.base import Cells, Columns, Feature, FloatArray, Input

_SPAN = np.int64(1) << 32  # above all codes of points


class Links(Input):
    """The link between the point before and the point of each next event, in either direction.

    If several links join two points, the shortest length and the largest number of tracks count. Points that no link
    joins are unknown, and so is an event at the point of the event before.
    """

    name = "links"
    features = (
        Feature("distance_m", 5_000.0, "length of the section that leads to the event, m"),
        Feature("nb_tracks", 1.0, "number of its tracks"),
    )

    def __init__(self, rows: pl.DataFrame, vocabulary: Vocabulary) -> None:
        u, v = (vocabulary.encode_points(rows[name].to_numpy()).astype(np.int64) for name in ("u_node_id", "v_node_id"))
        links = (
            rows.select(pl.col(feature.name).cast(pl.Float32) for feature in self.features)
            .with_columns(pl.Series("key", np.minimum(u, v) * _SPAN + np.maximum(u, v)))
            .filter((u > 0) & (v > 0) & (u != v))
            .group_by("key")
            .agg(pl.col("distance_m").min(), pl.col("nb_tracks").max())
            .sort("key")
        )
        values = links.select(feature.name for feature in self.features).fill_null(float("nan")).to_numpy()
        nothing = np.full((1, len(self.features)), np.nan, np.float32)
        self._key = np.append(np.int64(-1), links["key"].to_numpy())
        self._values = np.concatenate([nothing, values.astype(np.float32)])

    def on(self, loaded: LoadedTable) -> Columns:
        point, start = np.asarray(loaded.table.point).astype(np.int64), np.asarray(loaded.table.start)
        before = np.roll(point, 1)
        before[start] = 0
        key = np.minimum(before, point) * _SPAN + np.maximum(before, point)
        row = np.searchsorted(self._key, key, side="right") - 1
        row[self._key[row] != key] = 0
        values = self._values[row]

        def columns(cells: Cells) -> FloatArray:
            return np.asarray(values[cells.event])

        return columns
