"""Intervals by resampling units, compared with cases whose intervals are known."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.evaluation.bootstrap import interval, resampled_sums


def ratio_interval(sums_UK: np.ndarray, resamples: int, seed: int, confidence: float = 0.95) -> tuple[float, float]:
    resampled = resampled_sums(sums_UK, resamples, seed)
    low, high = interval(resampled[:, 0] / resampled[:, 1], len(sums_UK), confidence)
    return float(low), float(high)


def test_a_mean_of_many_units_has_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(10, 3, 2_000)
    low, high = ratio_interval(np.column_stack([values, np.ones(2_000)]), 8_000, seed=2)
    error = values.std() / np.sqrt(2_000)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.06 * error)


@pytest.mark.parametrize(("n_units", "confidence"), [(7, 0.95), (14, 0.95), (60, 0.9)])
def test_intervals_hold_the_truth_as_often_as_they_say(n_units: int, confidence: float) -> None:
    """A ratio of sums over units of different size: the mean absolute error over service dates."""
    generator = np.random.default_rng(n_units)
    runs, held = 1_500, 0
    for run in range(runs):
        rows = generator.integers(500, 1_500, n_units).astype(float)
        mean = generator.normal(-2.0, 1.0, n_units)  # of a date: its errors are correlated
        low, high = ratio_interval(np.column_stack([rows * mean, rows]), 600, seed=run, confidence=confidence)
        held += low <= -2.0 <= high
    assert held / runs == pytest.approx(confidence, abs=0.025)  # 3 standard errors of 1,500 runs: 0.017


def test_figures_of_one_unit_are_drawn_together() -> None:
    values = np.random.default_rng(3).normal(50, 20, 40)
    resampled = resampled_sums(np.column_stack([values, values - 1, np.ones(40)]), 500, seed=4)
    difference = (resampled[:, 0] - resampled[:, 1]) / resampled[:, 2]
    assert difference == pytest.approx(1.0)


def test_every_resample_draws_as_many_units_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer.evaluation.bootstrap.BLOCK", 1_000)
    resampled = resampled_sums(np.ones((30, 1)), 101, seed=0)
    assert resampled.shape == (101, 1)
    assert (resampled == 30).all()


def test_the_seed_decides() -> None:
    sums = np.random.default_rng(5).random((20, 3))
    assert (resampled_sums(sums, 50, seed=1) == resampled_sums(sums, 50, seed=1)).all()
    assert (resampled_sums(sums, 50, seed=1) != resampled_sums(sums, 50, seed=2)).any()


def test_one_unit_has_no_interval_and_undefined_resamples_are_left_out() -> None:
    assert np.isnan(interval(np.ones((10, 2)), 1, 0.95)).all()
    replicates = np.column_stack([np.full(100, np.nan), np.where(np.arange(100) % 2, 5.0, np.nan)])
    low, high = interval(replicates, 20, 0.95)
    assert np.isnan([low[0], high[0]]).all()
    assert (low[1], high[1]) == (5.0, 5.0)
