"""Variants are trained, and compared on the same rows with the first of them."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from benchmarks.accuracy import variants
from benchmarks.accuracy.experiment import Experiment, Kept
from transformer.config import Config, with_values


@pytest.mark.slow
def test_variants_are_judged_alike(small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    short = with_values(small_config, {"training.max_epochs": 1, "training.snapshots_per_epoch": 8}, "test")
    # Otherwise, two steps would move no prediction by a minute.
    short = with_values(short, {"model.round_predictions": False, "training.learning_rate": 0.1}, "test")
    running = with_values(short, {"training.sampling.instants": "running"}, "test")
    judge = {"data.grid.start": "08:30", "data.grid.end": "16:30", "data.grid.step_s": 14_400}
    variants.compare({"grid": short, "running": running}, [1, 2], tmp_path, Kept(tmp_path, resume=False), judge=judge)
    shown = capsys.readouterr().out
    assert "MAE of running − grid, paired" in shown
    scores = json.loads((tmp_path / "variants.json").read_text())["scores"]
    assert scores.keys() == {"grid", "running"}
    assert scores["grid"]["1"]["mae_s"] != scores["running"]["1"]["mae_s"]
    instants = {at for path in tmp_path.glob("*.parquet") for at in pl.read_parquet(path)["snapshot_ts"].unique()}
    assert sorted(at.minute for at in instants) == [30, 30, 30]  # those of the judge


def test_a_training_that_is_done_is_reused(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    short = with_values(small_config, {"training.max_epochs": 1, "training.snapshots_per_epoch": 8}, "test")
    variants.compare({"only": short}, [1], tmp_path, Kept(tmp_path, resume=True))
    first = capsys.readouterr().out

    def refused(*arguments: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Experiment, "train_network", refused)
    variants.compare({"only": short}, [1], tmp_path, Kept(tmp_path, resume=True))
    assert capsys.readouterr().out == first
    with pytest.raises(AssertionError, match="trained again"):
        variants.compare({"only": short}, [1], tmp_path, Kept(tmp_path, resume=False))
