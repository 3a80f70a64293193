"""`make train` and `make tune` share the import of a public source, and the database of Airflow."""

from __future__ import annotations

import argparse
import json
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


# --- public sources --------------------------------------------------------------------------------------------------
def asked(**options: object) -> argparse.Namespace:
    given = dict.fromkeys(("data", "source", "months", "dates", "folder")) | {"overrides": ["a=1"]}
    return argparse.Namespace(**given | options)


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that import."""
    made: list[list[str]] = []

    def run(command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
        made.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(pipeline.subprocess, "run", run)
    return made


def test_a_folder_of_a_source_is_imported_into_where_it_is_named(
    imports: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Paths are those of the person's folder, though the import runs in the repository."""
    monkeypatch.chdir(tmp_path)
    options = asked(source="ride", data=Path("mine"), folder=Path("silver"))
    assert pipeline.import_missing(options) == (tmp_path / "mine", ["a=1"])
    words = ["import", "ride", "--to", f"{tmp_path}/mine", "--missing", "--from", f"{tmp_path}/silver"]
    assert [command[3:] for command in imports] == [words]


def test_what_was_imported_is_trained_on_in_its_time_zone(imports: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "events_2025-01-06.parquet").touch()
    assert pipeline.import_missing(asked(source="ride", data=tmp_path)) == (tmp_path, ["a=1"])
    (tmp_path / "sources.json").write_text(json.dumps({"ride": {"timezone": "Europe/Brussels"}}), encoding="utf-8")
    overrides = ["data.timezone=Europe/Brussels", "a=1"]
    assert pipeline.import_missing(asked(source="ride", data=tmp_path)) == (tmp_path, overrides)
    assert imports == []
