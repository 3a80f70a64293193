"""Lines of progress, some seconds apart."""

from __future__ import annotations

import time

EVERY_S = 5.0


class Pace:
    """Says when the next line of progress is due. The first one is due `every_s` seconds from now."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the next line is due. If so, the one after it is due `every_s` seconds later."""
        now = time.monotonic()
        if now - self._last < self._every_s:
            return False
        self._last = now
        return True
