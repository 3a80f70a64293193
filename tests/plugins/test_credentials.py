"""Credentials of the Airflow connection reach a local stage's environment, and nothing else."""

import json

import pytest

from delay_pipeline import stage
from delay_pipeline.credentials import postgres_environment, s3_environment, stage_environment
from transformer.config import load_config

S3 = ["data.download_data_from_s3=true", "data.bucket_name=b"]
POSTGRES = ["search.storage_url=postgresql://database.example.org/optuna"]


@pytest.fixture(autouse=True)
def _no_other_credentials(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def connection(monkeypatch):
    extra = {"region_name": "eu-west-3", "endpoint_url": "http://127.0.0.1:9"}
    conn = {"conn_type": "aws", "login": "the-key", "password": "the-secret", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(conn))


def test_the_connection_becomes_the_variables_that_aws_clients_read(connection):
    assert s3_environment(load_config("local", S3)) == {
        "AWS_ACCESS_KEY_ID": "the-key",
        "AWS_SECRET_ACCESS_KEY": "the-secret",
        "AWS_DEFAULT_REGION": "eu-west-3",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }


def test_a_stage_that_needs_no_bucket_gets_no_credentials(connection):
    assert s3_environment(load_config("local")) == {}


def test_without_a_connection_the_worker_keeps_its_own_chain():
    assert "AWS_SECRET_ACCESS_KEY" not in s3_environment(load_config("local", S3))


@pytest.fixture
def database(monkeypatch):
    conn = {"conn_type": "postgres", "login": "tuner", "password": "pg-secret"}
    monkeypatch.setenv("AIRFLOW_CONN_OPTUNA_POSTGRES", json.dumps(conn))


def test_a_study_has_the_credentials_of_its_database(database):
    assert postgres_environment(load_config("local", POSTGRES)) == {"PGUSER": "tuner", "PGPASSWORD": "pg-secret"}


def test_no_other_stage_and_no_sqlite_study_has_them(connection, database):
    both = load_config("local", [*S3, *POSTGRES])
    for stage_name in ("tune", "report-study"):
        assert {"PGPASSWORD", "AWS_SECRET_ACCESS_KEY"} <= stage_environment(stage_name, both).keys()
    assert "PGPASSWORD" not in stage_environment("train-model", both)
    assert stage_environment("tune", load_config("local")) == {}


def test_without_a_database_connection_the_worker_keeps_its_own_password():
    assert postgres_environment(load_config("local", POSTGRES)) == {}


@pytest.mark.parametrize(
    ("name", "overrides", "variable", "secret"),
    [
        ("fetch-files", S3, "AWS_SECRET_ACCESS_KEY", "the-secret"),
        ("tune", POSTGRES, "PGPASSWORD", "pg-secret"),
    ],
)
def test_a_local_stage_has_them_in_its_environment_only(
    connection, database, monkeypatch, name, overrides, variable, secret
):
    started = []

    class Group:
        stopped = False

        def __init__(self, argv, folder, environment):
            started.append((argv, environment))

        def lines(self):
            return iter([])

        def wait(self):
            return 1

        def stop(self):
            pass

    monkeypatch.setattr(stage, "ProcessGroup", Group)
    run = {"env": "local", "overrides": overrides, "run_id": "", "run_url": "", "warm_start_run_id": None}
    operator = stage.StageOperator(task_id="stage", stage=name, mlflow_run=run)
    context = {"ti": type("TI", (), {"xcom_push": lambda *_, **__: None})()}
    with pytest.raises(Exception, match=f"{name} exited with 1"):
        operator.execute(context)
    [(argv, environment)] = started
    assert environment[variable] == secret
    assert not any(secret in part for part in argv)
