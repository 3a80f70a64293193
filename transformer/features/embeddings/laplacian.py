"""Laplacian eigenmaps: coordinates in which points that trains run between often lie close together.

Source: Belkin and Niyogi, "Laplacian Eigenmaps for Dimensionality Reduction and Data Representation", 2003.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transformer.features.graph import RailwayGraph, adjacency

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_DENSE_POINTS = 128  # a component up to this size is solved whole; the sparse solver needs far more points than vectors
_SHIFT = -1e-4  # just below the spectrum [0, 2], where L - shift·I can be factorised
_TIE = 1e-6  # entries whose magnitudes differ by less, relatively, are equal but for rounding


def eigenmap(graph: RailwayGraph, dim: int) -> NDArray[np.float64]:
    """float64[N, dim]: eigenvectors of the smallest non-trivial eigenvalues of the symmetric normalised Laplacian.

    The paper divides these by √degree; here they are kept as they are, with lighter tails for the network to read.
    Each connected component is solved on its own and fills the columns from the left in order of its eigenvalues, each
    scaled to unit mean square over the component; columns it has no eigenvector for are zero. The sign is fixed: the
    entry of largest magnitude is positive, the first one of several.
    """
    from scipy.sparse.csgraph import connected_components

    weights = adjacency(graph)
    vectors = np.zeros((len(graph.op_ids), dim))
    n_components, labels = connected_components(weights, directed=False)
    for component in range(n_components):
        members = np.flatnonzero(labels == component)
        columns = _nontrivial_eigenvectors(weights[members][:, members], dim)
        vectors[members, : columns.shape[1]] = columns * np.sqrt(len(members))
    return vectors


def _nontrivial_eigenvectors(weights: csr_array, dim: int) -> NDArray[np.float64]:
    """float64[n, min(dim, n - 1)] unit vectors of one component; the first eigenvalue, 0, tells no two points apart."""
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import eigsh

    size = weights.shape[0]
    count = min(dim + 1, size)
    normalised = laplacian(weights, normed=True)
    if size <= max(_DENSE_POINTS, 2 * count):
        vectors = np.linalg.eigh(normalised.toarray())[1][:, 1:count]
    else:
        # A random start has a part in every eigenvector; one with a symmetry of the graph would miss some.
        start = np.random.default_rng(0).standard_normal(size)
        values, found = eigsh(normalised.tocsc(), k=count, sigma=_SHIFT, which="LM", v0=start)
        vectors = found[:, np.argsort(values)[1:]]
    magnitude = np.abs(vectors)
    decisive = np.argmax(magnitude >= magnitude.max(axis=0) * (1 - _TIE), axis=0)
    signed: NDArray[np.float64] = vectors * np.sign(vectors[decisive, np.arange(vectors.shape[1])])
    return signed
