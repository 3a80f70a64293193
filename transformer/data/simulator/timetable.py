"""A clock-face timetable of the simulated railway, with the connections and turn-rounds of its journeys.

Each line has services of up to three train types in both directions, at an interval that divides two hours. The
departure minutes are chosen one service after the other, so that trains keep the headway on every shared section. All
times are seconds after the start of the service date (noon minus 12 h; from 86,400 on, after midnight).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.data.simulator.railway import Railway
from transformer.data.simulator.settings import SimulationConfig
from transformer.errors import UserError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

HOUR = 3_600
CYCLE_MIN = 120  # every interval divides it
FIRST_START, LAST_START = int(4.5 * HOUR), int(23.75 * HOUR)  # the last journeys end past midnight
PEAKS = ((6 * HOUR, 9 * HOUR), (int(15.5 * HOUR), int(18.5 * HOUR)))
STOPPING_S = 45  # time for braking and accelerating at a stop
HUB_SUPPLEMENT_S = 40  # extra running time before hubs and termini, to recover from delays
TURN_ROUND_MARGIN_S = (600, 120, 0)  # by train type, planned in addition to the least turn-round time
LONGEST_LAYOVER_S = 50 * 60  # a train set that would wait longer goes to the depot
FIRST_SERVICE = 6  # journeys; a smaller number lets every service run before any service runs often
LONGEST_WAIT_MIN = 9  # longest planned wait for a faster train that overtakes
CONFLICT_PRICE_MIN = 60  # waiting time in minutes that costs as much as one conflict
CONNECTION_WINDOW_S = 10 * 60  # a departure that is planned more than this after a feeder does not wait for it


class TrainType(NamedTuple):
    name: str
    speed_kmh: float
    supplement: float  # planned extra running time, as share of the technically shortest running time
    hub_dwell_s: int  # planned; 0 = does not stop
    station_dwell_s: int
    weight: float  # how often it runs, relative to the other types
    intervals: tuple[tuple[int, int], ...]  # (off-peak, peak) in minutes, from rare to frequent


TRAIN_TYPES = (
    TrainType("long_distance", 115, 0.08, 150, 0, 1.0, ((120, 120), (60, 60), (60, 30), (30, 30))),
    TrainType("regional", 85, 0.07, 100, 50, 2.0, ((120, 60), (60, 60), (60, 30), (30, 30), (30, 15), (15, 15))),
    TrainType("other", 72, 0.12, 180, 0, 0.4, ((120, 120), (60, 60))),
)
LONG_DISTANCE, REGIONAL, OTHER = range(3)
LEAST_DWELL_SHARE = 0.6  # least dwell of a late train, as share of the planned dwell


@dataclass(frozen=True)
class Timetable:
    """T journeys in order of their start, and V visits of points (stops and pass-throughs), journey after journey.

    Attributes:
        number: public train number, (T,) unique.
        kind: index into TRAIN_TYPES, (T,).
        line, service, direction: (T,); a service is one train type on one line.
        weekend: whether the journey also runs on Saturday and Sunday, (T,).
        first: index of each journey's first visit, then V, (T + 1,).
        point: (V,).
        section: directed section before the point, −1 at the origin, (V,).
        stops: whether the train stops, (V,).
        arrival, departure: planned times, (V,) seconds; equal at the origin, the terminus and a pass-through.
        least_run: technically shortest running time of the section, (V,) seconds.
        least_dwell: (V,) seconds.
    """

    number: Ints
    kind: Ints
    line: Ints
    service: Ints
    direction: Ints
    weekend: Flags
    first: Ints
    point: Ints
    section: Ints
    stops: Flags
    arrival: Floats
    departure: Floats
    least_run: Floats
    least_dwell: Floats

    @property
    def journey(self) -> Ints:
        """The journey of each visit, (V,)."""
        return np.repeat(np.arange(len(self.number)), np.diff(self.first))

    def select(self, journeys: Flags) -> Timetable:
        """Return the timetable of the chosen journeys."""
        visits = journeys[self.journey]
        per_visit = ("point", "section", "stops", "arrival", "departure", "least_run", "least_dwell")
        per_journey = ("number", "kind", "line", "service", "direction", "weekend")
        return Timetable(
            first=np.concatenate([[0], np.cumsum(np.diff(self.first)[journeys])]),
            **{name: getattr(self, name)[journeys] for name in per_journey},
            **{name: getattr(self, name)[visits] for name in per_visit},
        )


class _Path(NamedTuple):
    """One service in one direction, times in seconds from its first departure."""

    points: Ints
    sections: Ints  # section before each point, except the first point
    stops: Flags
    arrival: Floats
    departure: Floats
    least_run: Floats
    least_dwell: Floats


def build_timetable(railway: Railway, config: SimulationConfig, rng: np.random.Generator) -> Timetable:
    """Plan `config.journeys_per_day` weekday journeys.

    Raises:
        UserError: there are too few lines for so many journeys.
    """
    services = [(line, kind) for line in range(len(railway.lines)) for kind in range(len(TRAIN_TYPES))]
    intervals = _choose_intervals(services, config, rng)
    offsets, paths = _place_services(railway, services, intervals, config)

    rows: list[tuple[int, int, int, int, int]] = []  # start, service, direction, order in its number range, coarseness
    for (service, direction), offset in offsets.items():
        for rank, (start, coarseness) in enumerate(_starts(offset, *intervals[service])):
            rows.append((start, service, direction, rank, coarseness))
    table = np.array(rows)[np.sort(rng.permutation(len(rows))[: config.journeys_per_day])]
    start, service, direction, rank, coarseness = table[np.lexsort((table[:, 1], table[:, 2], table[:, 0]))].T

    # Weekend journeys come from the two-hourly grid first, then from the off-peak grid, and last from the peak extras.
    preference = np.lexsort((start, rng.permutation(len(services))[service], coarseness))
    weekend = np.zeros(len(start), dtype=bool)
    weekend[preference[: max(1, round(config.weekend_share * len(start)))]] = True

    chosen = [paths[pair] for pair in zip(service.tolist(), direction.tolist(), strict=True)]
    visits = np.array([len(path.points) for path in chosen])
    shift = np.repeat(start.astype(float), visits)
    line_of, kind_of = np.array(services).T

    def joined(name: str) -> Any:
        return np.concatenate([getattr(path, name) for path in chosen])

    def planned(name: str) -> Any:
        return np.round((shift + joined(name)) / config.resolution_s) * config.resolution_s

    return Timetable(
        number=1_000 + 500 * service + 2 * rank + direction,
        kind=kind_of[service],
        line=line_of[service],
        service=service,
        direction=direction,
        weekend=weekend,
        first=np.concatenate([[0], np.cumsum(visits)]),
        point=joined("points"),
        section=np.concatenate([np.concatenate([[-1], path.sections]) for path in chosen]),
        stops=joined("stops"),
        arrival=planned("arrival"),
        departure=planned("departure"),
        least_run=joined("least_run"),
        least_dwell=joined("least_dwell"),
    )


def turn_rounds(timetable: Timetable, config: SimulationConfig) -> Ints:
    """Return the next journey of each journey's train set, (T,); −1 = none."""
    after = np.full(len(timetable.number), -1)
    starts = timetable.departure[timetable.first[:-1]]
    ends = timetable.arrival[timetable.first[1:] - 1]
    least = config.turn_round_s + np.array(TURN_ROUND_MARGIN_S)[timetable.kind]
    for service in np.unique(timetable.service[timetable.kind != OTHER]):
        for direction in (0, 1):
            arriving = np.flatnonzero((timetable.service == service) & (timetable.direction == direction))
            waiting = list(arriving[np.argsort(ends[arriving], kind="stable")])
            for leaving in np.flatnonzero((timetable.service == service) & (timetable.direction == 1 - direction)):
                while waiting and ends[waiting[0]] < starts[leaving] - LONGEST_LAYOVER_S:
                    waiting.pop(0)
                if waiting and ends[waiting[0]] <= starts[leaving] - least[leaving]:
                    after[waiting.pop(0)] = leaving
    return after


def feeders(timetable: Timetable, railway: Railway, config: SimulationConfig) -> Ints:
    """Return the visit whose arrival each departure waits for, (V,); −1 = none.

    At a hub, a regional train waits for the last long-distance train of another line that is planned to arrive in time.
    """
    journey = timetable.journey
    last = timetable.first[1:] - 1
    ends = np.isin(np.arange(len(journey)), last)
    visits = pl.DataFrame(
        {
            "visit": np.arange(len(journey)),
            "point": timetable.point,
            "line": timetable.line[journey],
            "kind": timetable.kind[journey],
            "origin": timetable.section < 0,
            "end": ends,
            "arrival": timetable.arrival,
            "latest": timetable.departure - config.transfer_s,
        }
    ).filter(pl.Series(railway.is_hub[timetable.point]) & pl.Series(timetable.stops))
    arriving = visits.filter((pl.col("kind") == LONG_DISTANCE) & ~pl.col("origin")).sort("arrival", "visit")
    leaving = visits.filter((pl.col("kind") == REGIONAL) & ~pl.col("end")).sort("latest", "visit")
    met = leaving.join_asof(
        arriving.select("point", "arrival", feeder="visit", feeder_line="line"),
        left_on="latest",
        right_on="arrival",
        by="point",
        strategy="backward",
        tolerance=float(max(0, CONNECTION_WINDOW_S - config.transfer_s)),
        check_sortedness=False,
    ).filter(pl.col("feeder_line") != pl.col("line"))
    waits_for = np.full(len(journey), -1)
    waits_for[met["visit"].to_numpy()] = met["feeder"].to_numpy()
    return waits_for


def _choose_intervals(
    services: list[tuple[int, int]], config: SimulationConfig, rng: np.random.Generator
) -> dict[int, tuple[int, int]]:
    """Return off-peak and peak interval (minutes) of each service: just frequent enough for the weekday journeys."""
    options = [TRAIN_TYPES[kind].intervals for _, kind in services]
    # Lines differ: some have many trains, some have no long-distance trains or no freight.
    weight = np.array([TRAIN_TYPES[kind].weight for _, kind in services]) * rng.lognormal(0, 0.6, len(services))
    level = np.full(len(services), -1)
    journeys = np.zeros(len(services))
    while journeys.sum() < config.journeys_per_day:
        can_grow = np.array([level[i] + 1 < len(option) for i, option in enumerate(options)])
        if not can_grow.any():
            raise UserError(
                f"journeys_per_day={config.journeys_per_day} is too many for lines={config.lines}, at most "
                f"{int(journeys.sum())}; raise lines"
            )
        grow = int(np.argmin(np.where(can_grow, (journeys + FIRST_SERVICE) / weight, np.inf)))
        level[grow] += 1
        journeys[grow] = 2 * _fewest_starts(*options[grow][level[grow]])
    return {index: options[index][step] for index, step in enumerate(level) if step >= 0}


@cache
def _fewest_starts(off_peak: int, peak: int) -> int:
    """Return the least number of starts a day over all departure minutes."""
    return min(len(_starts(offset, off_peak, peak)) for offset in range(off_peak))


def _starts(offset_min: int, off_peak: int, peak: int) -> list[tuple[int, int]]:
    """Return start times in seconds, each with its grid: 0 = two-hourly, 1 = off-peak, 2 = extra in the peak."""
    first, last = FIRST_START // 60, LAST_START // 60
    phase = offset_min % peak
    minutes = range(first + (phase - first) % peak, last, peak)
    starts = []
    for minute in minutes:
        on_grid = (minute - offset_min) % off_peak == 0
        if on_grid or any(low <= minute * 60 < high for low, high in PEAKS):
            thin = (minute - offset_min) % (2 * off_peak) == 0
            starts.append((minute * 60, 0 if on_grid and thin else 1 if on_grid else 2))
    return starts


def _place_services(
    railway: Railway,
    services: list[tuple[int, int]],
    intervals: dict[int, tuple[int, int]],
    config: SimulationConfig,
) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], _Path]]:
    """Return the departure minute in the two-hour cycle and the path of each `(service, direction)`.

    The search is greedy: the fastest and most frequent services come first. Each takes the minute with the fewest
    conflicts, then with the least waiting and, in the return direction, with the shortest layover.
    """
    margin = -(-config.headway_s // 60)  # minutes, rounded up
    busy = np.zeros((2 * len(railway.section), CYCLE_MIN))  # trains near each minute, at section entries and exits
    offsets: dict[tuple[int, int], int] = {}
    paths: dict[tuple[int, int], _Path] = {}
    for service in sorted(intervals, key=lambda index: (services[index][1], intervals[index][1], index)):
        line, kind = services[service]
        off_peak, peak = intervals[service]
        for direction in (0, 1):
            points = railway.lines[line][:: -1 if direction else 1]
            path = _path(railway, points, TRAIN_TYPES[kind])
            candidates = np.arange(off_peak)
            cost, waits = _fit(path, busy.reshape(len(busy), -1, peak).sum(axis=1), candidates)
            if direction:
                layover = config.turn_round_s + TURN_ROUND_MARGIN_S[kind]
                back = offsets[service, 0] + (paths[service, 0].arrival[-1] + layover) / 60 + 1
                cost = cost + 0.02 * ((candidates - back) % off_peak)
            offset = offsets[service, direction] = int(cost.argmin())
            path = paths[service, direction] = _with_waits(path, waits[offset])
            ends = np.concatenate([2 * path.sections, 2 * path.sections + 1])
            minute = _minute(np.concatenate([path.departure[:-1], path.arrival[1:]])) + offset
            for shift in range(-margin + 1, margin):
                for cycle in range(CYCLE_MIN // peak):
                    np.add.at(busy, (ends, (minute + shift + cycle * peak) % CYCLE_MIN), 1)
    return offsets, paths


def _fit(path: _Path, busy: Floats, candidates: Ints) -> tuple[Floats, Floats]:
    """Return the cost (C,) of starting `path` at each candidate minute, and the best waits (C, P) at its points, in s.

    At each stop a train may wait until the sections ahead are free, so that a faster train can overtake it.
    """
    period = busy.shape[1]
    stops = np.flatnonzero(path.stops)
    waits = np.zeros((len(candidates), len(path.points)))
    cost = np.zeros(len(candidates))
    for start, end in pairwise(stops.tolist()):
        options = np.arange(1 if start == 0 else LONGEST_WAIT_MIN + 1)  # at the origin, the candidates replace waits
        sections = path.sections[start:end]
        ends = np.concatenate([2 * sections, 2 * sections + 1])
        times = np.concatenate([path.departure[start:end], path.arrival[start + 1 : end + 1]])
        shifted = waits.sum(axis=1)[:, None, None] + 60 * options[:, None] + times  # (C, options, 2 × sections)
        conflicts = busy[ends, (_minute(shifted) + candidates[:, None, None]) % period].sum(axis=2)
        price = CONFLICT_PRICE_MIN * conflicts + options
        best = price.argmin(axis=1)
        cost += price.min(axis=1)
        waits[:, start] = 60 * options[best]
    return cost, waits


def _with_waits(path: _Path, waits: Floats) -> _Path:
    """Return `path` with longer stops. `waits`: (P,) seconds."""
    waited = np.cumsum(waits)
    return path._replace(arrival=path.arrival + waited - waits, departure=path.departure + waited)


def _minute(seconds: Floats) -> Ints:
    return np.round(seconds / 60).astype(np.int64)


def _path(railway: Railway, points: list[int], train_type: TrainType) -> _Path:
    at = np.array(points)
    sections = np.array([railway.section[pair] for pair in pairwise(points)])
    dwell = np.select(
        [railway.is_hub[at], railway.is_junction[at]], [train_type.hub_dwell_s, 0], train_type.station_dwell_s
    ).astype(float)
    stops = dwell > 0
    stops[[0, -1]] = True
    dwell[[0, -1]] = 0
    stopping = STOPPING_S / 2 * (stops[:-1].astype(float) + stops[1:])
    least_run = railway.length_km[sections] / train_type.speed_kmh * HOUR + stopping
    to_hub = (railway.is_hub[at] & stops)[1:]
    run = least_run * (1 + train_type.supplement) + HUB_SUPPLEMENT_S * to_hub
    arrival = np.concatenate([[0.0], np.cumsum(run) + np.cumsum(dwell)[:-1]])
    return _Path(
        points=at,
        sections=sections,
        stops=stops,
        arrival=arrival,
        departure=arrival + dwell,
        least_run=np.concatenate([[0.0], least_run]),
        least_dwell=LEAST_DWELL_SHARE * dwell,
    )
