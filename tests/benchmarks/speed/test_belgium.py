"""Repeated service dates keep the plan of a simulated date, and have delays of their own that a railway could have."""

from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from benchmarks.speed.belgium import Network
from transformer.config import DataConfig
from transformer.data.events import each_day
from transformer.data.simulator.settings import SimulationConfig
from transformer.data.tables import (
    ARRIVAL,
    DEPARTURE,
    JOURNEY,
    JOURNEY_SCHEMA,
    events_path,
    journeys_from_events,
    journeys_path,
)

# The clock changes on 26 March 2023, so the repeated dates have another offset from UTC.
SATURDAY = SimulationConfig(
    start_date="2023-03-25", service_dates=1, lines=4, points=40, journeys_per_day=160, weekend_share=1.0
)
TIMETABLE = ["train_id", "seq", "op_id", "event_type"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    made = Network(tmp_path_factory.mktemp("networks"), SATURDAY)
    made.write(4, lambda line: None)
    return made


@pytest.fixture(scope="module")
def data(network: Network) -> Path:
    folder = network.folder / "data"
    network.fill(folder, 3)
    return folder


def read_events(folder: Path) -> list[pl.DataFrame]:
    return [pl.read_parquet(path) for path in sorted(folder.glob("events/*.parquet"))]


def local_times(events: pl.DataFrame) -> list[timedelta]:
    days, times = events["service_date"], events["planned_ts"].dt.convert_time_zone(SATURDAY.timezone)
    return [
        time.replace(tzinfo=None) - datetime.combine(day, datetime.min.time())
        for day, time in zip(days, times, strict=True)
    ]


def test_repeated_dates_keep_the_timetable_on_the_clock(data: Path):
    simulated, *repeated = read_events(data)
    assert [frame["service_date"].unique().to_list() for frame in repeated] == [
        [date(2023, 3, 26)],
        [date(2023, 3, 27)],
    ]
    monday = repeated[1]
    assert monday.select(TIMETABLE).equals(simulated.select(TIMETABLE))
    assert local_times(monday) == local_times(simulated)


def test_delays_are_fresh_and_alike_along_a_journey(data: Path):
    simulated, first, second = read_events(data)
    for one, other in ((simulated, first), (first, second)):
        both = one["delay_sec"].is_not_null() & other["delay_sec"].is_not_null()
        assert (one["delay_sec"] != other["delay_sec"]).filter(both).mean() > 0.3
    # The difference to the simulated delay is similar at successive events of a journey.
    added = first.with_columns(added=first["delay_sec"] - simulated["delay_sec"])
    pairs = added.with_columns(before=pl.col("added").shift(1).over("train_id"))
    assert pairs.select(pl.corr("added", "before")).item() > 0.5


def test_the_order_of_a_journey_is_kept_and_nobody_departs_early(data: Path):
    for events in read_events(data)[1:]:
        previous = pl.col("observed_ts").forward_fill().shift(1).over("train_id")
        assert events.filter(pl.col("observed_ts") < previous).is_empty()
        assert events.filter(event_type=DEPARTURE)["delay_sec"].min() >= 0
        assert events.filter(event_type=ARRIVAL)["delay_sec"].min() < 0
        assert (events["delay_sec"] % SATURDAY.resolution_s == 0).all()


def test_some_more_observations_are_missing(data: Path):
    simulated, *repeated = read_events(data)
    for events in repeated:
        assert events.filter(simulated["observed_ts"].is_null())["observed_ts"].is_null().all()
        lost = events["observed_ts"].null_count() - simulated["observed_ts"].null_count()
        assert 0 < lost < 0.03 * events.height


def test_validation_accepts_nearly_every_observation(network: Network, data: Path):
    for read in each_day(DataConfig(local_folder=str(data), timezone=SATURDAY.timezone), network.days(3)):
        assert not read.report.dropped
        assert read.report.discarded.total() < 0.02 * read.events.height


def test_the_journeys_are_those_of_the_events(data: Path):
    journeys = pl.read_parquet(journeys_path(data))
    derived = [journeys_from_events(events, journeys.select(list(JOURNEY_SCHEMA)[:6])) for events in read_events(data)]
    assert journeys.sort(JOURNEY).equals(pl.concat(derived).sort(JOURNEY))


def test_a_date_more_leaves_the_others(network: Network, tmp_path: Path):
    data = network.folder / "grown"
    network.fill(data, 2)
    before = [events_path(data, day).stat() for day in network.days(2)]
    network.add(data, 2)
    assert [events_path(data, day).stat().st_mtime_ns for day in network.days(2)] == [s.st_mtime_ns for s in before]
    assert [events["service_date"][0] for events in read_events(data)] == network.days(3)
    assert pl.read_parquet(journeys_path(data))["service_date"].unique().sort().to_list() == network.days(3)


def test_written_dates_are_used_again(network: Network, data: Path):
    lines: list[str] = []
    network.write(4, lines.append)
    assert lines == [f"{network.simulated} already holds this simulation: reused"]
    shorter = Network(network.root / "shorter", SATURDAY)
    shorter.write(2, lines.append)
    shorter.fill(shorter.folder / "data", 2)
    assert all(a.equals(b) for a, b in zip(read_events(shorter.folder / "data"), read_events(data), strict=False))
