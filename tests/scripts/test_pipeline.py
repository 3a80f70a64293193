"""`make train` and `make tune` share the database of Airflow, and make its tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import pipeline
from services import CommandError


@pytest.fixture
def migrations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The commands that made tables; each makes the file of the database."""
    made: list[list[str]] = []

    def run(command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
        made.append(command)
        (tmp_path / "train.db").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pipeline.subprocess, "run", run)
    return made


def test_tables_are_made_once_per_version_of_airflow(
    migrations: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    database = tmp_path / "train.db"
    for _ in range(2):
        pipeline.ensure_database(database, {})
    assert len(migrations) == 1
    assert migrations[0][1:] == ["-m", "airflow", "db", "migrate"]
    monkeypatch.setattr(pipeline, "version", lambda name: "99.0")
    pipeline.ensure_database(database, {})
    assert len(migrations) == 2
    database.unlink()
    pipeline.ensure_database(database, {})
    assert len(migrations) == 3


def test_tables_that_cannot_be_made_are_one_line_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "disk full")
    monkeypatch.setattr(pipeline.subprocess, "run", lambda *command, **settings: failed)
    for _ in range(2):
        with pytest.raises(CommandError, match=r"train\.db cannot be made"):
            pipeline.ensure_database(tmp_path / "train.db", {})
