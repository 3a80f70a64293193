"""How many hostile inputs the fuzz tests try: `make test-all` tries more of them, and new ones every time."""

from hypothesis import HealthCheck, Phase, settings

from tests.support.grids import FACTOR, grid

settings.register_profile(
    "fuzz",
    max_examples=grid(150),
    derandomize=FACTOR == 1,  # `make test` fails on changes only
    database=None,
    phases=[Phase.generate],  # a failure is small enough to read; shrinking it would take an hour
    deadline=None,  # other work may hold the machine up
    suppress_health_check=list(HealthCheck),
)
FUZZ = settings.get_profile("fuzz")
