"""`python -m transformer <stage>`; see `python -m transformer --help`."""

import signal
import sys
from types import FrameType
from typing import NoReturn

from transformer.cli import main
from transformer.errors import Terminated


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


# A pod that is evicted or a task that is stopped gets SIGTERM first: unfinished files go, finished epochs stay.
signal.signal(signal.SIGTERM, _terminate)
sys.exit(main())
