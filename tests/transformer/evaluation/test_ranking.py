"""Rankings: the precision of scikit-learn, ties in expectation, and sums over parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from transformer.evaluation.ranking import Ranking

NONE = Ranking.empty(10)


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    bins = generator.integers(0, 10, n)
    return bins, generator.random(n) < bins / 12


def test_average_precision_and_curve_are_those_of_scikit_learn() -> None:
    for seed in range(5):
        bins, hit = drawn(200, seed)
        ranking = NONE.including(bins, hit)
        assert ranking.average_precision() == pytest.approx(average_precision_score(hit, bins))
        precision, recall, _ = precision_recall_curve(hit, bins)
        np.testing.assert_allclose(np.transpose(ranking.curve()), np.transpose([recall, precision])[-2::-1])


def test_parts_add_up_in_any_order() -> None:
    bins, hit = drawn(200, seed=1)
    whole = NONE.including(bins, hit)
    parts = NONE.including(bins[150:], hit[150:]).including(bins[:150], hit[:150])
    assert whole.cases.tolist() == parts.cases.tolist()
    assert whole.hits.tolist() == parts.hits.tolist()


def test_the_highest_scores_are_taken_and_of_equal_ones_a_part() -> None:
    # Three cases in bin 9, two of them hits; four in bin 5, one of them a hit; ten without a hit in bin 0.
    bins = np.array([9, 9, 9, 5, 5, 5, 5, *[0] * 10])
    ranking = NONE.including(bins, np.array([1, 1, 0, 1, 0, 0, 0, *[0] * 10], bool))
    assert ranking.of_highest(3) == pytest.approx((2 / 3, 2 / 3))
    assert ranking.of_highest(1.5) == pytest.approx((2 / 3, 1 / 3))
    assert ranking.of_highest(5) == pytest.approx((2.5 / 5, 2.5 / 3))
    assert ranking.of_highest(7) == pytest.approx((3 / 7, 1))
    assert ranking.of_highest(1_000) == pytest.approx((3 / 17, 1))  # there are no more cases


def test_a_score_without_skill_has_the_precision_of_the_share() -> None:
    ranking = NONE.including(np.zeros(8, int), np.arange(8) < 2)
    assert ranking.average_precision() == 0.25
    assert ranking.of_highest(4) == (0.25, 0.5)


def test_without_a_hit_or_a_case_the_measures_are_undefined() -> None:
    no_hit = NONE.including(np.array([3, 4]), np.array([False, False]))
    assert math.isnan(no_hit.average_precision())
    precision, recall = no_hit.of_highest(1)
    assert precision == 0 and math.isnan(recall)
    assert all(map(math.isnan, NONE.of_highest(1)))
