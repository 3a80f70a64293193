"""Drift: how far the events of a window differ from those of the training dates.

A *profile* of events holds the counts and two histograms that measuring drift needs. The profile of the training dates
is kept with the model. Measuring drift therefore needs no training data.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from transformer.config import DriftConfig
from transformer.data.profile import Counts, EventProfile

log = logging.getLogger(__name__)
BIN_SHARE = 0.02  # least share of the reference in a bin of a PSI: a nearly empty bin would count too much
Level = Literal["ok", "noticeable", "beyond limit"]


@dataclass(frozen=True)
class Measure:
    """One comparison of a window with the training dates."""

    name: str  # legal in an MLflow metric name
    label: str
    value: float  # NaN = there is nothing to compare
    limit: float  # a value beyond the limit is a warning
    level: Level
    text: str  # the finding, for people


@dataclass(frozen=True)
class Drift:
    measures: tuple[Measure, ...]
    planned: int  # events of the window
    observed: int

    @property
    def warnings(self) -> list[str]:
        """A line for each measure that differs from the training dates."""
        return [f"{measure.label}: {measure.text}" for measure in self.measures if measure.level != "ok"]

    @property
    def beyond_limits(self) -> str:
        """The measures beyond their limits in one line; "" = none is."""
        return "; ".join(
            f"{measure.label}: {measure.text}" for measure in self.measures if measure.level == "beyond limit"
        )

    @property
    def verdict(self) -> str:
        """The warnings in one line; without a warning, a text that says so."""
        return "; ".join(self.warnings) or "as on the training dates"

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics under MLflow-legal names, `{prefix}/delay_psi`, … Undefined metrics are left out."""
        values = {"planned_events": float(self.planned), "observed_events": float(self.observed)}
        values |= {measure.name: measure.value for measure in self.measures if math.isfinite(measure.value)}
        return {f"{prefix}/{name}": value for name, value in values.items()}


def measure_drift(window: EventProfile, reference: EventProfile, limits: DriftConfig) -> Drift:
    """Compare a window with the profile of the training dates. A measure that differs is logged as a warning."""
    drift = Drift(tuple(_measures(window, reference, limits)), window.planned, window.observed)
    for measure in drift.measures:
        log.log(
            logging.INFO if measure.level == "ok" else logging.WARNING, "drift: %s: %s", measure.label, measure.text
        )
    return drift


def population_stability_index(window: Counts, reference: Counts) -> float:
    """PSI = Σ (w − r) ln(w / r) over the shares w and r of each bin; NaN = the window or the reference is empty.

    Neighbouring bins are joined until each holds BIN_SHARE of the reference. Half an event is added to every bin, so
    that the PSI stays finite if a bin is empty. Two samples of one distribution, of n and m events in b bins, have a
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


def _measures(window: EventProfile, reference: EventProfile, limits: DriftConfig) -> Iterator[Measure]:
    drop = reference.observed_share - window.observed_share
    yield Measure(
        "observed_share",
        "observed events",
        window.observed_share,
        reference.observed_share - limits.max_observed_drop,
        "ok" if drop <= limits.max_observed_drop else "beyond limit",  # NaN is beyond the limit
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
        level, finding = "beyond limit", "distributed differently than"
    elif value > limits.psi_noticeable:
        level, finding = "noticeable", "distributed somewhat differently than"
    else:
        level, finding = "ok", "distributed as"
    text = f"PSI {value:.3f}, {finding} on the training dates; {limit}"
    return Measure(name, label, value, limits.psi_shifted, level, text)


def _bin_starts(reference: Counts) -> list[int]:
    """The first bin of each joined bin. A joined bin holds BIN_SHARE of the reference; the last takes the rest."""
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
