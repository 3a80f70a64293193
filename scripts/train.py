"""Train from nothing: sample data, MLflow, the whole `model_training` DAG, then what came out.

    .venv/bin/python scripts/train.py     # what `make train` runs
    .venv/bin/python scripts/train.py --data FOLDER --set training.max_epochs=5

Runs the same tasks as Airflow's UI does, in front of the user's eyes, and leaves no server running that it started.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

import services
from services import REPOSITORY, CommandError

sys.path.insert(0, str(REPOSITORY))

from transformer.config import Config, load_config
from transformer.errors import UserError

DAG = "model_training"
# A database of its own: the scheduler of `make up` must not take over a run that this command drives.
DATABASE = "train"
LOCAL_HOSTS = ("127.0.0.1", "localhost")
EVENT_FILES = "events/*.parquet"


@dataclass
class DagOutcome:
    """What a finished DAG run left behind."""

    succeeded: bool = False
    failure: str = "the DAG run did not start; the reason is above"
    run_url: str = ""
    table: str = ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", help="environment in include/config; default TRANSFORMER_ENV, else local")
    parser.add_argument("--data", type=Path, help="folder of event tables; default: sample data from the simulator")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    options = parser.parse_args(argv)
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)  # whichever it is, nothing may stay behind
    try:
        train(options.env or os.environ.get("TRANSFORMER_ENV") or "local", options.data, options.overrides)
    except (CommandError, UserError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


def train(env: str, data: Path | None, overrides: list[str]) -> None:
    if data is not None:
        require_data(data)
        overrides = [*overrides, f"data.local_folder={json.dumps(str(data.resolve()))}"]
    config = load_config(env, overrides)

    mlflow: services.Service | None = None
    if config.training.mlflow.use_mlflow and urlsplit(config.training.mlflow.tracking_uri).hostname in LOCAL_HOSTS:
        mlflow = services.mlflow_service(os.environ)
        overrides = [*overrides, f"training.mlflow.tracking_uri=http://{services.HOST}:{mlflow.port}"]
    if data is None:
        ensure_sample_data(config)

    started = mlflow is not None and mlflow.start()
    try:
        outcome = run_dag({"env": env, "overrides": overrides})
    finally:
        if mlflow and started:
            mlflow.stop()
    if not outcome.succeeded:
        raise CommandError(f"{DAG} failed: {outcome.failure}")
    report(outcome, stopped=started)


def require_data(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"DATA={folder} is not a folder; give one with events/*.parquet and op_nodes.parquet")
    if not any(folder.glob(EVENT_FILES)):
        raise UserError(f"DATA={folder} holds no {EVENT_FILES}; give a folder of event tables")


def ensure_sample_data(config: Config) -> None:
    """Simulate the sample network when the configured folder is empty and nothing will fill it."""
    folder = REPOSITORY / config.data.local_folder
    if config.data.download_data_from_s3 or any(folder.glob(EVENT_FILES)):
        return
    print(f"No event tables in {folder}: simulating a network", flush=True)
    command = [sys.executable, "-m", "transformer", "simulate", "--to", str(folder)]
    if subprocess.run(command, cwd=REPOSITORY, check=False).returncode:
        raise CommandError("the simulator failed; the reason is above")


def run_dag(conf: dict[str, Any]) -> DagOutcome:
    """Make the Airflow database and run every task in front of the user's eyes."""
    environment = services.airflow_environment(os.environ, DATABASE)
    airflow = [sys.executable, "-m", "airflow"]
    services.AIRFLOW_HOME.mkdir(exist_ok=True)
    migrate = subprocess.run(
        [*airflow, "db", "migrate"], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if migrate.returncode:
        print(migrate.stdout, migrate.stderr, sep="\n")
        raise CommandError(f"the Airflow database in {services.AIRFLOW_HOME} cannot be made; the reason is above")
    logical_date = datetime.now(UTC)
    process = subprocess.Popen(
        [*airflow, "dags", "test", DAG, logical_date.isoformat(), "--conf", json.dumps(conf)],
        env=environment,
        cwd=REPOSITORY,
        # Ctrl-C ends it from here: Airflow itself would take it for a failed try and start another.
        start_new_session=True,
    )
    try:
        process.wait()
    finally:
        if process.poll() is None:
            services.stop_tree(psutil.Process(process.pid))
    return read_outcome(logical_date, environment)


def read_outcome(logical_date: datetime, environment: dict[str, str]) -> DagOutcome:
    """State, failure and results of a DAG run, from Airflow's database."""
    os.environ.clear()
    os.environ.update(environment)
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        run = session.scalars(select(DagRun).where(DagRun.dag_id == DAG, DagRun.logical_date == logical_date)).first()
        if run is None:
            return DagOutcome()
        tasks = run.get_task_instances(session=session)
        pull = partial(tasks[0].xcom_pull, session=session)
        errors = [
            f"{task.task_id}: {pull(task_ids=task.task_id, key='error') or 'its log is above'}"
            for task in tasks
            if task.state == "failed"
        ]
        opened = pull(task_ids="open_run") or {}
        result = pull(task_ids="evaluate_model", key="result") or {}
        return DagOutcome(run.state == "success", "; ".join(errors), opened.get("run_url", ""), result.get("table", ""))


def report(outcome: DagOutcome, *, stopped: bool) -> None:
    if outcome.table:
        print(f"\n{outcome.table}")
    if outcome.run_url:
        print(f"\nMLflow run  {outcome.run_url}")
    if stopped:
        print("MLflow was started for this training and is stopped again: `make up` opens it, and Airflow.")


if __name__ == "__main__":
    sys.exit(main())
