"""Number of cases of a test, such as kill moments and fuzzed inputs.

`make test` tries a few, the same every time. `make test-all` sets TEST_GRID, which multiplies their number.
"""

import os

FACTOR = int(os.environ.get("TEST_GRID") or 1)


def grid(cases: int) -> int:
    return cases * FACTOR
