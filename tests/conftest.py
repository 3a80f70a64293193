"""Isolation: a separate Airflow home, made before Airflow is imported, and no settings of the shell."""

import gc
import os
import tempfile
from pathlib import Path

import pytest

from tests.support import run_folder
from tests.support.programs import closing_line

REPOSITORY = Path(__file__).resolve().parents[1]
SWEEPER = run_folder.begin()  # only in the process that distributes the tests, or runs all of them
HOME = Path(tempfile.mkdtemp(prefix="airflow-", dir=run_folder.run_folder()))

gc.set_threshold(100_000, 20, 20)  # of the objects of the imported libraries, no collection frees any

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


# The processes that share the tests then end at about the same time. The other files follow in the usual order.
SLOWEST_FIRST = (
    "tests/e2e/test_up.py",
    "tests/e2e/test_train.py",
    "tests/e2e/test_tune.py",
    "tests/transformer/faults/test_cuts.py",
    "tests/transformer/tuning/test_kills.py",
    "tests/deploy/test_install.py",
    "tests/transformer/tuning/test_database.py",
    "tests/transformer/tuning/test_postgresql.py",
    "tests/transformer/tuning/test_failover.py",
    "tests/transformer/evaluation/test_comparison.py",
    "tests/transformer/storage/test_scenarios.py",
    "tests/e2e/test_pods.py",
    "tests/transformer/test_stages.py",
    "tests/e2e/test_pods_training.py",
    "tests/transformer/registry/test_versions.py",
    "tests/transformer/faults/test_services.py",
    "tests/transformer/training/test_preemption.py",
    "tests/transformer/training/test_trainer.py",
    "tests/test_network.py",
    "tests/docs/test_commands.py",
    "tests/e2e/test_pods_tuning.py",
    "tests/transformer/faults/test_processes.py",
    "tests/transformer/faults/test_disk.py",
    "tests/scripts/test_install.py",
    "tests/transformer/tuning/test_study.py",
    "tests/transformer/tracking/test_servers.py",
    "tests/transformer/tracking/test_runs.py",
    "tests/notebooks/test_explore_snapshot.py",
    "tests/dags/test_hyperparameter_tuning_run.py",
    "tests/benchmarks/accuracy/test_against_trees.py",
)


def pytest_collection_modifyitems(items):
    files = {str(REPOSITORY / name): place for place, name in enumerate(SLOWEST_FIRST)}
    assert all(map(os.path.isfile, files)), "a file of SLOWEST_FIRST has moved"
    items.sort(key=lambda item: files.get(str(item.path), len(files)))


def pytest_collection_finish():
    gc.freeze()  # no later collection looks at the modules and the tests


def pytest_unconfigure():
    if SWEEPER:
        run_folder.end(SWEEPER)


@pytest.fixture(scope="session")
def airflow_database():
    """Tables of Airflow's own database, for tests that run a DAG in this process."""
    from tests.support.airflow import migrated_database

    migrated_database(HOME)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Print at the very end which programs the skipped tests need."""
    finished = yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    if line := closing_line([str(report.longrepr) for report in reports]):
        reporter.write_line(line, yellow=True)
    return finished
