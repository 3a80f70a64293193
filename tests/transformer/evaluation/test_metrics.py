from __future__ import annotations

import json
import math
import re
from datetime import UTC, date, datetime

import polars as pl
import pytest

from tests.support.messages import assert_names
from transformer.errors import UserError
from transformer.evaluation import metrics


def test_summary_by_hand(make_rows):
    # model errors: 0, +60, −120, +300; translation errors: +100, −200, +100, −400
    rows = make_rows([0, 60, 120, 180], [0, 120, 0, 480], [100, -140, 220, -220])
    assert metrics.summary(rows) == {
        "n": 4,
        "mae_s": (0 + 60 + 120 + 300) / 4,
        "rmse_s": math.sqrt((60**2 + 120**2 + 300**2) / 4),
        "median_s": 90.0,
        "within_1_min": 0.5,  # 60 s is within one minute
        "within_2_min": 0.75,
        "within_5_min": 1.0,
        "bias_s": 60.0,
        "translation_mae_s": 200.0,
        "translation_rmse_s": math.sqrt((100**2 + 200**2 + 100**2 + 400**2) / 4),
        "translation_median_s": 150.0,
        "translation_within_1_min": 0.0,
        "translation_within_2_min": 0.5,
        "translation_within_5_min": 0.75,
        "translation_bias_s": -100.0,
        "skill": pytest.approx(1 - 120 / 200),
        "skill_rmse": pytest.approx(1 - math.sqrt(108_000 / 220_000)),
    }


def test_skill_is_positive_where_the_model_is_better_and_negative_where_it_is_worse(make_rows):
    assert metrics.summary(make_rows([0, 0], [10, 10], [40, 40]))["skill"] == pytest.approx(0.75)
    assert metrics.summary(make_rows([0, 0], [40, 40], [40, 40]))["skill"] == 0
    assert metrics.summary(make_rows([0, 0], [80, 80], [40, 40]))["skill"] == pytest.approx(-1.0)


def test_skill_is_undefined_where_translation_makes_no_error(make_rows):
    rows = make_rows([30, 60], [31, 60], [30, 60])
    summary = metrics.summary(rows)
    assert math.isnan(summary["skill"]) and math.isnan(summary["skill_rmse"])
    assert metrics.breakdown(rows, "rank")["skill"].to_list() == [None]
    flat = metrics.to_mlflow_metrics(summary, metrics.breakdowns(rows, "UTC"), "test")
    assert not [name for name in flat if "skill" in name]
    assert flat["test/mae_s"] == 0.5


@pytest.mark.parametrize("by", metrics.BREAKDOWNS)
def test_groups_partition_the_rows(day_rows, by):
    frame = metrics.breakdown(day_rows, by, "Europe/Budapest")
    assert frame.columns == [by, *metrics.SUMMARY]
    assert frame["n"].sum() == day_rows.height
    assert frame[by].is_unique().all() and frame[by].null_count() == 0
    total = metrics.summary(day_rows)
    assert (frame["n"] * frame["mae_s"]).sum() / day_rows.height == pytest.approx(total["mae_s"])
    assert frame["skill"].to_list() == pytest.approx([0.5] * frame.height)


def test_a_group_has_the_summary_of_its_rows(day_rows):
    regional = day_rows.filter(pl.col("train_type") == "regional")
    line = metrics.breakdown(day_rows, "train_type").filter(pl.col("train_type") == "regional").row(0, named=True)
    assert {name: line[name] for name in metrics.SUMMARY} == pytest.approx(metrics.summary(regional))


def test_horizon_bins_are_half_open(make_rows):
    minutes = [-0.001, 0, 4.999, 5, 9.999, 10, 19.999, 20, 29.999, 30, 59.999, 60, 119.999, 120, 600]
    rows = make_rows([0] * 15, [0] * 15, [0] * 15, horizon_s=[60 * m for m in minutes])
    frame = metrics.breakdown(rows, "horizon")
    assert dict(frame.select("horizon", "n").iter_rows()) == {
        "overdue": 1,
        "0-5min": 2,
        "5-10min": 2,
        "10-20min": 2,
        "20-30min": 2,
        "30-60min": 2,
        "60-120min": 2,
        "over-120min": 2,
    }
    assert frame["horizon"].to_list() == list(metrics.HORIZON.labels)


def test_delay_change_is_observed_minus_last_known_in_half_open_bins(make_rows):
    changes = [-301, -300, -121, -120, 119, 120, 299, 300, 599, 600]
    rows = make_rows([100 + c for c in changes], [0] * 10, [0] * 10, last_delay_s=100.0)
    frame = metrics.breakdown(rows, "delay_change")
    assert list(frame.select("delay_change", "n").iter_rows()) == [
        ("falls-over-5min", 1),
        ("falls-2-5min", 2),
        ("steady", 2),
        ("rises-2-5min", 2),
        ("rises-5-10min", 2),
        ("rises-over-10min", 1),
    ]


def test_bins_without_rows_are_left_out(make_rows):
    rows = make_rows([0, 0], [0, 0], [0, 0], horizon_s=[0.0, 7_200.0])
    assert metrics.breakdown(rows, "horizon")["horizon"].to_list() == ["0-5min", "over-120min"]


def test_hours_are_local_on_both_sides_of_a_clock_change(make_rows):
    # On 2024-10-27 at 01:00 UTC Budapest goes back from 03:00 to 02:00: 00:30 and 01:30 UTC are both 02:30.
    stamps = [datetime(2024, 10, 27, hour, 30, tzinfo=UTC) for hour in (0, 1, 2, 23)]
    rows = make_rows([0] * 4, [0] * 4, [0] * 4, snapshot_ts=stamps)
    assert dict(metrics.breakdown(rows, "hour", "Europe/Budapest").select("hour", "n").iter_rows()) == {
        0: 1,
        2: 2,
        3: 1,
    }
    assert dict(metrics.breakdown(rows, "hour", "UTC").select("hour", "n").iter_rows()) == {0: 1, 1: 1, 2: 1, 23: 1}
    # In spring, 00:30 UTC is 01:30 and 01:30 UTC is already 03:30.
    spring = [datetime(2024, 3, 31, hour, 30, tzinfo=UTC) for hour in (0, 1)]
    rows = make_rows([0] * 2, [0] * 2, [0] * 2, snapshot_ts=spring)
    assert metrics.breakdown(rows, "hour", "Europe/Budapest")["hour"].to_list() == [1, 3]


def test_night_and_peak_are_local_hours_and_peak_is_on_weekdays(make_rows):
    friday, saturday = date(2024, 12, 20), date(2024, 12, 21)
    hours = [21, 22, 4, 5, 6, 8, 9, 15, 16, 18, 19]  # in Budapest, an hour after UTC
    stamps = [datetime(2024, 12, 20, (hour - 1) % 24, tzinfo=UTC) for hour in hours]
    n = len(hours)
    expected = ["off-peak", "night", "night", "off-peak", *["peak"] * 2, *["off-peak"] * 2, *["peak"] * 2, "off-peak"]
    for day, groups in (
        (friday, expected),
        (saturday, [name.replace("off-", "").replace("peak", "off-peak") for name in expected]),
    ):
        rows = make_rows([0] * n, [0] * n, [0] * n, snapshot_ts=stamps, service_date=day)
        found = rows.select(metrics.group_keys("Europe/Budapest")["time_of_day"]).to_series()
        assert found.to_list() == groups
    assert metrics.breakdown(rows, "time_of_day", "Europe/Budapest")["time_of_day"].to_list() == ["night", "off-peak"]


def test_the_weekend_is_that_of_the_service_date(make_rows):
    days = [date(2024, 12, day) for day in (20, 21, 22, 23)]  # from Friday to Monday
    rows = make_rows([0] * 4, [0] * 4, [0] * 4, service_date=days, snapshot_ts=datetime(2024, 12, 21, tzinfo=UTC))
    assert metrics.breakdown(rows, "day_type").select("day_type", "n").rows() == [("weekday", 2), ("weekend", 2)]


def test_a_train_without_a_type_is_unknown(make_rows):
    rows = make_rows([0, 0], [0, 0], [0, 0], train_type=[None, "IC"])
    assert metrics.breakdown(rows, "train_type")["train_type"].to_list() == ["IC", "unknown"]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "column", ["predicted_delay_s", "observed_delay_s", "translation_delay_s", "horizon_s", "last_delay_s"]
)
def test_values_that_are_not_numbers_are_refused(make_rows, column, value):
    rows = make_rows([0, 0, 0], [0, 0, 0], [0, 0, 0]).with_columns(
        pl.when(pl.int_range(pl.len()) == 1).then(pl.lit(value, pl.Float64)).otherwise(column).alias(column)
    )
    for compute in (metrics.summary, lambda frame: metrics.breakdown(frame, "rank")):
        with pytest.raises(UserError, match=f"^{column} ") as caught:
            compute(rows)
        assert_names(caught.value, "null, NaN or infinite", "1 of 3 evaluation rows")


def test_trains_are_distinguished_by_number_and_without_one_by_id(make_rows):
    rows = make_rows([0] * 4, [0] * 4, [0] * 4, train_number=["7", "7", None, "8"], train_id=["a", "b", "c", "d"])
    assert dict(metrics.breakdown(rows, "train_number").select("train_number", "n").iter_rows()) == {
        "7": 2,
        "8": 1,
        "c": 1,
    }
    assert "train_number" not in metrics.breakdowns(rows, "UTC")


def test_the_worst_groups_are_those_of_the_greatest_mae_with_enough_rows(make_rows):
    errors = {1: [10.0] * 3, 2: [50.0] * 3, 3: [900.0], 4: [30.0] * 4, 5: [800.0]}
    predicted = [error for values in errors.values() for error in values]
    points = [op for op, values in errors.items() for _ in values]
    rows = make_rows([0.0] * 12, predicted, [60.0] * 12, op_id=points)
    groups = metrics.breakdown(rows, "op_id")
    assert metrics.worst_groups(groups, 10)["op_id"].to_list() == [2, 4, 1]
    assert metrics.worst_groups(groups, 1)["op_id"].to_list() == [2]


def test_no_rows_no_evaluation(make_rows):
    with pytest.raises(UserError, match="0 labelled rows"):
        metrics.summary(make_rows([], [], []))


def test_a_missing_column_is_named(make_rows):
    with pytest.raises(UserError, match=r"translation_delay_s.*ROW_SCHEMA"):
        metrics.breakdowns(make_rows([0], [0], [0]).drop("translation_delay_s"), "UTC")


def test_an_unknown_breakdown_is_refused_with_the_known_ones(make_rows):
    with pytest.raises(UserError, match=r"'weather'.*horizon, delay_change"):
        metrics.breakdown(make_rows([0], [0], [0]), "weather")


def test_mlflow_names_and_values(day_rows):
    flat = metrics.to_mlflow_metrics(metrics.summary(day_rows), metrics.breakdowns(day_rows, "Europe/Budapest"), "test")
    assert flat["test/n"] == 480
    assert flat["test/mae_s"] == 60
    assert flat["test/translation_mae_s"] == 120
    assert flat["test/skill"] == 0.5
    assert flat["test/horizon/10-20min/mae_s"] == 60
    assert flat["test/horizon/10-20min/within_1_min"] == 1  # all are off by 60 s
    assert flat["test/horizon/10-20min/translation_within_1_min"] == 0
    assert flat["test/departed/yes/n"] == 384
    assert flat["test/train_type/other/bias_s"] == 0
    assert flat["test/train_type/other/translation_bias_s"] == -120
    assert "test/train_type/other/within_1_min" not in flat
    assert flat["test/train_type/long_distance/skill"] == 0.5
    assert {name.split("/")[1] for name in flat if name.count("/") == 3} == set(metrics.GATE_BREAKDOWNS)
    assert all(re.fullmatch(r"[A-Za-z0-9_./ -]+", name) for name in flat)
    assert all(type(value) is float for value in flat.values())


def test_odd_type_names_stay_apart_and_legal_in_mlflow(make_rows):
    validation = pytest.importorskip("mlflow.utils.validation")
    names = ["IC+", "IC*", "../x", "a/b", "", "személy", "S 1"]
    rows = make_rows([0.0] * 7, [0.0] * 7, [1.0] * 7, train_type=names)
    flat = metrics.to_mlflow_metrics(metrics.summary(rows), metrics.breakdowns(rows, "UTC"), "val")
    counts = [name for name in flat if name.startswith("val/train_type/") and name.endswith("/n")]
    assert len(counts) == len(names)
    for name in flat:
        validation._validate_metric_name(name)


def test_json_round_trip(make_rows):
    rows = make_rows([0, 60], [0, 60], [0, 90], service_date=[date(2024, 12, 20), date(2024, 12, 21)])
    records = metrics.to_json(metrics.breakdown(rows, "service_date"))
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    assert [(r["service_date"], r["n"], r["skill"]) for r in records] == [
        ("2024-12-20", 1, None),
        ("2024-12-21", 1, 1.0),
    ]
