"""Events per hour, and the report of reading, from one reading of each events file.

Both are cached under the content hash of the file, so a survey of months of data reads only the dates that are new.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date
from functools import cached_property
from pathlib import Path

import polars as pl

from transformer.config import DataConfig, to_dict
from transformer.data.conform import REMEDY
from transformer.data.content import date_content
from transformer.data.events import Keys, hours_of, table_digest, validated_events
from transformer.data.reasons import ReadingReport
from transformer.data.tables import events_path, op_nodes_path
from transformer.data.whole_dates import Hours
from transformer.errors import UserError
from transformer.files import content_hash, read_json, write_json
from transformer.pace import Pace
from transformer.parquet import read_parquet

log = logging.getLogger(__name__)

VERSION = 3  # of the cached files; raise when their meaning changes


class Survey:
    """Surveys the events files of `data.local_folder`."""

    def __init__(self, data: DataConfig, cache: Path, validating: bool = False) -> None:
        """
        Args:
            validating: also validate the events of each file that is read for its hours, because `report` follows.
        """
        self._data = data
        self._cache = cache
        self._validating = validating
        self._found: dict[date, ReadingReport | UserError] = {}
        self._pace = Pace()

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
        for number, day in enumerate(days, start=1):
            found = self._report_of(day)
            if self._pace.due():
                log.info("data: %d of %d dates are examined", number, len(days))
            if not found.labels:
                raise UserError(
                    f"{events_path(Path(self._data.local_folder), day)} has no usable observation, so it can neither "
                    "train nor test; leave its date out of data.split"
                )
            report.add(found)
        return report

    def _report_of(self, day: date) -> ReadingReport:
        path = events_path(Path(self._data.local_folder), day)
        kept = self._kept(day)
        if day not in self._found and kept.is_file():
            return ReadingReport.of_dict(read_json(kept))
        if day not in self._found:
            self._validate(read_parquet(path, REMEDY), day)
        found = self._found[day]
        if isinstance(found, UserError):  # raised here, because a date outside the split may be unusable
            raise found
        if self._kept(day) == kept:  # another process may have replaced the file meanwhile
            write_json(kept, found.as_dict())
        return found

    def _kept(self, day: date) -> Path:
        """The file of the report of a date. All that the report counts is part of its name."""
        data = self._data
        identity = content_hash(
            VERSION,
            date_content(data, day),
            table_digest(op_nodes_path(Path(data.local_folder))),
            to_dict(data.validation),
            data.timezone,
        )
        return self._cache / "reports" / f"{day}-{identity}.json"

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
