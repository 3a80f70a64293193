"""How far the events of a window are from those a model was trained on.

A *profile* holds what little of a set of events it takes to tell: counts and two histograms. The profile of the
training dates is kept with the model, so that no training data are needed to compare with them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import PolarsError

from transformer.config import DataConfig, DriftConfig
from transformer.data.events import JOURNEY, read_events
from transformer.errors import UserError
from transformer.files import read_json, write_json

log = logging.getLogger(__name__)

VERSION = 1  # of the file; raise when its content changes meaning
DELAY_RANGE_MIN = (-30, 180)  # what lies beyond counts in the outermost bins
CHANGE_RANGE_MIN = (-30, 30)
BIN_SHARE = 0.02  # of the reference in every bin of a PSI, at least: a nearly empty bin would count for too much

Counts = npt.NDArray[np.int64]
Level = Literal["ok", "noticeable", "beyond limit"]


@dataclass(frozen=True)
class EventProfile:
    """What drift is measured from. Profiles of different service dates add up."""

    dates: tuple[date, ...]
    observed: int
    points: pl.DataFrame  # op_id, n: planned events of each operational point
    delay: Counts  # [D] observed events by delay, in whole minutes of DELAY_RANGE_MIN
    change: Counts  # [C] steps between observed events of a journey by change of delay, of CHANGE_RANGE_MIN

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


@dataclass(frozen=True)
class Measure:
    """One comparison of a window with the training dates."""

    name: str  # legal in an MLflow metric name
    label: str
    value: float  # NaN where there is nothing to compare
    limit: float  # beyond it: a warning
    level: Level
    text: str  # what was found, for people


@dataclass(frozen=True)
class Drift:
    measures: tuple[Measure, ...]
    planned: int  # events of the window
    observed: int

    @property
    def warnings(self) -> list[str]:
        """A line for each measure that is not as on the training dates."""
        return [f"{measure.label}: {measure.text}" for measure in self.measures if measure.level != "ok"]

    @property
    def verdict(self) -> str:
        """The warnings in one line, or that there is none."""
        return "; ".join(self.warnings) or "as on the training dates"

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics under MLflow-legal names, `{prefix}/delay_psi`, …; undefined ones are left out."""
        values = {"planned_events": float(self.planned), "observed_events": float(self.observed)}
        values |= {measure.name: measure.value for measure in self.measures if math.isfinite(measure.value)}
        return {f"{prefix}/{name}": value for name, value in values.items()}


def profile_of(events: pl.DataFrame, until: datetime | None = None) -> EventProfile:
    """The profile of validated events, see `data.events.read_events`.

    Args:
        until: events planned after this instant are left out: nothing of them could have been observed yet.
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


def profile_dates(data: DataConfig, days: Sequence[date]) -> EventProfile:
    """The profile of whole service dates, one in memory at a time.

    Raises:
        UserError: no dates, or unreadable or invalid data.
    """
    if not days:
        raise UserError("no service dates to profile; name at least one")
    folder = Path(data.local_folder)
    first, *others = (profile_of(read_events(folder, day, data.timezone, data.validation)[0]) for day in days)
    return sum(others, start=first)


def measure_drift(window: EventProfile, reference: EventProfile, limits: DriftConfig) -> Drift:
    """Compare a window with the profile of the training dates, and log each measure, as a warning beyond its limit."""
    drift = Drift(tuple(_measures(window, reference, limits)), window.planned, window.observed)
    for measure in drift.measures:
        log.log(
            logging.INFO if measure.level == "ok" else logging.WARNING, "drift: %s: %s", measure.label, measure.text
        )
    return drift


def population_stability_index(window: Counts, reference: Counts) -> float:
    """PSI = Σ (w − r) ln(w / r) over the shares w and r of each bin; NaN where either side is empty.

    Neighbouring bins are joined until each holds BIN_SHARE of the reference. Every bin counts half an event more than
    it holds, so that an empty one stays finite. Two samples of one distribution, of n and m events in b bins, have a
    PSI of about (b − 1) (1 / n + 1 / m).

    Source: N. Siddiqi, Credit Risk Scorecards (2006), also for the thresholds 0.1 and 0.25.
    """
    if not window.sum() or not reference.sum():
        return math.nan
    starts = _bin_starts(reference)
    shares = []
    for counts in (window, reference):
        joined = np.add.reduceat(counts, starts) + 0.5
        shares.append(joined / joined.sum())
    w, r = shares
    return float(((w - r) * np.log(w / r)).sum())


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
        UserError: missing or damaged, or of another version.
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


def _measures(window: EventProfile, reference: EventProfile, limits: DriftConfig) -> Iterator[Measure]:
    drop = reference.observed_share - window.observed_share
    yield Measure(
        "observed_share",
        "observed events",
        window.observed_share,
        reference.observed_share - limits.max_observed_drop,
        "ok" if drop <= limits.max_observed_drop else "beyond limit",  # NaN is no agreement
        f"{window.observed:,} of {window.planned:,} planned events ({window.observed_share:.1%}), "
        f"{reference.observed_share:.1%} on the training dates; limit {100 * limits.max_observed_drop:g} points below",
    )
    elsewhere = window.points.join(reference.points, on="op_id", how="anti")
    unknown = int(elsewhere["n"].sum())
    share = unknown / window.planned if window.planned else math.nan
    yield Measure(
        "unknown_share",
        "unknown operational points",
        share,
        limits.max_unknown_share,
        "beyond limit" if share > limits.max_unknown_share else "ok",
        f"{unknown:,} events ({share:.1%}) at {elsewhere.height:,} points without events on the training dates; "
        f"limit {limits.max_unknown_share:.1%}",
    )
    yield _psi_measure("delay_psi", "delays", window.delay, reference.delay, limits)
    yield _psi_measure("change_psi", "changes of delay per section", window.change, reference.change, limits)


def _psi_measure(name: str, label: str, window: Counts, reference: Counts, limits: DriftConfig) -> Measure:
    value = population_stability_index(window, reference)
    limit = f"limits {limits.psi_noticeable:g} and {limits.psi_shifted:g}"
    if math.isnan(value):
        return Measure(name, label, value, limits.psi_shifted, "beyond limit", f"no events to compare; {limit}")
    level: Level
    if value > limits.psi_shifted:
        level, finding = "beyond limit", "distributed otherwise than"
    elif value > limits.psi_noticeable:
        level, finding = "noticeable", "distributed somewhat otherwise than"
    else:
        level, finding = "ok", "distributed as"
    text = f"PSI {value:.3f}, {finding} on the training dates; {limit}"
    return Measure(name, label, value, limits.psi_shifted, level, text)


def _histogram(seconds: pl.Series, range_min: tuple[int, int]) -> Counts:
    """Values by the nearest whole minute, half minutes up; nulls are skipped."""
    low, high = range_min
    minutes = ((seconds.drop_nulls() + 30) // 60).clip(low, high).to_numpy().astype(np.int64)
    return np.bincount(minutes - low, minlength=high - low + 1).astype(np.int64)


def _bin_starts(reference: Counts) -> list[int]:
    """Where joined bins begin, so that each holds BIN_SHARE of the reference; the last takes what remains."""
    needed = BIN_SHARE * reference.sum()
    starts, held = [0], 0
    left = int(reference.sum())
    for index, count in enumerate(reference.tolist()):
        if held >= needed and left >= needed:
            starts.append(index)
            held = 0
        held += count
        left -= count
    return starts
