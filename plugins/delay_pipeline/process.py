"""A stage's process on this machine: its output line by line, and its end with everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# Airflow's supervisor sends the task SIGTERM and kills it 5 s later; the stage must be gone before that.
GRACE_S = 4.0


class ProcessGroup:
    """A command in a process group of its own, with `environment` on top of this process's.

    Start it, read `lines()` to the end, then `wait()`.
    """

    def __init__(self, argv: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.stopped = False
        self._process = subprocess.Popen(
            argv,
            cwd=folder,
            env={**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )

    def lines(self) -> Iterator[str]:
        """Lines of stdout and stderr as they come, without their ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield line.rstrip()

    def wait(self) -> int:
        """Exit status; negative = the signal that ended it."""
        return self._process.wait()

    def stop(self) -> None:
        """SIGTERM to the whole group, `GRACE_S` for its leader to save its work, then SIGKILL to what is left."""
        self.stopped = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
            os.killpg(self._process.pid, signal.SIGKILL)
