"""The control: vectors that distinguish points and hold nothing about their place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def normal_vectors(op_ids: NDArray[np.int32], dim: int, seed: int) -> NDArray[np.float32]:
    """Standard normal float32[N, dim]. The vector of a point depends only on `seed` and its op_id."""
    vectors = np.empty((len(op_ids), dim), np.float32)
    for row, op_id in zip(vectors, op_ids.tolist(), strict=True):
        row[:] = np.random.default_rng((seed, op_id % 2**32)).standard_normal(dim)  # seeds are not negative
    return vectors
