"""`make setup` with a lock of one small wheel: uv, pip instead of uv, progress, and the resulting environment."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

NAME = "tiny_rail"
METADATA = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
NO_UV = "#!/bin/sh\nexit 1\n"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    info = f"{NAME}-1.0.dist-info"
    files = {f"{NAME}.py": "", f"{info}/METADATA": METADATA, f"{info}/WHEEL": WHEEL}
    with zipfile.ZipFile(folder / f"{NAME}-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One environment for all tests, because installing pip into a new one takes long."""
    return tmp_path_factory.mktemp("shared") / "environment"


@pytest.fixture
def install(tmp_path: Path, wheels: Path, environment: Path):
    """Run scripts/install.py. The settings of pip allow only packages of the folder of wheels."""
    for path in environment.glob(f"lib/*/site-packages/{NAME}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    tools = tmp_path / "tools"
    tools.mkdir()
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {wheels}\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    settings = {"PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    settings |= {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "UV_CACHE_DIR": str(tmp_path / "cache")}

    def run(lock: str, *arguments: str, uv: str = "") -> subprocess.CompletedProcess[str]:
        (tmp_path / "lock.txt").write_text(lock)
        if uv:
            (tools / "uv").write_text(uv)
            (tools / "uv").chmod(0o755)
        command = [sys.executable, str(REPOSITORY / "scripts" / "install.py"), "--to", str(environment)]
        return subprocess.run(
            [*command, *arguments, str(tmp_path / "lock.txt")],
            env=kept | settings,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def installed(environment: Path) -> bool:
    done = subprocess.run([str(environment / "bin" / "python"), "-c", f"import {NAME}"], check=False)
    return done.returncode == 0


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_the_packages_come_from_where_pip_is_told(install, environment: Path, installer: str) -> None:
    done = install("tiny-rail==1.0\n", "--installer", installer)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"installed by {installer} in" in done.stdout
    assert installed(environment)


@pytest.mark.parametrize("uv", [NO_UV, '#!/bin/sh\ntest "$1" = --version || { echo "no room" ; exit 3; }\n'])
def test_pip_installs_where_uv_is_not_to_be_had_or_fails(install, environment: Path, uv: str) -> None:
    done = install("tiny-rail==1.0\n", uv=uv)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "installed by pip in" in done.stdout
    assert "no room" in done.stdout or "uv is not to be had" in done.stdout
    assert installed(environment)


def test_what_no_installer_finds_ends_in_its_reason(install) -> None:
    done = install("no-such-rail==1.0\n")
    assert done.returncode == 1
    assert "no-such-rail" in done.stdout
    assert done.stderr.splitlines() == ["error: the packages could not be installed; the lines above say why"]


def test_an_environment_is_kept_unless_its_python_is_another(install, environment: Path) -> None:
    assert install("tiny-rail==1.0\n", "--installer", "pip").returncode == 0
    mark = environment / "mark"
    mark.touch()
    assert install("tiny-rail==1.0\n", "--installer", "pip").returncode == 0
    assert mark.exists()
    (folder,) = (environment / "lib").glob("python*")
    folder.rename(folder.with_name("python3.10"))
    assert install("tiny-rail==1.0\n", "--installer", "pip").returncode == 0
    assert not mark.exists()
    assert installed(environment)
