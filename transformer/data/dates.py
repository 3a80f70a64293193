"""Service dates: the available ones, their notation, and their split into training, validation and test."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fnmatch import fnmatchcase as fnmatch
from itertools import groupby
from pathlib import Path
from zoneinfo import ZoneInfo

from transformer.config import SplitConfig
from transformer.data.conform import REMEDY
from transformer.data.events import hours_of
from transformer.data.tables import events_path
from transformer.data.whole_dates import Hours, not_whole
from transformer.errors import UserError
from transformer.files import reading
from transformer.parquet import read_parquet

log = logging.getLogger(__name__)

MAX_RANGE_DAYS = 36_525  # longest range of one entry; a mistyped year must not fill the memory
HoursOf = Callable[[Path, date, str], Hours]


@dataclass(frozen=True)
class Split:
    """Service dates of each split, sorted."""

    train: tuple[date, ...]
    validation: tuple[date, ...]
    test: tuple[date, ...]

    @property
    def all(self) -> tuple[date, ...]:
        return tuple(sorted({*self.train, *self.validation, *self.test}))

    def as_dict(self) -> dict[str, list[str]]:
        return {name: [day.isoformat() for day in getattr(self, name)] for name in ("train", "validation", "test")}

    def as_ranges(self) -> dict[str, list[str]]:
        """Dates and ranges per split, in the form of `data.split`."""
        return {name: format_dates(getattr(self, name)) for name in ("train", "validation", "test")}


def available_dates(folder: Path) -> list[date]:
    """Service dates that have an events file in `folder`, sorted.

    Raises:
        UserError: the folder has none, or a file with another name.
    """
    found = []
    events = folder / "events"
    with reading(events):  # `glob` takes a folder that it may not list for an empty one
        names = sorted(path.name for path in events.iterdir()) if events.is_dir() else []
    for path in (events / name for name in names if fnmatch(name, "events_*.parquet")):
        try:
            day = date.fromisoformat(path.stem.removeprefix("events_"))
        except ValueError:
            day = None
        if day is None or path != events_path(folder, day):  # 20241213 is an ISO date too
            raise UserError(f"{path}: the name is not events_YYYY-MM-DD.parquet; rename or remove the file")
        found.append(day)
    if not found:
        raise UserError(
            f"data.local_folder={folder} holds no events/events_YYYY-MM-DD.parquet; "
            "name another folder, or make sample data with `python -m transformer simulate`"
        )
    return sorted(found)


def parse_dates(entries: Sequence[str], key: str) -> tuple[date, ...]:
    """Dates of entries such as `2024-12-13` and `2024-12-16..2024-12-19`, sorted.

    Raises:
        UserError: an entry is no date or range. The message names `key` and the entry.
    """
    days: set[date] = set()
    for entry in entries:
        match = re.fullmatch(r"\s*([\d-]+)\s*(?:\.\.\s*([\d-]+)\s*)?", str(entry))
        try:
            if match is None:
                raise ValueError
            first = date.fromisoformat(match[1])
            last = date.fromisoformat(match[2] or match[1])
        except ValueError:
            raise UserError(f"{key}: {entry!r} is not a date; write 2024-12-13 or 2024-12-16..2024-12-19") from None
        if last < first:
            raise UserError(f"{key}: range {entry!r} ends before it starts")
        if (last - first).days > MAX_RANGE_DAYS:
            raise UserError(f"{key}: range {entry!r} is longer than a century; write 2024-12-16..2024-12-19")
        days.update(first + timedelta(days=n) for n in range((last - first).days + 1))
    return tuple(sorted(days))


def format_dates(days: Sequence[date]) -> list[str]:
    """The shortest list of entries for `days`: consecutive dates become a range. `parse_dates` reads it back."""
    entries: list[str] = []
    for _, run in groupby(enumerate(sorted(days)), key=lambda item: item[1].toordinal() - item[0]):
        stretch = [day for _, day in run]
        entries.append(f"{stretch[0]}..{stretch[-1]}" if len(stretch) > 1 else str(stretch[0]))
    return entries


def dates_text(days: Sequence[date]) -> str:
    """`2024-12-13 to 2024-12-19, 2024-12-21`."""
    return ", ".join(format_dates(days)).replace("..", " to ")


def configured_split(split: SplitConfig) -> Split:
    """The dates that the configuration names. If all lists are empty, the split follows the order of the dates.

    Raises:
        UserError: an entry is no date or range.
    """
    return Split(
        parse_dates(split.train, "data.split.train"),
        parse_dates(split.validation, "data.split.validation"),
        parse_dates(split.test, "data.split.test"),
    )


def read_hours(folder: Path, day: date, timezone: str) -> Hours:
    """Events of a service date per hour of the clock of `timezone`.

    Raises:
        UserError: the file is missing, truncated or not Parquet, or its times are no timestamps.
    """
    path = events_path(folder, day)
    return hours_of(read_parquet(path, REMEDY), path, timezone)


def resolve_split(
    split: SplitConfig,
    folder: Path,
    skip_partial: bool,
    timezone: str,
    available: Sequence[date] | None = None,
    hours: HoursOf = read_hours,
    today: date | None = None,
) -> Split:
    """The dates of each split.

    The configuration names them. If its three lists are empty, the split follows the order of the available dates, and
    leaves out those that are not whole. A range means the dates in it that have data.

    Args:
        skip_partial: an automatic split leaves out dates that are not whole.
        timezone: time zone of the railway.
        available: the dates to choose from, for example those of a bucket; None = the dates in `folder`.
        hours: returns the events per hour of a service date; by default it reads the file.
        today: the first date that is not over; None = the present date in `timezone`.

    Raises:
        UserError: splits overlap, a date has no data, or there are too few dates.
    """
    available = available_dates(folder) if available is None else list(available)
    today = today or datetime.now(ZoneInfo(timezone)).date()
    if not configured_split(split).all:
        if skip_partial:
            available = _whole({day: hours(folder, day, timezone) for day in available}, today)
        return _split_by_order(available, folder)
    chosen = Split(*(_with_data(name, getattr(split, name), folder, available) for name in Split.__annotations__))
    for left, right in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = sorted(set(getattr(chosen, left)) & set(getattr(chosen, right)))
        if shared:
            raise UserError(f"data.split: {shared[0]} is in both {left} and {right}; a date belongs to one split")
    if unfinished := [day for day in chosen.all if day >= today]:
        log.warning("data.split: %s is not over; its later events have no observation", _listed(unfinished))
    return chosen


def _with_data(name: str, entries: Sequence[str], folder: Path, available: Sequence[date]) -> tuple[date, ...]:
    """The dates of the entries of a split that have data. A date that is written by itself must have some."""
    key = f"data.split.{name}"
    days = parse_dates(entries, key)
    if not days:
        raise UserError(f"{key} is empty, and others are set; set all three or none")
    missing = sorted(set(days) - set(available))
    named = set(parse_dates([entry for entry in entries if ".." not in entry], key))
    if absent := [day for day in missing if day in named] or (missing if len(missing) == len(days) else []):
        raise UserError(f"{key}: {folder} has no events of {absent[0]}; it has {available[0]} to {available[-1]}")
    if missing:
        log.warning(
            "%s: no events of %s; the range means the other %d dates", key, _listed(missing), len(days) - len(missing)
        )
    return tuple(day for day in days if day not in set(missing))


def _whole(hours: Mapping[date, Hours], today: date) -> list[date]:
    """The dates that are whole. A warning names each of the others."""
    left_out = not_whole(hours, today)
    for day, reason in left_out.items():
        log.warning("%s is left out of the split: %s (data.validation.skip_partial_dates)", day, reason)
    return sorted(set(hours) - set(left_out))


def _split_by_order(available: list[date], folder: Path) -> Split:
    held_out = max(1, len(available) // 10)
    if len(available) < 2 * held_out + 1:
        raise UserError(
            f"{folder} has {len(available)} usable service dates; training, validation and test need at least 3"
        )
    return Split(
        tuple(available[: -2 * held_out]),
        tuple(available[-2 * held_out : -held_out]),
        tuple(available[-held_out:]),
    )


def _listed(days: Sequence[date]) -> str:
    return ", ".join(format_dates(days))
