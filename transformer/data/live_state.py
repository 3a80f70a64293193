"""Live state of the network around each next event: what other trains have just done there, and which are near it.

Three views, all from events observed by the instant and the timetable
    section     what happened on the section that leads to the event: the delay change of the train before, and of all
                trains of the last three hours and of the day so far, as it was and beyond what is usual there,
    point       the same of the delays at the event's operational point,
    neighbours  the trains of the snapshot that are expected on the same track just before and just after.
The section view also comes as running sums from the last known event on, as the historical features do.

A train sees the observations of its own service date: what it is told does not depend on which dates are loaded.
Means are shrunk to zero by one imaginary observation, so that a single train says half of what it did.

Legend of dimensions: E events of the table, C cells (next events that exist), O observations of a view, B, S, F as in
`snapshots`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from transformer.data.event_table import NEVER, EventTable, Int64Array

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

LIVE_SECTION_FEATURES = (
    "section_last_change",  # delay change of the newest train, s
    "section_last_excess",  # the same beyond what is usual on the section
    "section_last_age",  # s since then; OLD_S when none
    "section_change",  # mean of the last RECENT_S
    "section_excess",
    "section_count",
    "section_day_excess",  # mean of the service date so far
    "path_last_change",  # running sums along the journey, from the last known event on
    "path_change",
    "path_excess",
    "path_day_excess",
)
LIVE_POINT_FEATURES = (
    "point_last_delay",  # of the newest train observed here, s
    "point_last_age",
    "point_delay",  # mean of the last RECENT_S
    "point_excess",  # beyond the usual delay of those trains here
    "point_count",
    "point_day_excess",
)
NEIGHBOUR_FEATURES = (
    "before_gap",  # s between both expected times, at most FAR_S
    "before_planned_gap",  # s between both planned times; negative when the order is to change
    "before_delay",  # the other train's translation, s
    "before_direction",  # 1 the same, -1 opposite, 0 no such train
    "after_gap",
    "after_planned_gap",
    "after_delay",
    "after_direction",
)
_PATH = slice(LIVE_SECTION_FEATURES.index("path_last_change"), len(LIVE_SECTION_FEATURES))
LIVE_FEATURES = (*LIVE_SECTION_FEATURES, *LIVE_POINT_FEATURES, *NEIGHBOUR_FEATURES)

RECENT_S = 10_800  # three hours: on a rural line a handful of trains
OLD_S = 14_400  # an observation older than this is none
TIME_SPAN_S = 1 << 33  # beyond any date; leaves 2^30 places
FAR_S = 7_200  # trains further apart than this do not meet
CHANGE_LIMIT_S = 1_800  # one stranded train must not fill the mean of a section
DELAY_LIMITS_S = (-3_600, 7_200)


_KNOWN = (  # what is known of a place at an instant
    "last",  # newest value, 0 when there is none of the last OLD_S
    "last_excess",  # the same beyond what is usual
    "age",  # of the newest value in s, at most OLD_S
    "mean",  # of the last RECENT_S, shrunk
    "excess",
    "number",  # of values in the last RECENT_S
    "day_excess",  # mean since the first observation of the service date, shrunk
)
# Which of them are the columns of a view, in its order.
_SECTION = list(range(len(_KNOWN)))
_SUMMED = list(map(_KNOWN.index, ("last", "mean", "excess", "day_excess")))  # along the path
_POINT = list(map(_KNOWN.index, ("last", "age", "mean", "excess", "number", "day_excess")))


@dataclass(frozen=True)
class Observations:
    """Values observed at places, as they were and beyond what is usual, sorted by place and time.

    Row o + 1 of what is per observation is what is known after observation o; row 0 is that of nothing.
    """

    key: Int64Array  # [O] place × TIME_SPAN_S + time
    time: Int64Array  # [O + 1] seconds since the Unix epoch
    values: FloatArray  # [2, O + 1]
    sums: npt.NDArray[np.float64]  # [2, O + 1] of the values up to here, those of lower places included
    so_far: FloatArray  # [O + 1] shrunk mean of the second value since the place's first observation
    first: Int64Array  # [places + 1] first observation of each place

    @classmethod
    def of(cls, place: Int64Array, time: Int64Array, values: FloatArray, n_places: int) -> Self:
        # Places are numbered without gaps and an event has one, so this is a table of a billion events.
        assert n_places < 2**63 // TIME_SPAN_S, f"{n_places} places do not fit the keys"
        order = np.lexsort((time, place))
        place, time = place[order], time[order]
        # Multiples of 2^-16 s, finer than matters, add up without rounding: what is far away in the table, another date
        # or the future, does not change a mean even in its last bit.
        own = np.zeros((2, len(place) + 1), np.float32)
        own[:, 1:] = np.round(values[order].T * 2**16) / 2**16
        sums = np.cumsum(own, axis=1, dtype=np.float64)
        first = np.searchsorted(place, np.arange(n_places + 1))
        so_far = np.zeros(len(place) + 1, np.float32)
        so_far[1:] = (sums[1, 1:] - sums[1, first[place]]) / (np.arange(2, len(place) + 2) - first[place])
        return cls(place * TIME_SPAN_S + time, np.append(-TIME_SPAN_S, time), own, sums, so_far, first)

    def known_at(self, place: Int64Array, time: Int64Array) -> FloatArray:
        """_KNOWN [C, 7] of each place [C] at its time [C]; fastest where both are sorted."""
        key = place * TIME_SPAN_S + time
        # Side by side both searches touch the same memory.
        since, until = np.searchsorted(self.key, np.stack([key - RECENT_S, key], axis=1), side="right").T
        newest = np.where(until > self.first[place], until, 0)
        age, number = np.minimum(time - self.time[newest], OLD_S), until - since
        fresh = age < OLD_S
        known = np.empty((len(place), len(_KNOWN)), np.float32)
        for column, values in enumerate(
            (
                self.values[0][newest] * fresh,
                self.values[1][newest] * fresh,
                age,
                (self.sums[0][until] - self.sums[0][since]) / (number + 1),
                (self.sums[1][until] - self.sums[1][since]) / (number + 1),
                number,
                self.so_far[newest],
            )
        ):
            known[:, column] = values
        return known


@dataclass(frozen=True)
class LiveState:
    """The observations of one event table, ready to be looked up at any instant."""

    table: EventTable
    section_of: Int64Array  # [E] section and service date
    point_of: Int64Array  # [E] point and service date
    track_of: Int64Array  # [E] unordered pair of points, -1 where the train does not move
    n_tracks: int
    forward: BoolArray  # [E] runs the track from the lower point code to the higher
    sections: Observations  # change, excess
    points: Observations  # delay, excess

    @classmethod
    def of(cls, table: EventTable, usual_change: FloatArray, usual_delay: FloatArray) -> Self:
        """The live state of a table.

        Args:
            usual_change: running sum along the journey of the usual delay change [E], seconds.
            usual_delay: usual delay of this train here [E], seconds.
        """
        event = np.arange(table.n_events)
        first = np.zeros(table.n_events, np.bool_)
        first[np.asarray(table.start)] = True
        before = np.where(first, event, event - 1)
        journey = np.asarray(table.journey)
        day = np.unique(np.asarray(table.day)[journey], return_inverse=True)[1].astype(np.int64)
        point = np.asarray(table.point).astype(np.int64)
        place = point * 4 + np.asarray(table.event_type)
        n_points = int(point.max(initial=0)) + 1

        def numbered(codes: Int64Array) -> tuple[Int64Array, int]:
            kinds, number = np.unique(codes, return_inverse=True)
            return number.astype(np.int64), len(kinds)

        step = np.where(first, 0, place[before]) * (4 * n_points) + place
        # Numbers of one service date lie together, so that those around a snapshot are in a narrow range.
        section_of, n_sections = numbered(day * (4 * n_points) ** 2 + step)
        point_of, n_places = numbered(day * n_points + point)

        observed = np.asarray(table.observed)
        seen = observed < NEVER
        delay = np.where(seen, observed - np.asarray(table.planned), 0)
        ran = np.flatnonzero(seen & ~first & seen[before])
        change = delay[ran] - delay[ran - 1]
        excess = change - (usual_change[ran] - usual_change[ran - 1])
        at = np.flatnonzero(seen)
        low, high = np.minimum(point[before], point), np.maximum(point[before], point)
        track_of, n_tracks = numbered(low * n_points + high)
        return cls(
            table=table,
            section_of=section_of,
            point_of=point_of,
            track_of=np.where(low < high, track_of, -1),
            n_tracks=n_tracks,
            forward=point[before] < point,
            sections=Observations.of(
                section_of[ran],
                np.maximum(observed[ran], observed[ran - 1]),
                _columns(change, excess, (-CHANGE_LIMIT_S, CHANGE_LIMIT_S)),
                n_sections,
            ),
            points=Observations.of(
                point_of[at], observed[at], _columns(delay[at], delay[at] - usual_delay[at], DELAY_LIMITS_S), n_places
            ),
        )

    def around(
        self, event: Int64Array, mask: BoolArray, translation: FloatArray, snapshot: Int64Array, instant: Int64Array
    ) -> FloatArray:
        """LIVE_FEATURES [N, F, L] around the next events of N trains; 0 where there is none.

        Args:
            event: rows of the table [N, F].
            mask: which of them exist [N, F].
            translation: seconds [N].
            snapshot: which snapshot each train is in [N], not decreasing; neighbours are trains of the same one.
            instant: of the snapshot [N], seconds since the Unix epoch.
        """
        where = np.flatnonzero(mask)
        cells, trains = event.ravel()[where], where // mask.shape[1]
        time, late = instant[trains], translation[trains]
        of_train = snapshot[trains]
        around = np.empty((len(cells), len(LIVE_FEATURES)), np.float32)
        for columns, wanted, observations, place in (
            (slice(_PATH.start), _SECTION, self.sections, self.section_of[cells]),
            (slice(_PATH.stop, _PATH.stop + len(_POINT)), _POINT, self.points, self.point_of[cells]),
        ):
            one, which = _distinct(place, of_train)  # many trains of a snapshot head for the same place
            around[:, columns] = np.take(observations.known_at(place[one], time[one])[:, wanted], which, axis=0)
        around[:, -len(NEIGHBOUR_FEATURES) :] = self._neighbours(cells, trains, of_train, late)
        path = np.zeros((len(_SUMMED), mask.size), np.float32)
        path[:, where] = around[:, _SUMMED].T
        path = np.cumsum(path.reshape(len(_SUMMED), *mask.shape), axis=-1).reshape(path.shape)
        around[:, _PATH] = path[:, where].T
        features = np.zeros((mask.size, len(LIVE_FEATURES)), np.float32)
        features[where] = around
        return features.reshape(*mask.shape, len(LIVE_FEATURES))

    def _neighbours(self, cells: Int64Array, trains: Int64Array, snapshot: Int64Array, late: FloatArray) -> FloatArray:
        """The trains next to each cell in the order of expected times on its track, in either direction."""
        around = np.zeros((len(cells), len(NEIGHBOUR_FEATURES)), np.float32)
        around[:, [NEIGHBOUR_FEATURES.index("before_gap"), NEIGHBOUR_FEATURES.index("after_gap")]] = FAR_S
        track = self.track_of[cells]
        moving = np.flatnonzero(track >= 0)
        if len(moving) == 0:
            return around
        planned = self.table.planned[cells[moving]]
        expected = planned + late[moving].astype(np.int64)
        group = snapshot[moving] * self.n_tracks + track[moving]
        since = expected - expected.min()
        order = np.argsort(group * (since.max() + 1) + since, kind="stable")
        group, moving = group[order], moving[order]
        next_to = np.flatnonzero((group[1:] == group[:-1]) & (trains[moving[1:]] != trains[moving[:-1]]))
        earlier, later = moving[next_to], moving[next_to + 1]
        before, after = order[next_to], order[next_to + 1]
        near = np.empty((len(next_to), 4), np.float32)
        near[:, 0] = np.minimum(expected[after] - expected[before], FAR_S)
        near[:, 1] = np.clip(planned[after] - planned[before], -FAR_S, FAR_S)
        near[:, 2] = late[earlier]
        near[:, 3] = np.where(self.forward[cells[earlier]] == self.forward[cells[later]], 1, -1)
        around[later, :4] = near
        near[:, 2] = late[later]
        around[earlier, 4:] = near
        return around


def _distinct(place: Int64Array, snapshot: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The distinct places of each snapshot among C cells: a cell of each, in order, and which of them each cell is [C].

    Marks in a table instead of sorting; snapshots do not decrease.
    """
    changed = np.diff(snapshot, prepend=-1) != 0
    start, number = np.flatnonzero(changed), np.cumsum(changed) - 1
    if len(start) == 0:
        return start, number
    low = np.minimum.reduceat(place, start)
    width = int((np.maximum.reduceat(place, start) - low).max()) + 1
    code = number * width + place - low[number]
    marks = np.full(len(start) * width, -1)
    marks[code] = np.arange(len(code))
    found = np.flatnonzero(marks >= 0)
    one = marks[found]
    marks[found] = np.arange(len(found))
    return one, marks[code]


def _columns(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], limits: tuple[int, int]) -> FloatArray:
    return np.clip(np.column_stack([first, second]), *limits).astype(np.float32)


__all__ = ["LIVE_FEATURES", "LIVE_POINT_FEATURES", "LIVE_SECTION_FEATURES", "NEIGHBOUR_FEATURES", "LiveState"]
