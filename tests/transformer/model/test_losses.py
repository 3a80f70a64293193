"""The loss is the weighted sum of both scores, over the observed events."""

import pytest
import torch

from transformer.config import LossConfig
from transformer.model.distribution import ChangeBins, cross_entropy, ranked_probability_score
from transformer.model.losses import distribution_loss

BINS = ChangeBins(60.0)
CHANGE = torch.tensor([0.0, 300.0, -120.0])


def log_probability(seed: int = 0) -> torch.Tensor:
    """Random distributions [3, 2, K] of two members."""
    scores = torch.randn(3, 2, BINS.number, generator=torch.Generator().manual_seed(seed))
    return BINS.log_probabilities(scores.requires_grad_(), torch.full((3,), -1e6))


@pytest.mark.parametrize(
    ("config", "first", "second"),
    [
        (LossConfig(), 1.0, 1.0),
        (LossConfig(name="mixed", ranked_weight=0.5), 1.0, 0.5),
        (LossConfig(name="log", ranked_weight=0.5), 1.0, 0.0),
        (LossConfig(name="rps", ranked_weight=0.5), 0.0, 1.0),
    ],
)
def test_weighted_sum_of_the_mean_scores(config: LossConfig, first: float, second: float):
    given, own = log_probability(), BINS.bin_of(CHANGE)
    expected = first * cross_entropy(given, own).mean()
    expected = expected + second * ranked_probability_score(given, own, BINS.edges).mean()
    loss = distribution_loss(config, BINS, given, CHANGE)
    torch.testing.assert_close(loss, expected)


def test_batch_without_a_label_gives_zero_and_no_gradient():
    scores = torch.zeros(0, 2, BINS.number, requires_grad=True)
    loss = distribution_loss(LossConfig(), BINS, BINS.log_probabilities(scores, torch.zeros(0)), torch.zeros(0))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("name", ["log", "rps", "mixed"])
def test_each_score_is_least_at_the_true_distribution(name: str):
    """Changes of 0 and 2 minutes, with probabilities 0.7 and 0.3."""
    change = torch.tensor([0.0] * 7 + [120.0] * 3)
    truth = torch.full((BINS.number,), -50.0)
    truth[BINS.bin_of(torch.tensor([0.0, 120.0]))] = torch.tensor([0.7, 0.3]).log()
    config = LossConfig(name=name)

    def value(scores: torch.Tensor) -> float:
        given = BINS.log_probabilities(scores.expand(10, 1, -1), torch.full((10,), -1e6))
        return distribution_loss(config, BINS, given, change).item()

    for place in BINS.bin_of(torch.tensor([0.0, 120.0])).tolist():
        for step in (-0.3, 0.3):
            moved = truth.clone()
            moved[place] += step
            assert value(moved) > value(truth)
    elsewhere = truth.clone()
    elsewhere[BINS.bin_of(torch.tensor([60.0]))] = torch.tensor(0.1).log()
    assert value(elsewhere) > value(truth)
