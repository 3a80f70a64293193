"""Reading event tables: the valid events of a service date, and the account of what became of each event."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import polars as pl

from transformer.config import DataConfig, ValidationConfig
from transformer.data.conform import REMEDY, SECOND_READING, conform
from transformer.data.points import read_op_nodes
from transformer.data.reach import PLANNED_DAYS
from transformer.data.reasons import ReadingReport
from transformer.data.tables import (
    EVENT_SCHEMA,
    EVENT_TYPES,
    JOURNEY,
    JOURNEY_SCHEMA,
    OPTIONAL_EVENT_COLUMNS,
    TIMESTAMP,
    events_path,
    journeys_path,
    op_nodes_path,
)
from transformer.data.time_order import impossible_observations, outside_chain
from transformer.data.whole_dates import Hours
from transformer.errors import UserError
from transformer.files import file_digest, reading
from transformer.parquet import read_parquet

log = logging.getLogger(__name__)

OPTIONAL = {"delay_sec", *OPTIONAL_EVENT_COLUMNS}  # delay_sec is always recomputed from the timestamps
COLUMNS = [*EVENT_SCHEMA, "reported_ts", "known_ts", "cancelled_ts", "planned_platform"]  # of valid events
UNKNOWN_TRAIN_TYPE = "unknown"
RUN_GAP_S = 3_600  # where two events have the same `seq`, a gap of this length separates two runs


@dataclass(frozen=True)
class DayEvents:
    """The valid events of one service date, and the report of reading them."""

    day: date
    events: pl.DataFrame  # COLUMNS, sorted by (train_id, seq)
    report: ReadingReport


@dataclass(frozen=True)
class Keys:
    """The keys of the other tables. Events are compared with them, and the numbers without a match are counted."""

    op_ids: pl.Series
    journeys: pl.DataFrame  # JOURNEY and `rows`, the number of rows of the journey in the file

    @classmethod
    def read(cls, data: DataConfig, days: Sequence[date] | None = None) -> Keys:
        """
        Args:
            days: service dates of the journeys; None = all.

        Raises:
            UserError: unreadable points or journeys.
        """
        folder = Path(data.local_folder)
        return cls(read_op_nodes(folder)["op_id"], _journey_rows(folder, days, data.timezone))


def read_events(
    folder: Path,
    day: date,
    timezone: str,
    validation: ValidationConfig,
    keys: Keys | None = None,
    until: datetime | None = None,
    reporting_delay_s: int = 0,
) -> tuple[pl.DataFrame, ReadingReport]:
    """Read and validate the events of one service date. Arguments and result are those of `validated_events`.

    Raises:
        UserError: the file is missing, truncated or not Parquet, or `validated_events` refuses it.
    """
    path = events_path(folder, day)
    return validated_events(read_parquet(path, REMEDY), path, day, timezone, validation, keys, until, reporting_delay_s)


def validated_events(
    found: pl.DataFrame,
    path: Path,
    day: date,
    timezone: str,
    validation: ValidationConfig,
    keys: Keys | None = None,
    until: datetime | None = None,
    reporting_delay_s: int = 0,
) -> tuple[pl.DataFrame, ReadingReport]:
    """Validate the content of the events file of one service date.

    Args:
        found: content of the file `path`.
        keys: keys of the other tables of the folder; None = events are not compared with them.
        until: observations that are known later are removed before any rule looks at them; None = all are known.
        reporting_delay_s: an observation is known so many seconds after it, where the file has no `known_ts`.

    Returns:
        Valid events with COLUMNS, sorted by (train_id, seq), and the report. `cancelled_ts` is the time from which a
        cancellation is known; null = the train runs. An observation that cannot be right becomes null, and its event
        stays. `reported_ts` keeps it if only the other observations of the journey speak against it: at an instant,
        the later ones of them are not known yet. `known_ts` is the time from which `reported_ts` is known.

    Raises:
        UserError: a column is missing or has the wrong type, there is no row, or too many rows are unusable, have a
            wrong observation, or have no match in the other tables.
    """
    schema = {**EVENT_SCHEMA, **{name: column.dtype for name, column in OPTIONAL_EVENT_COLUMNS.items()}}
    raw = conform(found, schema, OPTIONAL, path, timezone, second_readings=("planned_ts", "observed_ts", "known_ts"))
    report = ReadingReport(events=raw.height)
    if not report.events:
        raise UserError(f"{path} has no events; leave its date out of data.split or remove the file")
    nonexistent = sum(raw[name].null_count() - found[name].null_count() for name in ("planned_ts", "observed_ts"))
    report.count("notes", "timestamps in an hour that daylight saving skips (read as missing)", nonexistent)
    events = _in_repeated_hours(raw, report)
    if until is not None:
        times = [name for name in ("observed_ts", "known_ts") if name in events.columns]
        known = pl.max_horizontal(times) <= pl.lit(until.astimezone(UTC), TIMESTAMP)
        events = events.with_columns(pl.when(known).then("observed_ts"))
    events = _drop_unusable(events, day, validation, report)
    report.kept = events.height
    limit = f"data.validation.max_dropped_share={validation.max_dropped_share}"
    if report.dropped.total() > validation.max_dropped_share * report.events:
        raise _too_many(path, "events are unusable", report.dropped, report.events, limit)
    events = _with_cancellations(events, report)
    events = _discard_wrong_observations(events, validation, report)
    events = _with_known_times(events, reporting_delay_s, report)
    observed = report.labels + report.discarded.total()
    limit = f"data.validation.max_discarded_share={validation.max_discarded_share}"
    if report.discarded.total() > validation.max_discarded_share * observed:
        raise _too_many(path, "observations are wrong", report.discarded, observed, limit)
    if keys is not None:
        _count_unmatched(events, keys, path, validation, report)
    if "planned_platform" not in events.columns:
        events = events.with_columns(pl.lit(None, pl.String).alias("planned_platform"))
    return events.select(COLUMNS), report


def _too_many(path: Path, what: str, counts: Counter[str], of: int, limit: str) -> UserError:
    """The refusal of a file because of the share of its rows that are counted under reasons."""
    reason, count = counts.most_common(1)[0]
    return UserError(
        f"{path}: {counts.total() / of:.0%} of its {what}, mostly {count:,} {reason}; mend the file or raise {limit}"
    )


def read_journeys(folder: Path, days: Sequence[date] | None, timezone: str) -> pl.DataFrame:
    """Journeys of `days` with the columns that stages read, one row per (train_id, service_date).

    Args:
        days: service dates; None = all.

    A missing `train_number` becomes the `train_id`, and a missing `train_type` becomes "unknown".

    Raises:
        UserError: the file is missing, truncated or not Parquet, a key column is missing, or a column has the wrong
            type.
    """
    path = journeys_path(folder)
    schema = {name: JOURNEY_SCHEMA[name] for name in (*JOURNEY, "train_number", "train_type")}
    journeys = conform(read_parquet(path, REMEDY, schema), schema, set(schema) - set(JOURNEY), path, timezone)
    for name, dtype in schema.items():
        if name not in journeys.columns:
            journeys = journeys.with_columns(pl.lit(None, dtype).alias(name))
    if days is not None:
        journeys = journeys.filter(pl.col("service_date").is_in(list(days)))
    return (
        journeys.unique(JOURNEY, keep="first", maintain_order=True)
        .with_columns(
            pl.col("train_number").fill_null(pl.col("train_id")),
            pl.col("train_type").fill_null(UNKNOWN_TRAIN_TYPE),
        )
        .select(list(schema))
    )


def journeys_by_date(folder: Path, days: Sequence[date], timezone: str) -> dict[date, pl.DataFrame]:
    """`read_journeys` of each of `days`. Nothing is read if there are no days.

    Raises:
        UserError: see `read_journeys`.
    """
    if not days:
        return {}
    journeys = read_journeys(folder, days, timezone)
    by_day = journeys.partition_by("service_date", as_dict=True)
    return {day: by_day.get((day,), journeys.clear()) for day in days}


def _journey_rows(folder: Path, days: Sequence[date] | None, timezone: str) -> pl.DataFrame:
    """The keys of the journeys of `days`, and the number of rows of each."""
    path = journeys_path(folder)
    schema = {name: JOURNEY_SCHEMA[name] for name in JOURNEY}
    keys = conform(read_parquet(path, REMEDY, schema), schema, set(), path, timezone)
    if days is not None:
        keys = keys.filter(pl.col("service_date").is_in(list(days)))
    return keys.group_by(JOURNEY).agg(pl.len().alias("rows"))


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
    with reading(path):
        if not path.is_file():  # a folder of that name is no table
            raise UserError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; {REMEDY}")
        found = path.stat()
    return _digest(path, found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=8192)  # number of tables: more than 20 years of dates
def _digest(path: Path, _size: int, _modified_ns: int, _inode: int) -> str:
    return file_digest(path)


def hours_of(found: pl.DataFrame, path: Path, timezone: str) -> Hours:
    """Events per hour of the clock of `timezone` in the content of an events file.

    Raises:
        UserError: a column of times is missing, or holds no timestamps.
    """
    times = conform(found, {"planned_ts": TIMESTAMP, "observed_ts": TIMESTAMP}, set(), path, timezone)
    local = pl.col("planned_ts").dt.convert_time_zone(timezone)
    times = times.drop_nulls("planned_ts").with_columns(local.dt.hour().alias("hour"))
    planned, observed = (
        dict(sorted(Counter(events["hour"].to_list()).items())) for events in (times, times.drop_nulls("observed_ts"))
    )
    return Hours(planned, observed)


def _in_repeated_hours(events: pl.DataFrame, report: ReadingReport) -> pl.DataFrame:
    """Decide which instant is meant by times without a zone that daylight saving repeats.

    A planned time is the first of both, unless it would be earlier than the event before; from there on the journey is
    in the second hour. An observed time is the one that is nearer to the planned time. An observation is known at the
    first of both that is not before it.
    """
    repeated = [name for name in ("planned_ts", "observed_ts", "known_ts") if name + SECOND_READING in events.columns]
    if not repeated:
        return events
    either = pl.any_horizontal(pl.col(name + SECOND_READING).is_not_null() for name in repeated)
    ambiguous = int(events.select(either.sum()).item())
    report.count("notes", "timestamps in an hour that daylight saving repeats", ambiguous)
    if ambiguous and "planned_ts" in repeated:
        second = pl.col("planned_ts" + SECOND_READING)
        backwards = pl.col("planned_ts") < pl.col("planned_ts").cum_max().shift(1)
        late = (backwards & second.is_not_null()).fill_null(False).cast(pl.Int8).cum_max().over(JOURNEY) == 1
        events = events.sort(*JOURNEY, "seq", maintain_order=True)
        events = events.with_columns(
            pl.when(late & second.is_not_null()).then(second).otherwise("planned_ts").alias("planned_ts")
        )
    if ambiguous and "observed_ts" in repeated:
        second = pl.col("observed_ts" + SECOND_READING)
        nearer = (second - pl.col("planned_ts")).abs() < (pl.col("observed_ts") - pl.col("planned_ts")).abs()
        events = events.with_columns(pl.when(~nearer.fill_null(False)).then("observed_ts").otherwise(second))
    if ambiguous and "known_ts" in repeated:
        second = pl.col("known_ts" + SECOND_READING)
        first = pl.col("known_ts")
        before = (second.is_not_null() & (first < pl.col("observed_ts"))).fill_null(False)
        events = events.with_columns(pl.when(before).then(second).otherwise(first).alias("known_ts"))
    return events.drop(name + SECOND_READING for name in repeated)


def _drop_unusable(
    events: pl.DataFrame, day: date, validation: ValidationConfig, report: ReadingReport
) -> pl.DataFrame:
    """Usable events in the order of their journeys. Rules apply one after the other, so each row is counted once."""
    rules = {
        "without train_id": pl.col("train_id").is_null() | (pl.col("train_id").str.strip_chars() == ""),
        "without seq, op_id or planned_ts": pl.any_horizontal(pl.col("seq", "op_id", "planned_ts").is_null()),
        "of an unknown event_type": ~pl.col("event_type").is_in(EVENT_TYPES).fill_null(False),
        "of another service date than the file": (pl.col("service_date") != day).fill_null(True),
        "planned more than two days from the service date": (
            (pl.col("planned_ts").dt.date() - pl.lit(day)).dt.total_days().abs() > PLANNED_DAYS
        ),
    }
    for reason, rule in rules.items():
        events = _drop(events, rule, reason, report)
    events = _drop(events, _second_runs(events, validation), "of a second run under the same train_id", report)
    events = events.sort(*JOURNEY, "seq", pl.col("observed_ts").is_null(), maintain_order=True)
    events = _drop(events, ~pl.struct(*JOURNEY, "seq").is_first_distinct(), "with a duplicate key", report)
    backwards = outside_chain(events, "planned_ts", pl.lit(1))
    return _drop(events, backwards, "planned in an impossible order", report)


def _second_runs(events: pl.DataFrame, validation: ValidationConfig) -> pl.Series:
    """Whether each event belongs to another run than most events of its journey.

    Two runs are parts of a journey with a long gap between their planned times. Two events with the same `seq` and
    different planned times are a sign of two runs, so a shorter gap separates them.
    """
    twice = pl.col("planned_ts").n_unique().over(*JOURNEY, "seq") > 1
    shortest = pl.when("twice").then(RUN_GAP_S).otherwise(validation.max_gap_s)
    planned = events.select(*JOURNEY, "seq", "planned_ts").with_row_index("row")
    gap = (pl.col("planned_ts") - pl.col("planned_ts").shift(1).over(JOURNEY)).dt.total_seconds()
    runs = (
        planned.with_columns(twice.alias("twice"))
        .with_columns(pl.col("twice").any().over(JOURNEY))
        .sort("planned_ts", maintain_order=True)
        .with_columns((gap > shortest).fill_null(False).alias("apart"))
        .with_columns(pl.col("apart").cum_sum().over(JOURNEY).alias("run"))
    )
    sizes = runs.group_by(*JOURNEY, "run").len().sort("len", "run", descending=[True, False])
    kept = sizes.unique(JOURNEY, keep="first", maintain_order=True)
    other = runs.join(kept.select(*JOURNEY, pl.col("run").alias("kept")), on=JOURNEY, how="left", maintain_order="left")
    return other.sort("row").select((pl.col("run") != pl.col("kept")).fill_null(False)).to_series()


def _drop(events: pl.DataFrame, rule: pl.Expr | pl.Series, reason: str, report: ReadingReport) -> pl.DataFrame:
    kept = events.filter(~rule)
    report.count("dropped", reason, events.height - kept.height)
    return kept


def _with_cancellations(events: pl.DataFrame, report: ReadingReport) -> pl.DataFrame:
    """Set `cancelled_ts` to the time from which the cancellations of a journey are known; null = the event runs.

    A train that was seen at an event was not cancelled there.
    """
    if "cancelled" not in events.columns:
        return events.with_columns(pl.lit(None, TIMESTAMP).alias("cancelled_ts"))
    said, seen = pl.col("cancelled").fill_null(False), pl.col("observed_ts").is_not_null()
    report.count("notes", "cancelled but observed (used as observed)", events.select((said & seen).sum()).item())
    cancelled = said & ~seen
    report.cancelled = int(events.select(cancelled.sum()).item())
    known = pl.col("cancelled_ts") if "cancelled_ts" in events.columns else pl.lit(None, TIMESTAMP)
    first = pl.when(cancelled).then(pl.coalesce(known, "planned_ts")).otherwise(None).min().over(JOURNEY)
    return events.with_columns(pl.when(cancelled).then(first).otherwise(None).alias("cancelled_ts"))


def _discard_wrong_observations(
    events: pl.DataFrame, validation: ValidationConfig, report: ReadingReport
) -> pl.DataFrame:
    """Set observations that cannot be right to "not observed", and compute `delay_sec` from the timestamps."""
    report.unobserved = events["observed_ts"].null_count() - report.cancelled
    seconds = (events["observed_ts"] - events["planned_ts"]).dt.total_seconds()
    late, early = seconds > validation.max_delay_s, seconds < -validation.max_early_s
    report.count("discarded", "later than data.validation.max_delay_s", int(late.sum()))
    report.count("discarded", "earlier than data.validation.max_early_s", int(early.sum()))
    plausible = ~(late | early).fill_null(True)
    if "delay_sec" in events.columns:
        differs = int(((events["delay_sec"] != seconds) & plausible).sum())
        report.count("notes", "with a delay_sec other than observed − planned (recomputed)", differs)
    events = events.with_columns(
        pl.when(plausible).then(pl.col("observed_ts")),
        pl.when(plausible).then(pl.col("observed_ts")).alias("reported_ts"),
        pl.when(plausible).then(seconds).cast(pl.Int32).alias("delay_sec"),
    )
    out_of_order = 0
    if validation.observation_order == "discard":
        impossible = impossible_observations(events)
        report.count("discarded", "in an impossible order", int(impossible["backwards"].sum()))
        report.count("discarded", "on time to the second, before an earlier stop", int(impossible["claims_plan"].sum()))
        wrong = impossible["backwards"] | impossible["claims_plan"]
        events = events.with_columns(pl.when(~wrong).then(pl.col("observed_ts", "delay_sec")))
    else:
        # An event counts as passed once a later event was observed, so a later report of it is no input.
        later = pl.col("observed_ts").reverse().cum_min().shift(1).reverse().over(JOURNEY)
        behind = (pl.col("observed_ts") > later).fill_null(False)
        out_of_order = int(events.select(behind.sum()).item())
        events = events.with_columns(pl.when(~behind).then("reported_ts"))
        report.count("notes", "observations out of order (kept, but no input)", out_of_order)
    report.labels = events["observed_ts"].count()
    report.inputs = report.labels - out_of_order
    return events


def _with_known_times(events: pl.DataFrame, delay_s: int, report: ReadingReport) -> pl.DataFrame:
    """Set `known_ts` to the time from which the report of an event is known; null = there is no report.

    No report is known before it was observed.
    """
    seen = pl.col("reported_ts")
    arrived = pl.col("known_ts") if "known_ts" in events.columns else pl.lit(None, TIMESTAMP)
    early = events.select((arrived < seen).sum()).item()
    report.count("notes", "known before it was observed (known when observed)", early)
    known = pl.max_horizontal(seen, pl.coalesce(arrived, seen + pl.duration(seconds=delay_s)))
    return events.with_columns(pl.when(seen.is_not_null()).then(known).alias("known_ts"))


def _count_unmatched(
    events: pl.DataFrame, keys: Keys, path: Path, validation: ValidationConfig, report: ReadingReport
) -> None:
    """Count the events without a row in the points or journeys table.

    Raises:
        UserError: the share of such events is above `data.validation.max_unmatched_share`.
    """
    rows = events.select(JOURNEY).join(keys.journeys, on=JOURNEY, how="left", maintain_order="left")["rows"]
    several = int((rows > 1).sum())
    report.count("notes", "of a journey with several rows in journeys (the first counts)", several)
    for name, reason, unmatched, key in (
        (
            "op_nodes.parquet",
            "at a point that op_nodes does not know",
            ~events["op_id"].is_in(keys.op_ids.implode()),
            "op_id",
        ),
        ("journeys.parquet", "of a journey that journeys does not have", rows.is_null(), "train_id"),
    ):
        count = int(unmatched.sum())
        report.count("notes", reason, count)
        share = count / max(events.height, 1)
        if share > validation.max_unmatched_share:
            example = events.filter(unmatched)[key][0]
            raise UserError(
                f"{path}: {share:.0%} of its events have no row in {name}, for example {key} {example!r}; mend the "
                f"table, or raise data.validation.max_unmatched_share={validation.max_unmatched_share:g}"
            )


def each_day(
    data: DataConfig,
    days: Iterable[date],
    known: Mapping[date, DayEvents] = MappingProxyType({}),
    until: datetime | None = None,
) -> Iterator[DayEvents]:
    """The validated events of one service date after the other, so that a caller keeps one date in memory.

    Args:
        known: dates that were already read with the same configuration and the same `until`.
        until: see `validated_events`. The observations up to then are known: `data.reporting_delay_s` does not count.

    Raises:
        UserError: see `read_events`.
    """
    days, folder = list(days), Path(data.local_folder)
    unread = [day for day in days if day not in known]
    keys = Keys.read(data, unread) if unread else None
    for day in days:
        if day in known:
            yield known[day]
        else:
            delay_s = data.reporting_delay_s if until is None else 0
            yield DayEvents(day, *read_events(folder, day, data.timezone, data.validation, keys, until, delay_s))


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
