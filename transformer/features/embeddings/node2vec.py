"""node2vec: vectors from biased random walks over the railway, read like sentences.

Source: Grover and Leskovec, "node2vec: Scalable Feature Learning for Networks", 2016. All walkers step at once, and the
skip-gram model is gensim's.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transformer.config import Node2VecConfig
from transformer.features.graph import RailwayGraph, adjacency


def skip_gram_vectors(graph: RailwayGraph, config: Node2VecConfig) -> NDArray[np.float32]:
    """float32[N, dim]: the same in every process for the same graph and configuration."""
    from gensim.models import Word2Vec

    n_points = len(graph.op_ids)
    if n_points == 0:
        return np.zeros((0, config.dim), np.float32)
    sentences = random_walks(graph, config).astype(str).tolist()
    model = Word2Vec(
        sentences,
        vector_size=config.dim,
        window=config.window,
        epochs=config.epochs,
        sg=1,
        min_count=1,
        sample=0,  # in a railway of a few hundred points all are frequent; thinning would drop most steps
        seed=config.seed,
        workers=1,  # more than one thread updates in an order that changes from run to run
        hashfxn=_stable_hash,
    )
    vectors: NDArray[np.float32] = model.wv[[str(point) for point in range(n_points)]]
    return vectors


def random_walks(graph: RailwayGraph, config: Node2VecConfig) -> NDArray[np.int32]:
    """Positions in `graph.op_ids` visited by weighted second-order walks, int32[N · walks_per_node, walk_length].

    From edge (t, v) a walker goes on to neighbour x of v with probability proportional to weight(v, x) times 1/p for
    x = t, 1 for x next to t, and 1/q otherwise. The probabilities of all pairs of edges are held at once: Σ degree²,
    which is small in a railway, and exact however extreme p and q are.
    """
    matrix = adjacency(graph).sorted_indices()
    degrees = np.diff(matrix.indptr)
    heads = matrix.indices.astype(np.int64)
    tails = np.repeat(np.arange(len(degrees)), degrees)

    # First-order rows: one per point, listing its outgoing edges. Second-order rows: one per edge, listing the edges
    # that go on from its head.
    first = _ChoiceRows.of_weights(np.arange(len(heads)), matrix.data, degrees)
    lengths = degrees[heads]
    row_starts = np.cumsum(lengths) - lengths
    within = np.arange(lengths.sum()) - np.repeat(row_starts, lengths)
    onward = np.repeat(matrix.indptr[heads], lengths) + within
    came_from, goes_to = np.repeat(tails, lengths), heads[onward]
    edge_keys = tails * len(degrees) + heads
    is_next_to_origin = np.isin(came_from * len(degrees) + goes_to, edge_keys)
    bias = np.where(goes_to == came_from, 1 / config.p, np.where(is_next_to_origin, 1.0, 1 / config.q))
    second = _ChoiceRows.of_weights(onward, matrix.data[onward] * bias, lengths)

    random = np.random.default_rng(config.seed)
    starts = np.tile(np.arange(len(degrees)), config.walks_per_node)
    walks = np.empty((len(starts), config.walk_length), np.int32)
    walks[:, 0] = starts
    edges, choices = starts, first
    for step in range(1, config.walk_length):
        edges, choices = choices.draw(edges, random), second
        walks[:, step] = heads[edges]
    return walks


@dataclass(frozen=True)
class _ChoiceRows:
    """Rows of weighted options, ready to draw one option from many rows at once.

    Row i occupies the interval [i, i + 1] of one running sum, so that a draw is a binary search.
    """

    options: NDArray[np.int64]
    cumulative: NDArray[np.float64]
    first: NDArray[np.int64]  # position of each row's first option
    last: NDArray[np.int64]

    @classmethod
    def of_weights(
        cls, options: NDArray[np.int64], weights: NDArray[np.float64], lengths: NDArray[np.integer]
    ) -> _ChoiceRows:
        """Rows of `lengths` options each, none empty, drawn in proportion to `weights`."""
        ends = np.cumsum(lengths, dtype=np.int64)
        totals = np.add.reduceat(weights, ends - lengths)
        return cls(options, np.cumsum(weights / np.repeat(totals, lengths)), ends - lengths, ends - 1)

    def draw(self, rows: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        found = np.searchsorted(self.cumulative, rows + random.random(len(rows)), side="right")
        # Rounding of the running sum can carry a draw at a row's very border into its neighbour.
        return self.options[np.clip(found, self.first[rows], self.last[rows])]


def _stable_hash(text: str) -> int:
    """Unlike `hash`, the same in every process."""
    return zlib.crc32(text.encode())
