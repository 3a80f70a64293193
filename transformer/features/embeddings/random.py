"""The control: vectors that tell points apart and say nothing about where they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def normal_vectors(op_ids: NDArray[np.int32], dim: int, seed: int) -> NDArray[np.float32]:
    """Standard normal float32[N, dim]; a point's vector depends on `seed` and its op_id alone."""
    vectors = np.empty((len(op_ids), dim), np.float32)
    for row, op_id in zip(vectors, op_ids.tolist(), strict=True):
        row[:] = np.random.default_rng((seed, op_id % 2**32)).standard_normal(dim)  # seeds are not negative
    return vectors
