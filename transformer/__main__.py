"""`python -m transformer <stage>`; see `python -m transformer --help`."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from transformer.cli import main
from transformer.errors import Terminated


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


# Threads that wait for each other sleep instead of spinning: on cores that others use too, spinning costs a training
# nine tenths of its speed, on free ones it gains little (docs/benchmarks.md). Read when torch is loaded, after this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A pod that is evicted or a task that is stopped gets SIGTERM first: unfinished files go, finished epochs stay.
signal.signal(signal.SIGTERM, _terminate)
sys.exit(main())
