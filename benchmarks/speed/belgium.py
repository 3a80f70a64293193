"""A network of the size of Belgium's, with as many service dates as a benchmark needs.

The first dates are simulated. Every later date repeats one of them with fresh delays, because that is many times faster
than a simulation. The delays are correlated along a journey, and keep the order of its events. No train departs before
its planned time. Some events have no observation. Every date has the traffic of a weekday, so 1,096 dates have as many
events as the benchmark RIDE, 94.5 million.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from transformer.data.simulator.dataset import simulate
from transformer.data.simulator.records import start_of
from transformer.data.simulator.settings import SimulationConfig
from transformer.data.tables import (
    DEPARTURE,
    events_path,
    journeys_path,
    op_nodes_path,
    write_events,
    write_journeys,
)
from transformer.files import content_hash
from transformer.parquet import read_parquet

# 1,355 points, 3,300 journeys and 86,000 events a date, from the first date of RIDE on.
BELGIUM = SimulationConfig(
    start_date="2023-01-01", service_dates=21, lines=120, points=1_355, journeys_per_day=3_300, weekend_share=1.0
)
FORMAT = 1  # raise it if equal settings no longer give equal tables
REMEDY = "remove the folder of the network and run again"
PROGRESS_DATES = 50  # dates between two lines of progress

TEMPLATE_STREAM, DELAY_STREAM = range(2)  # independent random streams of one seed and date
DATE_SIGMA = 0.3  # standard deviation of the log of a date's severity
JOURNEY_SIGMA = 0.4  # standard deviation of the log of a factor on all delays of a journey
LATE_SHARE, LATE_S = 0.15, 90.0  # share of journeys that start later than the repeated ones, mean delay
REMAINING = 0.95  # share of that delay that remains from event to event
NOISE_S = 12.0  # standard deviation of a single event's delay
MISSING_SHARE = 0.01  # share of the observations that a repeated date lacks in addition
LONGEST_DELAY_S = 4 * 3_600


@dataclass(frozen=True)
class Network:
    """The service dates of a network. Its folder keeps them, and later uses take them from there.

    Args:
        root: holds a folder for each network.
    """

    root: Path
    simulation: SimulationConfig = BELGIUM

    @property
    def folder(self) -> Path:
        return self.root / f"network-{content_hash(FORMAT, asdict(self.simulation))[:12]}"

    @property
    def simulated(self) -> Path:
        return self.folder / "simulated"

    def days(self, count: int) -> list[date]:
        first = date.fromisoformat(self.simulation.start_date)
        return [first + timedelta(days=offset) for offset in range(count)]

    def write(self, count: int, progress: Callable[[str], None]) -> None:
        """Write the events of the first `count` dates, unless they are there."""
        simulate(self.simulated, self.simulation, progress)
        templates = {day: read_parquet(events_path(self.simulated, day), REMEDY) for day in self.simulation.dates()}
        missing = [day for day in self.days(count) if not self._events(day).is_file()]
        for number, day in enumerate(missing, start=1):
            template = self._template(day)
            events = repeated(
                templates[template],
                day,
                self._shift(template, day),
                np.random.default_rng([self.simulation.seed, DELAY_STREAM, day.toordinal()]),
                self.simulation.resolution_s,
            )
            write_events(self.folder, day, events)
            if number % PROGRESS_DATES == 0 or number == len(missing):
                progress(f"{day}: {events.height:,} events ({number:,}/{len(missing):,})")

    def fill(self, data: Path, count: int) -> None:
        """Make `data` a data folder of the first `count` dates, which `write` has written."""
        shutil.rmtree(data, ignore_errors=True)
        days = self.days(count)
        events_path(data, days[0]).parent.mkdir(parents=True)
        os.link(op_nodes_path(self.simulated), op_nodes_path(data))
        for day in days:
            os.link(self._events(day), events_path(data, day))
        self._write_journeys(data, days)

    def add(self, data: Path, count: int) -> None:
        """Add the next date to a data folder of the first `count` dates."""
        days = self.days(count + 1)
        os.link(self._events(days[-1]), events_path(data, days[-1]))
        self._write_journeys(data, days)

    def _write_journeys(self, data: Path, days: Sequence[date]) -> None:
        simulated = read_parquet(journeys_path(self.simulated), REMEDY)
        journeys = simulated.partition_by("service_date", as_dict=True)
        times = pl.col("start_planned_ts", "end_planned_ts")
        repeated_journeys = [
            journeys[template,].with_columns(times + self._shift(template, day), service_date=pl.lit(day))
            for day in days
            for template in [self._template(day)]
        ]
        write_journeys(data, pl.concat(repeated_journeys))

    def _events(self, day: date) -> Path:
        return events_path(self.simulated if day in self.simulation.dates() else self.folder, day)

    def _template(self, day: date) -> date:
        """The simulated date that `day` repeats. A simulated date is its own."""
        simulated = self.simulation.dates()
        rng = np.random.default_rng([self.simulation.seed, TEMPLATE_STREAM, day.toordinal()])
        return day if day in simulated else simulated[rng.integers(len(simulated))]

    def _shift(self, template: date, day: date) -> timedelta:
        """The time between the starts of two service dates. The clock may have changed between them."""
        return start_of(day, self.simulation.timezone) - start_of(template, self.simulation.timezone)


def repeated(
    events: pl.DataFrame, day: date, shift: timedelta, rng: np.random.Generator, resolution_s: int
) -> pl.DataFrame:
    """The events of a simulated date on another date, with fresh delays.

    Args:
        shift: the time between the starts of the two service dates.
        resolution_s: step of the observed times.
    """
    trains = events.select("train_id").unique(maintain_order=True)
    is_late = rng.random(trains.height) < LATE_SHARE
    trains = trains.with_columns(
        factor=pl.Series(rng.lognormal(0, DATE_SIGMA) * rng.lognormal(0, JOURNEY_SIGMA, trains.height)),
        late=pl.Series(is_late * rng.exponential(LATE_S, trains.height)),
    )
    events = events.join(trains, on="train_id", maintain_order="left").with_columns(
        noise=pl.Series(rng.normal(0, NOISE_S, events.height)),
        is_missing=pl.Series(rng.random(events.height) < MISSING_SHARE),
    )
    delay = pl.col("factor") * pl.col("delay_sec") + pl.col("late") * REMAINING ** pl.col("seq") + pl.col("noise")
    steps = (delay / resolution_s).round() * resolution_s
    least = pl.when(pl.col("event_type") == DEPARTURE).then(0).otherwise(-LONGEST_DELAY_S)
    delay = pl.max_horizontal(steps.clip(upper_bound=LONGEST_DELAY_S), least)
    planned = pl.col("planned_ts") + shift
    observed = (planned + pl.duration(seconds=delay)).cum_max().over("train_id")
    return events.select(
        "train_id",
        "seq",
        "op_id",
        "event_type",
        service_date=pl.lit(day),
        planned_ts=planned,
        observed_ts=pl.when(pl.col("observed_ts").is_not_null() & ~pl.col("is_missing")).then(observed),
    ).with_columns(delay_sec=(pl.col("observed_ts") - pl.col("planned_ts")).dt.total_seconds())
