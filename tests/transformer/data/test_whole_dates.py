"""Dates with missing hours are found, and ordinary variation is not taken for damage."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import pytest

from transformer.data.whole_dates import Hours, not_whole

MONDAY = date(2024, 1, 1)
LATER = date(2030, 1, 1)
WEEKDAY = {5: 20, 6: 60, 7: 90, 8: 80, **dict.fromkeys(range(9, 16), 50), 16: 80, 17: 90, 18: 70, 19: 40, 20: 30}
SATURDAY = {7: 8, 8: 10, **dict.fromkeys(range(9, 20), 14), 20: 10, 21: 8, 22: 6, 23: 6, 0: 4, 1: 3}
SUNDAY = {8: 8, **dict.fromkeys(range(9, 21), 12), 21: 8, 22: 5}


def timetable(day: date) -> dict[int, int]:
    return {5: SATURDAY, 6: SUNDAY}.get(day.weekday(), WEEKDAY)


def found(changed: Mapping[date, Hours], days: int = 28, today: date = LATER) -> dict[date, str]:
    dates = [MONDAY + timedelta(days=offset) for offset in range(days)]
    return not_whole({day: changed.get(day, Hours(timetable(day), timetable(day))) for day in dates}, today)


def without(day: date, hours: range) -> Mapping[int, int]:
    return {hour: n for hour, n in timetable(day).items() if hour not in hours}


def test_a_weekend_with_a_fifth_of_the_trains_is_whole() -> None:
    assert found({}) == {}


@pytest.mark.parametrize("days", [14, 151])
def test_so_is_every_date_of_many_or_few_weeks(days: int) -> None:
    generator = np.random.default_rng(1)
    dates = [MONDAY + timedelta(days=offset) for offset in range(days)]
    hours = {day: {hour: int(generator.poisson(n)) for hour, n in timetable(day).items()} for day in dates}
    assert found({day: Hours(counts, counts) for day, counts in hours.items()}, days) == {}


def test_a_holiday_on_a_weekday_runs_as_on_a_sunday() -> None:
    holiday = MONDAY + timedelta(days=9)
    assert found({holiday: Hours(SUNDAY, SUNDAY)}) == {}


@pytest.mark.parametrize("offset", [9, 12, 13])
@pytest.mark.parametrize(
    ("hours", "named"), [(range(9, 13), "9–13 h"), (range(24), "no planned event"), (range(14, 24), "14–")]
)
def test_missing_hours_are_found_on_every_kind_of_day(offset: int, hours: range, named: str) -> None:
    day = MONDAY + timedelta(days=offset)
    counts = without(day, hours)
    (reason,) = found({day: Hours(counts, counts)}).items()
    assert reason[0] == day
    assert named in reason[1]


@pytest.mark.parametrize("offset", [9, 12, 13])
def test_a_date_of_which_one_hour_is_left_is_found(offset: int) -> None:
    day = MONDAY + timedelta(days=offset)
    counts = {9: timetable(day)[9]}
    (reason,) = found({day: Hours(counts, counts)}).values()
    assert reason.startswith("planned events are missing at ")
    (reason,) = found({day: Hours(timetable(day), counts)}).values()
    assert reason.startswith("observations are missing at ")


def test_hours_without_observation_are_found() -> None:
    day = MONDAY + timedelta(days=9)
    (reason,) = found({day: Hours(WEEKDAY, without(day, range(12, 24)))}).values()
    assert reason.startswith("observations are missing at 12–21 h")
    (reason,) = found({day: Hours(WEEKDAY, {})}).values()
    assert reason == "no observation"


def test_today_and_later_dates_are_not_over() -> None:
    dates = [MONDAY + timedelta(days=offset) for offset in (26, 27)]
    assert found({}, today=dates[0]) == dict.fromkeys(dates, "the date is not over")
