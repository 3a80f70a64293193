"""Reading event tables: which dates there are, what is valid in them, and what was dropped and why."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path

import polars as pl
from polars.exceptions import InvalidOperationError

from transformer.config import SplitConfig, ValidationConfig
from transformer.data.tables import (
    EVENT_SCHEMA,
    EVENT_TYPES,
    JOURNEY_SCHEMA,
    OP_NODE_SCHEMA,
    TIMESTAMP,
    events_path,
    journeys_path,
    op_nodes_path,
)
from transformer.errors import UserError
from transformer.files import file_digest, read_parquet

log = logging.getLogger(__name__)

OPTIONAL_EVENT_COLUMNS = {"delay_sec"}  # recomputed from the timestamps anyway
REQUIRED_JOURNEY_COLUMNS = {"train_id", "service_date"}
UNKNOWN_TRAIN_TYPE = "unknown"
PARTIAL_HOUR_SHARE = 0.25  # an hour with less than this share of its usual events is missing
PARTIAL_HOURS = 3  # a date with this many missing hours is partial
REMEDY = "fetch the data again or name another data.local_folder"
MAX_RANGE_DAYS = 36_525  # of an entry of dates; a mistyped year must not fill the memory
JOURNEY = ["train_id", "service_date"]  # key of a journey


@dataclass
class ReadingReport:
    """What reading kept and dropped."""

    events: int = 0  # rows read
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # rows left out, per reason
    discarded: Counter[str] = field(default_factory=Counter)  # observations set to "not observed", per reason
    notes: Counter[str] = field(default_factory=Counter)  # oddities counted and kept

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
        """One line per kind of finding, for the task log."""
        found = [f"{self.kept:,} of {self.events:,} events kept"]
        for verb, counts in (("dropped", self.dropped), ("not observed", self.discarded), ("noted", self.notes)):
            found += [f"  {verb}: {count:,} {reason}" for reason, count in counts.most_common()]
        return found


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


def available_dates(folder: Path) -> list[date]:
    """Service dates that have an events file in `folder`, sorted.

    Raises:
        UserError: when the folder holds none.
    """
    found = []
    for path in (folder / "events").glob("events_*.parquet"):
        try:
            day = date.fromisoformat(path.stem.removeprefix("events_"))
        except ValueError:
            day = None
        if day is None or path != events_path(folder, day):  # 20241213 is an ISO date too
            raise UserError(f"{path}: not named events_YYYY-MM-DD.parquet; rename or remove it")
        found.append(day)
    if not found:
        raise UserError(
            f"data.local_folder={folder} holds no events/events_YYYY-MM-DD.parquet; "
            "name another folder, or make sample data with `python -m transformer simulate`"
        )
    return sorted(found)


def parse_dates(entries: Sequence[str], key: str) -> tuple[date, ...]:
    """Dates of `2024-12-13` and `2024-12-16..2024-12-19` entries, sorted.

    Raises:
        UserError: naming `key` and the entry.
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
    """The fewest entries that `parse_dates` reads as `days`: runs of consecutive dates become ranges."""
    entries: list[str] = []
    for _, run in groupby(enumerate(sorted(days)), key=lambda item: item[1].toordinal() - item[0]):
        stretch = [day for _, day in run]
        entries.append(f"{stretch[0]}..{stretch[-1]}" if len(stretch) > 1 else str(stretch[0]))
    return entries


def configured_split(split: SplitConfig) -> Split:
    """The dates that the configuration names; all empty = the split is left to the order of the available dates.

    Raises:
        UserError: an entry that is no date or range.
    """
    return Split(
        parse_dates(split.train, "data.split.train"),
        parse_dates(split.validation, "data.split.validation"),
        parse_dates(split.test, "data.split.test"),
    )


def resolve_split(
    split: SplitConfig, folder: Path, skip_partial: bool, available: Sequence[date] | None = None
) -> Split:
    """The dates of each split, by configuration or, when all three lists are empty, by order of the available dates.

    Args:
        available: dates to choose from when they are not all that `folder` holds, as with a bucket.

    Raises:
        UserError: overlapping splits, a date without data, or too few dates.
    """
    available = available_dates(folder) if available is None else list(available)
    chosen = configured_split(split)
    if not chosen.all:
        return _split_by_order(available, folder, skip_partial)
    for name in ("train", "validation", "test"):
        days = getattr(chosen, name)
        if not days:
            raise UserError(f"data.split.{name} is empty while others are set; set all three, or none")
        if missing := sorted(set(days) - set(available)):
            raise UserError(
                f"data.split.{name}: no events for {missing[0]} in {folder}; it holds {available[0]} to {available[-1]}"
            )
    for left, right in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = sorted(set(getattr(chosen, left)) & set(getattr(chosen, right)))
        if shared:
            raise UserError(f"data.split: {shared[0]} is in both {left} and {right}; a date belongs to one split")
    return chosen


def _split_by_order(available: list[date], folder: Path, skip_partial: bool) -> Split:
    if skip_partial and (partial := partial_dates(folder, available)):
        log.info("left out as partial (hours of events missing): %s", ", ".join(map(str, partial)))
        available = sorted(set(available) - set(partial))
    held_out = max(1, len(available) // 10)
    if len(available) < 2 * held_out + 1:
        raise UserError(
            f"{folder} holds {len(available)} usable service dates; training, validation and test need at least 3"
        )
    return Split(
        tuple(available[: -2 * held_out]),
        tuple(available[-2 * held_out : -held_out]),
        tuple(available[-held_out:]),
    )


def partial_dates(folder: Path, days: Sequence[date]) -> list[date]:
    """Dates on which PARTIAL_HOURS hours hold fewer planned events than PARTIAL_HOUR_SHARE of the median date's.

    Raises:
        UserError: an events file is missing, truncated or not Parquet, or its `planned_ts` is no timestamp.
    """
    counts = pl.concat(
        [
            _planned(events_path(folder, day))
            .group_by(pl.col("planned_ts").dt.hour().alias("hour"))
            .agg(pl.len().alias("events"))
            .with_columns(pl.lit(day).alias("day"))
            for day in days
        ]
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


def read_events(
    folder: Path, day: date, timezone: str, validation: ValidationConfig, known_points: pl.Series | None = None
) -> tuple[pl.DataFrame, ReadingReport]:
    """Read and validate one service date's events.

    Args:
        known_points: `op_id`s of the points table; events elsewhere are counted in the report and kept.

    Returns:
        Valid events with the columns of EVENT_SCHEMA sorted by (train_id, seq), and the report of what was dropped.
        An absurd delay costs the observation, not the event.

    Raises:
        UserError: file missing, truncated or not Parquet; missing or ill-typed columns; no or too many unusable rows.
    """
    path = events_path(folder, day)
    found = read_parquet(path, REMEDY)
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
        raise UserError(f"{path} holds no events; leave its date out of data.split or remove the file")
    share = 1 - report.kept / report.events
    if share > validation.max_dropped_share:
        reason, count = report.dropped.most_common(1)[0]
        raise UserError(
            f"{path}: {share:.0%} of its events are unusable, mostly {count:,} {reason}; "
            f"mend the file or raise data.validation.max_dropped_share={validation.max_dropped_share}"
        )
    return events.select(list(EVENT_SCHEMA)), report


def read_op_nodes(folder: Path) -> pl.DataFrame:
    """Operational points with the columns of OP_NODE_SCHEMA, one row per `op_id`; impossible positions become null.

    Raises:
        UserError: file missing, truncated or not Parquet; missing or ill-typed columns.
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

    `train_number` falls back to `train_id`, and `train_type` to "unknown", where they are missing.

    Raises:
        UserError: file missing, truncated or not Parquet; a key column missing; ill-typed columns.
    """
    path = journeys_path(folder)
    optional = set(JOURNEY_SCHEMA) - REQUIRED_JOURNEY_COLUMNS
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
    """SHA-256 of each table of `days`, by its path in the folder: what derived files are keyed by.

    Raises:
        UserError: a table is missing.
    """
    paths = [*(events_path(folder, day) for day in days), op_nodes_path(folder), journeys_path(folder)]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} does not exist; {REMEDY}")
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}


def _planned(path: Path) -> pl.DataFrame:
    """The planned times of an events file; naive ones as they stand."""
    return _conform(read_parquet(path, REMEDY), {"planned_ts": TIMESTAMP}, set(), path, "UTC")


def _conform(
    frame: pl.DataFrame, schema: dict[str, pl.DataType], optional: set[str], path: Path, timezone: str
) -> pl.DataFrame:
    """`frame` with just the columns of `schema`, in its types; naive timestamps are read in `timezone`."""
    missing = [name for name in schema if name not in frame.columns and name not in optional]
    if missing:
        names = ", ".join(map(repr, missing))
        what = f"column {names} is missing" if len(missing) == 1 else f"columns {names} are missing"
        raise UserError(f"{path}: {what}; it holds {', '.join(frame.columns)} (docs/data.md has what a file needs)")
    columns = []
    for name, wanted in schema.items():
        if name not in frame.columns:
            continue
        column, found = pl.col(name), frame.schema[name]
        if expected := _mismatch(frame[name], wanted):
            raise UserError(f"{path}: column {name!r} holds {found}, expected {expected}; {REMEDY}")
        if isinstance(found, pl.Datetime) and wanted == TIMESTAMP:
            if found.time_zone is None:
                # An hour that daylight saving repeats is taken the first time; one that it skips does not exist.
                column = column.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
            column = column.dt.convert_time_zone("UTC")
        columns.append(column.cast(wanted))
    try:
        return frame.select(columns)
    except InvalidOperationError as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{path}: a value does not fit its column ({reason}); {REMEDY}") from None


def _mismatch(column: pl.Series, wanted: pl.DataType) -> str:
    """What was expected when `column` cannot be read as `wanted` without changing what it says; else ""."""
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
    """Usable events in the order of their journeys; rules apply in turn, so that each row is counted once."""
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
    """Add `rows` to `counts`; a reason that never occurred is not listed."""
    if rows:
        counts[reason] += rows


def _discard_absurd_delays(events: pl.DataFrame, validation: ValidationConfig, report: ReadingReport) -> pl.DataFrame:
    """`events` with absurd observations set to "not observed", and `delay_sec` computed from the timestamps."""
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
