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

from transformer.config import RollingConfig, SplitConfig
from transformer.data.conform import REMEDY
from transformer.data.events import hours_of
from transformer.data.tables import events_path
from transformer.data.whole_dates import Hours, not_whole
from transformer.errors import UserError
from transformer.files import reading
from transformer.parquet import read_parquet

log = logging.getLogger(__name__)

MAX_RANGE_DAYS = 36_525  # longest range of one entry; a mistyped year must not fill the memory
COMPARED_DATES = 28  # fewest dates that a rolling split compares: four of each day of the week
HoursOf = Callable[[Path, date, str], Hours]
Fetch = Callable[[Sequence[date]], object]
LeftOut = Callable[[Sequence[date]], Mapping[date, str]]


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

    def as_values(self) -> dict[str, list[str] | int]:
        """The keys of a configuration that name these dates, whichever split it had before."""
        named = {f"data.split.{name}": dates for name, dates in self.as_ranges().items()}
        return {**named, "data.split.rolling.train": 0}


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
    """The dates that the configuration names. If all lists are empty, the split depends on the available dates.

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
    fetch: Fetch = lambda _: None,
) -> Split:
    """The dates of each split.

    The configuration names them, or their numbers (`rolling`). Otherwise the split follows the order of the available
    dates. The latter two leave out dates that are not whole. A range means the dates in it that have data.

    Args:
        skip_partial: a split without named dates leaves out those that are not whole.
        timezone: time zone of the railway.
        available: the dates to choose from, for example those of a bucket; None = the dates in `folder`.
        hours: returns the events per hour of a service date; by default it reads the file.
        today: the first date that is not over; None = the present date in `timezone`.
        fetch: brings the files of dates into `folder` before they are read; by default they are there.

    Raises:
        UserError: splits overlap, a date has no data, or there are too few dates.
    """
    available = available_dates(folder) if available is None else list(available)
    today = today or datetime.now(ZoneInfo(timezone)).date()
    if configured_split(split).all:
        chosen = _named_split(split, folder, available, today)
        fetch(chosen.all)
        return chosen
    read: dict[date, Hours] = {}

    def left_out(days: Sequence[date]) -> dict[date, str]:
        new = [day for day in days if day not in read]
        fetch(new)
        if not skip_partial:
            return {}
        read.update({day: hours(folder, day, timezone) for day in new})
        return not_whole({day: read[day] for day in days}, today)

    if split.rolling.train:
        return _rolling_split(split.rolling, folder, [day for day in available if day < today], left_out)
    partial = left_out(available)
    _warn_of(partial)
    return _split_by_order([day for day in available if day not in partial], folder)


def _named_split(split: SplitConfig, folder: Path, available: Sequence[date], today: date) -> Split:
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


def _warn_of(partial: Mapping[date, str]) -> None:
    for day, reason in partial.items():
        log.warning("%s is left out of the split: %s (data.validation.skip_partial_dates)", day, reason)


def _rolling_split(rolling: RollingConfig, folder: Path, over: Sequence[date], left_out: LeftOut) -> Split:
    """The last whole dates. No more dates are read than it takes to find them.

    Args:
        over: the available dates that are over.
        left_out: the reason for each of some dates that is not whole.
    """
    held_out = rolling.validation + rolling.test
    wanted = rolling.train + held_out
    count = max(wanted, COMPARED_DATES)
    while True:
        partial = left_out(over[-count:])
        whole = [day for day in over[-count:] if day not in partial]
        if len(whole) >= wanted or count >= len(over):
            break
        count += wanted - len(whole)
    chosen = whole[-wanted:]
    _warn_of({day: reason for day, reason in partial.items() if not chosen or day > chosen[0]})
    if len(whole) <= held_out:
        raise UserError(
            f"data.split.rolling: {folder} has {len(whole)} usable service dates; {rolling.validation} for validation, "
            f"{rolling.test} for test and one for training need {held_out + 1}"
        )
    if len(chosen) < wanted:
        log.warning(
            "data.split.rolling: %s has %d usable service dates, so %d train in place of %d",
            folder,
            len(whole),
            len(whole) - held_out,
            rolling.train,
        )
    return Split(tuple(chosen[:-held_out]), tuple(chosen[-held_out : -rolling.test]), tuple(chosen[-rolling.test :]))


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
