"""Number and randomness of the fuzz examples: FUZZ_EXAMPLES=20000 gives more examples, and new ones in every run."""

import os

from hypothesis import HealthCheck, Phase, settings

LONGER = os.environ.get("FUZZ_EXAMPLES")
settings.register_profile(
    "fuzz",
    max_examples=int(LONGER or 150),
    derandomize=not LONGER,  # CI fails only because of changes
    database=None,
    phases=[Phase.generate],  # a failure is small enough to read; shrinking it would take an hour
    deadline=None,  # other load may slow the machine down
    suppress_health_check=list(HealthCheck),
)
FUZZ = settings.get_profile("fuzz")
