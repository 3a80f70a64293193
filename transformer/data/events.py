"""Reading event tables: the valid events of a service date, and a report of dropped rows with reasons."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import polars as pl
from polars.exceptions import InvalidOperationError

from transformer.config import DataConfig, ValidationConfig
from transformer.data.tables import (
    EVENT_SCHEMA,
    EVENT_TYPES,
    JOURNEY,
    JOURNEY_SCHEMA,
    OP_NODE_SCHEMA,
    TIMESTAMP,
    events_path,
    journeys_path,
    op_nodes_path,
)
from transformer.errors import UserError
from transformer.files import file_digest
from transformer.parquet import read_parquet

log = logging.getLogger(__name__)

OPTIONAL_EVENT_COLUMNS = {"delay_sec"}  # always recomputed from the timestamps
UNKNOWN_TRAIN_TYPE = "unknown"
REMEDY = "fetch the data again or name another data.local_folder"


@dataclass
class ReadingReport:
    """Numbers of rows that reading kept, dropped and changed."""

    events: int = 0  # rows read
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # rows left out, per reason
    discarded: Counter[str] = field(default_factory=Counter)  # observations set to "not observed", per reason
    notes: Counter[str] = field(default_factory=Counter)  # oddities that were kept, per reason

    def add(self, other: ReadingReport) -> None:
        self.events += other.events
        self.kept += other.kept
        self.dropped += other.dropped
        self.discarded += other.discarded
        self.notes += other.notes

    def as_dict(self) -> dict[str, object]:
        return {
            "events": self.events,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "discarded": dict(self.discarded),
            "notes": dict(self.notes),
        }

    def lines(self) -> list[str]:
        """The report for the task log, one line per reason."""
        found = [f"{self.kept:,} of {self.events:,} events kept"]
        for verb, counts in (("dropped", self.dropped), ("not observed", self.discarded), ("noted", self.notes)):
            found += [f"  {verb}: {count:,} {reason}" for reason, count in counts.most_common()]
        return found


@dataclass(frozen=True)
class DayEvents:
    """The valid events of one service date, and the report of reading them."""

    day: date
    events: pl.DataFrame  # EVENT_SCHEMA, sorted by (train_id, seq)
    report: ReadingReport


def read_events(
    folder: Path, day: date, timezone: str, validation: ValidationConfig, known_points: pl.Series | None = None
) -> tuple[pl.DataFrame, ReadingReport]:
    """Read and validate the events of one service date. Arguments and result are those of `validated_events`.

    Raises:
        UserError: the file is missing, truncated or not Parquet, or `validated_events` refuses it.
    """
    path = events_path(folder, day)
    return validated_events(read_parquet(path, REMEDY), path, day, timezone, validation, known_points)


def validated_events(
    found: pl.DataFrame,
    path: Path,
    day: date,
    timezone: str,
    validation: ValidationConfig,
    known_points: pl.Series | None = None,
) -> tuple[pl.DataFrame, ReadingReport]:
    """Validate the content of the events file of one service date.

    Args:
        found: content of the file `path`.
        known_points: `op_id`s of the points table. The report counts events at other points; they are kept.

    Returns:
        Valid events with the columns of EVENT_SCHEMA, sorted by (train_id, seq), and the report. An absurd delay
        discards the observation and keeps the event.

    Raises:
        UserError: a column is missing or has the wrong type, there is no row, or too many rows are unusable.
    """
    raw = _conform(found, EVENT_SCHEMA, OPTIONAL_EVENT_COLUMNS, path, timezone)
    report = ReadingReport(events=raw.height)
    nonexistent = sum(raw[name].null_count() - found[name].null_count() for name in ("planned_ts", "observed_ts"))
    _count(report.notes, "timestamps in an hour that daylight saving skips (read as missing)", nonexistent)
    events = _drop_unusable(raw, day, report)
    events = _discard_absurd_delays(events, validation, report)
    if known_points is not None:
        unknown = int((~events["op_id"].is_in(known_points.implode())).sum())
        _count(report.notes, "at a point that op_nodes does not know", unknown)

    report.kept = events.height
    if not report.events:
        raise UserError(f"{path} has no events; leave its date out of data.split or remove the file")
    share = 1 - report.kept / report.events
    if share > validation.max_dropped_share:
        reason, count = report.dropped.most_common(1)[0]
        raise UserError(
            f"{path}: {share:.0%} of its events are unusable, mostly {count:,} {reason}; "
            f"mend the file or raise data.validation.max_dropped_share={validation.max_dropped_share}"
        )
    return events.select(list(EVENT_SCHEMA)), report


def read_op_nodes(folder: Path) -> pl.DataFrame:
    """Operational points with the columns of OP_NODE_SCHEMA, one row per `op_id`. Impossible positions become null.

    Raises:
        UserError: the file is missing, truncated or not Parquet, or a column is missing or has the wrong type.
    """
    path = op_nodes_path(folder)
    nodes = _conform(read_parquet(path, REMEDY), OP_NODE_SCHEMA, set(), path, "UTC")
    possible = pl.col("lat").is_between(-90, 90) & pl.col("lon").is_between(-180, 180)
    return (
        nodes.filter(pl.col("op_id").is_not_null())
        .unique("op_id", keep="first", maintain_order=True)
        .with_columns(pl.when(possible).then(pl.col("lat", "lon")))
        .sort("op_id")
    )


def read_journeys(folder: Path, days: Sequence[date], timezone: str) -> pl.DataFrame:
    """Journeys of `days` with the columns of JOURNEY_SCHEMA, one row per (train_id, service_date).

    A missing `train_number` becomes the `train_id`, and a missing `train_type` becomes "unknown".

    Raises:
        UserError: the file is missing, truncated or not Parquet, a key column is missing, or a column has the wrong
            type.
    """
    path = journeys_path(folder)
    optional = set(JOURNEY_SCHEMA) - set(JOURNEY)
    journeys = _conform(read_parquet(path, REMEDY), JOURNEY_SCHEMA, optional, path, timezone)
    for name, dtype in JOURNEY_SCHEMA.items():
        if name not in journeys.columns:
            journeys = journeys.with_columns(pl.lit(None, dtype).alias(name))
    return (
        journeys.filter(pl.col("service_date").is_in(list(days)))
        .unique(JOURNEY, keep="first", maintain_order=True)
        .with_columns(
            pl.col("train_number").fill_null(pl.col("train_id")),
            pl.col("train_type").fill_null(UNKNOWN_TRAIN_TYPE),
        )
        .select(list(JOURNEY_SCHEMA))
    )


def data_fingerprint(folder: Path, days: Sequence[date]) -> dict[str, str]:
    """SHA-256 of each table of `days`, by its path in the folder. It is part of the content hash of derived files.

    Raises:
        UserError: a table is missing.
    """
    paths = [*(events_path(folder, day) for day in days), op_nodes_path(folder), journeys_path(folder)]
    return {path.relative_to(folder).as_posix(): table_digest(path) for path in paths}


def table_digest(path: Path) -> str:
    """SHA-256 of a table's bytes, in hex. A process hashes a table once, and again only if the file changes.

    Raises:
        UserError: the table is missing.
    """
    if not path.is_file():  # a folder of that name is no table
        raise UserError(f"{path} does not exist; {REMEDY}")
    found = path.stat()
    return _digest(path, found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=8192)  # number of tables: more than 20 years of dates
def _digest(path: Path, _size: int, _modified_ns: int, _inode: int) -> str:
    return file_digest(path)


def planned_hours(found: pl.DataFrame, path: Path) -> dict[int, int]:
    """Planned events per hour of the clock in the content of an events file. Naive times are not converted.

    Raises:
        UserError: `planned_ts` is missing, or is no timestamp.
    """
    planned = _conform(found, {"planned_ts": TIMESTAMP}, set(), path, "UTC")
    hours = planned["planned_ts"].drop_nulls().dt.hour().to_list()
    return dict(sorted(Counter(hours).items()))


def _conform(
    frame: pl.DataFrame, schema: dict[str, pl.DataType], optional: set[str], path: Path, timezone: str
) -> pl.DataFrame:
    """Return `frame` with only the columns of `schema`, in its types. Naive timestamps are in `timezone`."""
    missing = [name for name in schema if name not in frame.columns and name not in optional]
    if missing:
        names = ", ".join(map(repr, missing))
        what = f"column {names} is missing" if len(missing) == 1 else f"columns {names} are missing"
        raise UserError(f"{path}: {what}; it has {', '.join(frame.columns)} (docs/data.md lists all columns)")
    columns = []
    for name, wanted in schema.items():
        if name not in frame.columns:
            continue
        column, found = pl.col(name), frame.schema[name]
        if expected := _mismatch(frame[name], wanted):
            raise UserError(f"{path}: column {name!r} has type {found}, not {expected}; {REMEDY}")
        if isinstance(found, pl.Datetime) and wanted == TIMESTAMP:
            if found.time_zone is None:
                # A time that daylight saving repeats means the first of both; a time that it skips does not exist.
                column = column.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
            column = column.dt.convert_time_zone("UTC")
        columns.append(column.cast(wanted))
    try:
        return frame.select(columns)
    except InvalidOperationError as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{path}: a value does not fit its column ({reason}); {REMEDY}") from None


def _mismatch(column: pl.Series, wanted: pl.DataType) -> str:
    """The expected kind of values if `column` cannot be read as `wanted` without a change of its values; else ""."""
    found = column.dtype
    if found == pl.Null:
        return ""
    if wanted == TIMESTAMP:
        return "" if isinstance(found, pl.Datetime) else "timestamps"
    if wanted == pl.Date:
        return "" if isinstance(found, pl.Date | pl.Datetime) else "dates"
    if wanted.is_float():
        return "" if found.is_numeric() else "numbers"
    if wanted.is_integer():
        whole = found.is_integer() or (found.is_float() and not (column % 1 != 0).any())
        return "" if whole else "whole numbers"
    return "" if found.is_integer() or isinstance(found, pl.String | pl.Categorical | pl.Enum) else "text"


def _drop_unusable(events: pl.DataFrame, day: date, report: ReadingReport) -> pl.DataFrame:
    """Usable events in the order of their journeys. Rules apply one after the other, so each row is counted once."""
    rules = {
        "without train_id": pl.col("train_id").is_null() | (pl.col("train_id").str.strip_chars() == ""),
        "without seq, op_id or planned_ts": pl.any_horizontal(pl.col("seq", "op_id", "planned_ts").is_null()),
        "of an unknown event_type": ~pl.col("event_type").is_in(EVENT_TYPES).fill_null(False),
        "of another service date than the file": (pl.col("service_date") != day).fill_null(True),
        "planned more than two days from the service date": (
            (pl.col("planned_ts").dt.date() - pl.lit(day)).dt.total_days().abs() > 2
        ),
    }
    for reason, rule in rules.items():
        events = _drop(events, rule, reason, report)
    events = events.sort(*JOURNEY, "seq", maintain_order=True)
    events = _drop(events, ~pl.struct(*JOURNEY, "seq").is_first_distinct(), "with a duplicate key", report)
    before = pl.col("planned_ts").cum_max().shift(1).over(JOURNEY)
    return _drop(events, (pl.col("planned_ts") < before).fill_null(False), "planned before an earlier stop", report)


def _drop(events: pl.DataFrame, rule: pl.Expr, reason: str, report: ReadingReport) -> pl.DataFrame:
    kept = events.filter(~rule)
    _count(report.dropped, reason, events.height - kept.height)
    return kept


def _count(counts: Counter[str], reason: str, rows: int) -> None:
    """Add `rows` to `counts`, without an entry for a reason that never occurred."""
    if rows:
        counts[reason] += rows


def _discard_absurd_delays(events: pl.DataFrame, validation: ValidationConfig, report: ReadingReport) -> pl.DataFrame:
    """Set absurd observations to "not observed", and compute `delay_sec` from the timestamps."""
    seconds = (events["observed_ts"] - events["planned_ts"]).dt.total_seconds()
    late, early = seconds > validation.max_delay_s, seconds < -validation.max_early_s
    _count(report.discarded, f"more than {validation.max_delay_s} s late", int(late.sum()))
    _count(report.discarded, f"more than {validation.max_early_s} s early", int(early.sum()))
    plausible = ~(late | early).fill_null(True)
    if "delay_sec" in events.columns:
        differs = int(((events["delay_sec"] != seconds) & plausible).sum())
        _count(report.notes, "with a delay_sec other than observed − planned (recomputed)", differs)
    return events.with_columns(
        pl.when(plausible).then(pl.col("observed_ts")),
        pl.when(plausible).then(seconds).cast(pl.Int32).alias("delay_sec"),
    )


def each_day(
    data: DataConfig, days: Iterable[date], known: Mapping[date, DayEvents] = MappingProxyType({})
) -> Iterator[DayEvents]:
    """The validated events of one service date after the other, so that a caller keeps one date in memory.

    Args:
        known: dates that were already read with the same configuration.

    Raises:
        UserError: see `read_events`.
    """
    folder = Path(data.local_folder)
    points = read_op_nodes(folder)["op_id"]
    for day in days:
        if day in known:
            yield known[day]
        else:
            yield DayEvents(day, *read_events(folder, day, data.timezone, data.validation, points))


def joined(read: Sequence[DayEvents], folder: Path) -> tuple[pl.DataFrame, ReadingReport]:
    """Validated events of several service dates in one frame, and the report of all dates.

    Raises:
        UserError: there is no event.
    """
    report = ReadingReport()
    for of_day in read:
        report.add(of_day.report)
    events = pl.concat([of_day.events for of_day in read])
    if events.is_empty():
        raise UserError(f"{folder}: no usable event on {read[0].day}…{read[-1].day}")
    return events, report


def read_days(data: DataConfig, days: Sequence[date]) -> tuple[pl.DataFrame, ReadingReport]:
    """Validated events of several service dates in one frame, and the report of all dates."""
    return joined(list(each_day(data, days)), Path(data.local_folder))
