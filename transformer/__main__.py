"""`python -m transformer <stage>`; see `python -m transformer --help`."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from transformer.errors import Terminated

TERMINATED = b"error: terminated by SIGTERM\n"
STATUS = 128 + signal.SIGTERM


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """While the command line is imported: nothing is begun, so nothing is to be tidied up."""
    os.write(2, TERMINATED)
    os._exit(STATUS)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """While a command runs: a pod is evicted or a task is stopped. Unfinished files go, finished epochs stay."""
    raise Terminated


def _run() -> int:
    signal.signal(signal.SIGTERM, _leave)
    from transformer.cli import main

    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = main()
        # The command has ended and said how. While Python takes itself apart, SIGTERM would get its own way again.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except Terminated:  # just before or just after the command
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(2, TERMINATED)
        status = STATUS
    return status


# Threads that wait for each other sleep instead of spinning: on cores that others use too, spinning costs a training
# nine tenths of its speed, on free ones it gains little (docs/benchmarks.md). Read when torch is loaded, after this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.exit(_run())
