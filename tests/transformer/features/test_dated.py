"""Snapshots from the tables of single dates are those from one table of all dates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from benchmarks.tables import read_table
from transformer.config import Config, DataConfig, load_config
from transformer.data.dates import available_dates
from transformer.data.event_table import LoadedTable
from transformer.data.tables import EVENT_SCHEMA, JOURNEY_SCHEMA, write_events, write_journeys, write_op_nodes
from transformer.features import dated
from transformer.features.dated import DatedSnapshots
from transformer.features.history import History
from transformer.features.reading import obtain_readings
from transformer.features.snapshots import SnapshotBatch, SnapshotBuilder
from transformer.features.statistics import Statistics, compute_statistics


def both(
    data: DataConfig, days: Sequence[date], statistics: Statistics, cache: Path
) -> tuple[DatedSnapshots, LoadedTable, SnapshotBuilder]:
    history = History(statistics, data.statistics)
    loaded = read_table(data, days, statistics.vocabulary)
    readings = obtain_readings(data, days, cache)
    snapshots = DatedSnapshots(readings, statistics.vocabulary, History(statistics, data.statistics), data)
    return snapshots, loaded, history.builder(loaded, data.snapshot)


def assert_same(found: SnapshotBatch, wanted: SnapshotBatch, snapshots: DatedSnapshots, loaded: LoadedTable) -> None:
    for name, values in vars(wanted).items():
        if name not in ("journey", "next_event"):
            np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)
            assert getattr(found, name).dtype == values.dtype, name
    mask = wanted.train_mask
    assert_frame_equal(snapshots.names(found.journey[mask]), loaded.names(wanted.journey[mask]))
    events = found.next_event[found.next_mask]
    assert len(np.unique(events)) == len(np.unique(wanted.next_event[wanted.next_mask]))


def instants_of(days: Sequence[date], count: int) -> np.ndarray:
    """Random instants of whole days, nights included, and of the days before and after."""
    first = int(datetime(days[0].year, days[0].month, days[0].day, tzinfo=UTC).timestamp())
    return np.random.default_rng(3).integers(first - 43_200, first + (len(days) + 1) * 86_400, count)


@pytest.mark.parametrize("most_open", [1, 24])
def test_same_as_one_table(small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_open: int):
    monkeypatch.setattr(dated, "MOST_OPEN", most_open)
    days = available_dates(Path(small_config.data.local_folder))
    statistics = compute_statistics(small_config.data, days[:3])
    snapshots, loaded, builder = both(small_config.data, days, statistics, tmp_path)
    for instants in np.split(instants_of(days, 96), 12):
        assert_same(snapshots.build(instants), builder.build(instants), snapshots, loaded)
        assert len(snapshots._open) <= most_open


def test_same_as_one_table_on_real_data(real_data: Path, tmp_path: Path):
    data = load_config("local", [f"data.local_folder={real_data}"]).data
    days = available_dates(real_data)[:3]
    statistics = compute_statistics(data, days[:2])
    snapshots, loaded, builder = both(data, days, statistics, tmp_path)
    for instants in np.split(instants_of(days, 48), 6):
        assert_same(snapshots.build(instants), builder.build(instants), snapshots, loaded)


def test_trains_of_two_dates_that_start_in_one_second_are_in_the_order_of_their_ids(tmp_path: Path):
    """A train that starts after midnight belongs to the date before, and may meet one of the new date."""
    days, midnight = [date(2025, 1, 6), date(2025, 1, 7)], datetime(2025, 1, 7, tzinfo=UTC)
    trains = [("b", days[0]), ("d", days[0]), ("a", days[1]), ("c", days[1])]
    rows = [
        (train, day, seq, seq + 1, "D", midnight + timedelta(minutes=10 * seq), None, None)
        for train, day in trains
        for seq in range(3)
    ]
    events = pl.DataFrame(rows, schema=EVENT_SCHEMA, orient="row")
    names = events.select("train_id", "service_date").unique()
    for day in days:
        write_events(tmp_path, day, events.filter(pl.col("service_date") == day))
    unnamed = [pl.lit(None, kind).alias(name) for name, kind in JOURNEY_SCHEMA.items() if name not in names.columns]
    write_journeys(tmp_path, names.with_columns(unnamed))
    write_op_nodes(
        tmp_path,
        pl.DataFrame({"op_id": [1, 2, 3], "op_name": ["x", "y", "z"], "lat": [None] * 3, "lon": [None] * 3}),
    )
    data = DataConfig(local_folder=str(tmp_path), timezone="UTC")
    snapshots, loaded, builder = both(data, days, compute_statistics(data, days), tmp_path / "cache")
    instants = np.array([int(midnight.timestamp()) + 60])
    found = snapshots.build(instants)
    assert_same(found, builder.build(instants), snapshots, loaded)
    assert snapshots.names(found.journey[0])["train_id"].to_list() == ["a", "b", "c", "d"]
    assert found.next_live[0].any()  # each has another one before or after it on the track


def test_no_train_at_all(small_config: Config, tmp_path: Path):
    days = available_dates(Path(small_config.data.local_folder))
    statistics = compute_statistics(small_config.data, days[:2])
    snapshots, loaded, builder = both(small_config.data, days, statistics, tmp_path)
    far = np.array([0, 10**10])
    assert_same(snapshots.build(far), builder.build(far), snapshots, loaded)
    assert not snapshots.build(far).train_mask.any()
