"""The MLflow run of a DAG run: opened by the first task, closed by the last, known to every stage between.

The bodies of two light tasks. They import MLflow only when they run.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from airflow.sdk import Context

from delay_pipeline.failures import ERROR_KEY, one_line_failures
from delay_pipeline.params import read_request

log = logging.getLogger(__name__)


def open_run(context: Context) -> dict[str, Any]:
    """Check everything the user gave, open the MLflow run, and return what every stage needs to know.

    Returns:
        `env`, `overrides`, `run_id` ("" when nothing is logged), `warm_start_run_id`, `resume_run`, `run_url`.

    Raises:
        AirflowFailException: the conf, an environment variable or the configuration is wrong; not retried.
        AirflowException: MLflow does not answer; retried.
    """
    dag_run = context["dag_run"]
    with one_line_failures(context["ti"]):
        from transformer import tracking
        from transformer.config import load_config

        request = read_request(dag_run.conf, os.environ)
        config = load_config(request.env, request.overrides)
        run_id = tracking.open_run(
            config,
            env=request.env,
            overrides=request.overrides,
            tags={"dag_id": dag_run.dag_id, "airflow_run_id": dag_run.run_id},
            run_id=request.run_id,
            warm_start_run_id=request.warm_start_run_id,
            resume=request.resume_run,
        )
        run_url = tracking.run_url(config, run_id) if run_id else ""
    log.info("MLflow run: %s", run_url or "none, training.mlflow.use_mlflow is false")
    return {
        "env": request.env,
        "overrides": request.overrides,
        "run_id": run_id,
        "warm_start_run_id": request.warm_start_run_id,
        "resume_run": request.resume_run,
        "run_url": run_url,
    }


def close_run(run: dict[str, Any] | None, context: Context) -> None:
    """Mark the MLflow run FINISHED, or FAILED with the task that failed and why."""
    if not (run and run["run_id"]):
        log.info("No MLflow run was opened, so there is none to close")
        return
    reason = failure_reason(context)
    with one_line_failures(context["ti"]):
        from transformer import tracking
        from transformer.config import load_config

        tracking.close_run(
            load_config(run["env"], run["overrides"]),
            run["run_id"],
            status="FAILED" if reason else "FINISHED",
            reason=reason,
        )
    log.info("MLflow run %s closed: %s", run["run_id"], reason or "FINISHED")


def failure_reason(context: Context) -> str:
    """`train_model: <its error>` of the first task of this DAG run that did not succeed; "" when all did."""
    ti = context["ti"]
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id])[ti.run_id]
    for task in context["dag"].topological_sort():
        state = states.get(task.task_id)
        if task.task_id != ti.task_id and state != "success":
            error = ti.xcom_pull(task_ids=task.task_id, key=ERROR_KEY)
            return f"{task.task_id}: {error or state or 'did not run'}"
    return ""
