"""`make up`: sample data for the first trigger, one MLflow server for all stages, and DAGs that Airflow has read."""

import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import services  # noqa: E402
from transformer.config import load_config  # noqa: E402


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


# --- sample data -----------------------------------------------------------------------------------------------------
@pytest.fixture
def simulations(monkeypatch, tmp_path):
    """The commands that simulate. Each makes a date, unless its exit status is not 0."""

    def run(command, **settings):
        made.append(command)
        folder = Path(command[command.index("--to") + 1])
        if made.status == 0:
            (folder / "events").mkdir(parents=True)
            (folder / "events" / "events_2025-01-06.parquet").touch()
        return subprocess.CompletedProcess(command, made.status)

    made = type("Made", (list,), {"status": 0})()
    monkeypatch.setattr(services, "REPOSITORY", tmp_path)
    monkeypatch.setattr(services.subprocess, "run", run)
    return made


def test_a_railway_is_simulated_once_where_there_is_none(simulations, tmp_path, capsys):
    config = load_config("local", ["data.local_folder=data/mine"])
    for _ in range(2):
        services.ensure_sample_data(config)
    assert [command[1:] for command in simulations] == [
        ["-m", "transformer", "simulate", "--to", str(tmp_path / "data" / "mine")]
    ]
    assert capsys.readouterr().out == f"No event tables in {tmp_path / 'data' / 'mine'}: simulating a railway\n"


def test_no_railway_is_simulated_where_stages_download_data(simulations):
    services.ensure_sample_data(load_config("dev"))
    assert simulations == []


def test_a_simulator_that_fails_is_one_line(simulations):
    simulations.status = 2
    with pytest.raises(services.CommandError, match="the simulator failed"):
        services.ensure_sample_data(load_config("local"))


# --- one MLflow server -----------------------------------------------------------------------------------------------
def test_airflow_gets_the_address_of_the_server_that_starts_with_it():
    shell = {"MLFLOW_PORT": "5007", "TRANSFORMER_TRACKING_URI": "http://elsewhere:5000", "TRANSFORMER_ENV": "optuna"}
    environment = services.airflow_service(shell).environment
    assert environment["TRANSFORMER_TRACKING_URI"] == "http://127.0.0.1:5007"
    assert environment["TRANSFORMER_ENV"] == "optuna"


@pytest.mark.parametrize("before", [{}, {"TRANSFORMER_TRACKING_URI": "http://127.0.0.1:5000"}])
def test_an_airflow_that_uses_another_server_is_refused(monkeypatch, before):
    airflow = services.airflow_service({"MLFLOW_PORT": "5007"})
    running = (SimpleNamespace(environ=lambda: before), 8080)
    monkeypatch.setattr(services.Service, "running", lambda self: running)
    with pytest.raises(services.CommandError, match=r"not http://127\.0\.0\.1:5007; run `make down` first"):
        services.require_one_server(airflow)


def test_an_airflow_that_uses_the_same_server_stays_up(monkeypatch):
    airflow = services.airflow_service({})
    running = (SimpleNamespace(environ=lambda: {"TRANSFORMER_TRACKING_URI": "http://127.0.0.1:5000"}), 8080)
    monkeypatch.setattr(services.Service, "running", lambda self: running)
    services.require_one_server(airflow)
    monkeypatch.setattr(services.Service, "running", lambda self: None)
    services.require_one_server(airflow)
