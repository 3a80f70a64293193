"""The light tasks of a training and a study: open and close the MLflow run of the DAG run, skip tasks, announce models.

The tasks import MLflow only when they run.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow.sdk import Context

from delay_pipeline.failures import one_line_failures, skip
from delay_pipeline.pages import dag_run_page
from delay_pipeline.params import TrainingParams, read_tuning_params
from delay_pipeline.retraining import training_request
from delay_pipeline.schedules import REGISTERED_MODEL
from transformer.config import Config, load_config
from transformer.errors import UserError
from transformer.protocol import ERROR_XCOM, SKIP_XCOM
from transformer.tracking.names import AIRFLOW_PAGE, AIRFLOW_RUN, DAG_ID, TRAINING_REASON
from transformer.tuning.space import read_space

log = logging.getLogger(__name__)

NO_FAILURE = ("success", "skipped")
BY_COMMAND = "dag_test"  # the user of a run that `airflow dags test` started


def open_run(context: Context) -> dict[str, Any]:
    """Check the conf, open the MLflow run, and return the input of every stage.

    Returns:
        `env`, `overrides`, `run_id` ("" = nothing is logged to MLflow), `warm_start_run_id`, `resume_run`, `run_url`.

    Raises:
        AirflowFailException: the conf, an environment variable or the configuration is wrong; not retried.
        AirflowException: MLflow does not answer; retried.
    """
    with one_line_failures(context["ti"]):
        request, reason = training_request(context)
        tags = {TRAINING_REASON: reason} if reason else {}
        return _open(request, load_config(request.env, request.overrides), context, **tags)


def open_study(context: Context) -> dict[str, Any]:
    """Check the conf and the search space of a study, and open the MLflow run that is the parent of its trials' runs.

    Returns:
        As `open_run`, with `workers` (numbers of the study's workers, from 0) and `train_best`.

    Raises:
        AirflowFailException, AirflowException: as `open_run`.
    """
    with one_line_failures(context["ti"]):
        request = read_tuning_params(context["dag_run"].conf, os.environ)
        config = load_config(request.env, request.overrides)
        if request.train_best and not config.training.mlflow.use_mlflow:
            raise UserError(
                "train_best=true reads the best trial from MLflow; set training.mlflow.use_mlflow=true, "
                "or leave train_best out and trigger model_training with the conf that the report prints"
            )
        # Refuses a space that cannot be searched. A resumed study begins with no weights of another run.
        read_space(config, warm_start=bool(request.warm_start_run_id) and not request.resume_run)
        study = config.search.study_name
        run = _open(request, config, context, name=f"study {study}", study_name=study)
    return {**run, "workers": list(range(config.search.n_workers)), "train_best": request.train_best}


def _open(request: TrainingParams, config: Config, context: Context, name: str = "", **tags: str) -> dict[str, Any]:
    from transformer.tracking import runs

    dag_run = context["dag_run"]
    run_id = runs.open_run(
        config,
        env=request.env,
        name=name,
        overrides=request.overrides,
        tags={
            DAG_ID: dag_run.dag_id,
            AIRFLOW_RUN: dag_run.run_id,
            **({AIRFLOW_PAGE: page} if (page := dag_run_page(dag_run.dag_id, dag_run.run_id)) else {}),
            **tags,
        },
        user=_who(dag_run),
        run_id=request.run_id,
        warm_start_run_id=request.warm_start_run_id,
        resume=request.resume_run,
    )
    run_url = runs.run_url(config, run_id) if run_id else ""
    log.info("MLflow run: %s", run_url or "none (training.mlflow.use_mlflow=false)")
    return {
        "env": request.env,
        "overrides": request.overrides,
        "run_id": run_id,
        "warm_start_run_id": request.warm_start_run_id,
        "resume_run": request.resume_run,
        "run_url": run_url,
    }


def _who(dag_run: Any) -> str:
    """Return the person who triggered a DAG run, or "" if nobody did: a schedule, or `airflow dags test`."""
    name = getattr(dag_run, "triggering_user_name", None) or ""
    return "" if name == BY_COMMAND else name


def skip_unless_tracked(context: Context) -> None:
    """Skip the task if nothing is logged to MLflow."""
    if not context["task"].mlflow_run["run_id"]:
        raise skip(context, "nothing is logged to MLflow, so there is no model to register")


def announce_model(context: Context, result: object = None) -> None:  # noqa: ARG001  (Airflow passes it)
    """Add the run id and the configuration of the new model to the asset event that starts `model_evaluation`."""
    run = context["task"].mlflow_run
    model = {"env": run["env"], "overrides": run["overrides"], "run_id": run["run_id"]}
    context["outlet_events"][REGISTERED_MODEL].extra = model


def skip_unless_tuned(context: Context) -> None:
    """Skip the task if no worker of the task `tune` has started.

    A worker that failed may have finished trials, which belong in the report. No trigger rule of Airflow separates
    workers that failed from workers that never ran.
    """
    if not any(state in ("success", "failed") for _, state in _instances("tune", _task_states(context))):
        raise skip(context, "no worker of task tune has started, so there is no trial to report")


def close_run(run: dict[str, Any] | None, context: Context) -> None:
    """Mark the MLflow run FINISHED, or FAILED with the first failed task and its error. Delete pods that are left."""
    if not run:
        log.info("no MLflow run to close: this DAG run opened none")
        return
    reason = failure_reason(context) or stop_reason(context)
    with one_line_failures(context["ti"]):
        config = load_config(run["env"], run["overrides"])
        if config.compute.backend == "kubernetes":
            from delay_pipeline.leftovers import delete_leftovers

            delete_leftovers(config, context["ti"].dag_id, context["ti"].run_id)
        if not run["run_id"]:
            log.info("no MLflow run to close: nothing is logged to MLflow")
            return
        from transformer.tracking import runs

        runs.close_run(config, run["run_id"], status="FAILED" if reason else "FINISHED", reason=reason)
    log.info("MLflow run %s closed: %s", run["run_id"], reason or "FINISHED")


def check_stages(context: Context) -> None:
    """Fail if somebody ended the DAG run by hand before its stages ended.

    Airflow then skips the tasks that wait, for example for a retry. Skipped tasks alone make a DAG run a success.

    Raises:
        AirflowFailException: names the first skipped task; not retried.
    """
    with one_line_failures(context["ti"]):
        if reason := stop_reason(context):
            raise UserError(reason)


def failure_reason(context: Context) -> str:
    """Return the first failed task of this DAG run and its error, for example `train_model: <error>`.

    The result is "" if no task failed. A skipped task has not failed. A mapped task is named with its index, as in
    `tune[1]`. Teardowns are ignored: one of them calls this while it runs.
    """
    for name, task_id, index, state in _stages(context):
        if state not in NO_FAILURE:
            error = context["ti"].xcom_pull(task_ids=task_id, key=ERROR_XCOM, map_indexes=index)
            return f"{name}: {error or state or 'did not run'}"
    return ""


def stop_reason(context: Context) -> str:
    """Return the first task that was skipped although it did not skip itself; "" = there is none.

    A person does that to one task, or Airflow to all tasks that wait when a person ends the DAG run. If the last stage
    failed, the result is "", since it decides the state of the DAG run.
    """
    stages = list(_stages(context))
    if stages[-1][-1] in ("failed", "upstream_failed"):
        return ""
    for name, task_id, index, state in stages:
        if state == "skipped" and not context["ti"].xcom_pull(task_ids=task_id, key=SKIP_XCOM, map_indexes=index):
            return f"{name}: skipped by hand, alone or with the whole DAG run; clear it to go on"
    return ""


def _stages(context: Context) -> Iterator[tuple[str, str, int, str | None]]:
    """Yield name, task id, map index (-1 = not mapped) and state of each task instance except teardowns, in order."""
    states = _task_states(context)
    for task in context["dag"].topological_sort():
        if task.is_teardown:
            continue
        for index, state in _instances(task.task_id, states):
            yield (task.task_id if index < 0 else f"{task.task_id}[{index}]"), task.task_id, index, state


def _task_states(context: Context) -> Mapping[str, str | None]:
    ti = context["ti"]
    return ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id])[ti.run_id]


def _instances(task_id: str, states: Mapping[str, str | None]) -> Iterator[tuple[int, str | None]]:
    """Yield map index (-1 = not mapped) and state of each instance of a task.

    In `states`, the key of a mapped instance is `<task_id>_<index>`.
    """
    indexes = sorted(int(key[len(task_id) + 1 :]) for key in states if re.fullmatch(rf"{re.escape(task_id)}_\d+", key))
    if task_id in states or not indexes:
        yield -1, states.get(task_id)
    for index in indexes:
        yield index, states[f"{task_id}_{index}"]
