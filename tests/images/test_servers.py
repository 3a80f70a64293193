"""The Airflow and the MLflow image against a real PostgreSQL, with addresses as the guide writes them."""

import json

import pytest

from tests.support.answers import answers
from tests.support.images import podman, run, start
from tests.support.patience import wait_until
from tests.support.ports import free_port
from tests.support.postgres import postgres_server


@pytest.fixture
def address():
    """Address of an empty database, with its password."""
    server = postgres_server()
    return server.database().replace("@", f":{server.password}@")


def test_airflow_makes_its_tables_and_lists_every_dag(airflow, address):
    engines = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC")
    environment = [*((engine, address) for engine in engines), ("AIRFLOW__CORE__LOAD_EXAMPLES", "False")]
    commands = "airflow db migrate && airflow db check && airflow dags reserialize && airflow dags list --output json"
    # Airflow writes below its home, as the official chart lets it.
    done = run(airflow, "sh", "-euc", commands, network="host", environment=environment, confined=False)
    assert done.returncode == 0, done.stdout[-3000:]
    listed = json.loads(done.stdout.splitlines()[-1])
    assert {dag["dag_id"] for dag in listed} == {"model_training", "hyperparameter_tuning", "model_evaluation"}


def test_mlflow_makes_its_tables_and_serves(mlflow, address):
    environment = [
        ("MLFLOW_BACKEND_STORE_URI", address),
        ("HOME", "/tmp"),
        ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
    ]
    done = run(mlflow, "mlflow", "db", "upgrade", address, network="host", environment=environment)
    assert done.returncode == 0, done.stdout[-3000:]
    port = free_port()
    words = ["mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    container = start(mlflow, *words, network="host", environment=environment)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health") == b"OK", "MLflow", every_s=0.5)
    finally:
        podman("rm", "--force", "--time=0", container, capture_output=True)
