"""The copula: scores and delays are each other's inverse, and its correlation is that of the data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from transformer.model.copula import (
    MIN_ROWS,
    RankCorrelation,
    delays_at,
    independent,
    level_scores,
    normal_scores,
    sample_scores,
)

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
N_RANKS = 6


def trains(n: int, rho: float, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantiles [N, F, Q], labels and masks [N, F] of normal delays with correlation rho^|f − g|, and that correlation.

    Each event has a mean and a scale of its own, which the quantiles know.
    """
    g = torch.Generator().manual_seed(seed)
    at = torch.arange(N_RANKS)
    correlation = rho ** (at[:, None] - at).abs().float()
    scores = torch.randn(n, N_RANKS, generator=g) @ torch.linalg.cholesky(correlation).T
    mean, scale = 300 * torch.randn(n, N_RANKS, generator=g), 30 + 600 * torch.rand(n, N_RANKS, generator=g)
    quantiles = mean[..., None] + scale[..., None] * level_scores(LEVELS)
    return quantiles, mean + scale * scores, torch.rand(n, N_RANKS, generator=g) < 0.8, correlation


def test_scores_of_levels_are_those_of_the_normal_distribution() -> None:
    expected = [-1.6449, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449]
    np.testing.assert_allclose(level_scores(LEVELS), expected, atol=1e-4)


def test_the_score_of_a_quantile_is_that_of_its_level_and_lines_join_them() -> None:
    quantiles = torch.tensor([0.0, 10.0, 20.0, 60.0, 120.0, 240.0, 600.0])
    assert torch.allclose(normal_scores(quantiles, quantiles.expand(7, 7), LEVELS), level_scores(LEVELS))
    delay = torch.tensor([90.0, 960.0, -10.0, 1e9, -1e9])
    found = normal_scores(delay, quantiles.expand(5, 7), LEVELS)
    z = level_scores(LEVELS)
    expected = [(z[3] + z[4]) / 2, 2 * z[6] - z[5], 2 * z[0] - z[1], 4.0, -4.0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("levels", [LEVELS, (0.1, 0.5)])
def test_delays_are_the_inverse_of_scores(levels: tuple[float, ...]) -> None:
    g = torch.Generator().manual_seed(3)
    quantiles = (400 * torch.randn(50, len(levels), generator=g)).sort(-1).values
    scores = torch.linspace(-3.5, 3.5, 40).expand(50, 40)
    delays = delays_at(scores, quantiles, levels)
    assert (delays.diff(dim=-1) >= 0).all()
    found = normal_scores(delays, quantiles[:, None].expand(50, 40, -1), levels)
    np.testing.assert_allclose(found, scores, atol=2e-2)


def test_a_distribution_without_width_gives_its_value_and_finite_scores() -> None:
    quantiles = torch.full((1, 7), 60.0)
    assert delays_at(torch.tensor([[-3.0, 0.0, 3.0]]), quantiles, LEVELS).tolist() == [[60.0, 60.0, 60.0]]
    delay = torch.tensor([0.0, 60.0, 120.0])
    assert torch.isfinite(normal_scores(delay, quantiles.expand(3, 7), LEVELS)).all()


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95])
def test_the_correlation_of_the_data_is_found(rho: float) -> None:
    quantiles, label, mask, expected = trains(20_000, rho, seed=0)
    collected = RankCorrelation(LEVELS, N_RANKS)
    collected.update(quantiles, label, mask)
    found = collected.compute()
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert torch.equal(found, found.T) and torch.equal(found.diagonal(), torch.ones(N_RANKS))


def test_wrong_scale_and_shift_of_the_quantiles_do_not_matter() -> None:
    """The quantiles of a validation epoch are not calibrated yet."""
    quantiles, label, mask, expected = trains(20_000, 0.8, seed=1)
    collected = RankCorrelation(LEVELS, N_RANKS)
    middle = quantiles[..., 3:4]
    width = quantiles[..., 4:5] - middle
    collected.update(middle + 0.5 * width + 1.5 * (quantiles - middle), label, mask)
    np.testing.assert_allclose(collected.compute(), expected, atol=0.03)


def test_batches_and_processes_change_no_bit() -> None:
    quantiles, label, mask, _ = trains(3_000, 0.7, seed=2)
    whole = RankCorrelation(LEVELS, N_RANKS)
    whole.update(quantiles.unflatten(0, (3, 1_000)), label.unflatten(0, (3, 1_000)), mask.unflatten(0, (3, 1_000)))
    parts = [RankCorrelation(LEVELS, N_RANKS) for _ in range(2)]
    for begin in range(0, 3_000, 250):
        rows = slice(begin, begin + 250)
        parts[begin // 250 % 2].update(quantiles[rows], label[rows], mask[rows])
    summed = RankCorrelation(LEVELS, N_RANKS)
    for name in ("counts", "sums", "squares", "products"):
        reduce: Callable[[torch.Tensor], torch.Tensor] = summed._reductions[name]  # the reduction over processes
        setattr(summed, name, reduce(torch.stack([getattr(part, name) for part in reversed(parts)])))
    summed._update_count = 1
    assert torch.equal(summed.compute(), whole.compute())
    assert (whole.compute() != independent(N_RANKS)).any()


def test_ranks_with_few_trains_are_independent() -> None:
    quantiles, label, mask, _ = trains(MIN_ROWS, 0.9, seed=4)
    mask[:] = True
    mask[0, 2] = False
    collected = RankCorrelation(LEVELS, N_RANKS)
    collected.update(quantiles, label, mask)
    found = collected.compute()
    assert found[2].tolist() == independent(N_RANKS)[2].tolist()
    assert (found[0, [1, 3, 4, 5]] > 0.3).all()


def test_one_level_has_no_scores() -> None:
    collected = RankCorrelation([0.5], N_RANKS)
    collected.update(torch.zeros(300, N_RANKS, 1), torch.ones(300, N_RANKS), torch.ones(300, N_RANKS, dtype=torch.bool))
    assert torch.equal(collected.compute(), independent(N_RANKS))


def test_sampled_scores_are_standard_normal_with_this_correlation() -> None:
    *_, correlation = trains(1, 0.8, seed=5)
    scores = sample_scores(correlation, 200, 200, torch.Generator().manual_seed(1))
    flat = scores.transpose(1, 2).flatten(0, 1)
    np.testing.assert_allclose(np.corrcoef(flat.T), correlation, atol=0.02)
    np.testing.assert_allclose(flat.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(flat.std(0), 1, atol=0.02)
    again = sample_scores(correlation, 200, 200, torch.Generator().manual_seed(1))
    assert torch.equal(scores, again)


def test_correlations_that_do_not_fit_together_still_give_standard_scores() -> None:
    """Each pair of ranks has trains of its own, so the matrix need not be one of correlations."""
    odd = torch.tensor([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]])
    assert torch.linalg.eigvalsh(odd).min() < 0
    flat = sample_scores(odd, 200, 200, torch.Generator().manual_seed(1)).transpose(1, 2).flatten(0, 1)
    np.testing.assert_allclose(flat.std(0), 1, atol=0.02)
