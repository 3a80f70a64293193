"""Live state of the railway around each next event: the latest delays of other trains there, and the trains nearby.

There are three views. All of them use only the timetable and the observations that are known by the instant:

- section: delay changes on the section that leads to the event. The view holds the change of the previous train, and
  the means of the last three hours and of the day so far. Each is also given relative to the usual value.
- point: the same for the delays at the event's operational point.
- neighbours: the trains of the snapshot that are expected on the same track just before and just after.

The section view is also given as running sums from the last known event on, like the historical features.

A train sees only observations of its own service date, so its inputs do not depend on the other loaded dates. Each mean
includes one imaginary observation of zero, so the mean of a single train is half its value.

Legend of dimensions: E events of the table, C cells (next events that exist), O observations of a view, B, S, F as in
`snapshots`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from transformer.data.event_table import EventTable, Int64Array

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# Columns of the section and point views: the known values of a place at an instant.
_KNOWN = (
    "last",  # newest value; 0 if there is none in the last OLD_S
    "mean",  # mean of the last RECENT_S, shrunk
    "excess",  # mean of the same values minus the usual ones, shrunk
    "day_excess",  # mean of the excess since the first observation of the service date, shrunk
    "age",  # age of the newest value in s, at most OLD_S
    "number",  # number of values in the last RECENT_S
    "last_excess",  # newest value minus the usual one
)
LIVE_SECTION_FEATURES = (
    "section_last_change",  # delay change of the newest train, s
    "section_change",  # mean of the last RECENT_S
    "section_excess",  # the same minus the usual change on the section
    "section_day_excess",  # mean excess of the service date so far
    "section_last_age",  # s since the newest train; OLD_S if there is none
    "section_count",
    "section_last_excess",
    "path_last_change",  # running sums along the journey, from the last known event on
    "path_change",
    "path_excess",
    "path_day_excess",
)
LIVE_POINT_FEATURES = (
    "point_last_delay",  # delay of the newest train observed here, s
    "point_delay",  # mean of the last RECENT_S
    "point_excess",  # the same minus the usual delay of those trains here
    "point_day_excess",
    "point_last_age",
    "point_count",
)
NEIGHBOUR_FEATURES = (
    "before_gap",  # s between both expected times, at most FAR_S
    "before_planned_gap",  # s between both planned times; negative if the expected order differs from the planned one
    "before_delay",  # the other train's translation, s
    "before_direction",  # 1 = same direction, -1 = opposite, 0 = no such train
    "after_gap",
    "after_planned_gap",
    "after_delay",
    "after_direction",
)
LIVE_FEATURES = (*LIVE_SECTION_FEATURES, *LIVE_POINT_FEATURES, *NEIGHBOUR_FEATURES)
_N_SUMMED = 4  # the first columns of _KNOWN, which the path sums

RECENT_S = 10_800  # three hours: on a rural line a few trains
OLD_S = 14_400  # older observations do not count
NO_KEY = np.int64(2**63 - 1)  # above all keys
TIME_SPAN_S = 1 << 33  # beyond any date; leaves 2^30 places
FAR_S = 7_200  # trains with a larger gap do not affect each other
CHANGE_LIMIT_S = 1_800  # one stranded train must not dominate the mean of a section
DELAY_LIMITS_S = (-3_600, 7_200)


@dataclass(frozen=True)
class Observations:
    """Values observed at places, and their excess over the usual values, sorted by place and time.

    Row o + 1 has the values known after observation o; row 0 has none. A row has 16 bytes, since NumPy copies such rows
    several times as fast as rows of other sizes. The time of an observation is when it is known.
    """

    key: Int64Array  # place × TIME_SPAN_S + time [O + 1], then NO_KEY for the rows that a search may read beyond it
    before: Int64Array  # [n_places] the row before the first row of each place
    longest: int  # largest number of observations of one place
    newest: FloatArray  # [O + 1, 4] value, excess, mean excess of the date so far, age when it is known
    sums: npt.NDArray[np.float64]  # [O + 1, 2] sums of values and excesses up to this row, lower places included

    @classmethod
    def of(cls, place: Int64Array, time: Int64Array, observed: Int64Array, values: FloatArray, n_places: int) -> Self:
        """
        Args:
            time: when each observation [O] is known.
            observed: when it was made [O]. A late one is not the newest of its place after a later one is known.
        """
        # Places are numbered without gaps, and each has an event: too many places would need a billion events.
        assert n_places < 2**63 // TIME_SPAN_S, f"{n_places} places do not fit the keys"
        since = time - time.min(initial=NO_KEY)
        order = _ascending(place * (int(since.max(initial=0)) + 1) + since)
        place, time, observed = place[order], time[order], observed[order]
        newest = np.zeros((len(place) + 1, 4), np.float32)
        # Multiples of 2^-16 s are fine enough and add up without rounding. Distant rows of the table, such as another
        # date or the future, therefore do not change a mean even in its last bit.
        newest[1:, :2] = np.round(values[order] * 2**16) / 2**16
        sums = np.cumsum(newest[:, :2], axis=0, dtype=np.float64)
        made = place * TIME_SPAN_S + observed
        last = np.maximum.accumulate(np.where(made >= np.maximum.accumulate(made), np.arange(len(made)), 0))
        newest[1:, :2] = newest[1:, :2][last]
        newest[1:, 3] = time - observed[last]
        number = np.bincount(place, minlength=n_places)
        before = np.cumsum(number) - number
        first = before[place]
        newest[1:, 2] = (sums[1:, 1] - sums[first, 1]) / (np.arange(2, len(place) + 2) - first)
        longest = int(number.max(initial=0))
        key = np.concatenate([[-TIME_SPAN_S], place * TIME_SPAN_S + time, np.full(longest, NO_KEY)])
        return cls(key, before, longest, newest, sums)

    def _newest_row(self, place: Int64Array, key: Int64Array) -> Int64Array:
        """Row of the newest observation of each place [C] at keys [*, C]. Without one, it is the row before the place.

        This is a binary search within the place, for all places at once. It takes fewer steps than `searchsorted` over
        all rows.
        """
        row = np.tile(np.take(self.before, place), (len(key), 1))
        for bit in reversed(range(self.longest.bit_length())):
            row += (np.take(self.key, row + (1 << bit)) <= key) << bit
        return row

    def known_at(self, place: Int64Array, time: Int64Array) -> FloatArray:
        """Columns `_KNOWN` of each place [C] at its time [C], and an empty column [C, 8]. Sorted input is faster."""
        key = place * TIME_SPAN_S + time
        since, until = self._newest_row(place, np.stack([key - RECENT_S, key]))
        newest, number = np.take(self.newest, until, axis=0), until - since
        recent = np.take(self.sums, until, axis=0) - np.take(self.sums, since, axis=0)
        recent /= (number + 1)[:, None]
        age = key - np.take(self.key, until) + newest[:, 3].astype(np.int64)
        old = np.flatnonzero(age >= OLD_S)
        newest[old, :2] = 0
        newest[old[age[old] > TIME_SPAN_S // 2], 2] = 0  # the row belongs to another place
        known = np.zeros((len(key), len(_KNOWN) + 1), np.float32)
        columns = (newest[:, 0], *recent.T, newest[:, 2], np.minimum(age, OLD_S), number, newest[:, 1])
        for column, values in enumerate(columns):
            known[:, column] = values
        return known


@dataclass(frozen=True)
class LiveState:
    """The observations of one event table, ready to be looked up at any instant."""

    section_of: Int64Array  # [E] section and service date
    point_of: Int64Array  # [E] point and service date
    track_of: Int64Array  # [E] unordered pair of point codes, -1 if the train does not move
    forward: BoolArray  # [E] the train runs from the lower point code to the higher
    sections: Observations  # change, excess
    points: Observations  # delay, excess

    @classmethod
    def of(cls, table: EventTable, usual_change: FloatArray, usual_delay: FloatArray) -> Self:
        """The live state of a table.

        Args:
            usual_change: usual delay change [E] as a running sum along the journey, seconds.
            usual_delay: usual delay of the train at each event [E], seconds.
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

        step = np.where(first, 0, place[before]) * (4 * n_points) + place
        # The numbers of one service date are consecutive, so a snapshot needs only a narrow range of them.
        section_of, n_sections = _numbered(day * (4 * n_points) ** 2 + step)
        point_of, n_places = _numbered(day * n_points + point)

        # A report that was wrong by what was known when it arrived does not count; one found wrong later did count.
        observed, seen, arrived = np.asarray(table.reported), np.asarray(table.heard), np.asarray(table.arrived)
        delay = np.where(seen, observed - np.asarray(table.planned), 0)
        ran = np.flatnonzero(seen & ~first & seen[before])
        change = delay[ran] - delay[ran - 1]
        excess = change - (usual_change[ran] - usual_change[ran - 1])
        at = np.flatnonzero(seen)
        low, high = np.minimum(point[before], point), np.maximum(point[before], point)
        return cls(
            section_of=section_of,
            point_of=point_of,
            track_of=np.where(low < high, high * (high - 1) // 2 + low, -1),  # the same in every table
            forward=point[before] < point,
            sections=Observations.of(
                section_of[ran],
                np.maximum(arrived[ran], arrived[ran - 1]),
                np.maximum(observed[ran], observed[ran - 1]),
                _columns(change, excess, (-CHANGE_LIMIT_S, CHANGE_LIMIT_S)),
                n_sections,
            ),
            points=Observations.of(
                point_of[at],
                arrived[at],
                observed[at],
                _columns(delay[at], delay[at] - usual_delay[at], DELAY_LIMITS_S),
                n_places,
            ),
        )

    def known(self, event: Int64Array, train: Int64Array, snapshot: Int64Array, instant: Int64Array) -> FloatArray:
        """LIVE_SECTION_FEATURES and LIVE_POINT_FEATURES [C, *] of C next events of N trains.

        Args:
            event: rows of the table [C], train after train.
            train: index of the train of each event [C], not decreasing.
            snapshot: index of the snapshot of each train [N], not decreasing.
            instant: instant of the snapshot of each train [N], seconds since the Unix epoch.
        """
        snapshots = _Stretches.of(snapshot[train])
        time = instant[train]
        views = []
        for observations, places in ((self.sections, self.section_of), (self.points, self.point_of)):
            place = places[event]
            one, which = _distinct(place, snapshots)  # many trains of a snapshot head for the same place
            views.append(np.take(observations.known_at(place[one], time[one]), which, axis=0))
        section, point = views
        return _side_by_side(
            section[:, : len(_KNOWN)],
            _along(section[:, :_N_SUMMED], train),
            point[:, : len(LIVE_POINT_FEATURES)],
        )


@dataclass(frozen=True)
class Runs:
    """The runs of C next events over their tracks. A train that does not move is on no track."""

    track: Int64Array  # [C] unordered pair of points; -1 = none
    forward: BoolArray  # [C] from the lower point code to the higher
    planned: Int64Array  # [C] planned time, seconds since the Unix epoch
    train: Int64Array  # [C] index of the train, not decreasing
    snapshot: Int64Array  # [C] index of the snapshot
    late: FloatArray  # [C] translation of the train, seconds


def neighbours(runs: Runs) -> FloatArray:
    """NEIGHBOUR_FEATURES [C, *]: the trains of the snapshot expected just before and after each event on its track."""
    n_runs = len(runs.track)
    sides = np.zeros((n_runs, 2, len(NEIGHBOUR_FEATURES) // 2), np.float32)  # before and after
    sides[..., 0] = FAR_S
    moving = np.flatnonzero(runs.track >= 0)
    if len(moving) == 0:
        return sides.reshape(n_runs, len(NEIGHBOUR_FEATURES))
    planned = runs.planned[moving]
    expected = planned + runs.late[moving].astype(np.int64)
    group = runs.snapshot[moving] * (int(runs.track.max()) + 1) + runs.track[moving]
    since = expected - expected.min()
    order = _ascending(group * (int(since.max()) + 1) + since)
    moving, group, planned, expected = moving[order], group[order], planned[order], expected[order]
    late, train, forward = runs.late[moving], runs.train[moving], runs.forward[moving]
    earlier = np.flatnonzero((group[1:] == group[:-1]) & (train[1:] != train[:-1]))
    later = earlier + 1
    near = np.empty((len(earlier), sides.shape[-1]), np.float32)
    near[:, 0] = np.minimum(expected[later] - expected[earlier], FAR_S)
    near[:, 1] = np.clip(planned[later] - planned[earlier], -FAR_S, FAR_S)
    near[:, 3] = np.where(forward[later] == forward[earlier], 1, -1)
    rows = whole_rows(sides.reshape(2 * n_runs, sides.shape[-1]))
    for side, of, other in ((0, later, earlier), (1, earlier, later)):
        near[:, 2] = late[other]
        rows[2 * moving[of] + side] = whole_rows(near)
    return sides.reshape(n_runs, len(NEIGHBOUR_FEATURES))


@dataclass(frozen=True)
class _Stretches:
    """Stretches of equal values in an array that does not decrease."""

    start: Int64Array  # [R] index at which each stretch begins
    number: Int64Array  # [C] the stretch of each value

    @classmethod
    def of(cls, values: Int64Array) -> Self:
        changed = np.ones(len(values), np.bool_)
        np.not_equal(values[1:], values[:-1], out=changed[1:])
        return cls(np.flatnonzero(changed), np.cumsum(changed) - 1)


def _distinct(place: Int64Array, snapshots: _Stretches) -> tuple[Int64Array, Int64Array]:
    """The distinct places of each snapshot among C events: one event per place, and the place of each event [C].

    Marks in a table replace sorting, for speed.
    """
    start, number = snapshots.start, snapshots.number
    if len(start) == 0:
        return start, number
    low = np.minimum.reduceat(place, start)
    width = int((np.maximum.reduceat(place, start) - low).max()) + 1
    code = place + (np.arange(len(start)) * width - low)[number]
    marks = np.full(len(start) * width, -1)
    marks[code] = np.arange(len(code))
    found = np.flatnonzero(marks >= 0)
    one = marks[found]
    marks[found] = np.arange(len(found))
    return one, marks[code]


def _along(values: FloatArray, train: Int64Array) -> FloatArray:
    """Running sums [C, *] of the values [C, *] of each train [C]. The events of a train are consecutive."""
    trains = _Stretches.of(train)
    rank = np.arange(len(train)) - trains.start[trains.number]
    shape = int(rank.max(initial=-1)) + 1, len(trains.start)
    at = rank * shape[1] + trains.number
    sums = np.zeros((*shape, values.shape[1]), np.float32)
    rows = sums.reshape(shape[0] * shape[1], values.shape[1])
    whole_rows(rows)[at] = whole_rows(values)
    for further in range(1, shape[0]):  # all trains at once
        sums[further] += sums[further - 1]
    return np.take(rows, at, axis=0)


def _numbered(codes: Int64Array) -> tuple[Int64Array, int]:
    """The place of each code [C] among the distinct codes, and their number, as of `numpy.unique`."""
    order = _ascending(codes)
    stretches = _Stretches.of(codes[order])
    number = np.empty(len(codes), np.int64)
    number[order] = stretches.number
    return number, len(stretches.start)


def _ascending(values: Int64Array) -> Int64Array:
    """A stable `argsort` [C] of values that are not negative.

    If the values have bits to spare, their last bits take their positions: sorting these is several times as fast.
    """
    bits = len(values).bit_length()
    if int(values.max(initial=0)) >> (63 - bits):
        return np.argsort(values, kind="stable")
    return np.sort(values << bits | np.arange(len(values))) & ((1 << bits) - 1)


def whole_rows(rows: FloatArray) -> npt.NDArray[np.void]:
    """A view of each row [C, *] as one element [C]. NumPy copies such elements several times as fast as rows."""
    whole: npt.NDArray[np.void] = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]
    return whole


def _side_by_side(*parts: FloatArray) -> FloatArray:
    """Concatenate columns [C, *] by copying whole rows."""
    ends = np.cumsum([part.shape[1] for part in parts])
    joined = np.empty((len(parts[0]), ends[-1]), np.float32)
    for part, end in zip(parts, ends, strict=True):
        whole_rows(joined[:, end - part.shape[1] : end])[:] = whole_rows(part)
    return joined


def _columns(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], limits: tuple[int, int]) -> FloatArray:
    return np.clip(np.column_stack([first, second]), *limits).astype(np.float32)


__all__ = [
    "LIVE_FEATURES",
    "LIVE_POINT_FEATURES",
    "LIVE_SECTION_FEATURES",
    "NEIGHBOUR_FEATURES",
    "LiveState",
    "Runs",
    "neighbours",
    "whole_rows",
]
