"""Recordings of GTFS-Realtime trip updates, in all their layouts, as one table of updates.

A recording is a folder of snapshots (protobuf or JSON, also packed: `.gz`, `.xz`, `.bz2`, tar, zip), or Parquet: the
hourly files of MBTA LAMP, or the files of gtfs-rt-aggregator. Contents decide, because names of snapshots differ.
Reference of the fields: https://gtfs.org/documentation/realtime/reference.
"""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import polars as pl

from transformer.parquet import UNREADABLE, parquet_schema
from transformer.text import one_line

log = logging.getLogger(__name__)

# One row for a stop that a snapshot lists in a trip. A trip without stops has one row without a stop.
UPDATE_SCHEMA: dict[str, pl.DataType] = {
    "seen": pl.Int64(),  # Unix seconds of the snapshot
    "trip_id": pl.String(),
    "start_date": pl.String(),  # YYYYMMDD
    "route_id": pl.String(),
    "trip_status": pl.String(),  # schedule relationship by its name; null = SCHEDULED
    "stop_sequence": pl.Int64(),
    "stop_id": pl.String(),
    "stop_status": pl.String(),
    "arr_time": pl.Int64(),  # predicted, Unix seconds
    "arr_delay": pl.Int64(),  # seconds
    "dep_time": pl.Int64(),
    "dep_delay": pl.Int64(),
}
ROWS_AT_ONCE = 500_000  # updates that are in memory together
HEAD_BYTES = 4096  # of a snapshot, which tell its kind and mostly its time
_PACKED: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
_SNAPSHOT = (".pb", ".pbf", ".bin", ".proto", ".json")
_BROKEN = (OSError, EOFError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
_PB_HEAD = re.compile(rb"\x0a.\x0a\x03[12]\.0", re.DOTALL)
_JSON_HEAD = re.compile(rb'\s*\{.*?"(?:header|entity)"', re.DOTALL)
_JSON_TIME = re.compile(rb'"header"\s*:\s*\{[^{}]*?"timestamp"\s*:\s*"?(\d{9,10})')
_TRIP_STATUS = {1: "ADDED", 2: "UNSCHEDULED", 3: "CANCELED", 5: "REPLACEMENT", 6: "DUPLICATED", 7: "DELETED", 8: "NEW"}
_STOP_STATUS = {1: "SKIPPED", 2: "NO_DATA", 3: "UNSCHEDULED"}

_LAMP = {
    "seen": "feed_timestamp",
    "trip_id": "trip_update.trip.trip_id",
    "start_date": "trip_update.trip.start_date",
    "route_id": "trip_update.trip.route_id",
    "trip_status": "trip_update.trip.schedule_relationship",
    "stop_sequence": "trip_update.stop_time_update.stop_sequence",
    "stop_id": "trip_update.stop_time_update.stop_id",
    "stop_status": "trip_update.stop_time_update.schedule_relationship",
    "arr_time": "trip_update.stop_time_update.arrival.time",
    "arr_delay": "trip_update.stop_time_update.arrival.delay",
    "dep_time": "trip_update.stop_time_update.departure.time",
    "dep_delay": "trip_update.stop_time_update.departure.delay",
}
_AGGREGATOR = {"trip_id": "trip_tripId", "start_date": "trip_startDate", "route_id": "trip_routeId"}
_AGGREGATOR |= {"trip_status": "trip_scheduleRelationship"}

Row = tuple[int | str | None, ...]
Key = tuple[str | None, ...]  # entity, trip and start date


class _UnreadableError(Exception):
    """A snapshot that is cut off, or no snapshot."""


class Snapshot(NamedTuple):
    name: str
    content: bytes


class Listed(NamedTuple):
    """A trip as one or more successive snapshots list it."""

    seen: int  # Unix seconds of the last of them
    content: Any
    rows: list[Row]  # updates without `seen`

    def updates(self) -> list[Row]:
        return [(self.seen, *row) for row in self.rows]


# --- Kinds of files, and the time that they cover ---------------------------------------------------------------------
def is_archive(path: Path) -> bool:
    return path.suffix == ".zip" or path.name.endswith(_TAR)


def is_snapshot(name: str) -> bool:
    path = Path(name)
    return (Path(path.stem) if path.suffix in _PACKED else path).suffix.lower() in _SNAPSHOT


def covered(path: Path) -> tuple[int, int] | None:
    """The Unix seconds of the first and the last snapshot of a file. None = the file is no recording."""
    if path.suffix == ".parquet":
        return _parquet_span(path)
    if is_archive(path):
        times = [time for snapshot in _members(path, HEAD_BYTES) if (time := _time_of(snapshot, None))]
    elif is_snapshot(path.name):
        times = [time] if (time := _time_of(_loose(path, HEAD_BYTES), path)) else []
    else:
        return None
    return (min(times), max(times)) if times else None


def _parquet_span(path: Path) -> tuple[int, int] | None:
    try:
        rows = pl.scan_parquet(path, glob=False)
        columns = rows.collect_schema().names()
        if not _is_recording(columns):
            return None
        seen = rows.select(_seen(columns, rows.collect_schema()).alias("seen"))
        first, last = seen.select(pl.min("seen"), pl.max("seen").alias("last")).collect().row(0)
    except (*UNREADABLE, OSError):
        return None
    return (first, last) if first else None


def _is_recording(columns: Iterable[str]) -> bool:
    names = set(columns)
    return {"feed_timestamp", _LAMP["trip_id"]} <= names or {"trip_tripId", "stopTimeUpdate"} <= names


def _seen(columns: Iterable[str], schema: Mapping[str, pl.DataType]) -> pl.Expr:
    known = [name for name in ("feed_timestamp", "lastSeen", "feedTimestamp", "fetchTime") if name in columns]
    times = [pl.col(name).dt.epoch("s") if schema[name].is_temporal() else pl.col(name) for name in known]
    return pl.coalesce(time.cast(pl.Int64) for time in times)


def _loose(path: Path, size: int = -1) -> Snapshot:
    try:
        with _PACKED.get(path.suffix, open)(path, "rb") as file:
            return Snapshot(path.name, file.read(size))
    except _BROKEN as error:
        _warn(size, "%s cannot be read (%s), and is left out", path, error)
        return Snapshot(path.name, b"")


def _warn(size: int, line: str, path: Path, error: Exception) -> None:
    if size < 0:  # whole snapshots are read once, their heads several times
        log.warning(line, path, one_line(str(error))[:160])


def _members(path: Path, size: int = -1) -> Iterator[Snapshot]:
    """The snapshots in an archive. One that ends early has those before its end."""
    try:
        yield from _zip_members(path, size) if path.suffix == ".zip" else _tar_members(path, size)
    except _BROKEN as error:
        _warn(size, "%s is cut off or damaged (%s); the rest of it is left out", path, error)
        yield Snapshot(path.name, b"")


def _zip_members(path: Path, size: int) -> Iterator[Snapshot]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if is_snapshot(name):
                with archive.open(name) as file:
                    yield Snapshot(name, _unpacked(name, file, size))


def _tar_members(path: Path, size: int) -> Iterator[Snapshot]:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() and is_snapshot(member.name) else None
            if file is not None:
                yield Snapshot(member.name, _unpacked(member.name, file, size))


def _unpacked(name: str, file: IO[bytes], size: int) -> bytes:
    opener = _PACKED.get(Path(name).suffix)
    if opener is None:
        return file.read(size)
    with opener(file, "rb") as unpacked:
        return bytes(unpacked.read(size))


def _time_of(snapshot: Snapshot, path: Path | None) -> int | None:
    """The time of a snapshot from its first bytes, or from the whole file if its header stands at the end."""
    head = snapshot.content
    if _PB_HEAD.match(head):
        from google.transit.gtfs_realtime_pb2 import FeedHeader

        return int(FeedHeader.FromString(head[2 : 2 + head[1]]).timestamp) or None
    if not _JSON_HEAD.match(head):
        return None
    if match := _JSON_TIME.search(head):
        return int(match[1])
    if path is None:
        return None
    match = _JSON_TIME.search(_loose(path).content)
    return int(match[1]) if match else None


# --- Updates ----------------------------------------------------------------------------------------------------------
def updates(paths: Iterable[Path], unreadable: Callable[[str], None]) -> Iterator[pl.LazyFrame]:
    """The updates of a recording, in tables that fit in memory, with the columns of UPDATE_SCHEMA.

    Args:
        unreadable: is called with the name of each snapshot that cannot be read.

    Raises:
        UserError: a Parquet file is damaged.
    """
    for path in paths:
        if path.suffix == ".parquet":
            yield from _parquet_updates(path)
    yield from _snapshot_updates([path for path in paths if path.suffix != ".parquet"], unreadable)


def _parquet_updates(path: Path) -> Iterator[pl.LazyFrame]:
    schema = parquet_schema(path, "get it again")
    rows = pl.scan_parquet(path, glob=False)
    flat = "stopTimeUpdate" not in schema
    size = ROWS_AT_ONCE if flat else ROWS_AT_ONCE // 20  # a row of trips has some 20 stops
    for start in range(0, rows.select(pl.len()).collect().item(), size):
        part = rows.slice(start, size)
        yield _flat_updates(part, schema) if flat else _nested_updates(part, schema)


def _flat_updates(rows: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
    return _conformed(rows.with_columns(_seen(schema.names(), schema).alias("feed_timestamp")), _LAMP)


def _nested_updates(rows: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
    seen = _seen(schema.names(), schema)
    of_trip = [name for name in _AGGREGATOR.values() if name in schema]
    stops = rows.select(seen.alias("seen"), *of_trip, "stopTimeUpdate").explode("stopTimeUpdate")
    stop = pl.col("stopTimeUpdate").struct
    sides = {"arr": stop.field("arrival").struct, "dep": stop.field("departure").struct}
    return _conformed(
        stops.with_columns(
            stop.field("stopSequence").alias("stop_sequence"),
            stop.field("stopId").alias("stop_id"),
            stop.field("scheduleRelationship").alias("stop_status"),
            *(
                side.field(field).alias(f"{name}_{field}")
                for name, side in sides.items()
                for field in ("time", "delay")
            ),
        ),
        {name: name for name in UPDATE_SCHEMA} | _AGGREGATOR,
    )


def _conformed(rows: pl.LazyFrame, columns: Mapping[str, str]) -> pl.LazyFrame:
    there = rows.collect_schema().names()
    found = rows.select(
        (pl.col(columns[name]) if columns[name] in there else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in UPDATE_SCHEMA.items()
    )
    return found.with_columns(pl.when(pl.col(pl.String) != "").then(pl.col(pl.String)).name.keep())


def _snapshot_updates(paths: Iterable[Path], unreadable: Callable[[str], None]) -> Iterator[pl.LazyFrame]:
    """A trip that is the same in successive snapshots is expanded once, and has the time of the last of them."""
    listed: dict[Key, Listed] = {}
    rows: list[Row] = []
    for snapshot in _snapshots(paths):
        try:
            seen, found = _changes(snapshot, listed)
        except _UnreadableError:
            unreadable(snapshot.name)
            continue
        for key, of_trip in found.items():
            if key in listed and listed[key].rows is not of_trip.rows:
                rows += listed[key].updates()
            listed[key] = of_trip
        if len(rows) >= ROWS_AT_ONCE:
            gone = [key for key, of_trip in listed.items() if of_trip.seen < seen]
            for key in gone:
                rows += listed.pop(key).updates()
            yield pl.DataFrame(rows, schema=UPDATE_SCHEMA, orient="row").lazy()
            rows = []
    rows += [row for of_trip in listed.values() for row in of_trip.updates()]
    if rows:
        yield pl.DataFrame(rows, schema=UPDATE_SCHEMA, orient="row").lazy()


def _snapshots(paths: Iterable[Path]) -> Iterator[Snapshot]:
    for path in paths:
        if is_archive(path):
            yield from _members(path)
        else:
            yield _loose(path)


def _changes(snapshot: Snapshot, listed: Mapping[Key, Listed]) -> tuple[int, dict[Key, Listed]]:
    """The time of a snapshot, and its trips. A trip that has not changed keeps the rows that it has in `listed`."""
    if snapshot.content.lstrip()[:1] == b"{":
        try:
            seen, entities = _json_entities(json.loads(snapshot.content))
            return seen, _expanded(seen, entities, _json_rows, listed)
        except (ValueError, TypeError, AttributeError, KeyError):
            raise _UnreadableError from None
    from google.protobuf.message import DecodeError

    try:
        seen, entities = _pb_entities(snapshot.content)
    except DecodeError:
        raise _UnreadableError from None
    return seen, _expanded(seen, entities, _pb_rows, listed)


def _expanded(
    seen: int,
    entities: Iterable[tuple[Key, Any]],
    rows_of: Callable[[Any], Iterator[Row]],
    listed: Mapping[Key, Listed],
) -> dict[Key, Listed]:
    if not seen:
        raise _UnreadableError
    found = {}
    for key, content in entities:
        before = listed.get(key)
        same = before is not None and before.content == content
        found[key] = Listed(seen, content, before.rows if before is not None and same else list(rows_of(content)))
    return found


def _pb_entities(content: bytes) -> tuple[int, Iterator[tuple[Key, Any]]]:
    from google.transit.gtfs_realtime_pb2 import FeedMessage

    feed = FeedMessage.FromString(content)
    updates = [
        (entity.id, entity.trip_update)
        for entity in feed.entity
        if entity.HasField("trip_update") and not entity.is_deleted
    ]
    for _, update in updates:
        update.ClearField("timestamp")  # changes with every snapshot
    named = (((name, update.trip.trip_id, update.trip.start_date), update) for name, update in updates)
    return int(feed.header.timestamp), named


def _pb_rows(update: Any) -> Iterator[Row]:
    trip = update.trip
    of_trip = (trip.trip_id or None, trip.start_date or None, trip.route_id or None)
    head = (*of_trip, _TRIP_STATUS.get(trip.schedule_relationship))
    if not update.stop_time_update:
        yield (*head, *_NO_STOP)
    for stop in update.stop_time_update:
        yield (
            *head,
            stop.stop_sequence if stop.HasField("stop_sequence") else None,
            stop.stop_id or None,
            _STOP_STATUS.get(stop.schedule_relationship),
            *_pb_event(stop.arrival),
            *_pb_event(stop.departure),
        )


def _pb_event(event: Any) -> tuple[int | None, int | None]:
    return event.time or None, event.delay if event.HasField("delay") else None


_NO_STOP = (None,) * 7


def _json_entities(content: Any) -> tuple[int, Iterator[tuple[Key, Any]]]:
    feed = content.get("response", content)  # Auckland wraps the message
    updates = (
        (str(entity.get("id")), update["trip"], _list(_field(update, "stop_time_update")))
        for entity in _list(feed.get("entity"))
        if (update := _field(entity, "trip_update")) and not _field(entity, "is_deleted")
    )
    named = (
        ((name, _word(trip, "trip_id"), _word(trip, "start_date")), (trip, stops)) for name, trip, stops in updates
    )
    return int(float(_field(feed["header"], "timestamp") or 0)), named


def _json_rows(content: tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]) -> Iterator[Row]:
    trip, stops = content
    of_trip = (_word(trip, "trip_id"), _word(trip, "start_date"), _word(trip, "route_id"))
    head = (*of_trip, _status(trip, _TRIP_STATUS))
    if not stops:
        yield (*head, *_NO_STOP)
    for stop in stops:
        yield (
            *head,
            _whole(_field(stop, "stop_sequence")),
            _word(stop, "stop_id"),
            _status(stop, _STOP_STATUS),
            *_json_event(stop.get("arrival")),
            *_json_event(stop.get("departure")),
        )


def _field(message: Mapping[str, Any], name: str) -> Any:
    """A field by its name in the standard, or by its name in JSON of protobuf libraries. Empty text is none."""
    found = message.get(name)
    if found is None and "_" in name:
        first, *others = name.split("_")
        found = message.get(first + "".join(map(str.capitalize, others)))
    return None if found == "" else found


def _word(message: Mapping[str, Any], name: str) -> str | None:
    found = _field(message, name)
    return None if found is None else str(found)


def _list(value: Any) -> list[Any]:
    """A repeated field, also one that a writer made a single object."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _whole(value: Any) -> int | None:
    """A number, which writers also give as text or with decimals."""
    return None if value is None else round(float(value))


def _status(message: Mapping[str, Any], names: Mapping[int, str]) -> str | None:
    value = _field(message, "schedule_relationship")
    return value if isinstance(value, str) else names.get(value)


def _json_event(event: Mapping[str, Any] | None) -> tuple[int | None, int | None]:
    if not event:
        return None, None
    return _whole(event.get("time")) or None, _whole(event.get("delay"))
