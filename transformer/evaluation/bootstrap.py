"""Confidence intervals by resampling whole units, such as service dates, since errors within a unit are correlated.

Legend of dimensions: U units, K sums, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]

BLOCK = 4_000_000  # units drawn at a time: 32 MB


@dataclass(frozen=True)
class Estimate:
    """A figure and its confidence interval."""

    value: float
    low: float
    high: float


def resampled_sums(sums_UK: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Totals [R, K] of each resample. A resample draws U of the U units, with replacement.

    Put all sums of the same units into one array, so that they are totalled over the same draws (paired).
    """
    n_units = len(sums_UK)
    generator = np.random.default_rng(seed)
    totals = []
    left = resamples
    while left:
        size = min(left, max(BLOCK // n_units, 1))
        drawn = generator.integers(n_units, size=(size, n_units)) + n_units * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n_units).reshape(size, n_units)
        totals.append(times @ sums_UK)
        left -= size
    return np.concatenate(totals)


def interval(replicates: FloatArray, n_units: int, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Lower and upper end over the first axis of `replicates` [R, …]. NaN replicates are left out.

    For few units, the percentile interval is too narrow. The percentiles are therefore moved outwards, as far as
    Student's t lies beyond the normal distribution. This is the expanded percentile interval (T. Hesterberg, "What
    Teachers Should Know About the Bootstrap", The American Statistician 69, 2015, arXiv 1411.5279). A single unit has
    no interval: both ends are NaN.
    """
    if n_units < 2:
        nothing = np.full(replicates.shape[1:], np.nan)
        return nothing, nothing
    student = special.stdtrit(n_units - 1, (1 - confidence) / 2)
    tail = special.ndtr(student * np.sqrt(n_units / (n_units - 1)))
    defined = np.where(np.isfinite(replicates).any(axis=0), replicates, 0.0)
    low, high = np.nanquantile(defined, [tail, 1 - tail], axis=0)
    undefined = ~np.isfinite(replicates).any(axis=0)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)
