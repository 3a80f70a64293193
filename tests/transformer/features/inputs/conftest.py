"""A railway to which a test adds tables."""

import shutil
from pathlib import Path

import pytest

from tests.support.input_railway import Railway
from transformer.config import Config, with_values
from transformer.data.dates import available_dates
from transformer.features.statistics import compute_statistics


@pytest.fixture
def railway(small_config: Config, sample_folder: Path, tmp_path: Path) -> Railway:
    folder = tmp_path / "data"
    shutil.copytree(sample_folder, folder)
    config = with_values(small_config, {"data.local_folder": str(folder)}, "test")
    days = tuple(available_dates(folder)[:2])
    return Railway(config, compute_statistics(config.data, days), days, tmp_path / "cache")
