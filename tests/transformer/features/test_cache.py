"""Statistics and embeddings are computed once per content, reused with a log line, and recomputed on request."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.support.messages import assert_names
from transformer.config import Config, DataConfig
from transformer.data import events, survey
from transformer.data.dates import Split, available_dates
from transformer.data.events import DayEvents, read_days
from transformer.data.points import read_op_nodes
from transformer.data.tables import events_path, op_nodes_path
from transformer.errors import UserError
from transformer.features import cache, reading
from transformer.features.cache import (
    embeddings_folder,
    obtain_inputs,
    statistics_folder,
)
from transformer.features.embeddings import extend
from transformer.features.graph import edge_counts
from transformer.features.statistics import Statistics

Change = Callable[[Config], None]


@pytest.fixture
def config(small_config: Config, tmp_path: Path) -> Config:
    """The small configuration, with a cache for this test only."""
    config = copy.deepcopy(small_config)
    config.paths.cache = str(tmp_path / "cache")
    return config


@pytest.fixture
def split(sample_folder: Path) -> Split:
    days = available_dates(sample_folder)
    return Split(tuple(days[:3]), (days[3],), (days[4],))


def of_kind(caplog: pytest.LogCaptureFixture, kind: str) -> list[str]:
    """The steps logged for the statistics or embeddings, in order: computing, written, reused."""
    lines = [record.getMessage() for record in caplog.records if record.name == "transformer.features.cache"]
    words = [word for line in lines if line.startswith(f"{kind}: ") for word in line.split()]
    return [word for word in words if word in ("computing", "written", "reused")]


def folders(config: Config, kind: str) -> list[str]:
    return sorted(path.name for path in (Path(config.paths.cache) / kind).iterdir())


# --- reuse -----------------------------------------------------------------------------------------------------------
def test_statistics_are_computed_once(config: Config, split: Split, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, _ = obtain_inputs(config, split)
    again, _ = obtain_inputs(config, split)
    assert of_kind(caplog, "statistics") == ["computing", "written", "reused"]
    assert any(str(statistics_folder(config, split)) in line for line in caplog.messages if "reused" in line)
    assert folders(config, "statistics") == [statistics_folder(config, split).name]
    assert again.summary() == first.summary()
    assert_frame_equal(again.sections, first.sections)


def test_embeddings_are_computed_once(config: Config, split: Split, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, first = obtain_inputs(config, split)
    _, again = obtain_inputs(config, split)
    assert of_kind(caplog, "embeddings") == ["computing", "written", "reused"]
    assert folders(config, "embeddings") == [embeddings_folder(config, split).name]
    assert first.points.dim == 16 + 3
    order = first.points.op_ids
    np.testing.assert_array_equal(again.points.matrix(order), first.points.matrix(order))
    assert_frame_equal(again.edges, first.edges)
    assert again.edges.columns == ["op_a", "op_b", "running_time_s", "journeys"]


def test_they_are_made_again_when_asked(config: Config, split: Split, caplog: pytest.LogCaptureFixture) -> None:
    obtain_inputs(config, split)
    (statistics_folder(config, split) / "left over").touch()
    (embeddings_folder(config, split) / "left over").touch()
    caplog.set_level(logging.INFO)
    caplog.clear()
    obtain_inputs(config, split, recompute_statistics=True, recompute_embeddings=True)
    assert of_kind(caplog, "statistics") == ["computing", "written"]
    assert of_kind(caplog, "embeddings") == ["computing", "written"]
    assert not (statistics_folder(config, split) / "left over").exists()
    assert not (embeddings_folder(config, split) / "left over").exists()


@pytest.mark.parametrize("damage", ["points.parquet", "edges.parquet"])
def test_damaged_embeddings_are_one_line(config: Config, split: Split, damage: str) -> None:
    obtain_inputs(config, split)
    path = embeddings_folder(config, split) / damage
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError) as caught:
        obtain_inputs(config, split)
    assert_names(caught.value, damage, "not Parquet", "remove")
    obtain_inputs(config, split, recompute_embeddings=True)
    obtain_inputs(config, split)


# --- what names them -------------------------------------------------------------------------------------------------
def changed(config: Config, change: Change) -> Config:
    other = copy.deepcopy(config)
    change(other)
    return other


def set_value(key: str, value: object) -> Change:
    def change(config: Config) -> None:
        *groups, name = key.split(".")
        owner: object = config
        for group in groups:
            owner = getattr(owner, group)
        setattr(owner, name, value)

    return change


@pytest.mark.parametrize(
    ("key", "value", "statistics", "embeddings"),
    [
        ("data.timezone", "UTC", True, True),
        ("data.validation.max_delay_s", 60, True, True),
        ("data.snapshot.silence_s", 60, True, False),
        ("data.reporting_delay_s", 60, True, False),
        ("data.statistics.histogram_step_s", 60, True, False),
        ("data.statistics.half_life_days", 90.0, True, False),
        ("embeddings.laplacian.dim", 8, False, True),
        ("embeddings.random.seed", 1, False, True),
        ("embeddings.random.enabled", True, False, True),
        ("training.seed", 1, False, False),
        ("model.d_model", 64, False, False),
        ("training.mlflow.tracking_uri", "http://elsewhere", False, False),
    ],
)
def test_the_configuration_that_matters_names_them(
    config: Config, split: Split, key: str, value: object, statistics: bool, embeddings: bool
) -> None:
    other = changed(config, set_value(key, value))
    assert (statistics_folder(other, split) != statistics_folder(config, split)) is statistics
    assert (embeddings_folder(other, split) != embeddings_folder(config, split)) is embeddings


def test_only_the_data_of_training_dates_name_them(config: Config, split: Split, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(config.data.local_folder, folder)
    config.data.local_folder = str(folder)

    def names() -> tuple[Path, Path]:
        return statistics_folder(config, split), embeddings_folder(config, split)

    def lose_observations(day: date) -> None:
        path = events_path(folder, day)
        pl.read_parquet(path).with_columns(observed_ts=pl.lit(None, pl.Datetime("us", "UTC"))).write_parquet(path)

    before = names()
    lose_observations(split.validation[0])
    lose_observations(split.test[0])
    assert names() == before
    lose_observations(split.train[0])
    assert not set(names()) & set(before)


def test_the_training_dates_name_them(config: Config, split: Split) -> None:
    fewer = Split(split.train[1:], split.validation, split.test)
    other_test = Split(split.train, split.test, split.validation)
    assert statistics_folder(config, fewer) != statistics_folder(config, split)
    assert embeddings_folder(config, fewer) != embeddings_folder(config, split)
    assert statistics_folder(config, other_test) == statistics_folder(config, split)
    assert embeddings_folder(config, other_test) == embeddings_folder(config, split)


# --- points and edges ------------------------------------------------------------------------------------------------
def test_every_point_of_the_table_has_a_vector(config: Config, split: Split) -> None:
    _, embeddings = obtain_inputs(config, split)
    points = read_op_nodes(Path(config.data.local_folder))["op_id"]
    assert set(points.to_list()) <= set(embeddings.points.op_ids.tolist())
    assert np.isfinite(embeddings.points.matrix(points.to_numpy())).all()


def test_points_of_a_later_timetable_are_filled_in(config: Config, split: Split, tmp_path: Path) -> None:
    """A point first served on the test date gets a vector from its neighbours, and known vectors do not change."""
    folder = tmp_path / "data"
    shutil.copytree(config.data.local_folder, folder)
    config.data.local_folder = str(folder)
    new = 9_999
    path = events_path(folder, split.test[0])
    events = pl.read_parquet(path)
    busiest = events["op_id"].mode().sort().first()
    events.with_columns(op_id=pl.when(pl.col("op_id") == busiest).then(new).otherwise("op_id")).write_parquet(path)
    assert new not in pl.read_parquet(op_nodes_path(folder))["op_id"]

    _, embeddings = obtain_inputs(config, split)
    extended = extend(embeddings.points, edge_counts(read_days(config.data, split.test)[0]))
    known = embeddings.points.op_ids
    np.testing.assert_array_equal(extended.matrix(known), embeddings.points.matrix(known))
    assert not embeddings.points.matrix([new])[1].any()
    assert extended.matrix([new])[1].any()


# --- data that are replaced while they are read ----------------------------------------------------------------------
@pytest.fixture
def republished(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The configuration with a copy of the data, of which one date is replaced while its events are read."""
    shutil.copytree(config.data.local_folder, tmp_path / "data")
    config.data.local_folder = str(tmp_path / "data")
    path = events_path(tmp_path / "data", date(2025, 1, 7))

    def each_day(data: DataConfig, days: Sequence[date]) -> Iterator[DayEvents]:
        for read in events.each_day(data, days):
            if read.day == date(2025, 1, 7):
                pl.read_parquet(path).head(-1).write_parquet(path)
            yield read

    monkeypatch.setattr(reading, "each_day", lambda data, days, *_: each_day(data, days))
    return config


def test_nothing_is_kept_of_data_that_were_replaced_meanwhile(republished: Config, split: Split) -> None:
    """The folder of the cache would have the hash of the new data, and hold tables and statistics of the old data."""
    cache_folder = Path(republished.paths.cache)
    for act in (
        lambda: obtain_inputs(republished, split),
        lambda: reading.obtain_readings(republished.data, split.train, cache_folder),
    ):
        with pytest.raises(UserError) as caught:
            act()
        assert_names(caught.value, "events/events_2025-01-07.parquet", "changed while the data were read", "run the")
    kept = {path.parent.name[:10] for path in cache_folder.rglob("*") if path.is_file()}
    assert kept == {"2025-01-06"}  # which had been read before


def test_no_statistics_are_kept_of_a_date_that_was_replaced_after_its_reading(
    config: Config, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(config.data.local_folder, tmp_path / "data")
    config.data.local_folder = str(tmp_path / "data")
    path = events_path(tmp_path / "data", split.train[0])
    merge = cache.merge_dates

    def merge_dates(*parts: Any) -> Statistics:
        pl.read_parquet(path).head(-1).write_parquet(path)
        return merge(*parts)

    monkeypatch.setattr(cache, "merge_dates", merge_dates)
    with pytest.raises(UserError) as caught:
        obtain_inputs(config, split)
    assert_names(caught.value, f"events/{path.name}", "changed while the data were read")
    assert not (Path(config.paths.cache) / "statistics").exists()


def test_hours_of_a_replaced_file_are_not_kept(
    republished: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(republished.data.local_folder)
    path = events_path(folder, date(2025, 1, 7))
    known = survey.Survey(republished.data, tmp_path / "cache")

    wanted = survey.hours_of

    def hours_of(content: pl.DataFrame, of: Path, timezone: str) -> survey.Hours:
        content.head(1).write_parquet(path)
        return wanted(content, of, timezone)

    def planned() -> int:
        return sum(known.hours(folder, date(2025, 1, 7), "UTC").planned.values())

    with monkeypatch.context() as patched:
        patched.setattr(survey, "hours_of", hours_of)
        assert planned() > 1
    assert not list((tmp_path / "cache").rglob("*.json"))
    assert planned() == 1
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1
