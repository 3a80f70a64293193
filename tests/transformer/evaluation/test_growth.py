"""Severe growth: measures by hand, those of scikit-learn, alerts of trains, and no trace of the parts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy.stats import norm
from sklearn.metrics import average_precision_score, brier_score_loss

from transformer.evaluation.growth import BINS, GROWTHS_MIN, SevereGrowth, severe_growth
from transformer.prediction.row_files import RowFiles

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def test_point_predictions_are_ranked_by_their_growth(make_rows) -> None:
    # Growths of the observed delays over a last one of 100 s: 301, 300, 660, 0.
    rows = make_rows([401, 400, 760, 100], [700, 400, 500, 100], [100, 100, 401, 100], last_delay_s=100.0)
    found = severe_growth(rows).summary
    assert found[5]["share"] == 0.5
    assert found[5]["average_precision"] == 1  # growths of 600, 300, 400 and 0: the first and the third are highest
    assert found[5]["brier"] == 0
    assert found[5]["translation_average_precision"] == pytest.approx((1 + 2 / 4) / 2)  # 0, 0, 301, 0
    assert found[5]["translation_brier"] == 0.25
    assert found[5]["brier_skill"] == 1
    assert found[10]["share"] == 0.25
    assert found[10]["average_precision"] == 0.5  # the growth of 660 s has the second score
    assert found[10]["brier"] == 0.25  # 600 s are not more than ten minutes


def forecasts(make_rows: Callable[..., pl.DataFrame], n: int = 3_000) -> pl.DataFrame:
    """Growths of a normal distribution whose mean and scale are those of the quantiles."""
    generator = np.random.default_rng(11)
    mean, scale = generator.normal(60, 200, n), generator.uniform(30, 200, n)
    last = generator.integers(0, 600, n).astype(float)
    observed = last + mean + scale * generator.normal(size=n)
    quantiles = {level: (last + mean + scale * norm.ppf(level)).tolist() for level in LEVELS}
    return make_rows(
        observed.tolist(), (last + mean).tolist(), last.tolist(), quantiles=quantiles, last_delay_s=last.tolist()
    ).with_columns(
        train_id=pl.format("t{}", pl.int_range(n)), true=pl.lit(pl.Series(mean)), scale=pl.lit(pl.Series(scale))
    )


def test_probabilities_are_scored_as_scikit_learn_scores_them(make_rows) -> None:
    rows = forecasts(make_rows)
    found = severe_growth(rows)
    for minutes in GROWTHS_MIN:
        grown = (rows["observed_delay_s"] - rows["last_delay_s"]).to_numpy() > 60 * minutes
        true = norm.sf(60 * minutes, rows["true"], rows["scale"])
        values = found.summary[minutes]
        assert values["share"] == pytest.approx(grown.mean())
        assert values["average_precision"] == pytest.approx(average_precision_score(grown, true), abs=0.005)
        assert values["brier"] == pytest.approx(brier_score_loss(grown, true), abs=0.001)
        assert values["translation_average_precision"] == pytest.approx(grown.mean())  # it never grows
        assert values["translation_brier"] == pytest.approx(grown.mean())
        assert values["brier_skill"] == pytest.approx(1 - values["brier"] / grown.mean())
        assert values["reliability"] < 0.002
    calibrated = found.reliability.filter(pl.col("n") > 100)
    assert (calibrated["predicted"] - calibrated["observed"]).abs().max() < 0.1
    assert found.reliability.filter(growth_min=5)["n"].sum() == rows.height


def test_an_alert_is_a_train_in_a_snapshot(make_rows) -> None:
    # Two trains with three events each. One event of the first grows, and another one has its highest score.
    rows = make_rows(
        [0, 0, 400, 0, 0, 0],
        [350, 0, 0, 200, 200, 200],
        [0.0] * 6,
        train_id=["a", "a", "a", "b", "b", "b"],
        rank=[1, 2, 3, 1, 2, 3],
    )
    one = severe_growth(rows, alerts_per_hour=1).summary[5]
    assert (one["alert_precision"], one["alert_recall"]) == (1, 1)
    both = severe_growth(rows, alerts_per_hour=2).summary[5]
    assert (both["alert_precision"], both["alert_recall"]) == (0.5, 1)
    assert one["translation_alert_precision"] == 0.5  # one of two equal scores
    assert one["translation_alert_recall"] == 0.5


def test_the_budget_is_that_of_the_clock_hours_with_a_snapshot(make_rows) -> None:
    noon = make_rows([0], [0], [0])["snapshot_ts"][0]
    minutes = [0, 15, 45, 60, 300]  # the hours from 12, 13 and 17 o'clock
    stamps = [noon + timedelta(minutes=minute) for minute in minutes]
    rows = make_rows([400, 400, 0, 0, 0], [400, 390, 380, 370, 0], [0.0] * 5, snapshot_ts=stamps)
    values = severe_growth(rows, alerts_per_hour=1).summary[5]
    assert (values["alert_precision"], values["alert_recall"]) == (pytest.approx(2 / 3), 1)


def test_without_a_severe_growth_nothing_is_said_of_it(make_rows) -> None:
    growth = severe_growth(make_rows([0, 0], [0, 0], [0, 0]))
    assert growth.seen == []
    assert math.isnan(growth.summary[5]["average_precision"]) and math.isnan(growth.summary[5]["alert_recall"])
    assert "test/growth_over_5min/average_precision" not in growth.metrics("test")
    assert growth.reliability.is_empty()


def test_growths_beyond_the_bins_count_as_those_at_their_ends(make_rows) -> None:
    rows = make_rows([90_000, 0, 0], [86_400, -86_400, 301], [0.0] * 3)
    assert severe_growth(rows).summary[10]["average_precision"] == 1


def test_metrics_have_stable_names(make_rows) -> None:
    flat = severe_growth(forecasts(make_rows)).metrics("test")
    names = ["average_precision", "alert_precision", "alert_recall", "brier"]
    expected = {"share", "brier_skill", "reliability", *names, *(f"translation_{name}" for name in names)}
    assert flat.keys() == {f"test/growth_over_{minutes}min/{name}" for minutes in (5, 10) for name in expected}
    assert all(re.fullmatch(r"[\w/ .-]+", name) for name in flat)


def same(found: SevereGrowth, expected: SevereGrowth) -> bool:
    assert_frame_equal(found.curves, expected.curves, check_exact=True)
    assert_frame_equal(found.reliability, expected.reliability, check_exact=True)
    return found.metrics("test") == expected.metrics("test")


def test_figures_depend_neither_on_parts_nor_on_the_order(
    few_dates: pl.DataFrame, in_files: Callable[[pl.DataFrame], RowFiles]
) -> None:
    many = few_dates.with_columns(pl.col("observed_delay_s") + 7 * pl.col("rank") ** 3)  # so that some grow by minutes
    expected = severe_growth(many)
    assert 0 < expected.summary[10]["share"] < expected.summary[5]["share"] < 1
    assert same(severe_growth(in_files(many)), expected)
    assert same(severe_growth(many.sample(fraction=1, shuffle=True, seed=3)), expected)


def test_a_coarser_grid_of_scores_would_change_little(make_rows, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = forecasts(make_rows)
    fine = severe_growth(rows)
    monkeypatch.setattr("transformer.evaluation.growth.BINS", BINS // 5)
    coarse = severe_growth(rows)
    for minutes in GROWTHS_MIN:
        for name in ("average_precision", "alert_precision", "alert_recall"):
            assert coarse.summary[minutes][name] == pytest.approx(fine.summary[minutes][name], abs=0.01)
