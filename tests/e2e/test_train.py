"""`make train`: the whole DAG with the real stages against a real MLflow server, and how it fails."""

import json
import re
import socket
import sqlite3
import subprocess
import sys
from datetime import date, timedelta

import pytest

from tests.support.airflow import migrated_database
from tests.transformer.data.sources.layouts import RideLayout, journey

SMALL = [
    "training.max_epochs=1",
    "training.snapshots_per_epoch=16",
    "data.grid.step_s=7200",
    "model.d_model=16",
    "model.n_heads=2",
    "model.n_layers=1",
]
OVERRIDES = [word for override in SMALL for word in ("--set", override)]


def runs(clone):
    """(status, tags) of every run in the clone's MLflow."""
    with sqlite3.connect(clone.folder / "data" / "mlflow" / "mlflow.db") as database:
        rows = database.execute("select run_uuid, status from runs").fetchall()
        tags = "select key, value from tags where run_uuid = ?"
        return [(status, dict(database.execute(tags, [run]).fetchall())) for run, status in rows]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], "DATA=nowhere .*; name one with events/.*op_nodes"),
        (["--data", "scripts"], r"DATA=scripts .*events/\*\.parquet; name a folder"),
        (["--set", "training.max_epoch=1"], r"did you mean 'training\.max_epochs'"),
        (["--env", "locl"], "environment 'locl'"),
        (["--months", "2024-01"], "--months needs SOURCE"),
        (["--source", "ride"], "--months or --dates is missing"),
        (["--source", "rde", "--months", "2024-01"], "source 'rde' is unknown; choose one of ride"),
    ],
)
def test_wrong_input_is_one_line_before_anything_starts(clone, arguments, words):
    done = clone.run("train.py", *arguments)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.endswith("failed; the reason is above")]
    assert len(said) == 1
    assert re.search(words, said[0])
    assert not (clone.folder / ".airflow").exists()


def test_a_taken_mlflow_port_is_one_line(clone, tiny_data):
    with socket.socket() as server:
        server.bind(("127.0.0.1", clone.mlflow_port))
        server.listen()
        done = clone.run("train.py", "--data", str(tiny_data))
    assert done.returncode == 2
    assert f"error: port {clone.mlflow_port} for MLflow is taken by " in done.stderr


@pytest.mark.slow
def test_training_whole(clone, tiny_data):
    done = clone.run("train.py", "--data", str(tiny_data), *OVERRIDES)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    last = done.stdout[done.stdout.rindex("MLflow run  ") :]
    server = f"http://127.0.0.1:{clone.mlflow_port}"
    assert re.match(rf"MLflow run  {server}/#/experiments/\d+/runs/\w+\?workflowType=machine_learning\n", last)
    assert re.search("MLflow .*this training.*`make up`", last)
    assert "translation" in done.stdout
    assert "task_id=fetch_files" in done.stdout  # the only lines of Airflow say where a task begins
    assert not re.search(r"\[info|loc=|Pushing xcom|::group", done.stdout)
    ((status, tags),) = runs(clone)
    assert status == "FINISHED"
    assert tags["dag_id"] == "model_training"
    assert tags["airflow_run_id"].startswith("manual__")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", clone.mlflow_port)) != 0


@pytest.mark.slow
def test_a_stage_that_refuses_its_data_is_one_line(clone, tiny_data):
    done = clone.with_databases().run(
        "train.py", "--data", str(tiny_data), *OVERRIDES, "--set", "data.split.test=[2025-01-10]"
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: model_training failed: ")]
    assert "fetch_files: " in line
    assert "data.split.train is empty" in line
    ((status, tags),) = runs(clone)
    assert status == "FAILED"
    assert tags["failure_reason"].startswith("fetch_files: ")


@pytest.mark.slow
def test_training_on_a_public_source(clone, tmp_path):
    """RIDE's files in a folder, imported and trained on in one command. The split of so few trains is named."""
    days = [date(2025, 1, 6) + timedelta(days=number) for number in range(4)]
    calls = [
        call for day in days for train in range(30) for call in journey(day, f"{day} {6 + train // 3:02d}:00", train)
    ]
    RideLayout().write(tmp_path / "silver", calls)
    split = [f"data.split.{name}={json.dumps(list(map(str, dates)))}" for name, dates in (
        ("train", days[:2]), ("validation", days[2:3]), ("test", days[3:]),
    )]  # fmt: skip
    own = [word for setting in (*SMALL, *split, "training.mlflow.use_mlflow=false") for word in ("--set", setting)]
    done = clone.with_databases().run("train.py", "--source", "ride", "--from", str(tmp_path / "silver"), *own)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "licence of RIDE" in done.stdout
    assert "points: 4, 4 of them with a position" in done.stdout
    assert "translation" in done.stdout
    assert (clone.folder / "data" / "ride" / "sources.json").is_file()


@pytest.mark.slow
def test_airflow_dags_test_without_mlflow(clone, tiny_data):
    """The plain Airflow command, from another folder, with only the folders configured."""
    environment = clone.environment | {
        "AIRFLOW_HOME": str(clone.folder / "home"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(clone.folder / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(clone.folder / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{clone.folder}/home/airflow.db",
    }
    overrides = [*SMALL, f"data.local_folder={tiny_data}", "training.mlflow.use_mlflow=false"]

    def airflow(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            cwd=clone.folder.parent,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    migrated_database(clone.folder / "home")
    assert "No data found" in airflow("dags", "list-import-errors").stdout
    done = airflow("dags", "test", "model_training", "--conf", json.dumps({"env": "local", "overrides": overrides}))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "no MLflow run to close" in done.stdout
