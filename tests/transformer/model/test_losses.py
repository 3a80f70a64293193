"""Losses over observed events, compared with closed forms."""

import math

import pytest
import torch

from transformer.config import LossConfig
from transformer.model.losses import make_loss, pinball

LEVELS = [0.1, 0.5, 0.9]
MASK = torch.tensor([[[True, True, False]]])
LABEL = torch.tensor([[[60.0, 600.0, 1e9]]])  # the last was not observed, so its value must not count
# Quantiles [1, 1, 3 events, 2 members, 3 levels], seconds.
QUANTILES = torch.tensor([[[
    [[0.0, 120.0, 240.0], [60.0, 60.0, 60.0]],
    [[300.0, 480.0, 540.0], [0.0, 900.0, 960.0]],
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
]]])  # fmt: skip
# Errors of the medians in minutes: 1, 0, −2, 5.


def loss(config: LossConfig, quantiles: torch.Tensor = QUANTILES, mask: torch.Tensor = MASK) -> torch.Tensor:
    return make_loss(config, LEVELS)(quantiles, LABEL, mask)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LossConfig(name="mae", quantile_weight=0.0), (1 + 0 + 2 + 5) / 4),
        (LossConfig(name="mse", quantile_weight=0.0), (1 + 0 + 4 + 25) / 4),
        # Square up to two minutes, then 2 × (error − 1).
        (LossConfig(name="huber", huber_delta_s=120.0, quantile_weight=0.0), (0.5 + 0 + 2 + 8) / 4),
    ],
)
def test_point_loss_is_of_the_medians_in_minutes(config: LossConfig, expected: float):
    assert loss(config).item() == pytest.approx(expected)
    spread = QUANTILES.clone()
    spread[..., [0, 2]] += torch.tensor([-1e6, 1e6])  # with weight 0 the other levels do not count
    assert loss(config, spread).item() == pytest.approx(expected)


def test_other_levels_add_their_mean_pinball_loss():
    # Observed 1: 0.1 of 1 above the low end, 0.1 of 3 below the high one; on both. Observed 10: 0.1 of 5 and 0.9 of 1;
    # 0.1 of 10 and 0.1 of 6.
    mean = (0.1 + 0.3 + 0 + 0 + 0.5 + 0.9 + 1.0 + 0.6) / 8
    assert loss(LossConfig(name="mae", quantile_weight=2.0)).item() == pytest.approx(2 + 2 * mean)


def test_single_level_is_the_point_loss_alone():
    only = make_loss(LossConfig(name="mae", quantile_weight=2.0), [0.5])
    assert only(QUANTILES[..., 1:2], LABEL, MASK).item() == pytest.approx(2)


def test_batch_without_a_label_gives_zero_and_no_gradient():
    quantiles = QUANTILES.clone().requires_grad_()
    value = loss(LossConfig(), quantiles, torch.zeros_like(MASK))
    value.backward()
    assert value.item() == 0 and not quantiles.grad.any()


def test_unobserved_events_get_no_gradient():
    quantiles = QUANTILES.clone().requires_grad_()
    loss(LossConfig(), quantiles).backward()
    assert quantiles.grad[:, :, :2].any() and not quantiles.grad[:, :, 2].any()


@pytest.mark.parametrize("level", [0.05, 0.25, 0.9])
def test_pinball_of_an_exponential_is_least_at_its_quantile(level: float):
    """With mean 1 the quantile is −ln(1 − q), and the expected loss there is (1 − q) times the quantile."""
    grid = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    observed = -torch.log1p(-grid)[:, None]
    quantile = -math.log(1 - level)

    def expected_loss(predicted: float) -> float:
        return pinball(torch.full_like(observed, predicted), observed, torch.tensor([level])).item()

    assert expected_loss(quantile) == pytest.approx((1 - level) * quantile, rel=1e-3)
    assert expected_loss(quantile) < min(expected_loss(quantile - 0.1), expected_loss(quantile + 0.1))
