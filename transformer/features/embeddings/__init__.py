"""Vectors of operational points: the kinds, and the table that holds all of them.

| kind | holds | scale, over the points that have it |
|---|---|---|
| `laplacian` | place in the whole railway | each column has zero mean and unit variance |
| `geographic` | east and north, and 1 if they are known | zero mean, unit variance with one scale for both |
| `random` | identity only: a control | standard normal as drawn, so a vector never depends on other points |

A row of zeros means "unknown". In the standardised kinds, zeros are also the mean of all points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transformer.config import EmbeddingsConfig
from transformer.errors import UserError
from transformer.features.embeddings.geographic import N_COORDINATES, coordinates_km
from transformer.features.embeddings.interpolation import interpolate
from transformer.features.embeddings.laplacian import eigenmap
from transformer.features.embeddings.random import normal_vectors
from transformer.features.graph import RailwayGraph, graph_from_edge_counts
from transformer.parquet import UNREADABLE, write_parquet

KINDS = ("laplacian", "geographic", "random")
# Kinds of earlier programs. They are no longer computed, but models that were trained with them keep their vectors.
FORMER_KINDS = ("node2vec",)
FORMER_KEYS = tuple(f"embeddings.{kind}." for kind in FORMER_KINDS)  # their keys in the configuration of such runs


@dataclass(frozen=True, eq=False)
class PointEmbeddings:
    """Vectors per operational point.

    Attributes:
        op_ids: int32[N], ascending.
        vectors: float32[N, dim] per kind that is switched on, in the order in which a model reads them.
    """

    op_ids: NDArray[np.int32]
    vectors: dict[str, NDArray[np.float32]]

    @property
    def dim(self) -> int:
        """Width of all kinds together."""
        return sum(vectors.shape[1] for vectors in self.vectors.values())

    def matrix(self, order: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """float32[len(order) + 1, dim]: row i + 1 has the vectors of point `order[i]`, all kinds in one row.

        Row 0 stands for no point. It is zero, and so is the row of a point that these embeddings do not hold.
        """
        wanted = np.asarray(order, np.int64)
        matrix = np.zeros((len(wanted) + 1, self.dim), np.float32)
        held = np.isin(wanted, self.op_ids)
        rows = np.searchsorted(self.op_ids, wanted[held])
        matrix[1:][held] = np.hstack([np.zeros((len(self.op_ids), 0), np.float32), *self.vectors.values()])[rows]
        return matrix

    def save(self, path: Path) -> None:
        """Write one Parquet file, atomically: `op_id` and a fixed-size list per kind."""
        kinds = [
            pl.Series(kind, vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
            for kind, vectors in self.vectors.items()
        ]
        write_parquet(path, pl.DataFrame([pl.Series("op_id", self.op_ids, dtype=pl.Int32), *kinds]))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, or is no table of embeddings.
        """
        try:
            table = pl.read_parquet(path, glob=False)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; run compute-statistics-and-embeddings first") from None
        except UNREADABLE as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is not Parquet ({reason}); remove it and compute it again") from None
        unknown = sorted(set(table.columns) - {"op_id", *KINDS, *FORMER_KINDS})
        if unknown or "op_id" not in table.columns:
            raise UserError(f"{path} holds columns {table.columns}, not embeddings; remove it and compute it again")
        return cls(
            op_ids=table["op_id"].to_numpy(),
            vectors={kind: table[kind].to_numpy() for kind in table.columns if kind != "op_id"},
        )


def compute_embeddings(graph: RailwayGraph, op_nodes: pl.DataFrame, config: EmbeddingsConfig) -> PointEmbeddings:
    """Compute every kind that `config` switches on, for all points of `op_nodes` and `graph`.

    A point without a position gets the weighted mean of its neighbours' coordinates. A point without trains in `graph`
    has no `laplacian` vector until `extend` fills it from a later timetable.
    """
    op_ids = np.union1d(op_nodes["op_id"].to_numpy(), graph.op_ids).astype(np.int32)
    vectors: dict[str, NDArray[np.float32]] = {}
    if config.laplacian.enabled:
        coordinates = eigenmap(graph, config.laplacian.dim)
        vectors["laplacian"] = _place(op_ids, graph.op_ids, standardise(coordinates))
    if config.geographic.enabled:
        vectors["geographic"] = _geographic(op_ids, op_nodes, graph)
    if config.random.enabled:
        vectors["random"] = normal_vectors(op_ids, config.random.dim, config.random.seed)
    return PointEmbeddings(op_ids, vectors)


def extend(embeddings: PointEmbeddings, timetable_edges: pl.DataFrame) -> PointEmbeddings:
    """Add the points of a later timetable, and fill points that have no vector, from their neighbours in it.

    `timetable_edges` is `graph.edge_counts` of the later dates; it holds planned events only. Existing vectors do not
    change. The position indicator of a filled point stays 0. The `random` vector of a new point stays zero: the model
    learned nothing about this point, and a mean of its neighbours would reveal its place.
    """
    timetable = graph_from_edge_counts(timetable_edges)
    op_ids = np.union1d(embeddings.op_ids, timetable.op_ids)
    vectors = {kind: _place(op_ids, embeddings.op_ids, old) for kind, old in embeddings.vectors.items()}
    for kind in vectors.keys() - {"random"}:
        # A slice is a view: this fills the coordinates and leaves the indicator in the next column as it is.
        columns = vectors[kind][:, : N_COORDINATES if kind == "geographic" else None]
        columns[:] = _interpolate_over(timetable, op_ids, columns, known=np.any(columns, axis=1))
    return PointEmbeddings(op_ids, vectors)


def standardise(columns: NDArray[np.floating], *, one_scale: bool = False) -> NDArray[np.float64]:
    """Scale columns to zero mean and unit variance over the points.

    With `one_scale`, one factor scales all columns, and the variance is 1 on average over them. A column that is
    constant up to rounding becomes zero.
    """
    if len(columns) == 0:
        return columns.astype(np.float64)
    centred = columns - columns.mean(axis=0, dtype=np.float64)
    variance = np.square(centred).mean(axis=0)
    std = np.sqrt(np.full_like(variance, variance.mean()) if one_scale else variance)
    varies = std > 1e-9 * np.abs(columns).max(axis=0)
    standardised: NDArray[np.float64] = np.divide(centred, std, out=np.zeros_like(centred), where=varies)
    return standardised


def _geographic(op_ids: NDArray[np.int32], op_nodes: pl.DataFrame, graph: RailwayGraph) -> NDArray[np.float32]:
    located, east_north = coordinates_km(op_nodes)
    known = np.isin(op_ids, located)
    coordinates = _place(op_ids, located, standardise(east_north, one_scale=True))
    coordinates = _interpolate_over(graph, op_ids, coordinates, known)
    return np.column_stack([coordinates, known]).astype(np.float32)


def _interpolate_over(
    graph: RailwayGraph, op_ids: NDArray[np.int32], vectors: NDArray[np.float32], known: NDArray[np.bool_]
) -> NDArray[np.float32]:
    edges = np.searchsorted(op_ids, graph.op_ids)[graph.edges]
    return interpolate(vectors, known, edges, graph.weights).astype(np.float32)


def _place(op_ids: NDArray[np.int32], held: NDArray[np.int32], vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Put the rows of the points `held` at their positions in `op_ids`; all other rows are zero."""
    placed = np.zeros((len(op_ids), vectors.shape[1]), np.float32)
    placed[np.searchsorted(op_ids, held)] = vectors
    return placed


__all__ = ["FORMER_KEYS", "FORMER_KINDS", "KINDS", "PointEmbeddings", "compute_embeddings", "extend", "standardise"]
