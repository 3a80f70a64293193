"""Conformal calibration of predicted quantiles, per horizon.

The score of a prediction at level q is the distance of the observed delay above the prediction, on the validation
dates, in widths of the predicted distribution. The correction of the level is the score that the share q of all
observations does not exceed. With the correction added, the share is right if new observations are exchangeable with
those of the validation dates. Source: split conformal prediction with normalised, one-sided scores (Romano, Patterson,
Candès 2019, arXiv 1905.03222), per group of the horizon (Vovk 2012, arXiv 1209.2673). Scores are counted in fine bins,
so the counts of several processes can be added.

Observations of one date are alike: a bad date says little about the next one, however many rows it has. Corrections
therefore apply in full only if there are many validation dates, see `trusted`.

Legend of dimensions: R rows, H horizon bins, Q quantile levels, N score bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

HORIZON_EDGES_S = (0.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0)  # as in evaluations
MIN_ROWS = 200  # a horizon with fewer rows is not corrected: one end of 90 % would depend on ten rows
_MIN_WIDTH_S = 60.0  # the resolution of most data; a narrower distribution counts as this wide
_LIMIT, _BINS = 20.0, 8_000  # larger scores count as 20 widths; a bin is 0.005 widths


def no_correction(n_levels: int) -> Tensor:
    """Corrections [H, Q] that change nothing."""
    return torch.zeros(len(HORIZON_EDGES_S) + 1, n_levels)


def calibrated(quantiles: Tensor, horizon_s: Tensor, correction: Tensor) -> Tensor:
    """Corrected quantiles [..., Q] in seconds, still ascending.

    Args:
        quantiles: [..., Q], seconds.
        horizon_s: [...], seconds.
        correction: [H, Q], see `QuantileCalibration`.
    """
    moved = quantiles + correction[_horizon_bin(horizon_s)] * _width(quantiles)
    return moved.cummax(dim=-1).values


def trusted(correction: Tensor, n_dates: int) -> Tensor:
    """Corrections [H, Q], reduced by the number of their dates: to half for one date, to seven eighths for seven.

    This equals one more date on which nothing has to be corrected. With many dates its influence vanishes.
    """
    return correction * (n_dates / (n_dates + 1))


class QuantileCalibration(Metric):
    """Collects scores of validation rows; `compute` returns the corrections [H, Q]."""

    full_state_update = False
    counts: Tensor

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        shape = (len(HORIZON_EDGES_S) + 1, len(levels), _BINS)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, quantiles: Tensor, label: Tensor, horizon_s: Tensor) -> None:
        """Add rows: quantiles [R, Q], observed delay [R] and horizon [R], all in seconds."""
        score = (label[:, None] - quantiles) / _width(quantiles)
        bin_RQ = ((score / _LIMIT + 1) / 2 * _BINS).floor().long().clamp(0, _BINS - 1)
        n_levels = len(self.levels)
        place = (_horizon_bin(horizon_s)[:, None] * n_levels + torch.arange(n_levels, device=label.device)) * _BINS
        self.counts += torch.bincount((place + bin_RQ).flatten(), minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> Tensor:
        """Corrections [H, Q]: the upper edge of the bin that holds the ⌈(n + 1) q⌉-th smallest score."""
        n_H11 = self.counts.sum(-1, keepdim=True).double()
        levels = torch.tensor(self.levels, dtype=torch.float64, device=self.counts.device)[None, :, None]
        wanted = torch.ceil((n_H11 + 1) * levels).clamp(max=n_H11).clamp(min=1)
        at_HQ = (self.counts.cumsum(-1) >= wanted).int().argmax(-1)
        correction = ((at_HQ + 1) / _BINS * 2 - 1) * _LIMIT
        return torch.where(n_H11[..., 0] >= MIN_ROWS, correction, torch.zeros_like(correction)).float()


def _width(quantiles: Tensor) -> Tensor:
    """Distance between the outermost quantiles [..., 1], seconds."""
    return (quantiles[..., -1:] - quantiles[..., :1]).clamp(min=_MIN_WIDTH_S)


def _horizon_bin(horizon_s: Tensor) -> Tensor:
    return torch.bucketize(horizon_s, torch.tensor(HORIZON_EDGES_S, device=horizon_s.device), right=True)


__all__ = ["HORIZON_EDGES_S", "QuantileCalibration", "calibrated", "no_correction", "trusted"]
