"""Digitraffic, the passenger trains of the Finnish railways with their real times (Fintraffic, open data).

    python -m transformer import digitraffic --months 2025-01 --to data/finland

A whole month is downloaded as one zip with a JSON file a day, which appears on the 5th of the next month. Other dates
are downloaded one by one. A train is a JSON object with the rows of its timetable in the order of the route. A row is
an arrival or a departure, with UTC times. A file may hold an array of trains, one train, or one train a line, and may
be gzipped. Trains are read one after another, so the memory does not depend on the size of a file.

This module decides what the files leave open:

Observed. An event is observed if it has an `actualTime`. `liveEstimateTime` and `differenceInMinutes` may come from a
forecast, so they are never read.

Passing. A row whose `trainStopping` is false is a pass-through. Its arrival and its departure are one event.

Passenger trains. `trainCategory` is `Long-distance` or `Commuter`. All others are left out.

Cancelled. A row is cancelled if the row or its train is. A time of a cancelled row is not observed.

Points. A station's number is unique in its country only, so the key is `fi:FI:1000`. Names and positions are in
`stations.json`, which is downloaded too, and is found next to the raw files.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from transformer.data.sources.download import PublishedFile
from transformer.data.sources.expressions import first_problem, near_service_date, without_planned_time
from transformer.data.sources.periods import dates_between, month_span
from transformer.data.sources.source import About, RawFile, Source, Unreadable
from transformer.data.tables import TIMESTAMP
from transformer.errors import UserError
from transformer.parquet import UNREADABLE
from transformer.text import one_line

API = "https://rata.digitraffic.fi/api/v1/"
HEADERS = {"Digitraffic-User": "train-delay-transformer", "Accept-Encoding": "gzip"}  # the server asks for both
REMEDY = "remove it and download it again"
STATIONS = "stations.json"
PASSENGERS = {"Long-distance": "long_distance", "Commuter": "regional"}
REQUIRED = ("trainNumber", "departureDate", "timeTableRows")
CHUNK = 1 << 22  # bytes
CHECKED = 1 << 20  # characters, with a whole train
SNIFFED = 1 << 16  # characters that tell whether a file holds trains
LONGEST_TRAIN = 1 << 24  # characters; a train of 200 rows has some 100,000
TRAINS_AT_ONCE = 4_000  # more than a day has; some 60 MB of text

_ROW = pl.Struct(
    {
        "stationShortCode": pl.String(),
        "stationUICCode": pl.Int64(),
        "countryCode": pl.String(),
        "type": pl.String(),
        "trainStopping": pl.Boolean(),
        "cancelled": pl.Boolean(),
        "scheduledTime": pl.String(),
        "actualTime": pl.String(),
    }
)
_TRAIN: dict[str, pl.DataType] = {
    "trainNumber": pl.Int64(),
    "departureDate": pl.String(),
    "operatorShortCode": pl.String(),
    "trainType": pl.String(),
    "trainCategory": pl.String(),
    "commuterLineID": pl.String(),
    "cancelled": pl.Boolean(),
    "version": pl.Int64(),
    "timeTableRows": pl.List(_ROW),
}
_ARCHIVE = re.compile(r"digitraffic-rata-trains-(\d{4})-(0[1-9]|1[0-2])(?:-01)?\.zip")
_DAY = re.compile(r"(\d{4}-\d\d-\d\d)_?trains\.json(?:\.gz)?")
_DEPARTURE = re.compile(r'"departureDate"\s*:\s*"(\d{4}-\d\d-\d\d)"')
_SUFFIXES = (".json", ".ndjson", ".jsonl", ".gz", ".zip")
_BETWEEN = re.compile(r"[\s,\[\]\ufeff]*")  # what may stand between two trains
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


class Digitraffic(Source):
    """Finland: the whole network."""

    about = About(
        name="digitraffic",
        title="Digitraffic, timetables and real times of Finnish trains",
        country="Finland",
        timezone="Europe/Helsinki",
        depth="2016-01 to last month in monthly zips; single dates of some 720 days",
        size="25 MB, 2 M events",
        licence="CC BY 4.0; source: Fintraffic / digitraffic.fi",
        unobserved="a row without an actual time was not observed",
        pass_throughs=True,
        page="https://www.digitraffic.fi/en/railway-traffic/",
    )
    layout = "digitraffic-rata-trains-YYYY-MM-01.zip or YYYY-MM-DD_trains.json"

    def published(self, days: Sequence[date]) -> list[PublishedFile]:
        wanted = set(days)
        months = sorted({month_span(day.year, day.month) for day in days})
        files = []
        for first, last in months:
            of_month = dates_between(first, last)
            if wanted.issuperset(of_month):
                name = f"digitraffic-rata-trains-{first}.zip"
                files.append(PublishedFile(name, f"{API}trains/dumps/{name}", first, last, HEADERS))
                continue
            for day in sorted(wanted.intersection(of_month)):
                files.append(PublishedFile(f"{day}_trains.json", f"{API}trains/{day}", day, day, HEADERS))
        if not files:
            return []
        stations = PublishedFile(STATIONS, f"{API}metadata/stations", files[0].first, files[-1].last, HEADERS)
        return [stations, *files]

    def find(self, folder: Path) -> list[RawFile]:
        found = []
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and (span := _span(path)):
                found.append(RawFile((path,), *span))
        return sorted(found, key=lambda file: file.first)

    def check(self, file: RawFile) -> None:
        [path] = file.paths
        try:
            start = "".join(_start(_text(path, part), CHECKED) for part in _parts(path)[:1])
        except _BROKEN as error:
            raise UserError(f"{path} cannot be read ({one_line(str(error))[:160]}); {REMEDY}") from None
        if not start.strip():
            raise UserError(f"{path} is empty; {REMEDY}")
        if start.lstrip().startswith("<"):
            raise UserError(f"{path} is an HTML page, not JSON; {REMEDY}")
        if start.find("{") >= 0 and (missing := [field for field in REQUIRED if f'"{field}"' not in start]):
            raise UserError(f"{path}: its trains lack {', '.join(missing)}; {REMEDY}")

    def scan(self, file: RawFile, counts: Counter[str]) -> Iterator[pl.LazyFrame | Unreadable]:
        [path] = file.paths
        for part in _parts(path):
            try:
                for trains in _batches(_split(_text(path, part), counts)):
                    yield _visits(trains, counts).lazy()
            except (*_BROKEN, *UNREADABLE, ValueError) as error:
                yield Unreadable(f"{part or path.name}: {one_line(str(error))[:160]}")

    def points(self, folder: Path) -> pl.DataFrame:
        found = [folder] if folder.is_file() else sorted(folder.rglob(f"{STATIONS}*"))
        return _stations(found[0]) if found else super().points(folder)


# --- Files -----------------------------------------------------------------------------------------------------------
def _span(path: Path) -> tuple[date, date] | None:
    """The dates in the name, or else those of the trains in the file; None = the file holds no trains."""
    try:
        if match := _ARCHIVE.fullmatch(path.name):
            return month_span(int(match[1]), int(match[2]))
        if match := _DAY.fullmatch(path.name):
            day = date.fromisoformat(match[1])
            return day, day
        days = sorted({date.fromisoformat(day) for part in _parts(path) for day in _departures(path, part)})
    except (*_BROKEN, ValueError):
        return None
    return (days[0], days[-1]) if days else None


def _departures(path: Path, part: str) -> Iterator[str]:
    """The departure dates in the text of a file, if its beginning looks like trains."""
    chunks = _text(path, part)
    text = _start(chunks, SNIFFED)
    if '"timeTableRows"' not in text or '"departureDate"' not in text:
        return
    yield from set(_DEPARTURE.findall(text))
    for chunk in chunks:
        text = text[-64:] + chunk  # a date may lie across two chunks
        yield from set(_DEPARTURE.findall(text))


def _parts(path: Path) -> list[str]:
    """The JSON files in a zip, sorted. A file that is no zip is one part without a name."""
    if path.suffix.lower() != ".zip":
        return [""]
    with zipfile.ZipFile(path) as archive:
        return sorted(
            name
            for name in archive.namelist()
            if name.lower().endswith((".json", ".json.gz", ".ndjson")) and "__MACOSX" not in name
        )


def _text(path: Path, part: str) -> Iterator[str]:
    """The text of a file, or of a part of a zip, in pieces. Its first bytes tell gzip, which may be cut off."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path)) if part else None
        packed: Any = stack.enter_context(archive.open(part) if archive else path.open("rb"))
        if packed.peek(2).startswith(b"\x1f\x8b"):
            packed = stack.enter_context(gzip.open(packed))
        with suppress(EOFError):
            while piece := packed.read1(CHUNK):
                yield decoder.decode(piece)


def _start(chunks: Iterator[str], least: int) -> str:
    """The first chunks, so many that they have at least `least` characters."""
    text = ""
    while len(text) < least and (chunk := next(chunks, "")):
        text += chunk
    return text


def _split(chunks: Iterator[str], counts: Counter[str]) -> Iterator[str]:
    """Yield the JSON of each train. A train that is cut off at the end is counted.

    Raises:
        ValueError: a train inside the file is no JSON.
    """
    decoder = json.JSONDecoder()
    rest, array, last = "", False, ""
    for chunk in chunks:
        rest += chunk
        array = array or (not last and rest.lstrip().startswith("["))
        at = _between(rest, 0)
        while at < len(rest):
            try:
                _, end = decoder.raw_decode(rest, at)
            except json.JSONDecodeError as error:
                if len(rest) - at > LONGEST_TRAIN:
                    raise ValueError(f"a train is no JSON ({error.msg})") from None
                break
            yield rest[at:end]
            at = _between(rest, end)
        last = rest[:at].rstrip()[-1:] or last
        rest = rest[at:]
    if not last and not rest:
        raise ValueError("it is empty")
    if rest.count('"timeTableRows"') > 1:
        raise ValueError("a train is no JSON")
    if rest or (array and last != "]"):
        counts["rows"] += 1
        counts["dropped_truncated_line"] += 1


def _between(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    assert match
    return match.end()


def _batches(trains: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(trains, TRAINS_AT_ONCE)):
        yield batch


# --- Rows ------------------------------------------------------------------------------------------------------------
def _visits(trains: Sequence[str], counts: Counter[str]) -> pl.DataFrame:
    """Return the visits of trains. If a train comes twice, its highest version counts."""
    found = pl.read_json(f"[{','.join(trains)}]".encode(), schema=_TRAIN).sort("version", descending=True)
    newest = found.unique(["departureDate", "trainNumber"], keep="first", maintain_order=True)
    older = _rows(found) - _rows(newest)
    counts["rows"] += older
    counts["dropped_duplicate"] += older
    rows = (
        newest.rename({"cancelled": "train_cancelled"})
        .with_row_index("train")
        .explode("timeTableRows")
        .unnest("timeTableRows")
        .with_columns(
            pl.col("departureDate").str.to_date("%Y-%m-%d", strict=False).alias("service_date"),
            (pl.col("cancelled").fill_null(False) | pl.col("train_cancelled").fill_null(False)).alias("cancelled"),
            _instant("scheduledTime").alias("planned"),
            _instant("actualTime").alias("actual"),
        )
        .with_columns(
            pl.when(~pl.col("cancelled")).then(pl.col("actual")).alias("observed"),
            (_unreadable("scheduledTime", "planned") | _unreadable("actualTime", "actual")).alias("bad_time"),
            _starts_visit().cum_sum().over("train").cast(pl.Int64).alias("order"),
        )
    )
    kinds = {"arr": pl.col("type") == "ARRIVAL", "dep": pl.col("type") == "DEPARTURE"}
    visits = rows.group_by("train", "order", maintain_order=True).agg(
        pl.col("service_date", "trainNumber", "stationUICCode", "countryCode", "stationShortCode").first(),
        pl.col("trainCategory", "trainType", "commuterLineID", "operatorShortCode").first(),
        *(
            pl.col(name).filter(kind).first().alias(f"{name}_{side}")
            for side, kind in kinds.items()
            for name in ("planned", "observed", "cancelled")
        ),
        (~pl.col("trainStopping").fill_null(True)).all().alias("passes"),
        pl.col("bad_time").any(),
    )
    category, number = pl.col("trainCategory"), pl.col("trainNumber").cast(pl.String)
    return visits.select(
        "service_date",
        number.alias("train_id"),
        pl.format("fi:{}:{}", "countryCode", "stationUICCode").alias("source_id"),
        pl.col("stationShortCode").alias("op_name"),
        "order",
        *(f"{name}_{side}" for name in ("planned", "observed", "cancelled") for side in kinds),
        "passes",
        number.alias("train_number"),
        category.replace_strict(PASSENGERS, default="other", return_dtype=pl.String).alias("train_type"),
        pl.coalesce(pl.col("commuterLineID").replace("", None), "trainType").alias("train_relation"),
        pl.col("operatorShortCode").alias("operator"),
        first_problem(
            {
                "unknown_mode": category.is_null(),
                "no_train": ~category.is_in(list(PASSENGERS)),
                "bad_service_date": pl.col("service_date").is_null(),
                "bad_train_number": number.is_null(),
                "bad_point_number": pl.col("countryCode").is_null() | pl.col("stationUICCode").is_null(),
                "bad_time": pl.col("bad_time"),
                "no_planned_time": without_planned_time(),
            }
        ),
    )


def _rows(trains: pl.DataFrame) -> int:
    return int(trains["timeTableRows"].list.len().sum())


def _starts_visit() -> pl.Expr:
    """Whether a row is the first of a visit. Only a departure that follows the arrival at its station is not."""
    key = pl.struct("countryCode", "stationUICCode")
    follows = (pl.col("type") == "DEPARTURE") & (pl.col("type").shift(1) == "ARRIVAL") & (key == key.shift(1))
    return ~follows.over("train").fill_null(False)


def _instant(name: str) -> pl.Expr:
    return (
        pl.col(name).str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", strict=False).dt.replace_time_zone("UTC").cast(TIMESTAMP)
    )


def _unreadable(text: str, instant: str) -> pl.Expr:
    return pl.col(text).is_not_null() & ~near_service_date(instant)


def _stations(path: Path) -> pl.DataFrame:
    columns: dict[str, pl.DataType] = {
        "stationName": pl.String(),
        "stationUICCode": pl.Int64(),
        "countryCode": pl.String(),
        "latitude": pl.Float64(),
        "longitude": pl.Float64(),
    }
    try:
        stations = pl.read_json("".join(_text(path, "")).encode(), schema=columns)
    except (*_BROKEN, *UNREADABLE) as error:
        raise UserError(f"{path}: no list of stations ({one_line(str(error))[:160]}); {REMEDY}") from None
    return stations.select(
        pl.format("fi:{}:{}", "countryCode", "stationUICCode").alias("source_id"),
        pl.col("stationName").alias("op_name"),
        pl.col("latitude").alias("lat"),
        pl.col("longitude").alias("lon"),
    ).drop_nulls("source_id")
