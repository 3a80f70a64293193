"""Reading event tables: refused files, dropped rows with reasons, and the dates of each split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.support.events import DAY, NOON, at, refusal, rows, sound
from tests.support.messages import assert_names
from transformer.config import DataConfig, SplitConfig, ValidationConfig
from transformer.data.dates import available_dates, read_hours, resolve_split
from transformer.data.events import Keys, data_fingerprint, each_day, read_events, read_journeys
from transformer.data.reasons import ReadingReport
from transformer.data.tables import (
    EVENT_SCHEMA,
    JOURNEY_SCHEMA,
    TIMESTAMP,
    events_path,
    journeys_path,
    op_nodes_path,
    write_op_nodes,
)

LENIENT = ValidationConfig(max_dropped_share=1.0, max_discarded_share=1.0, max_unmatched_share=1.0)
NAIVE = pl.Datetime("us")


def read(folder: Path, validation: ValidationConfig = LENIENT, **options: Any) -> tuple[pl.DataFrame, ReadingReport]:
    return read_events(folder, DAY, options.pop("timezone", "Europe/Brussels"), validation, **options)


def keys(op_ids: Sequence[int] = (10, 11, 12), journeys: Sequence[str] = ("a",)) -> Keys:
    """Points and journeys of the other tables. A journey that is named twice has two rows."""
    rows_of = pl.DataFrame({"train_id": journeys}).group_by("train_id").agg(pl.len().alias("rows"))
    return Keys(pl.Series(op_ids, dtype=pl.Int32), rows_of.with_columns(pl.lit(DAY).alias("service_date")))


# --- what is kept ----------------------------------------------------------------------------------------------------
def test_sound_events_are_read_as_they_are(written: Callable[..., Path]) -> None:
    frame = rows({}, {"event_type": "D"}, {"event_type": "P"}, {"observed_ts": None, "delay_sec": None})
    events, report = read(written(frame))
    assert_frame_equal(events.drop("reported_ts", "known_ts", "cancelled_ts", "planned_platform"), frame)
    assert events["cancelled_ts"].is_null().all()
    assert report.as_dict() == {
        "events": 4,
        "kept": 4,
        "dropped": {},
        "cancelled": 0,
        "unobserved": 1,
        "discarded": {},
        "labels": 3,
        "inputs": 3,
        "notes": {},
    }
    assert report.lines() == [
        "4  events read",
        "4  = events kept",
        "1  − not observed",
        "3  = used as labels",
        "3  = used as inputs",
    ]


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
    assert_frame_equal(
        events.drop("reported_ts", "known_ts", "cancelled_ts", "planned_platform"), expected.cast(EVENT_SCHEMA)
    )


def test_delays_are_computed_and_differences_noted(written: Callable[..., Path]) -> None:
    frame = rows({"delay_sec": 0}, {"delay_sec": None}, {}, {"observed_ts": None, "delay_sec": 60})
    events, report = read(written(frame))
    assert events["delay_sec"].to_list() == [180, 180, 180, None]
    assert report.notes == {"with a delay_sec other than observed − planned (recomputed)": 1}


def test_points_that_nobody_knows_are_noted(written: Callable[..., Path]) -> None:
    events, report = read(written(sound()), keys=keys(op_ids=[10, 12]))
    assert events.height == 3
    assert report.notes == {"at a point that op_nodes does not know": 1}
    message = refusal(lambda: read(written(sound()), ValidationConfig(), keys=keys(op_ids=[10, 12])))
    assert_names(message, "33%", "op_nodes.parquet", "op_id 11", "data.validation.max_unmatched_share=0.2")


def test_journeys_without_a_row_are_noted_and_many_are_refused(written: Callable[..., Path]) -> None:
    frame = pl.concat([sound(), rows({"train_id": "03000"})])
    events, report = read(written(frame), keys=keys(journeys=["a"]))
    assert events.height == 4
    assert report.notes == {"of a journey that journeys does not have": 1}
    message = refusal(lambda: read(written(frame), ValidationConfig(), keys=keys(journeys=["a"])))
    assert_names(message, "25%", "journeys.parquet", "train_id '03000'", "data.validation.max_unmatched_share=0.2")


def test_several_rows_of_a_journey_are_noted(written: Callable[..., Path]) -> None:
    _, report = read(written(sound()), keys=keys(journeys=["a", "a"]))
    assert report.notes == {"of a journey with several rows in journeys (the first counts)": 3}


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
        ({"planned_ts": at(-1)}, "planned in an impossible order"),
    ],
)
def test_an_unusable_event_is_dropped_and_counted(
    written: Callable[..., Path], change: dict[str, Any], reason: str
) -> None:
    events, report = read(written(rows({}, {}, change, {})))
    assert report.dropped == {reason: 1}
    assert (report.events, report.kept, events.height) == (4, 3, 3)
    assert events["seq"].to_list() == [0, 1, 3]
    assert report.lines()[:3] == ["4  events read", f"1  − dropped: {reason}", "3  = events kept"]
    assert report.adds_up


def test_an_event_with_several_faults_counts_once(written: Callable[..., Path]) -> None:
    _, report = read(written(rows({}, {"train_id": None, "seq": None, "event_type": "X", "service_date": None})))
    assert report.dropped == {"without train_id": 1}


def test_the_first_of_duplicates_in_the_file_stays(written: Callable[..., Path]) -> None:
    events, report = read(written(rows({"op_id": 1}, {"seq": 0, "op_id": 2}, {"seq": 0, "op_id": 3})))
    assert events["op_id"].to_list() == [1]
    assert report.dropped == {"with a duplicate key": 2}


def test_of_duplicates_the_observed_one_stays(written: Callable[..., Path]) -> None:
    unobserved = {"observed_ts": None, "delay_sec": None}
    observed = {"seq": 0, "planned_ts": at(0), "observed_ts": at(3)}
    events, report = read(written(rows(unobserved, observed, {"seq": 1, "planned_ts": at(10), "observed_ts": at(13)})))
    assert events["delay_sec"].to_list() == [180, 180]
    assert report.dropped == {"with a duplicate key": 1}
    assert report.unobserved == 0


def test_journeys_do_not_mix_when_order_is_checked(written: Callable[..., Path]) -> None:
    _, report = read(written(rows({"train_id": "a", "planned_ts": at(600)}, {"train_id": "b"}, {"train_id": "b"})))
    assert report.dropped == {}


def test_order_is_that_of_planned_times_and_equal_times_are_fine(written: Callable[..., Path]) -> None:
    minutes = [0, 30, 10, 30, 20, 40]
    events, report = read(written(rows(*[{"planned_ts": at(m), "observed_ts": at(m)} for m in minutes])))
    assert events["seq"].to_list() == [0, 1, 3, 5]
    assert report.dropped == {"planned in an impossible order": 2}


def test_a_journey_may_run_past_midnight(written: Callable[..., Path]) -> None:
    _, report = read(written(rows(*[{"planned_ts": at(m)} for m in (0, 700, 1_400)])))
    assert report.dropped == {}


def test_an_absurd_delay_costs_the_observation_alone(written: Callable[..., Path]) -> None:
    validation = LENIENT.model_copy(update={"max_delay_s": 600, "max_early_s": 60, "observation_order": "keep"})
    planned = NOON
    delays = [600, 601, -60, -61, 0]
    frame = rows(
        *[{"planned_ts": planned, "observed_ts": planned + timedelta(seconds=d), "delay_sec": d} for d in delays]
    )
    events, report = read(written(frame), validation)
    assert events["delay_sec"].to_list() == [600, None, -60, None, 0]
    assert events["observed_ts"].is_null().to_list() == [False, True, False, True, False]
    assert report.discarded == {
        "later than data.validation.max_delay_s": 1,
        "earlier than data.validation.max_early_s": 1,
    }
    assert (report.kept, report.dropped) == (5, {})
    assert report.adds_up


def test_a_delay_of_centuries_does_no_harm(written: Callable[..., Path]) -> None:
    events, report = read(written(rows({"observed_ts": datetime(9999, 1, 1, tzinfo=UTC)}, {})))
    assert events["delay_sec"].to_list() == [None, 180]
    assert report.discarded == {"later than data.validation.max_delay_s": 1}


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
    assert total.lines()[:3] == ["3,000  events read", "  200  − dropped: without train_id", "2,800  = events kept"]


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
    for act in (lambda: read(folder), lambda: read_hours(folder, DAY, "UTC")):
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
    clock = [("01:59", "02:30"), ("02:15", "03:15"), ("03:00", "03:01"), ("13:59", None)]
    events, report = read_naive(tmp_path, day, naive(day, *clock), "Europe/Brussels")
    assert events["planned_ts"].dt.strftime("%H:%M").to_list() == ["00:59", "01:00", "11:59"]
    assert events["delay_sec"].to_list() == [None, 60, None]
    assert report.dropped == {"without seq, op_id or planned_ts": 1}
    assert report.notes == {"timestamps in an hour that daylight saving skips (read as missing)": 2}


def test_in_autumn_an_observation_is_known_at_the_first_time_that_is_not_before_it(tmp_path: Path) -> None:
    day = date(2024, 10, 27)  # 03:00 → 02:00
    frame = naive(day, ("01:50", "02:10"), ("02:20", "02:50"), ("02:10", "02:20"))
    moments = [datetime(2024, 10, 27, 2, minute) for minute in (12, 5, 21)]
    events, _ = read_naive(tmp_path, day, frame.with_columns(pl.Series("known_ts", moments, NAIVE)), "Europe/Brussels")
    assert events["known_ts"].to_list() == [
        datetime(2024, 10, 27, 0, 12, tzinfo=UTC),
        datetime(2024, 10, 27, 1, 5, tzinfo=UTC),
        datetime(2024, 10, 27, 1, 21, tzinfo=UTC),
    ]


def test_in_autumn_a_repeated_hour_follows_the_journey_and_the_plan(tmp_path: Path) -> None:
    day = date(2024, 10, 27)  # 03:00 → 02:00
    # The train waits for an hour: it leaves at 02:10 in the second hour. 02:20 is then 02:20 of the second hour too.
    clock = [("01:30", "01:31"), ("02:30", "02:37"), ("02:10", "02:18"), ("02:20", "02:27"), ("03:00", "02:59")]
    events, report = read_naive(tmp_path, day, naive(day, *clock), "Europe/Brussels")
    assert events["planned_ts"].to_list() == [
        datetime(2024, 10, 26, 23, 30, tzinfo=UTC),
        datetime(2024, 10, 27, 0, 30, tzinfo=UTC),
        datetime(2024, 10, 27, 1, 10, tzinfo=UTC),
        datetime(2024, 10, 27, 1, 20, tzinfo=UTC),
        datetime(2024, 10, 27, 2, 0, tzinfo=UTC),
    ]
    assert events["delay_sec"].to_list() == [60, 420, 480, 420, -60]
    assert report.kept == 5
    assert report.notes == {"timestamps in an hour that daylight saving repeats": 4}


def test_in_autumn_a_late_train_is_observed_in_the_second_hour(tmp_path: Path) -> None:
    day = date(2024, 10, 27)
    events, _ = read_naive(tmp_path, day, naive(day, ("02:55", "02:02"), ("02:58", "02:05")), "Europe/Brussels")
    assert events["delay_sec"].to_list() == [420, 420]


@pytest.mark.parametrize("zone", ["Europe/Brussels", "UTC"])
def test_a_service_date_at_midnight_of_the_railway_is_that_date(written: Callable[..., Path], zone: str) -> None:
    midnight = pl.col("service_date").cast(NAIVE).dt.replace_time_zone("Europe/Brussels").dt.convert_time_zone(zone)
    events, report = read(written(sound().with_columns(midnight)))
    assert events["service_date"].to_list() == [DAY] * 3
    assert report.dropped == {}


def test_a_service_date_at_midnight_of_its_own_zone_is_that_date(written: Callable[..., Path]) -> None:
    frame = sound().with_columns(pl.col("service_date").cast(NAIVE).dt.replace_time_zone("UTC"))
    assert read(written(frame))[0]["service_date"].to_list() == [DAY] * 3


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_a_service_date_with_a_time_of_day_is_refused(written: Callable[..., Path], zone: str | None) -> None:
    noon = pl.col("service_date").cast(NAIVE).dt.replace_time_zone(zone).dt.offset_by("11h")
    message = refusal(lambda: read(written(sound().with_columns(noon))))
    assert_names(message, "'service_date'", "2024-12-13T11:00", "no date", "data.timezone=Europe/Brussels")


# --- two runs, impossible observations, cancellations ----------------------------------------------------------------
def test_two_runs_under_one_id_do_not_become_one_journey(written: Callable[..., Path]) -> None:
    head = [{"planned_ts": at(-420 + 10 * n), "observed_ts": at(-417 + 10 * n)} for n in range(4)]
    tail = [{"planned_ts": at(600 + 10 * n), "observed_ts": at(603 + 10 * n)} for n in range(3)]  # 17 hours later
    events, report = read(written(rows(*head, *tail)))
    assert events["seq"].to_list() == [0, 1, 2, 3]
    assert report.dropped == {"of a second run under the same train_id": 3}


def test_two_runs_with_the_same_seq_are_told_apart_by_a_shorter_gap(written: Callable[..., Path]) -> None:
    morning = [{"seq": n, "planned_ts": at(-240 + 10 * n), "observed_ts": at(-237 + 10 * n)} for n in range(3)]
    evening = [{"seq": n, "planned_ts": at(10 * n), "observed_ts": at(10 * n + 3)} for n in range(5)]
    mixed = [run for pair in zip(morning, evening, strict=False) for run in pair] + evening[3:]
    events, report = read(written(rows(*mixed)))
    assert events["planned_ts"].to_list() == [at(10 * n) for n in range(5)]
    assert report.dropped == {"of a second run under the same train_id": 3}


def test_too_many_wrong_observations_refuse_the_file(written: Callable[..., Path]) -> None:
    frame = rows(*[{}] * 3, {"observed_ts": at(5_000)}, {"observed_ts": at(5_000)})
    message = refusal(lambda: read(written(frame), ValidationConfig()))
    assert_names(message, "40%", "2 later than data.validation.max_delay_s", "data.validation.max_discarded_share=0.2")
    assert read(written(frame))[1].labels == 3


def test_later_observations_have_no_say(written: Callable[..., Path]) -> None:
    frame = rows(*[{}] * 5, {"observed_ts": at(50 - 45)})
    events, report = read(written(frame), ValidationConfig(), until=at(4))
    assert events["delay_sec"].to_list() == [180] + [None] * 5
    assert (report.unobserved, report.labels, report.discarded) == (5, 1, {})


def test_a_train_that_stands_for_hours_is_one_run(written: Callable[..., Path]) -> None:
    stops = [{"planned_ts": at(m), "observed_ts": at(m)} for m in (0, 10, 600, 610)]
    assert read(written(rows(*stops)))[1].dropped == {}


def test_an_observation_that_all_others_contradict_is_discarded(written: Callable[..., Path]) -> None:
    frame = rows(*[{}] * 5, {"observed_ts": at(50 - 45)})  # the terminus, 45 minutes early
    events, report = read(written(frame))
    assert events["delay_sec"].to_list() == [180] * 5 + [None]
    assert report.discarded == {"in an impossible order": 1}
    assert (report.labels, report.inputs) == (5, 5)
    kept, report = read(written(frame), ValidationConfig(observation_order="keep"))
    assert kept["delay_sec"].to_list() == [180] * 5 + [-2_700]
    assert (report.labels, report.inputs) == (6, 2)
    assert report.notes["observations out of order (kept, but no input)"] == 4


def test_what_is_cancelled_is_known_from_one_time_on(written: Callable[..., Path]) -> None:
    lost = {"observed_ts": None, "delay_sec": None, "cancelled": True}
    schema = {"cancelled": pl.Boolean(), "cancelled_ts": TIMESTAMP}
    frame = rows({}, {"cancelled": True}, lost, lost, {"observed_ts": None, "delay_sec": None}, schema=schema)
    events, report = read(written(frame.drop("cancelled_ts")))
    assert events["cancelled_ts"].to_list() == [None, None, at(20), at(20), None]
    assert (report.cancelled, report.unobserved, report.labels) == (2, 1, 2)
    assert report.notes == {"cancelled but observed (used as observed)": 1}
    assert report.adds_up
    said = frame.with_columns(pl.when(pl.col("seq") == 3).then(pl.lit(at(-60), TIMESTAMP)).alias("cancelled_ts"))
    assert read(written(said))[0]["cancelled_ts"].to_list() == [None, None, at(-60), at(-60), None]


def known_times(events: pl.DataFrame) -> list[datetime | None]:
    return events["known_ts"].to_list()


def test_an_observation_is_known_when_it_is_made_if_nothing_says_otherwise(written: Callable[..., Path]) -> None:
    events, _ = read(written(rows({}, {"observed_ts": None, "delay_sec": None})))
    assert known_times(events) == [events["observed_ts"][0], None]


def test_the_message_says_when_an_observation_is_known_and_the_reporting_delay_otherwise(
    written: Callable[..., Path],
) -> None:
    early = {"known_ts": at(-60)}
    none = {"known_ts": None}
    lost = {"observed_ts": None, "delay_sec": None, "known_ts": at(90)}
    folder = written(rows({"known_ts": at(60)}, none, early, lost, schema={"known_ts": TIMESTAMP}))
    events, report = read(folder, reporting_delay_s=90)
    observed = events["observed_ts"].to_list()
    assert known_times(events) == [at(60), observed[1] + timedelta(seconds=90), observed[2], None]
    assert report.notes == {"known before it was observed (known when observed)": 1}
    assert report.adds_up and report.labels == 3  # the labels stay


def test_at_an_instant_messages_that_arrive_later_are_not_known(written: Callable[..., Path]) -> None:
    folder = written(rows({"known_ts": at(60)}, {}, schema={"known_ts": TIMESTAMP}))
    for minutes, observed in ((59, [True, False]), (60, [False, False])):
        events, _ = read(folder, until=at(minutes))
        assert events["observed_ts"].is_null().to_list() == observed


def test_a_prediction_needs_no_reporting_delay(written: Callable[..., Path]) -> None:
    """All that has arrived is known, so `until` leaves the delay aside."""
    folder = written(sound())
    write_op_nodes(folder, pl.DataFrame({"op_id": [10], "op_name": ["A"], "lat": [50.0], "lon": [4.0]}))
    pl.DataFrame({"train_id": ["a"], "service_date": [DAY]}).write_parquet(journeys_path(folder))
    data = DataConfig(local_folder=str(folder), reporting_delay_s=600, validation=LENIENT)
    (late,), (now,) = (list(each_day(data, [DAY], until=until)) for until in (None, at(600)))
    seen = now.events["observed_ts"].is_not_null()
    assert seen.any() and now.events["known_ts"].equals(now.events["observed_ts"].alias("known_ts"))
    assert (late.events["known_ts"] - late.events["observed_ts"]).drop_nulls().unique().to_list() == [
        timedelta(seconds=600)
    ]


def test_an_aware_timestamp_ignores_the_time_zone_of_the_data(written: Callable[..., Path]) -> None:
    folder = written(sound())
    assert_frame_equal(read(folder, timezone="Asia/Tokyo")[0], read(folder, timezone="UTC")[0])


# --- journeys --------------------------------------------------------------------------------------------------------
def test_journeys_of_the_dates_with_what_is_missing_filled(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "train_id": ["a", "b", "a", "a"],
            "service_date": [DAY, DAY, DAY, DAY + timedelta(days=1)],
            "train_number": ["100", None, "again", "100"],
        }
    ).write_parquet(journeys_path(tmp_path))
    journeys = read_journeys(tmp_path, [DAY], "UTC")
    assert journeys.columns == ["train_id", "service_date", "train_number", "train_type"]  # stages read no others
    assert dict(journeys.schema).items() <= JOURNEY_SCHEMA.items()
    assert journeys.rows() == [("a", DAY, "100", "unknown"), ("b", DAY, "b", "unknown")]
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


# --- real data -------------------------------------------------------------------------------------------------------
@pytest.mark.realdata
def test_the_real_split_and_counts(real_data: Path) -> None:
    data = DataConfig(local_folder=str(real_data), timezone="Europe/Budapest")
    split = resolve_split(SplitConfig(), real_data, skip_partial=True, timezone=data.timezone)
    assert split.as_dict() == {
        "train": [f"2024-12-{day}" for day in (13, 14, 16, 17, 18, 19)],
        "validation": ["2024-12-20"],
        "test": ["2024-12-21"],
    }
    report = ReadingReport()
    for read_day in each_day(data, available_dates(real_data)):
        report.add(read_day.report)
    assert report.adds_up
    # One observation in fifty is the plan that the system wrote where it measured nothing.
    assert report.as_dict() == {
        "events": 602_450,
        "kept": 602_158,
        "dropped": {"planned in an impossible order": 209, "without train_id": 83},
        "cancelled": 0,
        "unobserved": 50_688,
        "discarded": {"on time to the second, before an earlier stop": 10_206, "in an impossible order": 93},
        "labels": 541_171,
        "inputs": 541_171,
        "notes": {},
    }
