from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from transformer.data.tables import OP_NODE_SCHEMA
from transformer.features.graph import EDGE_COUNT_SCHEMA, RailwayGraph, graph_from_edge_counts


@pytest.fixture
def edge_table() -> Callable[..., pl.DataFrame]:
    """Edge counts of (op_id, op_id) pairs, with one minute of running time and, by default, one journey each."""

    def make(edges: list[tuple[int, int]], journeys: list[int] | None = None) -> pl.DataFrame:
        counts = journeys or [1] * len(edges)
        rows = [(min(edge), max(edge), 60, count) for edge, count in zip(edges, counts, strict=True)]
        return pl.DataFrame(rows, schema=EDGE_COUNT_SCHEMA, orient="row")

    return make


@pytest.fixture
def graph_of(edge_table) -> Callable[..., RailwayGraph]:
    """The graph of (op_id, op_id) pairs."""
    return lambda edges, journeys=None: graph_from_edge_counts(edge_table(edges, journeys))


@pytest.fixture
def nodes_of() -> Callable[..., pl.DataFrame]:
    """The points table of {op_id: (lat, lon) or None}."""

    def make(positions: dict[int, tuple[float | None, float | None] | None]) -> pl.DataFrame:
        rows = [(op_id, f"point {op_id}", *(position or (None, None))) for op_id, position in positions.items()]
        return pl.DataFrame(rows, schema=OP_NODE_SCHEMA, orient="row")

    return make


@pytest.fixture
def barbell() -> tuple[list[tuple[int, int]], np.ndarray]:
    """Two cliques of six points that one edge joins, and the clique of each point."""
    pairs = [(i, j) for i in range(6) for j in range(i)]
    return [*pairs, *[(i + 6, j + 6) for i, j in pairs], (5, 6)], np.repeat([0, 1], 6)
