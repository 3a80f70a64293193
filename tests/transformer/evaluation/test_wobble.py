"""Wobble: changes of the same event's forecast, by hand, and no trace of the parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.transformer.evaluation.conftest import NOON, MakeRows
from transformer.evaluation.wobble import Wobble, wobble
from transformer.prediction.row_files import RowFiles


def forecasts(make_rows: MakeRows, minutes: list[int], predicted: list[float], **columns: object) -> pl.DataFrame:
    """Forecasts of one event, planned at 13:00, in snapshots so many minutes after noon. Translation stays at 60 s."""
    stamps = [NOON + timedelta(minutes=minute) for minute in minutes]
    n = len(minutes)
    values = {
        "snapshot_ts": stamps,
        "planned_ts": NOON + timedelta(hours=1),
        "horizon_s": [60.0 * (60 - minute) for minute in minutes],
    }
    return make_rows([0.0] * n, predicted, [60.0] * n, **(values | columns))


def test_absolute_changes_are_scaled_to_an_hour(make_rows) -> None:
    found = wobble(forecasts(make_rows, [0, 15, 30], [100, 160, 130]))
    assert found.changes == 2
    assert found.summary == {"wobble_s_per_h": (60 + 30) / 0.5, "translation_wobble_s_per_h": 0}
    assert found.horizon.rows() == [("30-60min", 2, 180.0, 0.0)]


def test_unequal_steps_weigh_by_their_time(make_rows) -> None:
    found = wobble(forecasts(make_rows, [0, 10, 55], [100, 160, 130]))
    assert found.summary["wobble_s_per_h"] == pytest.approx(90 / (55 / 60))
    assert found.horizon.select("horizon", "wobble_s_per_h").rows() == [
        ("5-10min", pytest.approx(30 / 0.75)),
        ("30-60min", pytest.approx(60 / (1 / 6))),
    ]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("train_id", ["a", "b"]),
        ("op_id", [1, 2]),
        ("event_type", ["A", "D"]),
        ("planned_ts", [NOON, NOON + timedelta(minutes=1)]),
        ("service_date", [NOON.date(), NOON.date() + timedelta(days=1)]),
    ],
)
def test_forecasts_of_different_events_are_no_change(make_rows, column: str, values: list[object]) -> None:
    found = wobble(forecasts(make_rows, [0, 15], [0, 900], **{column: values}))
    assert found.changes == 0
    assert all(math.isnan(value) for value in found.summary.values())
    assert found.metrics("test") == {}
    assert found.horizon.is_empty()


def test_an_event_moves_up_in_rank(make_rows) -> None:
    assert wobble(forecasts(make_rows, [0, 15], [0, 900], rank=[4, 1])).summary["wobble_s_per_h"] == 3_600


def test_two_events_of_one_key_in_a_snapshot_are_no_change(make_rows) -> None:
    assert wobble(forecasts(make_rows, [0, 0], [0, 900], rank=[1, 2])).changes == 0


def test_an_overdue_event_moves_translation_with_the_clock(make_rows) -> None:
    rows = forecasts(make_rows, [61, 71], [60, 60]).with_columns(translation_delay_s=-pl.col("horizon_s"))
    assert wobble(rows).summary["translation_wobble_s_per_h"] == 3_600
    assert wobble(rows).metrics("test") == {
        "test/wobble_s_per_h": 0,
        "test/translation_wobble_s_per_h": 3_600,
        "test/horizon/overdue/wobble_s_per_h": 0,
        "test/horizon/overdue/translation_wobble_s_per_h": 3_600,
    }


def persistent(few_dates: pl.DataFrame) -> pl.DataFrame:
    """The same rows as forecasts of events that several snapshots of a date see, also those that cross midnight."""
    planned = pl.col("service_date").cast(pl.Datetime("us", "UTC")) + pl.duration(
        hours=20 + pl.col("rank").cast(pl.Int64)
    )
    return few_dates.with_columns(planned_ts=planned).with_columns(
        horizon_s=(pl.col("planned_ts") - pl.col("snapshot_ts")).dt.total_seconds().cast(pl.Float64)
    )


def same(found: Wobble, expected: Wobble) -> bool:
    assert_frame_equal(found.horizon, expected.horizon, check_exact=True)
    return (found.changes, found.metrics("test")) == (expected.changes, expected.metrics("test"))


def test_it_depends_neither_on_parts_nor_on_the_order(
    few_dates: pl.DataFrame, in_files: Callable[[pl.DataFrame], RowFiles]
) -> None:
    rows = persistent(few_dates)
    expected = wobble(rows)
    by_hand = rows.sort("snapshot_ts").group_by("service_date", "train_id", "op_id", "event_type", "planned_ts")
    assert expected.changes == rows.height - by_hand.len().height > 1_000
    sums = by_hand.agg(
        pl.col("predicted_delay_s").diff().abs().sum(),
        (pl.col("snapshot_ts").last() - pl.col("snapshot_ts").first()).dt.total_hours().alias("hours"),
    ).sum()
    assert expected.summary["wobble_s_per_h"] == pytest.approx(sums["predicted_delay_s"].item() / sums["hours"].item())
    assert same(wobble(in_files(rows)), expected)
    assert same(wobble(rows.sample(fraction=1, shuffle=True, seed=3)), expected)
