"""Coherent forecasts: no event before the next possible moment, no time backwards, quantiles in their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformer.model.coherence import coherent, earliest_delay

STEPS = (1.0, 6.0, 30.0, 60.0)


@pytest.mark.parametrize(
    ("planned_s", "resolution_s", "delay_s"),
    [
        (0.0, 60.0, 60.0),  # planned for this instant, and not seen yet
        (-30.0, 60.0, 60.0),
        (-59.0, 60.0, 60.0),
        (-60.0, 60.0, 120.0),
        (-61.0, 60.0, 120.0),
        (30.0, 60.0, 0.0),
        (60.0, 60.0, 0.0),  # a minute early would be now
        (61.0, 60.0, -60.0),
        (-90.0, 1.0, 91.0),
    ],
)
def test_the_earliest_delay_puts_the_event_after_the_instant(planned_s: float, resolution_s: float, delay_s: float):
    assert earliest_delay(torch.tensor([planned_s]), resolution_s).tolist() == [delay_s]
    assert earliest_delay(np.array([planned_s]), resolution_s).tolist() == [delay_s]


@given(st.integers(-200_000, 400_000), st.sampled_from(STEPS))
def test_no_smaller_multiple_lies_after_the_instant(planned_s: int, resolution_s: float):
    delay = earliest_delay(torch.tensor([float(planned_s)]), resolution_s).item()
    assert delay % resolution_s == 0
    assert planned_s + delay > 0 >= planned_s + delay - resolution_s


@st.composite
def forecasts(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int, float]:
    """Delays [F, Q], planned times [F], the number of events that exist, and a resolution. Any planned order."""
    n, levels = draw(st.integers(1, 12)), draw(st.integers(1, 7))
    delay = st.floats(-1e5, 1e5, width=32)
    rows = draw(st.lists(st.lists(delay, min_size=levels, max_size=levels).map(sorted), min_size=n, max_size=n))
    planned = draw(st.lists(st.integers(-10_000, 400_000), min_size=n, max_size=n))
    exists = draw(st.integers(1, n))
    planned_F = torch.tensor(planned, dtype=torch.float32) * (torch.arange(n) < exists)
    return torch.tensor(rows), planned_F, exists, draw(st.sampled_from(STEPS))


@given(forecasts())
def test_any_delays_become_coherent(forecast: tuple[torch.Tensor, torch.Tensor, int, float]):
    delay, planned, exists, resolution = forecast
    found = coherent(delay, planned, resolution)
    times = (planned.double()[:, None] + found.double())[:exists]
    assert (times.diff(dim=0) >= 0).all()
    assert (found.diff(dim=1) >= 0).all()
    assert (found[:exists] >= earliest_delay(planned, resolution)[:exists, None]).all()
    assert (found == found.round()).all()
    raised = found[:exists] - delay[:exists].round()
    assert (raised >= 0).all()
    assert torch.equal(coherent(found, planned, resolution), found)  # a projection
    assert torch.equal(found[:exists], coherent(delay[:exists], planned[:exists], resolution))  # padding is not read


def test_a_time_is_raised_to_that_of_the_latest_earlier_event_only():
    planned = torch.tensor([0.0, 60.0, 120.0, 600.0])
    delay = torch.tensor([[300.0], [120.0], [0.0], [0.0]])
    assert coherent(delay, planned, 60.0)[:, 0].tolist() == [300.0, 240.0, 180.0, 0.0]


def test_trains_and_snapshots_are_apart():
    delay = torch.tensor([[[[600.0], [0.0]], [[0.0], [0.0]]], [[[60.0], [60.0]], [[0.0], [-60.0]]]])
    planned = torch.tensor([60.0, 120.0]).expand(2, 2, 2)
    whole = coherent(delay, planned, 60.0)
    assert whole.tolist() == [[[[600.0], [540.0]], [[0.0], [0.0]]], [[[60.0], [60.0]], [[0.0], [-60.0]]]]
