"""Airflow homes whose database has its tables: they are made once a test run, and copied."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.run_folder import once


def migrated_database(folder: Path, name: str = "airflow.db") -> Path:
    """Put a database with Airflow's tables into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(once("airflow", _migrate)["database"], folder / name))


def _migrate(folder: Path) -> dict[str, str]:
    database = folder / "airflow.db"
    home = {"AIRFLOW_HOME": str(folder), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{database}"}
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(command, env=os.environ | home, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"database": str(database)}
