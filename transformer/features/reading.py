"""Everything derived from one reading of a service date: its event table, timetable and profile.

The results of each date are cached under the content hash of its data and settings, so an events file is read once for
all of them. Later users of the date do not read it again. Such users are all trials of a study, the trainings of the
next nights, or champion and challenger in one evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import polars as pl

from transformer.config import DataConfig, to_dict
from transformer.data.content import date_content, refuse_replaced
from transformer.data.dates import format_dates
from transformer.data.event_table import LAYOUT_VERSION, Int64Array, LoadedTable, Vocabulary, open_table, save_table
from transformer.data.events import DayEvents, data_fingerprint, each_day, journeys_by_date
from transformer.data.profile import EventProfile, load_profile, profile_of, save_profile
from transformer.data.reasons import ReadingReport
from transformer.errors import UserError
from transformer.features.graph import edge_counts, merge_edge_counts
from transformer.features.instants import Spans, running_hours
from transformer.files import atomic_folder, content_hash, read_json, write_json
from transformer.parquet import read_parquet, write_parquet

log = logging.getLogger(__name__)

_EDGES, _PROFILE, _EXTENT = "edges.parquet", "profile.json", "extent.json"


class Extent(NamedTuple):
    """Size and time span of the table of a date. Times are seconds since the Unix epoch."""

    events: int
    journeys: int
    observed: int  # events with an observation
    first_planned: int  # of the first event; 0 in an empty table
    last_possible: int  # see `EventTable.last_possible`


@dataclass(frozen=True)
class DateReading:
    """A folder of the cache with the results of reading a service date."""

    day: date
    folder: Path

    def table(self, vocabulary: Vocabulary) -> LoadedTable:
        """The event table, memory-mapped.

        Raises:
            UserError: damaged files.
        """
        return open_table(self.folder, vocabulary)

    @cached_property
    def extent(self) -> Extent:
        return Extent(**read_json(self.folder / _EXTENT))

    def times(self) -> tuple[Int64Array, Int64Array]:
        """`first_planned` and `last_possible` of the journeys [J], see `EventTable`."""
        first, last = (np.load(self.folder / f"{name}.npy") for name in ("first_planned", "last_possible"))
        return first, last

    def edges(self) -> pl.DataFrame:
        """Planned journeys over each edge of the railway, see `graph.edge_counts`."""
        return read_parquet(self.folder / _EDGES, remedy=f"remove {self.folder} and run the stage again")

    def profile(self) -> EventProfile:
        return load_profile(self.folder / _PROFILE)


def obtain_readings(
    data: DataConfig,
    days: Sequence[date],
    cache: Path,
    on_day: Callable[[DayEvents], None] | None = None,
    known: Mapping[date, DayEvents] = MappingProxyType({}),
) -> list[DateReading]:
    """Return the cached reading of each date. A date that the cache lacks is read first, and the result is cached.

    Args:
        on_day: called with the events of every date. The dates are read for it even if the cache has the reading.
        known: dates that were already read with the same configuration.

    Raises:
        UserError: unreadable or invalid data, or data that were replaced meanwhile.
    """
    folder = Path(data.local_folder)
    readings = [DateReading(day, _folder_of(data, day, cache)) for day in days]
    lacking = {reading.day: reading for reading in readings if not reading.folder.is_dir()}
    fingerprint = data_fingerprint(folder, days)
    journeys = journeys_by_date(folder, list(lacking), data.timezone)
    report = ReadingReport()
    for read in each_day(data, days if on_day else list(lacking), known):
        if on_day:
            on_day(read)
        if read.day in lacking:
            report.add(read.report)
            _save(read, journeys[read.day], lacking[read.day].folder, data, fingerprint)
    for line in report.lines() if lacking else ():
        log.info(line)
    if not any(reading.extent.events for reading in readings):
        raise UserError(f"{folder}: no usable event on {', '.join(format_dates(days))}")
    return readings


def _save(
    read: DayEvents, journeys: pl.DataFrame, folder: Path, data: DataConfig, fingerprint: Mapping[str, str]
) -> None:
    with atomic_folder(folder) as temporary:
        table = save_table(read.events, journeys, temporary)
        write_parquet(temporary / _EDGES, edge_counts(read.events))
        save_profile(profile_of(read.events), temporary / _PROFILE)
        first, last = (int(times.max(initial=0)) for times in (table.first_planned[:1], table.last_possible))
        extent = Extent(table.n_events, table.n_journeys, len(table.news_key), first, last)
        write_json(temporary / _EXTENT, extent._asdict())
        refuse_replaced(fingerprint, data, [read.day])


def joint_edges(readings: Sequence[DateReading]) -> pl.DataFrame:
    """Planned journeys over each edge of the railway on several dates."""
    return merge_edge_counts(reading.edges() for reading in readings)


def joint_profile(readings: Sequence[DateReading]) -> EventProfile:
    first, *others = (reading.profile() for reading in readings)
    return sum(others, start=first)


def running_times(readings: Sequence[DateReading], data: DataConfig) -> list[Spans]:
    """The times of each local date at which a train of that date, or of the date before, runs."""
    times = {reading.day: reading.times() for reading in readings}
    spans = []
    for day in times:
        near = [times[other] for other in (day - timedelta(days=1), day) if other in times]
        first, last = (np.concatenate(columns) for columns in zip(*near, strict=True))
        spans.append(running_hours(day, data.timezone, first - data.snapshot.lead_s, last + data.snapshot.end_grace_s))
    return spans


def _folder_of(data: DataConfig, day: date, cache: Path) -> Path:
    settings = to_dict(data.validation), data.timezone, data.reporting_delay_s
    identity = content_hash(LAYOUT_VERSION, date_content(data, day), *settings)
    return cache / "tables" / f"{day}-{identity}"
