"""Simulate the traffic of one service date as discrete events in order of time.

Delays come from the disturbances and from four rules. Trains keep the headway into and out of every section, and do not
overtake on it. They wait for a free platform, for a feeder, and for their train set.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transformer.data.simulator.railway import Railway
from transformer.data.simulator.settings import SimulationConfig
from transformer.data.simulator.timetable import LONG_DISTANCE, Timetable, feeders, turn_rounds

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SPARE_PLATFORMS = 1  # platforms in addition to the most that the timetable occupies at once
TERMINUS_OCCUPATION_S = 150.0  # time for which an arrived train occupies its last platform
SPARE_TRAIN_SET_S = 1_800.0  # a journey whose train set is later than this gets another train set
OVERTAKING_S = 180.0  # longest time for which a train waits until a faster train has passed
LOOK_AGAIN_S = 30.0  # time between two checks for a feeder that is overdue
_REACH, _READY, _DEPART, _RELEASE = range(4)


@dataclass(frozen=True)
class Plan:
    """The timetable of a weekday or a weekend date, and the dependencies between its journeys.

    Attributes:
        timetable: T journeys, V visits.
        next_journey: (T,), the next journey of the train set; −1 = none.
        feeder: (V,), the visit whose arrival a departure waits for; −1 = none.
        platforms: (N,), number of trains that can stand at each point at once.
    """

    timetable: Timetable
    next_journey: Ints
    feeder: Ints
    platforms: Ints


class Restriction(NamedTuple):
    """A disrupted section. Until `end`, trains take `extra_s` longer and keep `headway_s`, or may not enter it."""

    start: float
    end: float
    extra_s: float
    headway_s: float
    closed: bool


@dataclass(frozen=True)
class Disturbances:
    """Disturbances of one service date, in seconds.

    Attributes:
        start: lateness of the train at the origin, (T,).
        run: extra running time (negative = less) of the section before the point, (V,).
        dwell: extra least dwell, (V,).
        lead: how early the driver of a punctual train aims to arrive, (T,).
        restrictions: restrictions of each directed section.
    """

    start: Floats
    run: Floats
    dwell: Floats
    lead: Floats
    restrictions: dict[int, list[Restriction]]


class Played(NamedTuple):
    """Actual times, (V,) seconds. Both are equal at a pass-through, at the origin and at the terminus."""

    arrival: Floats
    departure: Floats


def make_plan(timetable: Timetable, railway: Railway, config: SimulationConfig) -> Plan:
    return Plan(
        timetable,
        turn_rounds(timetable, config),
        feeders(timetable, railway, config),
        _platforms(timetable, len(railway.x_km)),
    )


def play(plan: Plan, disturbances: Disturbances, config: SimulationConfig) -> Played:
    """Return the actual times of every visit. No train leaves a stop before its planned time."""
    day = _Day(plan, disturbances, config)
    day.run()
    return Played(np.array(day.arrived), np.array(day.left))


def _platforms(timetable: Timetable, points: int) -> Ints:
    standing = timetable.stops & (timetable.section >= 0)
    standing_at = timetable.point[standing]
    until = timetable.departure + TERMINUS_OCCUPATION_S * (timetable.arrival == timetable.departure)
    time = np.concatenate([timetable.arrival[standing], until[standing]])
    change = np.repeat([1, -1], len(standing_at))
    point = np.concatenate([standing_at, standing_at])
    order = np.lexsort((change, time, point))  # at equal times, a departure comes before an arrival
    # Every train leaves again, so the running sum is 0 again where the next point begins.
    occupied = np.cumsum(change[order])
    most = np.zeros(points, dtype=np.int64)
    np.maximum.at(most, point[order], occupied)
    return most + SPARE_PLATFORMS


class _Day:
    """The state of the railway during the simulation. It uses lists, since the loop reads single values."""

    def __init__(self, plan: Plan, disturbances: Disturbances, config: SimulationConfig) -> None:
        table = plan.timetable
        self.config = config
        self.point, self.section = table.point.tolist(), table.section.tolist()
        self.stops = table.stops.tolist()
        self.planned_arrival, self.planned_departure = table.arrival.tolist(), table.departure.tolist()
        self.least_run, self.run_extra = table.least_run.tolist(), disturbances.run.tolist()
        planned_run = np.diff(table.arrival, prepend=0.0) - np.roll(table.departure - table.arrival, 1)
        self.planned_run = planned_run.tolist()
        self.dwell = (table.least_dwell + disturbances.dwell).tolist()
        self.feeder = plan.feeder.tolist()
        self.journey = table.journey.tolist()
        self.lead = disturbances.lead.tolist()
        self.restrictions = disturbances.restrictions

        self.is_fast = (table.kind == LONG_DISTANCE)[table.journey].tolist()
        self.is_last = np.isin(np.arange(len(table.point)), table.first[1:] - 1).tolist()
        follows = plan.next_journey >= 0
        self.next_origin = dict(
            zip(
                (table.first[1:] - 1)[follows].tolist(),
                table.first[:-1][plan.next_journey[follows]].tolist(),
                strict=True,
            )
        )
        self.ready_extra = dict(zip(table.first[:-1].tolist(), disturbances.start.tolist(), strict=True))

        self.arrived = [np.nan] * len(self.point)
        self.left = [np.nan] * len(self.point)
        self.delay = [0.0] * len(table.number)  # last known delay of each journey
        self.free_platforms = plan.platforms.tolist()
        self.held: defaultdict[int, deque[int]] = defaultdict(deque)  # point → visits that wait for a platform
        self.on_section: defaultdict[int, deque[tuple[int, float]]] = defaultdict(deque)  # → visit, earliest exit
        self.last_exit: dict[int, float] = {}  # section → time
        self.entry_free: dict[int, float] = {}  # section → earliest next entry
        self.sent: set[int] = set()
        self.heap: list[tuple[float, int, int]] = []

        has_predecessor = set(self.next_origin.values())
        for origin, extra in self.ready_extra.items():
            ready = self.planned_departure[origin]
            self._push(ready + (SPARE_TRAIN_SET_S if origin in has_predecessor else 0.0) + extra, _READY, origin)

    def run(self) -> None:
        handlers = {_REACH: self._reach, _READY: self._ready, _DEPART: self._depart, _RELEASE: self._release}
        while self.heap:
            now, kind, visit = heapq.heappop(self.heap)
            handlers[kind](visit, now)

    def _push(self, time: float, kind: int, visit: int) -> None:
        heapq.heappush(self.heap, (time, kind, visit))

    def _reach(self, visit: int, now: float) -> None:
        """Handle the first train of a section at its end: the train passes, arrives, or waits for a platform."""
        point = self.point[visit]
        if not self.stops[visit]:
            self._ready(visit, now)
        elif self.free_platforms[point]:
            self._arrive(visit, now)
        else:
            self.held[point].append(visit)

    def _arrive(self, visit: int, now: float) -> None:
        self.free_platforms[self.point[visit]] -= 1
        self.arrived[visit] = now
        self.delay[self.journey[visit]] = now - self.planned_arrival[visit]
        self._clear(self.section[visit], now)
        if not self.is_last[visit]:
            self._push(max(now + self.dwell[visit], self.planned_departure[visit]), _READY, visit)
            return
        self.left[visit] = now
        self._push(now + TERMINUS_OCCUPATION_S, _RELEASE, visit)
        if visit in self.next_origin:
            origin = self.next_origin[visit]
            ready = max(now + self.config.turn_round_s, self.planned_departure[origin])
            self._push(ready + self.ready_extra[origin], _READY, origin)

    def _ready(self, visit: int, now: float) -> None:
        """Handle a train that could leave: it waits for its feeder, for a faster train, and then for the section."""
        if visit in self.sent:  # it left with a spare train set, before its own arrived
            return
        until = max(self._wait_for_feeder(visit, now), self._wait_for_faster(visit, now))
        if until > now:
            self._push(until, _READY, visit)
            return
        self.sent.add(visit)
        section = self.section[visit + 1]
        time, headway = max(now, self.entry_free.get(section, 0.0)), float(self.config.headway_s)
        for rule in self.restrictions.get(section, ()):
            if rule.start <= time < rule.end:
                time = rule.end if rule.closed else time
                self.run_extra[visit + 1] += rule.extra_s
                headway = max(headway, rule.headway_s)
        self.entry_free[section] = time + headway
        self._push(time, _DEPART, visit)

    def _depart(self, visit: int, now: float) -> None:
        """Move a train into the next section. A train that passes waited in its last section, and clears it now."""
        self.left[visit] = now
        self.delay[self.journey[visit]] = now - self.planned_departure[visit]
        if self.section[visit] < 0:
            self.arrived[visit] = now  # a train set comes from the depot, and occupied no platform before
        elif self.stops[visit]:
            self._release(visit, now)
        else:
            self.arrived[visit] = now
            self._clear(self.section[visit], now)
        ahead = visit + 1
        # A punctual train keeps to its plan, a late train runs as fast as it can.
        to_plan = self.planned_arrival[ahead] - self.lead[self.journey[visit]] - now
        run = max(self.least_run[ahead], min(to_plan, self.planned_run[ahead])) + self.run_extra[ahead]
        trains = self.on_section[self.section[ahead]]
        trains.append((ahead, now + run))
        if len(trains) == 1:
            self._approach(self.section[ahead])

    def _approach(self, section: int) -> None:
        """Schedule the first train of a section to reach its end, a headway behind the train before."""
        visit, earliest = self.on_section[section][0]
        self._push(max(earliest, self.last_exit.get(section, -np.inf) + self.config.headway_s), _REACH, visit)

    def _clear(self, section: int, now: float) -> None:
        trains = self.on_section[section]
        trains.popleft()
        self.last_exit[section] = now
        if trains:
            self._approach(section)

    def _release(self, visit: int, now: float) -> None:
        """Free a platform, and let the train arrive that has waited longest."""
        point = self.point[visit]
        self.free_platforms[point] += 1
        if self.held[point]:
            self._arrive(self.held[point].popleft(), now)

    def _wait_for_feeder(self, visit: int, now: float) -> float:
        """Return the time until which a train waits for its feeder; `now` = the feeder is too late or there is none."""
        feeder = self.feeder[visit]
        if feeder < 0:
            return now
        latest = self.planned_departure[visit] + self.config.wait_limit_s
        comes = self.arrived[feeder]
        if np.isnan(comes):
            comes = max(self.planned_arrival[feeder] + self.delay[self.journey[feeder]], now + LOOK_AGAIN_S)
        ready = comes + self.config.transfer_s
        return ready if ready <= latest else now

    def _wait_for_faster(self, visit: int, now: float) -> float:
        """Return the time until which a train waits for a long-distance train behind it that does not stop here."""
        behind = self.on_section[self.section[visit]] if self.stops[visit] else None
        if not behind or self.is_fast[visit]:
            return now
        fast, comes = behind[0]
        passes = self.is_fast[fast] and not self.stops[fast]
        if not passes or comes > now + OVERTAKING_S or self.section[fast + 1] != self.section[visit + 1]:
            return now
        return comes + 1.0
