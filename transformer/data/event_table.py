"""Event tables as flat numeric columns, journey after journey. Snapshots are gathered from them.

Legend of dimensions: E events, J journeys. Times are whole seconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.data.tables import EVENT_TYPES, JOURNEY, TIMESTAMP
from transformer.errors import UserError
from transformer.parquet import UNREADABLE, write_parquet

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
Int8Array = npt.NDArray[np.int8]

MAX_TRAIN_TYPES = 127  # the positive values of Int8; 0 is the unknown type
NEVER = np.int64(1) << 40  # observed time of an event that was not observed; far beyond any date
EVENT_TYPE_INDEX = {name: index for index, name in enumerate(EVENT_TYPES, start=1)}  # 0 = padding
KEY_SPAN = np.int64(1) << 32  # seconds (136 years) that a key leaves for the time; the journey is in the digits above
LAYOUT_VERSION = 3  # raise when the files of `save_table` change meaning; older caches are then not reused
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


@dataclass(frozen=True)
class EventTable:
    """Events of whole service dates in columns. Journeys are in the order of their first planned event.

    Every column can be a memory map. The slice `start[j]:end[j]` holds the events of journey j in their order.
    """

    planned: Int64Array  # [E]
    observed: Int64Array  # [E], NEVER where not observed
    point: Int32Array  # [E] code in the vocabulary
    event_type: Int8Array  # [E] code in EVENT_TYPE_INDEX
    journey: Int32Array  # [E] the journey of each event
    known_rank: Int64Array  # [E] number of entries of `known` at or before each event
    known: Int64Array  # events observed in order: no later event of the journey was observed before them
    pass_key: Int64Array  # [E] non-decreasing; see `passed`
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

    def passed(self, journeys: npt.NDArray[np.integer], instants: Int64Array) -> Int64Array:
        """Last event that each journey has passed at its instant; `start - 1` if there is none.

        An event counts as passed once the event or a later one of its journey was observed. The earliest such time does
        not decrease along a journey. `pass_key` has the journey's number in the high digits, so it is sorted as a
        whole, and one binary search per journey finds the event.
        """
        key = _key(journeys, instants - self._origin)
        found: Int64Array = np.searchsorted(self.pass_key, key, side="right") - 1
        return np.asarray(np.maximum(found, self.start[journeys] - 1), np.int64)

    @property
    def _origin(self) -> np.int64:
        return np.int64(self.first_planned[0] - 10 * 86_400) if self.n_journeys else np.int64(0)


def _key(journeys: npt.NDArray[np.integer], seconds: Int64Array) -> Int64Array:
    """The journey's number in the high digits, and seconds in the low ones. The journey fits, since it is an Int32."""
    return journeys.astype(np.int64) * KEY_SPAN + np.clip(seconds, 0, KEY_SPAN - 1)


def build_event_table(events: pl.DataFrame, train_types: pl.DataFrame, vocabulary: Vocabulary) -> EventTable:
    """Build the columns from validated `events` (EVENT_SCHEMA, and `cancelled_ts` if events can be cancelled).

    Args:
        train_types: `train_id, service_date, train_type` per journey. Other journeys have the unknown type.

    Raises:
        UserError: there are more journeys than their numbers can count, or the dates span more than a century.
    """
    if "cancelled_ts" not in events.columns:
        events = events.with_columns(pl.lit(None, TIMESTAMP).alias("cancelled_ts"))
    ordered = in_table_order(
        events.join(train_types.select(*JOURNEY, "train_type"), on=JOURNEY, how="left", maintain_order="left")
    ).with_columns(pl.struct(JOURNEY).rle_id().cast(pl.Int32).alias("journey"))
    planned = _seconds(ordered["planned_ts"])
    observed, cancelled = _seconds(ordered["observed_ts"]), _seconds(ordered["cancelled_ts"])
    journey = ordered["journey"].to_numpy().astype(np.int32)
    n_journeys = int(journey[-1]) + 1 if len(journey) else 0
    start = np.searchsorted(journey, np.arange(n_journeys), side="left").astype(np.int64)
    end = np.searchsorted(journey, np.arange(n_journeys), side="right").astype(np.int64)
    per_journey = ordered[start] if n_journeys else ordered.clear()

    first_planned = planned[start]
    origin = first_planned[0] - 10 * 86_400 if n_journeys else np.int64(0)
    # The earliest observation at or after each event of its journey is a running minimum from the end. The journey's
    # number in the high digits keeps the minimum from reaching into the previous journey.
    if len(planned) and int(planned.max() - origin) >= KEY_SPAN // 2:
        raise UserError(f"the events span {int(planned.max() - origin) // 86_400:,} days; correct the planned times")
    own_key = _key(journey, observed - origin)
    pass_key = np.minimum.accumulate(own_key[::-1])[::-1]
    seen = observed < NEVER
    in_order = seen & (own_key <= pass_key)
    delay = np.where(seen, observed - planned, 0)
    greatest = np.maximum.reduceat(delay, start) if n_journeys else np.zeros(0, np.int64)
    runs = cancelled == NEVER

    return EventTable(
        planned=planned,
        observed=observed,
        point=vocabulary.encode_points(ordered["op_id"].to_numpy()),
        event_type=ordered["event_type"].replace_strict(EVENT_TYPE_INDEX, return_dtype=pl.Int8).to_numpy(),
        journey=journey,
        known_rank=np.cumsum(in_order, dtype=np.int64),
        known=np.flatnonzero(in_order).astype(np.int64),
        pass_key=np.ascontiguousarray(pass_key),
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


@dataclass(frozen=True)
class LoadedTable:
    """An event table with the names behind its journeys."""

    table: EventTable
    journeys: pl.DataFrame  # [J] train_id, service_date, train_number, train_type in the table's order

    @classmethod
    def of(cls, events: pl.DataFrame, journeys: pl.DataFrame, vocabulary: Vocabulary) -> LoadedTable:
        """Build the table of validated `events` in memory. `journeys` has the columns of JOURNEY_SCHEMA."""
        return cls(build_event_table(events, journeys, vocabulary), _journey_names(events, journeys))


def save_table(events: pl.DataFrame, journeys: pl.DataFrame, folder: Path) -> None:
    """Write the table of validated `events` into a folder. It can be opened with any vocabulary."""
    op_ids = events["op_id"].unique().sort().to_numpy()
    loaded = LoadedTable.of(events, journeys, Vocabulary(op_ids, ()))
    columns = {column.name: getattr(loaded.table, column.name) for column in fields(EventTable)}
    columns["own_point"] = columns["point"]  # code in `op_ids`
    for name, values in {**columns, "op_ids": op_ids}.items():
        if name not in _BY_VOCABULARY:
            np.save(folder / f"{name}.npy", values, allow_pickle=False)
    write_parquet(folder / "journeys.parquet", loaded.journeys)


def open_table(folder: Path, vocabulary: Vocabulary) -> LoadedTable:
    """Open the table that `save_table` wrote. It is memory-mapped, except for the columns that need the vocabulary.

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
        journeys = pl.read_parquet(folder / "journeys.parquet", glob=False)
    except (OSError, ValueError, *UNREADABLE) as error:
        raise UserError(f"{folder}: cached table is damaged ({error}); remove the folder and run again") from None
    train_type = vocabulary.encode_types(journeys["train_type"].fill_null("").to_list())
    return LoadedTable(EventTable(point=point, train_type=train_type, **columns), journeys)


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
