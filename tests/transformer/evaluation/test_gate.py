"""The gate: promotions, refusals to promote, refusals to compare, and the texts of its decisions."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.support.messages import assert_names
from transformer.config import GATE_BREAKDOWNS, GateConfig
from transformer.errors import UserError
from transformer.evaluation.decision import DECLINE, PromotionDecision
from transformer.evaluation.gate import GROUP_SCHEMA, compare
from transformer.evaluation.metrics import BREAKDOWNS, summary
from transformer.prediction.columns import ROW_SCHEMA
from transformer.prediction.row_files import EvaluationRows, RowFiles

FAST = GateConfig(resamples=500)
N_RANKS = 5
N_TRAINS = 60


def evaluation(error_s: float, *, dates: int = 10, seed: int = 0, ranks: int = N_RANKS, spread_s: float = 5.0):
    """Rows of 60 trains on each date. The size of an error is `error_s` plus amounts of the date, train and row."""
    shape = (dates, N_TRAINS, ranks)
    truth = np.random.default_rng(99)
    date_of, train, rank = (index.ravel() for index in np.indices(shape))
    observed = truth.normal(60, 90, (30, N_TRAINS, 20))[:dates, :, :ranks].ravel()
    common = truth.normal(0, 10, 30)[date_of]  # bad days are bad for every model
    size = np.abs(error_s + common + np.random.default_rng(seed).normal(0, spread_s, shape).ravel())
    sign = np.where((date_of + train + rank) % 2, 1, -1)
    noon = datetime(2024, 12, 1, 12, tzinfo=UTC)
    return pl.select(
        snapshot_ts=pl.Series([noon + timedelta(days=int(d)) for d in date_of]),
        service_date=pl.Series([date(2024, 12, 1) + timedelta(days=int(d)) for d in date_of]),
        train_id=pl.Series([f"t{t}" for t in train]),
        train_number=pl.lit("1"),
        train_type=pl.Series(np.array(["regional", "freight", None])[train % 3].tolist()),
        op_id=pl.Series(rank),
        event_type=pl.lit("A"),
        rank=pl.Series(rank + 1),
        planned_ts=pl.Series([noon + timedelta(days=int(d), minutes=7 * int(r)) for d, r in zip(date_of, rank)]),  # noqa: B905
        horizon_s=pl.Series(rank * 420.0),
        departed=pl.lit(True),
        last_delay_s=pl.lit(0.0),
        observed_delay_s=pl.Series(observed),
        translation_delay_s=pl.Series(observed + sign * np.abs(100 + common)),
        predicted_delay_s=pl.Series(observed + sign * size),
    ).cast(ROW_SCHEMA)


def refusal(challenger: EvaluationRows, champion: EvaluationRows | None, gate: GateConfig = FAST) -> str:
    with pytest.raises(UserError) as caught:
        compare(challenger, champion, gate)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- decisions -------------------------------------------------------------------------------------------------------
def test_a_better_model_is_promoted_and_the_reason_names_the_figures() -> None:
    challenger, champion = evaluation(60, seed=1), evaluation(70, seed=2)
    result = compare(challenger, champion, FAST)
    assert result.decision.promotes
    assert (result.n, result.journeys, result.unit, result.units) == (3_000, 600, "service date", 10)
    own, theirs = summary(challenger), summary(champion)
    assert result.mae_s["challenger"].value == pytest.approx(own["mae_s"])
    assert result.mae_s["translation"].value == pytest.approx(own["translation_mae_s"])
    assert result.skill["champion"].value == pytest.approx(theirs["skill"])
    difference = result.difference_s["champion"]
    assert difference.value == pytest.approx(own["mae_s"] - theirs["mae_s"]) == pytest.approx(-10, abs=0.5)
    assert -11 < difference.low < difference.value < difference.high < -9
    assert re.fullmatch(
        r"MAE 5\d\.\d\d s .* 6\d\.\d\d s .*champion.* −\d+\.\d\d \[−\d+\.\d\d, −\d+\.\d\d\] s; "
        r"MAE 5\d\.\d\d s .* \d+\.\d\d s .*translation.* −4\d\.\d\d \[−\d+\.\d\d, −\d+\.\d\d\] s "
        r"\(3,000 rows, 95% intervals .* 10 service dates\)",
        result.decision.reason,
    )


def test_the_same_model_is_not_promoted() -> None:
    rows = evaluation(60)
    result = compare(rows, rows, FAST)
    assert not result.decision.promotes
    assert vars(result.difference_s["champion"]) == {"value": 0, "low": 0, "high": 0}
    assert_names(result.decision.reason, "difference +0.00 [+0.00, +0.00] s, ", "below 0 s")


def test_chance_promotes_no_more_often_than_the_confidence_says() -> None:
    gate = GateConfig(resamples=300, breakdowns=[])
    promoted = [
        compare(evaluation(60, seed=2 * k, ranks=1), evaluation(60, seed=2 * k + 1, ranks=1), gate).decision.promotes
        for k in range(60)
    ]
    assert sum(promoted) <= 5  # 2.5 % of 60 are 1.5; more than five of them have a probability of 0.4 %


def test_a_worse_model_is_not_promoted_unless_the_rule_allows_so_much() -> None:
    challenger, champion = evaluation(61, seed=1), evaluation(60, seed=2)
    assert not compare(challenger, champion, FAST).decision.promotes
    assert compare(challenger, champion, GateConfig(resamples=500, min_improvement_s=-2)).decision.promotes


def test_an_improvement_must_be_as_large_as_the_rule_asks() -> None:
    challenger, champion = evaluation(60, seed=1), evaluation(70, seed=2)
    result = compare(challenger, champion, GateConfig(resamples=500, min_improvement_s=12))
    assert not result.decision.promotes
    assert_names(result.decision.reason, "below −12 s")


def test_translation_must_be_beaten_too() -> None:
    challenger, champion = evaluation(110, seed=1), evaluation(120, seed=2)
    result = compare(challenger, champion, FAST)
    assert not result.decision.promotes
    assert "of translation" in result.decision.reason
    assert "of the champion" not in result.decision.reason
    assert compare(challenger, champion, GateConfig(resamples=500, must_beat_translation=False)).decision.promotes


def test_the_first_model_must_beat_translation_whatever_the_rule_says() -> None:
    gate = GateConfig(resamples=500, must_beat_translation=False)
    result = compare(evaluation(60), None, gate)
    assert result.decision.promotes
    assert list(result.mae_s) == ["challenger", "translation"]
    assert list(result.difference_s) == ["translation"]
    assert result.groups.is_empty()
    assert dict(result.groups.schema) == GROUP_SCHEMA
    assert not compare(evaluation(101, spread_s=1), None, gate).decision.promotes


def worse_freight(extra_s: float, trains: int) -> pl.DataFrame:
    """Rows of a model much better than one with an error of 70 s, except for `trains` trains of one type."""
    few = pl.col("train_type").eq_missing(pl.lit("freight")) & (
        pl.col("train_id").str.slice(1).cast(pl.Int32) < 3 * trains
    )
    error = pl.col("predicted_delay_s") - pl.col("observed_delay_s")
    return evaluation(40).with_columns(predicted_delay_s=pl.col("predicted_delay_s") + few * error.sign() * extra_s)


def test_no_group_may_become_worse() -> None:
    champion = evaluation(70, seed=2)
    result = compare(worse_freight(60, trains=20), champion, FAST)
    assert not result.decision.promotes
    assert result.decision.reason.startswith("train_type freight +4")
    assert "more than 10%" in result.decision.reason
    assert result.groups.filter("degraded").select("breakdown", "group").rows() == [("train_type", "freight")]
    for lenient in (GateConfig(resamples=500, max_degradation=0.6), GateConfig(resamples=500, breakdowns=["horizon"])):
        assert compare(worse_freight(60, trains=20), champion, lenient).decision.promotes


@pytest.mark.parametrize("group", ["time_of_day night", "day_type weekend"])
def test_night_and_weekend_may_not_become_worse(group: str) -> None:
    """The challenger is much better on the whole, but for every fourth train, at 22:00, or at the weekend."""
    fourth = pl.col("train_id").str.slice(1).cast(pl.Int64) % 4 == 0
    challenger, champion = (
        rows.with_columns(pl.col("snapshot_ts") + pl.duration(hours=10 * fourth.cast(pl.Int64)))
        for rows in (evaluation(40, seed=1), evaluation(70, seed=2))
    )
    worse = pl.col("service_date").dt.weekday() > 5 if "weekend" in group else pl.col("snapshot_ts").dt.hour() == 22
    error = pl.col("predicted_delay_s") - pl.col("observed_delay_s")
    spoilt = challenger.with_columns(predicted_delay_s=pl.col("predicted_delay_s") + worse * error.sign() * 45)
    gate = GateConfig(resamples=500, min_service_dates=11)
    result = compare(spoilt, champion, gate)
    assert result.decision.declines
    assert result.decision.reason.startswith(f"{group} +2")
    assert "more than 10%" in result.decision.reason and ";" not in result.decision.reason
    blind = GateConfig(resamples=500, min_service_dates=11, breakdowns=["train_type", "horizon"])
    assert compare(spoilt, champion, blind).decision.promotes
    assert compare(challenger, champion, gate).decision.promotes


def test_the_night_is_that_of_the_railways_clock() -> None:
    challenger, champion = evaluation(60, seed=1), evaluation(70, seed=2)  # at 12:00 UTC
    groups = compare(challenger, champion, FAST, timezone="Asia/Tokyo").groups.filter(breakdown="time_of_day")
    assert groups["group"].to_list() == ["off-peak"]
    groups = compare(challenger, champion, FAST, timezone="Pacific/Auckland").groups.filter(breakdown="time_of_day")
    assert groups["group"].to_list() == ["night"]


def test_a_group_that_may_be_worse_by_chance_or_is_small_is_no_obstacle() -> None:
    champion, challenger = evaluation(70, seed=2), worse_freight(60, trains=20)
    gate = GateConfig(resamples=500, min_group_journeys=201)
    assert compare(challenger, champion, gate).decision.promotes
    # One freight train in twenty is so bad on a single date that the mean of the group is bad.
    once = (pl.col("train_id") == "t1") & (pl.col("service_date") == date(2024, 12, 1))
    by_chance = evaluation(40).with_columns(predicted_delay_s=pl.col("predicted_delay_s") + once * 20_000)
    result = compare(by_chance, champion, GateConfig(resamples=500, breakdowns=["train_type"]))
    freight = result.groups.filter(group="freight").row(0, named=True)
    assert freight["change"] > 0.1
    assert freight["low_s"] < 0
    assert not freight["degraded"]


def test_groups_are_in_their_natural_order_with_their_own_errors() -> None:
    challenger, champion = evaluation(60, seed=1), evaluation(70, seed=2)
    table = compare(challenger, champion, FAST).groups
    assert table["group"].to_list() == [
        *("freight", "regional", "unknown"),
        *("0-5min", "5-10min", "10-20min", "20-30min"),
        *("off-peak", "weekday", "weekend"),
    ]
    assert table.filter(breakdown="train_type")["n"].to_list() == [1_000] * 3
    error = (pl.col("predicted_delay_s") - pl.col("observed_delay_s")).abs().mean()
    of_freight = challenger.filter(train_type="freight").select(error).item()
    assert table["challenger_mae_s"][0] == pytest.approx(of_freight)
    assert table["change"][0] == pytest.approx(table["challenger_mae_s"][0] / table["champion_mae_s"][0] - 1)
    assert not table["degraded"].any()


def test_the_order_of_the_rows_does_not_matter() -> None:
    challenger, champion = evaluation(60, seed=1), evaluation(70, seed=2)
    first = compare(challenger, champion, FAST)
    second = compare(challenger.sample(fraction=1, shuffle=True, seed=5), champion.reverse(), FAST)
    assert second.metrics() == pytest.approx(first.metrics())
    assert second.decision.reason == first.decision.reason


# --- what is resampled -----------------------------------------------------------------------------------------------
def test_with_few_dates_journeys_are_resampled() -> None:
    result = compare(evaluation(60, dates=6), None, FAST)
    assert (result.unit, result.units) == ("journey", 360)
    result = compare(evaluation(60, dates=7), None, FAST)
    assert (result.unit, result.units) == ("service date", 7)


def test_whole_dates_have_wider_intervals_where_a_date_makes_the_error() -> None:
    rows = evaluation(60, dates=10)
    by_date = compare(rows, None, FAST).mae_s["challenger"]
    by_journey = compare(rows, None, GateConfig(resamples=500, min_service_dates=11)).mae_s["challenger"]
    assert by_date.high - by_date.low > 3 * (by_journey.high - by_journey.low)


def test_too_few_journeys_decide_nothing() -> None:
    rows = evaluation(60, dates=1).filter(pl.col("train_id").is_in(["t1", "t2"]))
    assert_names(refusal(rows, None), "2 journeys", "evaluation.gate.min_journeys=30", "longer window")


# --- the same rows ---------------------------------------------------------------------------------------------------
def test_rows_of_one_model_only_are_left_out_and_counted() -> None:
    challenger, champion = evaluation(60, seed=1), evaluation(70, seed=2)
    # If these rows were not left out, they would change the decision.
    spoilt = challenger.with_row_index().with_columns(
        predicted_delay_s=pl.when(pl.col("index") < 10).then(1e6).otherwise("predicted_delay_s")
    )
    result = compare(spoilt.drop("index"), champion.slice(10), FAST)
    assert (result.n, result.unmatched) == (2_990, 10)
    assert result.decision.promotes


def test_too_many_rows_of_one_model_only_refuse_the_comparison() -> None:
    challenger, champion = evaluation(60), evaluation(70)
    message = refusal(challenger, champion.slice(300))
    assert_names(message, "only one model", "300 rows", "10.0%", "evaluation.gate.max_unmatched_share=0.01")
    assert_names(message, "same window", "data.grid", "data.snapshot")
    other_days = champion.with_columns(pl.col("service_date").dt.offset_by("1y"))
    assert_names(refusal(challenger, other_days), "only one model", "6,000 rows", "100.0%")


def test_a_model_that_looks_further_ahead_is_compared_as_far_as_the_other_looks() -> None:
    far, near = evaluation(60, seed=1, ranks=8), evaluation(70, seed=2, ranks=5)
    for challenger, champion, promoted in ((far, near, True), (near, far, False)):
        result = compare(challenger, champion, FAST)
        assert (result.n, result.unmatched, result.beyond) == (3_000, 0, 1_800)
        assert result.decision.promotes is promoted


def test_models_evaluated_on_other_data_are_not_compared() -> None:
    challenger, champion = evaluation(60), evaluation(70)
    for name in ("observed_delay_s", "translation_delay_s"):
        other = champion.with_columns(pl.col(name) + pl.when(pl.int_range(pl.len()) < 7).then(60).otherwise(0))
        assert_names(refusal(challenger, other), f"{name} differs", "7 of 3,000 rows", "same event tables")


def test_rows_given_twice_or_without_a_column_are_refused() -> None:
    rows = evaluation(60)
    assert_names(refusal(rows, pl.concat([rows, rows])), "3,000 rows", "champion", "twice", "one window")
    assert_names(refusal(rows.drop("rank"), None), "evaluation rows", "rank", "ROW_SCHEMA")


# --- metrics and text ------------------------------------------------------------------------------------------------
def test_metrics_are_finite_and_legal() -> None:
    metrics = compare(evaluation(60, seed=1), evaluation(70, seed=2), FAST).metrics()
    assert metrics["gate/promote"] == 1
    assert metrics["gate/n"] == 3_000
    assert metrics["gate/difference_s/champion/low"] < metrics["gate/difference_s/champion"]
    assert set(metrics) >= {"gate/mae_s/translation/high", "gate/skill/challenger", "gate/unmatched", "gate/units"}
    assert all(np.isfinite(value) and re.fullmatch(r"[\w/ .-]+", name) for name, value in metrics.items())


def test_without_an_error_of_translation_there_is_no_skill_and_no_promotion() -> None:
    perfect = evaluation(60).with_columns(translation_delay_s=pl.col("observed_delay_s"))
    result = compare(perfect, None, FAST)
    assert not result.decision.promotes
    assert "gate/skill/challenger" not in result.metrics()
    assert "nan" in result.text()


def test_the_decision_is_of_the_versions_in_question_and_heads_the_text() -> None:
    considered = PromotionDecision(version=3, instead_of=2)
    result = compare(worse_freight(60, trains=20), evaluation(70, seed=2), FAST, considered)
    assert result.decision == PromotionDecision(DECLINE, result.decision.reason, version=3, instead_of=2)
    lines = result.text().splitlines()
    assert lines[0] == f"decline: {result.decision.reason}"
    assert_names(lines[1], "600 journeys", "0 rows of one model only", "0 too far ahead")
    assert [line.split()[0] for line in lines[3:6]] == ["challenger", "champion", "translation"]
    assert [line for line in lines if line.endswith("degraded")] == [line for line in lines if "freight" in line][1:]


def test_the_breakdowns_that_configuration_allows_are_the_coarse_ones() -> None:
    assert set(GATE_BREAKDOWNS) < set(BREAKDOWNS)
    assert compare(
        evaluation(60, seed=1), evaluation(70, seed=2), GateConfig(resamples=50, breakdowns=list(GATE_BREAKDOWNS))
    ).decision.promotes


# --- rows in files ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dates", [6, 10], ids=["journeys", "service dates"])
@pytest.mark.parametrize("with_champion", [True, False])
def test_rows_in_files_lead_to_the_same_decision_to_the_last_digit(
    in_files: Callable[[pl.DataFrame], RowFiles], dates: int, with_champion: bool
) -> None:
    challenger, champion = evaluation(60, seed=1, dates=dates), evaluation(70, seed=2, dates=dates, ranks=6).slice(3)
    expected = compare(challenger, champion if with_champion else None, FAST)
    found = compare(in_files(challenger), in_files(champion) if with_champion else None, FAST)
    assert found.text() == expected.text()
    assert found.metrics() == expected.metrics()
    assert_frame_equal(found.groups, expected.groups, check_exact=True)
    assert (found.decision, found.unit, found.units) == (expected.decision, expected.unit, expected.units)


def test_rows_in_files_are_refused_as_rows_in_memory(in_files: Callable[[pl.DataFrame], RowFiles]) -> None:
    challenger, champion = evaluation(60), evaluation(70)
    other_days = champion.with_columns(pl.col("service_date").dt.offset_by("1y"))
    wrong = champion.with_columns(
        pl.col("observed_delay_s") + pl.when(pl.int_range(pl.len()) < 7).then(60).otherwise(0)
    )
    for other in (other_days, wrong, champion.slice(300), pl.concat([champion, champion])):
        assert refusal(in_files(challenger), in_files(other)) == refusal(challenger, other)
