"""What goes wrong on a service date, and what goes wrong every day.

Habits are drawn once and hold on every date: slow sections and crowded stops by hour, journeys that start late. They
are what a model can learn by heart. Incidents are drawn per date: noise in running and dwell times, trains with a
fault, restricted or closed sections. What they do to the trains behind is what a model can learn from the railway.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transformer.data.simulator.railway import Railway
from transformer.data.simulator.settings import SimulationConfig
from transformer.data.simulator.timetable import HOUR, OTHER, PEAKS, Timetable
from transformer.data.simulator.traffic import Disturbances, Restriction

Floats = npt.NDArray[np.float64]

SLOW_SECTION_SHARE, SLOW_SECTION_S = 0.3, 26.0  # share of sections, mean loss by day
CROWDED_STOP_SHARE, CROWDED_STOP_S = 0.35, 24.0
PEAK_FACTOR = 2.2  # a habit in the peak against the rest of the day
LATE_STARTER_SHARE, LATE_STARTER_S = 0.18, 110.0  # share of journeys, mean

RUN_NOISE_SHARE = 0.06  # mean loss per section, of its least running time
RUN_SPREAD_S = 9.0
DWELL_NOISE_S = 14.0
LATE_START_SHARE, LATE_START_S = 0.16, 110.0  # a journey starts late on this date, mean
FAULT_SHARE, FAULT_S = 0.005, 330.0  # a train loses time on a section, mean
LEAD_S, FREIGHT_LEAD_S = 25.0, 300.0  # most that a driver aims ahead of plan; only freight may run early for long

RESTRICTIONS_PER_SECTION = 0.008  # per date
CLOSED_SHARE = 0.2
RESTRICTION_S = (20 * 60, 100 * 60)
CLOSURE_S = (8 * 60, 35 * 60)
RESTRICTED_EXTRA_S = 150.0  # mean loss per train
RESTRICTED_HEADWAY_FACTOR = 2.5
DAY_SIGMA = 0.3  # log-scale deviation of a date's severity (weather, load)


@dataclass(frozen=True)
class Habits:
    """The same every day, in seconds: per journey number and per visit of the whole timetable."""

    start: Floats
    run: Floats
    dwell: Floats

    def select(self, journeys: npt.NDArray[np.bool_], timetable: Timetable) -> Habits:
        """The habits of some of the journeys of `timetable`."""
        visits = journeys[timetable.journey]
        return Habits(self.start[journeys], self.run[visits], self.dwell[visits])


def draw_habits(timetable: Timetable, railway: Railway, config: SimulationConfig, rng: np.random.Generator) -> Habits:
    sections, points = len(railway.section), len(railway.x_km)
    section_s = _sparse(rng, sections, SLOW_SECTION_SHARE, SLOW_SECTION_S)
    point_s = _sparse(rng, points, CROWDED_STOP_SHARE, CROWDED_STOP_S) * np.where(railway.is_hub, 1.5, 1.0)
    # A section suffers in the morning or in the evening peak, whichever way its commuters go.
    section_peak, point_peak = rng.integers(0, 2, sections), rng.integers(0, 2, points)
    severity = config.delay_severity
    return Habits(
        start=severity * _sparse(rng, len(timetable.number), LATE_STARTER_SHARE, LATE_STARTER_S),
        run=severity
        * section_s[timetable.section]
        * _in_peak(timetable.arrival, section_peak[timetable.section])
        * (timetable.section >= 0),
        dwell=severity
        * point_s[timetable.point]
        * _in_peak(timetable.departure, point_peak[timetable.point])
        * timetable.stops,
    )


def draw_disturbances(
    timetable: Timetable, habits: Habits, railway: Railway, config: SimulationConfig, rng: np.random.Generator
) -> Disturbances:
    """One service date's incidents on top of the habits."""
    severity = config.delay_severity * float(rng.lognormal(0, DAY_SIGMA))
    visits, journeys = len(timetable.point), len(timetable.number)
    passenger = timetable.kind != OTHER
    run_noise = rng.gamma(1.0, RUN_NOISE_SHARE, visits) * timetable.least_run + rng.normal(0, RUN_SPREAD_S, visits)
    faults = _sparse(rng, visits, FAULT_SHARE, FAULT_S)
    run = habits.run + severity * (run_noise + faults) * (timetable.section >= 0)
    # Freight is loaded when it is loaded.
    late_start = _sparse(rng, journeys, LATE_START_SHARE, LATE_START_S) * np.where(passenger, 1.0, 4.0)
    return Disturbances(
        start=habits.start + severity * (late_start + rng.exponential(12.0, journeys)),
        # However well it goes, no train beats its technically shortest time by more than the driver's spread.
        run=np.maximum(run, -0.04 * timetable.least_run),
        dwell=habits.dwell + severity * rng.exponential(DWELL_NOISE_S, visits) * timetable.stops,
        lead=rng.uniform(0, np.where(passenger, LEAD_S, FREIGHT_LEAD_S)) * min(1.0, config.delay_severity),
        restrictions=_draw_restrictions(railway, severity, config, rng),
    )


def _draw_restrictions(
    railway: Railway, severity: float, config: SimulationConfig, rng: np.random.Generator
) -> dict[int, list[Restriction]]:
    """Restricted stretches of track, each for both directions of a section."""
    pairs = [pair for pair in railway.section if pair[0] < pair[1]]
    restrictions: dict[int, list[Restriction]] = {}
    for index in rng.integers(0, len(pairs), rng.poisson(RESTRICTIONS_PER_SECTION * severity * len(pairs))):
        closed = bool(rng.random() < CLOSED_SHARE)
        start = float(rng.uniform(5 * HOUR, 22 * HOUR))
        rule = Restriction(
            start=start,
            end=start + float(rng.uniform(*(CLOSURE_S if closed else RESTRICTION_S))),
            extra_s=0.0 if closed else float(rng.gamma(3.0, RESTRICTED_EXTRA_S / 3)),
            headway_s=RESTRICTED_HEADWAY_FACTOR * config.headway_s,
            closed=closed,
        )
        a, b = pairs[index]
        for section in (railway.section[a, b], railway.section[b, a]):
            restrictions.setdefault(section, []).append(rule)
    return restrictions


def _sparse(rng: np.random.Generator, count: int, share: float, mean: float) -> Floats:
    """Exponential values of this mean for a random share of `count`, zero for the others."""
    return np.asarray(rng.exponential(mean, count) * (rng.random(count) < share))


def _in_peak(time: Floats, peak: npt.NDArray[np.int64]) -> Floats:
    low, high = np.array(PEAKS)[peak].T
    return np.where((low <= time) & (time < high), PEAK_FACTOR, 0.6)
