"""Number and randomness of the fuzz examples: `make test-all` tries more of them, and new ones in every run."""

from hypothesis import HealthCheck, Phase, settings

from tests.support.grids import FACTOR, grid

settings.register_profile(
    "fuzz",
    max_examples=grid(150),
    derandomize=FACTOR == 1,  # `make test` fails on changes only
    database=None,
    phases=[Phase.generate],  # failures are small enough to read, and shrinking them would take an hour
    deadline=None,  # other load may slow the machine down
    suppress_health_check=list(HealthCheck),
)
FUZZ = settings.get_profile("fuzz")
