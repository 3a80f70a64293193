"""The metrics of RIDE's evaluator, by hand."""

from datetime import date, datetime, timedelta

import polars as pl
import pytest

from benchmarks.accuracy.ride_score import score
from transformer.errors import UserError

TS = datetime(2024, 1, 2, 8)


@pytest.fixture
def core(tmp_path):
    """Two keys with two next events each; the last event of the second key was not observed."""
    pl.DataFrame(
        {
            "ts": [TS, TS],
            "train_id": ["10", "11"],
            "service_date": ["02JAN2024", "02JAN2024"],
            "last_known_delay": [60.0, -600.0],
            "future_delay_1": [90.0, -600.0],
            "future_delay_2": [700.0, None],
            "future_obs_ts_1": [TS + timedelta(minutes=5), TS - timedelta(minutes=1)],
            "future_obs_ts_2": [TS + timedelta(minutes=50), None],
        }
    ).write_parquet(tmp_path / "test_eval_table.parquet")
    return tmp_path


@pytest.fixture
def predictions(core):
    keys = pl.read_parquet(core / "test_eval_table.parquet").select("ts", "train_id", "service_date")
    return keys.with_columns(
        pl.Series("future_delay_1", [100.0, -580.0], pl.Float32),
        pl.Series("future_delay_2", [400.0, 7.0], pl.Float32),
    )


def test_all_delays_are_pooled_and_binned_as_the_evaluator_does(core, predictions):
    found = score(core, predictions.reverse())
    rows = {(row["breakdown"], row["bin"]): row for row in found.iter_rows(named=True)}
    whole = rows["all", "all"]
    assert (whole["n"], whole["mae_s"]) == (3, pytest.approx((10 + 300 + 20) / 3))
    assert whole["rmse_s"] == pytest.approx(((10**2 + 300**2 + 20**2) / 3) ** 0.5)
    assert whole["translation_mae_s"] == pytest.approx((30 + 640 + 0) / 3)
    # An event before the snapshot counts in the first bin, as in the evaluator.
    assert {(bin, row["n"]) for (by, bin), row in rows.items() if by == "horizon"} == {
        ("[0, 5) min", 1), ("[5, 10) min", 1), ("[45, inf) min", 1),
    }  # fmt: skip
    assert {(bin, row["mae_s"]) for (by, bin), row in rows.items() if by == "delay change"} == {
        ("[0, 30) s", 20.0), ("[30, 60) s", 10.0), ("[600, inf) s", 300.0),
    }  # fmt: skip


def test_predictions_of_other_keys_are_refused(core, predictions):
    for other in (
        predictions.head(1),
        predictions.with_columns(pl.lit(date(2024, 1, 2)).cast(pl.String).alias("train_id")),
    ):
        with pytest.raises(UserError, match="its keys and those of the predictions differ"):
            score(core, other)


def test_a_missing_prediction_is_refused_where_there_is_a_delay(core, predictions):
    first = pl.when(pl.col("train_id") == "10").then(pl.lit(None)).otherwise(pl.col("future_delay_2"))
    with pytest.raises(UserError, match="1 of its delays are not predicted"):
        score(core, predictions.with_columns(first.alias("future_delay_2")))
    with pytest.raises(UserError, match="the predictions lack future_delay_2"):
        score(core, predictions.drop("future_delay_2"))
