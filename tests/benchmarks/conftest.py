"""A railway so small that measurements take seconds."""

from collections.abc import Iterator

import pytest

from benchmarks.speed.railways import Railway, railway
from tests.transformer.conftest import sample_folder, small_config, small_overrides
from transformer.data.simulator.settings import SimulationConfig

__all__ = ["network", "sample_folder", "small_config", "small_overrides"]

SMALL = [
    "data.grid.step_s=3600",
    "data.snapshot.n_prev=3",
    "data.snapshot.n_foll=4",
    "model.d_model=16",
    "model.n_heads=2",
    "model.n_layers=1",
    "training.batch_size=2",
]


@pytest.fixture(scope="session")
def network() -> Iterator[Railway]:
    simulation = SimulationConfig(service_dates=3, lines=3, points=24, journeys_per_day=80)
    with railway(None, simulation, SMALL) as small:
        yield small
