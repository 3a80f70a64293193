"""A small simulated railway, made once, and the real data where it is."""

from pathlib import Path

import pytest

from transformer.config import Config, load_config
from transformer.data.simulator import SimulationConfig, simulate

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "mav_2024_12"

# A model that learns something in seconds.
SMALL = [
    "data.snapshot.n_prev=5",
    "data.snapshot.n_foll=5",
    "data.grid.step_s=3600",
    "model.d_model=32",
    "model.n_heads=2",
    "model.n_layers=1",
    "model.d_feedforward=32",
    "model.d_point=4",
    "training.max_epochs=3",
    "training.snapshots_per_epoch=48",
    "training.accelerator=cpu",
    "embeddings.node2vec.walks_per_node=2",
    "training.mlflow.use_mlflow=false",
]


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Event tables of eight simulated service dates."""
    folder = tmp_path_factory.mktemp("sample") / "data"
    simulate(folder, SimulationConfig(service_dates=8, lines=3, points=24, journeys_per_day=80))
    return folder


@pytest.fixture(scope="session")
def small_overrides(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that make training a matter of seconds, on the simulated railway, with a cache of its own."""
    scratch = tmp_path_factory.mktemp("small")
    return [*SMALL, f"data.local_folder={sample_folder}", f"paths.cache={scratch}/cache", f"paths.runs={scratch}/runs"]


@pytest.fixture(scope="session")
def small_config(small_overrides: list[str]) -> Config:
    return load_config("local", small_overrides)


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"real train-running data is not at {REAL_DATA.parent.name}/{REAL_DATA.name}")
    return REAL_DATA
