"""Vectors of operational points: which kinds there are, and all of them together as one table.

| kind | says | over the points that have it |
|---|---|---|
| `laplacian` | place in the railway at large | each column zero mean, unit variance |
| `geographic` | east and north, and 1 where they are known | zero mean, unit variance at one scale: distances hold |
| `random` | identity alone: a control | standard normal as drawn, so a vector never depends on other points |

A row of zeros stands for "unknown"; in the standardised kinds it is the mean of all points.
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
# Kinds of earlier programs. None is computed any more; the models that learned to read their vectors keep them.
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
        """float32[len(order) + 1, dim]: row i + 1 is point `order[i]`, all kinds side by side; row 0 is no point.

        A point these embeddings do not hold is a row of zeros, like row 0.
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
            table = pl.read_parquet(path)
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
    """Every kind that `config` switches on, over all points of `op_nodes` and `graph`.

    A point without a position gets the coordinates of its neighbours in the graph. A point without trains in `graph`
    stays unknown to `laplacian`; `extend` fills it when a timetable reaches it.
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
    """Add the points of a later timetable, and fill known ones that had no vector, from their neighbours in it.

    `timetable_edges` is `graph.edge_counts` of the later dates: planned events alone. Vectors that are known do not
    change. The position indicator stays 0 for filled points, and `random` stays zero for new ones: nothing was learned
    for their identity, and an average would tell where they are.
    """
    timetable = graph_from_edge_counts(timetable_edges)
    op_ids = np.union1d(embeddings.op_ids, timetable.op_ids)
    vectors = {kind: _place(op_ids, embeddings.op_ids, old) for kind, old in embeddings.vectors.items()}
    for kind in vectors.keys() - {"random"}:
        # Slices are views: filling the coordinates leaves the indicator beside them as it is.
        columns = vectors[kind][:, : N_COORDINATES if kind == "geographic" else None]
        columns[:] = _interpolate_over(timetable, op_ids, columns, known=np.any(columns, axis=1))
    return PointEmbeddings(op_ids, vectors)


def standardise(columns: NDArray[np.floating], *, one_scale: bool = False) -> NDArray[np.float64]:
    """Zero mean over points per column, and unit variance: per column, or on average over columns at `one_scale`.

    A column that is constant but for rounding becomes zero.
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
    """The rows of points `held`, at their places among all `op_ids`; zeros elsewhere."""
    placed = np.zeros((len(op_ids), vectors.shape[1]), np.float32)
    placed[np.searchsorted(op_ids, held)] = vectors
    return placed


__all__ = ["FORMER_KEYS", "FORMER_KINDS", "KINDS", "PointEmbeddings", "compute_embeddings", "extend", "standardise"]
