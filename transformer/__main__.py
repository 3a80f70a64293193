"""The command `python -m transformer STAGE`. `python -m transformer --help` lists the stages."""

import gc
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from transformer.errors import Terminated


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM while the command line is imported. No work has begun, so there is nothing to clean up."""
    os.write(2, Terminated.LINE)
    os._exit(Terminated.STATUS)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM while a command runs: a pod is evicted, or a task is stopped.

    Unfinished files are deleted. Finished epochs stay.
    """
    Terminated.arrived = True
    raise Terminated


def _run() -> int:
    signal.signal(signal.SIGTERM, _leave)
    from transformer.cli import main

    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = main()
        # The command has ended and has its status. SIGTERM must not change the status while Python shuts down.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except Terminated:  # the signal came just before or just after the command
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(2, Terminated.LINE)
        status = Terminated.STATUS
    return status


# The libraries that a stage imports make millions of lasting objects. With Python's own thresholds, the search for
# cycles among them takes a fifth of the CPU time of an evaluation of a small model.
gc.set_threshold(100_000, 20, 20)
# Threads that wait for each other sleep instead of spinning. If other processes use the same cores, spinning costs a
# training nine tenths of its speed. On free cores spinning gains little (docs/benchmarks.md). Torch reads the variable
# when it is loaded, which is after this line.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
status = _run()
# Python searches all objects for cycles several times while it shuts down. After a training, these searches take over
# two seconds of CPU time, and many times that on a busy node. Frozen objects are not searched; exit handlers still run.
gc.freeze()
sys.exit(status)
