"""Events per hour, and the report of reading, from one reading of each events file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cached_property
from pathlib import Path

import polars as pl

from transformer.config import DataConfig
from transformer.data.conform import REMEDY
from transformer.data.events import Keys, hours_of, table_digest, validated_events
from transformer.data.reasons import ReadingReport
from transformer.data.tables import events_path
from transformer.data.whole_dates import Hours
from transformer.errors import UserError
from transformer.files import content_hash, read_json, write_json
from transformer.parquet import read_parquet

VERSION = 2  # of the hours; raise when their meaning changes


class Survey:
    """Surveys the events files of `data.local_folder`.

    The hours of a file are cached under its content hash. MLflow keeps the split of a run; without MLflow, each stage
    splits the dates again, and takes the hours from the cache instead of reading every file.
    """

    def __init__(self, data: DataConfig, cache: Path, validating: bool = False) -> None:
        """
        Args:
            validating: also validate the events of each file that is read for its hours, because `report` follows.
        """
        self._data = data
        self._cache = cache
        self._validating = validating
        self._found: dict[date, ReadingReport | UserError] = {}

    def hours(self, folder: Path, day: date, timezone: str) -> Hours:
        """Events per hour of the clock, as `dates.read_hours` returns them."""
        path = events_path(folder, day)
        digest = table_digest(path)
        kept = self._cache / "hours" / f"{content_hash(VERSION, timezone, digest)}.json"
        if kept.is_file():
            counts = read_json(kept)
            return Hours(*({int(hour): events for hour, events in counts[name].items()} for name in Hours._fields))
        content = read_parquet(path, REMEDY)
        hours = hours_of(content, path, timezone)
        if table_digest(path) == digest:  # another process may have replaced the file meanwhile
            write_json(kept, hours._asdict())
        if self._validating:
            self._validate(content, day)
        return hours

    def report(self, days: Sequence[date]) -> ReadingReport:
        """The report of reading these service dates, with one date in memory at a time.

        Raises:
            UserError: see `events.read_events`.
        """
        report = ReadingReport()
        for day in days:
            if day not in self._found:
                self._validate(read_parquet(events_path(Path(self._data.local_folder), day), REMEDY), day)
            found = self._found[day]
            if isinstance(found, UserError):  # raised here, because a date outside the split may be unusable
                raise found
            if not found.labels:
                raise UserError(
                    f"{events_path(Path(self._data.local_folder), day)} has no usable observation, so it can neither "
                    "train nor test; leave its date out of data.split"
                )
            report.add(found)
        return report

    @cached_property
    def _keys(self) -> Keys:
        return Keys.read(self._data)

    def _validate(self, content: pl.DataFrame, day: date) -> None:
        path = events_path(Path(self._data.local_folder), day)
        keys = self._keys  # an unreadable table of points or journeys is no fault of this date
        try:
            _, report = validated_events(content, path, day, self._data.timezone, self._data.validation, keys)
        except UserError as error:
            self._found[day] = error
        else:
            self._found[day] = report
