"""Joint distribution of the delays of one train: a Gaussian copula over the ranks of its next events.

The predicted quantiles say how late each event may be, but not how delays go together: a train that is later than
expected at one stop is later than expected at the next. A *normal score* is the standard normal value with the same
probability as a delay. Scores of one train are taken as jointly normal, with one correlation for each pair of ranks. It
is measured on the validation dates, with the scores of the observed delays. Trains are independent of each other, given
their snapshot. Source: Gaussian copula (Sklar 1959; Möller, Lenkoski, Thorarinsdottir 2013, doi 10.1002/qj.2009, for
the joint calibration of forecasts).

Between two levels, a delay and its score are joined by a straight line. Beyond the outermost levels, the line of the
last two levels goes on.

Legend of dimensions: R rows, N trains, F ranks, Q quantile levels, K sampled journeys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

MIN_ROWS = 200  # pairs of ranks that fewer trains have count as independent
_LIMIT = 4.0  # a larger score counts as this one: 3 in 100,000 are larger
_UNITS = 256.0  # of a score of 1; sums of whole units are exact in any order, for 8 × 10⁹ trains


def independent(n_ranks: int) -> Tensor:
    """The correlation [F, F] of delays that have nothing to do with each other."""
    return torch.eye(n_ranks)


def level_scores(levels: Sequence[float]) -> Tensor:
    """The normal scores [Q] of quantile levels."""
    scores: Tensor = torch.special.ndtri(torch.tensor(levels, dtype=torch.float64))
    return scores.float()


def normal_scores(delay: Tensor, quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """The scores [...] of delays [...] under their predicted quantiles [..., Q], both in seconds; at least two levels.

    Scores are limited to ±4.
    """
    knots, scores = quantiles.float().contiguous(), level_scores(levels).to(quantiles.device)
    value = delay.float()[..., None]
    low = (torch.searchsorted(knots, value.contiguous(), right=True) - 1).clamp(0, len(levels) - 2)
    begin, end = knots.gather(-1, low), knots.gather(-1, low + 1)
    share = (value - begin) / (end - begin).clamp(min=torch.finfo(torch.float32).tiny)
    found = scores[low] + share * (scores[low + 1] - scores[low])
    return found[..., 0].clamp(-_LIMIT, _LIMIT)


def delays_at(scores: Tensor, quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """The delays [..., K] in seconds at normal scores [..., K] of distributions with these quantiles [..., Q]."""
    knots = level_scores(levels).to(quantiles.device)
    low = (torch.bucketize(scores.contiguous(), knots, right=True) - 1).clamp(0, len(levels) - 2)
    share = (scores - knots[low]) / (knots[low + 1] - knots[low])
    begin, end = quantiles.gather(-1, low), quantiles.gather(-1, low + 1)
    return begin + share * (end - begin)


def sample_scores(correlation: Tensor, n_trains: int, n_journeys: int, generator: torch.Generator) -> Tensor:
    """Scores [N, F, K] of K journeys of each train. Trains and journeys are independent."""
    values, vectors = torch.linalg.eigh(correlation.double())
    factor = vectors * values.clamp(min=0).sqrt()  # pairwise correlations may not fit together: the nearest that do
    factor = (factor / factor.norm(dim=1, keepdim=True)).float()
    noise = torch.randn(n_trains, len(correlation), n_journeys, generator=generator)
    return torch.einsum("fg,ngk->nfk", factor, noise)


class RankCorrelation(Metric):
    """Collects the scores of validation rows; `compute` returns their correlation over ranks [F, F].

    A pair of ranks counts the trains with an observed delay at both. All sums are exact, so they do not depend on
    batches or processes.
    """

    full_state_update = False
    counts: Tensor  # [F, F] trains with both ranks f and g
    sums: Tensor  # [F, F] of the scores at f, over these trains
    squares: Tensor  # [F, F] of the scores at f, squared
    products: Tensor  # [F, F] of the scores at f and g

    def __init__(self, levels: Sequence[float], n_ranks: int) -> None:
        super().__init__()
        self.levels = tuple(levels)
        for name in ("counts", "sums", "squares", "products"):
            self.add_state(name, torch.zeros(n_ranks, n_ranks, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, quantiles: Tensor, label: Tensor, mask: Tensor) -> None:
        """Add trains: quantiles [..., F, Q] and observed delays [..., F] in seconds, and which of them exist [..., F].

        A distribution with one level has no scores, and is not counted.
        """
        if len(self.levels) < 2:
            return
        exists_NF = mask.flatten(0, -2).double()
        scores = normal_scores(label, quantiles, self.levels).flatten(0, -2).double()
        scores_NF = torch.round(scores * _UNITS) * exists_NF
        self.counts += exists_NF.T @ exists_NF
        self.sums += scores_NF.T @ exists_NF
        self.squares += scores_NF.square().T @ exists_NF
        self.products += scores_NF.T @ scores_NF

    def compute(self) -> Tensor:
        """The correlation [F, F]. Its diagonal is 1."""
        n = self.counts.clamp(min=1)
        mean = self.sums / n
        variance = (self.squares / n - mean.square()).clamp(min=1e-12)
        found = (self.products / n - mean * mean.T) / (variance * variance.T).sqrt()
        found = torch.where(self.counts >= MIN_ROWS, found.clamp(-1, 1), 0.0)
        return found.fill_diagonal_(1.0).float()
