"""Losses of delays in seconds, over the observed events."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from transformer.config import LossConfig

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def make_loss(config: LossConfig, levels: Sequence[float]) -> Loss:
    """A scalar loss of quantiles [B, S, F, M, Q], label [B, S, F] and mask [B, S, F].

    It is the loss `name` of the medians (minutes or minutes²), plus `quantile_weight` times the mean pinball loss of
    the other levels (minutes). Both are averaged over the observed events and the M members.
    """
    at = list(levels).index(0.5)
    others = [index for index in range(len(levels)) if index != at]

    def loss(quantiles: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        predicted_RMQ, observed_RM1 = quantiles[mask] / 60, label[mask][:, None, None] / 60
        if predicted_RMQ.numel() == 0:  # a batch without a label must not turn the weights into NaN
            return quantiles.sum() * 0.0
        total = _point_loss(config, predicted_RMQ[..., at : at + 1], observed_RM1)
        if others and config.quantile_weight:
            wanted = torch.tensor([levels[index] for index in others], device=label.device)
            total = total + config.quantile_weight * pinball(predicted_RMQ[..., others], observed_RM1, wanted)
        return total

    return loss


def pinball(predicted: Tensor, observed: Tensor, levels: Tensor) -> Tensor:
    """Mean pinball loss of quantiles [..., Q] at `levels` [Q]. Source: Koenker and Bassett 1978."""
    short = observed - predicted
    return torch.maximum(levels * short, (levels - 1) * short).mean()


def _point_loss(config: LossConfig, predicted: Tensor, observed: Tensor) -> Tensor:
    observed = observed.expand_as(predicted)
    match config.name:
        case "mae":
            return F.l1_loss(predicted, observed)
        case "mse":
            return F.mse_loss(predicted, observed)
        case "huber":
            return F.huber_loss(predicted, observed, delta=config.huber_delta_s / 60)
