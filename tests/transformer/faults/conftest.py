"""Commands on the small railway, with a cache and runs of their own. They fail in one line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from transformer.cli import main

COMPUTE, TRAIN, EVALUATE = "compute-statistics-and-embeddings", "train-model", "evaluate-model"


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Delete the variables that the commands set for libraries, after each test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture
def overrides(small_overrides: list[str], tmp_path: Path) -> list[str]:
    return [*small_overrides, "training.max_epochs=1", f"paths.cache={tmp_path}/cache", f"paths.runs={tmp_path}/runs"]


def arguments(stage: str, overrides: list[str], *options: str) -> list[str]:
    return [stage, *options, *(word for override in overrides for word in ("--set", override))]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with status 1 and one `error: …` line; returns that line."""

    def run(argv: list[str]) -> str:
        capsys.readouterr()
        assert main(argv) == 1
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1].startswith("error: ") and sum(line.startswith("error: ") for line in lines) == 1, lines
        assert "Traceback (most recent call last):" not in lines, lines
        return lines[-1].removeprefix("error: ")

    return run


def unfinished(folder: Path) -> list[Path]:
    """The files that an interrupted write would leave."""
    return [path for path in folder.rglob(".*") if path.name.endswith((".tmp", ".old"))]
