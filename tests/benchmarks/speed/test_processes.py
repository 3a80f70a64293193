"""Trainings in one and two processes are measured, and have the same curve."""

import re

import pytest

from benchmarks.speed import bench_processes
from transformer.data.simulator.settings import SimulationConfig

TINY = SimulationConfig(service_dates=4, lines=3, points=24, journeys_per_day=80)
SMALL = [
    *("data.grid.step_s=7200", "data.snapshot.n_prev=3", "data.snapshot.n_foll=4"),
    *("model.d_model=16", "model.n_heads=2", "model.n_layers=1", "model.n_members=1"),
    "training.snapshots_per_epoch=16",
]
OPTIONS = [word for setting in SMALL for word in ("--set", setting)]


@pytest.mark.slow
def test_curve_speed_and_memory_of_each_number_of_processes(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that it is restored
    assert bench_processes.main(["--processes", "1", "2", "--epochs", "2", *OPTIONS], TINY) == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if re.match(r"\| \d", line)]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows] == ["1", "2"]
    assert len(rows[1][1].split(", ")) == 2
    assert float(rows[1][3].removesuffix("%")) < 1
    assert float(rows[1][6].removesuffix(" GiB")) > 0


@pytest.mark.slow
def test_a_failed_training_is_shown(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert bench_processes.main(["--processes", "1", *OPTIONS, "--set", "model.d_model=0"], TINY) == 1
    assert "model.d_model" in capfd.readouterr().err
