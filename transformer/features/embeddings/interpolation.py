"""Vectors for points without one, from their neighbours in the timetable.

Source: Zhu, Ghahramani and Lafferty, "Semi-Supervised Learning Using Gaussian Fields and Harmonic Functions", 2003.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from transformer.features.graph import symmetric_matrix


def interpolate(
    vectors: NDArray[np.floating],
    known: NDArray[np.bool_],
    edges: NDArray[np.integer],
    weights: NDArray[np.number],
) -> NDArray[np.float64]:
    """Set every unknown point to the weighted mean of its neighbours; known points keep their vectors.

    One sparse solve finds the values to which repeated averaging would converge. Along a line between two known points
    the vectors change evenly from one to the other. Points without a path to a known point become zero.

    Args:
        vectors: [N, D]; the rows of unknown points are not read.
        known: bool[N].
        edges: [E, 2] positions in `vectors`, undirected.
        weights: [E] above 0.

    Returns:
        float64[N, D].
    """
    from scipy.sparse import diags_array
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import splu

    matrix = symmetric_matrix(len(vectors), edges, weights)
    _, component = connected_components(matrix, directed=False)
    fillable = ~known & np.isin(component, component[known])
    filled = np.where(known[:, None], vectors, 0.0)
    if fillable.any():
        towards = matrix[fillable]
        laplacian = diags_array(towards.sum(axis=1)) - towards[:, fillable]
        filled[fillable] = splu(laplacian.tocsc()).solve(towards @ filled)
    return filled
