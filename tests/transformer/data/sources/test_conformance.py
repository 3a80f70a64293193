"""Every public source passes these tests: the same journeys, in its own layout, become the same events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from tests.transformer.data.sources.layouts import LAYOUTS, Call, Layout, at, journey
from transformer.data.sources.attribution import licence_lines
from transformer.data.sources.catalogue import SOURCES, recognised
from transformer.data.sources.importing import import_source
from transformer.data.tables import EVENT_SCHEMA, events_path
from transformer.errors import UserError

MONDAY = date(2025, 1, 6)
Described = tuple[str, str, str, str, int | None]  # train, point, type, planned, delay in minutes


def that(*traits: str) -> pytest.MarkDecorator:
    """Run a test on every layout that has these traits."""
    wanted = [layout for layout in LAYOUTS if all(getattr(layout, trait) for trait in traits)]
    return pytest.mark.parametrize("layout", wanted, ids=lambda layout: layout.source.about.name)


each = that()


def run(layout: Layout, folder: Path, target: Path, *days: date) -> dict[str, int]:
    return import_source(layout.source, target, days, folder, progress=lambda line: None)


def described(target: Path, day: date) -> list[Described]:
    names = pl.read_parquet(target / "op_nodes.parquet").select("op_id", "op_name")
    journeys = pl.read_parquet(target / "journeys.parquet").select("train_id", "service_date", "train_number")
    events = pl.read_parquet(events_path(target, day)).join(names, on="op_id", maintain_order="left")
    events = events.join(journeys, on=["train_id", "service_date"], maintain_order="left")
    return events.select(
        "train_number",
        "op_name",
        "event_type",
        pl.col("planned_ts").dt.strftime("%Y-%m-%d %H:%M"),
        (pl.col("observed_ts") - pl.col("planned_ts")).dt.total_minutes(),
    ).rows()


def expected(calls: Sequence[Call]) -> list[Described]:
    rows: list[Described] = []
    for call in sorted(calls, key=lambda call: call.train):
        sides = [("P", call.departure or call.arrival)] if call.passes else [("A", call.arrival), ("D", call.departure)]
        for kind, times in sides:
            if times:
                planned, observed = times
                delay = None if observed is None else int((observed - planned).total_seconds() / 60)
                rows.append((str(call.train), f"POINT {call.point}", kind, f"{planned:%Y-%m-%d %H:%M}", delay))
    return rows


@each
def test_stops_become_arrivals_and_departures(layout: Layout, tmp_path: Path) -> None:
    calls = [*journey(MONDAY, "2025-01-06 08:00"), *journey(MONDAY, "2025-01-06 09:00", train=1516)]
    layout.write(tmp_path / "raw", calls)
    counts = run(layout, tmp_path / "raw", tmp_path / "data")
    assert described(tmp_path / "data", MONDAY) == expected(calls)
    events = pl.read_parquet(events_path(tmp_path / "data", MONDAY))
    assert set(EVENT_SCHEMA) <= set(events.columns)
    assert (counts["events"], counts["journeys"], counts["observed"]) == (16, 2, 16)
    assert {name: count for name, count in counts.items() if name.startswith("dropped") and count} == {}
    journeys = pl.read_parquet(tmp_path / "data" / "journeys.parquet")
    assert journeys["train_type"].null_count() == 0


@each
def test_a_train_keeps_its_service_date_past_midnight(layout: Layout, tmp_path: Path) -> None:
    night = journey(MONDAY, "2025-01-06 22:45")  # 23:45 in central Europe, and the whole hours around
    next_day = journey(MONDAY + timedelta(days=1), "2025-01-07 08:00")
    layout.write(tmp_path / "raw", [*night, *next_day])
    run(layout, tmp_path / "raw", tmp_path / "data", MONDAY, MONDAY + timedelta(days=1))
    assert described(tmp_path / "data", MONDAY) == expected(night)
    assert described(tmp_path / "data", MONDAY + timedelta(days=1)) == expected(next_day)


@each
@pytest.mark.parametrize(
    ("day", "start"),
    [
        (date(2025, 3, 29), "2025-03-30 00:45"),  # 01:45, and then 03:05 in central Europe
        (date(2025, 10, 25), "2025-10-25 23:35"),  # 01:35 to 02:15, before the clock goes back
        (date(2025, 10, 25), "2025-10-26 01:50"),  # 02:50 after the clock has gone back, to 03:30
    ],
)
def test_clock_changes_move_no_train(layout: Layout, tmp_path: Path, day: date, start: str) -> None:
    if start == "2025-10-26 01:50" and not layout.tells_repeated_hours:
        start = "2025-10-26 02:05"  # the source cannot say which of the two hours 02:50 is in
    calls = journey(day, start)
    layout.write(tmp_path / "raw", calls)
    run(layout, tmp_path / "raw", tmp_path / "data", day)
    assert described(tmp_path / "data", day) == expected(calls)


@that("passes")
def test_a_point_that_is_passed_is_one_event(layout: Layout, tmp_path: Path) -> None:
    calls = journey(MONDAY, "2025-01-06 08:00")
    calls[2] = Call(MONDAY, 3, at("2025-01-06 08:20", 3), at("2025-01-06 08:20", 3), passes=True)
    layout.write(tmp_path / "raw", calls)
    run(layout, tmp_path / "raw", tmp_path / "data")
    assert described(tmp_path / "data", MONDAY) == expected(calls)


@that("marks_unobserved")
def test_what_was_not_observed_is_null(layout: Layout, tmp_path: Path) -> None:
    calls = journey(MONDAY, "2025-01-06 08:00")
    calls[4] = Call(MONDAY, 4, at("2025-01-06 08:40", None), None)
    layout.write(tmp_path / "raw", calls)
    counts = run(layout, tmp_path / "raw", tmp_path / "data")
    assert described(tmp_path / "data", MONDAY) == expected(calls)
    assert (counts["events"], counts["observed"]) == (8, 7)


@that("marks_cancelled")
def test_cancelled_calls_stay_as_such(layout: Layout, tmp_path: Path) -> None:
    calls = journey(MONDAY, "2025-01-06 08:00")
    for place in (3, 4):
        call = calls[place]
        sides = [(times[0], None) if times else None for times in (call.arrival, call.departure)]
        calls[place] = replace(call, arrival=sides[0], departure=sides[1], cancelled=True)
    layout.write(tmp_path / "raw", calls)
    counts = run(layout, tmp_path / "raw", tmp_path / "data")
    events = pl.read_parquet(events_path(tmp_path / "data", MONDAY))
    assert events["cancelled"].fill_null(False).to_list() == [False] * 5 + [True] * 3
    assert events.filter("cancelled")["observed_ts"].null_count() == counts["cancelled"] == 3


@each
def test_the_order_of_the_rows_does_not_matter_where_times_tell_it(layout: Layout, tmp_path: Path) -> None:
    calls = [*journey(MONDAY, "2025-01-06 08:00"), *journey(MONDAY, "2025-01-06 09:00", train=1516)]
    mixed = [*calls[5:], *calls[:5]] if layout.ordered else calls[::-1]
    layout.write(tmp_path / "raw", mixed)
    run(layout, tmp_path / "raw", tmp_path / "data")
    assert described(tmp_path / "data", MONDAY) == expected(calls)


@each
def test_an_unknown_column_changes_nothing(layout: Layout, tmp_path: Path) -> None:
    calls = journey(MONDAY, "2025-01-06 08:00")
    layout.write(tmp_path / "raw", calls, extra=True)
    run(layout, tmp_path / "raw", tmp_path / "data")
    assert described(tmp_path / "data", MONDAY) == expected(calls)


@that("required")
def test_a_missing_column_is_one_line_and_nothing_is_written(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path / "raw", journey(MONDAY, "2025-01-06 08:00"), missing=layout.required)
    with pytest.raises(UserError) as caught:
        run(layout, tmp_path / "raw", tmp_path / "data")
    assert layout.required in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "data").glob("**/*.parquet"))


@each
def test_a_file_that_is_cut_off_loses_no_earlier_import(layout: Layout, tmp_path: Path) -> None:
    """Its sound rows are used, or it is refused in one line."""
    calls = [call for number in range(40) for call in journey(MONDAY, "2025-01-06 08:00", train=2000 + number)]
    files = layout.write(tmp_path / "raw", calls)
    run(layout, tmp_path / "raw", tmp_path / "data")
    before = described(tmp_path / "data", MONDAY)
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    try:
        counts = run(layout, tmp_path / "raw", tmp_path / "data")
    except UserError as error:
        assert "\n" not in str(error) and any(file.name in str(error) for file in files)
        assert described(tmp_path / "data", MONDAY) == before
    else:
        assert counts["dropped_truncated_line"] + counts.get("dropped_unreadable_file", 0) > 0
        assert set(described(tmp_path / "data", MONDAY)) < set(before)


@each
def test_an_empty_day_is_told_and_removes_nothing(layout: Layout, tmp_path: Path) -> None:
    calls = journey(MONDAY, "2025-01-06 08:00")
    layout.write(tmp_path / "raw", calls)
    run(layout, tmp_path / "raw", tmp_path / "data")
    before = described(tmp_path / "data", MONDAY)
    layout.write_empty(tmp_path / "raw", MONDAY)
    with pytest.raises(UserError) as caught:
        run(layout, tmp_path / "raw", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert described(tmp_path / "data", MONDAY) == before


@each
def test_importing_again_and_other_dates_change_nothing(layout: Layout, tmp_path: Path) -> None:
    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}

    february = date(2025, 2, 3)
    layout.write(tmp_path / "a", journey(MONDAY, "2025-01-06 08:00"))
    layout.write(tmp_path / "b", journey(february, "2025-02-03 08:00", train=99))
    counts = run(layout, tmp_path / "a", tmp_path / "data")
    before = content()
    assert run(layout, tmp_path / "a", tmp_path / "data") == counts
    assert content() == before
    points = pl.read_parquet(tmp_path / "data" / "op_nodes.parquet")
    run(layout, tmp_path / "b", tmp_path / "data")
    after = pl.read_parquet(tmp_path / "data" / "op_nodes.parquet")
    assert after.select(points.columns).equals(points)  # the same numbers in every import
    assert described(tmp_path / "data", MONDAY) == expected(journey(MONDAY, "2025-01-06 08:00"))
    assert described(tmp_path / "data", february) == expected(journey(february, "2025-02-03 08:00", train=99))


@each
def test_dates_that_were_not_asked_for_are_left_out(layout: Layout, tmp_path: Path) -> None:
    tuesday = MONDAY + timedelta(days=1)
    layout.write(tmp_path / "raw", [*journey(MONDAY, "2025-01-06 08:00"), *journey(tuesday, "2025-01-07 08:00")])
    run(layout, tmp_path / "raw", tmp_path / "data", MONDAY)
    assert not events_path(tmp_path / "data", tuesday).exists()
    assert described(tmp_path / "data", MONDAY) == expected(journey(MONDAY, "2025-01-06 08:00"))


@each
def test_a_folder_of_its_files_is_recognised_and_its_licence_kept(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path / "raw", journey(MONDAY, "2025-01-06 08:00"))
    assert recognised(tmp_path / "raw") is SOURCES[layout.source.about.name]
    assert recognised(tmp_path) is not None and recognised(tmp_path / "nowhere") is None
    run(layout, tmp_path / "raw", tmp_path / "data")
    assert licence_lines(tmp_path / "data") == [f"{layout.source.about.title}: {layout.source.about.licence}"]


def test_every_source_has_a_layout() -> None:
    assert {layout.source.about.name for layout in LAYOUTS} == set(SOURCES)
