"""Time limit of every wait in a test: long enough for the slowest server on the busiest machine.

A test that passes does not take this long, because each wait polls and ends as soon as its condition holds.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 600.0  # with ten busy processes per core, Airflow's four components took 240 s


def wait_until(
    holds: Callable[[], object],
    what: str = "",
    process: subprocess.Popen[bytes] | None = None,
    log: Path | None = None,
    every_s: float = 0.05,
) -> None:
    """Poll until `holds` is true. Fail after PATIENCE_S, or as soon as `process` has ended."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        said = f"{what}\n{log.read_text(errors='replace') if log else ''}"
        assert process is None or process.poll() is None, f"it has ended: {said}"
        assert time.monotonic() < end, f"not within {PATIENCE_S:.0f} s: {said}"
        time.sleep(every_s)
