"""Data that the reports of an evaluation show in addition to its rows."""

import polars as pl
import pytest


@pytest.fixture
def history() -> pl.DataFrame:
    """The epochs of a training, as `training.callbacks.read_history` returns them."""
    return pl.DataFrame(
        {
            "epoch": [0, 1],
            "train_loss": [1.0, 0.5],
            "val_mae_s": [90.0, 80.0],
            "val_translation_mae_s": [120.0, 120.0],
            "learning_rate": [1e-3, 1e-4],
        }
    )
