"""Bins of changes, their probabilities given what is possible, and quantiles, compared with closed forms."""

import pytest
import torch

from transformer.model.distribution import ChangeBins, cross_entropy, ranked_probability_score

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
ANY = torch.tensor([-1e6])  # every change is possible


def scores(*values: float) -> torch.Tensor:
    """Scores [1, 1, K] of bins of whole minutes: these from no change on, and next to nothing elsewhere."""
    bins = ChangeBins(60.0)
    result = torch.full((1, 1, bins.number), -50.0)
    result[0, 0, bins.bin_of(torch.tensor([0.0])) + torch.arange(len(values))] = torch.tensor(values)
    return result


@pytest.mark.parametrize(("resolution", "step"), [(60.0, 60.0), (1.0, 15.0), (30.0, 30.0)])
def test_bins_are_one_step_wide_near_no_change_and_cover_hours(resolution: float, step: float):
    bins = ChangeBins(resolution)
    assert (bins.edges.diff() > 0).all()
    near = bins.edges[(bins.edges.abs() <= 10.5 * step)]
    torch.testing.assert_close(near, step * (torch.arange(22) - 10.5))
    assert bins.edges[0] <= -3_600 and bins.edges[-1] >= 10_800
    assert bins.number < 100


def test_a_change_belongs_to_its_bin_and_one_beyond_to_the_last():
    bins = ChangeBins(60.0)
    own = bins.bin_of(torch.tensor([-1e9, -30.0, 0.0, 29.0, 30.0, 1e9]))
    zero = own[2]
    assert own.tolist() == [0, zero, zero, zero, zero + 1, bins.number - 1]
    assert bins.edges[zero] <= 0 < bins.edges[zero + 1]


def test_untrained_no_change_is_the_median_also_of_an_overdue_event():
    bins = ChangeBins(60.0)
    prior = bins.prior().expand(2, 1, -1)
    probability = bins.log_probabilities(prior, torch.tensor([-1e6, 0.0])).exp()[:, 0]
    torch.testing.assert_close(probability.sum(-1), torch.ones(2))
    torch.testing.assert_close(bins.prior().exp().sum(), torch.tensor(1.0))
    assert (bins.quantiles(probability, [0.5]).abs() < 30).all()


def test_what_is_impossible_has_no_probability_and_no_gradient():
    bins = ChangeBins(60.0)
    given = torch.zeros(1, 1, bins.number, requires_grad=True)
    log_probability = bins.log_probabilities(given, torch.tensor([120.0]))
    possible = bins.edges[1:] > 120.0
    probability = log_probability.exp()[0, 0]
    torch.testing.assert_close(probability, possible / possible.sum())
    cross_entropy(log_probability, bins.bin_of(torch.tensor([180.0]))).sum().backward()
    assert given.grad is not None
    assert not given.grad[0, 0, ~possible].any() and given.grad[0, 0, possible].all()


def test_something_stays_possible_however_late_an_event_is():
    bins = ChangeBins(60.0)
    probability = bins.log_probabilities(torch.zeros(1, 1, bins.number), torch.tensor([1e7])).exp()[0, 0]
    assert probability[-1] == 1


def test_quantiles_are_those_of_evenly_filled_bins():
    bins = ChangeBins(60.0)
    # No change, one and two minutes with probabilities 0.5, 0.25, 0.25: from -30 s on.
    probability = torch.tensor([0.5, 0.25, 0.25]).log().tolist()
    found = bins.quantiles(bins.log_probabilities(scores(*probability), ANY).exp()[:, 0], (0.25, 0.5, 0.75, 0.875))
    torch.testing.assert_close(found, torch.tensor([[0.0, 30.0, 90.0, 120.0]]), rtol=1e-4, atol=1e-2)


def test_quantiles_ascend_and_are_finite_for_any_scores():
    bins = ChangeBins(1.0)
    generator = torch.Generator().manual_seed(0)
    wild = 30 * torch.randn(500, 1, bins.number, generator=generator)
    probability = bins.log_probabilities(wild, 4_000 * torch.randn(500, generator=generator)).exp()[:, 0]
    found = bins.quantiles(probability, LEVELS)
    assert torch.isfinite(found).all() and (found.diff(dim=-1) >= 0).all()


def test_scores_of_a_prediction_by_hand():
    bins = ChangeBins(60.0)
    log_probability = bins.log_probabilities(scores(*torch.tensor([0.5, 0.25, 0.25]).log().tolist()), ANY)
    own = bins.bin_of(torch.tensor([60.0]))
    assert cross_entropy(log_probability, own).item() == pytest.approx(torch.tensor(4.0).log().item(), abs=1e-4)
    # Distribution functions 0.5, 0.75, 1 and 0, 1, 1 at successive minutes.
    score = ranked_probability_score(log_probability, own, bins.edges)
    assert score.item() == pytest.approx(0.5**2 + 0.25**2, abs=1e-4)


def test_a_certain_prediction_scores_the_absolute_error():
    bins = ChangeBins(60.0)
    log_probability = bins.log_probabilities(scores(0.0), ANY)
    own = bins.bin_of(torch.tensor([420.0]))
    assert ranked_probability_score(log_probability, own, bins.edges).item() == pytest.approx(7, abs=1e-4)


def test_members_are_scored_one_by_one():
    bins = ChangeBins(60.0)
    both = torch.cat([scores(0.0), scores(-50.0, 0.0)], dim=1)
    own = bins.bin_of(torch.tensor([120.0]))
    log_probability = bins.log_probabilities(both, ANY)
    assert ranked_probability_score(log_probability, own, bins.edges).item() == pytest.approx(1.5, abs=1e-4)
