"""A damaged feed to learn from: reports of a service date that are lost, or known late. Labels never change.

A network that sees a whole feed only learns that a silent train is late. With a feed that loses reports, it then
predicts ever greater delays. Trained on both, it learns how far a silence can be trusted.

Legend of dimensions: E events, J journeys, N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transformer.data.event_table import NEVER, EventTable, Int64Array
from transformer.features.live_state import BoolArray

MOST_LOST = 0.3  # share of the reports of a date that are lost, each by itself
MOST_SILENT = 0.2  # share that is lost on silent lines
SILENT_S = (1_800, 7_200)  # range of the times for which a line is silent
MOST_LATE_S = 600  # delay with which a point reports
FROZEN_SHARE = 0.25  # share of the dates on which the whole feed is late
MOST_FROZEN_S = 1_200


@dataclass(frozen=True)
class Damage:
    """Which snapshots of an epoch see a damaged feed, and how the feed of each date is damaged."""

    instants: Int64Array  # those of the snapshots
    seed: Sequence[int]

    def hits(self, instants: Int64Array) -> BoolArray:
        """Which of the snapshots at `instants` [B] see the damaged feed."""
        return np.isin(instants, self.instants)

    def table(self, table: EventTable, number: int) -> EventTable:
        """The table of a date as its damaged feed shows it; `number` is that of the date."""
        generator = np.random.default_rng([*self.seed, number])
        reported, arrived = np.array(table.reported), np.array(table.arrived)
        lost = generator.random(table.n_events) < generator.uniform(0, MOST_LOST)
        lost |= _silent_lines(table, generator.uniform(0, MOST_SILENT), generator)
        lateness = generator.integers(0, generator.integers(1, MOST_LATE_S), int(table.point.max(initial=0)) + 1)
        if generator.random() < FROZEN_SHARE:
            lateness += generator.integers(0, MOST_FROZEN_S)
        arrived = np.where(lost | (reported == NEVER), NEVER, arrived + lateness[table.point])
        return table.with_reports(np.where(lost, NEVER, reported), arrived)


def _silent_lines(table: EventTable, share: float, generator: np.random.Generator) -> BoolArray:
    """The events [E] at the points of random journeys, each set of points for a time, until a share of reports is lost.

    Each time begins with a report of the journey.
    """
    point, time = np.asarray(table.point), np.asarray(table.reported)
    seen = np.flatnonzero(time < NEVER)
    lost = np.zeros(table.n_events, np.bool_)
    gone = 0
    while gone < share * len(seen):
        event = seen[generator.integers(len(seen))]
        journey = table.journey[event]
        on_line = np.zeros(int(point.max()) + 1, np.bool_)
        on_line[point[table.start[journey] : table.end[journey]]] = True
        end = time[event] + generator.integers(*SILENT_S)
        lost |= on_line[point] & (time >= time[event]) & (time <= end)
        gone = int(np.count_nonzero(lost))
    return lost
