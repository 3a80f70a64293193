"""The settings of a simulated railway, with units and bounds."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from transformer.config.checks import is_timezone
from transformer.errors import UserError

MOST_POINTS_PER_LINE = 200  # keeps a journey within hours


def _setting(default: Any, text: str, low: float | None = None, high: float | None = None) -> Any:
    """Return a dataclass field with the help text of the command line and the bounds that `SimulationConfig` checks."""
    return field(default=default, metadata={"help": text, "low": low, "high": high})


@dataclass(frozen=True)
class SimulationConfig:
    """Settings of simulated event tables. Equal settings give equal bytes.

    Raises:
        UserError: a value is outside its bounds, not a date, or not a time zone.
    """

    seed: int = _setting(0, "seed of the railway, the timetable and every disturbance", 0)
    start_date: str = _setting("2025-01-06", "first service date, YYYY-MM-DD")
    service_dates: int = _setting(20, "number of consecutive service dates", 1, 3_660)
    lines: int = _setting(6, "number of lines", 1, 1_000)
    points: int = _setting(60, "number of operational points", 4, 20_000)
    journeys_per_day: int = _setting(300, "journeys on a weekday", 2)
    weekend_share: float = _setting(0.7, "share of the weekday journeys that also run on Saturday and Sunday", 0.5, 1)
    delay_severity: float = _setting(1.0, "factor on every disturbance; 0 = no disturbances", 0, 10)
    headway_s: int = _setting(120, "least time between two trains into or out of a section, seconds", 1, 900)
    transfer_s: int = _setting(180, "time passengers need between two trains, seconds", 0, 1_800)
    wait_limit_s: int = _setting(300, "longest time a connecting train waits for its feeder, seconds", 0, 3_600)
    turn_round_s: int = _setting(300, "least time a train set needs before its next journey, seconds", 0, 3_600)
    missing_terminus_share: float = _setting(0.9, "share of arrivals at the terminus that are not observed", 0, 1)
    missing_share: float = _setting(0.01, "share of all events that are not observed, at random", 0, 1)
    silent_share: float = _setting(0.015, "share of journeys without observations from some event on", 0, 1)
    missing_first_stop_share: float = _setting(0.3, "share of journeys whose first stop is not recorded", 0, 1)
    missing_position_share: float = _setting(0.02, "share of points without a position", 0, 1)
    resolution_s: int = _setting(30, "step of planned and observed times, seconds; 60 = whole minutes", 1, 300)
    timezone: str = _setting("Europe/Brussels", "IANA time zone of the service dates")

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value, low, high = getattr(self, setting.name), setting.metadata["low"], setting.metadata["high"]
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{setting.name}={value} is not a finite number")
            if low is not None and value < low:
                raise UserError(f"{setting.name}={value} must be at least {low}")
            if high is not None and value > high:
                raise UserError(f"{setting.name}={value} must be at most {high}")
        if self.points > MOST_POINTS_PER_LINE * self.lines:
            raise UserError(f"points={self.points} are too many for {self.lines} lines; raise lines or lower points")
        try:
            first = date.fromisoformat(self.start_date)
        except ValueError:
            raise UserError(f"start_date={self.start_date!r} is not a date; write it as YYYY-MM-DD") from None
        if first.year > 2200:  # keeps every later date inside the calendar
            raise UserError(f"start_date={self.start_date!r} is too far in the future; start before 2200")
        if not is_timezone(self.timezone):
            raise UserError(f"timezone={self.timezone!r} is unknown; use an IANA name such as Europe/Paris")

    def dates(self) -> list[date]:
        first = date.fromisoformat(self.start_date)
        return [first + timedelta(days=offset) for offset in range(self.service_dates)]
