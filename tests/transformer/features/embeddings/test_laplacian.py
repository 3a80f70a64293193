from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.csgraph import laplacian

from transformer.features.embeddings.laplacian import eigenmap
from transformer.features.graph import adjacency


def path(size: int, first: int = 0) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(first, first + size - 1)]


def ring(size: int) -> list[tuple[int, int]]:
    return [*path(size), (size - 1, 0)]


def rayleigh_quotients(graph, vectors: np.ndarray) -> np.ndarray:
    """Check that each column is an eigenvector, and return the eigenvalues."""
    matrix = laplacian(adjacency(graph), normed=True)
    values = (vectors * (matrix @ vectors)).sum(axis=0) / np.square(vectors).sum(axis=0)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-8)
    return values


@pytest.mark.parametrize("size", [40, 600], ids=["dense solver", "sparse solver"])
def test_path_graph_has_its_known_spectrum(graph_of, size: int) -> None:
    graph = graph_of(path(size))

    vectors = eigenmap(graph, 5)

    k = np.arange(1, 6)
    np.testing.assert_allclose(rayleigh_quotients(graph, vectors), 1 - np.cos(np.pi * k / (size - 1)), atol=1e-10)
    np.testing.assert_allclose(np.square(vectors).mean(axis=0), 1)
    degree = adjacency(graph).sum(axis=1)
    cosines = np.sqrt(degree)[:, None] * np.cos(np.pi * np.outer(np.arange(size), k) / (size - 1))
    overlap = (vectors * cosines).sum(axis=0) / np.linalg.norm(vectors, axis=0) / np.linalg.norm(cosines, axis=0)
    np.testing.assert_allclose(np.abs(overlap), 1, atol=1e-8)


@pytest.mark.parametrize("size", [40, 600])
def test_ring_has_its_known_spectrum_in_pairs(graph_of, size: int) -> None:
    graph = graph_of(ring(size))

    vectors = eigenmap(graph, 6)

    expected = 1 - np.cos(2 * np.pi * np.array([1, 1, 2, 2, 3, 3]) / size)
    np.testing.assert_allclose(rayleigh_quotients(graph, vectors), expected, atol=1e-10)


def test_weights_count(graph_of) -> None:
    """A section with few journeys divides the line at its place."""
    vectors = eigenmap(graph_of(path(10), journeys=[100] * 3 + [1] + [100] * 5), 1)

    side = vectors[:, 0] > 0
    assert side.tolist() in ([True] * 4 + [False] * 6, [False] * 4 + [True] * 6)


def test_each_component_is_solved_on_its_own(graph_of) -> None:
    together = eigenmap(graph_of([*path(30), *path(200, first=100)]), 4)

    np.testing.assert_allclose(together[:30], eigenmap(graph_of(path(30)), 4), atol=1e-9)
    np.testing.assert_allclose(together[30:], eigenmap(graph_of(path(200)), 4), atol=1e-7)


def test_small_components_are_padded_with_zeros(graph_of) -> None:
    vectors = eigenmap(graph_of([(0, 1), *path(3, first=5)]), 4)

    assert vectors.shape == (5, 4)
    np.testing.assert_allclose(np.abs(vectors[:2, 0]), 1)
    assert not vectors[:2, 1:].any() and not vectors[2:, 2:].any()
    assert vectors[2:, :2].any(axis=0).all()


def test_empty_graph(graph_of) -> None:
    assert eigenmap(graph_of([]), 4).shape == (0, 4)


@pytest.mark.parametrize("size", [40, 600])
def test_signs_are_fixed_and_runs_agree(graph_of, size: int) -> None:
    graph = graph_of(path(size))

    vectors = eigenmap(graph, 5)

    np.testing.assert_array_equal(vectors, eigenmap(graph, 5))
    decisive = np.argmax(np.abs(vectors) >= np.abs(vectors).max(axis=0) * (1 - 1e-6), axis=0)
    assert (vectors[decisive, range(5)] > 0).all(), "the first of the largest entries is positive"
