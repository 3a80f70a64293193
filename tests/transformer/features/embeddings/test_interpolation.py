from __future__ import annotations

import numpy as np
import pytest

from transformer.features.embeddings.interpolation import interpolate


def fill(values: list[float | None], edges: list[tuple[int, int]], weights: list[float] | None = None) -> list[float]:
    vectors = np.array([[np.nan if value is None else value] for value in values])
    known = np.array([value is not None for value in values])
    links = np.array(edges, np.int64).reshape(-1, 2)
    return interpolate(vectors, known, links, np.array(weights or [1.0] * len(edges)))[:, 0].tolist()


def test_one_point_between_two() -> None:
    assert fill([0, None, 1], [(0, 1), (1, 2)]) == pytest.approx([0, 0.5, 1])


def test_weights_pull() -> None:
    assert fill([0, None, 1], [(0, 1), (1, 2)], [1, 3]) == pytest.approx([0, 0.75, 1])


def test_an_edge_given_twice_weighs_twice() -> None:
    assert fill([0, None, 1], [(0, 1), (1, 2), (2, 1), (1, 2)]) == pytest.approx([0, 0.75, 1])


def test_a_run_of_unknown_points_is_even() -> None:
    assert fill([0, None, None, None, 1], [(0, 1), (1, 2), (2, 3), (3, 4)]) == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_a_branch_takes_the_value_where_it_leaves_the_line() -> None:
    assert fill([4, None, None], [(0, 1), (1, 2)]) == pytest.approx([4, 4, 4])


def test_out_of_reach_stays_zero() -> None:
    assert fill([1, None, None, None], [(0, 1), (2, 3)]) == pytest.approx([1, 1, 0, 0])


@pytest.mark.parametrize("edges", [[], [(0, 1)]])
def test_nothing_known(edges: list[tuple[int, int]]) -> None:
    assert fill([None, None], edges) == [0, 0]


def test_edges_between_known_points_change_nothing() -> None:
    assert fill([1, 5], [(0, 1)]) == [1, 5]


def test_every_filled_point_is_the_mean_of_its_neighbours() -> None:
    random = np.random.default_rng(0)
    edges = np.array([(random.integers(i), i) for i in range(1, 200)] + random.integers(200, size=(100, 2)).tolist())
    edges = edges[edges[:, 0] != edges[:, 1]]
    weights = random.uniform(1, 100, len(edges))
    known = random.random(200) < 0.3
    vectors = random.standard_normal((200, 3))

    filled = interpolate(vectors, known, edges, weights)

    np.testing.assert_array_equal(filled[known], vectors[known])
    matrix = np.zeros((200, 200))
    np.add.at(matrix, tuple(edges.T), weights)
    matrix += matrix.T
    means = matrix @ filled / matrix.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(filled[~known], means[~known], atol=1e-10)
