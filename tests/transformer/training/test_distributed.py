"""A training in several processes equals the training in one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from transformer.training.callbacks import read_history
from transformer.training.checkpoints import CHECKPOINTS, HISTORY

REPOSITORY = Path(__file__).resolve().parents[3]


def history(overrides: list[str], runs: Path) -> list[dict[str, float]]:
    argv = [sys.executable, "-m", "transformer", "train-model"]
    for override in [
        *overrides,
        f"paths.runs={runs}",
        "model.dropout=0",
        "model.head_dropout=0",
        "training.accelerator=cpu",
    ]:
        argv += ["--set", override]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
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
