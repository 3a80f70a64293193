"""A folder that the processes of one test run share. It holds everything that is expensive and made only once.

The process that a person started makes the folder. With pytest-xdist, this is the process that distributes the tests.
After its end, also after a kill, this file runs as a program, stops the servers of the folder and removes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VARIABLE = "TEST_RUN_FOLDER"
GRACE_S = 10.0  # for servers to end by themselves


def begin() -> subprocess.Popen[bytes] | None:
    """Make the folder and return the argument of `end`. Return None if another process has made the folder."""
    if os.environ.get(VARIABLE):
        return None
    folder = os.environ[VARIABLE] = tempfile.mkdtemp(prefix="test-run-")
    # -S, because it needs no packages. It waits for the end of its standard input, which closes with this process.
    return subprocess.Popen([sys.executable, "-S", __file__, folder], stdin=subprocess.PIPE, start_new_session=True)


def end(sweeper: subprocess.Popen[bytes]) -> None:
    """Stop every server that was started in the folder, and remove it."""
    sweeper.communicate()
    del os.environ[VARIABLE]


def run_folder() -> Path:
    return Path(os.environ[VARIABLE])


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process of the test run in at a time."""
    with (run_folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def once(name: str, make: Callable[[Path], Any]) -> Any:
    """The result of `make`, read back from JSON. It is called once per test run, with an empty folder."""
    folder, made = run_folder() / name, run_folder() / f"{name}.json"
    with locked(name):
        if not made.is_file():
            shutil.rmtree(folder, ignore_errors=True)  # left by a failed attempt
            folder.mkdir()
            made.write_text(json.dumps(make(folder)))
        return json.loads(made.read_text())


def start_server(
    command: Sequence[str], log: Path, environment: Mapping[str, str], scratch: Path | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a process in a new group. When the test run ends, it is stopped and the folder `scratch` is removed."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True, **options
        )
    (run_folder() / "servers").mkdir(exist_ok=True)
    (run_folder() / "servers" / str(process.pid)).write_text(str(scratch or ""))
    return process


def _sweep(folder: Path) -> None:
    records = list((folder / "servers").glob("*"))
    for record in records:
        _signal(record, signal.SIGINT)
    latest = time.monotonic() + GRACE_S
    while any(_signal(record, 0) for record in records) and time.monotonic() < latest:
        time.sleep(0.1)
    for record in records:
        _signal(record, signal.SIGKILL)
        if scratch := record.read_text():
            shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _signal(record: Path, number: int) -> bool:
    """Send a signal to the process group of a server; False = the group has ended."""
    try:
        os.killpg(int(record.name), number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.stdin.read()
    _sweep(Path(sys.argv[1]))
