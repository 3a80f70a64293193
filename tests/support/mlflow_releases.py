"""MLflow servers of other releases, and with user accounts, each from PyPI in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.run_folder import once

ASKED = bool(os.environ.get("TEST_SERVERS"))  # `make test-all` sets it: an environment takes a minute and 700 MB
UV = Path(sys.executable).with_name("uv")


def mlflow_python(release: str) -> Path:
    """The Python of an environment with this release of MLflow. If it cannot be made, the test is skipped."""
    if not ASKED:
        pytest.skip("MLflow servers in environments of their own: only in `make test-all` (TEST_SERVERS=1)")
    made = once(f"mlflow-{release}", lambda folder: _install(release, folder))
    if made["error"]:
        pytest.skip(f"MLflow {release} cannot be installed: {made['error']}")
    return Path(made["python"])


def _install(release: str, folder: Path) -> dict[str, str]:
    python = folder / "venv" / "bin" / "python"
    packages = [f"mlflow[auth]=={release}", "boto3", "psycopg[binary]"]
    for command in (
        [UV, "venv", "--python", sys.executable, folder / "venv"],
        [UV, "pip", "install", "--python", python, *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"python": "", "error": done.stderr.strip().splitlines()[-1]}
    return {"python": str(python), "error": ""}
