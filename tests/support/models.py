"""Railways and trained models that tests share. Each is made once per test run, under the hash of its settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.run_folder import once

if TYPE_CHECKING:
    from transformer.config import Config
    from transformer.data.simulator.settings import SimulationConfig

# Overrides of a training that takes seconds on such a railway, and of its evaluation.
TINY_TRAINING = [
    "training.snapshots_per_epoch=64",
    "training.log_every_s=0.5",
    "data.grid.step_s=7200",
    "model.d_model=16",
    "model.n_heads=2",
    "model.n_layers=1",
    "evaluation.gate.min_journeys=5",
]


def simulated(simulation: SimulationConfig) -> Path:
    """Folder of the event tables of a railway. Tests must not write into it."""
    from transformer.data.simulator.dataset import simulate
    from transformer.files import content_hash

    def make(folder: Path) -> str:
        simulate(folder / "data", simulation)
        return str(folder / "data")

    return Path(once(f"railway-{content_hash(vars(simulation))}", make))


def trained(overrides: Sequence[str]) -> Path:
    """Run folder of a model that was trained with these overrides of environment local, without MLflow.

    Tests must not write into it; they copy it instead.
    """
    from transformer import stages
    from transformer.config import load_config
    from transformer.files import content_hash

    def make(folder: Path) -> str:
        own = ["training.mlflow.use_mlflow=false", f"paths.runs={folder}/runs", f"paths.cache={folder}/cache"]
        config = load_config("local", [*overrides, *own])
        stages.train_model(config, "")
        return str(stages.run_folder(config, ""))

    return Path(once(f"trained-{content_hash(list(overrides))}", make))


def history_of(config: Config, run_id: str, folder: Path) -> list[dict[str, float]]:
    """A row for each epoch of a training, as MLflow has it. It is downloaded to `folder`."""
    from transformer.tracking.run_log import RunLog
    from transformer.training.callbacks import read_history
    from transformer.training.checkpoints import CHECKPOINTS, HISTORY

    return read_history(RunLog(config, run_id).download(f"{CHECKPOINTS}/{HISTORY}", folder))
