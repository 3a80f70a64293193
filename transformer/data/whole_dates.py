"""Service dates that are not whole: hours of the timetable or of the observations are missing, or it is not over.

A date is compared with the other dates of its kind: Monday to Friday, Saturday, or Sunday. If there is none, it is
compared with all dates. Fewer trains all day are no damage: the expected events of an hour follow the date's own level
of traffic. A public holiday looks like a date of another kind, so a date that has the hours and the traffic of another
kind is whole too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

HOURS = 24
MISSING_SHARE = 0.25  # an hour with a smaller share of its expected events counts as missing
MISSING_HOURS = 3  # a date with this many missing hours in a row is not whole; single hours vary
BUSY_SHARE = 0.1  # hours with a smaller share of the busiest hour's events say little
SAME_LEVEL = (0.5, 1.5)  # a holiday has about as many trains as a date of the kind that it looks like
LEVEL_QUANTILE = 0.9  # a date may lack most of its hours, and its level is still that of the others

Float64Array = npt.NDArray[np.float64]


class Hours(NamedTuple):
    """Events of a service date per hour of the clock of their planned time."""

    planned: Mapping[int, int]
    observed: Mapping[int, int]  # events with an observation


def not_whole(hours: Mapping[date, Hours], today: date) -> dict[date, str]:
    """Find the dates that are not whole.

    Args:
        hours: of the dates to compare with each other.
        today: the date in the time zone of the railway. It and later dates are not over.

    Returns:
        The reason for each date that is not whole, in the order of the dates.
    """
    days = sorted(day for day in hours if day < today)
    planned = np.array([_counts(hours[day].planned) for day in days]).reshape(len(days), HOURS)
    observed = np.array([_counts(hours[day].observed) for day in days]).reshape(len(days), HOURS)
    reasons = {}
    kinds = np.array([max(day.weekday(), 4) for day in days])  # Monday to Friday are one kind
    for index, day in enumerate(days):
        missing = _missing_hours(planned, index, kinds)
        unseen = _missing_hours(observed, index, kinds)
        if not planned[index].any():
            reasons[day] = "no planned event"
        elif not observed[index].any():
            reasons[day] = "no observation"
        elif missing:
            reasons[day] = f"planned events are missing at {_listed(missing)}"
        elif unseen:
            reasons[day] = f"observations are missing at {_listed(unseen)}"
    return reasons | {day: "the date is not over" for day in sorted(hours) if day >= today}


def _counts(by_hour: Mapping[int, int]) -> list[float]:
    return [float(by_hour.get(hour, 0)) for hour in range(HOURS)]


def _missing_hours(counts: Float64Array, index: int, kinds: npt.NDArray[np.int64]) -> list[int]:
    """The missing hours of a date, by the kind of dates of which it lacks the fewest."""
    others = np.arange(len(kinds)) != index
    own = others & (kinds == kinds[index])
    missing, _ = _compared(counts[index], counts[own if own.any() else others])
    for kind in set(kinds[others].tolist()) - {kinds[index]}:
        lacking, level = _compared(counts[index], counts[kinds == kind])
        if SAME_LEVEL[0] <= level <= SAME_LEVEL[1] and len(lacking) < len(missing):
            missing = lacking
    return missing


def _compared(counts: Float64Array, others: Float64Array) -> tuple[list[int], float]:
    """The hours that a date lacks against the median of others, and its level of traffic against theirs."""
    usual = np.median(others, axis=0) if len(others) else np.zeros(HOURS)
    busy = np.flatnonzero((usual > 0) & (usual >= BUSY_SHARE * usual.max()))
    if not len(busy):
        return [], 1.0
    share = counts[busy] / usual[busy]
    level = float(np.quantile(share, LEVEL_QUANTILE)) or float(share.max())  # 0: nearly every hour is without events
    lacking = share < MISSING_SHARE * min(level, 1.0)
    # Runs of hours, in the order of those in which trains run. Damage has a beginning and an end.
    runs = np.split(np.arange(len(busy)), np.flatnonzero(np.diff(lacking)) + 1)
    return [int(busy[i]) for run in runs if lacking[run[0]] and len(run) >= MISSING_HOURS for i in run], level


def _listed(hours: Sequence[int]) -> str:
    """The hours as ranges of the clock, for example `4–7 h, 22 h`."""
    found = np.array(hours)
    runs = np.split(found, np.flatnonzero(np.diff(found) != 1) + 1)
    return ", ".join(f"{run[0]}–{run[-1] + 1} h" if len(run) > 1 else f"{run[0]} h" for run in runs)
