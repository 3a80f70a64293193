"""The report in a browser: from a phone to a wall screen, and on paper, it fits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from tests.support.pages import assert_fits, chromium
from transformer.data.reasons import ReadingReport
from transformer.evaluation.drift import Drift, Measure
from transformer.evaluation.measures import Measures
from transformer.evaluation.quality import DataQuality
from transformer.evaluation.report.html import write_html_report
from transformer.evaluation.report.page_tables import Champion
from transformer.evaluation.report.provenance import Provenance
from transformer.evaluation.report.tables import write_evaluation

pytestmark = pytest.mark.slow


@pytest.fixture
def report(day_quantiles, network, history, tmp_path) -> Path:
    """A report with all its parts: long names, a champion, warnings, every figure."""
    rows = day_quantiles.with_columns(
        train_type=pl.col("train_type") + "_of_a_very_long_name_without_any_space_in_it",
        train_number=pl.format("{}", pl.col("op_id") * 100_000),
    )
    measures = Measures.of(rows, "Europe/Budapest")
    written = write_evaluation(measures, *network, tmp_path, prefix="test", history=history)
    reading = ReadingReport(events=551_075, kept=550_866, unobserved=550_866)
    reading.dropped["planned in an impossible order"] = 209
    drift = Measure(
        "delay_psi", "delays", 0.3, 0.25, "beyond limit", "PSI 0.300 against the training dates, limit 0.25"
    )
    worse = rows.with_columns(pl.col("observed_delay_s").alias("predicted_delay_s") + 75)
    command = "python -m transformer evaluate-model --env prod --set data.local_folder=" + "a/very/long/folder" * 12
    return write_html_report(
        tmp_path / "report.html",
        measures,
        network[0].with_columns(pl.col("op_name") + " central station, northern platforms"),
        written.figures,
        window=[date(2024, 12, 20) + timedelta(days=day) for day in range(0, 14, 2)],
        provenance=Provenance("6c2ee8a9" * 4, "prod", "0123abcd" * 5, "f1", "c1", [command], "https://example.org"),
        champion=Champion("train-delays version 3", worse, {"low_s": -18.2, "high_s": -11.9, "confidence": 0.95}),
        verdict="Promoted: better by at least 5 s.",
        quality=DataQuality(reading, Drift((drift,), 1, 1), datetime(2024, 12, 20, tzinfo=UTC)),
    )


def test_it_fits_everywhere(report: Path) -> None:
    with chromium() as browser:
        assert_fits(browser, report)
