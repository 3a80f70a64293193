from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from tests.support.messages import assert_names
from transformer.config import DataConfig, ValidationConfig
from transformer.data.freshness import check_freshness, find_newest_observation, newest_observation
from transformer.data.tables import (
    EVENT_SCHEMA,
    JOURNEY_SCHEMA,
    OP_NODE_SCHEMA,
    write_events,
    write_journeys,
    write_op_nodes,
)
from transformer.errors import UserError

BUDAPEST = ZoneInfo("Europe/Budapest")
DAY = timedelta(days=1)
UNMATCHED = ValidationConfig(max_unmatched_share=1)  # the other tables are empty
REMEDIES = ("fetch newer data", "raise evaluation.freshness.max_age_s")


def events(day: date, *times: tuple[datetime, datetime | None]) -> pl.DataFrame:
    """One journey with an event for each planned and observed time."""
    lines = [
        ("t1", day, seq, 1, "A", planned, observed, observed and int((observed - planned).total_seconds()))
        for seq, (planned, observed) in enumerate(times)
    ]
    return pl.DataFrame(lines, schema=EVENT_SCHEMA, orient="row")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def test_the_newest_observation_is_the_latest_up_to_now():
    frame = events(
        date(2024, 12, 21),
        (utc(2024, 12, 21, 8), utc(2024, 12, 21, 8, 1)),
        (utc(2024, 12, 21, 9), utc(2024, 12, 21, 9, 5)),
        (utc(2024, 12, 21, 10), None),
        (utc(2024, 12, 21, 11), utc(2024, 12, 21, 11, 2)),
    )
    assert newest_observation(frame, utc(2024, 12, 22)) == utc(2024, 12, 21, 11, 2)
    # A clock that runs ahead must not make old data look fresh. `now` may have any time zone.
    assert newest_observation(frame, datetime(2024, 12, 21, 10, 30, tzinfo=BUDAPEST)) == utc(2024, 12, 21, 9, 5)
    assert newest_observation(frame, utc(2024, 12, 20)) is None


def test_a_folder_is_read_back_until_no_older_file_can_hold_a_newer_observation(tmp_path: Path):
    for name, moment in (("12-10", utc(2024, 12, 10, 8)), ("12-20", utc(2024, 12, 20, 22))):
        day = date.fromisoformat(f"2024-{name}")
        # The train of the 20th runs past midnight and is observed on the 21st.
        write_events(tmp_path, day, events(day, (moment, moment + timedelta(hours=3))))
    # The file of the 21st holds a train of the early morning, that of the 22nd only the timetable.
    write_events(tmp_path, date(2024, 12, 21), events(date(2024, 12, 21), (utc(2024, 12, 21, 0), utc(2024, 12, 21, 0))))
    write_events(tmp_path, date(2024, 12, 22), events(date(2024, 12, 22), (utc(2024, 12, 22, 8), None)))
    (tmp_path / "events" / "events_2024-12-01.parquet").write_bytes(b"not read")
    write_op_nodes(tmp_path, pl.DataFrame(schema=OP_NODE_SCHEMA))
    write_journeys(tmp_path, pl.DataFrame(schema=JOURNEY_SCHEMA))
    data = DataConfig(local_folder=str(tmp_path), validation=UNMATCHED)
    assert find_newest_observation(data, utc(2024, 12, 23)).at == utc(2024, 12, 21, 1)


@pytest.mark.parametrize(("max_delay_s", "newest"), [(86_400, 21), (7 * 86_400, 24)])
def test_a_folder_is_read_back_as_far_as_delays_are_allowed(tmp_path: Path, max_delay_s: int, newest: int):
    """A train of the 17th is observed six days late, if the configuration takes such a delay for one."""
    for day, planned, observed in (
        (date(2024, 12, 17), utc(2024, 12, 18, 9), utc(2024, 12, 24, 9)),
        (date(2024, 12, 21), utc(2024, 12, 21, 9), utc(2024, 12, 21, 9)),
    ):
        write_events(tmp_path, day, events(day, (planned, observed)))
    write_op_nodes(tmp_path, pl.DataFrame(schema=OP_NODE_SCHEMA))
    write_journeys(tmp_path, pl.DataFrame(schema=JOURNEY_SCHEMA))
    data = DataConfig(
        local_folder=str(tmp_path), validation=ValidationConfig(max_delay_s=max_delay_s, max_unmatched_share=1)
    )
    assert find_newest_observation(data, utc(2024, 12, 25)).at == utc(2024, 12, newest, 9)


def test_without_any_observation_there_is_no_newest_one(tmp_path: Path):
    write_events(tmp_path, date(2024, 12, 22), events(date(2024, 12, 22), (utc(2024, 12, 22, 8), None)))
    write_op_nodes(tmp_path, pl.DataFrame(schema=OP_NODE_SCHEMA))
    write_journeys(tmp_path, pl.DataFrame(schema=JOURNEY_SCHEMA))
    newest = find_newest_observation(DataConfig(local_folder=str(tmp_path), validation=UNMATCHED), utc(2024, 12, 23)).at
    with pytest.raises(UserError) as caught:
        check_freshness(newest, utc(2024, 12, 23), DAY, "Europe/Budapest")
    assert_names(caught.value, "no observation", "2024-12-23 01:00 CET", *REMEDIES)


def test_the_message_says_how_old_and_what_to_do():
    with pytest.raises(UserError) as caught:
        check_freshness(utc(2024, 12, 21, 22, 59), utc(2024, 12, 25, 3, 12), DAY, "Europe/Budapest")
    assert_names(caught.value, "3 d 4 h", "2024-12-21 23:59 CET", "limit 1 d;", *REMEDIES)


@pytest.mark.parametrize(
    ("age", "written"),
    [
        (timedelta(days=9, hours=1), "9 d 1 h"),
        (timedelta(days=2, minutes=59), "2 d"),
        (timedelta(hours=26), "1 d 2 h"),
        (timedelta(hours=1, minutes=0, seconds=1), "1 h"),
        (timedelta(minutes=90), "1 h 30 min"),
        (timedelta(seconds=61), "1 min 1 s"),
        (timedelta(seconds=1), "1 s"),
    ],
)
def test_an_age_is_written_in_its_two_largest_units(age, written):
    now = utc(2024, 12, 21)
    with pytest.raises(UserError) as caught:
        check_freshness(now - age, now, timedelta(0), "UTC")
    assert_names(caught.value, f" {written} old", "limit 0 s;")


def test_the_limit_itself_is_fresh_enough_also_across_midnight():
    newest = datetime(2024, 12, 21, 23, 59, tzinfo=BUDAPEST)
    assert check_freshness(newest, datetime(2024, 12, 22, 0, 1, tzinfo=BUDAPEST), DAY, "Europe/Budapest") == timedelta(
        minutes=2
    )
    assert check_freshness(newest, newest + DAY, DAY, "Europe/Budapest") == DAY
    with pytest.raises(UserError, match=" 1 d old"):
        check_freshness(newest, newest + DAY + timedelta(seconds=1), DAY, "Europe/Budapest")


def test_an_age_is_elapsed_time_also_across_a_change_of_daylight_saving():
    # In the night to 27 October 2024 an hour is repeated: noon to noon is 25 hours. On 31 March it is 23 hours.
    autumn = datetime(2024, 10, 26, 12, tzinfo=BUDAPEST), datetime(2024, 10, 27, 12, tzinfo=BUDAPEST)
    with pytest.raises(UserError) as caught:
        check_freshness(*autumn, DAY, "Europe/Budapest")
    assert_names(caught.value, " 1 d 1 h old", "2024-10-26 12:00 CEST", "limit 1 d;")
    spring = datetime(2024, 3, 30, 12, tzinfo=BUDAPEST), datetime(2024, 3, 31, 12, tzinfo=BUDAPEST)
    assert check_freshness(*spring, DAY, "Europe/Budapest") == timedelta(hours=23)
    # The two instants 02:30 of that night are an hour apart.
    twice = [datetime(2024, 10, 27, 2, 30, tzinfo=BUDAPEST, fold=fold) for fold in (0, 1)]
    assert check_freshness(*twice, DAY, "Europe/Budapest") == timedelta(hours=1)


def test_clocks_of_different_zones_agree():
    newest = datetime(2024, 12, 21, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert check_freshness(newest, utc(2024, 12, 22, 5), DAY, "UTC") == timedelta(minutes=30)


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        check_freshness(utc(2024, 12, 21), datetime(2024, 12, 22), DAY, "UTC")
