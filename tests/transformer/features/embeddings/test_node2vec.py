from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from transformer.config import Node2VecConfig
from transformer.features.embeddings.node2vec import random_walks, skip_gram_vectors
from transformer.features.graph import adjacency

ROOT = Path(__file__).resolve().parents[4]


def test_walks_follow_edges_and_start_everywhere(graph_of, barbell) -> None:
    graph = graph_of(barbell[0])

    walks = random_walks(graph, Node2VecConfig(walk_length=20, walks_per_node=3))

    assert walks.shape == (12 * 3, 20)
    assert np.bincount(walks[:, 0]).tolist() == [3] * 12
    assert (adjacency(graph).toarray()[walks[:, :-1], walks[:, 1:]] > 0).all()


def test_steps_have_the_papers_probabilities(graph_of) -> None:
    """From t = 0 over v = 1: back to 0 with weight/p, on to 2 (next to 0) with its weight, to 3 with weight/q."""
    graph = graph_of([(0, 1), (0, 2), (1, 2), (1, 3)], journeys=[2, 1, 3, 4])

    walks = random_walks(graph, Node2VecConfig(walk_length=3, walks_per_node=40_000, p=0.5, q=4.0))

    from_0 = walks[walks[:, 0] == 0]
    assert np.mean(from_0[:, 1] == 1) == pytest.approx(2 / 3, abs=0.01)
    third = from_0[from_0[:, 1] == 1, 2]
    expected = np.array([2 / 0.5, 0, 3, 4 / 4.0])
    np.testing.assert_allclose(np.bincount(third, minlength=4) / len(third), expected / expected.sum(), atol=0.01)


@pytest.mark.parametrize("p", [1e-12, 1e12])
def test_walks_turn_back_at_a_dead_end_however_unlikely(graph_of, p: float) -> None:
    walks = random_walks(graph_of([(0, 1), (1, 2)]), Node2VecConfig(walk_length=50, p=p))

    assert (np.abs(np.diff(walks, axis=1)) == 1).all()


def test_neighbours_are_nearer_than_strangers(graph_of, barbell) -> None:
    edges, clique = barbell

    vectors = skip_gram_vectors(graph_of(edges), Node2VecConfig(epochs=10))

    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    together = clique[:, None] == clique
    others = ~np.eye(len(clique), dtype=bool)
    assert cosine[together & others].mean() > cosine[~together].mean() + 0.3


def test_seed_decides(graph_of, barbell) -> None:
    graph = graph_of(barbell[0])

    vectors = skip_gram_vectors(graph, Node2VecConfig(seed=1))

    assert vectors.shape == (12, 16) and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, skip_gram_vectors(graph, Node2VecConfig(seed=1)))
    assert not np.array_equal(vectors, skip_gram_vectors(graph, Node2VecConfig(seed=2)))


def test_empty_graph(graph_of) -> None:
    assert skip_gram_vectors(graph_of([]), Node2VecConfig(dim=8)).shape == (0, 8)


def test_every_process_finds_the_same_vectors(graph_of) -> None:
    """Python salts `hash` of text per process; the vectors must not depend on it."""
    program = """
import hashlib
import numpy as np
from transformer.config import Node2VecConfig
from transformer.features.embeddings.node2vec import skip_gram_vectors
from transformer.features.graph import RailwayGraph
edges = np.array([(i, i + 1) for i in range(59)], np.int32)
graph = RailwayGraph(np.arange(60, dtype=np.int32), edges, np.ones(59), np.ones(59))
print(hashlib.sha256(skip_gram_vectors(graph, Node2VecConfig()).tobytes()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for salt in ("1", "2")
    }

    here = skip_gram_vectors(graph_of([(i, i + 1) for i in range(59)]), Node2VecConfig())
    assert digests == {hashlib.sha256(here.tobytes()).hexdigest()}


@pytest.mark.slow
def test_a_national_network_takes_seconds(graph_of) -> None:
    random = np.random.default_rng(0)
    branches = [(int(random.integers(max(0, i - 30), i)), i) for i in range(1, 1_400)]

    started = time.process_time()
    skip_gram_vectors(graph_of(branches), Node2VecConfig(walk_length=40, walks_per_node=10))

    assert time.process_time() - started < 10
