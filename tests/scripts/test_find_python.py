"""The Python that `make setup` takes, with interpreters on the PATH that only report a version."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SUPPORTED = ("3.11", "3.12", "3.13")


class Machine:
    """A PATH with the tools of the shell, and with interpreters that a test adds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for tool in ("sh", "sed", "dirname", "env", "make"):
            (folder / tool).symlink_to(Path(str(shutil.which(tool))).resolve())

    def add(self, name: str, version: str, *, venv: bool = True) -> Path:
        """Add an interpreter of that version. It is this interpreter, which reports another version."""
        path = self.folder / name
        believe = f"import sys; sys.version_info = tuple(map(int, {version!r}.split('.')));"
        believe += "" if venv else "sys.modules['ensurepip'] = None;"
        path.write_text(f'#!/bin/sh\ntest "$1" = -c && exec {sys.executable} -c "{believe} $2"\n')
        path.chmod(0o755)
        return path

    def add_shim(self, name: str) -> None:
        """Add the program that pyenv leaves for a version that is not active."""
        (self.folder / name).write_text(f'#!/bin/sh\necho "pyenv: {name}: command not found" >&2\nexit 127\n')
        (self.folder / name).chmod(0o755)

    def find(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(REPOSITORY / "scripts" / "find_python.sh")],
            env={"PATH": str(self.folder)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "bin").mkdir()
    return Machine(tmp_path / "bin")


def test_the_supported_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    after = f"3.{int(SUPPORTED[-1].partition('.')[2]) + 1}"
    assert project["requires-python"] == f">={SUPPORTED[0]},<{after}"
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in SUPPORTED


@pytest.mark.parametrize("newest", SUPPORTED)
def test_the_newest_supported_one_is_taken(machine: Machine, newest: str) -> None:
    for version in ("3.9", "3.10", *SUPPORTED[: SUPPORTED.index(newest) + 1], "3.15"):
        machine.add(f"python{version}", f"{version}.1")
    machine.add("python3", "3.15.0")
    assert machine.find().stdout == f"python{newest}\n"


def test_a_shim_that_fails_is_passed_over(machine: Machine) -> None:
    machine.add_shim("python3.13")
    machine.add_shim("python3")
    machine.add("python3.12", "3.12.4")
    assert machine.find().stdout == "python3.12\n"


def test_one_without_venv_is_passed_over(machine: Machine) -> None:
    machine.add("python3.13", "3.13.0", venv=False)
    machine.add("python3.11", "3.11.2")
    assert machine.find().stdout == "python3.11\n"


def test_python3_is_taken_if_its_version_fits(machine: Machine) -> None:
    machine.add("python3", "3.12.3")
    assert machine.find().stdout == "python3\n"


@pytest.mark.parametrize("version", [None, "3.10.12", "3.15.0"])
def test_without_any_one_line_says_what_to_install(machine: Machine, version: str | None) -> None:
    if version:
        machine.add("python3", version)
    done = machine.find()
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: no Python 3\.11 to 3\.13 .*apt-get install python3 python3-venv.*\n", done.stderr)


def test_another_may_be_named(machine: Machine) -> None:
    machine.add("python3.13", "3.13.0")
    own = machine.add("mine", "3.11.2")
    assert machine.find(PYTHON=str(own)).stdout == f"{own}\n"


@pytest.mark.parametrize("version", ["3.10.1", "3.15.0"])
def test_an_unsupported_one_that_is_named_is_refused(machine: Machine, version: str) -> None:
    machine.add("python3.13", "3.13.0")
    machine.add("mine", version)
    done = machine.find(PYTHON="mine")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: PYTHON=mine is no Python 3\.11 to 3\.13 .*\n", done.stderr)


def test_make_ends_with_that_line(machine: Machine, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    (clone / "scripts").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "requirements-dev.txt", "scripts/find_python.sh"):
        shutil.copy(REPOSITORY / name, clone / name)
    environment = {"PATH": str(machine.folder), "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(["make", "setup"], cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.startswith("make: ")]
    assert said == machine.find().stderr.splitlines()
    assert not (clone / ".venv").exists()
