"""Infrabel's monthly raw punctuality files of Belgian trains (open data, CC0).

    python -m transformer import infrabel --months 2025-01..2025-03 --to data/belgium

There is one CSV a month, `Data_raw_punctuality_YYYYMM.csv`. It has one row per train and operational point, with
planned and real times to the second. Columns are read by name, because their order and number changed in 2025-08 and
2025-09. This module decides three things that the file leaves open:

Stop or pass-through. `THOP1_COD` is the planned operation: `=` is a stop, even without planned dwell; `D` and `P` are a
pass-through. If the planned arrival of a row equals its planned departure and the code is `D` or `P`, the row is one
event `P`. If there is no code (older files, special trains), the row is `P` if the real times are equal, too. Every
other row is an `A`, a `D` or both. So the type of a coded row comes from the timetable alone, and the types of a
train's next events say nothing about its future. The observed time of a `P` is the time when the train left the point.

Local time. Times are wall-clock times of Europe/Brussels; `local_time` reads the hours of the clock changes.

Service date. `DATDEP` is the service date, and does not change at midnight. It alone decides the events file of a row.

Infrabel's list of operational points, in the French export with `;` as separator, gives the points their positions. It
is found next to the monthly files by its name, `operational_points.csv` or `operationele-punten-van-het-netwerk.csv`.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import NoReturn

import polars as pl

from transformer.data.sources.download import PublishedFile
from transformer.data.sources.expressions import (
    filled_text,
    first_problem,
    near_service_date,
    train_kind,
    without_planned_time,
)
from transformer.data.sources.local_time import earlier_instant, nearer_instant
from transformer.data.sources.periods import month_span, months_of
from transformer.data.sources.source import About, RawFile, Source
from transformer.data.sources.text_files import scan_text, without_cut_line
from transformer.errors import UserError
from transformer.files import reading

PUNCTUALITY_URL = "https://fr.ftp.opendatasoft.com/infrabel/PunctualityHistory/"
TIMEZONE = "Europe/Brussels"

SIDES = ("ARR", "DEP")
TIME_COLUMNS = [f"{kind}_{part}_{side}" for kind in ("PLANNED", "REAL") for side in SIDES for part in ("DATE", "TIME")]
COLUMNS = ["DATDEP", "TRAIN_NO", "RELATION", "TRAIN_SERV", "PTCAR_NO", "PTCAR_LG_NM_NL", *TIME_COLUMNS]
STOP_CODE = "THOP1_COD"  # absent from older files
RUN_THROUGH_CODES = ("D", "P")
DATE_LENGTH = len("02JAN2023")
_NAME = re.compile(r"Data_raw_punctuality_(\d{4})(0[1-9]|1[0-2])\.csv", re.IGNORECASE)

# First letters of RELATION, such as `IC` in `IC 03` or `S` in `S61-1`. Trains with other letters are `other`.
LONG_DISTANCE = ("EC", "EN", "ES", "EST", "EUR", "EURST", "IC", "ICE", "ICT", "INT", "IZY", "NJ", "TGV", "THA", "THAL")
REGIONAL = ("L", "P", "S")

OPERATIONAL_POINT_COLUMNS = ("ID", "Geo Point", "Nom NL complet")
OPERATIONAL_POINT_FILES = ("operational_points.csv", "operationele-punten-van-het-netwerk.csv")


class Infrabel(Source):
    """Belgium: Infrabel's monthly CSV."""

    about = About(
        name="infrabel",
        title="Infrabel raw punctuality, monthly CSV",
        country="Belgium",
        timezone=TIMEZONE,
        depth="2014-01 to last month",
        size="330 MB, 2 M rows",
        licence="CC0 1.0; source: Infrabel open data",
        unobserved="all listed trains were observed; cancelled trains are absent",
        pass_throughs=True,
        page="https://opendata.infrabel.be",
    )
    layout = "Data_raw_punctuality_YYYYMM.csv"

    def published(self, days: Sequence[date]) -> list[PublishedFile]:
        names = {month: raw_file_name("{:04d}-{:02d}".format(*month)) for month in months_of(days)}
        return [PublishedFile(name, PUNCTUALITY_URL + name, *month_span(*month)) for month, name in names.items()]

    def find(self, folder: Path) -> list[RawFile]:
        found = []
        for path in sorted(folder.rglob("*.[cC][sS][vV]")):
            if match := _NAME.fullmatch(path.name):
                found.append(RawFile((path,), *month_span(int(match[1]), int(match[2]))))
            elif span := _span(path):
                found.append(RawFile((path,), *span))
        return sorted(found, key=lambda file: file.first)

    def check(self, file: RawFile) -> None:
        _read_columns(file.paths[0], COLUMNS, separator=",")

    def scan(self, file: RawFile, counts: Counter[str]) -> Iterator[pl.LazyFrame]:
        [path] = file.paths
        header = _read_columns(path, COLUMNS, separator=",")
        lines = without_cut_line(scan_text(path), path, len(header), counts)
        yield _typed_rows(lines, STOP_CODE in header)

    def points(self, folder: Path) -> pl.DataFrame:
        if folder.is_file():
            return _read_operational_points(folder)
        files = [path for name in OPERATIONAL_POINT_FILES for path in sorted(folder.glob(name))]
        return _read_operational_points(files[0]) if files else super().points(folder)


def _span(path: Path) -> tuple[date, date] | None:
    """The service dates in a file with another name; None = it is no such file."""
    if not set(COLUMNS) <= set(_header(path, separator=",")):
        return None
    day = _parsed_date("DATDEP")
    spans = scan_text(path).select(day.min().alias("first"), day.max().alias("last"))
    first, last = spans.collect(engine="streaming").row(0)
    return (first, last) if first else None


def raw_file_name(month: str) -> str:
    return f"Data_raw_punctuality_{month.replace('-', '')}.csv"


def _typed_rows(lines: pl.LazyFrame, has_stop_code: bool) -> pl.LazyFrame:
    """Return visits."""
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
        (pl.col(f"{kind}_TIME_{side}") != "") & ~near_service_date(name) for name, (kind, side) in local.items()
    ]
    problem = first_problem(
        {
            "bad_service_date": pl.col("service_date").is_null(),
            "bad_train_number": pl.col("train_id").is_null(),
            "bad_point_number": pl.col("op_id").is_null(),
            "bad_time": pl.any_horizontal(unreadable),
            "no_planned_time": without_planned_time(),
        }
    )
    return (
        rows.with_columns(problem)
        .with_columns(earlier_instant(f"planned_{side}".lower(), TIMEZONE) for side in SIDES)
        .with_columns(nearer_instant(f"real_{side}".lower(), f"planned_{side}".lower(), TIMEZONE) for side in SIDES)
        .select(
            "service_date",
            "train_id",
            "op_id",
            *(
                filled_text(column).alias(name)
                for name, column in (
                    ("op_name", "PTCAR_LG_NM_NL"),
                    ("train_relation", "RELATION"),
                    ("operator", "TRAIN_SERV"),
                )
            ),
            train_type("RELATION").alias("train_type"),
            "planned_arr",
            "planned_dep",
            pl.col("real_arr").alias("observed_arr"),
            pl.col("real_dep").alias("observed_dep"),
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


def _passes(code: pl.Expr) -> pl.Expr:
    no_dwell = (pl.col("planned_arr") == pl.col("planned_dep")).fill_null(False)
    one_real_time = pl.col("real_arr").eq_missing(pl.col("real_dep"))
    return no_dwell & (code.is_in(RUN_THROUGH_CODES) | ((code == "") & one_real_time))


def train_type(column: str) -> pl.Expr:
    """Return the type of Belgian trains from a column of relations."""
    prefix = pl.col(column).str.to_uppercase().str.extract(r"^([A-Z]+)")
    return train_kind(prefix.is_in(LONG_DISTANCE), prefix.is_in(REGIONAL))


# --- Reading and refusing --------------------------------------------------------------------------------------------
def _read_operational_points(path: Path) -> pl.DataFrame:
    """Read Infrabel's list of operational points into the columns of POINT_SCHEMA. Unreadable positions are null."""
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


def _read_columns(path: Path, required: Sequence[str], separator: str) -> list[str]:
    """Return the column names of a CSV file, which must include `required`."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; name another file or folder")
    header = _header(path, separator)
    if header and header[0].lstrip().startswith("<"):
        _refuse(path, "is an HTML page, not CSV")
    if missing := [column for column in required if column not in header]:
        _refuse(path, f"lacks the columns {', '.join(missing)}")
    return header


def _header(path: Path, separator: str) -> list[str]:
    with reading(path), path.open(encoding="utf-8-sig", errors="replace") as file:
        return next(csv.reader([file.readline(1 << 16)], delimiter=separator), [])


def _refuse(path: Path, fault: str) -> NoReturn:
    raise UserError(f"{path} {fault}; remove it and download it again from opendata.infrabel.be")
