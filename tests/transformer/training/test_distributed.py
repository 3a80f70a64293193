"""A training in several processes equals the training in one process."""

from pathlib import Path

import pytest

from tests.support import commands
from transformer.training.callbacks import read_history
from transformer.training.checkpoints import CHECKPOINTS, HISTORY


def history(overrides: list[str], runs: Path) -> list[dict[str, float]]:
    words = ["transformer", "train-model"]
    for override in [
        *overrides,
        f"paths.runs={runs}",
        "model.dropout=0",
        "model.head_dropout=0",
        "training.accelerator=cpu",
    ]:
        words += ["--set", override]
    done = commands.run(*words)
    assert done.returncode == 0, done.stderr
    [path] = runs.glob(f"*/{CHECKPOINTS}/{HISTORY}")
    return read_history(path)


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(small_overrides: list[str], tmp_path: Path):
    """DDP over gloo on the CPU; on GPUs the same configuration uses NCCL."""
    one = history(small_overrides, tmp_path / "one")
    two = history([*small_overrides, "training.devices=2", "training.strategy=ddp"], tmp_path / "two")
    assert len(one) == len(two) == 3
    for row, expected in zip(two, one, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)
