"""Conformal calibration of predicted quantiles, per horizon.

On the validation dates the score of a prediction at level q is how far the observed delay lies above it, in widths of
the predicted distribution. The correction of the level is the score that the share q of all observations does not
exceed; adding it back makes the share right wherever observations are exchangeable with those of the validation dates.
Source: split conformal prediction with normalised, one-sided scores (Romano, Patterson, Candès 2019, arXiv 1905.03222),
per group of the horizon (Vovk 2012, arXiv 1209.2673). Scores are counted in fine bins, so that processes add up.

Observations of one date are alike: a bad date tells little of how the next one will be, however many rows it has. So
corrections count in full only where many dates validate, see `trusted`.

Legend of dimensions: R rows, H horizon bins, Q quantile levels, N score bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

HORIZON_EDGES_S = (0.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0)  # those that evaluations tell apart
MIN_ROWS = 200  # a horizon with fewer keeps its quantiles: one end of 90 % would rest on ten rows
_MIN_WIDTH_S = 60.0  # a distribution narrower than the resolution of most data is taken to be as wide
_LIMIT, _BINS = 20.0, 8_000  # scores beyond so many widths count as that; 0.005 widths a bin


def no_correction(n_levels: int) -> Tensor:
    """Corrections [H, Q] that change nothing."""
    return torch.zeros(len(HORIZON_EDGES_S) + 1, n_levels)


def calibrated(quantiles: Tensor, horizon_s: Tensor, correction: Tensor) -> Tensor:
    """Corrected quantiles [..., Q], still ascending; the horizons [...] in seconds."""
    moved = quantiles + correction[_horizon_bin(horizon_s)] * _width(quantiles)
    return moved.cummax(dim=-1).values


def trusted(correction: Tensor, n_dates: int) -> Tensor:
    """What is left of corrections [H, Q] that rest on so many dates: half with one, seven eighths with seven.

    As if one more date had been seen on which nothing was to be corrected; what was learned is that, on many dates.
    """
    return correction * (n_dates / (n_dates + 1))


class QuantileCalibration(Metric):
    """Collects scores of validation rows; `compute` gives the corrections [H, Q]."""

    full_state_update = False
    counts: Tensor

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        shape = (len(HORIZON_EDGES_S) + 1, len(levels), _BINS)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, quantiles: Tensor, label: Tensor, horizon_s: Tensor) -> None:
        """Add rows: quantiles [R, Q], observed delay [R] and horizon [R], seconds."""
        score = (label[:, None] - quantiles) / _width(quantiles)
        bin_RQ = ((score / _LIMIT + 1) / 2 * _BINS).floor().long().clamp(0, _BINS - 1)
        n_levels = len(self.levels)
        place = (_horizon_bin(horizon_s)[:, None] * n_levels + torch.arange(n_levels, device=label.device)) * _BINS
        self.counts += torch.bincount((place + bin_RQ).flatten(), minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> Tensor:
        """Per horizon and level the upper edge of the bin that holds the ⌈(n + 1) q⌉-th smallest score."""
        n_H11 = self.counts.sum(-1, keepdim=True).double()
        levels = torch.tensor(self.levels, dtype=torch.float64, device=self.counts.device)[None, :, None]
        wanted = torch.ceil((n_H11 + 1) * levels).clamp(max=n_H11).clamp(min=1)
        at_HQ = (self.counts.cumsum(-1) >= wanted).int().argmax(-1)
        correction = ((at_HQ + 1) / _BINS * 2 - 1) * _LIMIT
        return torch.where(n_H11[..., 0] >= MIN_ROWS, correction, torch.zeros_like(correction)).float()


def _width(quantiles: Tensor) -> Tensor:
    """Distance of the outermost quantiles [..., 1], seconds."""
    return (quantiles[..., -1:] - quantiles[..., :1]).clamp(min=_MIN_WIDTH_S)


def _horizon_bin(horizon_s: Tensor) -> Tensor:
    return torch.bucketize(horizon_s, torch.tensor(HORIZON_EDGES_S, device=horizon_s.device), right=True)


__all__ = ["HORIZON_EDGES_S", "QuantileCalibration", "calibrated", "no_correction", "trusted"]
