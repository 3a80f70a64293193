"""Isolation: an Airflow home of its own, made before Airflow is imported, and none of the shell's settings."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.programs import closing_line

REPOSITORY = Path(__file__).resolve().parents[1]
HOME = Path(tempfile.mkdtemp(prefix="airflow-tests-"))

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


@pytest.fixture(scope="session", autouse=True)
def _airflow_home():
    yield HOME
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_database():
    """Tables of Airflow's own database, for tests that run a DAG in this process."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Say after everything else what the skipped tests wanted."""
    finished = yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    if line := closing_line([str(report.longrepr) for report in reports]):
        reporter.write_line(line, yellow=True)
    return finished
