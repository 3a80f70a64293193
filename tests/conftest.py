"""Isolation: an Airflow home of its own, made before Airflow is imported, and none of the shell's settings."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.support import run_folder

REPOSITORY = Path(__file__).resolve().parents[1]
SWEEPER = run_folder.begin()  # in the one process that hands out the tests, or runs them all
HOME = Path(tempfile.mkdtemp(prefix="airflow-", dir=run_folder.run_folder()))

for name in list(os.environ):
    if name.startswith(("AIRFLOW", "_AIRFLOW", "MLFLOW_", "TRANSFORMER_")):
        del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "NO_PROXY": "127.0.0.1,localhost",
}


def pytest_unconfigure():
    if SWEEPER:
        run_folder.end(SWEEPER)


@pytest.fixture(scope="session")
def airflow_database():
    """Tables of Airflow's own database, for tests that run a DAG in this process."""
    from tests.support.airflow import migrated_database

    migrated_database(HOME)
