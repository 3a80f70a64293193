"""The process of a stage on this machine: its output is streamed, and it stops together with its child processes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# Airflow's supervisor sends the task SIGTERM and kills it 5 s later. The stage must end before that.
GRACE_S = 4.0


class ProcessGroup:
    """A running command in a process group of its own. Read `lines()` to the end, then call `wait()`.

    Args:
        folder: working directory of the command.
        environment: variables to add to the environment of this process.
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
        """Yield each line of stdout and stderr as soon as it is written, without its line end."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield line.rstrip()

    def wait(self) -> int:
        """Return the exit status; negative = the signal that ended the command."""
        return self._process.wait()

    def stop(self) -> None:
        """Send SIGTERM to the group, give its leader `GRACE_S` to save its work, then send SIGKILL to the rest."""
        self.stopped = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
            os.killpg(self._process.pid, signal.SIGKILL)
