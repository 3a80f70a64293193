"""Cases ranked by a score: how many of the highest are hits. Histograms of the score add up over any parts.

Scores in one bin count as equal, and may come in any order. Where only some of them are taken, the expected number of
hits counts.

Legend of dimensions: B bins of the score, in ascending order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    cases: IntArray  # [B]
    hits: IntArray  # [B] those of the cases that came true

    @classmethod
    def empty(cls, bins: int) -> Self:
        return cls(np.zeros(bins, np.int64), np.zeros(bins, np.int64))

    def including(self, bins: npt.NDArray[np.integer], hit: npt.NDArray[np.bool_]) -> Self:
        """The ranking with more cases.

        Args:
            bins: bin of the score of each case.
            hit: whether the case came true.
        """
        size = len(self.cases)
        more, true = (np.bincount(chosen, minlength=size) for chosen in (bins, bins[hit]))
        return type(self)(self.cases + more, self.hits + true)

    def curve(self) -> tuple[FloatArray, FloatArray]:
        """Recall and precision of the cases from each score up, highest score first, without scores that no case has.

        Without a hit, the recall is NaN.
        """
        taken = self.cases[::-1] > 0
        cases, hits = (np.cumsum(counts[::-1])[taken] for counts in (self.cases, self.hits))
        with np.errstate(invalid="ignore"):
            return hits / self.hits.sum(), hits / cases

    def average_precision(self) -> float:
        """Σ (recall − next higher recall) × precision, as in scikit-learn; NaN without a hit."""
        recall, precision = self.curve()
        return float((np.diff(recall, prepend=0) * precision).sum())

    def of_highest(self, count: float) -> tuple[float, float]:
        """Precision and recall of the `count` highest scores; NaN = undefined, without a case or without a hit."""
        above = np.cumsum(self.cases[::-1])[::-1] - self.cases
        taken = np.clip(count - above, 0, self.cases)
        hits = float((self.hits * taken / np.maximum(self.cases, 1)).sum())
        with np.errstate(invalid="ignore"):
            precision, recall = hits / np.array([taken.sum(), self.hits.sum()])
        return float(precision), float(recall)
