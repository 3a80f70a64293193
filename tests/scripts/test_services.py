"""`make up` waits until Airflow has read the DAGs."""

import sqlite3
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import services  # noqa: E402


@pytest.fixture
def database(monkeypatch, tmp_path):
    (tmp_path / "dags").mkdir()
    for name in ("a.py", "b.py"):
        (tmp_path / "dags" / name).touch()
    monkeypatch.setattr(services, "REPOSITORY", tmp_path)
    monkeypatch.setattr(services, "AIRFLOW_HOME", tmp_path)
    yield (database := sqlite3.connect(tmp_path / "airflow.db", isolation_level=None))
    database.close()


def test_each_dag_file_must_have_been_read(database):
    assert not services._dags_read()  # without tables
    database.execute("CREATE TABLE dag (dag_id TEXT, relative_fileloc TEXT)")
    database.execute("CREATE TABLE serialized_dag (dag_id TEXT)")
    database.execute("CREATE TABLE import_error (filename TEXT)")
    database.execute("INSERT INTO dag VALUES ('a', 'a.py'), ('b', 'b.py')")
    database.execute("INSERT INTO serialized_dag VALUES ('a')")
    assert not services._dags_read()
    database.execute("INSERT INTO serialized_dag VALUES ('b')")
    assert services._dags_read()


def test_a_file_that_cannot_be_imported_has_been_read(database):
    database.execute("CREATE TABLE dag (dag_id TEXT, relative_fileloc TEXT)")
    database.execute("CREATE TABLE serialized_dag (dag_id TEXT)")
    database.execute("CREATE TABLE import_error (filename TEXT)")
    database.execute("INSERT INTO import_error VALUES ('a.py'), ('b.py')")
    assert services._dags_read()
