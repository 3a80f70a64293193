"""Rotation of the vehicles: the journey from which the vehicle of a train comes, until the train departs.

A late vehicle makes its next train leave late. Only former journeys of the same service date are known, since a train
reads the observations of its own date only; a vehicle that stood overnight comes from nowhere.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.data.event_table import Int64Array, LoadedTable, Vocabulary
from transformer.features.inputs.base import (
    FAR_S,
    HEADWAY_SCALE_S,
    Cells,
    Columns,
    Feature,
    FloatArray,
    Input,
)

_EPOCH = date(1970, 1, 1)


class Rotation(Input):
    """The vehicle's former journey, at every next event of a train that has not departed."""

    name = "rotation"
    features = (
        Feature("inbound_ended", 1.0, "1 = the last event of the former journey is known"),
        Feature("inbound_delay", "delay", "its newest known delay, s; an overdue event before the last raises it"),
        Feature("inbound_due", HEADWAY_SCALE_S, "s from now until it is expected to end"),
        Feature("inbound_late", HEADWAY_SCALE_S, "s by which its delay exceeds the planned turn-round"),
    )

    def __init__(self, rows: pl.DataFrame, vocabulary: Vocabulary) -> None:
        del vocabulary
        same_date = rows.filter(pl.col("service_date") == pl.col("previous_service_date")).drop_nulls()
        self._of_day = {
            (day - _EPOCH).days: [of_day[name].to_numpy().astype(np.str_) for name in ("train_id", "previous_train_id")]
            for (day,), of_day in same_date.partition_by("service_date", as_dict=True).items()
        }

    def on(self, loaded: LoadedTable) -> Columns:
        table, former = loaded.table, self._former(loaded)
        turn = np.asarray(table.planned[table.start] - table.planned[table.end[former] - 1])
        exists = (former >= 0) & (turn >= 0) & (former != np.arange(table.n_journeys))
        runs = table.running_before[table.end] - table.running_before[table.end - 1] == 1  # the last event does
        doomed = np.where(runs, np.iinfo(np.int64).max, table.cancellation_known)

        def columns(cells: Cells) -> FloatArray:
            values = np.full((len(cells.event), len(self.features)), np.nan, np.float32)
            chosen = np.flatnonzero(exists[cells.journey] & ~cells.departed)
            t, inbound = cells.instant[chosen], former[cells.journey[chosen]]
            running = doomed[inbound] > t
            chosen, t, inbound = chosen[running], t[running], inbound[running]
            known, end = table.known_delays(inbound, t), table.end[inbound]
            # A terminus is often not observed, so that an overdue one says nothing.
            delay = np.where(known.next + 1 < end, known.translation, known.delay)
            due = np.where(known.last + 1 < end, table.planned[end - 1] + delay - t, 0)
            late = delay - turn[cells.journey[chosen]]
            found = known.last + 1 == end, delay, np.clip(due, -FAR_S, FAR_S), np.clip(late, -FAR_S, FAR_S)
            values[chosen] = np.column_stack(found)
            return values

        return columns

    def _former(self, loaded: LoadedTable) -> Int64Array:
        """The former journey of each journey [J] of a table; -1 = none in this table."""
        days = np.asarray(loaded.table.day)
        former = np.full(loaded.table.n_journeys, -1, np.int64)
        for day in np.unique(days).tolist():
            if day not in self._of_day:
                continue
            journeys = np.flatnonzero(days == day)
            ids = loaded.train_id[journeys]
            order = np.argsort(ids)
            own, previous = (_places(ids[order], wanted) for wanted in self._of_day[day])
            both = (own >= 0) & (previous >= 0)
            former[journeys[order[own[both]]]] = journeys[order[previous[both]]]
        return former


def _places(ids: npt.NDArray[np.str_], wanted: npt.NDArray[np.str_]) -> Int64Array:
    """The place of each wanted text among sorted ones; -1 = it is not there."""
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.asarray(np.where(ids[place] == wanted, place, -1), np.int64)
