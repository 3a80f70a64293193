"""Timing side by side: contestants take turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds of each contestant, one per round; round i of one was measured next to round i of the others."""

    seconds: Mapping[str, list[float]]

    def median_ms(self, name: str) -> float:
        return statistics.median(self.seconds[name]) * 1e3

    def ratio(self, slower: str, faster: str) -> float:
        """How many times as long `slower` took as `faster`: the median over the rounds."""
        return statistics.median(a / b for a, b in zip(self.seconds[slower], self.seconds[faster], strict=True))


def take_turns(contestants: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> Times:
    """Time every contestant once a round, after `warm_up` rounds that do not count.

    Every other round runs in the opposite order: what one leaves in the caches favours no one for good.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-warm_up, rounds):
        order = list(contestants)
        for name in order if number % 2 == 0 else reversed(order):
            start = time.perf_counter()
            contestants[name]()
            elapsed = time.perf_counter() - start
            if number >= 0:
                seconds[name].append(elapsed)
    return Times(seconds)
