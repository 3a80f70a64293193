"""How long and how random the fuzz tests are: FUZZ_EXAMPLES=20000 makes them longer, and new every time."""

import os

from hypothesis import HealthCheck, Phase, settings

LONGER = os.environ.get("FUZZ_EXAMPLES")
settings.register_profile(
    "fuzz",
    max_examples=int(LONGER or 150),
    derandomize=not LONGER,  # CI fails on changes only
    database=None,
    phases=[Phase.generate],  # a failure is small enough to read; shrinking it would take an hour
    deadline=None,  # other work may hold the machine up
    suppress_health_check=list(HealthCheck),
)
FUZZ = settings.get_profile("fuzz")
