"""Service dates: the available ones, their notation, and their split into training, validation and test."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path

import polars as pl

from transformer.config import SplitConfig
from transformer.data.events import REMEDY, planned_hours
from transformer.data.tables import events_path
from transformer.errors import UserError
from transformer.parquet import read_parquet

log = logging.getLogger(__name__)

PARTIAL_HOUR_SHARE = 0.25  # an hour with a smaller share of its usual events counts as missing
PARTIAL_HOURS = 3  # a date with this many missing hours is partial
MAX_RANGE_DAYS = 36_525  # longest range of one entry; a mistyped year must not fill the memory
HoursOf = Callable[[Path, date], dict[int, int]]  # see `read_hours`


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
    for path in (folder / "events").glob("events_*.parquet"):
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


def read_hours(folder: Path, day: date) -> dict[int, int]:
    """Planned events of a service date per hour of the clock.

    Raises:
        UserError: the file is missing, truncated or not Parquet, or its `planned_ts` is no timestamp.
    """
    path = events_path(folder, day)
    return planned_hours(read_parquet(path, REMEDY), path)


def resolve_split(
    split: SplitConfig,
    folder: Path,
    skip_partial: bool,
    available: Sequence[date] | None = None,
    hours_of: HoursOf = read_hours,
) -> Split:
    """The dates of each split.

    The configuration names them. If its three lists are empty, the split follows the order of the available dates.

    Args:
        available: the dates to choose from, for example those of a bucket; None = the dates in `folder`.
        hours_of: see `partial_dates`.

    Raises:
        UserError: splits overlap, a date has no data, or there are too few dates.
    """
    available = available_dates(folder) if available is None else list(available)
    chosen = configured_split(split)
    if not chosen.all:
        return _split_by_order(available, folder, skip_partial, hours_of)
    for name in ("train", "validation", "test"):
        days = getattr(chosen, name)
        if not days:
            raise UserError(f"data.split.{name} is empty, and others are set; set all three or none")
        if missing := sorted(set(days) - set(available)):
            raise UserError(
                f"data.split.{name}: {folder} has no events of {missing[0]}; it has {available[0]} to {available[-1]}"
            )
    for left, right in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = sorted(set(getattr(chosen, left)) & set(getattr(chosen, right)))
        if shared:
            raise UserError(f"data.split: {shared[0]} is in both {left} and {right}; a date belongs to one split")
    return chosen


def _split_by_order(available: list[date], folder: Path, skip_partial: bool, hours_of: HoursOf) -> Split:
    if skip_partial and (partial := partial_dates(folder, available, hours_of)):
        log.info("left out, because hours of events are missing: %s", ", ".join(map(str, partial)))
        available = sorted(set(available) - set(partial))
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


def partial_dates(folder: Path, days: Sequence[date], hours_of: HoursOf = read_hours) -> list[date]:
    """Dates on which at least `PARTIAL_HOURS` hours count as missing.

    An hour is missing if it has fewer planned events than `PARTIAL_HOUR_SHARE` of the median over the dates.

    Args:
        hours_of: returns the planned events per hour of a service date; by default it reads the file.

    Raises:
        UserError: see `read_hours`.
    """
    counts = pl.DataFrame(
        [(day, hour, events) for day in days for hour, events in hours_of(folder, day).items()],
        schema={"day": pl.Date(), "hour": pl.Int64(), "events": pl.Int64()},
        orient="row",
    )
    usual = counts.group_by("hour").agg(pl.col("events").median().alias("usual"), pl.len().alias("dates"))
    usual = usual.filter(pl.col("dates") > len(days) / 2)
    missing = (
        pl.DataFrame({"day": list(days)})
        .join(usual, how="cross")
        .join(counts, on=["day", "hour"], how="left")
        .filter(pl.col("events").fill_null(0) < PARTIAL_HOUR_SHARE * pl.col("usual"))
    )
    hours = missing.group_by("day").agg(pl.len().alias("hours"))
    return sorted(hours.filter(pl.col("hours") >= PARTIAL_HOURS)["day"].to_list())
