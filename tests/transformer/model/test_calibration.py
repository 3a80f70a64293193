"""Calibration: it makes the shares right on new data per horizon, keeps the order, and is safe with few rows."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from transformer.model.calibration import (
    HORIZON_EDGES_S,
    MIN_ROWS,
    QuantileCalibration,
    calibrated,
    no_correction,
    trusted,
)

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
BIN_WIDTHS = 2 * 20 / 8_000  # width of a bin of scores, in widths of the distribution


def draw(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantiles, labels and horizons of a forecaster that is biased and too sure, more so at longer horizons.

    Delays are skewed. Each row has its own scale, which the forecaster knows.
    """
    g = torch.Generator().manual_seed(seed)
    horizon = 9_000 * torch.rand(n, generator=g) - 300
    scale = 60 + 600 * torch.rand(n, generator=g)
    blur = 1 + horizon.clamp(min=0) / 3_600
    label = scale * blur * (-torch.rand(n, generator=g).log() - 0.5)
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(LEVELS))
    return scale[:, None] * (0.1 + 0.4 * normal), label, horizon


def correction_of(quantiles: torch.Tensor, label: torch.Tensor, horizon: torch.Tensor) -> torch.Tensor:
    collected = QuantileCalibration(LEVELS)
    collected.update(quantiles, label, horizon)
    return collected.compute()


def horizon_groups(horizon: torch.Tensor) -> list[torch.Tensor]:
    """Rows of each horizon: from one edge up to the next, without the latter."""
    edges = [-math.inf, *HORIZON_EDGES_S, math.inf]
    return [(horizon >= low) & (horizon < high) for low, high in pairwise(edges)]


def test_levels_are_right_on_fresh_data_in_every_horizon():
    correction = correction_of(*draw(200_000, seed=0))
    quantiles, label, horizon = draw(200_000, seed=1)
    fixed = calibrated(quantiles, horizon, correction)
    for rows in horizon_groups(horizon):
        n = int(rows.sum())
        assert n > 3_000
        raw, share = ((label[rows, None] <= q[rows]).float().mean(0) for q in (quantiles, fixed))
        assert (raw - torch.tensor(LEVELS)).abs().max() > 0.1
        for level, reached in zip(LEVELS, share.tolist(), strict=True):
            # Both samples have errors: the one to learn from and the one to judge by.
            assert abs(reached - level) < 4 * math.sqrt(2 * level * (1 - level) / n), f"{level} of {n} rows"


def test_processes_add_up():
    rows = draw(5_000, seed=2)
    halves = [QuantileCalibration(LEVELS) for _ in range(2)]
    for part, collected in enumerate(halves):
        for start in range(1_000 * part, 5_000, 2_000):
            collected.update(*(values[start : start + 1_000] for values in rows))
    whole = QuantileCalibration(LEVELS)
    whole.update(*rows)
    summed = QuantileCalibration(LEVELS)
    reduce: Callable[[torch.Tensor], torch.Tensor] = summed._reductions["counts"]  # the reduction over processes
    summed.counts = reduce(torch.stack([collected.counts for collected in halves]))
    summed._update_count = 1
    assert torch.equal(summed.compute(), whole.compute())
    assert whole.compute().any()


def test_few_rows_keep_their_quantiles():
    quantiles, label, _ = draw(MIN_ROWS, seed=3)
    near, far = torch.full((MIN_ROWS,), 100.0), torch.full((MIN_ROWS - 1,), 1_000.0)
    correction = correction_of(
        torch.cat([quantiles, quantiles[1:]]), torch.cat([label, label[1:]]), torch.cat([near, far])
    )
    changed = correction.any(-1).tolist()
    assert changed == [False, True, False, False, False, False, False, False]
    torch.testing.assert_close(calibrated(quantiles[1:], far, correction), quantiles[1:])


def test_no_row_at_all_changes_nothing():
    quantiles, _, horizon = draw(100, seed=4)
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        correction = QuantileCalibration(LEVELS).compute()
    assert torch.equal(correction, no_correction(len(LEVELS)))
    assert torch.equal(calibrated(quantiles, horizon, correction), quantiles)


def test_order_is_kept_where_corrections_would_cross():
    quantiles, _, horizon = draw(1_000, seed=5)
    correction = torch.linspace(1, -1, len(LEVELS)).expand(len(HORIZON_EDGES_S) + 1, -1)
    fixed = calibrated(quantiles, horizon, correction)
    assert (quantiles + correction[0] * (quantiles[:, -1:] - quantiles[:, :1])).diff(dim=-1).min() < 0
    assert (fixed.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("sign", [-1, 1])
def test_corrections_are_bounded_whatever_is_observed(sign: int):
    quantiles, label, horizon = draw(2_000, seed=6)
    correction = correction_of(quantiles, label + sign * 1e9, horizon)
    enough = torch.tensor([int(rows.sum()) >= MIN_ROWS for rows in horizon_groups(horizon)])
    assert enough.any()
    expected = 20.0 if sign > 0 else BIN_WIDTHS - 20.0
    torch.testing.assert_close(correction[enough], torch.full_like(correction[enough], expected))


def test_correction_is_the_score_that_holds_the_share_counted_with_one_more_row():
    """Labels 1 … 399 s and a distribution 100 s wide at 0 have scores 0.01 … 3.99; the ⌈400 q⌉-th is wanted."""
    quantiles = torch.tensor([-50.0, 0, 0, 0, 0, 0, 50]).expand(399, -1)
    label, horizon = torch.arange(1, 400).float(), torch.full((399,), 60.0)
    correction = correction_of(quantiles, label, horizon)[1]
    rank = [20, 40, 100, 200, 300, 360, 380]
    assert [math.ceil(400 * level - 1e-9) for level in LEVELS] == rank
    expected = (torch.tensor(rank) - quantiles[0]) / 100
    assert ((correction - expected) >= -1e-5).all() and ((correction - expected) <= BIN_WIDTHS + 1e-5).all()


def test_wanted_share_beyond_the_sample_is_its_greatest_score():
    """With 200 rows, the level 0.999 needs row 201."""
    collected = QuantileCalibration((0.001, 0.5, 0.999))
    collected.update(
        torch.tensor([-50.0, 0, 50]).expand(200, -1), torch.arange(1, 201).float(), torch.full((200,), 60.0)
    )
    low, median, high = collected.compute()[1].tolist()
    assert low == pytest.approx(0.51, abs=BIN_WIDTHS + 1e-5)
    assert median == pytest.approx(1.01, abs=BIN_WIDTHS + 1e-5)
    assert high == pytest.approx(1.50, abs=BIN_WIDTHS + 1e-5)


def test_distribution_without_width_is_moved_by_seconds():
    """All quantiles are 0 and every train is a minute late, which is one minimal width."""
    flat = torch.zeros(500, len(LEVELS))
    horizon = torch.full((500,), 60.0)
    fixed = calibrated(flat, horizon, correction_of(flat, torch.full((500,), 60.0), horizon))
    torch.testing.assert_close(fixed, torch.full_like(fixed, 60.0), rtol=0, atol=60 * BIN_WIDTHS + 1e-3)


def test_horizon_at_an_edge_belongs_to_the_bin_it_opens():
    correction = torch.arange(len(HORIZON_EDGES_S) + 1).float()[:, None].expand(-1, len(LEVELS))
    at_edges = torch.tensor([-1.0, *HORIZON_EDGES_S])
    moved = calibrated(torch.zeros(len(at_edges), len(LEVELS)), at_edges, correction)
    assert (moved[:, 0] / 60).tolist() == list(range(len(at_edges)))


def test_corrections_of_few_dates_count_for_less():
    correction = torch.tensor([[-0.4, 0.0, 0.8]])
    torch.testing.assert_close(trusted(correction, 1), torch.tensor([[-0.2, 0.0, 0.4]]))
    torch.testing.assert_close(trusted(correction, 7), correction * 7 / 8)
    torch.testing.assert_close(trusted(correction, 0), torch.zeros(1, 3))
