"""Laplacian eigenmaps: coordinates in which two points lie close together if many trains run between them.

Source: Belkin and Niyogi, "Laplacian Eigenmaps for Dimensionality Reduction and Data Representation", 2003.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transformer.features.graph import RailwayGraph, adjacency

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_DENSE_POINTS = 128  # up to this size a dense solver is used; the sparse one needs far more points than vectors
_SHIFT = -1e-4  # just below the spectrum [0, 2], where L - shift·I can be factorised
_TIE = 1e-6  # a smaller relative difference between two magnitudes is rounding


def eigenmap(graph: RailwayGraph, dim: int) -> NDArray[np.float64]:
    """float64[N, dim]: eigenvectors of the smallest non-trivial eigenvalues of the symmetric normalised Laplacian.

    The paper divides the eigenvectors by √degree. Here they are not divided, because their tails are lighter so.
    Each connected component is solved separately. It fills the columns from the left, in the order of its eigenvalues.
    Each column has unit mean square over the component, and columns without an eigenvector are zero. The sign makes the
    entry of largest magnitude positive, or the first of several such entries.
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
    """float64[n, min(dim, n - 1)]: unit vectors of one component, without that of eigenvalue 0, which is trivial."""
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import eigsh

    size = weights.shape[0]
    count = min(dim + 1, size)
    normalised = laplacian(weights, normed=True)
    if size <= max(_DENSE_POINTS, 2 * count):
        vectors = np.linalg.eigh(normalised.toarray())[1][:, 1:count]
    else:
        # A random start has a part in every eigenvector. A start with a symmetry of the graph would miss some.
        start = np.random.default_rng(0).standard_normal(size)
        values, found = eigsh(normalised.tocsc(), k=count, sigma=_SHIFT, which="LM", v0=start)
        vectors = found[:, np.argsort(values)[1:]]
    magnitude = np.abs(vectors)
    decisive = np.argmax(magnitude >= magnitude.max(axis=0) * (1 - _TIE), axis=0)
    signed: NDArray[np.float64] = vectors * np.sign(vectors[decisive, np.arange(vectors.shape[1])])
    return signed
