"""Import Infrabel's monthly raw punctuality files of Belgian trains (open data, CC0) into event tables.

    python -m transformer import-infrabel --months 2025-01..2025-03 --to data/belgium

There is one CSV a month, `Data_raw_punctuality_YYYYMM.csv`. It has one row per train and operational point, with
planned and real times to the second. Columns are read by name, because their order and number changed in 2025-08 and
2025-09. This module decides three things that the file leaves open:

Stop or pass-through. `THOP1_COD` is the planned operation: `=` is a stop, even without planned dwell; `D` and `P` are a
pass-through. If the planned arrival of a row equals its planned departure and the code is `D` or `P`, the row is one
event `P`. If there is no code (older files, special trains), the row is `P` if the real times are equal, too. Every
other row is an `A`, a `D` or both. So the type of a coded row comes from the timetable alone, and the types of a
train's next events say nothing about its future. The observed time of a `P` is the time when the train left the point.

Local time. Times are wall-clock times of Europe/Brussels. In the hour that autumn repeats, a planned time is the first
of the two instants. A real time is the instant nearer to the planned time, so that no delay gains or loses an hour. A
time in the hour that spring skips is read at the offset before the change: 02:30 is the instant 03:30.

Service date. `DATDEP` is the service date, and does not change at midnight. It alone decides the events file of a row.
"""

from __future__ import annotations

import calendar
import csv
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NoReturn

import polars as pl
import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from transformer.data.sources.download import ATTEMPTS, RETRY_WAIT, _fetch, _validator_path
from transformer.data.tables import (
    ARRIVAL,
    DEPARTURE,
    JOURNEY,
    JOURNEY_SCHEMA,
    OP_NODE_SCHEMA,
    PASS_THROUGH,
    events_path,
    journeys_from_events,
    journeys_path,
    op_nodes_path,
    write_events,
    write_journeys,
    write_op_nodes,
)
from transformer.errors import ServiceError, UserError
from transformer.parquet import read_parquet

LOGGER = logging.getLogger(__name__)

PUNCTUALITY_URL = "https://fr.ftp.opendatasoft.com/infrabel/PunctualityHistory/"
TIMEZONE = "Europe/Brussels"

SIDES = ("ARR", "DEP")
TIME_COLUMNS = [f"{kind}_{part}_{side}" for kind in ("PLANNED", "REAL") for side in SIDES for part in ("DATE", "TIME")]
COLUMNS = ["DATDEP", "TRAIN_NO", "RELATION", "TRAIN_SERV", "PTCAR_NO", "PTCAR_LG_NM_NL", *TIME_COLUMNS]
STOP_CODE = "THOP1_COD"  # absent from older files
RUN_THROUGH_CODES = ("D", "P")
DATE_LENGTH = len("02JAN2023")
MAX_DAYS_FROM_SERVICE_DATE = 7  # a time further away is a typing error or a placeholder such as 31DEC9999

# First letters of RELATION, such as `IC` in `IC 03` or `S` in `S61-1`. Trains with other letters are `other`.
LONG_DISTANCE = ("EC", "EN", "ES", "EST", "EUR", "EURST", "IC", "ICE", "ICT", "INT", "IZY", "NJ", "TGV", "THA", "THAL")
REGIONAL = ("L", "P", "S")

OPERATIONAL_POINT_COLUMNS = ("ID", "Geo Point", "Nom NL complet")


def parse_months(text: str) -> list[str]:
    """Return sorted months without repeats, from `2025-01..2025-03`, `2025-01` or a list of both with commas.

    Raises:
        UserError: a part is not a month, or the last month of a range is before the first.
    """
    months: set[int] = set()
    for part in text.split(","):
        first, separator, last = part.strip().partition("..")
        start = _month_number(first, text)
        end = _month_number(last, text) if separator else start
        if end < start:
            raise UserError(f"months {part.strip()!r} begins after its end; write the earlier month first")
        months.update(range(start, end + 1))
    return [f"{number // 12:04d}-{number % 12 + 1:02d}" for number in sorted(months)]


def import_infrabel(
    months: Sequence[str],
    target: Path,
    source: Path | None = None,
    operational_points: Path | None = None,
    *,
    base_url: str = PUNCTUALITY_URL,
    progress: Callable[[str], None] = LOGGER.info,
) -> dict[str, int]:
    """Write the event tables of `months` into the folder `target`. They replace its earlier tables of these months.

    Other months in `target` do not change, also in `journeys.parquet` and `op_nodes.parquet`.

    Args:
        months: as `parse_months` returns them. A row with `DATDEP` in another month is dropped, so that importing a
            month again never removes events of its neighbours.
        source: folder with the monthly files; None = download the files and keep them in `target/raw`.
        operational_points: Infrabel's list of operational points, the French export with `;` as separator. If it is
            None or lacks a point, the name comes from the punctuality files and the position is null.

    Returns:
        Counts: `rows` read; `events`, `journeys`, `service_dates` and `op_nodes` written; `dropped_<reason>` rows.

    Raises:
        UserError: a file or month is missing, a file is not such a CSV, or a month has no usable row.
        ServiceError: the download failed in every attempt; the same command continues it.
    """
    months = parse_months(",".join(months))
    catalogue = _read_operational_points(operational_points) if operational_points else _no_op_nodes()
    if source:
        files = [source / raw_file_name(month) for month in months]
    else:
        files = [download_month(month, target / "raw", base_url, progress) for month in months]
    headers = [_read_header(file) for file in files]

    counts: Counter[str] = Counter(dict.fromkeys(("rows", "events", "journeys", "service_dates"), 0))
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".import-") as folder:
        # A service date may have rows in two files, so all files are read before any date is written.
        staged = [Path(folder) / f"{month}.parquet" for month in months]
        for file, header, path in zip(files, headers, staged, strict=True):
            counts["dropped_truncated_line"] += _stage_rows(file, header, months, path)
            progress(f"{file.name}: read")
        rows = pl.scan_parquet(staged, glob=False)
        counts["rows"] = rows.select(pl.len()).collect().item() + counts["dropped_truncated_line"]
        problems = rows.drop_nulls("problem").group_by("problem").len().collect(engine="streaming")
        counts.update({f"dropped_{problem}": count for problem, count in problems.iter_rows()})
        usable = rows.filter(pl.col("problem").is_null())
        for month in months:
            written = _import_month(month, usable, target)
            counts.update(written)
            progress("{}: {events} events, {journeys} journeys, {service_dates} dates".format(month, **written))
        counts["op_nodes"] = _merge_op_nodes(target, catalogue, _points_in(usable))
    return {name: count for name, count in counts.items() if count or not name.startswith("dropped_")}


def raw_file_name(month: str) -> str:
    return f"Data_raw_punctuality_{month.replace('-', '')}.csv"


# --- Download --------------------------------------------------------------------------------------------------------
def download_month(
    month: str,
    folder: Path,
    base_url: str = PUNCTUALITY_URL,
    progress: Callable[[str], None] = LOGGER.info,
) -> Path:
    """Download one monthly file into `folder`, unless it is already there, and return its path.

    An interrupted download continues from its `.part` file, also in a later call, if the server's file is still the
    same by its ETag or Last-Modified (RFC 9110, If-Range).

    Raises:
        UserError: the server does not have the month.
        ServiceError: the file is not complete after `ATTEMPTS` attempts.
    """
    path = folder / raw_file_name(month)
    if path.exists():
        progress(f"{month}: {path} is already there; remove it to download it again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    url = f"{base_url.rstrip('/')}/{path.name}"
    part = path.with_name(f"{path.name}.part")

    def say_retry(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        progress(f"{month}: {_one_line(error)}; attempt {state.attempt_number + 1} of {ATTEMPTS}")

    attempts = Retrying(
        retry=retry_if_exception_type(requests.RequestException),
        stop=stop_after_attempt(ATTEMPTS),
        wait=RETRY_WAIT,
        before_sleep=say_retry,
        reraise=True,
    )
    try:
        attempts(_fetch, month, url, part, progress)
    except requests.RequestException as error:
        raise ServiceError(
            f"{month}: the download of {url} failed ({_one_line(error)}); run the command again to continue it"
        ) from None
    part.replace(path)
    _validator_path(part).unlink(missing_ok=True)
    return path


# --- From CSV lines to typed rows ------------------------------------------------------------------------------------
def _stage_rows(file: Path, header: Sequence[str], months: Collection[str], staged: Path) -> int:
    """Write one monthly file as typed rows, each with its `problem` or null. Return the number of truncated lines."""
    lines = pl.scan_csv(
        file,
        infer_schema=False,
        empty_string_is_null=False,
        truncate_ragged_lines=True,
        encoding="utf8-lossy",
        glob=False,
    )
    cut = _last_line_is_cut(file, len(header))
    try:
        if cut:
            lines = lines.head(lines.select(pl.len()).collect().item() - 1)
        _typed_rows(lines, STOP_CODE in header, months).sink_parquet(staged)
    except pl.exceptions.ComputeError as error:
        raise UserError(f"{file} cannot be read as CSV ({_one_line(error)}); download it again") from None
    return int(cut)


def _typed_rows(lines: pl.LazyFrame, has_stop_code: bool, months: Collection[str]) -> pl.LazyFrame:
    """Return `service_date, train_id, op_id, op_name, relation, operator`, four UTC times, `passes` and `problem`."""
    text = pl.col(pl.String).str.strip_chars()
    columns = [*COLUMNS, STOP_CODE] if has_stop_code else COLUMNS
    local = {f"{kind}_{side}".lower(): (kind, side) for kind in ("PLANNED", "REAL") for side in SIDES}
    rows = (
        lines.select(columns)
        .with_columns(text)
        .with_columns(
            _parsed_date("DATDEP").alias("service_date"),
            pl.col("TRAIN_NO").cast(pl.Int64, strict=False).cast(pl.String).alias("train_id"),
            pl.col("PTCAR_NO").cast(pl.Int32, strict=False).alias("op_id"),
            *(_local_time(kind, side).alias(name) for name, (kind, side) in local.items()),
        )
    )
    unreadable = [
        (pl.col(f"{kind}_TIME_{side}") != "") & ~_near_service_date(name) for name, (kind, side) in local.items()
    ]
    first_days = [date.fromisoformat(f"{month}-01") for month in months]
    problem = (
        pl.when(pl.col("service_date").is_null())
        .then(pl.lit("bad_service_date"))
        .when(pl.col("train_id").is_null())
        .then(pl.lit("bad_train_number"))
        .when(pl.col("op_id").is_null())
        .then(pl.lit("bad_point_number"))
        .when(pl.any_horizontal(unreadable))
        .then(pl.lit("bad_time"))
        .when(pl.col("planned_arr").is_null() & pl.col("planned_dep").is_null())
        .then(pl.lit("no_planned_time"))
        .when(~pl.col("service_date").dt.truncate("1mo").is_in(first_days))
        .then(pl.lit("outside_months"))
    )
    return (
        rows.with_columns(problem.alias("problem"))
        .with_columns(_earlier_instant(f"planned_{side}".lower()) for side in SIDES)
        .with_columns(_nearer_instant(f"real_{side}".lower(), f"planned_{side}".lower()) for side in SIDES)
        .select(
            "service_date",
            "train_id",
            "op_id",
            *(
                pl.when(pl.col(column) != "").then(pl.col(column)).alias(name)
                for name, column in (
                    ("op_name", "PTCAR_LG_NM_NL"),
                    ("relation", "RELATION"),
                    ("operator", "TRAIN_SERV"),
                )
            ),
            *local,
            _passes(pl.col(STOP_CODE) if has_stop_code else pl.lit("")).alias("passes"),
            "problem",
        )
    )


def _parsed_date(column: str) -> pl.Expr:
    # A truncated date would still parse, as a date in the year 202.
    whole = pl.col(column).str.len_bytes() == DATE_LENGTH
    return pl.when(whole).then(pl.col(column).str.to_date("%d%b%Y", strict=False))


def _local_time(kind: str, side: str) -> pl.Expr:
    """Return naive local times. Null = the time is empty (at an origin or terminus) or cannot be read."""
    day, clock = pl.col(f"{kind}_DATE_{side}"), pl.col(f"{kind}_TIME_{side}")
    parsed = pl.concat_str(day, pl.lit(" "), clock).str.to_datetime("%d%b%Y %H:%M:%S", time_unit="us", strict=False)
    return pl.when(day.str.len_bytes() == DATE_LENGTH).then(parsed)


def _near_service_date(name: str) -> pl.Expr:
    days = (pl.col(name).dt.date() - pl.col("service_date")).dt.total_days()
    return (days.abs() <= MAX_DAYS_FROM_SERVICE_DATE).fill_null(False)


def _earlier_instant(name: str) -> pl.Expr:
    return _instant(name, latest=False).alias(name)


def _nearer_instant(name: str, planned: str) -> pl.Expr:
    """Return the UTC instant of real time `name`. If the clock showed it twice, it is the one nearer to `planned`."""
    earlier, later = _instant(name, latest=False), _instant(name, latest=True)
    nearer_later = (later - pl.col(planned)).abs() < (earlier - pl.col(planned)).abs()
    return pl.when(nearer_later).then(later).otherwise(earlier).alias(name)


def _instant(name: str, latest: bool) -> pl.Expr:
    """Return the UTC instant of naive local time `name`. A skipped time is read at the offset before the change."""
    hour = pl.duration(hours=1)
    shown = pl.col(name).dt.replace_time_zone(
        TIMEZONE, ambiguous="latest" if latest else "earliest", non_existent="null"
    )
    skipped = (pl.col(name) - hour).dt.replace_time_zone(TIMEZONE, ambiguous="earliest", non_existent="null") + hour
    return pl.coalesce(shown, skipped).dt.convert_time_zone("UTC")


def _passes(code: pl.Expr) -> pl.Expr:
    no_dwell = (pl.col("planned_arr") == pl.col("planned_dep")).fill_null(False)
    one_real_time = pl.col("real_arr").eq_missing(pl.col("real_dep"))
    return no_dwell & (code.is_in(RUN_THROUGH_CODES) | ((code == "") & one_real_time))


# --- From typed rows to tables ---------------------------------------------------------------------------------------
def _import_month(month: str, usable: pl.LazyFrame, target: Path) -> dict[str, int]:
    """Write the events files and journeys of one month. Return the counts of written rows and of duplicates."""
    first_day, last_day = _first_and_last_day(month)
    rows = usable.filter(pl.col("service_date").is_between(first_day, last_day)).collect(engine="streaming")
    if rows.is_empty():
        raise UserError(f"month {month}: its file holds no usable row of this month; download it again")
    key = ["service_date", "train_id", "op_id", "planned_arr", "planned_dep"]
    visits = rows.unique(key, keep="first", maintain_order=True)
    counts = Counter(dropped_duplicate=rows.height - visits.height)
    journeys = []
    for (day,), day_visits in visits.partition_by("service_date", as_dict=True).items():
        events = _events(day_visits)
        write_events(target, day, events)
        journeys.append(journeys_from_events(events, _journey_attributes(day_visits)))
        counts.update(events=events.height, journeys=journeys[-1].height, service_dates=1)
    _merge_journeys(target, pl.concat(journeys), first_day, last_day)
    _remove_other_dates(target, month, visits["service_date"].unique())
    return dict(counts)


def _events(visits: pl.DataFrame) -> pl.DataFrame:
    """Return the events of one service date, with the columns of EVENT_SCHEMA.

    Events are in order of planned time. At equal times, visits are in order of their planned, then of their real times.
    An arrival comes before the departure of the same visit.
    """
    arrival_first = [pl.coalesce(f"{kind}_arr", f"{kind}_dep") for kind in ("planned", "real")]
    departure_first = [pl.coalesce(f"{kind}_dep", f"{kind}_arr") for kind in ("planned", "real")]
    visits = visits.sort(
        "train_id", arrival_first[0], departure_first[0], arrival_first[1], departure_first[1], "op_id"
    ).with_row_index("visit")
    passing, stopping = visits.filter("passes"), visits.filter(~pl.col("passes"))
    sides = [
        (PASS_THROUGH, passing, pl.col("planned_dep"), departure_first[1]),
        (ARRIVAL, stopping, pl.col("planned_arr"), pl.col("real_arr")),
        (DEPARTURE, stopping, pl.col("planned_dep"), pl.col("real_dep")),
    ]
    events = pl.concat(
        frame.select(
            "train_id",
            "service_date",
            "op_id",
            "visit",
            pl.lit(event_type).alias("event_type"),
            planned.alias("planned_ts"),
            observed.alias("observed_ts"),
        ).drop_nulls("planned_ts")
        for event_type, frame, planned, observed in sides
    )
    return events.sort("train_id", "planned_ts", "visit", "event_type").with_columns(
        pl.int_range(pl.len()).over("train_id").alias("seq"),
        (pl.col("observed_ts") - pl.col("planned_ts")).dt.total_seconds().alias("delay_sec"),
    )


def _journey_attributes(visits: pl.DataFrame) -> pl.DataFrame:
    prefix = pl.col("train_relation").str.to_uppercase().str.extract(r"^([A-Z]+)")
    return (
        visits.group_by(JOURNEY, maintain_order=True)
        .agg(
            pl.col("relation").drop_nulls().first().alias("train_relation"),
            pl.col("operator").drop_nulls().first(),
        )
        .with_columns(
            pl.col("train_id").alias("train_number"),
            pl.when(prefix.is_in(LONG_DISTANCE))
            .then(pl.lit("long_distance"))
            .when(prefix.is_in(REGIONAL))
            .then(pl.lit("regional"))
            .otherwise(pl.lit("other"))
            .alias("train_type"),
        )
    )


def _merge_journeys(target: Path, journeys: pl.DataFrame, first_day: date, last_day: date) -> None:
    """Replace the journeys of the same month in `target` by `journeys`."""
    path = journeys_path(target)
    if path.exists():
        others = _earlier(path, JOURNEY_SCHEMA).filter(~pl.col("service_date").is_between(first_day, last_day))
        journeys = pl.concat([others, journeys], how="vertical_relaxed")
    write_journeys(target, journeys)


def _remove_other_dates(target: Path, month: str, written: Iterable[date]) -> None:
    """Remove events files of an earlier import of `month` for dates that its file no longer holds."""
    kept = {events_path(target, day) for day in written}
    for path in (target / "events").glob(f"events_{month}-*.parquet"):
        if path not in kept:
            path.unlink()


def _points_in(rows: pl.LazyFrame) -> pl.DataFrame:
    """Return the points of the punctuality rows, each with its latest name and no position."""
    named = rows.group_by("op_id", "op_name").agg(pl.col("service_date").max()).collect(engine="streaming")
    points = named.group_by("op_id").agg(pl.col("op_name").sort_by("service_date", "op_name").drop_nulls().last())
    return pl.concat([_no_op_nodes(), points], how="diagonal")


def _merge_op_nodes(target: Path, catalogue: pl.DataFrame, seen: pl.DataFrame) -> int:
    """Write the union of three tables of points: the catalogue, the table in `target`, and the points of the rows.

    A value comes from the first of these tables that holds it.

    Returns:
        The number of points in `target`.
    """
    path = op_nodes_path(target)
    existing = _earlier(path, OP_NODE_SCHEMA) if path.exists() else _no_op_nodes()
    known = pl.concat([catalogue, existing, seen])
    merged = known.group_by("op_id").agg(pl.col("op_name", "lat", "lon").drop_nulls().first())
    write_op_nodes(target, merged)
    return merged.height


def _earlier(path: Path, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Read a table of an earlier import."""
    remedy = "remove it and import again"
    found = read_parquet(path, remedy)
    try:
        return found.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path} does not come from an import ({_one_line(error)[:160]}); {remedy}") from None


def _no_op_nodes() -> pl.DataFrame:
    return pl.DataFrame(schema=OP_NODE_SCHEMA)


# --- Reading and refusing --------------------------------------------------------------------------------------------
def _read_operational_points(path: Path) -> pl.DataFrame:
    """Read Infrabel's list of operational points into the columns of OP_NODE_SCHEMA. Unreadable positions are null."""
    _read_columns(path, OPERATIONAL_POINT_COLUMNS, separator=";")
    points = pl.read_csv(
        path,
        separator=";",
        columns=list(OPERATIONAL_POINT_COLUMNS),
        infer_schema=False,
        encoding="utf8-lossy",
        glob=False,
    )
    number, position, name = (pl.col(column).str.strip_chars() for column in OPERATIONAL_POINT_COLUMNS)
    degrees = position.str.extract_groups(r"^(?<lat>-?[\d.]+)\s*,\s*(?<lon>-?[\d.]+)$")
    return (
        points.select(
            number.cast(pl.Int32, strict=False).alias("op_id"),
            name.alias("op_name"),
            *(degrees.struct.field(axis).cast(pl.Float64, strict=False) for axis in ("lat", "lon")),
        )
        .drop_nulls("op_id")
        .unique("op_id", keep="first", maintain_order=True)
    )


def _read_header(path: Path) -> list[str]:
    return _read_columns(path, COLUMNS, separator=",")


def _read_columns(path: Path, required: Sequence[str], separator: str) -> list[str]:
    """Return the column names of a CSV file, which must include `required`."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; name another file or folder")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first_line = file.readline(1 << 16)
    if first_line.lstrip().startswith("<"):
        _refuse(path, "is an HTML page, not CSV")
    header = next(csv.reader([first_line], delimiter=separator), [])
    if missing := [column for column in required if column not in header]:
        _refuse(path, f"lacks the columns {', '.join(missing)}")
    return header


def _refuse(path: Path, fault: str) -> NoReturn:
    raise UserError(f"{path} {fault}; remove it and download it again from opendata.infrabel.be")


def _last_line_is_cut(path: Path, fields: int) -> bool:
    """Return whether the last line is truncated: it has no line end, and fewer fields than the header."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        tail = file.read()
    last_line = tail.rpartition(b"\n")[2].decode(errors="replace")
    return bool(last_line) and len(next(csv.reader([last_line]), [])) < fields


def _month_number(text: str, whole: str) -> int:
    """Return the number of months since year 0."""
    match = re.fullmatch(r"(?!0000)(\d{4})-(0[1-9]|1[0-2])", text.strip())
    if not match:
        raise UserError(f"months {whole!r}: {text.strip()!r} is not a month; write 2025-01 or 2025-01..2025-03")
    return int(match[1]) * 12 + int(match[2]) - 1


def _first_and_last_day(month: str) -> tuple[date, date]:
    first = date.fromisoformat(f"{month}-01")
    return first, first.replace(day=calendar.monthrange(first.year, first.month)[1])


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())


__all__ = ["PUNCTUALITY_URL", "download_month", "import_infrabel", "parse_months", "raw_file_name"]
