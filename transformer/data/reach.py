"""How far the events of a service date lie from it, and so the dates whose trains can run at an instant."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import polars as pl

from transformer.config import DataConfig, SnapshotConfig, ValidationConfig
from transformer.data.tables import JOURNEY, events_path
from transformer.parquet import UNREADABLE

PLANNED_DAYS = 2  # reading drops events that are planned more UTC dates from their service date
DAYS_BEFORE = timedelta(days=PLANNED_DAYS)
DAYS_AFTER = timedelta(days=PLANNED_DAYS + 1)  # to the end of the last date
_REPEATED_HOUR_S = 3_600  # a time without a zone that daylight saving repeats may be this much later


def latest_observation(day: date, validation: ValidationConfig) -> datetime:
    """No valid event of the service date `day` was observed after this time (UTC)."""
    return _midnight(day) + DAYS_AFTER + timedelta(seconds=validation.max_delay_s)


def dates_running(first: datetime, last: datetime, data: DataConfig) -> tuple[date, ...]:
    """Every service date that can have a train in a snapshot between `first` and `last`, sorted."""
    earliest = first - timedelta(seconds=data.snapshot.end_grace_s + data.validation.max_delay_s) - DAYS_AFTER
    latest = last + timedelta(seconds=data.snapshot.lead_s) + DAYS_BEFORE
    begin, end = earliest.astimezone(UTC).date(), latest.astimezone(UTC).date()
    days = (begin + timedelta(days=number) for number in range((end - begin).days + 1))
    return tuple(day for day in days if _midnight(day) >= earliest)


def may_have_running_train(folder: Path, day: date, first: datetime, last: datetime, data: DataConfig) -> bool:
    """Whether `has_running_train` can be true of a service date, from the planned times in its file alone.

    This takes a twentieth of the time of reading the file. A file that cannot be judged this way counts as true, so
    that reading it names the fault.
    """
    planned = pl.col("planned_ts")
    try:
        found = (
            pl.scan_parquet(events_path(folder, day), glob=False)
            .select(planned.min().alias("first"), planned.max().alias("last"))
            .collect()
        )
    except (OSError, *UNREADABLE):
        return True
    dtype = found.schema["first"]
    if not isinstance(dtype, pl.Datetime):
        return True
    if dtype.time_zone is None:
        found = found.select(pl.all().dt.replace_time_zone(data.timezone, ambiguous="earliest", non_existent="null"))
    enters, leaves = (column.dt.convert_time_zone("UTC").item() for column in found)
    if enters is None or leaves is None:
        return True
    enters -= timedelta(seconds=data.snapshot.lead_s)
    leaves += timedelta(seconds=data.validation.max_delay_s + data.snapshot.end_grace_s + _REPEATED_HOUR_S)
    return bool(enters <= last and leaves >= first)


def has_running_train(events: pl.DataFrame, first: datetime, last: datetime, snapshot: SnapshotConfig) -> bool:
    """Whether a train of validated `events` can be in a snapshot between `first` and `last` (UTC).

    Observations after `last` do not count.
    """
    known = pl.when(pl.col("observed_ts") <= last).then(pl.col("delay_sec"))
    late = pl.max_horizontal(known.max(), pl.lit(0)) + snapshot.end_grace_s
    spans = (
        events.lazy()
        .group_by(JOURNEY)
        .agg(
            (pl.col("planned_ts").min() - pl.duration(seconds=snapshot.lead_s)).alias("enters"),
            (pl.col("planned_ts").max() + pl.duration(seconds=late)).alias("leaves"),
        )
        .collect()
    )
    return bool(((spans["enters"] <= last) & (spans["leaves"] >= first)).any())


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
