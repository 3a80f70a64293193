"""The railway graph: which operational points the timetable joins, how often, and in what time.

Built from planned events only, so neither delays nor cancellations of the day shape it. Counts are kept per planned
running time: adding up the tables of single service dates gives exactly the graph of all of them, medians included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # half a second of imports, which most stages do without

from transformer.data.tables import JOURNEY

EDGE_COUNT_SCHEMA: dict[str, pl.DataType] = {
    "op_a": pl.Int32(),  # the smaller op_id of the two: edges have no direction
    "op_b": pl.Int32(),
    "running_time_s": pl.Int32(),  # planned seconds from the last event at one end to the first at the other
    "journeys": pl.Int64(),  # journeys that run the edge in this time
}
_EDGE = ["op_a", "op_b"]


@dataclass(frozen=True, eq=False)
class RailwayGraph:
    """An undirected graph without loops; every point has at least one edge.

    Attributes:
        op_ids: int32[N], ascending.
        edges: int32[E, 2], positions in `op_ids`, the smaller first, in ascending order.
        weights: float64[E], number of journeys that ran the edge.
        running_time_s: float64[E], median planned running time in seconds.
    """

    op_ids: NDArray[np.int32]
    edges: NDArray[np.int32]
    weights: NDArray[np.float64]
    running_time_s: NDArray[np.float64]


def edge_counts(events: pl.DataFrame) -> pl.DataFrame:
    """Count the journeys over each edge, per planned running time, as in EDGE_COUNT_SCHEMA, sorted.

    Consecutive events of a journey at different points make an edge. A journey that runs an edge more than once counts
    once, with its shortest time. `events` has EVENT_SCHEMA columns in any row order and holds whole journeys; give it
    one service date at a time and use `merge_edge_counts` when the period does not fit in memory.
    """
    same_journey = pl.all_horizontal(pl.col(name) == pl.col(name).shift() for name in JOURNEY)
    previous_op_id = pl.col("op_id").shift()
    return (
        events.lazy()
        .select(*JOURNEY, "seq", "op_id", "planned_ts")
        .sort(*JOURNEY, "seq")
        .select(
            *JOURNEY,
            pl.min_horizontal("op_id", previous_op_id).alias("op_a"),
            pl.max_horizontal("op_id", previous_op_id).alias("op_b"),
            pl.col("planned_ts").diff().dt.total_seconds().cast(pl.Int32).alias("running_time_s"),
            same_journey.alias("same_journey"),
        )
        .filter(pl.col("same_journey") & (pl.col("op_a") != pl.col("op_b")))
        .group_by(*JOURNEY, *_EDGE)
        .agg(pl.col("running_time_s").min())
        .group_by(*_EDGE, "running_time_s")
        .agg(pl.len().cast(pl.Int64).alias("journeys"))
        .sort(*_EDGE, "running_time_s")
        .collect()
    )


def merge_edge_counts(tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Add up edge counts of different service dates."""
    return (
        pl.concat([pl.DataFrame(schema=EDGE_COUNT_SCHEMA), *tables])
        .group_by(*_EDGE, "running_time_s")
        .agg(pl.col("journeys").sum())
        .sort(*_EDGE, "running_time_s")
    )


def graph_from_edge_counts(counts: pl.DataFrame) -> RailwayGraph:
    """The graph of an edge-count table; an empty table gives a graph without points."""
    running_time, cumulative, total = pl.col("running_time_s"), pl.col("journeys").cum_sum(), pl.col("journeys").sum()
    lower = running_time.filter(cumulative > (total - 1) // 2).first()
    upper = running_time.filter(cumulative > total // 2).first()
    table = (
        counts.sort(*_EDGE, "running_time_s")
        .group_by(_EDGE, maintain_order=True)
        .agg(total.cast(pl.Float64).alias("weight"), ((lower + upper) / 2).alias("median_s"))
    )
    op_ids, positions = np.unique(table.select(_EDGE).to_numpy(), return_inverse=True)
    return RailwayGraph(
        op_ids=op_ids.astype(np.int32),
        edges=positions.reshape(-1, 2).astype(np.int32),
        weights=table["weight"].to_numpy(),
        running_time_s=table["median_s"].to_numpy(),
    )


def adjacency(graph: RailwayGraph) -> csr_array:
    """The weights as a symmetric sparse matrix, float64[N, N]."""
    return symmetric_matrix(len(graph.op_ids), graph.edges, graph.weights)


def count_components(graph: RailwayGraph) -> int:
    """Number of parts of the railway that no edge joins."""
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(adjacency(graph), directed=False, return_labels=False))


def symmetric_matrix(size: int, edges: NDArray[np.integer], weights: NDArray[np.number]) -> csr_array:
    """float64[size, size] holding each weight at (i, j) and (j, i); an edge given twice is added up."""
    from scipy.sparse import csr_array

    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    values = np.concatenate([weights, weights]).astype(np.float64)
    return csr_array((values, (rows, columns)), shape=(size, size))
