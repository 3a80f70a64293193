"""Static GTFS feeds: the timetable, the stations and the kinds of routes that a GTFS-Realtime recording refers to.

A feed is a zip or a folder of CSV tables (`stop_times.txt`), or of Parquet tables whose names end in the table's name
(`STOP_TIMES.parquet`, or MBTA LAMP's `STOP_TIMES/timestamp=.../*.parquet`). Reference: https://gtfs.org/documentation.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path
from typing import cast

import polars as pl

from transformer.data.sources.infrabel import train_type
from transformer.errors import UserError
from transformer.parquet import UNREADABLE
from transformer.text import one_line

log = logging.getLogger(__name__)

TRAINS = "1,2,100-199,400-499"  # metro, and rail in its basic and its extended types; no trams and no buses
_REQUIRED = {
    "stops": ("stop_id",),
    "routes": ("route_id", "route_type"),
    "trips": ("trip_id", "route_id", "service_id"),
    "stop_times": ("trip_id", "stop_id", "stop_sequence", "arrival_time", "departure_time"),
}
_OPTIONAL = {
    "agency": ("agency_id", "agency_name", "agency_timezone"),
    "feed_info": ("feed_publisher_name",),
    "stops": ("stop_name", "stop_lat", "stop_lon", "parent_station"),
    "routes": ("agency_id", "route_short_name", "route_long_name"),
    "trips": ("trip_short_name",),
    "calendar": ("start_date",),
    "calendar_dates": ("date",),
    "frequencies": ("trip_id",),
}
TABLES = ("agency", "feed_info", "stops", "routes", "trips", "stop_times", "calendar", "calendar_dates", "frequencies")
_LONG_DISTANCE, _REGIONAL = (101, 102, 105), (103, 104, 106, 107, 108, 109)  # extended route types


def route_types(text: str) -> tuple[int, ...]:
    """The numbers of a list such as `2,100-199`.

    Raises:
        UserError: a part is no number and no range.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if not match:
            raise UserError(f"--route-types {text!r}: {part.strip()!r} is no route type; write 3 or 2,100-199")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(found)


@dataclass(frozen=True)
class FeedFiles:
    """The tables of a static feed on disk."""

    path: Path  # the zip, or the folder
    tables: tuple[tuple[str, Path], ...]  # table and file; in a zip, table and member

    @property
    def zipped(self) -> bool:
        return self.path.is_file()


def static_feeds(paths: Iterable[Path]) -> list[FeedFiles]:
    """The static feeds among files, sorted by path. Each has at least stops and routes."""
    folders: dict[Path, dict[str, Path]] = {}
    feeds = []
    for path in paths:
        if path.suffix == ".zip":
            feeds += [FeedFiles(path, tuple(tables.items()))] if (tables := _zip_tables(path)) else []
        elif path.suffix == ".txt" and path.stem in TABLES:
            folders.setdefault(path.parent, {})[path.stem] = path
        elif path.suffix == ".parquet" and (place := _parquet_table(path)):
            folders.setdefault(place[0], {})[place[1]] = path
    feeds += [FeedFiles(folder, tuple(sorted(tables.items()))) for folder, tables in folders.items()]
    return sorted(
        (feed for feed in feeds if {"stops", "routes"} <= dict(feed.tables).keys()), key=lambda feed: feed.path
    )


def _zip_tables(path: Path) -> dict[str, Path]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [Path(name) for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError):
        return {}
    return {name.stem: name for name in names if name.suffix == ".txt" and name.stem in TABLES}


def _parquet_table(path: Path) -> tuple[Path, str] | None:
    """The folder of a feed and the table's name. LAMP keeps each table in a folder of its own."""
    for table in sorted(TABLES, key=len, reverse=True):
        if path.stem.lower() == table or path.stem.lower().endswith(f"static_{table}"):
            return path.parent, table
        for folder in path.parents[:2]:
            if folder.name.lower() == table:
                return folder.parent, table
    return None


def open_feed(files: FeedFiles) -> StaticFeed:
    """Read a feed; the two feeds of the last calls stay in memory.

    Raises:
        UserError: a table is damaged, or a column is missing.
    """
    return _opened(files, _stamps(files))


def first_date(files: FeedFiles) -> date | None:
    """The first service date of a feed's calendars."""
    return _first_date(files, _stamps(files))


def _stamps(files: FeedFiles) -> tuple[int, ...]:
    """Change times of the files, so that a changed feed is read again."""
    paths = [files.path] if files.zipped else [path for _, path in files.tables]
    return tuple(path.stat().st_mtime_ns for path in paths)


@lru_cache(maxsize=2)
def _opened(files: FeedFiles, _: tuple[int, ...]) -> StaticFeed:
    return StaticFeed(files)


@lru_cache(maxsize=1000)
def _first_date(files: FeedFiles, _: tuple[int, ...]) -> date | None:
    return StaticFeed(files).first_date()


class StaticFeed:
    """The tables of a feed. Each is read when it is asked for."""

    def __init__(self, files: FeedFiles) -> None:
        self.path = files.path
        self._files = files
        self._timetables: dict[tuple[str, ...], pl.DataFrame] = {}

    @cached_property
    def timezone(self) -> str:
        """The zone of the agencies, which is one for the whole feed."""
        zones = self._table("agency")["agency_timezone"].drop_nulls()
        return str(zones[0]) if len(zones) else "UTC"

    @cached_property
    def name(self) -> str:
        """A word for the feed in the ids of its points, from its publisher or else from its first agency."""
        names = [*self._table("feed_info")["feed_publisher_name"], *self._table("agency")["agency_name"].sort()]
        words = (re.sub(r"[^a-z0-9]+", "-", (name or "").lower()).strip("-") for name in names)
        return next((word for word in words if word), "feed")

    @cached_property
    def stops(self) -> pl.DataFrame:
        """`stop_id` and the `station`, which is the parent of a platform; name and position of the station."""
        own = self._table("stops").unique("stop_id", keep="first", maintain_order=True)
        position = [
            pl.col(f"stop_{axis}").cast(pl.Float64, strict=False).round(5).alias(axis) for axis in ("lat", "lon")
        ]
        named = own.select(pl.col("stop_id").alias("station"), pl.col("stop_name").alias("op_name"), *position)
        parent = pl.col("parent_station")
        station = pl.when(parent.is_in(own["stop_id"].implode())).then(parent).otherwise("stop_id").alias("station")
        return own.select("stop_id", station).join(named, on="station", how="left", maintain_order="left")

    @cached_property
    def routes(self) -> pl.DataFrame:
        """`route_id`, `route_type`, and what a journey takes from its route."""
        agencies = self._table("agency").select("agency_id", "agency_name").unique("agency_id", keep="first")
        kind, short = pl.col("route_type"), pl.col("route_short_name").fill_null("")
        by_kind = (
            pl.when(kind.is_in(_LONG_DISTANCE))
            .then(pl.lit("long_distance"))
            .when(kind.is_in(_REGIONAL))
            .then(pl.lit("regional"))
            .when(kind.is_in((2, 100)))
            .then(train_type("short"))
            .otherwise(pl.lit("other"))
        )
        only = agencies["agency_name"][0] if agencies.height == 1 else None
        return (
            self._table("routes")
            .unique("route_id", keep="first", maintain_order=True)
            .with_columns(kind.cast(pl.Int64, strict=False), short.alias("short"))
            .join(agencies, on="agency_id", how="left", maintain_order="left")
            .select(
                "route_id",
                "route_type",
                by_kind.alias("train_type"),
                pl.coalesce("route_short_name", "route_long_name").alias("train_relation"),
                pl.coalesce("agency_name", pl.lit(only, pl.String)).alias("operator"),
            )
        )

    @cached_property
    def trips(self) -> pl.DataFrame:
        """`trip_id`, its number, and the columns of `routes`. Trips that repeat by frequency are left out."""
        found = self._table("trips").unique("trip_id", keep="first", maintain_order=True)
        return (
            found.join(self._table("frequencies"), on="trip_id", how="anti", maintain_order="left")
            .join(self.routes, on="route_id", how="left", maintain_order="left")
            .rename({"trip_short_name": "train_number"})
        )

    def first_date(self) -> date | None:
        texts = [*self._table("calendar")["start_date"], *self._table("calendar_dates")["date"]]
        days = pl.Series(texts, dtype=pl.String).str.to_date("%Y%m%d", strict=False)
        return cast("date | None", days.min())

    def calls(self, types: Sequence[int]) -> pl.DataFrame:
        """The timetable of the trips whose route has one of these types.

        Returns:
            `trip_id`, `seq`, `station`, `again` (visits of the station in the rest of the trip), and `planned_arr_s`
            and `planned_dep_s` in seconds since noon minus 12 h of the service date. An origin has no arrival, and a
            terminus no departure.
        """
        key = tuple(map(str, types))
        if key not in self._timetables:
            kept = self.trips.filter(pl.col("route_type").is_in(types))
            self._timetables[key] = self._calls(kept)
        return self._timetables[key]

    def _calls(self, trips: pl.DataFrame) -> pl.DataFrame:
        with self._scan("stop_times") as table:
            rows = table.filter(pl.col("trip_id").is_in(trips["trip_id"].implode())).select(
                "trip_id",
                pl.col("stop_sequence").cast(pl.Int64, strict=False).alias("seq"),
                "stop_id",
                *(_seconds(f"{name}_time").alias(f"planned_{name[:3]}_s") for name in ("arrival", "departure")),
            )
            found = self._collected(rows, "stop_times")
        last = pl.col("seq").max().over("trip_id") == pl.col("seq")
        first = pl.col("seq").min().over("trip_id") == pl.col("seq")
        return (
            found.drop_nulls("seq")
            .unique(["trip_id", "seq"], keep="first")
            .join(self.stops.select("stop_id", "station"), on="stop_id", how="left")
            .sort("trip_id", "seq")
            .select(
                "trip_id",
                "seq",
                pl.coalesce("station", "stop_id").alias("station"),
                pl.when(~first).then(pl.coalesce("planned_arr_s", "planned_dep_s")).alias("planned_arr_s"),
                pl.when(~last).then(pl.coalesce("planned_dep_s", "planned_arr_s")).alias("planned_dep_s"),
            )
            .with_columns(from_the_end("trip_id", "station"))
        )

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """The types of the routes, sorted.

        Raises:
            UserError: a table lacks a column without which no train can be read.
        """
        if "stop_times" not in dict(self._files.tables):
            log.warning(
                "%s has no stop_times, so only trips whose delays and times the recording has are read", self.path
            )
        for table in _REQUIRED:
            with self._scan(table):
                pass
        return tuple(sorted(set(self.routes["route_type"].drop_nulls())))

    def _table(self, table: str) -> pl.DataFrame:
        with self._scan(table) as rows:
            return self._collected(rows, table)

    def _collected(self, rows: pl.LazyFrame, table: str) -> pl.DataFrame:
        try:
            return rows.collect(engine="streaming")
        except UNREADABLE as error:
            raise UserError(f"{self.path}: {table} cannot be read ({one_line(str(error))[:160]})") from None

    @contextmanager
    def _scan(self, table: str) -> Iterator[pl.LazyFrame]:
        """The known columns of a table as text without spaces around it; null for empty. Without the table, no rows."""
        required, optional = _REQUIRED.get(table, ()), _OPTIONAL.get(table, ())
        source = dict(self._files.tables).get(table)
        if source is None:
            yield pl.LazyFrame(schema=dict.fromkeys([*required, *optional], pl.String))
            return
        with self._on_disk(source) as path:
            try:
                rows = (
                    pl.scan_parquet(path, glob=False)
                    if path.suffix == ".parquet"
                    else pl.scan_csv(
                        path, infer_schema=False, truncate_ragged_lines=True, encoding="utf8-lossy", glob=False
                    )
                )
                names = {name.strip().strip("\ufeff"): name for name in rows.collect_schema().names()}
            except (*UNREADABLE, OSError) as error:
                raise UserError(f"{self.path}: {table} cannot be read ({one_line(str(error))[:160]})") from None
            if missing := [name for name in required if name not in names]:
                raise UserError(f"{self.path}: {table} lacks the column {missing[0]!r}; get the feed again")
            yield rows.select(
                _text(names[name], rows.collect_schema()).alias(name) if name in names else _NOTHING.alias(name)
                for name in (*required, *optional)
            )

    @contextmanager
    def _on_disk(self, source: Path) -> Iterator[Path]:
        if not self._files.zipped:
            yield source
            return
        with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(self.path) as archive:
            path = Path(scratch) / source.name
            try:
                with archive.open(source.as_posix()) as member, path.open("wb") as file:
                    shutil.copyfileobj(member, file, 1 << 20)
            except zipfile.BadZipFile as error:
                raise UserError(f"{self.path}: {source} cannot be read ({one_line(str(error))[:160]})") from None
            yield path


_NOTHING = pl.lit(None, pl.String)


def from_the_end(*journey_and_stop: str) -> pl.Expr:
    """How often a stop comes again later in its journey; 0 = never. Rows must be in order."""
    later = pl.len().over(journey_and_stop) - 1 - pl.int_range(pl.len()).over(journey_and_stop)
    return later.cast(pl.Int64).alias("again")


def _text(name: str, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    column = pl.col(name)
    if isinstance(schema[name], pl.Duration):
        column = column.dt.total_seconds()
    elif isinstance(schema[name], pl.Date):
        column = column.dt.strftime("%Y%m%d")
    text = column.cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)


def _seconds(name: str) -> pl.Expr:
    """Seconds of a text such as `25:04:00`, or of a number of seconds."""
    parts = pl.col(name).str.split_exact(":", 2).struct
    hours, minutes, seconds = (parts.field(f"field_{number}").cast(pl.Int64, strict=False) for number in range(3))
    return pl.coalesce(hours * 3600 + minutes * 60 + seconds, pl.col(name).cast(pl.Int64, strict=False))
