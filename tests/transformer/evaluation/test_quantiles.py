"""The predicted distribution: known scores of known distributions, ties, groups, and refused rows."""

from __future__ import annotations

import itertools
import json
import math
import re
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from tests.support.messages import assert_names
from transformer.errors import UserError
from transformer.evaluation import metrics
from transformer.evaluation.quantiles import BREAKDOWNS, POINT_GROUPS, exceedance, point_groups, uncertainty
from transformer.prediction import columns
from transformer.prediction.columns import Interval, intervals_of, levels_in, quantile_column, quantile_name

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
MANY = [k / 100 for k in range(1, 100)]


@pytest.fixture
def rows_of(make_rows):
    """Builds rows with given observed delays, all with the same quantiles."""

    def build(observed, quantiles, translation=0.0, **columns):
        n = len(observed)
        return make_rows(list(observed), [0.0] * n, [translation] * n, quantiles=quantiles, **columns)

    return build


def normal_crps(observed: np.ndarray, scale: float) -> float:
    """Mean CRPS of N(0, scale²). Source: Gneiting et al. 2005, doi 10.1175/MWR2904.1, equation 5."""
    z = observed / scale
    return float(np.mean(scale * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi))))


# --- names -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("level", "name"),
    [(0.05, "q05"), (0.5, "q50"), (0.025, "q02.5"), (0.975, "q97.5"), (0.07, "q07"), (0.999, "q99.9")],
)
def test_columns_are_named_by_their_level_in_percent(level, name):
    assert quantile_name(level) == name
    assert quantile_column(level) == f"{name}_delay_s"
    assert levels_in([quantile_column(level)]) == (level,)


def test_every_thousandth_has_a_column_of_its_own_and_reads_back():
    levels = [k / 1_000 for k in range(1, 1_000)]
    columns = [quantile_column(level) for level in levels]
    assert columns == sorted(set(columns), key=lambda name: float(name[1:].removesuffix("_delay_s")))
    assert list(levels_in(columns)) == levels


def test_other_columns_are_no_quantiles():
    assert levels_in([*columns.ROW_SCHEMA, "q5_delay_s", "q05_delay", "q050_delay_s", "low_90_delay_s"]) == ()
    assert levels_in(["q95_delay_s", "op_id", "q05_delay_s"]) == (0.05, 0.95)


def test_intervals_are_pairs_of_levels_narrowest_first():
    assert [interval.name for interval in intervals_of(LEVELS)] == ["50", "80", "90"]
    assert intervals_of(LEVELS)[-1] == Interval(0.05, 0.95)
    assert intervals_of([0.5]) == () == intervals_of([0.1, 0.5, 0.8])
    assert [interval.name for interval in intervals_of([0.005, 0.025, 0.3, 0.5, 0.7, 0.975, 0.995])] == [
        "40",
        "95",
        "99",
    ]
    assert Interval(0.05, 0.95).columns == {"low_90_delay_s": "q05_delay_s", "high_90_delay_s": "q95_delay_s"}


# --- scores ----------------------------------------------------------------------------------------------------------
def test_pinball_loss_by_hand(rows_of):
    # y − q of level 0.1: −10, +20, +100; of 0.5: −40, −10, +70
    judged = uncertainty(rows_of([0, 30, 110], {0.1: 10.0, 0.5: 40.0, 0.9: 40.0}))
    assert judged.levels["level"].to_list() == [0.1, 0.5, 0.9]
    assert judged.levels["pinball_s"].to_list() == pytest.approx(
        [(0.9 * 10 + 0.1 * 20 + 0.1 * 100) / 3, (20 + 5 + 35) / 3, (0.1 * 40 + 0.1 * 10 + 0.9 * 70) / 3]
    )
    assert judged.summary["pinball_s"] == pytest.approx(judged.levels["pinball_s"].mean())


def test_the_true_quantile_has_the_least_pinball_loss(rows_of):
    observed = norm.ppf((np.arange(1_000) + 0.5) / 1_000) * 60
    for level in (0.05, 0.75):
        right = 60 * norm.ppf(level)
        losses = [
            uncertainty(rows_of(observed, {level: right + off})).summary["pinball_s"] for off in (-20.0, 0.0, 20.0)
        ]
        assert losses[1] < min(losses[0], losses[2])


def test_the_crps_of_a_normal_is_that_of_its_closed_form(rows_of):
    observed = np.linspace(-300, 300, 201)
    for scale in (20.0, 60.0, 200.0):
        judged = uncertainty(rows_of(observed, {level: scale * norm.ppf(level) for level in MANY}))
        assert judged.summary["crps_s"] == pytest.approx(normal_crps(observed, scale), rel=0.002)


def test_seven_levels_score_a_normal_nearly_as_itself_and_never_better(rows_of):
    observed = norm.ppf((np.arange(4_000) + 0.5) / 4_000) * 60  # quantiles of the same normal
    judged = uncertainty(rows_of(observed, {level: 60 * norm.ppf(level) for level in LEVELS}))
    assert 1 < judged.summary["crps_s"] / normal_crps(observed, 60) < 1.003
    assert normal_crps(observed, 60) == pytest.approx(60 / math.sqrt(math.pi), rel=1e-3)


def test_the_crps_is_twice_the_pinball_loss_integrated_over_all_levels(rows_of):
    """The integral has 20,000 levels. Some distributions have points of mass or are far from the observed delay."""
    rng = np.random.default_rng(3)
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    fine = (np.arange(20_000) + 0.5) / 20_000
    for _ in range(20):
        delays, observed = np.sort(rng.integers(-3, 4, 5)) * 60.0, float(rng.integers(-5, 6)) * 60
        error = observed - np.interp(fine, levels, delays)
        expected = 2 * np.maximum(fine * error, (fine - 1) * error).mean()
        found = uncertainty(rows_of([observed], dict(zip(levels, delays, strict=True)))).summary["crps_s"]
        assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("levels", [LEVELS, (0.5,), (0.2, 0.9)])
def test_the_crps_of_a_point_prediction_is_its_absolute_error(rows_of, levels):
    """Translation is a distribution of one delay. Its score is its MAE, so neither form of prediction gains."""
    rows = rows_of([-90, 0, 30, 400], dict.fromkeys(levels, 30.0), translation=30.0)
    summary = uncertainty(rows).summary
    assert summary["crps_s"] == pytest.approx(metrics.summary(rows)["translation_mae_s"])
    assert summary["translation_crps_s"] == metrics.summary(rows)["translation_mae_s"] == 130
    assert summary["crps_skill"] == pytest.approx(0)


def test_skill_compares_with_translation_and_is_undefined_where_that_makes_no_error(rows_of):
    judged = uncertainty(rows_of([100, 100], {0.1: 90.0, 0.5: 100.0, 0.9: 110.0}))
    assert judged.summary["crps_skill"] == pytest.approx(1 - judged.summary["crps_s"] / 100)
    exact = uncertainty(rows_of([100, 100], {0.1: 90.0, 0.5: 100.0, 0.9: 110.0}, translation=100.0))
    assert math.isnan(exact.summary["crps_skill"])
    assert not [name for name in exact.metrics("test") if "skill" in name]


# --- probabilities ---------------------------------------------------------------------------------------------------
def probabilities(rows_of, quantiles: dict[float, float], limits: list[float]) -> list[float]:
    rows = rows_of(limits, quantiles)
    return rows.select(exceedance(levels_in(rows.columns), pl.col("observed_delay_s"))).to_series().to_list()


def test_the_probability_of_a_longer_delay_is_one_minus_the_level_at_each_quantile(rows_of):
    quantiles = {level: 60 * norm.ppf(level) for level in LEVELS}
    assert probabilities(rows_of, quantiles, list(quantiles.values())) == pytest.approx([1 - p for p in LEVELS])
    middle = (quantiles[0.25] + quantiles[0.5]) / 2
    assert probabilities(rows_of, quantiles, [middle]) == pytest.approx([1 - 0.375])


def test_both_tails_are_exponential_through_the_two_outermost_quantiles(rows_of):
    quantiles = {0.1: -40.0, 0.2: -30.0, 0.8: 30.0, 0.9: 40.0}
    assert probabilities(rows_of, quantiles, [40.0, 50.0, 60.0, 1e6]) == pytest.approx([0.1, 0.05, 0.025, 0.0])
    assert probabilities(rows_of, quantiles, [-40.0, -50.0, -60.0, -1e6]) == pytest.approx([0.9, 0.95, 0.975, 1.0])


def test_equal_quantiles_hold_their_probability_at_one_delay(rows_of):
    limits = [-1.0, 0.0, 0.5]
    assert probabilities(rows_of, dict.fromkeys(LEVELS, 0.0), limits) == [1, 0, 0]
    assert probabilities(rows_of, {0.5: 0.0}, limits) == [1, 0, 0]
    inner = {0.1: 0.0, 0.5: 60.0, 0.8: 60.0, 0.9: 120.0}
    assert probabilities(rows_of, inner, [59.999, 60.0]) == pytest.approx([0.5, 0.2], abs=1e-4)


def test_probabilities_fall_with_the_limit(rows_of):
    generator = np.random.default_rng(4)
    limits = np.linspace(-900, 900, 301).tolist()
    for _ in range(20):
        delays = np.sort(generator.integers(-3, 4, len(LEVELS))) * 60.0
        found = np.array(probabilities(rows_of, dict(zip(LEVELS, delays.tolist(), strict=True)), limits))
        assert ((found >= 0) & (found <= 1)).all() and (np.diff(found) <= 1e-12).all()


# --- coverage --------------------------------------------------------------------------------------------------------
def test_uniform_data_are_covered_exactly(rows_of):
    observed = np.arange(1_000) + 0.5  # uniform on [0, 1000]
    judged = uncertainty(rows_of(observed, {level: 1_000 * level for level in LEVELS}))
    for percent in (50, 80, 90):
        assert judged.summary[f"coverage_{percent}"] == pytest.approx(percent / 100)
        assert judged.summary[f"width_{percent}_s"] == pytest.approx(10 * percent)
    assert judged.levels["below"].to_list() == pytest.approx(LEVELS)
    assert judged.levels["at_or_below"].to_list() == pytest.approx(LEVELS)


def test_a_delay_that_equals_an_end_lies_inside(rows_of):
    judged = uncertainty(rows_of([0, 60, 120, 180, 240], {0.1: 60.0, 0.5: 120.0, 0.9: 180.0}))
    assert judged.summary["coverage_80"] == pytest.approx(3 / 5)
    assert judged.levels["below"].to_list() == pytest.approx([1 / 5, 2 / 5, 3 / 5])
    assert judged.levels["at_or_below"].to_list() == pytest.approx([2 / 5, 3 / 5, 4 / 5])
    inside = judged.levels["at_or_below"][2] - judged.levels["below"][0]
    assert inside == pytest.approx(judged.summary["coverage_80"])


def test_without_pairs_there_is_no_interval(rows_of):
    judged = uncertainty(rows_of([0, 60], {0.2: 0.0, 0.5: 30.0}))
    assert judged.intervals == ()
    assert set(judged.summary) == {"n", "crps_s", "translation_crps_s", "crps_skill", "pinball_s"}


# --- groups ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", BREAKDOWNS)
def test_groups_partition_the_rows(day_quantiles, by):
    judged = uncertainty(day_quantiles)
    groups = judged.breakdowns[by]
    assert groups.columns == [by, *judged.summary]
    assert groups["n"].sum() == day_quantiles.height
    assert groups[by].is_sorted() and groups[by].is_unique().all()
    assert (groups["n"] * groups["crps_s"]).sum() / day_quantiles.height == pytest.approx(judged.summary["crps_s"])
    assert groups["coverage_50"].to_list() == [0] * groups.height
    assert groups["coverage_80"].to_list() == [1] * groups.height


def test_a_group_has_the_summary_of_its_rows(day_quantiles):
    regional = uncertainty(day_quantiles.filter(train_type="regional")).summary
    line = uncertainty(day_quantiles).breakdowns["train_type"].filter(train_type="regional").row(0, named=True)
    assert {name: line[name] for name in regional} == pytest.approx(regional)


def test_points_are_grouped_by_how_many_events_they_have(rows_of, make_rows):
    # Point 9 has five events, point 7 has four, and points 1 to 6 have one each. An event that is predicted again by
    # another snapshot counts once.
    points = [9] * 5 + [7] * 4 + [1, 2, 3, 4, 5, 6] + [6] * 20
    start = make_rows([0], [0], [0])["planned_ts"][0]
    planned = [start + timedelta(minutes=k) for k in range(15)] + [start + timedelta(minutes=14)] * 20
    rows = rows_of([0.0] * len(points), {0.5: 0.0}, op_id=points, planned_ts=planned)
    assert dict(point_groups(rows).sort("op_id").iter_rows()) == {
        **{1: "second-quarter", 2: "second-quarter", 3: "third-quarter", 4: "third-quarter"},
        **{5: "quietest-quarter", 6: "quietest-quarter", 7: "busiest-quarter", 9: "busiest-quarter"},
    }
    groups = uncertainty(rows).breakdowns["point_group"]
    assert dict(groups.select("point_group", "n").iter_rows()) == dict(zip(POINT_GROUPS, (9, 2, 2, 22), strict=True))


def test_a_single_point_is_the_busiest(rows_of):
    assert point_groups(rows_of([0, 0], {0.5: 0.0}))["point_group"].to_list() == ["busiest-quarter"]


# --- MLflow ----------------------------------------------------------------------------------------------------------
def test_mlflow_names_and_values(day_quantiles):
    judged = uncertainty(day_quantiles)
    flat = judged.metrics("test")
    assert flat["test/crps_s"] == judged.summary["crps_s"]
    assert flat["test/translation_crps_s"] == 120
    assert (flat["test/coverage_50"], flat["test/coverage_80"]) == (0, 1)
    assert (flat["test/width_50_s"], flat["test/width_80_s"]) == (60, 180)
    assert flat["test/pinball/q50_s"] == 30
    assert flat["test/horizon/10-20min/coverage_80"] == 1
    assert flat["test/departed/no/width_80_s"] == 180
    assert flat["test/point_group/busiest-quarter/n"] == 120
    assert flat["test/train_type/long_distance/crps_skill"] == pytest.approx(judged.summary["crps_skill"])
    assert all(re.fullmatch(r"[A-Za-z0-9_./ -]+", name) for name in flat)
    assert all(type(value) is float for value in flat.values())


def test_names_agree_with_the_metrics_of_the_point_prediction(day_quantiles):
    """If both have a metric of a group with the same name, its value is the same."""
    summary, groups = metrics.summary(day_quantiles), metrics.breakdowns(day_quantiles, "UTC")
    points = metrics.to_mlflow_metrics(summary, groups, "test")
    flat = uncertainty(day_quantiles).metrics("test")
    both = points.keys() & flat.keys()
    assert "test/horizon/10-20min/n" in both
    assert {name: points[name] for name in both} == {name: flat[name] for name in both}


def test_levels_finer_than_a_percent_are_legal_in_mlflow(rows_of):
    validation = pytest.importorskip("mlflow.utils.validation")
    flat = uncertainty(rows_of([0.0], {0.025: -60.0, 0.5: 0.0, 0.975: 60.0}, train_type="IC+")).metrics("test")
    assert {"test/pinball/q02.5_s", "test/coverage_95", "test/train_type/IC-2b-/crps_s"} <= flat.keys()
    for name in flat:
        validation._validate_metric_name(name)


def test_json_round_trip(day_quantiles):
    for frame in uncertainty(day_quantiles).breakdowns.values():
        records = metrics.to_json(frame)
        assert json.loads(json.dumps(records, allow_nan=False)) == records


# --- refused rows ----------------------------------------------------------------------------------------------------
def test_rows_without_quantiles_have_no_distribution(day_rows):
    assert uncertainty(day_rows) is None


def test_no_rows_no_evaluation(rows_of):
    with pytest.raises(UserError, match="0 labelled rows"):
        uncertainty(rows_of([], {0.5: []}))


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_values_that_are_not_numbers_are_refused(rows_of, value):
    with pytest.raises(UserError, match=r"^q90_delay_s ") as caught:
        uncertainty(rows_of([0, 0], {0.1: 0.0, 0.9: [10.0, value]}))
    assert_names(caught.value, "null, NaN or infinite", "1 of 2 evaluation rows; check ", "training", "diverge")
    with pytest.raises(UserError) as caught:
        uncertainty(rows_of([0, value], {0.5: 0.0}))
    assert_names(caught.value, "observed_delay_s", "null, NaN or infinite", "1 of 2")


def test_quantiles_that_cross_are_refused(rows_of):
    with pytest.raises(UserError) as caught:
        uncertainty(rows_of([0, 0, 0], {0.1: [0.0, 0.0, 5.0], 0.5: [0.0, 1.0, 4.0], 0.9: 6.0}))
    assert_names(caught.value, "quantiles cross", "1 of 3 evaluation rows", "sort")


def test_the_order_of_columns_and_rows_does_not_matter(day_quantiles):
    turned = day_quantiles.select(reversed(day_quantiles.columns)).reverse()
    first, second = uncertainty(day_quantiles), uncertainty(turned)
    assert second.summary == pytest.approx(first.summary)
    for by, other in itertools.product(BREAKDOWNS, ["n", "coverage_80"]):
        assert first.breakdowns[by][other].to_list() == second.breakdowns[by][other].to_list()
