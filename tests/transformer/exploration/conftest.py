"""The content of a snapshot of the small simulated railway, read once."""

from pathlib import Path

import pytest

from transformer.config import Config
from transformer.exploration.snapshot import ExploredSnapshot, explore
from transformer.training.run_folder import TrainedModel


@pytest.fixture(scope="session")
def trained(trained_folder: Path) -> TrainedModel:
    return TrainedModel.load(trained_folder)


@pytest.fixture(scope="session")
def located(trained: TrainedModel, small_config: Config) -> Config:
    return trained.located(small_config)


@pytest.fixture(scope="session")
def snapshot(trained: TrainedModel, located: Config) -> ExploredSnapshot:
    return explore(trained, located)
