"""What is known of the events that a model is evaluated on: what reading found, how new they are, how they drifted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from transformer.config import Config
from transformer.data.events import ReadingReport, read_days
from transformer.data.profile import EventProfile, profile_of
from transformer.evaluation.drift import Drift, measure_drift

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataQuality:
    reading: ReadingReport | None = None
    drift: Drift | None = None
    newest_observation: datetime | None = None

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics under MLflow-legal names, `{prefix}/drift/delay_psi`, …"""
        return self.drift.metrics(f"{prefix}/drift") if self.drift else {}


def examine(
    config: Config,
    days: Sequence[date],
    reference: EventProfile | None,
    now: datetime,
    newest_observation: datetime | None = None,
) -> DataQuality:
    """Read the events of `days`, one date in memory at a time, and measure how far they are from the training dates'.

    Args:
        reference: profile of the training dates; None = drift is not measured.
        now: events planned later count for nothing in the drift.
        newest_observation: of all the data, where that was looked for.

    Raises:
        UserError: unreadable or invalid data.
    """
    reading = ReadingReport()
    profiles = []
    for day in days:
        events, of_day = read_days(config.data, [day], quiet=True)
        reading.add(of_day)
        profiles.append(profile_of(events, until=now))
    drift = None
    if reference is None:
        log.info("drift: not measured, the run is of an older training and keeps no profile of its dates")
    else:
        drift = measure_drift(sum(profiles[1:], start=profiles[0]), reference, config.evaluation.drift)
    return DataQuality(reading, drift, newest_observation)
