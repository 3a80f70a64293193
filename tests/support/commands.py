"""Commands of this repository as processes, forked from a process that has already imported the heavy libraries.

These are for tests that need a separate process and do not test its start. `start` is like `subprocess.Popen`, and
`run` is like `subprocess.run`. Both take the words after `python -m`, or the path of a program and its arguments.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.support.patience import PATIENCE_S, wait_until
from tests.support.run_folder import once, start_server

REPOSITORY = Path(__file__).resolve().parents[2]


def start(
    *arguments: str,
    environment: Mapping[str, str] = os.environ,
    cwd: Path = REPOSITORY,
    start_new_session: bool = False,
    stderr_to_stdout: bool = False,
) -> Forked:
    return Forked(arguments, environment, cwd, start_new_session, stderr_to_stdout)


def run(
    *arguments: str, environment: Mapping[str, str] = os.environ, cwd: Path = REPOSITORY
) -> subprocess.CompletedProcess[str]:
    """Run to the end, and return status and output. A status other than 0 raises no error."""
    process = start(*arguments, environment=environment, cwd=cwd)
    out, err = process.communicate(PATIENCE_S)
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


def finish(*processes: Forked | subprocess.Popen[str]) -> list[str]:
    """Wait for the ends of processes, which must succeed, and return what each wrote to its standard error."""
    logs = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
    for process, log in zip(processes, logs, strict=True):
        assert process.returncode == 0, log
    return logs


class Forked:
    """A process, with the methods of `subprocess.Popen` and text in UTF-8.

    Attributes:
        stdin: standard input; it stays empty unless the test writes to it.
        stderr: standard error; it ends at once if `stdout` gets its lines, too.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        start_new_session: bool,
        stderr_to_stdout: bool,
    ) -> None:
        self.args = list(arguments)
        self.returncode: int | None = None
        self._waiting = threading.Lock()
        reading, writing = os.pipe()
        self.stdin = os.fdopen(writing, "w", encoding="utf-8")
        self.stdout, out = _pipe()
        self.stderr, err = _pipe()
        if stderr_to_stdout:
            os.dup2(out, err)
        request = {
            "arguments": self.args,
            "environment": {"PYTHONPATH": str(REPOSITORY), **environment},
            "cwd": str(cwd),
            "new_session": start_new_session,
        }
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(_address())
        socket.send_fds(self._connection, [json.dumps(request).encode()], [reading, out, err])
        for file in (reading, out, err):
            os.close(file)
        self.pid = int(self._answer()["pid"])

    def poll(self) -> int | None:
        return self._ended_within(0)

    def wait(self, timeout: float = PATIENCE_S) -> int:
        status = self._ended_within(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return status

    def communicate(self, timeout: float = PATIENCE_S) -> tuple[str, str]:
        """Close standard input, wait for the end, and return the rest of standard output and standard error."""
        self.stdin.close()
        end = time.monotonic() + timeout
        said = ["", ""]

        def read(index: int, stream: IO[str]) -> None:
            with stream:
                said[index] = stream.read()

        readers = [
            threading.Thread(target=read, args=each, daemon=True)
            for each in enumerate((self.stdout, self.stderr))
            if not each[1].closed
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(max(0.0, end - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.wait(max(0.0, end - time.monotonic()))
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, timeout: float) -> int | None:
        if self.returncode is None and self._waiting.acquire(timeout=timeout):
            try:
                if self.returncode is None:  # another thread may have waited for it
                    self._connection.settimeout(timeout)
                    self.returncode = int(self._answer()["returncode"])
                    self._connection.close()
            except (BlockingIOError, TimeoutError):
                pass
            finally:
                self._waiting.release()
        return self.returncode

    def _answer(self) -> dict[str, Any]:
        message = self._connection.recv(4096)
        assert message, "the fork server has ended"
        return dict(json.loads(message))


def _pipe() -> tuple[IO[str], int]:
    reading, writing = os.pipe()
    return os.fdopen(reading, encoding="utf-8"), writing


def _address() -> str:
    """Address of the fork server of this test run."""
    return str(once("forkserver", _start_server)["address"])


def _start_server(folder: Path) -> dict[str, str]:
    address, log = folder / "socket", folder / "log"
    # Libraries read these settings when they are imported, so the settings of a single command come too late.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "tests.support.forkserver", str(address)]
    process = start_server(command, log, environment, cwd=REPOSITORY)
    wait_until(address.exists, "the fork server", process, log)
    return {"address": str(address)}
