"""The measures of an evaluation are computed once, for any number of outputs."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from transformer.evaluation import metrics, quantiles
from transformer.evaluation.measures import Measures
from transformer.evaluation.order import backward_shares
from transformer.evaluation.report.html import write_html_report
from transformer.evaluation.report.page_tables import Champion
from transformer.evaluation.report.provenance import Provenance
from transformer.evaluation.report.tables import results_table, write_evaluation
from transformer.prediction.row_files import RowFiles

PROVENANCE = Provenance("r", "local", "abc", "f", "c", ["python -m transformer"])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, Any]]:
    """How often a breakdown was computed, by name, and a summary or a distribution, by number of rows."""
    counts: Counter[tuple[str, Any]] = Counter()

    def counting(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(rows: pl.DataFrame, *arguments: Any) -> Any:
            counts[name, arguments[0] if name == "breakdown" else rows.height] += 1
            return function(rows, *arguments)

        return call

    monkeypatch.setattr(metrics, "_breakdown", counting(metrics._breakdown, "breakdown"))
    monkeypatch.setattr(metrics, "summary", counting(metrics.summary, "summary"))
    judge = counting(quantiles.uncertainty, "uncertainty")
    for name, module in list(sys.modules.items()):
        if name.startswith("transformer.evaluation") and callable(getattr(module, "uncertainty", None)):
            monkeypatch.setattr(module, "uncertainty", judge)
    return counts


@pytest.mark.parametrize("with_champion", [False, True], ids=["alone", "with the champion"])
def test_each_breakdown_is_computed_once_an_evaluation(
    calls: Counter[tuple[str, Any]],
    day_quantiles: pl.DataFrame,
    network: tuple[pl.DataFrame, pl.DataFrame],
    tmp_path: Path,
    with_champion: bool,
) -> None:
    rows = day_quantiles.with_row_index().with_columns(pl.format("t{}", "index").alias("train_id")).drop("index")
    measures = Measures.of(rows, "Europe/Budapest")
    result = write_evaluation(measures, *network, tmp_path / "evaluation", prefix="test")
    write_html_report(
        tmp_path / "report.html",
        measures,
        network[0],
        result.figures,
        window=[date(2024, 12, 20)],
        provenance=PROVENANCE,
        champion=Champion("the champion", rows.head(100)) if with_champion else None,
    )
    expected = Counter({("breakdown", by): 1 for by in (*metrics.BREAKDOWNS, "train_number")})
    expected.update([("summary", rows.height), ("uncertainty", rows.height)])
    if with_champion:  # model and champion on these rows, and the champion's distribution
        expected.update({("summary", 100): 2, ("uncertainty", 100): 1})
    assert calls == expected


def test_measures_are_those_of_the_rows(day_quantiles: pl.DataFrame) -> None:
    measures = Measures.of(day_quantiles, "Europe/Budapest")
    assert measures.summary == metrics.summary(day_quantiles)
    for by in (*metrics.BREAKDOWNS, "train_number"):
        assert measures.groups(by).equals(metrics.breakdown(day_quantiles, by, "Europe/Budapest")), by
    judged = quantiles.uncertainty(day_quantiles)
    assert judged is not None
    flat = measures.metrics("test")
    assert measures.order == backward_shares(day_quantiles)
    summary = measures.summary | measures.order
    assert flat == metrics.to_mlflow_metrics(summary, measures.breakdowns, "test") | judged.metrics("test")


def test_rows_in_files_have_the_figures_of_rows_in_memory_to_the_last_digit(
    few_dates: pl.DataFrame, in_files: Callable[[pl.DataFrame], RowFiles]
) -> None:
    files = in_files(few_dates)
    assert len(files.files) == 4 and sum(len(paths) for paths in files.files.values()) > 4
    expected, found = (Measures.of(rows, "Europe/Budapest") for rows in (few_dates, files))
    assert found.metrics("test") == expected.metrics("test")
    assert found.summary == expected.summary
    for by in (*metrics.BREAKDOWNS, "train_number"):
        assert_frame_equal(found.groups(by), expected.groups(by), check_exact=True)
    assert found.uncertainty is not None and expected.uncertainty is not None
    assert found.uncertainty.summary == expected.uncertainty.summary
    assert_frame_equal(found.uncertainty.levels, expected.uncertainty.levels, check_exact=True)
    for by in quantiles.BREAKDOWNS:
        assert_frame_equal(found.uncertainty.breakdowns[by], expected.uncertainty.breakdowns[by], check_exact=True)
    assert results_table(found) == results_table(expected)


def test_figures_do_not_depend_on_the_order_of_the_rows(few_dates: pl.DataFrame) -> None:
    shuffled = few_dates.sample(fraction=1, shuffle=True, seed=3)
    expected, found = (Measures.of(rows, "Europe/Budapest") for rows in (few_dates, shuffled))
    assert found.metrics("test") == expected.metrics("test")
    assert found.summary == expected.summary


def test_means_are_those_of_exact_arithmetic(few_dates: pl.DataFrame) -> None:
    errors = [
        Fraction(predicted) - Fraction(observed)
        for predicted, observed in few_dates.select("predicted_delay_s", "observed_delay_s").iter_rows()
    ]
    summary = metrics.summary(few_dates)
    assert summary["mae_s"] == pytest.approx(float(sum(map(abs, errors)) / len(errors)), rel=1e-15)
    assert summary["bias_s"] == pytest.approx(float(sum(errors) / len(errors)), rel=1e-14)
    assert summary["rmse_s"] == pytest.approx(math.sqrt(sum(error**2 for error in errors) / len(errors)), rel=1e-15)
