"""Make a virtual environment and install the locked packages: `make setup`.

    python3.13 scripts/install.py requirements.txt requirements-dev.txt
    python3.13 scripts/install.py --installer pip requirements.txt requirements-dev.txt

uv installs where it is present or can be installed, pip otherwise. Only the standard library is imported: nothing is
installed yet.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from pip_settings import UntranslatableError, for_uv, read_settings

REPOSITORY = Path(__file__).resolve().parents[1]
INSTALLERS = ("uv", "pip")
PIP = ("-m", "pip", "install", "--disable-pip-version-check")
# The lines of uv and pip that say what is done now; others are warnings and details.
STEP = re.compile(r"\s*(Resolved|Download\w+|Prepared|Installed|Build\w*|Built|Collecting|Requirement|Installing) ")
TAIL = 20  # lines of a failed installer's output: the reason is among the last


class Progress:
    """One running line on a terminal; elsewhere a line now and then, so that no log is silent or flooded."""

    def __init__(self, packages: int, folder: Path) -> None:
        self.packages, self.folder = packages, folder
        self.terminal = sys.stdout.isatty()
        self.step = ""
        self._began = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if self.terminal:
            print("\r\x1b[K", end="")

    @property
    def seconds(self) -> int:
        return round(time.monotonic() - self._began)

    def _run(self) -> None:
        while not self._done.wait(0.5 if self.terminal else 15):
            text = f"{self.seconds:4} s  {self.installed()} of about {self.packages} packages installed; {self.step}"
            if self.terminal:
                text = f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}"
            print(text, end="" if self.terminal else "\n", flush=True)

    def installed(self) -> int:
        return sum(1 for _ in self.folder.glob("lib/python*/site-packages/*.dist-info"))


def environment_python(folder: Path) -> Path:
    """The Python of a virtual environment in `folder`, made anew unless it is there with this interpreter's version."""
    python = folder / "bin" / "python"
    version = "{}.{}".format(*sys.version_info)
    kept = (folder / "lib" / f"python{version}").is_dir() and _runs(python, "-m", "pip", "--version")
    if not kept:
        print(f"making {folder} with Python {version}", flush=True)
        if folder.is_symlink():
            folder.unlink()  # what it points to belongs to others
        venv.create(folder, clear=True, with_pip=True, symlinks=True)
    return python


def find_uv(python: Path, locks: Sequence[Path]) -> str | None:
    """uv of the PATH, else the locked one, installed into the environment; None where it cannot be had."""
    own = python.with_name("uv")
    for found in (shutil.which("uv"), str(own)):
        if found and _runs(found, "--version"):
            return found
    pin = re.search(r"^uv==[^\s;]+", "".join(lock.read_text(encoding="utf-8") for lock in locks), re.MULTILINE)
    return str(own) if pin and _runs(python, *PIP, "--no-deps", pin[0]) else None


def install(python: Path, locks: Sequence[Path], installer: str) -> bool:
    """Install the locks with uv or pip and show how far it is; False after a failure, whose last lines are shown."""
    options = [word for lock in locks for word in ("--requirement", str(lock))]
    environment = dict(os.environ)
    if installer == "uv":
        try:
            environment = for_uv(read_settings(python), environment)
        except UntranslatableError as problem:
            print(problem, flush=True)
            return False
        uv = find_uv(python, locks)
        if uv is None:
            print("uv is not to be had", flush=True)
            return False
        command = [uv, "pip", "install", "--python", str(python), *options]
    else:
        command = [str(python), *PIP, "--progress-bar", "off", *options]
    names = {name for lock in locks for name in re.findall(r"^[\w.-]+(?===)", lock.read_text("utf-8"), re.MULTILINE)}
    output: list[str] = []
    with Progress(len(names), python.parents[1]) as progress:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            if STEP.match(line):
                progress.step = f"{installer}: {line.strip()}"
    if process.wait():
        print("".join(output[-TAIL:]), end="", flush=True)
        print(f"{installer} failed with exit status {process.returncode}", flush=True)
        return False
    print(f"{progress.installed()} packages installed by {installer} in {progress.seconds} s", flush=True)
    return True


def _runs(*command: str | Path) -> bool:
    try:
        return subprocess.run([str(word) for word in command], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make a virtual environment and install locked packages into it.")
    parser.add_argument("locks", nargs="+", type=Path, metavar="lock", help="requirements files with pinned versions")
    parser.add_argument("--to", type=Path, default=REPOSITORY / ".venv", metavar="FOLDER", help="default: .venv")
    parser.add_argument("--installer", choices=INSTALLERS, help="this one only; default: uv, and pip where uv fails")
    arguments = parser.parse_args(argv)
    python = environment_python(arguments.to)
    for installer in [arguments.installer] if arguments.installer else INSTALLERS:
        print(f"installing the locked packages with {installer}", flush=True)
        if install(python, arguments.locks, installer):
            return 0
    print("error: the packages could not be installed; the lines above say why", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
