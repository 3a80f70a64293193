"""Reading event tables: refused files, dropped rows with reasons, and the dates of each split."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.support.messages import assert_names
from transformer.config import SplitConfig, ValidationConfig
from transformer.data.dates import Split, available_dates, parse_dates, partial_dates, resolve_split
from transformer.data.events import ReadingReport, data_fingerprint, read_events, read_journeys, read_op_nodes
from transformer.data.tables import (
    EVENT_SCHEMA,
    JOURNEY_SCHEMA,
    OP_NODE_SCHEMA,
    TIMESTAMP,
    events_path,
    journeys_path,
    op_nodes_path,
)
from transformer.errors import UserError

DAY = date(2024, 12, 13)
NOON = datetime(2024, 12, 13, 12, tzinfo=UTC)
LENIENT = ValidationConfig(max_dropped_share=1.0)
NAIVE = pl.Datetime("us")


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


def rows(*changes: dict[str, Any], schema: dict[str, Any] | None = None) -> pl.DataFrame:
    """One event of journey `a` per dictionary: planned every ten minutes, and three minutes late unless changed."""
    filled = []
    for seq, change in enumerate(changes):
        row = {
            "train_id": "a",
            "service_date": DAY,
            "seq": seq,
            "op_id": 10 + seq,
            "event_type": "A",
            "planned_ts": at(10 * seq),
            "observed_ts": at(10 * seq + 3),
            "delay_sec": 180,
        }
        filled.append(row | change)
    return pl.DataFrame(filled, schema=EVENT_SCHEMA | (schema or {}), orient="row")


def sound(n: int = 3) -> pl.DataFrame:
    return rows(*[{}] * n)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write a data folder with these frames as the events of consecutive dates from `DAY` on."""

    def write(*frames: pl.DataFrame) -> Path:
        (tmp_path / "events").mkdir(exist_ok=True)
        for offset, frame in enumerate(frames):
            frame.write_parquet(events_path(tmp_path, DAY + timedelta(days=offset)))
        return tmp_path

    return write


def read(folder: Path, validation: ValidationConfig = LENIENT, **options: Any) -> tuple[pl.DataFrame, ReadingReport]:
    return read_events(folder, DAY, options.pop("timezone", "Europe/Brussels"), validation, **options)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- what is kept ----------------------------------------------------------------------------------------------------
def test_sound_events_are_read_as_they_are(written: Callable[..., Path]) -> None:
    frame = rows({}, {"event_type": "D"}, {"event_type": "P"}, {"observed_ts": None, "delay_sec": None})
    events, report = read(written(frame))
    assert_frame_equal(events, frame)
    assert report.as_dict() == {"events": 4, "kept": 4, "dropped": {}, "discarded": {}, "notes": {}}
    assert report.lines() == ["4 of 4 events kept"]


def test_events_come_sorted_whatever_their_order_in_the_file(written: Callable[..., Path]) -> None:
    frame = pl.concat([rows({"train_id": "b"}), sound()])
    events, _ = read(written(frame.sample(fraction=1, shuffle=True, seed=1)))
    assert events.select("train_id", "seq").rows() == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]


def test_other_types_that_say_the_same_are_accepted(written: Callable[..., Path]) -> None:
    frame = sound().with_columns(
        pl.col("train_id").replace("a", "17").cast(pl.Int64),
        pl.col("seq").cast(pl.Float64),
        pl.col("op_id").cast(pl.UInt64),
        pl.col("event_type").cast(pl.Categorical),
        pl.col("service_date").cast(NAIVE),
        pl.col("planned_ts").dt.convert_time_zone("Asia/Tokyo").dt.cast_time_unit("ms"),
        pl.lit(None).alias("observed_ts"),
    )
    events, _ = read(written(frame.drop("delay_sec").with_columns(extra=1)))
    expected = sound().with_columns(train_id=pl.lit("17"), observed_ts=None, delay_sec=None)
    assert_frame_equal(events, expected.cast(EVENT_SCHEMA))


def test_delays_are_computed_and_differences_noted(written: Callable[..., Path]) -> None:
    frame = rows({"delay_sec": 0}, {"delay_sec": None}, {}, {"observed_ts": None, "delay_sec": 60})
    events, report = read(written(frame))
    assert events["delay_sec"].to_list() == [180, 180, 180, None]
    assert report.notes == {"with a delay_sec other than observed − planned (recomputed)": 1}


def test_points_that_nobody_knows_are_noted(written: Callable[..., Path]) -> None:
    known = pl.Series([10, 12], dtype=pl.Int32)
    events, report = read(written(sound()), known_points=known)
    assert events.height == 3
    assert report.notes == {"at a point that op_nodes does not know": 1}


# --- what is dropped and why -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"train_id": None}, "without train_id"),
        ({"train_id": ""}, "without train_id"),
        ({"train_id": "  "}, "without train_id"),
        ({"seq": None}, "without seq, op_id or planned_ts"),
        ({"op_id": None}, "without seq, op_id or planned_ts"),
        ({"planned_ts": None}, "without seq, op_id or planned_ts"),
        ({"event_type": "X"}, "of an unknown event_type"),
        ({"event_type": None}, "of an unknown event_type"),
        ({"service_date": DAY + timedelta(days=1)}, "of another service date than the file"),
        ({"service_date": None}, "of another service date than the file"),
        ({"planned_ts": at(4 * 1_440)}, "planned more than two days from the service date"),
        ({"planned_ts": at(-4 * 1_440)}, "planned more than two days from the service date"),
        ({"seq": 0}, "with a duplicate key"),
        ({"planned_ts": at(-1)}, "planned before an earlier stop"),
    ],
)
def test_an_unusable_event_is_dropped_and_counted(
    written: Callable[..., Path], change: dict[str, Any], reason: str
) -> None:
    events, report = read(written(rows({}, {}, change, {})))
    assert report.dropped == {reason: 1}
    assert (report.events, report.kept, events.height) == (4, 3, 3)
    assert events["seq"].to_list() == [0, 1, 3]
    assert report.lines() == ["3 of 4 events kept", f"  dropped: 1 {reason}"]


def test_an_event_with_several_faults_counts_once(written: Callable[..., Path]) -> None:
    _, report = read(written(rows({}, {"train_id": None, "seq": None, "event_type": "X", "service_date": None})))
    assert report.dropped == {"without train_id": 1}


def test_the_first_of_duplicates_in_the_file_stays(written: Callable[..., Path]) -> None:
    events, report = read(written(rows({"op_id": 1}, {"seq": 0, "op_id": 2}, {"seq": 0, "op_id": 3})))
    assert events["op_id"].to_list() == [1]
    assert report.dropped == {"with a duplicate key": 2}


def test_journeys_do_not_mix_when_order_is_checked(written: Callable[..., Path]) -> None:
    _, report = read(written(rows({"train_id": "a", "planned_ts": at(600)}, {"train_id": "b"}, {"train_id": "b"})))
    assert report.dropped == {}


def test_order_is_that_of_planned_times_and_equal_times_are_fine(written: Callable[..., Path]) -> None:
    minutes = [0, 30, 10, 30, 20, 40]
    events, report = read(written(rows(*[{"planned_ts": at(m), "observed_ts": at(m)} for m in minutes])))
    assert events["seq"].to_list() == [0, 1, 3, 5]
    assert report.dropped == {"planned before an earlier stop": 2}


def test_a_journey_may_run_past_midnight(written: Callable[..., Path]) -> None:
    _, report = read(written(rows({"planned_ts": at(0)}, {"planned_ts": at(1_500)})))
    assert report.dropped == {}


def test_an_absurd_delay_costs_the_observation_alone(written: Callable[..., Path]) -> None:
    validation = ValidationConfig(max_delay_s=600, max_early_s=60)
    planned = NOON
    delays = [600, 601, -60, -61, 0]
    frame = rows(
        *[{"planned_ts": planned, "observed_ts": planned + timedelta(seconds=d), "delay_sec": d} for d in delays]
    )
    events, report = read(written(frame), validation)
    assert events["delay_sec"].to_list() == [600, None, -60, None, 0]
    assert events["observed_ts"].is_null().to_list() == [False, True, False, True, False]
    assert report.discarded == {"more than 600 s late": 1, "more than 60 s early": 1}
    assert (report.kept, report.dropped, report.notes) == (5, {}, {})
    assert report.lines() == [
        "5 of 5 events kept",
        "  not observed: 1 more than 600 s late",
        "  not observed: 1 more than 60 s early",
    ]


def test_a_delay_of_centuries_does_no_harm(written: Callable[..., Path]) -> None:
    events, report = read(written(rows({"observed_ts": datetime(9999, 1, 1, tzinfo=UTC)}, {})))
    assert events["delay_sec"].to_list() == [None, 180]
    assert report.discarded == {"more than 43200 s late": 1}


def test_too_many_unusable_events_refuse_the_file(written: Callable[..., Path]) -> None:
    folder = written(rows({}, {}, {}, {"train_id": None}, {"event_type": "X"}, {"event_type": "X"}))
    message = refusal(lambda: read(folder, ValidationConfig(max_dropped_share=0.4)))
    path = str(events_path(folder, DAY))
    assert_names(message, path, "50%", "2 of an unknown event_type", "raise data.validation.max_dropped_share=0.4")
    assert read(folder, ValidationConfig(max_dropped_share=0.5))[1].kept == 3


def test_reports_add_up() -> None:
    total = ReadingReport()
    one = ReadingReport(events=1_500, kept=1_400)
    one.dropped["without train_id"] += 100
    total.add(one)
    total.add(one)
    assert total.lines() == ["2,800 of 3,000 events kept", "  dropped: 200 without train_id"]


# --- what is refused -------------------------------------------------------------------------------------------------
def damaged(content: bytes, damage: str) -> bytes:
    return {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "without its end": content[:-1],
        "CSV": b"train_id,service_date\na,2024-12-13\n",
        "overwritten": content[:8] + b"\xff" * (len(content) - 16) + content[-8:],
    }[damage]


@pytest.mark.parametrize("damage", ["empty", "truncated", "without its end", "CSV", "overwritten"])
def test_a_damaged_file_is_refused_in_one_line(written: Callable[..., Path], damage: str) -> None:
    folder = written(sound(200))
    path = events_path(folder, DAY)
    path.write_bytes(damaged(path.read_bytes(), damage))
    for act in (lambda: read(folder), lambda: partial_dates(folder, [DAY])):
        message = refusal(act)
        assert_names(message, str(path), "not Parquet", "fetch the data again", "data.local_folder")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    message = refusal(lambda: read(tmp_path))
    assert_names(message, str(events_path(tmp_path, DAY)), "does not exist", "fetch the data")


def test_a_file_without_events_is_refused(written: Callable[..., Path]) -> None:
    folder = written(sound(0))
    message = refusal(lambda: read(folder))
    assert_names(message, str(events_path(folder, DAY)), "no events", "leave its date out of data.split")


@pytest.mark.parametrize("column", [name for name in EVENT_SCHEMA if name != "delay_sec"])
def test_a_missing_column_is_named(written: Callable[..., Path], column: str) -> None:
    message = refusal(lambda: read(written(sound().drop(column))))
    assert_names(message, f"column {column!r}", "missing", "train_id", "op_id")


def test_all_missing_columns_are_named_at_once(written: Callable[..., Path]) -> None:
    message = refusal(lambda: read(written(sound().drop("train_id", "op_id"))))
    assert_names(message, "'train_id', 'op_id'", "missing", "docs/data.md")


@pytest.mark.parametrize(
    ("column", "values", "named"),
    [
        ("train_id", pl.Series([[1], [2]]), ("'train_id'", "List(Int64)", "text")),
        ("train_id", pl.Series([1.5, 2.5]), ("'train_id'", "Float64", "text")),
        ("service_date", pl.Series(["2024-12-13"] * 2), ("'service_date'", "String", "dates")),
        ("service_date", pl.Series([20241213] * 2), ("'service_date'", "Int64", "dates")),
        ("seq", pl.Series([0.0, 0.5]), ("'seq'", "Float64", "whole numbers")),
        ("seq", pl.Series([0.0, float("nan")]), ("'seq'", "Float64", "whole numbers")),
        ("seq", pl.Series(["0", "1"]), ("'seq'", "String", "whole numbers")),
        ("seq", pl.Series([0, 40_000]), ("does not fit",)),
        ("op_id", pl.Series([2**40, 1]), ("does not fit",)),
        ("op_id", pl.Series([True, False]), ("'op_id'", "Boolean", "whole numbers")),
        ("planned_ts", pl.Series(["12:00", "12:10"]), ("'planned_ts'", "String", "timestamps")),
        ("planned_ts", pl.Series([1_734_000_000] * 2), ("'planned_ts'", "Int64", "timestamps")),
        ("observed_ts", pl.Series([DAY] * 2), ("'observed_ts'", "Date", "timestamps")),
    ],
)
def test_a_column_of_the_wrong_type_is_named(
    written: Callable[..., Path], column: str, values: pl.Series, named: tuple[str, ...]
) -> None:
    folder = written(sound(2).with_columns(values.alias(column)))
    message = refusal(lambda: read(folder))
    assert_names(message, str(events_path(folder, DAY)), *named)


# --- naive timestamps ------------------------------------------------------------------------------------------------
def naive(day: date, *clock: tuple[str, str | None]) -> pl.DataFrame:
    """Events with naive (planned, observed) times of day."""

    def moment(text: str | None) -> datetime | None:
        return datetime.fromisoformat(f"{day}T{text}") if text else None

    changes = [
        {"service_date": day, "planned_ts": moment(planned), "observed_ts": moment(observed), "delay_sec": None}
        for planned, observed in clock
    ]
    return rows(*changes, schema={"planned_ts": NAIVE, "observed_ts": NAIVE})


def read_naive(folder: Path, day: date, frame: pl.DataFrame, timezone: str) -> tuple[pl.DataFrame, ReadingReport]:
    (folder / "events").mkdir()
    frame.write_parquet(events_path(folder, day))
    return read_events(folder, day, timezone, LENIENT)


@pytest.mark.parametrize(("timezone", "hour"), [("Europe/Brussels", 11), ("UTC", 12), ("Europe/London", 12)])
def test_naive_timestamps_are_read_in_the_time_zone_of_the_data(tmp_path: Path, timezone: str, hour: int) -> None:
    events, report = read_naive(tmp_path, DAY, naive(DAY, ("12:00", "12:01")), timezone)
    assert events["planned_ts"].to_list() == [datetime(2024, 12, 13, hour, tzinfo=UTC)]
    assert events["delay_sec"].to_list() == [60]
    assert events.schema["planned_ts"] == TIMESTAMP
    assert report.notes == {}


def test_in_spring_an_hour_does_not_exist(tmp_path: Path) -> None:
    day = date(2025, 3, 30)  # 02:00 → 03:00
    clock = [("01:59", "02:30"), ("02:15", "03:15"), ("03:00", "03:01"), ("23:59", None)]
    events, report = read_naive(tmp_path, day, naive(day, *clock), "Europe/Brussels")
    assert events["planned_ts"].dt.strftime("%H:%M").to_list() == ["00:59", "01:00", "21:59"]
    assert events["delay_sec"].to_list() == [None, 60, None]
    assert report.dropped == {"without seq, op_id or planned_ts": 1}
    assert report.notes == {"timestamps in an hour that daylight saving skips (read as missing)": 2}


def test_in_autumn_a_repeated_hour_is_taken_the_first_time(tmp_path: Path) -> None:
    day = date(2024, 10, 27)  # 03:00 → 02:00
    clock = [("01:30", "01:31"), ("02:30", "02:31"), ("03:00", "03:01")]
    events, report = read_naive(tmp_path, day, naive(day, *clock), "Europe/Brussels")
    assert events["planned_ts"].to_list() == [
        datetime(2024, 10, 26, 23, 30, tzinfo=UTC),
        datetime(2024, 10, 27, 0, 30, tzinfo=UTC),
        datetime(2024, 10, 27, 2, 0, tzinfo=UTC),
    ]
    assert events["delay_sec"].to_list() == [60, 60, 60]
    assert report.kept == 3


def test_an_aware_timestamp_ignores_the_time_zone_of_the_data(written: Callable[..., Path]) -> None:
    folder = written(sound())
    assert_frame_equal(read(folder, timezone="Asia/Tokyo")[0], read(folder, timezone="UTC")[0])


# --- points and journeys ---------------------------------------------------------------------------------------------
def test_points_are_unique_and_their_positions_possible(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "op_id": [3, 1, 2, 1, None, 4, 5],
            "op_name": ["c", "a", "b", "again", "none", "d", "e"],
            "lat": [47.5, 47.0, 91.0, 1.0, 1.0, None, float("nan")],
            "lon": [19, 19, 19, 1, 1, 19, 19],
        }
    ).write_parquet(op_nodes_path(tmp_path))
    nodes = read_op_nodes(tmp_path)
    assert dict(nodes.schema) == OP_NODE_SCHEMA
    assert nodes.rows() == [
        (1, "a", 47.0, 19.0),
        (2, "b", None, None),
        (3, "c", 47.5, 19.0),
        (4, "d", None, None),
        (5, "e", None, None),
    ]


def test_points_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    assert_names(refusal(lambda: read_op_nodes(tmp_path)), "op_nodes.parquet", "does not exist")
    op_nodes_path(tmp_path).write_bytes(b"PAR1")
    assert_names(refusal(lambda: read_op_nodes(tmp_path)), "op_nodes.parquet", "not Parquet")
    pl.DataFrame({"op_id": [1], "op_name": ["a"], "lat": ["47° 30′"], "lon": [19]}).write_parquet(
        op_nodes_path(tmp_path)
    )
    assert_names(refusal(lambda: read_op_nodes(tmp_path)), "'lat'", "String", "numbers")
    pl.DataFrame({"op_id": [1]}).write_parquet(op_nodes_path(tmp_path))
    assert_names(refusal(lambda: read_op_nodes(tmp_path)), "'op_name', 'lat', 'lon'", "missing")


def test_journeys_of_the_dates_with_what_is_missing_filled(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "train_id": ["a", "b", "a", "a"],
            "service_date": [DAY, DAY, DAY, DAY + timedelta(days=1)],
            "train_number": ["100", None, "again", "100"],
        }
    ).write_parquet(journeys_path(tmp_path))
    journeys = read_journeys(tmp_path, [DAY], "UTC")
    assert dict(journeys.schema) == JOURNEY_SCHEMA
    assert journeys.select("train_id", "train_number", "train_type", "operator").rows() == [
        ("a", "100", "unknown", None),
        ("b", "b", "unknown", None),
    ]
    assert read_journeys(tmp_path, [], "UTC").is_empty()


def test_journeys_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    assert_names(refusal(lambda: read_journeys(tmp_path, [DAY], "UTC")), "journeys.parquet", "does not exist")
    pl.DataFrame({"train_id": ["a"]}).write_parquet(journeys_path(tmp_path))
    assert_names(refusal(lambda: read_journeys(tmp_path, [DAY], "UTC")), "'service_date'", "missing")


def test_fingerprint_changes_with_each_file_and_names_it(tmp_path: Path, written: Callable[..., Path]) -> None:
    written(sound(), sound(2))
    days = [DAY, DAY + timedelta(days=1)]
    assert_names(refusal(lambda: data_fingerprint(tmp_path, days)), "op_nodes.parquet", "does not exist")
    for path in (op_nodes_path(tmp_path), journeys_path(tmp_path)):
        path.write_bytes(b"1")
    before = data_fingerprint(tmp_path, days)
    assert list(before) == [
        "events/events_2024-12-13.parquet",
        "events/events_2024-12-14.parquet",
        "op_nodes.parquet",
        "journeys.parquet",
    ]
    journeys_path(tmp_path).write_bytes(b"2")
    after = data_fingerprint(tmp_path, days)
    assert [name for name in before if before[name] != after[name]] == ["journeys.parquet"]
    message = refusal(lambda: data_fingerprint(tmp_path, [DAY + timedelta(days=2)]))
    assert_names(message, "events_2024-12-15.parquet", "does not exist")


# --- dates and splits ------------------------------------------------------------------------------------------------
def folder_with(tmp_path: Path, *days: str) -> Path:
    """A data folder with empty events files of these dates."""
    (tmp_path / "events").mkdir()
    for day in days:
        events_path(tmp_path, date.fromisoformat(day)).touch()
    return tmp_path


def test_available_dates_are_sorted_and_need_their_name(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "2024-12-14", "2024-12-13")
    (folder / "events" / ".events_2024-12-15.parquet.123.tmp").touch()
    (folder / "events" / "notes.txt").touch()
    assert available_dates(folder) == [date(2024, 12, 13), date(2024, 12, 14)]


@pytest.mark.parametrize("name", ["events_20241213.parquet", "events_2024-12-32.parquet", "events_.parquet"])
def test_a_misnamed_events_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = folder_with(tmp_path)
    (folder / "events" / name).touch()
    message = refusal(lambda: available_dates(folder))
    assert_names(message, f"/{name}", "events_YYYY-MM-DD.parquet", "rename or remove")


@pytest.mark.parametrize("folder", ["none", "."])
def test_a_folder_without_events_is_refused(tmp_path: Path, folder: str) -> None:
    message = refusal(lambda: available_dates(tmp_path / folder))
    names = (
        f"data.local_folder={tmp_path / folder}",
        "events/events_YYYY-MM-DD.parquet",
        "python -m transformer simulate",
    )
    assert_names(message, *names)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], []),
        (["2024-12-13"], ["2024-12-13"]),
        (["2024-12-14", "2024-12-13", "2024-12-14"], ["2024-12-13", "2024-12-14"]),
        (["2024-12-30..2025-01-02"], ["2024-12-30", "2024-12-31", "2025-01-01", "2025-01-02"]),
        ([" 2024-12-13 .. 2024-12-13 "], ["2024-12-13"]),
        (["2024-12-13..2024-12-15", "2024-12-15..2024-12-16"], [f"2024-12-{day}" for day in (13, 14, 15, 16)]),
    ],
)
def test_dates_and_ranges(entries: list[str], expected: list[str]) -> None:
    assert [day.isoformat() for day in parse_dates(entries, "data.split.train")] == expected


@pytest.mark.parametrize(
    "entry", ["tomorrow", "2024-12-32", "13.12.2024", "", "2024-12-13..", "2024-12-13...2024-12-14", "2024-12-13/14"]
)
def test_what_is_no_date_is_named(entry: str) -> None:
    message = refusal(lambda: parse_dates([entry], "data.split.test"))
    assert_names(message, "data.split.test", repr(entry), "write 2024-12-13 or 2024-12-16..2024-12-19")


def test_a_range_of_dates_has_an_end() -> None:
    message = refusal(lambda: parse_dates(["0001-01-01..9999-12-31"], "data.split.train"))
    assert_names(message, "data.split.train", "'0001-01-01..9999-12-31'", "century", "write 2024-12-16..2024-12-19")


def test_a_range_must_not_end_before_it_starts() -> None:
    message = refusal(lambda: parse_dates(["2024-12-14..2024-12-13"], "data.split.train"))
    assert_names(message, "data.split.train", "'2024-12-14..2024-12-13'", "ends before")


def test_a_configured_split_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, *[f"2024-12-{day}" for day in range(13, 22)])
    split = SplitConfig(
        train=["2024-12-13..2024-12-14", "2024-12-16..2024-12-19"], validation=["2024-12-20"], test=["2024-12-21"]
    )
    resolved = resolve_split(split, folder, skip_partial=True)
    assert resolved.as_dict() == {
        "train": [f"2024-12-{day}" for day in (13, 14, 16, 17, 18, 19)],
        "validation": ["2024-12-20"],
        "test": ["2024-12-21"],
    }
    assert len(resolved.all) == 8


@pytest.mark.parametrize(
    ("split", "named"),
    [
        (
            SplitConfig(train=["2024-12-13"], validation=["2024-12-14"], test=[]),
            ("data.split.test", "empty", "set all three or none"),
        ),
        (
            SplitConfig(train=["2024-12-13..2024-12-14"], validation=["2024-12-14"], test=["2024-12-15"]),
            ("data.split", "2024-12-14", "train and validation", "one split"),
        ),
        (
            SplitConfig(train=["2024-12-13"], validation=["2024-12-14"], test=["2024-12-13..2024-12-15"]),
            ("data.split", "2024-12-13", "train and test", "one split"),
        ),
        (
            SplitConfig(train=["2024-12-13"], validation=["2024-12-14"], test=["2024-12-15..2024-12-18"]),
            ("data.split.test", "{folder}", "no events of 2024-12-16", "2024-12-13 to 2024-12-15"),
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused(tmp_path: Path, split: SplitConfig, named: tuple[str, ...]) -> None:
    folder = folder_with(tmp_path, "2024-12-13", "2024-12-14", "2024-12-15")
    message = refusal(lambda: resolve_split(split, folder, True))
    assert_names(message, *(name.format(folder=folder) for name in named))


@pytest.mark.parametrize(("dates", "sizes"), [(3, (1, 1, 1)), (9, (7, 1, 1)), (20, (16, 2, 2)), (31, (25, 3, 3))])
def test_an_automatic_split_is_by_order(tmp_path: Path, dates: int, sizes: tuple[int, int, int]) -> None:
    days = [DAY + timedelta(days=offset) for offset in range(dates)]
    split = resolve_split(SplitConfig(), folder_with(tmp_path, *map(str, days)), skip_partial=False)
    assert (len(split.train), len(split.validation), len(split.test)) == sizes
    assert [*split.train, *split.validation, *split.test] == days


def test_two_dates_are_too_few(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "2024-12-13", "2024-12-14")
    message = refusal(lambda: resolve_split(SplitConfig(), folder, skip_partial=False))
    assert_names(message, str(folder), "2 usable service dates", "at least 3")


def whole_date(offset: int, hours: range = range(4, 23), per_hour: int = 8) -> pl.DataFrame:
    midnight = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC) + timedelta(days=offset)
    planned = [midnight + timedelta(hours=hour, minutes=minute) for hour in hours for minute in range(per_hour)]
    return pl.DataFrame({"planned_ts": planned}, schema={"planned_ts": TIMESTAMP})


def test_a_date_with_missing_hours_is_left_out(written: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    days = [whole_date(offset) for offset in range(5)]
    days[1] = whole_date(1, hours=range(7, 23))  # the first three hours are missing
    days[2] = whole_date(2, hours=range(6, 23))  # two hours are missing, which is not enough for a partial date
    days[3] = whole_date(3, per_hour=3)  # fewer trains all day, as on a holiday: a complete date
    folder = written(*days)
    dates = available_dates(folder)
    assert partial_dates(folder, dates) == [dates[1]]
    split = resolve_split(SplitConfig(), folder, skip_partial=True)
    assert split == Split((dates[0], dates[2]), (dates[3],), (dates[4],))
    assert any("left out" in line and line.endswith(": 2024-12-14") for line in caplog.messages)
    assert dates[1] in resolve_split(SplitConfig(), folder, skip_partial=False).train


def test_a_date_without_events_is_partial(written: Callable[..., Path]) -> None:
    folder = written(*[whole_date(offset) for offset in range(4)], whole_date(4, hours=range(0)))
    assert partial_dates(folder, available_dates(folder)) == [DAY + timedelta(days=4)]


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (pl.DataFrame({"planned": [1]}), ("'planned_ts'", "missing")),
        (pl.DataFrame({"planned_ts": ["12:00"]}), ("'planned_ts'", "String", "timestamps")),
    ],
)
def test_an_automatic_split_names_the_file_it_cannot_read(
    written: Callable[..., Path], frame: pl.DataFrame, named: tuple[str, ...]
) -> None:
    folder = written(whole_date(0), whole_date(1), frame)
    message = refusal(lambda: resolve_split(SplitConfig(), folder, skip_partial=True))
    assert_names(message, str(events_path(folder, DAY + timedelta(days=2))), *named)


# --- real data -------------------------------------------------------------------------------------------------------
@pytest.mark.realdata
def test_the_real_split_and_counts(real_data: Path) -> None:
    split = resolve_split(SplitConfig(), real_data, skip_partial=True)
    assert split.as_dict() == {
        "train": [f"2024-12-{day}" for day in (13, 14, 16, 17, 18, 19)],
        "validation": ["2024-12-20"],
        "test": ["2024-12-21"],
    }
    points = read_op_nodes(real_data)["op_id"]
    report = ReadingReport()
    for day in available_dates(real_data):
        report.add(read_events(real_data, day, "Europe/Budapest", ValidationConfig(), points)[1])
    assert report.as_dict() == {
        "events": 602_450,
        "kept": 602_020,
        "dropped": {"planned before an earlier stop": 347, "without train_id": 83},
        "discarded": {},
        "notes": {},
    }
