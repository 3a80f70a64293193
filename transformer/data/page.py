"""The data of a run as a page: its dates, the account of its events, its points, and its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from transformer.data.dates import Split, dates_text
from transformer.data.points import OperationalPoints
from transformer.data.reasons import DISCARDED, DROPPED, NOTED, ReadingReport
from transformer.pages.page import Cell, Page, Picture, Section, Table
from transformer.text import share_text


def account_table(caption: str, report: ReadingReport) -> Table:
    lines = [[Cell(name), Cell(f"{count:,}")] for name, count in report.rows()]
    return Table(caption, ["events", "count"], lines, note="docs/data-quality.md explains each reason.")


def data_page(
    split: Split,
    report: ReadingReport,
    points: OperationalPoints,
    point_map: Path,
    licences: Mapping[str, str],
) -> Page:
    """
    Args:
        report: the account of reading the dates of the split.
        point_map: PNG file of `point_map.write_point_map`.
        licences: licence by title of the source.
    """
    alt = "Map of the operational points at their positions."
    picture = Picture.of(point_map.read_bytes(), "Operational points with a position that is used.", alt)
    facts_of_points = [f"P{line[1:]}." for line in points.lines()]
    return Page(
        f"Data {dates_text(split.all)}",
        _lead(report, len(split.all)),
        [
            Section("Events", tables=[account_table("Account of the events", report), *_reason_tables(report)]),
            Section(
                "Dates, points and sources",
                texts=facts_of_points,
                figures=[picture],
                tables=[_split_table(split), *_source_tables(licences)],
            ),
        ],
        facts=[
            ("dates", f"{len(split.all):,}", dates_text(split.all)),
            ("events", f"{report.events:,}", "read from the files of these dates"),
            ("labels", _share(report.labels, report.events), "of the events have an observation that is used"),
            ("points", f"{points.nodes.height:,}", f"{points.placed:,} of them with a position"),
        ],
    )


def _lead(report: ReadingReport, dates: int) -> str:
    """The sentence that says how much of the data is used, and what is lost most."""
    dropped, discarded = report.dropped.total(), report.discarded.total()
    sentence = (
        f"{_share(report.labels, report.events)} of {report.events:,} events on {dates:,} dates are labels; "
        f"{_share(dropped, report.events)} of the events are dropped, and "
        f"{_share(discarded, report.labels + discarded)} of the observations discarded"
    )
    lost = report.dropped + report.discarded
    if lost:
        reason, _ = lost.most_common(1)[0]
        sentence += f", most of them “{reason}”"
    return sentence + "."


def _reason_tables(report: ReadingReport) -> list[Table]:
    """Meaning and remedy of each reason that the account names."""
    lines = [
        [Cell(name), Cell(known[name].meaning.replace("`", "")), Cell(known[name].remedy.replace("`", ""))]
        for known, found in ((DROPPED, report.dropped), (DISCARDED, report.discarded), (NOTED, report.notes))
        for name, _ in found.most_common()
        if name in known
    ]
    return [Table("Reasons", ["events", "meaning", "remedy"], lines, numbers=False)] if lines else []


def _split_table(split: Split) -> Table:
    lines = [[Cell(name), Cell(f"{len(days):,}"), Cell(dates_text(days))] for name, days in _named(split)]
    return Table("Split", ["split", "dates", "which"], lines, numbers=False)


def _named(split: Split) -> list[tuple[str, Sequence[date]]]:
    return [("train", split.train), ("validation", split.validation), ("test", split.test)]


def _source_tables(licences: Mapping[str, str]) -> list[Table]:
    lines = [[Cell(title), Cell(licence)] for title, licence in licences.items()]
    return [Table("Licences", ["source", "licence"], lines, numbers=False)] if lines else []


def _share(part: int, whole: int) -> str:
    return share_text(part / whole if whole else 0.0)
