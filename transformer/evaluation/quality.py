"""Quality of the evaluated events: the report of reading them, the newest observation, and the drift."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from transformer.config import DriftConfig
from transformer.data.events import DayEvents
from transformer.data.profile import EventProfile, profile_of
from transformer.data.reasons import ReadingReport
from transformer.evaluation.drift import Drift, measure_drift

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataQuality:
    reading: ReadingReport | None = None
    drift: Drift | None = None
    newest_observation: datetime | None = None
    predictions: int = 0
    unknown: Mapping[str, int] = field(default_factory=dict)  # predictions per reason, see `prediction.unknown`

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics under MLflow-legal names, `{prefix}/drift/delay_psi`, …"""
        return self.drift.metrics(f"{prefix}/drift") if self.drift else {}


class Examination:
    """Examines the events of service dates, one date at a time, and measures their drift."""

    def __init__(self, now: datetime) -> None:
        """
        Args:
            now: the drift leaves out events that are planned later.
        """
        self._now = now
        self._reading = ReadingReport()
        self._profiles: list[EventProfile] = []

    def add(self, read: DayEvents) -> None:
        """Examine the events of another date."""
        self._reading.add(read.report)
        self._profiles.append(profile_of(read.events, until=self._now))

    def quality(
        self, reference: EventProfile | None, limits: DriftConfig, newest_observation: datetime | None = None
    ) -> DataQuality:
        """The quality of the dates that were added, at least one.

        Args:
            reference: profile of the training dates; None = drift is not measured.
            newest_observation: time of the newest observation in all data; None = unknown.
        """
        drift = None
        if reference is None:
            log.info("drift: not measured, since the run has no profile of its training dates")
        else:
            drift = measure_drift(sum(self._profiles[1:], start=self._profiles[0]), reference, limits)
        return DataQuality(self._reading, drift, newest_observation)
