"""One reading of service dates serves every vocabulary and every later user of the same dates."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.support.messages import assert_names
from transformer.config import Config
from transformer.data.dates import available_dates
from transformer.data.event_table import EventTable, LoadedTable, Vocabulary
from transformer.data.events import DayEvents, each_day, read_days, read_journeys
from transformer.data.profile import profile_of
from transformer.errors import UserError
from transformer.features.graph import edge_counts
from transformer.features.reading import find_reading, obtain_reading


@pytest.mark.parametrize("types", [(), ("regional",), ("long_distance", "regional")])
@pytest.mark.parametrize("every", [1, 2], ids=["all points", "every other point"])
def test_a_table_is_the_same_as_one_that_is_built_for_its_vocabulary(
    small_config: Config, tmp_path: Path, types: tuple[str, ...], every: int
) -> None:
    data, days = small_config.data, available_dates(Path(small_config.data.local_folder))[:2]
    events, _ = read_days(data, days)
    vocabulary = Vocabulary(np.append(events["op_id"].unique().sort().to_numpy()[::every], np.int32(10**6)), types)
    obtain_reading(data, days, tmp_path)
    found = obtain_reading(data, days, tmp_path).table(vocabulary)
    built = LoadedTable.of(events, read_journeys(Path(data.local_folder), days, data.timezone), vocabulary)
    for column in fields(EventTable):
        kept, wanted = getattr(found.table, column.name), getattr(built.table, column.name)
        assert kept.dtype == wanted.dtype and np.array_equal(kept, wanted), column.name
    assert_frame_equal(found.journeys, built.journeys)
    assert len(list((tmp_path / "tables").iterdir())) == 1


def test_edges_and_profile_are_those_of_the_dates_together(small_config: Config, tmp_path: Path) -> None:
    data, days = small_config.data, available_dates(Path(small_config.data.local_folder))[:3]
    reading = obtain_reading(data, days, tmp_path)
    events, _ = read_days(data, days)
    key = ["op_a", "op_b", "running_time_s"]
    assert_frame_equal(reading.edges(), edge_counts(events).sort(key))
    assert (reading.edges()["op_a"] < reading.edges()["op_b"]).all()
    profile, wanted = reading.profile(), profile_of(events)
    assert (profile.dates, profile.observed) == (wanted.dates, wanted.observed)
    assert profile.points.equals(wanted.points) and np.array_equal(profile.change, wanted.change)


def test_the_events_of_each_date_pass_by_whether_or_not_the_cache_holds_the_rest(
    small_config: Config, tmp_path: Path
) -> None:
    data, days = small_config.data, available_dates(Path(small_config.data.local_folder))[:2]
    known = {read.day: read for read in each_day(data, days[:1])}
    passed: list[DayEvents] = []
    for _ in range(2):
        obtain_reading(data, days, tmp_path, passed.append, known)
    assert [read.day for read in passed] == [*days, *days]
    assert passed[0] is passed[2] is known[days[0]] and passed[1] is not passed[3]


def test_what_the_cache_lacks_is_not_found(small_config: Config, tmp_path: Path) -> None:
    data, days = small_config.data, available_dates(Path(small_config.data.local_folder))[:1]
    assert find_reading(data, days, tmp_path) is None
    assert find_reading(data, days, tmp_path) != obtain_reading(data, days, tmp_path)
    assert find_reading(data, days, tmp_path) == obtain_reading(data, days, tmp_path)


@pytest.mark.parametrize("name", ["op_ids.npy", "own_point.npy", "planned.npy", "journeys.parquet", "edges.parquet"])
def test_a_damaged_file_is_one_line(small_config: Config, tmp_path: Path, name: str) -> None:
    data, days = small_config.data, available_dates(Path(small_config.data.local_folder))[:1]
    reading = obtain_reading(data, days, tmp_path)
    (reading.folder / name).write_bytes((reading.folder / name).read_bytes()[:40])
    with pytest.raises(UserError) as caught:
        reading.table(Vocabulary(np.array([1], np.int32), ()))
        reading.edges()
    assert_names(caught.value, str(reading.folder), "remove")


def test_no_date_is_no_table(small_config: Config, tmp_path: Path) -> None:
    with pytest.raises((UserError, ValueError)):
        obtain_reading(small_config.data, [], tmp_path)
    assert not list(tmp_path.glob("tables/*")) and pl.DataFrame().is_empty()
