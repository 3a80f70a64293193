"""Snapshots: the whole railway at an instant, gathered from event columns without a loop over trains.

Legend of dimensions: B snapshots, S trains of the fullest snapshot, P = n_prev, F = n_foll, K event features,
L live features, X columns of optional inputs.

A train enters the snapshots `lead_s` before the first planned event of its journey. It leaves them at the first of
these moments:

- its last event is known;
- `end_grace_s` after its last planned event plus its last known delay, since a terminus is often not observed;
- `silence_s` after its next planned event plus its last known delay, since a silent train must not stay overdue;
- all its next events are known to be cancelled.

A snapshot uses the timetable and the observations that are known at `t`. Only the labels come from the future.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from transformer.config import SnapshotConfig
from transformer.data.event_table import NEVER, EventTable, Int64Array
from transformer.features.inputs.base import Cells, Columns
from transformer.features.live_state import (
    LIVE_FEATURES,
    BoolArray,
    FloatArray,
    LiveState,
    Runs,
    neighbours,
    whole_rows,
)


@dataclass(frozen=True)
class ActiveTrains:
    """The N trains of several snapshots, one snapshot after the other."""

    snapshot: npt.NDArray[np.int64]  # [N] index of the instant, non-decreasing
    journey: Int64Array  # [N]
    newest: Int64Array  # [N] the newest report of the journey, see `EventTable.newest`
    last: Int64Array  # [N] index of the last known event, start - 1 when none is known
    last_delay: Int64Array  # [N] seconds, 0 when none is known
    translation: Int64Array  # [N] seconds: last known delay, raised to t - planned of an overdue next event


@dataclass(frozen=True)
class SnapshotBatch:
    """Snapshots padded to the same number of trains. Times are seconds from the instant; padding is 0 or False."""

    instant: Int64Array  # [B] seconds since the Unix epoch
    train_mask: BoolArray  # [B, S]
    journey: Int64Array  # [B, S] row of the event table's journeys
    train_type: npt.NDArray[np.int64]  # [B, S]
    departed: BoolArray  # [B, S] some event is known
    last_delay: FloatArray  # [B, S]
    translation: FloatArray  # [B, S]
    past_mask: BoolArray  # [B, S, P] oldest first, the last known event at P - 1
    past_delay: FloatArray  # [B, S, P]
    past_observed: FloatArray  # [B, S, P] observed time - t, never positive
    past_point: npt.NDArray[np.int64]  # [B, S, P]
    past_type: npt.NDArray[np.int64]  # [B, S, P]
    next_mask: BoolArray  # [B, S, F]
    next_event: Int64Array  # [B, S, F] row of the event table
    next_planned: FloatArray  # [B, S, F] planned time - t
    next_point: npt.NDArray[np.int64]  # [B, S, F]
    next_type: npt.NDArray[np.int64]  # [B, S, F]
    next_features: FloatArray  # [B, S, F, K] event features, cumulative ones relative to the last known event
    next_live: FloatArray  # [B, S, F, L] LIVE_FEATURES around each next event; L = 0 without live features
    next_inputs: FloatArray  # [B, S, F, X] see `inputs.input_columns`; X = 0 if no optional input is on
    label_mask: BoolArray  # [B, S, F] the event was observed in the end
    label: FloatArray  # [B, S, F] observed delay


@dataclass(frozen=True)
class TrainRows:
    """The N trains of several snapshots, one snapshot after the other. The names are those of `SnapshotBatch`."""

    snapshot: npt.NDArray[np.int64]  # [N] index of the instant, non-decreasing
    first_planned: Int64Array  # [N] planned time of the first event of the journey
    journey: Int64Array  # [N]
    train_type: npt.NDArray[np.integer]  # [N]
    departed: BoolArray  # [N]
    last_delay: Int64Array  # [N]
    translation: Int64Array  # [N]
    past_mask: BoolArray  # [N, P]
    past_delay: Int64Array  # [N, P]
    past_observed: Int64Array  # [N, P]
    past_point: npt.NDArray[np.integer]  # [N, P]
    past_type: npt.NDArray[np.integer]  # [N, P]
    next_mask: BoolArray  # [N, F]
    next_event: Int64Array  # [N, F]
    next_planned: Int64Array  # [N, F]
    next_point: npt.NDArray[np.integer]  # [N, F]
    next_type: npt.NDArray[np.integer]  # [N, F]
    next_features: FloatArray  # [N, F, K]
    next_live: FloatArray  # [N, F, L]
    next_inputs: FloatArray  # [N, F, X]
    label_mask: BoolArray  # [N, F]
    label: Int64Array  # [N, F]
    track: Int64Array | None  # [N, F] see `LiveState.track_of`; None without live features
    forward: BoolArray | None  # [N, F]


COLUMNS: dict[str, type[np.generic]] = {  # of trains in a batch, and their types
    "journey": np.int64,
    "train_type": np.int64,
    "departed": np.bool_,
    "last_delay": np.float32,
    "translation": np.float32,
    "past_mask": np.bool_,
    "past_delay": np.float32,
    "past_observed": np.float32,
    "past_point": np.int64,
    "past_type": np.int64,
    "next_mask": np.bool_,
    "next_event": np.int64,
    "next_planned": np.float32,
    "next_point": np.int64,
    "next_type": np.int64,
    "next_features": np.float32,
    "next_live": np.float32,
    "next_inputs": np.float32,
    "label_mask": np.bool_,
    "label": np.float32,
}


@dataclass(frozen=True)
class EventFeatures:
    """Historical features per event of a table; the first `n_cumulative` columns are running sums along the journey."""

    values: FloatArray  # [E, K]
    n_cumulative: int

    @classmethod
    def none(cls, table: EventTable) -> EventFeatures:
        return cls(np.zeros((table.n_events, 0), np.float32), 0)


@dataclass(frozen=True)
class SnapshotBuilder:
    """Builds snapshots of one event table."""

    table: EventTable
    config: SnapshotConfig
    features: EventFeatures
    live: LiveState | None = None  # None = snapshots without live features
    inputs: Columns | None = None  # None = no optional input is on

    def active_trains(self, instants: Int64Array) -> ActiveTrains:
        """The trains in the snapshots at `instants` [B], with their known delays."""
        table, config = self.table, self.config
        wait = max(config.end_grace_s, config.silence_s)
        # Journeys are sorted by their first planned event, so those that can be running at t are one slice.
        longest = int((table.last_possible - table.first_planned).max(initial=0)) + wait
        low = np.searchsorted(table.first_planned, instants - longest, side="left")
        high = np.searchsorted(table.first_planned, instants + config.lead_s, side="right")
        snapshot, journey = _expand(low, high)
        t = instants[snapshot]
        running = table.last_possible[journey] + wait >= t
        snapshot, journey, t = snapshot[running], journey[running], t[running]

        known = table.known_delays(journey, t)
        more = known.next < table.end[journey]
        next_planned = table.planned[np.where(more, known.next, 0)]
        ended = t > table.planned[table.last_running(journey, t)] + known.delay + config.end_grace_s
        silent = t > next_planned + known.delay + config.silence_s
        active = more & ~ended & ~silent
        of_train = known.newest, known.last, known.delay, known.translation
        return ActiveTrains(snapshot[active], journey[active], *(values[active] for values in of_train))

    def build(self, instants: Int64Array) -> SnapshotBatch:
        """Snapshots at `instants` [B], padded to the number of trains of the fullest, at least one."""
        return padded(self.trains(instants), instants)

    def trains(self, instants: Int64Array) -> TrainRows:
        """The trains of the snapshots at `instants` [B], complete."""
        rows = self.rows(instants)
        add_neighbours(rows, instants)
        return rows

    def rows(self, instants: Int64Array) -> TrainRows:
        """The trains of the snapshots at `instants` [B], without their neighbours on the tracks."""
        table = self.table
        trains = self.active_trains(instants)
        t_N1 = instants[trains.snapshot][:, None]
        past_N, past_mask = self._past(trains)
        next_N, next_mask = table.following(trains.journey, trains.last, t_N1[:, 0], self.config.n_foll)
        observed, planned = table.observed[next_N], table.planned[next_N]
        label_mask = next_mask & (observed < NEVER)
        live = self.live
        return TrainRows(
            snapshot=trains.snapshot,
            first_planned=np.asarray(table.first_planned[trains.journey]),
            journey=trains.journey,
            train_type=table.train_type[trains.journey],
            departed=trains.last >= table.start[trains.journey],
            last_delay=trains.last_delay,
            translation=trains.translation,
            past_mask=past_mask,
            past_delay=np.where(past_mask, table.reported[past_N] - table.planned[past_N], 0),
            past_observed=np.where(past_mask, table.reported[past_N] - t_N1, 0),
            past_point=table.point[past_N] * past_mask,
            past_type=table.event_type[past_N] * past_mask,
            next_mask=next_mask,
            next_event=next_N * next_mask,
            next_planned=np.where(next_mask, planned - t_N1, 0),
            next_point=table.point[next_N] * next_mask,
            next_type=table.event_type[next_N] * next_mask,
            next_features=self._next_features(trains, next_N, next_mask),
            next_live=self._next_live(trains, next_N, next_mask, instants),
            next_inputs=self._next_inputs(trains, next_N, next_mask, instants),
            label_mask=label_mask,
            label=np.where(label_mask, observed - planned, 0),
            track=None if live is None else live.track_of[next_N],
            forward=None if live is None else live.forward[next_N],
        )

    def _past(self, trains: ActiveTrains) -> tuple[Int64Array, BoolArray]:
        """The last P known events of each train [N, P], and a mask of those that exist."""
        table = self.table
        if not len(table.known):
            shape = (len(trains.journey), self.config.n_prev)
            return np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
        newest = np.maximum(trains.newest, 0)
        place = table.news_end[newest][:, None] + np.arange(-self.config.n_prev, 0)
        mask = (trains.newest[:, None] >= 0) & (place >= table.news_begin[newest][:, None])
        return table.known[np.maximum(place, 0)], mask

    def _next_features(self, trains: ActiveTrains, next_N: Int64Array, next_mask: BoolArray) -> FloatArray:
        known, n = self.features.values, self.features.n_cumulative
        if known.shape[1] == 0:
            return np.zeros((*next_mask.shape, 0), np.float32)
        values = np.take(known, next_N.ravel(), axis=0)
        departed = trains.last >= self.table.start[trains.journey]
        base = np.zeros((len(next_N), known.shape[1]), np.float32)
        base[:, :n] = known[np.maximum(trains.last, 0), :n] * departed[:, None]
        # One row holds all events of a train: with one row of ten numbers per event, this takes four times as long.
        rows = values.reshape(len(base), next_N.shape[1] * known.shape[1])
        rows -= np.tile(base, (1, next_N.shape[1]))
        whole_rows(values)[np.flatnonzero(~next_mask)] = whole_rows(np.zeros_like(values[:1]))
        return values.reshape(*next_mask.shape, known.shape[1])

    def _next_live(
        self, trains: ActiveTrains, next_N: Int64Array, next_mask: BoolArray, instants: Int64Array
    ) -> FloatArray:
        """The live features; `add_neighbours` fills those of the neighbours."""
        if self.live is None:
            return np.zeros((*next_mask.shape, 0), np.float32)
        cells = np.flatnonzero(next_mask)
        live = np.zeros((next_mask.size, len(LIVE_FEATURES)), np.float32)
        known = self.live.known(
            np.take(next_N, cells), cells // next_mask.shape[1], trains.snapshot, instants[trains.snapshot]
        )
        whole_rows(live[:, : known.shape[1]])[cells] = whole_rows(known)
        return live.reshape(*next_mask.shape, len(LIVE_FEATURES))

    def _next_inputs(
        self, trains: ActiveTrains, next_N: Int64Array, next_mask: BoolArray, instants: Int64Array
    ) -> FloatArray:
        """The columns of the optional inputs."""
        if self.inputs is None:
            return np.zeros((*next_mask.shape, 0), np.float32)
        train = np.nonzero(next_mask)[0]
        journey = trains.journey[train]
        found = self.inputs(
            Cells(
                event=next_N[next_mask],
                journey=journey,
                instant=instants[trains.snapshot[train]],
                translation=trains.translation[train],
                departed=trains.last[train] >= self.table.start[journey],
            )
        )
        columns = np.zeros((*next_mask.shape, found.shape[1]), np.float32)
        columns[next_mask] = found
        return columns


def joined(parts: Sequence[TrainRows], order: Callable[[TrainRows], Int64Array]) -> TrainRows:
    """The trains of several tables in one.

    Args:
        order: returns the positions of the joined trains in their order.
    """
    names = [name for name, values in vars(parts[0]).items() if values is not None]
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    rows = replace(parts[0], **columns)
    at = order(rows)
    return replace(rows, **{name: values[at] for name, values in columns.items()})


def padded(rows: TrainRows, instants: Int64Array) -> SnapshotBatch:
    """Snapshots at `instants` [B] of trains that are in the order of the snapshots.

    They are padded to the number of trains of the fullest, at least one.
    """
    count = np.bincount(rows.snapshot, minlength=len(instants))
    return SnapshotBatch(
        instant=instants,
        train_mask=into_slots(np.ones(len(rows.journey), np.bool_), count, np.bool_),
        **{name: into_slots(getattr(rows, name), count, dtype) for name, dtype in COLUMNS.items()},
    )


def into_slots(values: npt.NDArray[Any], count: Int64Array, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Values [N, *] of trains as slots [B, S, *] of snapshots, one after the other, with `count` [B] trains."""
    slots: npt.NDArray[Any] = np.zeros((len(count), max(int(count.max(initial=0)), 1), *values.shape[1:]), dtype)
    first = np.cumsum(count) - count
    for of_snapshot, start, n_trains in zip(slots, first, count, strict=True):
        of_snapshot[:n_trains] = values[start : start + n_trains]
    return slots


def add_neighbours(rows: TrainRows, instants: Int64Array) -> None:
    """Fill the live features of the neighbours. `rows` holds all trains of the snapshots at `instants` [B]."""
    if rows.track is None or rows.forward is None:
        return
    n_trains, n_foll, width = rows.next_live.shape
    cells = np.flatnonzero(rows.next_mask)
    train = cells // n_foll
    snapshot = rows.snapshot[train]
    found = neighbours(
        Runs(
            track=np.take(rows.track, cells),
            forward=np.take(rows.forward, cells),
            planned=np.take(rows.next_planned, cells) + instants[snapshot],
            train=train,
            snapshot=snapshot,
            late=rows.translation[train].astype(np.float32),
        )
    )
    live = rows.next_live.reshape(n_trains * n_foll, width)
    whole_rows(live[:, width - found.shape[1] :])[cells] = whole_rows(found)


def utc_offset_s(instants: Int64Array, timezone: str) -> Int64Array:
    """Local wall-clock time minus UTC at each instant, in seconds."""
    zone = ZoneInfo(timezone)
    offsets = [(datetime.fromtimestamp(int(t), zone).utcoffset() or timedelta()).total_seconds() for t in instants]
    return np.array(offsets, np.int64)


def _expand(low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]) -> tuple[Int64Array, Int64Array]:
    """Expand the ranges `low[i]:high[i]`: the index of each number's range, and the numbers, range after range."""
    length = np.maximum(high - low, 0)
    owner = np.repeat(np.arange(len(length)), length)
    first = np.cumsum(length) - length
    return owner, np.arange(len(owner)) - first[owner] + low[owner]


__all__ = [
    "COLUMNS",
    "ActiveTrains",
    "EventFeatures",
    "SnapshotBatch",
    "SnapshotBuilder",
    "TrainRows",
    "add_neighbours",
    "into_slots",
    "joined",
    "padded",
    "utc_offset_s",
]
