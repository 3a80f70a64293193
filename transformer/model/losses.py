"""The loss of predicted distributions, over the observed events."""

from __future__ import annotations

from torch import Tensor

from transformer.config import LossConfig
from transformer.model.distribution import ChangeBins, cross_entropy, ranked_probability_score


def distribution_loss(config: LossConfig, bins: ChangeBins, log_probability_CMK: Tensor, change_C: Tensor) -> Tensor:
    """A scalar loss of the observed changes [C] in seconds: the configured score, averaged over events and members.

    It is 0, with no gradient, if there is no event.
    """
    if not len(change_C):  # a batch without a label must not turn the weights into NaN
        return log_probability_CMK.sum() * 0.0
    own = bins.bin_of(change_C)
    match config.name:
        case "log":
            return cross_entropy(log_probability_CMK, own).mean()
        case "rps":
            return ranked_probability_score(log_probability_CMK, own, bins.edges).mean()
        case "mixed":
            ranked = ranked_probability_score(log_probability_CMK, own, bins.edges).mean()
            return cross_entropy(log_probability_CMK, own).mean() + config.ranked_weight * ranked
