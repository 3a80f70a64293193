"""Ist-Daten, the daily files of planned and real times of Swiss public transport (opentransportdata.swiss).

    python -m transformer import istdaten --months 2024-01 --to data/switzerland

There is one CSV a day, for all modes of transport, and one zip a month that holds the files of its days. It has one row
per run and stop. Columns are read by name; version 2, from 2025-07 on, has those of version 1. Keep one version of a
month in a folder: the two give a run different ids. Days of the last weeks are not in a zip yet. Their files can be put
into a folder by hand.

This module decides what the file leaves open:

Trains. A row is a train's if `PRODUKT_ID` is `Zug` in any spelling. Other modes, rack railways too, are left out.

Observed. A real time is observed if its status is `REAL`, or `GESCHAETZT`, the word for a measured time until 2018-05.
Every other status is a forecast, or there is no time: not observed. A time of a cancelled row is not observed either.

Cancelled, extra and passing. `FAELLT_AUS_TF` cancels the arrival and the departure. An extra train
(`ZUSATZFAHRT_TF`) is a train like others. `DURCHFAHRT_TF` is a pass-through.

Order. There is no column for the order of a run. Visits are in order of planned time, to the minute. At equal times the
origin comes first and the terminus last, and the rows keep the order of the file.

Points. `BPUIC` is the UIC number of the station. A number of nine digits is that of a station and a part of it. The
positions are in the `stops.txt` of the Swiss GTFS timetable, which is found next to the raw files, also in a zip. The
position of a station is that of the stop with its bare number, or else of its parent, or else the mean of its
platforms.

Text. Most files are UTF-8 and some are Windows-1252.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import IO

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
from transformer.data.sources.source import About, RawFile, Source, Unreadable
from transformer.errors import UserError
from transformer.parquet import UNREADABLE
from transformer.text import one_line

ARCHIVE_URL = "https://archive.opentransportdata.swiss/istdaten/"
TIMEZONE = "Europe/Zurich"
FIRST_MONTH = (2018, 1)
FIRST_LONG_NAME = (2021, 6)
FIRST_VERSION_2 = (2025, 7)
REMEDY = "remove it and download it again from archive.opentransportdata.swiss"

SIDES = {"arr": ("ANKUNFTSZEIT", "AN_PROGNOSE"), "dep": ("ABFAHRTSZEIT", "AB_PROGNOSE")}  # planned and real
LAST = "DURCHFAHRT_TF"  # the last column of the first files
COLUMNS = (
    *("BETRIEBSTAG", "FAHRT_BEZEICHNER", "BETREIBER_ABK", "BETREIBER_NAME", "PRODUKT_ID", "LINIEN_ID", "LINIEN_TEXT"),
    *("VERKEHRSMITTEL_TEXT", "FAELLT_AUS_TF", "BPUIC", "HALTESTELLEN_NAME"),
    *(name for planned, real in SIDES.values() for name in (planned, real, f"{real}_STATUS")),
    LAST,
)
TRAIN = "zug"
MEASURED = ("REAL", "GESCHAETZT")
LONG_DISTANCE = ("EC", "EN", "EXT", "IC", "ICE", "ICN", "IR", "NJ", "PE", "RJ", "RJX", "TGV")
REGIONAL = ("R", "RB", "RE", "REX", "S", "SN", "TER")
ENCODING_SAMPLE = 1 << 24  # bytes; names with umlauts come within them
CHUNK = 1 << 20  # bytes

_ZIP = re.compile(r"(?:ist-?daten-(?:v2-)?(?P<year>\d{4})-|(?P<short>\d\d)_)(?P<month>0[1-9]|1[0-2])\.zip", re.I)
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)  # of a zip's member


class IstDaten(Source):
    """Switzerland: the whole network, all railways."""

    about = About(
        name="istdaten",
        title="Ist-Daten of Swiss public transport, daily CSV",
        country="Switzerland",
        timezone=TIMEZONE,
        depth="2018-01 to last month, some 29 days missing",
        size="1.4 GB zipped with all modes of transport; 5 M rows of trains",
        licence="terms of use of opentransportdata.swiss; Source: opentransportdata.swiss",
        unobserved="a status says whether a time was measured; forecasts are not observed",
        pass_throughs=True,
        page="https://opentransportdata.swiss/en/cookbook/actual-data/",
    )
    layout = "ist-daten-YYYY-MM.zip or YYYY-MM-DD_istdaten.csv"

    def published(self, days: Sequence[date]) -> list[PublishedFile]:
        months = months_of(days)
        if months and months[0] < FIRST_MONTH:
            raise UserError("the archive of Ist-Daten begins in 2018-01; choose later dates")
        names = {month: _zip_name(*month) for month in months}
        return [
            PublishedFile(name, f"{ARCHIVE_URL}{month[0]}/{name}", *month_span(*month)) for month, name in names.items()
        ]

    def find(self, folder: Path) -> list[RawFile]:
        found = []
        for path in sorted(folder.rglob("*")):
            suffix = path.suffix.lower()
            if suffix not in (".csv", ".zip") or path.name.startswith(".") or "__MACOSX" in path.parts:
                continue
            span = _span_of_zip(path) if suffix == ".zip" else _span_of_table(path)
            if span:
                found.append(RawFile((path,), *span))
        return sorted(found, key=lambda file: file.first)

    def check(self, file: RawFile) -> None:
        [path] = file.paths
        if not _is_zip(path):
            with path.open("rb") as table:
                _check_header(_header(table), path)
            return
        try:
            with zipfile.ZipFile(path) as archive:
                members = _members(archive)
        except _BROKEN as error:
            raise UserError(f"{path} is no complete zip ({one_line(str(error))[:160]}); {REMEDY}") from None
        if not members:
            raise UserError(f"{path} holds no CSV file; {REMEDY}")

    def scan(self, file: RawFile, counts: Counter[str]) -> Iterator[pl.LazyFrame | Unreadable]:
        [path] = file.paths
        if not _is_zip(path):
            yield from _scan_table(path, counts)
            return
        with zipfile.ZipFile(path) as archive:
            for member in _members(archive):
                with tempfile.TemporaryDirectory() as scratch:
                    table = Path(scratch) / Path(member.filename).name
                    try:
                        with archive.open(member) as packed, table.open("wb") as unpacked:
                            shutil.copyfileobj(packed, unpacked, CHUNK)
                    except _BROKEN as error:
                        yield Unreadable(f"{member.filename}: {one_line(str(error))[:160]}")
                        continue
                    try:
                        yield from _scan_table(table, counts)
                    except UserError as error:
                        yield Unreadable(f"{member.filename}: {error}")

    def visits(self, rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
        return rows.sort(pl.col("planned_arr").is_not_null(), pl.col("planned_dep").is_null(), maintain_order=True)

    def points(self, folder: Path) -> pl.DataFrame:
        stops = _stops(folder)
        return super().points(folder) if stops is None else _positions(stops)


def _zip_name(year: int, month: int) -> str:
    if (year, month) < FIRST_LONG_NAME:
        return f"{year % 100:02d}_{month:02d}.zip"
    version = "v2-" if (year, month) >= FIRST_VERSION_2 else ""
    return f"ist-daten-{version}{year}-{month:02d}.zip"


# --- Recognising -----------------------------------------------------------------------------------------------------
def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _span_of_zip(path: Path) -> tuple[date, date] | None:
    """The month in the name. A name such as `18_01.zip` says little, so its first member decides, too."""
    match = _ZIP.fullmatch(path.name)
    if not match:
        return None
    if match["short"]:
        try:
            with zipfile.ZipFile(path) as archive:
                members = _members(archive)
                with archive.open(members[0]) as table:
                    header = _header(table)
        except IndexError:
            return None
        except _BROKEN:
            header = list(COLUMNS)
        if not set(COLUMNS[:2]) <= set(header):
            return None
    return month_span(int(match["year"] or f"20{match['short']}"), int(match["month"]))


def _span_of_table(path: Path) -> tuple[date, date] | None:
    """The date in the name. Without one, the header decides, and the rows of trains give the dates."""
    named = re.search(r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)(?!\d)", path.name)
    if named and re.search(r"ist-?_?daten", path.name, re.I):
        try:
            day = date(*map(int, named.groups()))
        except ValueError:
            return None
        return day, day
    try:
        with path.open("rb") as table:
            header = _header(table)
        if not set(COLUMNS[:2]) <= set(header):
            return None
        days = _day("BETRIEBSTAG")
        rows = _lines(path, header).select(days.alias("day"), train=_is_train() & _filled("FAHRT_BEZEICHNER"))
        found = rows.group_by("train").agg(pl.col("day").min().alias("first"), pl.col("day").max().alias("last"))
        spans = {train: span for train, *span in found.collect(engine="streaming").drop_nulls("first").iter_rows()}
    except (*UNREADABLE, OSError):
        return None
    if True in spans:
        return spans[True][0], spans[True][1]
    return (spans[False][0], spans[False][0]) if spans.get(False) else None


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The daily files in a zip, sorted by name."""
    found = [
        member
        for member in archive.infolist()
        if (path := Path(member.filename)).suffix.lower() == ".csv"
        and "__MACOSX" not in path.parts
        and not path.name.startswith(".")
    ]
    return sorted(found, key=lambda member: Path(member.filename).name)


def _header(table: IO[bytes]) -> list[str]:
    line = table.readline(1 << 16)
    return [name.strip().strip('"') for name in line.decode("utf-8-sig", "replace").strip().split(";")]


def _check_header(header: Sequence[str], path: Path) -> None:
    if header == [""]:
        raise UserError(f"{path} is empty; {REMEDY}")
    if missing := [name for name in COLUMNS if name not in header]:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}; {REMEDY}")


# --- Rows ------------------------------------------------------------------------------------------------------------
def _scan_table(path: Path, counts: Counter[str]) -> Iterator[pl.LazyFrame]:
    """Read the trains of a daily file, and count the rows of all else."""
    with path.open("rb") as table:
        header = _header(table)
    _check_header(header, path)
    with _in_utf8(path) as readable:
        lines = _lines(readable, header)
        forecasts = [_filled(real) & ~pl.col(f"{real}_STATUS").is_in(MEASURED) for _, real in SIDES.values()]
        other = ~_is_train() & ~_is_cut()
        found = lines.select(
            dropped_no_train=other & _filled("PRODUKT_ID"),
            dropped_unknown_mode=other & ~_filled("PRODUKT_ID"),
            changed_forecast=pl.sum_horizontal((_is_train() & forecast).cast(pl.Int64) for forecast in forecasts),
        )
        try:
            totals = found.sum().collect(engine="streaming").row(0, named=True)
        except UNREADABLE as error:
            raise UserError(f"{path} cannot be read ({one_line(str(error))[:160]}); {REMEDY}") from None
        counts.update(totals)
        counts["rows"] += totals["dropped_no_train"] + totals["dropped_unknown_mode"]
        yield _typed_rows(lines.filter(_is_train() | _is_cut()))


@contextmanager
def _in_utf8(path: Path) -> Iterator[Path]:
    """The file, or a temporary copy in UTF-8 if it is in another encoding."""
    with path.open("rb") as table:
        sample = table.read(ENCODING_SAMPLE)
    text = sample.decode("utf-8", "replace")
    broken = text.count("\N{REPLACEMENT CHARACTER}")
    if broken <= len(text) - len(text.encode("ascii", "ignore")) - broken:  # as many sound characters: damaged UTF-8
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / path.name
        with (
            path.open(encoding="cp1252", errors="replace", newline="") as table,
            copy.open("w", encoding="utf-8", newline="") as copied,
        ):
            shutil.copyfileobj(table, copied, CHUNK)
        yield copy


def _lines(path: Path, header: Sequence[str]) -> pl.LazyFrame:
    """The rows of a file as text; a column that a row lacks is empty. Quotes are no part of the layout."""
    return pl.scan_csv(
        path,
        separator=";",
        quote_char=None,
        infer_schema=False,
        empty_string_is_null=False,
        truncate_ragged_lines=True,
        encoding="utf8-lossy",
        glob=False,
        with_column_names=lambda _: list(header),
    )


def _typed_rows(lines: pl.LazyFrame) -> pl.LazyFrame:
    """Return visits."""
    local = {f"planned_{side}": planned for side, (planned, _) in SIDES.items()}
    local |= {f"observed_{side}": real for side, (_, real) in SIDES.items()}
    rows = (
        lines.select(COLUMNS)
        .with_columns(pl.all().str.strip_chars().str.strip_chars('"'))
        .with_columns(
            _day("BETRIEBSTAG").alias("service_date"),
            pl.col("BPUIC").str.extract(r"^(\d{7})(?:\d\d)?$").cast(pl.Int32).alias("op_id"),
            _is_true("FAELLT_AUS_TF").alias("cancelled"),
            *(_local_time(column).alias(name) for name, column in local.items()),
        )
    )
    unreadable = [_filled(column) & ~near_service_date(name) for name, column in local.items()]
    problem = first_problem(
        {
            "truncated_line": _is_cut(),
            "bad_service_date": pl.col("service_date").is_null(),
            "bad_train_number": ~_filled("FAHRT_BEZEICHNER"),
            "bad_point_number": pl.col("op_id").is_null(),
            "bad_time": pl.any_horizontal(unreadable),
            "no_planned_time": without_planned_time(),
        }
    )
    instants = rows.with_columns(problem, *(_measured(*side) for side in SIDES.items()))
    for side in SIDES:
        instants = instants.with_columns(earlier_instant(f"planned_{side}", TIMEZONE)).with_columns(
            nearer_instant(f"observed_{side}", f"planned_{side}", TIMEZONE)
        )
    return instants.select(
        "service_date",
        pl.col("FAHRT_BEZEICHNER").alias("train_id"),
        "op_id",
        filled_text("HALTESTELLEN_NAME").alias("op_name"),
        *local,
        _is_true(LAST).alias("passes"),
        *(pl.col("cancelled").alias(f"cancelled_{side}") for side in SIDES),
        filled_text("LINIEN_ID").alias("train_number"),
        _train_type().alias("train_type"),
        pl.coalesce(filled_text("LINIEN_TEXT"), filled_text("VERKEHRSMITTEL_TEXT")).alias("train_relation"),
        pl.coalesce(filled_text("BETREIBER_ABK"), filled_text("BETREIBER_NAME")).alias("operator"),
        "problem",
    )


def _filled(name: str) -> pl.Expr:
    return pl.col(name) != ""


def _is_true(name: str) -> pl.Expr:
    return pl.col(name).str.to_lowercase() == "true"


def _is_train() -> pl.Expr:
    return pl.col("PRODUKT_ID").str.strip_chars('" ').str.to_lowercase() == TRAIN


def _is_cut() -> pl.Expr:
    """A line that is cut off lacks a value in the last column, or has a part of it."""
    return ~pl.col(LAST).str.strip_chars('" \r').str.to_lowercase().is_in(["true", "false"])


def _day(name: str) -> pl.Expr:
    return pl.col(name).str.to_date("%d.%m.%Y", strict=False)


def _local_time(name: str) -> pl.Expr:
    """Naive local times. The layout has minutes in planned times and seconds in real ones."""
    column = pl.col(name)
    with_seconds = pl.when(column.str.len_bytes() == len("25.09.2016 05:49")).then(column + ":00").otherwise(column)
    whole = pl.when(with_seconds.str.len_bytes() == len("25.09.2016 05:49:00")).then(with_seconds)
    return whole.str.to_datetime("%d.%m.%Y %H:%M:%S", time_unit="us", strict=False)


def _measured(side: str, columns: tuple[str, str]) -> pl.Expr:
    """The observed time of a side: null unless its status says so."""
    observed = pl.col(f"{columns[1]}_STATUS").is_in(MEASURED) & ~pl.col("cancelled")
    return pl.when(observed).then(pl.col(f"observed_{side}")).alias(f"observed_{side}")


def _train_type() -> pl.Expr:
    kind = pl.col("VERKEHRSMITTEL_TEXT").str.to_uppercase().str.extract(r"^([A-Z]+)")
    return train_kind(kind.is_in(LONG_DISTANCE), kind.is_in(REGIONAL))


# --- Points ----------------------------------------------------------------------------------------------------------
def _stops(folder: Path) -> pl.DataFrame | None:
    """The table of stops: a file, a GTFS zip, or the newest by name in a folder."""
    found = [folder]
    if folder.is_dir():
        found = [*sorted(folder.rglob("*gtfs*.zip")), *sorted(folder.rglob("stops.txt"))]
    if not found:
        return None
    path = found[-1]
    columns = ("stop_id", "stop_name", "stop_lat", "stop_lon")
    try:
        if _is_zip(path):
            with zipfile.ZipFile(path) as archive:
                content = archive.read("stops.txt")
        else:
            content = path.read_bytes()
        return pl.read_csv(content, columns=columns, infer_schema=False, encoding="utf8-lossy", glob=False)
    except (*_BROKEN, *UNREADABLE, KeyError) as error:
        raise UserError(
            f"{path}: no table of stops ({one_line(str(error))[:160]}); name the stops.txt of the Swiss GTFS "
            "timetable, or its zip, with --points"
        ) from None


def _positions(stops: pl.DataFrame) -> pl.DataFrame:
    """One row per station with the columns of POINT_SCHEMA that are known, with degrees to 5 decimals (1 m)."""
    number, axes = pl.col("stop_id"), ("lat", "lon")
    return (
        stops.select(
            number.str.extract(r"^(?:Parent)?(\d{7})(?:\D|$)").cast(pl.Int32).alias("op_id"),
            pl.when(number.str.contains(r"^\d{7}$"))
            .then(0)
            .when(number.str.contains(r"^(?:Parent\d{7}|\d{7}P)$"))
            .then(1)
            .otherwise(2)
            .alias("rank"),
            pl.col("stop_name").alias("op_name"),
            *(pl.col(f"stop_{axis}").str.strip_chars().cast(pl.Float64, strict=False).alias(axis) for axis in axes),
        )
        .drop_nulls(["op_id", *axes])
        .filter(pl.col("rank") == pl.col("rank").min().over("op_id"))
        .group_by("op_id", maintain_order=True)
        .agg(pl.col("op_name").first(), *(pl.col(axis).mean().round(5) for axis in axes))
    )
