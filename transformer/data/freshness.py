"""Age of the newest observation. If data stop arriving, an evaluation of old data must not pass as current."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from transformer.config import DataConfig
from transformer.data.dates import available_dates
from transformer.data.events import DayEvents, each_day
from transformer.data.reach import latest_observation
from transformer.errors import UserError

KEPT_DATES = 6  # dates whose events stay in memory: with delays up to a day and complete data, all that are read


@dataclass(frozen=True)
class NewestObservation:
    """Time of the newest observation, and the events of the last service dates, which were read to find it."""

    at: datetime | None = None  # None = nothing was observed
    read: dict[date, DayEvents] = field(default_factory=dict)  # KEPT_DATES at most


def newest_observation(events: pl.DataFrame, now: datetime) -> datetime | None:
    """The newest `observed_ts` up to `now`, in UTC; None = nothing was observed.

    Later timestamps do not count: they come from a wrong clock, and would make old data look fresh.
    """
    newest = events.filter(pl.col("observed_ts") <= _utc(now))["observed_ts"].max()
    return newest if isinstance(newest, datetime) else None


def find_newest_observation(data: DataConfig, now: datetime) -> NewestObservation:
    """Find the newest observation of the valid events in `data.local_folder`, from the last service date backwards.

    Raises:
        UserError: there is no events file, or one is unreadable.
    """
    newest: datetime | None = None
    kept: dict[date, DayEvents] = {}
    for day in reversed(available_dates(Path(data.local_folder))):
        if newest is not None and latest_observation(day, data.validation) < newest:
            break
        (read,) = each_day(data, [day])
        newest = max(filter(None, (newest, newest_observation(read.events, now))), default=None)
        if len(kept) < KEPT_DATES:
            kept[day] = read
    return NewestObservation(newest, kept)


def check_freshness(newest: datetime | None, now: datetime, max_age: timedelta, timezone: str) -> timedelta:
    """The age of the newest observation at `now`. A change of daylight saving time does not affect it.

    Args:
        newest: see `newest_observation`.
        timezone: IANA name of the clock in the message.

    Raises:
        UserError: the observation is older than `max_age`, or there is none.
    """
    remedy = "fetch newer data or raise evaluation.freshness.max_age_s"
    if newest is None:
        raise UserError(f"no observation up to {_local(now, timezone)}; {remedy}")
    age = _utc(now) - _utc(newest)
    if age > max_age:
        raise UserError(
            f"newest observation is {_span(age)} old ({_local(newest, timezone)}), limit {_span(max_age)}; {remedy}"
        )
    return age


def _utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone")
    return instant.astimezone(UTC)  # within a local zone, Python would subtract clock times, not elapsed time


def _local(instant: datetime, timezone: str) -> str:
    return f"{_utc(instant).astimezone(ZoneInfo(timezone)):%Y-%m-%d %H:%M %Z}"


def _span(length: timedelta) -> str:
    """The two largest units: `3 d 4 h`, `1 d`, `2 h 5 min`, `45 s`."""
    seconds = round(length.total_seconds())
    parts: list[tuple[int, str]] = []
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, seconds = divmod(seconds, unit)
        if count or parts:
            parts.append((count, name))
    return " ".join(f"{count} {name}" for count, name in parts[:2] if count) or "0 s"
