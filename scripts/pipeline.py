"""Run a whole DAG in one command: make sample data, start MLflow, run every task, and print the results.

`train.py` and `tune.py` share this module.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

import services
from services import EVENT_FILES, REPOSITORY, CommandError
from transformer.config import load_config
from transformer.errors import UserError
from transformer.protocol import ENV_VARIABLE, ERROR_XCOM, RESULT_XCOM

AIRFLOW = (sys.executable, "-m", "airflow")
LOCAL_HOSTS = ("127.0.0.1", "localhost")
# Settings for a log in the terminal: the lines of the tasks, and of Airflow only the begin and end of each task.
READABLE_LOG = {
    "AIRFLOW__LOGGING__LOG_FORMAT": "%(message)s",
    "AIRFLOW__LOGGING__CALLSITE_PARAMETERS": "",
    "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow=WARNING airflow.sdk.definitions.dag=INFO airflow.task=INFO "
    "task=WARNING py.warnings=ERROR",
}


@dataclass(frozen=True)
class Pipeline:
    """A DAG that one command runs whole.

    Attributes:
        product: one word for a run of the DAG, for messages.
        env: environment if neither the user nor TRANSFORMER_ENV names one.
        result_task: task whose result holds the table to print.
        database: name of the Airflow database of this command. It is not the database of `make up`, whose scheduler
            would take over the DAG run.
    """

    dag: str
    product: str
    env: str
    result_task: str
    database: str


@dataclass
class DagOutcome:
    """State and results of a finished DAG run."""

    succeeded: bool = False
    failure: str = "the DAG run did not start; the reason is above"
    run_url: str = ""
    table: str = ""


def options_parser(description: str, pipeline: Pipeline) -> argparse.ArgumentParser:
    """Return a parser with the options that all pipelines share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--env",
        default=os.environ.get(ENV_VARIABLE) or pipeline.env,
        help=f"environment in include/config; default: {ENV_VARIABLE} or, if that is unset, {pipeline.env}",
    )
    parser.add_argument("--data", type=Path, help="folder of event tables; default: sample data from the simulator")
    parser.add_argument(
        "--source", help="public source to import into data/SOURCE first, see `python -m transformer import --list`"
    )
    period = parser.add_mutually_exclusive_group()
    period.add_argument("--months", help="months to import, such as 2024-01 or 2024-01..2024-03")
    period.add_argument("--dates", help="service dates to import, such as 2024-01-06..2024-01-12")
    parser.add_argument(
        "--from", type=Path, dest="folder", help="import the source's files of this folder, and download none"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one key of the configuration; may be repeated",
    )
    return parser


def exit_status(command: Callable[[], None]) -> int:
    """Run a command and return its exit status. An error that the user must correct is printed as one line."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)  # so that every signal stops the servers and processes
    try:
        command()
    except (CommandError, UserError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


def run_whole(
    pipeline: Pipeline,
    env: str,
    data: Path | None,
    overrides: Sequence[str],
    conf: Mapping[str, Any] | None = None,
    hints: Sequence[str] = (),
) -> None:
    """Start MLflow, run the DAG, and print its table and the address of its MLflow run.

    Args:
        data: folder of event tables; None = sample data.
        conf: further params of the DAG run, in addition to `env` and `overrides`.
        hints: lines to print below the address of the MLflow run.

    Raises:
        UserError, CommandError: the input is wrong, a server does not start, or the DAG run failed.
    """
    if data is not None:
        require_data(data)
        overrides = [*overrides, f"data.local_folder={json.dumps(str(data.resolve()))}"]
    config = load_config(env, overrides)

    mlflow: services.Service | None = None
    if config.training.mlflow.use_mlflow and urlsplit(config.training.mlflow.tracking_uri).hostname in LOCAL_HOSTS:
        mlflow = services.mlflow_service(os.environ)
        overrides = [*overrides, f"training.mlflow.tracking_uri=http://{services.HOST}:{mlflow.port}"]
    if data is None:
        services.ensure_sample_data(config)

    started = mlflow is not None and mlflow.start()
    try:
        outcome = run_dag(pipeline, {"env": env, "overrides": [*overrides], **(conf or {})})
    finally:
        if mlflow and started:
            mlflow.stop()
    if outcome.table:  # a study has a table even if a worker failed
        print(f"\n{outcome.table}")
    if not outcome.succeeded:
        raise CommandError(f"{pipeline.dag} failed: {outcome.failure}")
    if outcome.run_url:
        print(f"\nMLflow run  {outcome.run_url}")
    for hint in hints:
        print(hint)
    if started:
        print(f"MLflow ran for this {pipeline.product} only. To see its page, start MLflow and Airflow with `make up`.")


def import_missing(options: argparse.Namespace) -> tuple[Path | None, list[str]]:
    """Import what the folder of a source lacks. Return the folder of event tables, and overrides for its railway.

    Without a source, nothing is imported.

    Raises:
        UserError, CommandError: the options contradict each other, or the import failed.
    """
    asked = {
        "--months": options.months,
        "--dates": options.dates,
        "--from": options.folder and options.folder.resolve(),  # the import runs in the repository
    }
    if options.source is None:
        if given := [name for name, value in asked.items() if value]:
            raise UserError(f"{given[0]} needs SOURCE; name one, for example SOURCE=ride")
        return options.data, options.overrides
    from transformer.data.sources.attribution import read_attribution  # loads Polars, which few trainings need here

    folder = (options.data or REPOSITORY / "data" / options.source).resolve()
    if any(asked.values()) or not any(folder.glob(EVENT_FILES)):
        command = [sys.executable, "-m", "transformer", "import", options.source, "--to", str(folder), "--missing"]
        command += [word for name, value in asked.items() if value for word in (name, str(value))]
        if subprocess.run(command, cwd=REPOSITORY, check=False).returncode:
            raise CommandError(f"the import of {options.source} failed; the reason is above")
    zone = read_attribution(folder).get(options.source, {}).get("timezone")
    return folder, [*([f"data.timezone={zone}"] if zone else []), *options.overrides]


def require_data(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"DATA={folder} is not a folder; name one with events/*.parquet and op_nodes.parquet")
    if not any(folder.glob(EVENT_FILES)):
        raise UserError(f"DATA={folder} holds no {EVENT_FILES}; name a folder of event tables")


def run_dag(pipeline: Pipeline, conf: Mapping[str, Any]) -> DagOutcome:
    """Make the Airflow database, run every task of the DAG, and print the logs of the tasks."""
    environment = services.airflow_environment(os.environ, pipeline.database) | READABLE_LOG
    ensure_database(services.AIRFLOW_HOME / f"{pipeline.database}.db", environment)
    logical_date = datetime.now(UTC)
    process = subprocess.Popen(
        [*AIRFLOW, "dags", "test", pipeline.dag, logical_date.isoformat(), "--conf", json.dumps(conf)],
        env=environment,
        cwd=REPOSITORY,
        # Ctrl-C must not reach Airflow, which would take it for a failed try and retry the task. This process stops
        # Airflow instead.
        start_new_session=True,
    )
    try:
        process.wait()
    finally:
        if process.poll() is None:
            services.stop_tree(psutil.Process(process.pid))
    return read_outcome(pipeline, logical_date, environment)


def ensure_database(database: Path, environment: Mapping[str, str]) -> None:
    """Make Airflow's tables, unless this version of Airflow has made them. A file next to the database says which.

    Raises:
        CommandError: Airflow cannot make them.
    """
    kept, installed = version_file(database), version("apache-airflow-core")
    if database.is_file() and kept.is_file() and kept.read_text(encoding="utf-8") == installed:
        return
    database.parent.mkdir(exist_ok=True)
    kept.unlink(missing_ok=True)
    migrate = subprocess.run(
        [*AIRFLOW, "db", "migrate"],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if migrate.returncode:
        print(migrate.stdout, migrate.stderr, sep="\n")
        raise CommandError(f"the Airflow database {database} cannot be made; the reason is above")
    kept.write_text(installed, encoding="utf-8")


def version_file(database: Path) -> Path:
    """The file with the version of Airflow that made the tables of a database."""
    return database.with_suffix(".version")


def read_outcome(pipeline: Pipeline, logical_date: datetime, environment: Mapping[str, str]) -> DagOutcome:
    """Return state, failures and results of a DAG run, from Airflow's database."""
    os.environ.clear()
    os.environ.update(environment)
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        wanted = select(DagRun).where(DagRun.dag_id == pipeline.dag, DagRun.logical_date == logical_date)
        run = session.scalars(wanted).first()
        if run is None:
            return DagOutcome()
        tasks = run.get_task_instances(session=session)
        pull = partial(tasks[0].xcom_pull, map_indexes=-1, session=session)
        errors = []
        for task in tasks:
            if task.state == "failed":
                name = task.task_id if task.map_index < 0 else f"{task.task_id}[{task.map_index}]"
                error = pull(task_ids=task.task_id, key=ERROR_XCOM, map_indexes=task.map_index)
                errors.append(f"{name}: {error or 'its log is above'}")
        opened = pull(task_ids="open_run") or {}
        result = pull(task_ids=pipeline.result_task, key=RESULT_XCOM) or {}
        return DagOutcome(run.state == "success", "; ".join(errors), opened.get("run_url", ""), result.get("table", ""))
