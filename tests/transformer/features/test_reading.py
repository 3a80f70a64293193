"""One reading of a service date serves every vocabulary and every later user of the date."""

from __future__ import annotations

from dataclasses import fields
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from benchmarks.tables import read_table
from tests.support.messages import assert_names
from transformer.config import Config
from transformer.data import events
from transformer.data.dates import available_dates
from transformer.data.event_table import EventTable, Vocabulary
from transformer.data.events import DayEvents, each_day, read_days
from transformer.data.profile import profile_of
from transformer.data.tables import events_path, journeys_path, op_nodes_path, write_events
from transformer.errors import UserError
from transformer.features.graph import edge_counts
from transformer.features.reading import joint_edges, joint_profile, obtain_readings


@pytest.mark.parametrize("types", [(), ("regional",), ("long_distance", "regional")])
@pytest.mark.parametrize("every", [1, 2], ids=["all points", "every other point"])
def test_a_table_is_the_same_as_one_that_is_built_for_its_vocabulary(
    small_config: Config, tmp_path: Path, types: tuple[str, ...], every: int
) -> None:
    data, days = small_config.data, available_dates(Path(small_config.data.local_folder))[:2]
    happened, _ = read_days(data, days)
    vocabulary = Vocabulary(np.append(happened["op_id"].unique().sort().to_numpy()[::every], np.int32(10**6)), types)
    obtain_readings(data, days, tmp_path)
    for reading in obtain_readings(data, days, tmp_path):
        found, built = reading.table(vocabulary), read_table(data, [reading.day], vocabulary)
        for column in fields(EventTable):
            kept, wanted = getattr(found.table, column.name), getattr(built.table, column.name)
            assert kept.dtype == wanted.dtype and np.array_equal(kept, wanted), column.name
        for name in ("train_id", "train_number", "type_name"):
            assert np.array_equal(getattr(found, name), getattr(built, name)), name
        assert_frame_equal(found.journeys, built.journeys)
        table = built.table
        assert tuple(reading.extent) == (
            table.n_events, table.n_journeys, len(table.news_key), table.first_planned[0], table.last_possible.max()
        )  # fmt: skip
    assert len(list((tmp_path / "tables").iterdir())) == 2


def test_edges_and_profile_are_those_of_the_dates_together(small_config: Config, tmp_path: Path) -> None:
    data, days = small_config.data, available_dates(Path(small_config.data.local_folder))[:3]
    readings = obtain_readings(data, days, tmp_path)
    happened, _ = read_days(data, days)
    key = ["op_a", "op_b", "running_time_s"]
    edges = joint_edges(readings)
    assert_frame_equal(edges, edge_counts(happened).sort(key))
    assert (edges["op_a"] < edges["op_b"]).all()
    profile, wanted = joint_profile(readings), profile_of(happened)
    assert (profile.dates, profile.observed) == (wanted.dates, wanted.observed)
    assert profile.points.equals(wanted.points) and np.array_equal(profile.change, wanted.change)


def test_the_events_of_each_date_pass_by_whether_or_not_the_cache_holds_the_rest(
    small_config: Config, tmp_path: Path
) -> None:
    data, days = small_config.data, available_dates(Path(small_config.data.local_folder))[:2]
    known = {read.day: read for read in each_day(data, days[:1])}
    passed: list[DayEvents] = []
    for _ in range(2):
        obtain_readings(data, days, tmp_path, passed.append, known)
    assert [read.day for read in passed] == [*days, *days]
    assert passed[0] is passed[2] is known[days[0]] and passed[1] is not passed[3]


def copied(config: Config, folder: Path) -> Config:
    """The configuration with a copy of its data."""
    for path in Path(config.data.local_folder).rglob("*.parquet"):
        target = folder / path.relative_to(config.data.local_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return config.model_copy(update={"data": config.data.model_copy(update={"local_folder": str(folder)})})


def folders(config: Config, days: list[date], cache: Path) -> list[Path]:
    return [reading.folder for reading in obtain_readings(config.data, days, cache)]


def test_another_date_is_read_alone(small_config: Config, tmp_path: Path) -> None:
    """A date that is added brings rows of journeys and new points, and the earlier dates stay as they are."""
    config = copied(small_config, tmp_path / "data")
    folder, days = Path(config.data.local_folder), available_dates(Path(config.data.local_folder))[:3]
    journeys, points = pl.read_parquet(journeys_path(folder)), pl.read_parquet(op_nodes_path(folder))
    journeys.filter(pl.col("service_date") != days[2]).write_parquet(journeys_path(folder))
    points.tail(-1).write_parquet(op_nodes_path(folder))
    before = folders(config, days[:2], tmp_path / "cache")
    journeys.write_parquet(journeys_path(folder))
    points.write_parquet(op_nodes_path(folder))
    assert folders(config, days, tmp_path / "cache")[:2] == before
    assert len(list((tmp_path / "cache" / "tables").iterdir())) == 3


def test_nothing_is_read_for_dates_that_the_cache_has(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage asks for the same dates several times, and the journeys of years are large."""
    days = available_dates(Path(small_config.data.local_folder))[:2]
    before = folders(small_config, days, tmp_path)

    def read(*_: object) -> None:
        raise AssertionError("the journeys are read")

    monkeypatch.setattr(events, "read_journeys", read)
    assert folders(small_config, days, tmp_path) == before


@pytest.mark.parametrize("change", ["events", "journeys", "settings", "time zone", "delay"])
def test_a_date_is_read_anew_if_anything_it_holds_changes(small_config: Config, tmp_path: Path, change: str) -> None:
    config = copied(small_config, tmp_path / "data")
    data, folder = config.data, Path(config.data.local_folder)
    days = available_dates(folder)[:2]
    before = folders(config, days, tmp_path / "cache")
    if change == "events":
        write_events(folder, days[0], pl.read_parquet(events_path(folder, days[0])).head(-1))
    elif change == "journeys":
        of_day = pl.col("service_date") == days[0]
        journeys = pl.read_parquet(journeys_path(folder)).with_columns(
            pl.when(of_day).then(pl.lit("other")).otherwise("train_type").alias("train_type")
        )
        journeys.write_parquet(journeys_path(folder))
    elif change == "settings":
        data = data.model_copy(update={"validation": data.validation.model_copy(update={"max_delay_s": 3_600})})
    elif change == "delay":
        data = data.model_copy(update={"reporting_delay_s": 60})
    else:
        data = data.model_copy(update={"timezone": "UTC"})
    after = folders(config.model_copy(update={"data": data}), days, tmp_path / "cache")
    assert before[0] != after[0]
    assert (before[1] == after[1]) == (change in ("events", "journeys"))


@pytest.mark.parametrize(
    "name", ["op_ids.npy", "own_point.npy", "planned.npy", "type_name.npy", "journeys.parquet", "edges.parquet"]
)
def test_a_damaged_file_is_one_line(small_config: Config, tmp_path: Path, name: str) -> None:
    data, days = small_config.data, available_dates(Path(small_config.data.local_folder))[:1]
    (reading,) = obtain_readings(data, days, tmp_path)
    (reading.folder / name).write_bytes((reading.folder / name).read_bytes()[:40])
    with pytest.raises(UserError) as caught:
        _ = reading.table(Vocabulary(np.array([1], np.int32), ())).journeys
        reading.edges()
    assert_names(caught.value, str(reading.folder), "remove")


def test_dates_without_an_event_are_refused(small_config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        obtain_readings(small_config.data, [], tmp_path)
    assert not list(tmp_path.glob("tables/*"))
