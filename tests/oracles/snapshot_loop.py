"""The plain way to build snapshots: a loop over the trains, with Python lists per journey.

The vectorised builder is tested against this loop, and its speed is compared with the loop's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from transformer.config import SnapshotConfig
from transformer.data.event_table import NEVER, EventTable
from transformer.data.time_order import MEASURED, ON_PLAN
from transformer.features.live_state import CHANGE_LIMIT_S, DELAY_LIMITS_S, FAR_S, LIVE_FEATURES, OLD_S, RECENT_S
from transformer.features.snapshots import EventFeatures


@dataclass(frozen=True)
class Journey:
    """One journey as lists: planned and observed seconds (None = not observed), point and event type codes."""

    index: int
    first_event: int
    train_type: int
    planned: list[int]
    observed: list[int | None]  # for labels
    reported: list[int | None]  # for inputs
    arrived: list[int]  # time from which each report is known
    point: list[int]
    event_type: list[int]
    features: list[list[float]]
    sections: list[tuple[int, ...]]  # service date, and point and event type before and at each event
    places: list[tuple[int, int]]  # service date and point
    tracks: list[tuple[int, int] | None]  # unordered pair of points; None = the train does not move


@dataclass(frozen=True)
class Heard:
    """The observations at one place in the order in which they become known, and two values of each."""

    times: list[int]  # at which they become known
    observed: list[int]
    values: list[tuple[float, float]]
    sums: list[tuple[float, float]]  # sums of the first 0, 1, 2 … values


@dataclass(frozen=True)
class LiveIndex:
    """The observations on every section and at every point, prepared once."""

    sections: dict[tuple[int, ...], Heard]
    points: dict[tuple[int, int], Heard]


NOTHING_HEARD = Heard([], [], [], [(0.0, 0.0)])


def journeys_of(table: EventTable, features: EventFeatures) -> list[Journey]:
    """Every journey of a table, as lists."""
    result = []
    for index in range(table.n_journeys):
        events = slice(int(table.start[index]), int(table.end[index]))
        observed, reported = (
            [None if value == NEVER else value for value in times[events].tolist()]
            for times in (table.observed, table.reported)
        )
        point, event_type, day = table.point[events].tolist(), table.event_type[events].tolist(), int(table.day[index])
        before = [(0, 0), *zip(point, event_type, strict=True)]
        result.append(
            Journey(
                index,
                int(table.start[index]),
                int(table.train_type[index]),
                table.planned[events].tolist(),
                observed,
                reported,
                table.arrived[events].tolist(),
                point,
                event_type,
                features.values[events].tolist(),
                [(day, *start, *end) for start, end in pairwise(before)],
                [(day, code) for code in point],
                [None, *((min(a, b), max(a, b)) if a != b else None for a, b in pairwise(point))],
            )
        )
    return result


def live_index(journeys: Sequence[Journey], usual_change: Sequence[float], usual_delay: Sequence[float]) -> LiveIndex:
    """The observations of all journeys, place by place. `LiveState.of` explains the usual values."""
    sections, points = defaultdict(list), defaultdict(list)
    for journey in journeys:
        before = None  # known time, observed time and delay of the event before
        heard = heard_events(journey)
        for i, seen in enumerate(journey.reported):
            if seen is None or i not in heard:
                before = None
                continue
            event = journey.first_event + i
            delay = seen - journey.planned[i]
            known = journey.arrived[i]
            limited = _clipped(delay, delay - usual_delay[event], *DELAY_LIMITS_S)
            points[journey.places[i]].append((known, seen, *limited))
            if before is not None:
                change = delay - before[2]
                excess = change - (usual_change[event] - usual_change[event - 1])
                limited = _clipped(change, excess, -CHANGE_LIMIT_S, CHANGE_LIMIT_S)
                sections[journey.sections[i]].append((max(known, before[0]), max(seen, before[1]), *limited))
            before = (known, seen, delay)
    return LiveIndex(
        {place: _heard(observations) for place, observations in sections.items()},
        {place: _heard(observations) for place, observations in points.items()},
    )


def _clipped(first: float, second: float, low: float, high: float) -> tuple[float, float]:
    return min(max(first, low), high), min(max(second, low), high)


def _heard(observations: list[tuple[int, int, float, float]]) -> Heard:
    observations.sort(key=lambda observation: observation[0])  # ties keep the order of the table
    values = [(first, second) for _, _, first, second in observations]
    sums = accumulate(values, lambda total, value: (total[0] + value[0], total[1] + value[1]), initial=(0.0, 0.0))
    times, observed = ([observation[column] for observation in observations] for column in (0, 1))
    return Heard(times, observed, values, list(sums))


def known_events(journey: Journey, t: int) -> list[int]:
    """The events that are known to have happened at `t`: the heaviest chain of the reports so far."""
    arrived = [(seen, i) for i, seen in enumerate(journey.reported) if seen is not None and journey.arrived[i] <= t]
    return _chains(arrived, journey)[-1] if arrived else []


def heard_events(journey: Journey) -> set[int]:
    """The events whose report was in the chain when it arrived."""
    arrived = sorted((journey.arrived[i], seen, i) for i, seen in enumerate(journey.reported) if seen is not None)
    observed = [(seen, i) for _, seen, i in arrived]
    return {i for number, (_, i) in enumerate(observed, start=1) if i in _chains(observed[:number], journey)[-1]}


def _chains(arrived: list[tuple[int, int]], journey: Journey) -> list[list[int]]:
    """The heaviest chain after each report; of equally heavy ones the one with the newest end."""
    arrived = sorted(arrived)
    if all(a[1] < b[1] for a, b in pairwise(arrived)):
        events = [i for _, i in arrived]
        return [events[: k + 1] for k in range(len(events))]
    best: list[tuple[int, list[int]]] = []  # weight and chain that end with each report
    claims: list[bool] = []
    chains: list[list[int]] = []
    for seen, event in arrived:
        on_plan = seen == journey.planned[event]
        before = [m for m, (_, other) in enumerate(arrived[: len(best)]) if other < event]
        claim = False
        if on_plan and before:
            neighbour = max(before, key=lambda m: arrived[m][1])
            other = arrived[neighbour][1]
            equal = arrived[neighbour][0] == journey.planned[other]
            claim = equal and (claims[neighbour] or other not in chains[-1])
        weight, chain = 0, []
        for m in before:
            if not claims[m] and best[m][0] >= weight:
                weight, chain = best[m]
        claims.append(claim)
        best.append((-1, []) if claim else (weight + (ON_PLAN if on_plan else MEASURED), [*chain, event]))
        heaviest = max(range(len(best)), key=lambda m: (best[m][0], m))
        chains.append(best[heaviest][1])
    return chains


def train_at(journey: Journey, t: int, config: SnapshotConfig, n_cumulative: int) -> dict[str, Any] | None:
    """The content of a snapshot at `t` for one journey; None = its train is not running."""
    planned, observed, reported = journey.planned, journey.observed, journey.reported
    if planned[0] - config.lead_s > t:
        return None
    known = known_events(journey, t)
    last = known[-1] if known else -1
    if last == len(planned) - 1:
        return None
    last_delay = reported[last] - planned[last] if last >= 0 else 0
    if t > planned[-1] + last_delay + config.end_grace_s:
        return None
    if t > planned[last + 1] + last_delay + config.silence_s:
        return None

    past = [
        (reported[i] - planned[i], reported[i] - t, journey.point[i], journey.event_type[i])
        for i in known[-config.n_prev :]
    ]

    base = journey.features[last][:n_cumulative] if last >= 0 else [0.0] * n_cumulative
    following = []
    for i in range(last + 1, min(last + 1 + config.n_foll, len(planned))):
        values = journey.features[i]
        relative = [value - start for value, start in zip(values, base, strict=False)] + values[n_cumulative:]
        label = None if observed[i] is None else observed[i] - planned[i]
        following.append(
            (journey.first_event + i, planned[i] - t, journey.point[i], journey.event_type[i], relative, label)
        )
    return {
        "journey": journey.index,
        "train_type": journey.train_type,
        "departed": last >= 0,
        "last_delay": last_delay,
        "translation": max(last_delay, t - planned[last + 1]),
        "past": past,
        "next": following,
    }


def heard_at(heard: Heard, t: int) -> tuple[tuple[float, float], int, tuple[float, float], int, tuple[float, float]]:
    """Values known at `t`: the last values and their age, means and number over RECENT_S, and means so far."""
    until, since = bisect_right(heard.times, t), bisect_right(heard.times, t - RECENT_S)
    last, age = (0.0, 0.0), OLD_S
    if until:
        newest = max(range(until), key=lambda row: (heard.observed[row], row))
        if t - heard.observed[newest] < OLD_S:
            last, age = heard.values[newest], t - heard.observed[newest]
    total, before, count = heard.sums[until], heard.sums[since], until - since
    recent = (total[0] - before[0]) / (count + 1), (total[1] - before[1]) / (count + 1)
    return last, age, recent, count, (total[0] / (until + 1), total[1] / (until + 1))


def live_ahead(journey: Journey, events: Iterable[int], t: int, index: LiveIndex) -> list[list[float]]:
    """Section and point features of the next events of one train."""
    result = []
    path = (0.0, 0.0, 0.0, 0.0)
    for i in events:
        last, age, recent, count, today = heard_at(index.sections.get(journey.sections[i], NOTHING_HEARD), t)
        path = path[0] + last[0], path[1] + recent[0], path[2] + recent[1], path[3] + today[1]
        section = [last[0], *recent, today[1], age, count, last[1], *path]
        last, age, recent, count, today = heard_at(index.points.get(journey.places[i], NOTHING_HEARD), t)
        result.append([*section, last[0], *recent, today[1], age, count])
    return result


def add_neighbours(journeys: Sequence[Journey], trains: Sequence[dict[str, Any]], t: int) -> None:
    """Append to the live features of each next event the trains expected on its track just before and after it."""
    on_track = defaultdict(list)
    for number, train in enumerate(trains):
        journey, late = journeys[train["journey"]], train["translation"]
        for live, (event, in_s, *_) in zip(train["live"], train["next"], strict=True):
            live += [FAR_S, 0.0, 0.0, 0.0, FAR_S, 0.0, 0.0, 0.0]
            i = event - journey.first_event
            if (track := journey.tracks[i]) is not None:
                forward = journey.point[i - 1] < journey.point[i]
                on_track[track].append((t + in_s + late, number, t + in_s, late, forward, live))
    for cells in on_track.values():
        cells.sort(key=lambda cell: cell[0])
        for earlier, later in pairwise(cells):
            if earlier[1] == later[1]:  # a train that comes back does not meet itself
                continue
            gap = min(later[0] - earlier[0], FAR_S)
            planned_gap = min(max(later[2] - earlier[2], -FAR_S), FAR_S)
            direction = 1.0 if earlier[4] == later[4] else -1.0
            later[5][-8:-4] = gap, planned_gap, earlier[3], direction
            earlier[5][-4:] = gap, planned_gap, later[3], direction


def snapshots_by_loop(
    journeys: Sequence[Journey],
    instants: Sequence[int],
    config: SnapshotConfig,
    features: EventFeatures,
    index: LiveIndex | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Padded arrays of snapshots at `instants`, with the names and shapes of a SnapshotBatch."""
    snapshots = []
    for t in instants:
        running = (train_at(journey, t, config, features.n_cumulative) for journey in journeys)
        trains = [train for train in running if train is not None]
        for train in trains:
            train["live"] = [[] for _ in train["next"]]
            if index is not None:
                journey = journeys[train["journey"]]
                events = (event - journey.first_event for event, *_ in train["next"])
                train["live"] = live_ahead(journey, events, t, index)
        if index is not None:
            add_neighbours(journeys, trains, t)
        snapshots.append(trains)
    n_live = 0 if index is None else len(LIVE_FEATURES)
    return _padded(snapshots, instants, config, features.values.shape[1], n_live)


def _padded(
    snapshots: list[list[dict[str, Any]]],
    instants: Sequence[int],
    config: SnapshotConfig,
    n_features: int,
    n_live: int,
) -> dict[str, np.ndarray[Any, Any]]:
    n_trains = max(1, *(len(trains) for trains in snapshots))
    per_train, n_prev, n_foll = (len(snapshots), n_trains), config.n_prev, config.n_foll
    arrays: dict[str, np.ndarray[Any, Any]] = {"instant": np.array(instants, np.int64)}
    for name, dtype in (
        ("train_mask", bool), ("journey", np.int64), ("train_type", np.int64), ("departed", bool),
        ("last_delay", np.float32), ("translation", np.float32),
    ):  # fmt: skip
        arrays[name] = np.zeros(per_train, dtype)
    for name, dtype in (
        ("past_mask", bool), ("past_delay", np.float32), ("past_observed", np.float32), ("past_point", np.int64),
        ("past_type", np.int64),
    ):  # fmt: skip
        arrays[name] = np.zeros((*per_train, n_prev), dtype)
    for name, dtype in (
        ("next_mask", bool), ("next_event", np.int64), ("next_planned", np.float32), ("next_point", np.int64),
        ("next_type", np.int64), ("label_mask", bool), ("label", np.float32),
    ):  # fmt: skip
        arrays[name] = np.zeros((*per_train, n_foll), dtype)
    arrays["next_features"] = np.zeros((*per_train, n_foll, n_features), np.float32)
    arrays["next_live"] = np.zeros((*per_train, n_foll, n_live), np.float32)
    arrays["next_inputs"] = np.zeros((*per_train, n_foll, 0), np.float32)
    for b, trains in enumerate(snapshots):
        for s, train in enumerate(trains):
            arrays["train_mask"][b, s] = True
            for name in ("journey", "train_type", "departed", "last_delay", "translation"):
                arrays[name][b, s] = train[name]
            offset = n_prev - len(train["past"])
            for p, (delay, observed, point, kind) in enumerate(train["past"], start=offset):
                arrays["past_mask"][b, s, p] = True
                arrays["past_delay"][b, s, p] = delay
                arrays["past_observed"][b, s, p] = observed
                arrays["past_point"][b, s, p] = point
                arrays["past_type"][b, s, p] = kind
            for f, (event, planned, point, kind, values, label) in enumerate(train["next"]):
                arrays["next_mask"][b, s, f] = True
                arrays["next_event"][b, s, f] = event
                arrays["next_planned"][b, s, f] = planned
                arrays["next_point"][b, s, f] = point
                arrays["next_type"][b, s, f] = kind
                arrays["next_features"][b, s, f] = values
                if label is not None:
                    arrays["label_mask"][b, s, f] = True
                    arrays["label"][b, s, f] = label
            for f, live in enumerate(train["live"] if n_live else ()):
                arrays["next_live"][b, s, f] = live
    return arrays
