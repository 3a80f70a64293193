"""The railway graph: the operational points that the timetable joins, with numbers of journeys and running times.

The graph is built from planned events only, so delays and cancellations of the day do not shape it. The journeys are
counted per planned running time. The tables of single service dates therefore add up to the exact graph of all dates,
medians included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # takes half a second to import, and most stages do not need it

from transformer.data.tables import JOURNEY

EDGE_COUNT_SCHEMA: dict[str, pl.DataType] = {
    "op_a": pl.Int32(),  # the smaller of both op_ids, because edges have no direction
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
        edges: int32[E, 2], positions in `op_ids`, ascending; the smaller position of an edge comes first.
        weights: float64[E], number of journeys that ran the edge.
        running_time_s: float64[E], median planned running time in seconds.
    """

    op_ids: NDArray[np.int32]
    edges: NDArray[np.int32]
    weights: NDArray[np.float64]
    running_time_s: NDArray[np.float64]


def edge_counts(events: pl.DataFrame) -> pl.DataFrame:
    """Count the journeys over each edge, per planned running time: columns of EDGE_COUNT_SCHEMA, sorted.

    Two consecutive events of a journey at different points make an edge. A journey that runs an edge more than once
    counts once, with its shortest time. `events` holds whole journeys with the columns of EVENT_SCHEMA, in any order.
    If a period does not fit in memory, count one service date at a time and add up with `merge_edge_counts`.
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
    """Build the graph of an edge-count table. The graph of an empty table has no points."""
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
    """Number of parts of the railway between which no train runs."""
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(adjacency(graph), directed=False, return_labels=False))


def symmetric_matrix(size: int, edges: NDArray[np.integer], weights: NDArray[np.number]) -> csr_array:
    """float64[size, size] with each weight at (i, j) and (j, i). The weights of a repeated edge are added up."""
    from scipy.sparse import csr_array

    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    values = np.concatenate([weights, weights]).astype(np.float64)
    return csr_array((values, (rows, columns)), shape=(size, size))
