"""In how many forecasts times run backwards: per train and snapshot, for every kind of time, in any order of rows."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl
import pytest

from tests.transformer.evaluation.conftest import NOON
from transformer.errors import UserError
from transformer.evaluation.order import backward_shares


@pytest.fixture
def rows(make_rows) -> pl.DataFrame:
    """Four forecasts of two trains and two snapshots, with events a minute apart."""
    return make_rows(
        # t1, noon           t1, a quarter past   t2, noon      t1 of the day before, noon
        [0.0, 0.0, -60.0, 0.0, -61.0, 0.0, 0.0, 0.0, 600.0, 0.0],
        [300.0, 200.0, 239.0, 0.0, 0.0, 0.0, 300.0, 240.0, 0.0, 0.0],
        [0.0] * 10,
        quantiles={0.1: [-60.0] * 10, 0.9: [900.0] * 6 + [900.0, 839.0] + [900.0] * 2},
        snapshot_ts=[NOON] * 3 + [NOON + timedelta(minutes=15)] * 3 + [NOON] * 4,
        train_id=["t1"] * 6 + ["t2"] * 2 + ["t1"] * 2,
        service_date=[date(2024, 12, 20)] * 8 + [date(2024, 12, 19)] * 2,
        rank=[1, 2, 4, 1, 2, 3, 1, 2, 1, 2],
        horizon_s=[60.0, 120.0, 180.0, 60.0, 120.0, 180.0, 60.0, 120.0, 60.0, 120.0],
    )


def test_shares_are_of_forecasts(rows: pl.DataFrame) -> None:
    assert backward_shares(rows) == {
        "backward_share": 1 / 4,  # t1 at noon: 360, 320, 419
        "translation_backward_share": 0.0,
        "observed_backward_share": 2 / 4,  # a quarter past: 60, 59; the day before: 660, 120
        "quantiles_backward_share": 1 / 4,  # t2: 960, 959
    }


def test_neither_the_order_of_rows_nor_their_files_count(rows: pl.DataFrame, in_files) -> None:
    expected = backward_shares(rows)
    assert backward_shares(rows.reverse()) == expected
    assert backward_shares(rows.sample(fraction=1, shuffle=True, seed=1)) == expected
    assert backward_shares(in_files(rows)) == expected


def test_rows_without_quantiles_have_no_share_of_theirs(day_rows: pl.DataFrame) -> None:
    assert "quantiles_backward_share" not in backward_shares(day_rows)


def test_nothing_is_said_about_no_rows(day_rows: pl.DataFrame) -> None:
    with pytest.raises(UserError):
        backward_shares(day_rows.clear())
