"""Positions of the operational points on a flat map, from their coordinates or from the running times between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.sparse.linalg import eigsh
from scipy.spatial.distance import cdist

from transformer.config import Config
from transformer.data.points import read_op_nodes
from transformer.features.embeddings.geographic import coordinates_km
from transformer.features.embeddings.interpolation import interpolate
from transformer.features.graph import RailwayGraph, graph_from_edge_counts, symmetric_matrix
from transformer.training.run_folder import TrainedModel

_GAP = 0.1  # gap to the next part of the railway that no link joins, as share of a part's width
_DENSE_POINTS = 8  # a part of at most so many points is solved with the dense solver
_STEPS = 100  # after so many steps, no point moves visibly


@dataclass(frozen=True, eq=False)
class Places:
    """Operational points on a plane, with the same scale on both axes. Points without a position are left out."""

    points: pl.DataFrame  # op_id, x, y, `known` (the point has coordinates of its own)
    links: pl.DataFrame  # x, y, x_b, y_b: the ends of each link
    axes: tuple[str, str]  # names of x and y, with unit

    @property
    def n_guessed(self) -> int:
        """Number of points without coordinates of their own."""
        return self.points.height - int(self.points["known"].sum())


def places_of(trained: TrainedModel, config: Config) -> Places:
    """Return the points of a trained model's railway.

    Args:
        config: `trained.located(…)`.
    """
    op_nodes = read_op_nodes(Path(config.data.local_folder))
    return place_points(op_nodes, graph_from_edge_counts(trained.embeddings.edges))


def place_points(op_nodes: pl.DataFrame, graph: RailwayGraph) -> Places:
    """Place points by their coordinates, in km. A point without coordinates is placed between its neighbours.

    If no point has coordinates, points are placed by running time, in minutes: see `layout_by_running_time`.

    Args:
        op_nodes: OP_NODE_SCHEMA columns.
    """
    located, east_north = coordinates_km(op_nodes)
    if len(located):
        op_ids = np.union1d(located, graph.op_ids)
        known = np.isin(op_ids, located)
        xy = np.zeros((len(op_ids), 2))
        xy[known] = east_north
        edges = np.searchsorted(op_ids, graph.op_ids)[graph.edges]
        xy = interpolate(xy, known, edges, graph.weights)
        _, part = connected_components(symmetric_matrix(len(op_ids), edges, graph.weights), directed=False)
        somewhere = np.isin(part, part[known])
        op_ids, xy, known = op_ids[somewhere], xy[somewhere], known[somewhere]
        axes = ("km east of the middle", "km north of the middle")
    else:
        op_ids, xy = graph.op_ids, layout_by_running_time(graph)
        known = np.zeros(len(op_ids), np.bool_)
        axes = ("minutes of running time (no coordinates are known)", "minutes of running time")
    points = pl.DataFrame({"op_id": op_ids.astype(np.int32), "x": xy[:, 0], "y": xy[:, 1], "known": known})
    ends = points.select("op_id", "x", "y")
    links = (
        pl.DataFrame({"op_a": graph.op_ids[graph.edges[:, 0]], "op_b": graph.op_ids[graph.edges[:, 1]]})
        .join(ends, left_on="op_a", right_on="op_id")
        .join(ends, left_on="op_b", right_on="op_id", suffix="_b")
        .select("x", "y", "x_b", "y_b")
    )
    return Places(points, links, axes)


def layout_by_running_time(graph: RailwayGraph) -> NDArray[np.float64]:
    """Return positions float64[N, 2] whose distances approximate the shortest running times, in minutes.

    Classical scaling of the running times gives a first layout, in which lines may overlap. Majorization then spreads
    the points. Parts of the railway that no link joins are placed next to each other, the largest first.
    Sources: Torgerson, "Multidimensional scaling: I. Theory and method", 1952; de Leeuw, "Applications of convex
    analysis to multidimensional scaling", 1977.
    """
    size = len(graph.op_ids)
    minutes = np.maximum(graph.running_time_s, 1) / 60  # a sparse matrix cannot hold a link with running time 0
    times = symmetric_matrix(size, graph.edges, minutes)
    _, part = connected_components(times, directed=False)
    placed, right = np.zeros((size, 2)), 0.0
    for number in np.argsort(-np.bincount(part, minlength=1), kind="stable") if size else []:
        members = np.flatnonzero(part == number)
        xy = _scaled(times[members][:, members])
        width = float(np.ptp(xy[:, 0]))
        placed[members] = xy + np.array([right - xy[:, 0].min(), 0.0])
        right += width * (1 + _GAP) + 1
    return placed


def _scaled(times: csr_array) -> NDArray[np.float64]:
    """Return the layout [n, 2] of one part of the railway."""
    minutes = shortest_path(times, directed=False)
    return _spread(_torgerson(minutes), minutes)


def _torgerson(minutes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the two main directions [n, 2] of the running times [n, n], with fixed signs."""
    size = len(minutes)
    squares = np.square(minutes)
    products = (squares.mean(0) + squares.mean(1, keepdims=True) - squares - squares.mean()) / 2
    if size <= _DENSE_POINTS:
        values, vectors = np.linalg.eigh(products)
    else:
        values, vectors = eigsh(products, k=2, which="LA", v0=np.random.default_rng(0).standard_normal(size))
    order = np.argsort(values)[::-1][:2]
    xy = np.zeros((size, 2))
    xy[:, : len(order)] = vectors[:, order] * np.sqrt(np.maximum(values[order], 0))
    signs = np.sign(xy[np.abs(xy).argmax(axis=0), [0, 1]])
    placed: NDArray[np.float64] = xy * np.where(signs == 0, 1.0, signs)
    return placed


def _spread(xy: NDArray[np.float64], minutes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move points [n, 2] until their distances approximate `minutes`. Each step reduces the squared error."""
    for _ in range(_STEPS):
        distance = cdist(xy, xy)
        ratio = np.divide(minutes, distance, out=np.zeros_like(minutes), where=distance > 0)
        xy = (ratio.sum(1, keepdims=True) * xy - ratio @ xy) / len(xy)
    return xy
