"""The reach of a service date agrees with what reading keeps and with who is in a snapshot."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from transformer.config import DataConfig, SnapshotConfig, ValidationConfig
from transformer.data.event_table import LoadedTable, Vocabulary
from transformer.data.events import validated_events
from transformer.data.reach import dates_running, has_running_train, latest_observation, may_have_running_train
from transformer.data.tables import EVENT_SCHEMA, JOURNEY_SCHEMA, events_path, write_events
from transformer.features.snapshots import EventFeatures, SnapshotBuilder

DAY = date(2025, 1, 13)
MIDNIGHT = datetime(2025, 1, 13, tzinfo=UTC)
HOUR = timedelta(hours=1)


def train(*planned: timedelta, delays: tuple[int | None, ...] = ()) -> pl.DataFrame:
    """One journey of DAY, planned at these times after midnight UTC of DAY, with delays in seconds."""
    late = (*delays, *[None] * (len(planned) - len(delays)))
    rows = [
        (
            "t1", DAY, seq, seq + 1, "A", MIDNIGHT + after,
            None if delay is None else MIDNIGHT + after + timedelta(seconds=delay), delay,
        )
        for seq, (after, delay) in enumerate(zip(planned, late, strict=True))
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=EVENT_SCHEMA, orient="row")


def kept(events: pl.DataFrame, max_delay_s: int = 0) -> pl.DataFrame:
    validation = ValidationConfig(max_dropped_share=1, max_delay_s=max_delay_s, max_gap_s=7 * 86_400)
    found, _ = validated_events(events, Path("file"), DAY, "UTC", validation)
    return found


def running(events: pl.DataFrame, at: datetime, snapshot: SnapshotConfig) -> bool:
    journeys = pl.DataFrame(schema=JOURNEY_SCHEMA)
    loaded = LoadedTable.of(events, journeys, Vocabulary(np.array([1], np.int32), ()))
    builder = SnapshotBuilder(loaded.table, snapshot, EventFeatures.none(loaded.table))
    return bool(len(builder.active_trains(np.array([int(at.timestamp())])).journey))


@pytest.mark.parametrize("delay_s", [0, 43_200, 200_000])
def test_the_last_train_that_reading_keeps_is_within_reach_and_no_later_one_is_kept(delay_s: int):
    """A train is found as long as it can be in a snapshot: a train of two nights, and one whose delay is the limit."""
    data = DataConfig(validation=ValidationConfig(max_delay_s=delay_s))
    last = timedelta(days=3) - timedelta(seconds=1)
    events = kept(train(last - HOUR, last, delays=(delay_s,)), delay_s)
    assert events.height == 2
    assert kept(train(last - HOUR, last + timedelta(seconds=1))).height == 1
    leaves = MIDNIGHT + last + timedelta(seconds=delay_s + data.snapshot.end_grace_s)
    assert running(events, leaves, data.snapshot)
    for at in (leaves, MIDNIGHT, MIDNIGHT + timedelta(days=1, hours=9)):
        assert DAY in dates_running(at, at, data)
    after = leaves + timedelta(seconds=2)
    assert DAY not in dates_running(after, after, data)
    assert latest_observation(DAY, data.validation) >= MIDNIGHT + last + timedelta(seconds=delay_s)


def test_the_first_train_that_reading_keeps_is_within_reach():
    data = DataConfig()
    assert kept(train(-timedelta(days=2), HOUR)).height == 2
    assert kept(train(-timedelta(days=2, seconds=1), HOUR)).height == 1
    enters = MIDNIGHT - timedelta(days=2, seconds=data.snapshot.lead_s)
    assert running(train(-timedelta(days=2), HOUR), enters, data.snapshot)
    assert DAY in dates_running(enters, enters, data)
    before = enters - timedelta(seconds=1)
    assert DAY not in dates_running(before, before, data)


def test_a_span_reaches_the_dates_of_all_its_instants():
    data = DataConfig()
    first, last = MIDNIGHT + 5 * HOUR, MIDNIGHT + 23 * HOUR
    spanned = dates_running(first, last, data)
    each = {day for hour in range(5, 24) for day in dates_running(MIDNIGHT + hour * HOUR, MIDNIGHT + hour * HOUR, data)}
    assert spanned == tuple(sorted(each)) == tuple(DAY + timedelta(days=n) for n in range(-3, 3))


@pytest.mark.parametrize("delays", [(), (0,), (1_800, 3_600), (None, 7_200), (-600,)])
def test_no_date_whose_train_is_in_a_snapshot_is_left_out(tmp_path: Path, delays: tuple[int | None, ...]):
    """The snapshots of every quarter of an hour decide. The check may keep a date too many, but not for hours."""
    snapshot = SnapshotConfig()
    events = train(HOUR, 2 * HOUR, 41 * HOUR, delays=delays)
    write_events(tmp_path, DAY, events)
    for quarter in range(4 * 48):
        at = MIDNIGHT + quarter * HOUR / 4
        known = events.with_columns(
            pl.when(pl.col("observed_ts") <= at).then(pl.col("observed_ts", "delay_sec")),
        )
        if running(known, at, snapshot):
            assert has_running_train(events, at, at, snapshot), at
            assert may_have_running_train(tmp_path, DAY, at, at, DataConfig()), at
    assert not has_running_train(events, MIDNIGHT + 44 * HOUR, MIDNIGHT + 45 * HOUR, snapshot)
    assert not has_running_train(events, MIDNIGHT, MIDNIGHT + HOUR / 2, snapshot)
    assert has_running_train(events, MIDNIGHT, MIDNIGHT + 50 * HOUR, snapshot)


def test_later_observations_do_not_decide():
    """A delay of ten hours at the terminus is not known before it is observed."""
    events = train(HOUR, 2 * HOUR, delays=(0, 36_000))
    assert not has_running_train(events, MIDNIGHT + 3 * HOUR, MIDNIGHT + 3 * HOUR, SnapshotConfig())
    assert has_running_train(events, MIDNIGHT + 3 * HOUR, MIDNIGHT + 12 * HOUR, SnapshotConfig())


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_the_planned_times_of_a_file_tell_most_dates_without_a_train(tmp_path: Path, zone: str | None):
    """Naive times are in the zone of the configuration: in New York, five hours later than in UTC."""
    data = DataConfig(timezone="America/New_York", validation=ValidationConfig(max_delay_s=3_600))
    events = train(9 * HOUR, 12 * HOUR)
    shift = HOUR * 5 if zone is None else timedelta(0)
    planned = pl.col("planned_ts")
    planned = planned.dt.replace_time_zone(None) if zone is None else planned.dt.convert_time_zone(zone)
    write_events(tmp_path, DAY, events)
    events.with_columns(planned).write_parquet(events_path(tmp_path, DAY))
    expected = {7: False, 8: False, 9: True, 12: True, 13: True, 15: False, 40: False}
    for hour, running_then in expected.items():
        at = MIDNIGHT + hour * HOUR + shift
        assert may_have_running_train(tmp_path, DAY, at, at, data) == running_then, hour
    assert may_have_running_train(tmp_path, DAY, MIDNIGHT, MIDNIGHT + 40 * HOUR, data)


@pytest.mark.parametrize("content", [b"", b"no table", None])
def test_a_file_that_cannot_be_judged_is_left_to_reading(tmp_path: Path, content: bytes | None):
    path = events_path(tmp_path, DAY)
    path.parent.mkdir()
    if content is None:
        pl.DataFrame({"planned_ts": ["soon"]}).write_parquet(path)
    else:
        path.write_bytes(content)
    assert may_have_running_train(tmp_path, DAY, MIDNIGHT, MIDNIGHT, DataConfig())
    path.unlink()
    assert may_have_running_train(tmp_path, DAY, MIDNIGHT, MIDNIGHT, DataConfig())
