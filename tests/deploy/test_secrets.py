"""deploy/secrets.sh makes every secret that Airflow and MLflow read, and Airflow can use what it makes."""

import json
import os
import string
import subprocess
import sys
from uuid import uuid4

import pytest

from tests.deploy.dockerfile import REPOSITORY
from tests.deploy.manifests import helm_values
from tests.deploy.test_manifests import secret_keys
from tests.support.postgres import postgres_server

PASSWORD = f"p@ss/w%rd $HOME'{string.punctuation} ü日"
ANSWERS = {
    "DATABASE_HOST": "db.example.org:5432",
    "MLFLOW_DATABASE_PASSWORD": PASSWORD,
    "AIRFLOW_DATABASE_PASSWORD": PASSWORD,
    "GIT_URL": "https://git.example.org/rail/train-delays.git",
    "GIT_TOKEN": "token",
}
# A kubectl that keeps each secret as a file, and its own arguments in a log.
KUBECTL = """#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >> calls
case "$1 $2" in
"get secret") test -e "secrets/$5.$3" ;;
"create secret") test ! -e "secrets/$6.$4" && cat "${7#--from-env-file=}" > "secrets/$6.$4" ;;
*) exit 1 ;;
esac
"""
QUERY = """
import asyncio
from sqlalchemy import text
from airflow import settings

async def query():
    async with settings.AsyncSession() as session:
        return await session.scalar(text("SELECT current_user"))

settings.configure_vars()
settings.configure_orm()
with settings.Session() as session:
    print(session.scalar(text("SELECT current_user")), asyncio.run(query()))
"""


@pytest.fixture
def cluster(tmp_path):
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    (tmp_path / "secrets").mkdir()
    return tmp_path


def make_secrets(cluster, answers=(), typed="", **settings):
    environment = {"PATH": f"{cluster}:{os.environ['PATH']}", **dict(answers), **settings}
    command = ["sh", str(REPOSITORY / "deploy" / "secrets.sh")]
    done = subprocess.run(command, env=environment, input=typed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_text() for path in (cluster / "secrets").iterdir()}


def keys(made):
    return {
        (name.partition(".")[2], line.partition("=")[0]) for name, text in made.items() for line in text.splitlines()
    }


def test_every_secret_that_is_read_is_made(cluster):
    made = make_secrets(cluster, ANSWERS)
    connections = {("airflow-connections", f"AIRFLOW_CONN_{name}") for name in ("AWS_DEFAULT", "GIT_DEFAULT")}
    assert keys(made) == secret_keys() | connections
    assert {name for name in made if name.startswith("mlflow.")} == {"mlflow.mlflow-database"}
    git = made["airflow.airflow-connections"].splitlines()[1].partition("=")[2]
    assert json.loads(git)["host"] == ANSWERS["GIT_URL"]
    calls = (cluster / "calls").read_text()
    assert "p@ss" not in calls
    assert "%" not in calls
    assert "token" not in calls


def test_typed_answers_make_the_same_secrets(cluster):
    typed = [ANSWERS[name] for name in ("DATABASE_HOST", "MLFLOW_DATABASE_PASSWORD", "AIRFLOW_DATABASE_PASSWORD")]
    made = make_secrets(cluster, typed="\n".join([*typed, ANSWERS["GIT_URL"], ANSWERS["GIT_TOKEN"], ""]))
    assert f"@{ANSWERS['DATABASE_HOST']}/mlflow?sslmode=require" in made["mlflow.mlflow-database"]
    assert ANSWERS["GIT_TOKEN"] in made["airflow.airflow-connections"]


def test_a_second_run_changes_nothing(cluster):
    made = make_secrets(cluster, ANSWERS)
    assert make_secrets(cluster, ANSWERS | {"GIT_TOKEN": "other"}) == made


def test_only_a_missing_secret_is_made_again(cluster):
    made = make_secrets(cluster, ANSWERS)
    (cluster / "secrets" / "airflow.airflow-connections").unlink()
    again = make_secrets(cluster, ANSWERS | {"GIT_TOKEN": "renewed"})
    assert "renewed" in again.pop("airflow.airflow-connections")
    assert again == {name: text for name, text in made.items() if name != "airflow.airflow-connections"}


@pytest.fixture
def addresses(cluster):
    """Addresses of a real server, by secret. They name `sslmode`, which a managed PostgreSQL needs."""
    server = postgres_server()
    literal = PASSWORD.replace("'", "''")
    for name in ("airflow", "mlflow"):
        if not server.admin(f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'"):
            server.admin(f"CREATE ROLE {name} LOGIN PASSWORD '{literal}'")
            server.admin(f"CREATE DATABASE {name} OWNER {name}")
    answers = ANSWERS | {"DATABASE_HOST": f"127.0.0.1:{server.port}"}
    made = make_secrets(cluster, answers, SSLMODE="prefer")
    found = {
        name: made[name].strip().partition("=")[2] for name in ("airflow.airflow-database", "mlflow.mlflow-database")
    }
    assert all("sslmode=prefer" in address for address in found.values())
    return found


@pytest.mark.slow
def test_mlflow_makes_its_tables_at_the_address(addresses):
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", addresses["mlflow.mlflow-database"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert postgres_server().admin("SELECT count(*) FROM experiments", "mlflow") == [(0,)]


def test_both_engines_of_airflow_use_the_address(addresses, tmp_path):
    address = addresses["airflow.airflow-database"]
    home = tmp_path / uuid4().hex
    home.mkdir()
    option = helm_values()["config"]["database"]["sql_alchemy_conn_async"]
    (home / "airflow.cfg").write_text(f"[database]\nsql_alchemy_conn_async = {option}\n")
    settings = {"AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", QUERY], env=inherited | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # When the process ends, SQLAlchemy logs that it cannot close an asynchronous connection without a loop.
    assert done.stdout.splitlines()[0].split() == ["airflow"] * 2, done.stdout
