"""Clones of the repository at other paths and with other ports, like a person's clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.support.airflow import migrated_database
from tests.support.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ("dags", "plugins", "scripts", "transformer", "include")
# The databases of `make train`, `make tune` and `make up`. Each command would migrate its own database first.
DATABASES = ("train.db", "tune.db", "airflow.db")


@dataclass
class Clone:
    folder: Path
    mlflow_port: int | str
    airflow_port: int

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables of commands in the clone. Variables of another MLflow and Airflow must have no effect."""
        foreign = {
            "AIRFLOW_HOME": "/nowhere",
            "AIRFLOW__CORE__EXECUTOR": "Nonsense",
            "MLFLOW_TRACKING_URI": "http://no",
        }
        ports = {"MLFLOW_PORT": str(self.mlflow_port), "AIRFLOW_PORT": str(self.airflow_port)}
        return os.environ | foreign | ports

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(self.folder / "scripts" / script), *arguments],
            cwd=self.folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def with_databases(self) -> Clone:
        """Add Airflow's tables, which the first `make train` of a clone creates."""
        for name in DATABASES:
            database = migrated_database(self.folder / ".airflow", name)
            database.with_suffix(".version").write_text(version("apache-airflow-core"), encoding="utf-8")
        return self


@contextmanager
def cloned(folder: Path) -> Iterator[Clone]:
    """Copy the parts of the repository that commands need. At the end, stop all servers of the clone."""
    for part in PARTS:
        shutil.copytree(REPOSITORY / part, folder / part)  # with the bytecode, which is valid at any path
    clone = Clone(folder, free_port(), free_port())
    try:
        yield clone
    finally:
        if any((folder / ".run").glob("*.json")):
            clone.run("services.py", "down")
