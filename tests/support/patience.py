"""How long a test waits: for whatever it waits, one time that the slowest server needs on the busiest machine.

Nothing takes so long where it works: each wait looks again and again, and ends with what it waits for.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 600.0  # Airflow's four components beside ten busy processes a core took 240 s


def wait_until(
    holds: Callable[[], object],
    what: str = "",
    process: subprocess.Popen[bytes] | None = None,
    log: Path | None = None,
    every_s: float = 0.05,
) -> None:
    """Look until `holds`; fail after PATIENCE_S, and at once when the process it depends on has ended."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        said = f"{what}\n{log.read_text(errors='replace') if log else ''}"
        assert process is None or process.poll() is None, f"it has ended: {said}"
        assert time.monotonic() < end, f"not within {PATIENCE_S:.0f} s: {said}"
        time.sleep(every_s)
