"""Losses on delays in seconds, over the events that were observed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from transformer.config import LossConfig

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def make_loss(config: LossConfig) -> Loss:
    """The loss `name` as a function of (prediction, label, mask), each [B, S, F]; a scalar in minutes or minutes²."""

    def loss(prediction: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        predicted, observed = prediction[mask] / 60, label[mask] / 60
        if predicted.numel() == 0:  # a batch without a label must not turn the weights into NaN
            return prediction.sum() * 0.0
        match config.name:
            case "mae":
                return F.l1_loss(predicted, observed)
            case "mse":
                return F.mse_loss(predicted, observed)
            case "huber":
                return F.huber_loss(predicted, observed, delta=config.huber_delta_s / 60)

    return loss
