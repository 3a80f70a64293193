"""Planned events per hour, and the report of reading, from one reading of each events file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cached_property
from pathlib import Path

import polars as pl

from transformer.config import DataConfig
from transformer.data.events import (
    REMEDY,
    ReadingReport,
    planned_hours,
    read_op_nodes,
    table_digest,
    validated_events,
)
from transformer.data.tables import events_path
from transformer.errors import UserError
from transformer.files import content_hash, read_json, write_json
from transformer.parquet import read_parquet

VERSION = 1  # of the hours; raise when their meaning changes


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

    def hours(self, folder: Path, day: date) -> dict[int, int]:
        """Planned events per hour of the clock, as `dates.read_hours` returns them."""
        path = events_path(folder, day)
        kept = self._cache / "hours" / f"{content_hash(VERSION, table_digest(path))}.json"
        if kept.is_file():
            return {int(hour): events for hour, events in read_json(kept).items()}
        content = read_parquet(path, REMEDY)
        hours = planned_hours(content, path)
        write_json(kept, hours)
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
            report.add(found)
        return report

    @cached_property
    def _points(self) -> pl.Series:
        return read_op_nodes(Path(self._data.local_folder))["op_id"]

    def _validate(self, content: pl.DataFrame, day: date) -> None:
        path = events_path(Path(self._data.local_folder), day)
        points = self._points  # an unreadable table of points is no fault of this date
        try:
            _, report = validated_events(content, path, day, self._data.timezone, self._data.validation, points)
        except UserError as error:
            self._found[day] = error
        else:
            self._found[day] = report
