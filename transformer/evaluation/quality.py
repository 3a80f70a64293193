"""What is known of the events that a model is evaluated on: what reading found, how new they are, how they drifted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

from transformer.config import DriftConfig
from transformer.data.events import DayEvents, ReadingReport
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


class Examination:
    """Looks at the events of service dates, which come a date at a time, and measures how they have drifted."""

    def __init__(self, now: datetime) -> None:
        """
        Args:
            now: events planned later count for nothing in the drift.
        """
        self._now = now
        self._reading = ReadingReport()
        self._profiles: list[EventProfile] = []

    def add(self, read: DayEvents) -> None:
        """Look at another date."""
        self._reading.add(read.report)
        self._profiles.append(profile_of(read.events, until=self._now))

    def quality(
        self, reference: EventProfile | None, limits: DriftConfig, newest_observation: datetime | None = None
    ) -> DataQuality:
        """What was found on the dates so far, which are one at least.

        Args:
            reference: profile of the training dates; None = drift is not measured.
            newest_observation: of all the data, where that was looked for.
        """
        drift = None
        if reference is None:
            log.info("drift: not measured, the run is of an older training and keeps no profile of its dates")
        else:
            drift = measure_drift(sum(self._profiles[1:], start=self._profiles[0]), reference, limits)
        return DataQuality(self._reading, drift, newest_observation)
