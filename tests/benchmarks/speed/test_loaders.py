"""The loader benchmark takes whole epochs, with as many workers as it prints."""

import re

import pytest
import torch

from benchmarks.speed import bench_loaders
from benchmarks.speed.bench_loaders import TrainingLoader
from benchmarks.speed.railways import Railway
from tests.benchmarks.conftest import SMALL
from transformer.data.simulator.settings import SimulationConfig

TINY = {20: SimulationConfig(service_dates=3, lines=3, points=24, journeys_per_day=80)}
EPOCH = [word for setting in (*SMALL, "training.snapshots_per_epoch=10") for word in ("--set", setting)]


def test_the_loader_is_that_of_a_training(network: Railway):
    alone, two = (TrainingLoader(network, count) for count in (0, 2))
    instants = [torch.cat([batch["instant"] for batch in loader]).tolist() for loader in (alone, two)]
    assert instants[0] == instants[1]
    assert len(instants[0]) == network.config.training.snapshots_per_epoch


def test_speeds_ratios_and_padding_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(bench_loaders, "ROUNDS", 1)
    monkeypatch.setattr(bench_loaders.os, "cpu_count", lambda: 2)
    assert bench_loaders.main([*EPOCH], TINY) == 0
    first, padding, size, *speeds = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ trains a snapshot, 10 snapshots in 5 batches", first)
    assert re.fullmatch(r"  \d+% of the trains and \d+% of the pairs of trains in a batch are padding; .*", padding)
    assert re.fullmatch(r"  [1-9]\d* KiB a snapshot are handed over", size)
    assert [line.split(":")[0] for line in speeds] == ["  0 workers", "  1 workers", "  2 workers"]
    assert "without workers" in speeds[1] and "a single one" in speeds[2]
