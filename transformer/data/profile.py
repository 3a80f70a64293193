"""The profile of a set of events: the counts and the two histograms that measuring drift needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import PolarsError

from transformer.data.tables import JOURNEY
from transformer.errors import UserError
from transformer.files import read_json, write_json

VERSION = 1  # of the file; raise when its content changes meaning
DELAY_RANGE_MIN = (-30, 180)  # values beyond the range count in the outermost bins
CHANGE_RANGE_MIN = (-30, 30)
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EventProfile:
    """The numbers from which drift is measured. Profiles of different service dates add up."""

    dates: tuple[date, ...]
    observed: int
    points: pl.DataFrame  # op_id, n: planned events of each operational point
    delay: Counts  # [D] observed events by delay, in whole minutes of DELAY_RANGE_MIN
    change: Counts  # [C] steps between observed events of a journey by delay change, in minutes of CHANGE_RANGE_MIN

    @property
    def planned(self) -> int:
        return int(self.points["n"].sum())

    @property
    def observed_share(self) -> float:
        """NaN without planned events."""
        return self.observed / self.planned if self.planned else math.nan

    def __add__(self, other: EventProfile) -> EventProfile:
        if shared := set(self.dates) & set(other.dates):
            raise ValueError(f"{min(shared)} is in both profiles")
        return EventProfile(
            tuple(sorted({*self.dates, *other.dates})),
            self.observed + other.observed,
            pl.concat([self.points, other.points]).group_by("op_id").agg(pl.col("n").sum()).sort("op_id"),
            self.delay + other.delay,
            self.change + other.change,
        )


def profile_of(events: pl.DataFrame, until: datetime | None = None) -> EventProfile:
    """The profile of validated events, see `data.events.read_events`.

    Args:
        until: events planned after this instant are left out, because they could not be observed yet.
    """
    if until is not None:
        events = events.filter(pl.col("planned_ts") <= until.astimezone(UTC))
    steps = events.select("delay_sec", (pl.col("delay_sec") - pl.col("delay_sec").shift(1).over(JOURNEY)).alias("step"))
    return EventProfile(
        dates=tuple(events["service_date"].unique().sort()),
        observed=events.height - events["delay_sec"].null_count(),
        points=events.group_by("op_id").agg(pl.len().cast(pl.Int64).alias("n")).sort("op_id"),
        delay=_histogram(steps["delay_sec"], DELAY_RANGE_MIN),
        change=_histogram(steps["step"], CHANGE_RANGE_MIN),
    )


def save_profile(profile: EventProfile, path: Path) -> None:
    write_json(
        path,
        {
            "version": VERSION,
            "dates": [day.isoformat() for day in profile.dates],
            "observed": profile.observed,
            "points": {"op_id": profile.points["op_id"].to_list(), "n": profile.points["n"].to_list()},
            "delay": profile.delay.tolist(),
            "change": profile.change.tolist(),
        },
    )


def load_profile(path: Path) -> EventProfile:
    """Read what `save_profile` wrote.

    Raises:
        UserError: the file is missing, damaged or of another version.
    """
    content: dict[str, Any] = read_json(path)
    if content.get("version") != VERSION:
        raise UserError(f"{path}: profile of version {content.get('version')}, this code reads {VERSION}; train again")
    try:
        return EventProfile(
            dates=tuple(date.fromisoformat(day) for day in content["dates"]),
            observed=content["observed"],
            points=pl.DataFrame(content["points"], schema={"op_id": pl.Int32, "n": pl.Int64}),
            delay=np.array(content["delay"], np.int64),
            change=np.array(content["change"], np.int64),
        )
    except (KeyError, TypeError, ValueError, PolarsError) as error:
        raise UserError(f"{path}: damaged profile ({type(error).__name__}: {error}); train again") from None


def _histogram(seconds: pl.Series, range_min: tuple[int, int]) -> Counts:
    """Counts of values by the nearest whole minute; half minutes are rounded up, and nulls are skipped."""
    low, high = range_min
    minutes = ((seconds.drop_nulls() + 30) // 60).clip(low, high).to_numpy().astype(np.int64)
    return np.bincount(minutes - low, minlength=high - low + 1).astype(np.int64)
