"""The loss of predicted distributions, over the observed events."""

from __future__ import annotations

from torch import Tensor

from transformer.config import LossConfig
from transformer.model.distribution import ChangeBins, cross_entropy, ranked_probability_score


def distribution_loss(config: LossConfig, bins: ChangeBins, log_probability_CMK: Tensor, change_C: Tensor) -> Tensor:
    """A scalar loss of the observed changes [C] in seconds: a weighted sum of the two scores, averaged over the events.

    It is 0, with no gradient, if there is no event.
    """
    if not len(change_C):  # a batch without a label must not turn the weights into NaN
        return log_probability_CMK.sum() * 0.0
    own = bins.bin_of(change_C)
    total = log_probability_CMK.new_zeros(())
    if config.cross_entropy:
        total = total + config.cross_entropy * cross_entropy(log_probability_CMK, own).mean()
    if config.ranked_probability:
        score = ranked_probability_score(log_probability_CMK, own, bins.edges)
        total = total + config.ranked_probability * score.mean()
    return total
