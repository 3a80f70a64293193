"""A stage of the command line in a process of its own: its time, the memory of its processes, and its reads from disk.

The stage runs as in service. It is observed from outside, in Linux's /proc.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
LEAST_INTERVAL_S = 0.2  # between two looks at the memory
LOOKING_SHARE = 0.05  # of the time that looking takes; the kernel walks all pages of large processes for it
SHOWN_LINES = 5  # last lines of a failed stage


class StageError(Exception):
    """A stage failed, or ended before the awaited line."""


@dataclass(frozen=True)
class Memory:
    """Resident memory of several processes in bytes. A page that they share counts once (PSS)."""

    total: int = 0
    files: int = 0  # pages of mapped files among them; the kernel can drop these

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.total + other.total, self.files + other.files)


@dataclass(frozen=True)
class Usage:
    seconds: float
    peak: Memory  # at the moment with the largest total
    read_bytes: int  # from disk; what is in the page cache is not read

    def __add__(self, later: Usage) -> Usage:
        """Usage of two stages, one after the other."""
        peak = max(self.peak, later.peak, key=lambda memory: memory.total)
        return Usage(self.seconds + later.seconds, peak, self.read_bytes + later.read_bytes)


def run_stage(arguments: Sequence[str], progress: Callable[[str], None], until: str = "") -> Usage:
    """Run `python -m transformer` with these arguments.

    Args:
        progress: called with each line of the log.
        until: pattern of a line. The stage is terminated once it has logged such a line, and its time ends there.
            "" = the stage runs to its end.

    Raises:
        StageError: the stage failed, or ended before that line.
    """
    command = [sys.executable, "-m", "transformer", *arguments]
    last = deque[str](maxlen=SHOWN_LINES)
    read_before, began, seconds = _own_read_bytes(), time.monotonic(), 0.0
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            with _watched(process.pid) as seen:
                for line in process.stdout or ():
                    last.append(line.rstrip())
                    progress(last[-1])
                    if until and not seconds and re.search(until, line):
                        seconds = time.monotonic() - began
                        process.terminate()
                status = process.wait()
        except BaseException:
            process.kill()
            raise
    if not seconds and (status or until):
        reason = f"ended with exit status {status}" if status else f"ended before a line with {until!r}"
        raise StageError("\n".join([f"{arguments[0]} {reason}:", *last]))
    peak = max(seen, key=lambda memory: memory.total)
    return Usage(seconds or time.monotonic() - began, peak, _own_read_bytes() - read_before)


def drop_from_page_cache(folder: Path) -> None:
    """Let the next reader of the files in `folder` read from disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fdatasync(file)  # only pages that are on disk can be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _watched(pid: int) -> Iterator[list[Memory]]:
    """Yield a list. Until the block ends, it gets the memory of a process and its descendants again and again."""
    seen, stop = [Memory()], Event()

    def watch() -> None:
        while not stop.is_set():
            began = time.monotonic()
            seen.append(memory_of_tree(pid))
            stop.wait(max(LEAST_INTERVAL_S, (time.monotonic() - began) / LOOKING_SHARE))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def memory_of_tree(pid: int) -> Memory:
    """The memory of a process and its descendants."""
    with suppress(psutil.NoSuchProcess):
        return sum((_memory_of(child.pid) for child in psutil.Process(pid).children(recursive=True)), _memory_of(pid))
    return Memory()


def _memory_of(pid: int) -> Memory:
    with suppress(FileNotFoundError, ProcessLookupError):  # the process may have ended meanwhile
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines[1:])}
        return Memory(kib["Pss"] * 1_024, kib["Pss_File"] * 1_024)
    return Memory()


def _own_read_bytes() -> int:
    """Bytes that this process, and the ended children that it has waited for, have read from disk."""
    return psutil.Process().io_counters().read_bytes
