"""The first sentence of a report: how good the model is, and where it is weakest."""

from __future__ import annotations

import polars as pl
import pytest

from transformer.evaluation.measures import Measures
from transformer.evaluation.report.lead import lead
from transformer.evaluation.report.page_tables import Champion, Comparison


def sentence(rows: pl.DataFrame, champion: Champion | None = None) -> str:
    measures = Measures.of(rows, "Europe/Budapest")
    comparison = Comparison.of(measures, champion) if champion else None
    return lead(measures, comparison).replace("\N{NO-BREAK SPACE}", " ")


def test_a_model_that_is_equally_good_everywhere_has_no_weak_spot(day_rows):
    assert sentence(day_rows) == (
        "The model is off by 60.0 s on average, 50.0% less than translation; "
        "no horizon, train type or hour is clearly weaker than the others."
    )


def off_by(rows: pl.DataFrame, seconds: float, where: pl.Expr) -> pl.DataFrame:
    """The rows, with predictions that are off by `seconds` in some of them."""
    predicted = pl.when(where).then(pl.col("observed_delay_s") + seconds).otherwise(pl.col("predicted_delay_s"))
    return rows.with_columns(predicted_delay_s=predicted)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (pl.col("train_type") == "other", "for trains of type other (33.3% of the predictions)"),
        (~pl.col("departed"), "for trains without a known event (20.0% of the predictions)"),
        (pl.col("horizon_s").is_between(600, 1_199), "at events planned in 10 to 20 min (8.3% of the predictions)"),
        (pl.col("horizon_s") >= 7_200, "at events planned in ≥ 120 min (17.5% of the predictions)"),
        (pl.col("snapshot_ts").dt.hour() == 6, "from 7:00 to 7:59 (6.7% of the predictions)"),
    ],
)
def test_the_weakest_group_is_named(day_rows, where, words):
    weak = sentence(off_by(day_rows, 90, where))
    assert f"; it is weakest {words}, where it is 25.0% better than translation." in weak
    failed = sentence(off_by(day_rows, 150, where))
    assert f"; it fails {words}, where it is 25.0% worse than translation." in failed


def test_a_group_of_few_predictions_is_not_named(day_rows):
    few = pl.int_range(pl.len()) < 12
    rows = off_by(day_rows, 600, few).with_columns(
        train_type=pl.when(few).then(pl.lit("rare")).otherwise(pl.col("train_type"))
    )
    assert "rare" not in sentence(rows)


def test_a_model_that_is_worse_than_translation_is_said_to_be(day_rows):
    assert sentence(off_by(day_rows, 180, pl.lit(True))).startswith(
        "The model is off by 180.0 s on average, 50.0% more than translation; "
    )


def test_translation_without_an_error_is_not_compared(day_rows):
    rows = day_rows.with_columns(translation_delay_s="observed_delay_s")
    assert sentence(rows).startswith("The model is off by 60.0 s on average; no horizon")


@pytest.mark.parametrize(
    ("other_s", "interval", "words"),
    [
        (75, None, "15.0 s less than version 3"),
        (50, None, "10.0 s more than version 3"),
        (61, {"low_s": -3.0, "high_s": 1.0, "confidence": 0.95}, "not clearly other than version 3"),
        (75, {"low_s": -18.0, "high_s": -12.0, "confidence": 0.95}, "15.0 s less than version 3"),
    ],
)
def test_the_champion_is_compared(day_rows, other_s, interval, words):
    champion = Champion("version 3", off_by(day_rows, other_s, pl.lit(True)), interval)
    assert f"50.0% less than translation, and {words};" in sentence(day_rows, champion)
