"""The training that a study's winner gets, when the study was asked to start it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from delay_pipeline.failures import one_line_failures
from transformer.config import load_config
from transformer.errors import UserError

TRAINING_DAG = "model_training"


class TrainBestOperator(TriggerDagRunOperator):
    """Start `model_training` with the values of a study's best trial; skipped unless `train_best` asked for it.

    The training's DAG run is named after this one and the trial. So a retry, or a second run of this task, finds the
    training it started before and is skipped; only another best trial gets a training of its own.

    Args:
        mlflow_run: what `open_study` returned (an XCom reference in a DAG).
    """

    template_fields = (*TriggerDagRunOperator.template_fields, "mlflow_run")

    def __init__(self, *, mlflow_run: Any, **kwargs: Any) -> None:
        super().__init__(
            trigger_dag_id=TRAINING_DAG,
            logical_date=None,  # it starts now and stands for no date
            skip_when_already_exists=True,
            openlineage_inject_parent_info=False,  # it would add a key to the conf, and unknown keys are refused
            **kwargs,
        )
        self.mlflow_run = mlflow_run

    def execute(self, context: Context) -> None:
        run = self.mlflow_run
        if not run["train_best"]:
            raise AirflowSkipException("train_best is false: the report says how to train the best trial")
        with one_line_failures(context["ti"]):
            trial, best_overrides = _best(run)
        self.conf = training_conf(run, best_overrides)
        self.trigger_run_id = f"tuning__{context['dag_run'].run_id}__trial_{trial}"
        super().execute(context)


def training_conf(run: dict[str, Any], best_overrides: Sequence[str]) -> dict[str, Any]:
    """Conf of `model_training` that trains as the best trial did: same start, and no say for the environment variables.

    Args:
        run: what `open_study` returned.
        best_overrides: `key=value` of each searched key.
    """
    return {
        "env": run["env"],
        "overrides": [*(pair for pair in run["overrides"] if not _is_of_search(pair)), *best_overrides],
        "warm_start_run_id": None if run["resume_run"] else run["warm_start_run_id"],
        "resume_run": False,
    }


def _best(run: dict[str, Any]) -> tuple[str, list[str]]:
    """Number of the best trial and its `key=value` pairs, from the tags that `report-study` left on the MLflow run."""
    from transformer.tracking.run_log import RunLog

    mlflow = RunLog(load_config(run["env"], run["overrides"]), run["run_id"])
    trial, overrides = mlflow.get_tag("best_trial"), mlflow.get_tag("best_overrides")
    if not (trial and overrides):
        raise UserError(f"MLflow run {run['run_id']} names no best trial; clear report_study, which writes it there")
    return trial, json.loads(overrides)


def _is_of_search(override: str) -> bool:
    key = override.partition("=")[0].strip().removeprefix("cfg.")
    return key == "search" or key.startswith("search.")
