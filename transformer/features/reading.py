"""Everything derived from one reading of service dates: their event table, timetable and profile.

The results are cached under the content hash of data and settings, so an events file is read once for all of them.
Later users of the same dates do not read it again. Such users are all trials of a study, or champion and challenger in
one evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType

import polars as pl

from transformer.config import DataConfig, to_dict
from transformer.data.content import refuse_replaced
from transformer.data.event_table import LAYOUT_VERSION, LoadedTable, Vocabulary, open_table, save_table
from transformer.data.events import DayEvents, data_fingerprint, each_day, joined, read_journeys
from transformer.data.profile import EventProfile, load_profile, profile_of, save_profile
from transformer.features.graph import edge_counts, merge_edge_counts
from transformer.files import atomic_folder, content_hash
from transformer.parquet import read_parquet, write_parquet

log = logging.getLogger(__name__)

_EDGES, _PROFILE = "edges.parquet", "profile.json"


@dataclass(frozen=True)
class Reading:
    """A folder of the cache with the results of reading some service dates."""

    folder: Path

    def table(self, vocabulary: Vocabulary) -> LoadedTable:
        """The event table, memory-mapped.

        Raises:
            UserError: damaged files.
        """
        return open_table(self.folder, vocabulary)

    def edges(self) -> pl.DataFrame:
        """Planned journeys over each edge of the railway, see `graph.edge_counts`."""
        return read_parquet(self.folder / _EDGES, remedy=f"remove {self.folder} and run the stage again")

    def profile(self) -> EventProfile:
        return load_profile(self.folder / _PROFILE)


def obtain_reading(
    data: DataConfig,
    days: Sequence[date],
    cache: Path,
    on_day: Callable[[DayEvents], None] | None = None,
    known: Mapping[date, DayEvents] = MappingProxyType({}),
) -> Reading:
    """Return the cached reading of `days`. If there is none, read the dates and cache the result first.

    Args:
        on_day: called with the events of every date. The dates are read for it even if the cache has the reading.
        known: dates that were already read with the same configuration.

    Raises:
        UserError: unreadable or invalid data, or data that were replaced meanwhile.
    """
    folder = Path(data.local_folder)
    reading = Reading(_folder_of(data, days, cache))
    if reading.folder.is_dir():
        if on_day:
            for read in each_day(data, days, known):
                on_day(read)
        return reading
    fingerprint = data_fingerprint(folder, days)
    dates = []
    for read in each_day(data, days, known):
        dates.append(read)
        if on_day:
            on_day(read)
    events, report = joined(dates, folder)
    for line in report.lines():
        log.info(line)
    with atomic_folder(reading.folder) as temporary:
        save_table(events, read_journeys(folder, days, data.timezone), temporary)
        write_parquet(temporary / _EDGES, merge_edge_counts(edge_counts(read.events) for read in dates))
        first, *others = (profile_of(read.events) for read in dates)
        save_profile(sum(others, start=first), temporary / _PROFILE)
        refuse_replaced(fingerprint, data, days)
    return reading


def find_reading(data: DataConfig, days: Sequence[date], cache: Path) -> Reading | None:
    """Return the cached reading of `days`; None = there is none."""
    reading = Reading(_folder_of(data, days, cache))
    return reading if reading.folder.is_dir() else None


def _folder_of(data: DataConfig, days: Sequence[date], cache: Path) -> Path:
    fingerprint = data_fingerprint(Path(data.local_folder), days)
    identity = content_hash(LAYOUT_VERSION, fingerprint, to_dict(data.validation), data.timezone)
    return cache / "tables" / identity
