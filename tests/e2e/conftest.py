"""A clone of the repository at another path, with its own servers, ports and data."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = ["--service-dates", "5", "--lines", "2", "--points", "12", "--journeys-per-day", "40"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Clone:
    folder: Path
    mlflow_port: int
    airflow_port: int

    @property
    def environment(self):
        """What another MLflow and Airflow in the shell would set must not matter."""
        foreign = {
            "AIRFLOW_HOME": "/nowhere",
            "AIRFLOW__CORE__EXECUTOR": "Nonsense",
            "MLFLOW_TRACKING_URI": "http://no",
        }
        ports = {"MLFLOW_PORT": str(self.mlflow_port), "AIRFLOW_PORT": str(self.airflow_port)}
        return os.environ | foreign | ports

    def run(self, script, *arguments):
        return subprocess.run(
            [sys.executable, str(self.folder / "scripts" / script), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / "a clone"
    for part in ("dags", "plugins", "scripts", "transformer", "include"):
        shutil.copytree(REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    clone = Clone(folder, free_port(), free_port())
    yield clone
    clone.run("services.py", "down")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    command = [sys.executable, "-m", "transformer", "simulate", "--to", str(folder), *TINY]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return folder
