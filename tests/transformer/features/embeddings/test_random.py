from __future__ import annotations

import numpy as np

from transformer.features.embeddings.random import normal_vectors


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_a_vector_is_the_same_whatever_the_other_points_are() -> None:
    few, many = normal_vectors(ids(7, 9), 8, seed=0), normal_vectors(ids(1, 7, 8, 9, 100), 8, seed=0)

    np.testing.assert_array_equal(few, many[[1, 3]])


def test_seed_and_point_decide() -> None:
    vectors = normal_vectors(ids(1, 2), 8, seed=0)

    assert vectors.dtype == np.float32
    assert not np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors, normal_vectors(ids(1, 2), 8, seed=1))


def test_standard_normal() -> None:
    vectors = normal_vectors(np.arange(2_000, dtype=np.int32), 16, seed=3)

    np.testing.assert_allclose([vectors.mean(), vectors.std()], [0, 1], atol=0.02)
    correlation = np.corrcoef(vectors[:-1].ravel(), vectors[1:].ravel())[0, 1]
    assert abs(correlation) < 0.02, "points with adjacent identifiers are unrelated"


def test_negative_identifiers_have_vectors_too() -> None:
    assert normal_vectors(ids(-1), 4, seed=0).any()
