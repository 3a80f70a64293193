"""Airflow homes with a migrated database, which is made once per test run and then copied."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.run_folder import once


def migrated_database(folder: Path, name: str = "airflow.db") -> Path:
    """Copy a database with Airflow's tables into a folder, which is created if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(once("airflow", _migrate)["database"], folder / name))


def _migrate(folder: Path) -> dict[str, str]:
    database = folder / "airflow.db"
    home = {"AIRFLOW_HOME": str(folder), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{database}"}
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(command, env=os.environ | home, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"database": str(database)}
