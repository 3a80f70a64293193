"""Snapshots over many service dates, with the tables of a few of them open at a time.

The table of each date is memory-mapped, so all processes share its pages. History and live state of a date are derived
when one of its snapshots is built, and kept while the date is one of the last that were used. The memory of a process
therefore does not grow with the number of dates.

A train reads the live observations of its own date only. So the trains of a snapshot come from the table of each date
separately, and are joined before the neighbours on a track are found.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from transformer.config import DataConfig
from transformer.data.event_table import Int64Array, LoadedTable, Vocabulary
from transformer.features.damage import Damage
from transformer.features.history import History
from transformer.features.inputs.catalogue import NO_INPUTS, Inputs
from transformer.features.instants import DATES_AT_ONCE
from transformer.features.live_state import BoolArray
from transformer.features.reading import DateReading
from transformer.features.snapshots import (
    SnapshotBatch,
    SnapshotBuilder,
    TrainRows,
    add_neighbours,
    joined,
    padded,
)

MOST_OPEN = DATES_AT_ONCE  # dates that a process keeps; one of 86,000 events takes some 20 MB


class DatedSnapshots:
    """Builds snapshots from the tables of several service dates.

    `journey` and `next_event` of its batches count over the tables of all dates, one after the other. It builds with
    NumPy alone, so it may be used in forked processes.
    """

    def __init__(
        self,
        readings: Sequence[DateReading],
        vocabulary: Vocabulary,
        history: History,
        data: DataConfig,
        inputs: Inputs = NO_INPUTS,
        damage: Damage | None = None,
    ) -> None:
        """
        Args:
            readings: sorted by date.
            inputs: the optional inputs that are on, with their rows of these dates.
            damage: what is wrong with the feed of some snapshots.
        """
        history.prepare(reading.day for reading in readings)
        self._readings = list(readings)
        self._vocabulary = vocabulary
        self._history = history
        self._config = data.snapshot
        self._inputs = inputs
        self._damage = damage
        extents = [reading.extent for reading in readings]
        self._journeys = np.cumsum([0, *(extent.journeys for extent in extents)])
        self._events = np.cumsum([0, *(extent.events for extent in extents)])
        wait = max(data.snapshot.end_grace_s, data.snapshot.silence_s)
        self._first = np.array([extent.first_planned - data.snapshot.lead_s for extent in extents])
        # Later than every instant at which a train can be in a snapshot.
        self._last = np.array([extent.last_possible + wait if extent.journeys else -1 for extent in extents])
        self._open: OrderedDict[tuple[int, bool], tuple[LoadedTable, SnapshotBuilder]] = OrderedDict()
        self._most_open = MOST_OPEN if damage is None else 2 * MOST_OPEN  # whole and damaged

    @property
    def observed(self) -> int:
        """Number of observed events of all dates."""
        return sum(reading.extent.observed for reading in self._readings)

    def build(self, instants: Int64Array) -> SnapshotBatch:
        """Snapshots at `instants` [B], padded to the number of trains of the fullest, at least one."""
        return padded(self.trains(instants), instants)

    def trains(self, instants: Int64Array) -> TrainRows:
        """The trains of the snapshots at `instants` [B], complete."""
        runs = (self._first <= instants[:, None]) & (instants[:, None] <= self._last)
        hit = self._damage.hits(instants) if self._damage else np.zeros(len(instants), np.bool_)
        parts = [
            self._rows(number, chosen, instants, damaged)
            for number in np.flatnonzero(runs.any(axis=0)).tolist()
            for damaged in (False, True)
            if (chosen := runs[:, number] & (hit == damaged)).any()
        ]
        if not parts:
            parts = [self._rows(0, np.zeros(len(instants), np.bool_), instants)]
        rows = parts[0] if len(parts) == 1 else joined(parts, self._order)
        add_neighbours(rows, instants)
        return rows

    def names(self, numbers: Int64Array) -> pl.DataFrame:
        """`train_id`, `service_date`, `train_number` and `train_type` of journeys [N] of its batches."""
        if not len(numbers):
            return self._opened(0)[0].names(numbers)
        frames = [
            loaded.names(within).with_columns(pl.Series("row", rows)) for loaded, rows, within in self._by_date(numbers)
        ]
        return pl.concat(frames).sort("row").drop("row")

    def _by_date(self, numbers: Int64Array) -> Iterator[tuple[LoadedTable, Int64Array, Int64Array]]:
        """For each date of journeys [N]: its table, their positions in [N], and their numbers in the table."""
        date_of = np.searchsorted(self._journeys, numbers, side="right") - 1
        for number in np.unique(date_of).tolist():
            rows = np.flatnonzero(date_of == number)
            yield self._opened(number)[0], rows, numbers[rows] - self._journeys[number]

    def _rows(self, number: int, chosen: BoolArray, instants: Int64Array, damaged: bool = False) -> TrainRows:
        """The trains of a date in the snapshots at the chosen instants [B]."""
        which = np.flatnonzero(chosen)
        rows = self._opened(number, damaged)[1].rows(instants[which])
        return replace(
            rows,
            snapshot=which[rows.snapshot],
            journey=rows.journey + self._journeys[number],
            next_event=np.where(rows.next_mask, rows.next_event + self._events[number], 0),
        )

    def _order(self, rows: TrainRows) -> Int64Array:
        """The order of one table of all dates: by snapshot, first planned event, train and date."""
        trains = np.empty(len(rows.journey), object)
        for loaded, of_date, within in self._by_date(rows.journey):
            trains[of_date] = loaded.train_id[within]
        return np.lexsort((rows.journey, trains.astype(np.str_), rows.first_planned, rows.snapshot))

    def _opened(self, number: int, damaged: bool = False) -> tuple[LoadedTable, SnapshotBuilder]:
        key = number, damaged
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        loaded = self._readings[number].table(self._vocabulary)
        if damaged and self._damage:
            loaded = replace(loaded, table=self._damage.table(loaded.table, number))
        self._open[key] = loaded, self._history.builder(loaded, self._config, self._inputs)
        if len(self._open) > self._most_open:
            self._open.popitem(last=False)
        return self._open[key]
