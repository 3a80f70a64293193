"""Chromium and PostgreSQL are installed if possible; otherwise their tests are skipped and counted."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.programs import CHROMIUM, PROGRAMS, Program, bring, closing_line, require

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = """
from dataclasses import replace
import pytest
from tests.support.programs import CHROMIUM, POSTGRESQL, require

@pytest.mark.parametrize("number", range(3))
def test_a_page(number):
    require(replace(CHROMIUM, find=lambda: None))

def test_a_database():
    require(replace(POSTGRESQL, find=lambda: None))

def test_another_reason():
    pytest.skip("no GPU")

def test_nothing_wanted():
    pass
"""


class Tools:
    """A PATH on which apt-get and the command of a program record their calls, and may install the program."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.program = folder, folder / "calls", folder / "program"
        command = self.add("fetch")
        self.wanted = replace(CHROMIUM, command=(str(command),), find=self.find)

    def add(self, name: str, *, brings: bool = False, status: int = 0) -> Path:
        path = self.folder / name
        more = f'case "$*" in *update) ;; *) touch "{self.program}" ;; esac\n' if brings else ""
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> "{self.calls}"\n{more}exit {status}\n')
        path.chmod(0o755)
        return path

    def find(self) -> Path | None:
        return self.program if self.program.exists() else None

    def called(self) -> list[str]:
        return [line.split()[0] for line in self.calls.read_text().splitlines()] if self.calls.exists() else []


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Tools(tmp_path)


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_what_is_there_is_left_alone(tools: Tools) -> None:
    tools.program.touch()
    assert bring(tools.wanted)
    assert tools.called() == []


def test_root_takes_the_packages_of_the_distribution(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, 0)
    tools.add("apt-get", brings=True)
    assert bring(tools.wanted)
    assert tools.called() == ["apt-get", "apt-get"]
    assert all(package in tools.calls.read_text() for package in tools.wanted.packages)


@pytest.mark.parametrize(("uid", "calls"), [(0, ["apt-get", "fetch"]), (1000, ["fetch"])])
def test_the_environment_gets_it_where_packages_do_not_help(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, uid: int, calls: list[str]
) -> None:
    as_user(monkeypatch, uid)
    tools.add("apt-get", status=100)
    tools.add("fetch", brings=True)
    assert bring(tools.wanted)
    assert tools.called() == calls


def test_a_program_that_nothing_brings_is_no_failure_yet(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, 1000)
    tools.add("fetch", status=1)
    assert not bring(tools.wanted)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_without_it_a_test_is_skipped_and_fails_in_ci(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(program, find=lambda: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"{program.name}; apt-get install {program.packages[0]}"):
        require(absent)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=f"{program.name}; apt-get install {program.packages[0]}"):
        require(absent)


def test_nothing_is_said_when_nothing_was_wanted() -> None:
    assert closing_line([]) == closing_line(["('a.py', 3, 'Skipped: no GPU')"]) == ""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_last_line_counts_what_was_skipped(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_wanting.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--numprocesses", workers, str(tmp_path)],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    *_, stats, last = done.stdout.splitlines()
    assert "1 passed, 5 skipped" in stats
    assert re.match("4 tests skipped, 3 for want of Chromium and 1 for want of PostgreSQL: ", last)
    assert "apt-get install chromium fonts-dejavu-core postgresql" in last
