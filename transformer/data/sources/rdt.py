"""The archive of Dutch trains of Rijden de Treinen (open data, CC BY 4.0).

    python -m transformer import rdt --months 2025-01..2025-03 --to data/netherlands

There is one gzipped CSV a month, `services-YYYY-MM.csv.gz`, and one a year before 2023, `services-YYYY.csv.gz`. It has
one row per train and stop. Times are planned times with an offset. Delays are whole minutes, and an observed time is
the planned time plus the delay. The delay is the last one that the railway announced, so it may be a forecast.

This module decides four things that the file leaves open:

Zero. Each side of a stop has a delay, and zero may mean "never reported". A train number or a station whose delays in
the file are all zero is taken as not observed, unless the import has the option `--keep-zeros`.

Several records of one train. Coupled and renumbered trains are recorded under each of their numbers. A service whose
planned times are all in another service of the date is left out; see `services`.

Diversions. The order of the stops is `Stop:RDT-ID`. A diversion appends its stops, and the old route may stay. A
service whose planned times go back in that order is left out whole.

Cancellations. Arrivals and departures are cancelled apart, and have no observed time. Replacement buses are services of
their own, and are left out by `Service:Type`.

The list of stations, `stations-YYYY-MM.csv` in the same folder, gives the points their positions.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import polars as pl

from transformer.data.sources.download import PublishedFile
from transformer.data.sources.expressions import (
    filled_text,
    first_problem,
    near_service_date,
    train_kind,
    without_planned_time,
)
from transformer.data.sources.never_reported import without_silent_zeros
from transformer.data.sources.periods import month_span, months_of
from transformer.data.sources.services import without_re_routed, without_repeated
from transformer.data.sources.source import About, RawFile, Source
from transformer.data.sources.text_files import scan_text, without_cut_line
from transformer.data.tables import TIMESTAMP
from transformer.errors import UserError
from transformer.parquet import UNREADABLE
from transformer.text import one_line

URL = "https://opendata.rijdendetreinen.nl/public/"
STATIONS = "stations-2023-09.csv"  # the newest list
FIRST_MONTHLY_YEAR = 2023
REMEDY = "download it again from rijdendetreinen.nl"
COLUMNS = (
    *("Service:RDT-ID", "Service:Date", "Service:Type", "Service:Company", "Service:Train number"),
    *("Service:Completely cancelled", "Stop:RDT-ID", "Stop:Station code", "Stop:Station name"),
    *("Stop:Arrival time", "Stop:Arrival delay", "Stop:Arrival cancelled"),
    *("Stop:Departure time", "Stop:Departure delay", "Stop:Departure cancelled"),
)
STATION_COLUMNS = ("code", "name_long", "geo_lat", "geo_lng")
_NAME = re.compile(r"services-(\d{4})(?:-(0[1-9]|1[0-2]))?\.csv(?:\.gz)?", re.IGNORECASE)
_SIDES = {"arr": "Arrival", "dep": "Departure"}

# Parts of Service:Type, which holds Dutch names of products. Their spelling varies over the years.
NO_TRAIN = r"bus|taxi|tram|metro|ipv|i\.p\.v"
LONG_DISTANCE = r"intercity|international|\bice\b|thalys|eurostar|eurocity|nightjet|sleeper|nachttrein|\btgv\b"
REGIONAL = r"sprinter|stoptrein|sneltrein|regio|s-bahn"


class RijdenDeTreinen(Source):
    """The Netherlands: the archive of Rijden de Treinen."""

    about = About(
        name="rdt",
        title="Rijden de Treinen, archive of train services",
        country="Netherlands",
        timezone="Europe/Amsterdam",
        depth="2019-01 to last month",
        size="30 MB, 1.75 M rows",
        licence="CC BY 4.0; source: Rijden de Treinen (rijdendetreinen.nl)",
        unobserved="no: a delay of zero can mean on time or never reported; zeros of trains and stations that report "
        "no other delay in a file are taken as not observed (--keep-zeros keeps them)",
        pass_throughs=False,
        page="https://www.rijdendetreinen.nl/en/open-data/train-archive",
    )
    layout = "services-YYYY-MM.csv.gz or services-YYYY.csv.gz"
    has_options = frozenset({"keep_zeros"})

    def published(self, days: Sequence[date]) -> list[PublishedFile]:
        months = months_of(days)
        periods = dict.fromkeys((year, month if year >= FIRST_MONTHLY_YEAR else None) for year, month in months)
        found = [PublishedFile(STATIONS, f"{URL}stations/{STATIONS}", min(days), max(days))] if days else []
        for year, month in periods:
            name = f"services-{year}.csv.gz" if month is None else f"services-{year}-{month:02d}.csv.gz"
            found.append(PublishedFile(name, f"{URL}services/{name}", *_span(year, month)))
        return found

    def find(self, folder: Path) -> list[RawFile]:
        files = []
        for path in sorted(folder.rglob("*.csv")) + sorted(folder.rglob("*.csv.gz")):
            if match := _NAME.fullmatch(path.name):
                files.append(RawFile((path,), *_span(int(match[1]), int(match[2]) if match[2] else None)))
            elif set(COLUMNS) <= set(_header(path)) and (span := _dates(path)):
                files.append(RawFile((path,), *span))
        return sorted(files, key=lambda file: file.first)

    def check(self, file: RawFile) -> None:
        [path] = file.paths
        header = _header(path)
        if missing := [name for name in COLUMNS if name not in header]:
            raise UserError(f"{path} lacks the columns {', '.join(missing)}; {REMEDY}")

    def scan(self, file: RawFile, counts: Counter[str]) -> Iterator[pl.LazyFrame]:
        [path] = file.paths
        try:
            lines = _lines(path)
            if path.suffix == ".csv":
                lines = without_cut_line(lines, path, len(_header(path)), counts)
            visits = _typed_rows(lines)
            if self.options.keep_zeros:
                lines.select(pl.len()).collect(engine="streaming")  # raises here if the gzipped file is cut off
            else:
                visits = without_silent_zeros(visits, "train_number", "source_id")
        except (*UNREADABLE, OSError) as error:
            raise UserError(f"{path} cannot be read ({one_line(str(error))[:160]}); {REMEDY}") from None
        yield visits

    def visits(self, rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
        return without_repeated(without_re_routed(rows))

    def points(self, folder: Path) -> pl.DataFrame:
        files = [folder] if folder.is_file() else sorted(folder.glob("stations*.csv"))
        if not files:
            return super().points(folder)
        path = files[-1]  # the newest list
        if missing := [name for name in STATION_COLUMNS if name not in _header(path)]:
            raise UserError(f"{path} lacks the columns {', '.join(missing)}; download it again from {URL}stations/")
        table = pl.read_csv(path, infer_schema=False, encoding="utf8-lossy", glob=False)
        return table.select(
            _source_id("code").alias("source_id"),
            pl.col("name_long").alias("op_name"),
            pl.col("geo_lat").cast(pl.Float64, strict=False).alias("lat"),
            pl.col("geo_lng").cast(pl.Float64, strict=False).alias("lon"),
        ).unique("source_id", keep="first", maintain_order=True)


def _span(year: int, month: int | None) -> tuple[date, date]:
    return month_span(year, month) if month else (date(year, 1, 1), date(year, 12, 31))


def _header(path: Path) -> list[str]:
    """The column names of a CSV file, also of a gzipped one. A file that cannot be read has none."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            first_line = file.readline(1 << 16)
    except (OSError, EOFError):
        return []
    return next(csv.reader([first_line.decode("utf-8-sig", errors="replace")]), [])


def _lines(path: Path) -> pl.LazyFrame:
    return scan_text(path).select(COLUMNS)


def _dates(path: Path) -> tuple[date, date] | None:
    """The first and the last service date of a file."""
    day = pl.col("Service:Date").str.to_date("%Y-%m-%d", strict=False)
    try:
        found = (
            _lines(path).select(day.min().alias("first"), day.max().alias("last")).collect(engine="streaming").row(0)
        )
    except (*UNREADABLE, OSError):
        return None
    return None if found[0] is None else (found[0], found[1])


def _typed_rows(lines: pl.LazyFrame) -> pl.LazyFrame:
    """Return visits."""
    rows = lines.with_columns(pl.col(pl.String).str.strip_chars()).with_columns(
        pl.col("Service:Date").str.to_date("%Y-%m-%d", strict=False).alias("service_date"),
        _whole_number("Service:RDT-ID").cast(pl.String).alias("train_id"),
        _whole_number("Stop:RDT-ID").alias("order"),
        _source_id("Stop:Station code").alias("source_id"),
        *(_instant(f"Stop:{name} time").alias(f"planned_{side}") for side, name in _SIDES.items()),
        *(_whole_number(f"Stop:{name} delay").alias(f"delay_{side}") for side, name in _SIDES.items()),
        *(_cancelled(name).alias(f"cancelled_{side}") for side, name in _SIDES.items()),
    )
    kind = pl.col("Service:Type").str.to_lowercase()
    problem = first_problem(
        {
            "bad_service_date": pl.col("service_date").is_null(),
            "no_train": kind.str.contains(NO_TRAIN),
            "bad_train_number": pl.col("train_id").is_null(),
            "bad_point_number": pl.col("source_id").is_null() | pl.col("order").is_null(),
            "bad_time": pl.any_horizontal(_unreadable(side, name) for side, name in _SIDES.items()),
            "no_planned_time": without_planned_time(),
        }
    )
    return rows.select(
        "service_date",
        "train_id",
        "source_id",
        filled_text("Stop:Station name").alias("op_name"),
        "order",
        "planned_arr",
        "planned_dep",
        *(_observed(side).alias(f"observed_{side}") for side in _SIDES),
        pl.lit(False).alias("passes"),
        "cancelled_arr",
        "cancelled_dep",
        pl.coalesce(_whole_number("Service:Train number").cast(pl.String), "train_id").alias("train_number"),
        train_kind(kind.str.contains(LONG_DISTANCE), kind.str.contains(REGIONAL)).alias("train_type"),
        filled_text("Service:Type").alias("train_relation"),
        filled_text("Service:Company").alias("operator"),
        problem,
    )


def _source_id(column: str) -> pl.Expr:
    code = pl.col(column).str.strip_chars().str.to_uppercase()
    return pl.when(code != "").then(pl.lit("nl:") + code)


def _whole_number(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Int64, strict=False)


def _instant(column: str) -> pl.Expr:
    return pl.col(column).str.to_datetime("%Y-%m-%dT%H:%M:%S%z", time_unit="us", strict=False).cast(TIMESTAMP)


def _cancelled(name: str) -> pl.Expr:
    return (pl.col(f"Stop:{name} cancelled") == "true") | (pl.col("Service:Completely cancelled") == "true")


def _observed(side: str) -> pl.Expr:
    return pl.when(~pl.col(f"cancelled_{side}")).then(
        pl.col(f"planned_{side}") + pl.duration(minutes=pl.col(f"delay_{side}"))
    )


def _unreadable(side: str, name: str) -> pl.Expr:
    """Whether the time or the delay of a side cannot be read, or is far from the service date."""
    bad_time = (pl.col(f"Stop:{name} time") != "") & ~near_service_date(f"planned_{side}")
    return bad_time | ((pl.col(f"Stop:{name} delay") != "") & pl.col(f"delay_{side}").is_null())
