"""Event tables as flat numeric columns, journey after journey. Snapshots are gathered from them.

Legend of dimensions: E events, J journeys. Times are whole seconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.data.news import news_of
from transformer.data.tables import EVENT_TYPES, JOURNEY, TIMESTAMP
from transformer.errors import UserError
from transformer.parquet import read_parquet, write_parquet

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
Int8Array = npt.NDArray[np.int8]

MAX_TRAIN_TYPES = 127  # the positive values of Int8; 0 is the unknown type
NEVER = np.int64(1) << 40  # observed time of an event that was not observed; far beyond any date
EVENT_TYPE_INDEX = {name: index for index, name in enumerate(EVENT_TYPES, start=1)}  # 0 = padding
KEY_SPAN = np.int64(1) << 32  # seconds (136 years) that a key leaves for the time; the journey is in the digits above
LAYOUT_VERSION = 7  # raise when the files of `save_table` change meaning; older caches are then not reused
_BY_VOCABULARY = ("point", "train_type")  # columns that are not saved: opening a table computes them


@dataclass(frozen=True)
class Vocabulary:
    """Meaning of the integer codes of a table. Code 0 is the unknown point or type."""

    op_ids: Int32Array  # sorted; code = position + 1
    train_types: tuple[str, ...]  # code = position + 1

    def encode_points(self, op_ids: npt.NDArray[np.integer]) -> Int32Array:
        position = np.searchsorted(self.op_ids, op_ids)
        position = np.minimum(position, len(self.op_ids) - 1)
        return np.where(self.op_ids[position] == op_ids, position + 1, 0).astype(np.int32)

    def encode_types(self, train_types: Sequence[str]) -> Int8Array:
        codes = {name: index for index, name in enumerate(self.train_types, start=1)}
        return np.fromiter((codes.get(name, 0) for name in train_types), np.int8, len(train_types))


class Known(NamedTuple):
    """The known part of journeys [N] at their instants [N]. The journeys need not be running."""

    newest: Int64Array  # [N] the newest report, a row of `news_…`; -1 = there is none
    last: Int64Array  # [N] the last event that is known to be passed; one less than the first event = none
    next: Int64Array  # [N] the event after it that is not known to be cancelled; `end` of the journey = none
    delay: Int64Array  # [N] seconds, of the last event; 0 = none is known
    translation: Int64Array  # [N] seconds: the delay, raised to t - planned if the next event is overdue


@dataclass(frozen=True)
class EventTable:
    """Events of whole service dates in columns. Journeys are in the order of their first planned event.

    Every column can be a memory map. The slice `start[j]:end[j]` holds the events of journey j in their order.
    """

    planned: Int64Array  # [E]
    observed: Int64Array  # [E] for labels; NEVER where not observed, or found wrong by all observations of the journey
    reported: Int64Array  # [E] for inputs; NEVER where not observed
    arrived: Int64Array  # [E] time from which the report is known; NEVER where not observed
    heard: npt.NDArray[np.bool_]  # [E] see `news.News`
    point: Int32Array  # [E] code in the vocabulary
    event_type: Int8Array  # [E] code in EVENT_TYPE_INDEX
    platform: Int32Array  # [E] number of the planned platform, the same for the same name; -1 = unknown
    journey: Int32Array  # [E] the journey of each event
    news_key: Int64Array  # [N] journey of each report and time from which it is known, non-decreasing
    news_last: Int64Array  # [N] the last event that the journey has passed by then
    news_begin: Int64Array  # [N] the events known by then are `known[news_begin:news_end]`, in their order
    news_end: Int64Array  # [N]
    known: Int64Array  # [K]
    start: Int64Array  # [J]
    end: Int64Array  # [J]
    first_planned: Int64Array  # [J] sorted
    last_possible: Int64Array  # [J] last planned event plus the journey's largest observed delay, at least 0
    running: Int64Array  # events that are not cancelled
    running_before: Int64Array  # [E + 1] number of entries of `running` before each event
    cancellation_known: Int64Array  # [J] time from which the cancellations of the journey are known; NEVER = none
    train_type: Int8Array  # [J] code in the vocabulary
    day: Int32Array  # [J] service date, days since the Unix epoch

    @property
    def n_events(self) -> int:
        return len(self.planned)

    @property
    def n_journeys(self) -> int:
        return len(self.start)

    def newest(self, journeys: npt.NDArray[np.integer], instants: Int64Array) -> Int64Array:
        """The newest report of each journey at its instant, a row of `news_…`; -1 = there is none.

        The keys have the journey's number in the high digits, so one binary search per journey finds the report.
        """
        found = np.searchsorted(self.news_key, _key(journeys, instants - self._origin), side="right") - 1
        of_journey = self.news_key[found] // KEY_SPAN == journeys if len(self.news_key) else np.zeros(len(found), bool)
        return np.asarray(np.where((found >= 0) & of_journey, found, -1), np.int64)

    def passed(self, journeys: npt.NDArray[np.integer], newest: Int64Array) -> Int64Array:
        """The last event that each journey has passed with its `newest` report; `start - 1` if there is none.

        An event counts as passed once the event or a later one of its journey was observed.
        """
        if not len(self.news_last):
            return np.asarray(self.start[journeys] - 1, np.int64)
        return np.asarray(np.where(newest >= 0, self.news_last[newest], self.start[journeys] - 1), np.int64)

    def known_delays(self, journeys: Int64Array, instants: Int64Array) -> Known:
        """The known part of each journey [N] at its instant [N].

        After the last event of a journey, its translation is its last known delay.
        """
        newest = self.newest(journeys, instants)
        last = self.passed(journeys, newest)
        at = np.maximum(last, 0)
        delay = np.where(last >= self.start[journeys], self.reported[at] - self.planned[at], 0)
        following, more = (found[:, 0] for found in self.following(journeys, last, instants, 1))
        translation = np.where(more, np.maximum(delay, instants - self.planned[following]), delay)
        return Known(newest, last, np.where(more, following, self.end[journeys]), delay, translation)

    def following(
        self, journeys: Int64Array, last: Int64Array, instants: Int64Array, count: int
    ) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
        """The next `count` events of each journey [N, count] after its `last` one, and a mask of those that exist.

        From the instant at which a cancellation is known, cancelled events are skipped. Where no event exists, the
        number is that of some event of the table.
        """
        step = np.arange(count)
        event = last[:, None] + 1 + step
        mask = event < self.end[journeys][:, None]
        if len(self.running) < self.n_events:
            place = self.running_before[last + 1][:, None] + step
            skipping = (self.cancellation_known[journeys] <= instants)[:, None]
            running = np.append(self.running, 0)[np.minimum(place, len(self.running))]
            event = np.where(skipping, running, event)
            mask = np.where(skipping, place < self.running_before[self.end[journeys]][:, None], mask)
        return np.where(mask, event, 0), mask

    def last_running(self, journeys: Int64Array, instants: Int64Array) -> Int64Array:
        """The last event of each journey [N] that is not known to be cancelled at its instant [N]."""
        last = self.end[journeys] - 1
        if len(self.running) == self.n_events:
            return np.asarray(last, np.int64)
        place = self.running_before[self.end[journeys]] - 1
        running = np.append(self.running, 0)[np.maximum(place, 0)]
        known = (self.cancellation_known[journeys] <= instants) & (running >= self.start[journeys]) & (place >= 0)
        return np.asarray(np.where(known, running, last), np.int64)

    def with_reports(self, reported: Int64Array, arrived: Int64Array) -> Self:
        """The same events as another feed would report them. Labels stay.

        Args:
            reported: [E] no later than `self.last_possible` allows; NEVER where not reported.
            arrived: [E] not before it; NEVER where not reported.
        """
        news = _news_columns(reported, arrived, self.planned, self.journey, self._origin)
        return replace(self, reported=reported, arrived=arrived, **news)

    @property
    def _origin(self) -> np.int64:
        return np.int64(self.first_planned[0] - 10 * 86_400) if self.n_journeys else np.int64(0)


def _key(journeys: npt.NDArray[np.integer], seconds: Int64Array) -> Int64Array:
    """The journey's number in the high digits, and seconds in the low ones. The journey fits, since it is an Int32."""
    return journeys.astype(np.int64) * KEY_SPAN + np.clip(seconds, 0, KEY_SPAN - 1)


def _news_columns(
    reported: Int64Array, arrived: Int64Array, planned: Int64Array, journey: Int32Array, origin: np.int64
) -> dict[str, Any]:
    """The columns of a table that follow from its reports, by name."""
    news = news_of(reported, arrived, planned, journey.astype(np.int64), int(NEVER))
    return {
        "heard": news.heard,
        "news_key": _key(journey[news.event], arrived[news.event] - origin),
        "news_last": news.last,
        "news_begin": news.begin,
        "news_end": news.end,
        "known": news.known,
    }


def build_event_table(events: pl.DataFrame, train_types: pl.DataFrame, vocabulary: Vocabulary) -> EventTable:
    """Build the columns from validated `events` (EVENT_SCHEMA; the other columns of `events.COLUMNS` if there).

    Args:
        train_types: `train_id, service_date, train_type` per journey. Other journeys have the unknown type.

    Raises:
        UserError: the dates span more than half a century.
    """
    if "cancelled_ts" not in events.columns:
        events = events.with_columns(pl.lit(None, TIMESTAMP).alias("cancelled_ts"))
    if "reported_ts" not in events.columns:
        events = events.with_columns(pl.col("observed_ts").alias("reported_ts"))
    if "known_ts" not in events.columns:
        events = events.with_columns(pl.col("reported_ts").alias("known_ts"))
    if "planned_platform" not in events.columns:
        events = events.with_columns(pl.lit(None, pl.String).alias("planned_platform"))
    ordered = in_table_order(
        events.join(train_types.select(*JOURNEY, "train_type"), on=JOURNEY, how="left", maintain_order="left")
    ).with_columns(pl.struct(JOURNEY).rle_id().cast(pl.Int32).alias("journey"))
    planned = _seconds(ordered["planned_ts"])
    observed, reported = _seconds(ordered["observed_ts"]), _seconds(ordered["reported_ts"])
    arrived, cancelled = _seconds(ordered["known_ts"]), _seconds(ordered["cancelled_ts"])
    journey = ordered["journey"].to_numpy().astype(np.int32)
    n_journeys = int(journey[-1]) + 1 if len(journey) else 0
    start = np.searchsorted(journey, np.arange(n_journeys), side="left").astype(np.int64)
    end = np.searchsorted(journey, np.arange(n_journeys), side="right").astype(np.int64)
    per_journey = ordered[start] if n_journeys else ordered.clear()

    first_planned = planned[start]
    origin = first_planned[0] - 10 * 86_400 if n_journeys else np.int64(0)
    if len(planned) and int(planned.max() - origin) >= KEY_SPAN // 2:
        raise UserError(f"the events span {int(planned.max() - origin) // 86_400:,} days; correct the planned times")
    delay = np.where(reported < NEVER, reported - planned, 0)
    greatest = np.maximum.reduceat(delay, start) if n_journeys else np.zeros(0, np.int64)
    runs = cancelled == NEVER

    return EventTable(
        planned=planned,
        observed=observed,
        reported=reported,
        arrived=arrived,
        point=vocabulary.encode_points(ordered["op_id"].to_numpy()),
        event_type=ordered["event_type"].replace_strict(EVENT_TYPE_INDEX, return_dtype=pl.Int8).to_numpy(),
        platform=_numbers(ordered["planned_platform"]),
        journey=journey,
        **_news_columns(reported, arrived, planned, journey, np.int64(origin)),
        start=start,
        end=end,
        first_planned=first_planned,
        last_possible=planned[end - 1] + np.maximum(greatest, 0),
        running=np.flatnonzero(runs).astype(np.int64),
        running_before=np.concatenate([[0], np.cumsum(runs, dtype=np.int64)]),
        cancellation_known=np.minimum.reduceat(cancelled, start) if n_journeys else np.zeros(0, np.int64),
        train_type=vocabulary.encode_types(per_journey["train_type"].fill_null("").to_list()),
        day=per_journey["service_date"].to_physical().to_numpy().astype(np.int32),
    )


def in_table_order(events: pl.DataFrame) -> pl.DataFrame:
    """Sort validated events in the order of a table: row e is event e."""
    first_planned = pl.col("planned_ts").first().over(JOURNEY)
    return events.sort(first_planned, *JOURNEY, "seq")


def _seconds(column: pl.Series) -> Int64Array:
    return column.dt.epoch("s").fill_null(int(NEVER)).to_numpy().astype(np.int64)


def _numbers(names: pl.Series) -> Int32Array:
    """A number for each name, the same for the same one; -1 = null or blank."""
    trimmed = names.str.strip_chars()
    number = trimmed.set(trimmed == "", None).rank("dense").cast(pl.Int64) - 1
    return number.fill_null(-1).to_numpy().astype(np.int32)


@dataclass(frozen=True)
class LoadedTable:
    """An event table with the names behind its journeys."""

    table: EventTable
    train_id: npt.NDArray[np.str_]  # [J]
    train_number: npt.NDArray[np.str_]  # [J]
    type_name: npt.NDArray[np.str_]  # [J] name of the train type; "" = the journeys table has none
    _names: pl.DataFrame | Path

    @classmethod
    def of(cls, events: pl.DataFrame, journeys: pl.DataFrame, vocabulary: Vocabulary) -> LoadedTable:
        """Build the table of validated `events` in memory. `journeys` is from `read_journeys`."""
        names = _journey_names(events, journeys)
        texts = {name: names[of].fill_null("").to_numpy().astype(np.str_) for name, of in _NAMES.items()}
        return cls(build_event_table(events, journeys, vocabulary), _names=names, **texts)

    @cached_property
    def journeys(self) -> pl.DataFrame:
        """`train_id`, `service_date`, `train_number` and `train_type` [J] in the table's order.

        Raises:
            UserError: the file is damaged.
        """
        if isinstance(self._names, pl.DataFrame):
            return self._names
        return read_parquet(self._names, remedy=f"remove {self._names.parent} and run again")

    def names(self, numbers: Int64Array) -> pl.DataFrame:
        """The rows of `journeys` with these numbers [N]."""
        return self.journeys[numbers]


# Columns of `journeys` that a table keeps as arrays of texts, under the names in `LoadedTable`.
_NAMES = {"train_id": "train_id", "train_number": "train_number", "type_name": "train_type"}


def save_table(events: pl.DataFrame, journeys: pl.DataFrame, folder: Path) -> EventTable:
    """Write the table of validated `events` into a folder, and return it. It can be opened with any vocabulary."""
    op_ids = events["op_id"].unique().sort().to_numpy()
    loaded = LoadedTable.of(events, journeys, Vocabulary(op_ids, ()))
    columns = {column.name: getattr(loaded.table, column.name) for column in fields(EventTable)}
    columns |= {
        "own_point": columns["point"],  # code in `op_ids`
        "op_ids": op_ids,
        **{name: getattr(loaded, name) for name in _NAMES},
    }
    for name, values in columns.items():
        if name not in _BY_VOCABULARY:
            np.save(folder / f"{name}.npy", values, allow_pickle=False)
    write_parquet(folder / "journeys.parquet", loaded.journeys)
    return loaded.table


def open_table(folder: Path, vocabulary: Vocabulary) -> LoadedTable:
    """Open the table that `save_table` wrote. It is memory-mapped, except for the columns that need the vocabulary.

    It uses no Polars, whose threads do not survive the fork of a process.

    Raises:
        UserError: damaged files.
    """

    def column(name: str) -> npt.NDArray[Any]:
        # A plain array over the map: the class of memory maps costs time at every look-up.
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))

    names = [column.name for column in fields(EventTable) if column.name not in _BY_VOCABULARY]
    try:
        columns = {name: column(name) for name in names}
        codes = np.append(np.int32(0), vocabulary.encode_points(column("op_ids")))
        point = codes[column("own_point")]
        texts = {name: column(name) for name in _NAMES}
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{folder}: cached table is damaged ({error}); remove the folder and run again") from None
    kinds, kind = np.unique(texts["type_name"], return_inverse=True)
    table = EventTable(point=point, train_type=vocabulary.encode_types(kinds.tolist())[kind], **columns)
    return LoadedTable(table, _names=folder / "journeys.parquet", **texts)


def _journey_names(events: pl.DataFrame, journeys: pl.DataFrame) -> pl.DataFrame:
    names = journeys.select(*JOURNEY, "train_number", "train_type")
    return (
        events.group_by(JOURNEY)
        .agg(pl.col("planned_ts").first().alias("first_planned"))
        .sort("first_planned", *JOURNEY)
        .join(names, on=JOURNEY, how="left", maintain_order="left")
        .with_columns(pl.col("train_number").fill_null(pl.col("train_id")))
        .select(*JOURNEY, "train_number", "train_type")
    )
