"""The distribution of a delay as probabilities of bins, and its quantiles.

The bins are of the change of a delay, from the last known one on. Near no change, a bin is one step of the data's
resolution wide; beyond, bins widen. A member of the network scores them. A softmax over the bins that are still
possible turns the scores into probabilities. So an overdue event has its conditional distribution, given that it has
not happened by the instant. Scores of bins that have become impossible get no gradient.

Trained on classes, a network gets a gradient from the whole distribution, and not only the sign of an error. Source:
Farebrother et al. 2024, arXiv 2403.03950. The conditional distribution is that of discrete survival models: Gensheimer
and Narasimhan 2019, arXiv 1805.00917.

Legend of dimensions: C next events, M members, K bins, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEAST_STEP_S = 15.0  # width of the narrowest bins in data of a finer resolution
SINGLE_STEPS = 12  # changes up to so many steps have a bin of their own
GROWTH = 1.15  # of the centres of successive bins beyond
EARLIEST_S, LATEST_S = -3_600.0, 10_800.0  # the outermost bins hold all changes beyond
_PRIOR_AT_ZERO = 0.6  # probability of no change in an untrained network, so that no change is its median
_NEVER = -1e4  # score of an impossible bin; its probability is 0 in float32


class ChangeBins(nn.Module):
    """Bins of the change of a delay in seconds."""

    edges: Tensor  # [K + 1] a buffer, ascending

    def __init__(self, resolution_s: float) -> None:
        """
        Args:
            resolution_s: step of the observed delays.
        """
        super().__init__()
        step = max(resolution_s, LEAST_STEP_S)
        later = _centres(LATEST_S / step)
        earlier = _centres(-EARLIEST_S / step)
        centres = step * torch.tensor([*(-steps for steps in reversed(earlier)), 0.0, *later])
        between = (centres[1:] + centres[:-1]) / 2
        ends = centres[0] - step / 2, centres[-1] + step / 2
        self.register_buffer("edges", torch.cat([ends[0][None], between, ends[1][None]]))
        self._zero = len(earlier)

    @property
    def number(self) -> int:
        """K."""
        return len(self.edges) - 1

    def prior(self) -> Tensor:
        """Scores [K] of an untrained network: mostly no change, and the less the larger it is."""
        centres = (self.edges[1:] + self.edges[:-1]) / 2
        width = self.edges[1:] - self.edges[:-1]
        narrow = width[self._zero]
        shares = width / (narrow + centres.abs()).square()
        shares[self._zero] = 0.0
        shares *= (1 - _PRIOR_AT_ZERO) / shares.sum()
        shares[self._zero] = _PRIOR_AT_ZERO
        return shares.log()

    def log_probabilities(self, scores_CMK: Tensor, least_C: Tensor) -> Tensor:
        """Logarithms of the probabilities [C, M, K], given that each change is at least `least_C` [C] seconds."""
        impossible_CK = self.edges[1:] <= least_C[:, None]  # the bin of the least change itself is possible
        impossible_CK[:, -1] = False
        return torch.log_softmax(scores_CMK.masked_fill(impossible_CK[:, None], _NEVER), dim=-1)

    def bin_of(self, change_C: Tensor) -> Tensor:
        """The bin of each change [C] in seconds."""
        return torch.bucketize(change_C, self.edges[1:-1], right=True)

    def quantiles(self, probability_CK: Tensor, levels: Sequence[float]) -> Tensor:
        """Quantiles [C, Q] at ascending `levels`, seconds. A bin's probability is spread evenly over the bin."""
        until_CK = probability_CK.cumsum(-1)
        until_CK = nn.functional.pad(until_CK / until_CK[:, -1:], (1, 0))
        level_CQ = until_CK.new_tensor(levels).expand(len(until_CK), -1).contiguous()
        upper = torch.searchsorted(until_CK, level_CQ).clamp(1, self.number)
        below, above = until_CK.gather(1, upper - 1), until_CK.gather(1, upper)
        share = (level_CQ - below) / (above - below).clamp(min=torch.finfo(below.dtype).tiny)
        low, high = self.edges[upper - 1], self.edges[upper]
        return low + share.clamp(0, 1) * (high - low)


def cross_entropy(log_probability_CMK: Tensor, bin_C: Tensor) -> Tensor:
    """Minus the logarithm of the probability of each event's own bin [C], as mean over the members."""
    own = log_probability_CMK.gather(-1, bin_C[:, None, None].expand(-1, log_probability_CMK.shape[1], 1))
    return -own[..., 0].mean(-1)


def ranked_probability_score(log_probability_CMK: Tensor, bin_C: Tensor, edges: Tensor) -> Tensor:
    """The ranked probability score [C] in minutes, as mean over the members.

    It is the CRPS of the bins: the squared difference between predicted and observed distribution function at each
    inner edge, times the distance between the centres next to it. Source: Gneiting and Raftery 2007, equation 21.
    """
    until = log_probability_CMK.exp().cumsum(-1)[..., :-1]
    happened = torch.arange(until.shape[-1], device=until.device) >= bin_C[:, None]
    distance = (edges[2:] - edges[:-2]) / 2 / 60
    return ((until - happened[:, None].float()).square() * distance).sum(-1).mean(-1)


def _centres(most: float) -> list[float]:
    """Centres of bins on one side of no change, in steps, ascending up to at least `most`."""
    centres = [1.0]
    while centres[-1] < most:
        nearest = centres[-1] + 1
        centres.append(nearest if nearest <= SINGLE_STEPS else max(nearest, float(round(centres[-1] * GROWTH))))
    return centres
