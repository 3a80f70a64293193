"""Compare the speed of several contestants. They take turns, so that other load of the machine affects all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds of each contestant, one per round. In a round, all contestants were measured one after the other."""

    seconds: Mapping[str, list[float]]

    def median_ms(self, name: str) -> float:
        return statistics.median(self.seconds[name]) * 1e3

    def ratio(self, slower: str, faster: str) -> float:
        """Return the time of `slower` divided by that of `faster`, as median over the rounds."""
        return statistics.median(a / b for a, b in zip(self.seconds[slower], self.seconds[faster], strict=True))


def take_turns(contestants: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> Times:
    """Time every contestant once a round, after `warm_up` rounds that do not count.

    Every second round runs in the opposite order, so that no contestant always profits from the caches of another.
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
