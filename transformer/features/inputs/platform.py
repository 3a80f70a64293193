"""The planned platform of each next event: the newest train known there, and the train planned there just before.

Platforms are those of the timetable. A train that uses another platform is still counted at the planned one.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from transformer.data.event_table import EventTable, Int64Array, LoadedTable, Vocabulary
from transformer.features.inputs.base import (
    FAR_S,
    HEADWAY_SCALE_S,
    Cells,
    Columns,
    Feature,
    FloatArray,
    Input,
)
from transformer.features.live_state import DELAY_LIMITS_S, OLD_S, Observations

_LAST, _AGE = 0, 4  # columns of `Observations.known_at`: the newest value, and its age in seconds


class Platform(Input):
    """Trains at the planned platform of each next event, on the same service date."""

    name = "platform"
    features = (
        Feature("platform_last_delay", "delay", "delay of the newest train known there, s; 0 without one"),
        Feature("platform_last_age", 1_800.0, f"s since then; {OLD_S} without one"),
        Feature(
            "platform_gap",
            HEADWAY_SCALE_S,
            "s from the expected time of the train planned there just before to that of this train; negative = it is "
            f"expected to be still there; {FAR_S} without one",
        ),
    )

    def __init__(self, rows: pl.DataFrame, vocabulary: Vocabulary) -> None:
        del rows, vocabulary

    def on(self, loaded: LoadedTable) -> Columns:
        table = loaded.table
        place, n_places = _places(table)
        before = _planned_before(table, place)
        planned, journey = np.asarray(table.planned), np.asarray(table.journey).astype(np.int64)
        end, known_from = np.asarray(table.end), np.asarray(table.cancellation_known)
        runs = np.zeros(table.n_events, np.bool_)
        runs[np.asarray(table.running)] = True
        seen = np.flatnonzero(np.asarray(table.heard) & (place >= 0))
        delay = np.asarray(table.reported)[seen] - planned[seen]
        values = np.zeros((len(seen), 2), np.float32)
        values[:, 0] = np.clip(delay, *DELAY_LIMITS_S)
        trains = Observations.of(
            place[seen], np.asarray(table.arrived)[seen], np.asarray(table.reported)[seen], values, n_places
        )

        def columns(cells: Cells) -> FloatArray:
            found = np.full((len(cells.event), len(self.features)), np.nan, np.float32)
            at = np.flatnonzero(place[cells.event] >= 0)
            event, t = cells.event[at], cells.instant[at]
            found[at, :2] = trains.known_at(place[event], t)[:, [_LAST, _AGE]]
            found[at, 2] = FAR_S
            other = before[event]
            chosen = np.flatnonzero((other >= 0) & (runs[other] | (known_from[journey[other]] > t)))
            other, t, at = other[chosen], t[chosen], at[chosen]
            known = table.known_delays(journey[other], t)
            # A terminus is often not observed, so that an overdue one says nothing.
            late = np.where((known.last < other) & (other + 1 < end[journey[other]]), known.translation, known.delay)
            gap = planned[cells.event[at]] + cells.translation[at] - planned[other] - late
            found[at, 2] = np.clip(gap, -FAR_S, FAR_S)
            return found

        return columns


def _places(table: EventTable) -> tuple[Int64Array, int]:
    """The number of each event's [E] point, platform and service date, and how many there are; -1 = no platform."""
    point, platform = np.asarray(table.point).astype(np.int64), np.asarray(table.platform).astype(np.int64)
    day = np.asarray(table.day).astype(np.int64)[np.asarray(table.journey)]
    place = np.full(table.n_events, -1, np.int64)
    given = np.flatnonzero((platform >= 0) & (point > 0))
    if not len(given):
        return place, 0
    code = (day[given] - day.min()) * (int(point.max()) + 1) + point[given]
    numbers = np.unique(code * (int(platform.max()) + 1) + platform[given], return_inverse=True)[1]
    place[given] = numbers
    return place, int(numbers.max()) + 1


def _planned_before(table: EventTable, place: Int64Array) -> Int64Array:
    """The last event of another train that is planned at the platform of each event [E] before it; -1 = none."""
    journey = np.asarray(table.journey)
    order = np.lexsort((np.arange(len(place)), np.asarray(table.planned), place))
    order = order[place[order] >= 0]
    before = np.full(len(place), -1, np.int64)
    if not len(order):
        return before
    other = np.ones(len(order), np.bool_)  # whether an event is of another train or platform than the one before it
    other[1:] = (journey[order][1:] != journey[order][:-1]) | (place[order][1:] != place[order][:-1])
    begin = np.maximum.accumulate(np.where(other, np.arange(len(order)), 0))
    found = order[np.maximum(begin - 1, 0)]
    before[order] = np.where((begin > 0) & (place[found] == place[order]), found, -1)
    return before
