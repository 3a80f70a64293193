"""Runs `python -m transformer` until a log line matches a pattern, and waits there for a signal.

    python tests/support/held.py REGULAR_EXPRESSION ARGUMENTS…

A signal therefore reaches a stage at the same place on a machine of any speed. The line `held` says that it waits.
"""

import logging
import re
import runpy
import sys
import time
from pathlib import Path

PROGRAM = str(Path(__file__))


class _Hold(logging.Handler):
    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = pattern

    def emit(self, record: logging.LogRecord) -> None:
        if re.search(self._pattern, record.getMessage()):
            print("held", file=sys.stderr, flush=True)
            time.sleep(3600)  # far longer than any test lasts


if __name__ == "__main__":
    logging.getLogger("transformer").addHandler(_Hold(sys.argv.pop(1)))
    runpy.run_module("transformer", run_name="__main__", alter_sys=True)
