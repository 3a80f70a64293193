"""The page of the data: how many events are used, why others are not, and where the points are."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tests.support.pages import Page, assert_fits, chromium
from transformer.data.dates import Split
from transformer.data.page import data_page
from transformer.data.point_map import write_point_map
from transformer.data.points import OperationalPoints
from transformer.data.reasons import ReadingReport

SPLIT = Split((date(2024, 12, 13), date(2024, 12, 14)), (date(2024, 12, 16),), (date(2024, 12, 17),))
DISCARDED = "on time to the second, before an earlier stop"


@pytest.fixture
def points() -> OperationalPoints:
    nodes = pl.DataFrame({"op_id": [1, 2], "op_name": ["Aachen", "Bonn"], "lat": [50.8, 50.7], "lon": [6.1, 7.1]})
    return OperationalPoints(nodes, 2, (11.0, 70.0), (), ("Atlantis",), 0)


def written(folder: Path, points: OperationalPoints, report: ReadingReport, licences: dict[str, str]) -> Path:
    write_point_map(points, folder / "points.png")
    return data_page(SPLIT, report, points, folder / "points.png", licences).write(folder / "report.html")


@pytest.fixture
def report(tmp_path: Path, points: OperationalPoints) -> Path:
    found = ReadingReport(events=1_000, kept=990, unobserved=50, labels=900, inputs=900)
    found.dropped["with a duplicate key"] = 10
    found.discarded[DISCARDED] = 40
    found.notes["at a point that op_nodes does not know"] = 3
    return written(tmp_path, points, found, {"RIDE": "CC BY 4.0; source: RIDE"})


def test_the_lead_says_how_much_is_used_and_what_is_lost_most(report: Path) -> None:
    lead = (
        "90.0% of 1,000 events on 4 dates are labels; 1.0% of the events are dropped, and 4.3% of the observations "
        f"discarded, most of them “{DISCARDED}”."
    )
    assert lead in Page(report).text


def test_account_reasons_dates_points_and_licences_are_shown(report: Path) -> None:
    page = Page(report)
    assert page.tables["Account of the events"][1] == ["events read", "1,000"]
    reasons = {line[0]: line[1:] for line in page.tables["Reasons"][1:]}
    assert list(reasons) == ["with a duplicate key", DISCARDED, "at a point that op_nodes does not know"]
    assert reasons["with a duplicate key"][1] == "remove the duplicates at the source"
    assert page.tables["Split"][1:] == [
        ["train", "2", "2024-12-13 to 2024-12-14"],
        ["validation", "1", "2024-12-16"],
        ["test", "1", "2024-12-17"],
    ]
    assert page.tables["Licences"][1:] == [["RIDE", "CC BY 4.0; source: RIDE"]]
    assert "Points: 2, 2 of them with a position" in page.text and "Atlantis" in page.text
    assert len(page.all("img")) == 1


def test_data_without_a_fault_or_a_licence_say_nothing_of_them(tmp_path: Path, points: OperationalPoints) -> None:
    page = Page(written(tmp_path, points, ReadingReport(events=10, kept=10, labels=10, inputs=10), {}))
    assert "100.0% of 10 events on 4 dates are labels" in page.text and "most of them" not in page.text
    assert set(page.tables) == {"Account of the events", "Split"}


@pytest.mark.slow
def test_it_fits_everywhere(report: Path) -> None:
    with chromium() as browser:
        assert_fits(browser, report)
