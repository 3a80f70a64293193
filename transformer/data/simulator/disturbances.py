"""Random disturbances: habits, which are the same on every date, and incidents, which are drawn per date.

Habits are slow sections and crowded stops by hour, and journeys that start late. A model can learn them from the past.
Incidents are noise in running and dwell times, trains with a fault, and restricted or closed sections. A model can
learn how their delays spread to the trains behind.
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

SLOW_SECTION_SHARE, SLOW_SECTION_S = 0.3, 26.0  # share of sections, mean lost time
CROWDED_STOP_SHARE, CROWDED_STOP_S = 0.35, 24.0
PEAK_FACTOR = 2.2  # factor on a habit in the peak
LATE_STARTER_SHARE, LATE_STARTER_S = 0.18, 110.0  # share of journeys that start late on every date, mean delay

RUN_NOISE_SHARE = 0.06  # mean delay per section, as share of its least running time
RUN_SPREAD_S = 9.0
DWELL_NOISE_S = 14.0
LATE_START_SHARE, LATE_START_S = 0.16, 110.0  # share of journeys that start late on one date, mean delay
FAULT_SHARE, FAULT_S = 0.005, 330.0  # share of sections on which a train has a fault, mean delay
LEAD_S, FREIGHT_LEAD_S = 25.0, 300.0  # longest time that a driver aims to be early; only freight may be very early

RESTRICTIONS_PER_SECTION = 0.008  # per date
CLOSED_SHARE = 0.2
RESTRICTION_S = (20 * 60, 100 * 60)
CLOSURE_S = (8 * 60, 35 * 60)
RESTRICTED_EXTRA_S = 150.0  # mean delay per train
RESTRICTED_HEADWAY_FACTOR = 2.5
DAY_SIGMA = 0.3  # standard deviation of the log of a date's severity (weather, load)


@dataclass(frozen=True)
class Habits:
    """Delays in seconds that are the same on every date, per journey and per visit of the whole timetable."""

    start: Floats
    run: Floats
    dwell: Floats

    def select(self, journeys: npt.NDArray[np.bool_], timetable: Timetable) -> Habits:
        """Return the habits of the chosen journeys of `timetable`."""
        visits = journeys[timetable.journey]
        return Habits(self.start[journeys], self.run[visits], self.dwell[visits])


def draw_habits(timetable: Timetable, railway: Railway, config: SimulationConfig, rng: np.random.Generator) -> Habits:
    sections, points = len(railway.section), len(railway.x_km)
    section_s = _sparse(rng, sections, SLOW_SECTION_SHARE, SLOW_SECTION_S)
    point_s = _sparse(rng, points, CROWDED_STOP_SHARE, CROWDED_STOP_S) * np.where(railway.is_hub, 1.5, 1.0)
    # A section is slow in the morning or in the evening peak, depending on the direction of its commuters.
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
    """Draw the incidents of one service date, and add the habits."""
    severity = config.delay_severity * float(rng.lognormal(0, DAY_SIGMA))
    visits, journeys = len(timetable.point), len(timetable.number)
    passenger = timetable.kind != OTHER
    run_noise = rng.gamma(1.0, RUN_NOISE_SHARE, visits) * timetable.least_run + rng.normal(0, RUN_SPREAD_S, visits)
    faults = _sparse(rng, visits, FAULT_SHARE, FAULT_S)
    run = habits.run + severity * (run_noise + faults) * (timetable.section >= 0)
    # Freight trains start later, since their loading has no fixed end.
    late_start = _sparse(rng, journeys, LATE_START_SHARE, LATE_START_S) * np.where(passenger, 1.0, 4.0)
    return Disturbances(
        start=habits.start + severity * (late_start + rng.exponential(12.0, journeys)),
        # No train beats its technically shortest time by more than 4 %, the difference between drivers.
        run=np.maximum(run, -0.04 * timetable.least_run),
        dwell=habits.dwell + severity * rng.exponential(DWELL_NOISE_S, visits) * timetable.stops,
        lead=rng.uniform(0, np.where(passenger, LEAD_S, FREIGHT_LEAD_S)) * min(1.0, config.delay_severity),
        restrictions=_draw_restrictions(railway, severity, config, rng),
    )


def _draw_restrictions(
    railway: Railway, severity: float, config: SimulationConfig, rng: np.random.Generator
) -> dict[int, list[Restriction]]:
    """Draw restrictions. Each holds for both directions of a section."""
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
    """Return `count` values: exponential with this mean for a random share of them, 0 for the others."""
    return np.asarray(rng.exponential(mean, count) * (rng.random(count) < share))


def _in_peak(time: Floats, peak: npt.NDArray[np.int64]) -> Floats:
    low, high = np.array(PEAKS)[peak].T
    return np.where((low <= time) & (time < high), PEAK_FACTOR, 0.6)
