"""Coherent forecasts: every event lies in the future, and no time runs backwards along a train.

Two facts are known of all that can happen, and predictions are projected onto both.

- An event that has not happened by the instant t of its snapshot happens after t. Delays are multiples of the data's
  resolution, so the earliest possible delay is the smallest multiple with which the event lies after t. The bound is
  one of the data: it holds for predictions that are rounded to the resolution and for those that are not. A prediction
  below the bound is further from every possible delay than the bound, so raising it never adds error, at any quantile.
- The next events of a train happen one after the other. The projection is the running maximum of their times. It keeps
  the order of the quantiles, and raises a time only to one that the same forecast gives for an earlier event.

Legend of dimensions: F next events of a train, Q predicted values of each event, such as quantiles.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Values = TypeVar("Values", Tensor, npt.NDArray[np.float32], npt.NDArray[np.float64])


def earliest_delay(planned_s: Values, resolution_s: float, known_after_s: float = 0.0) -> Values:
    """The smallest delays, multiples of the resolution, with which the events happen after all that can be known.

    Args:
        planned_s: planned times minus the instant, seconds.
        resolution_s: step of the observed delays, seconds.
        known_after_s: an observation is known only so many seconds later, so an unknown event may be as old.
    """
    return (-(planned_s + known_after_s) // resolution_s + 1) * resolution_s


def coherent(delay_FQ: Tensor, planned_F: Tensor, resolution_s: float, known_after_s: float = 0.0) -> Tensor:
    """Delays [..., F, Q] in whole seconds with which the events are in the future and in their order.

    Whole seconds are what event tables hold. With them, sums of times are exact in float32 for half a year ahead, so
    that the order also holds for everyone who adds a planned time and a delay.

    Args:
        delay_FQ: [..., F, Q] seconds. Events that do not exist come last, and change no other event.
        planned_F: [..., F] planned times minus the instant, seconds.
        resolution_s, known_after_s: see `earliest_delay`.
    """
    planned_F1 = planned_F[..., None]
    possible = torch.maximum(torch.round(delay_FQ), earliest_delay(planned_F1, resolution_s, known_after_s))
    return (planned_F1 + possible).cummax(dim=-2).values - planned_F1
