"""The task that starts a training with the values of a study's best trial, if `train_best` is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Context

from delay_pipeline.failures import one_line_failures, skip
from transformer.config import load_config
from transformer.errors import UserError
from transformer.tracking.names import BEST_OVERRIDES, BEST_TRIAL

TRAINING_DAG = "model_training"


class TrainBestOperator(TriggerDagRunOperator):
    """Start `model_training` with the values of a study's best trial. Skipped if `train_best` is false.

    The DAG run of the training is named after this DAG run and the trial. If a retry finds a training of that name, it
    is skipped. Another best trial gets a training of its own.

    Args:
        mlflow_run: result of `open_study` (an XCom reference in a DAG).
    """

    template_fields = (*TriggerDagRunOperator.template_fields, "mlflow_run")

    def __init__(self, *, mlflow_run: Any, **kwargs: Any) -> None:
        super().__init__(
            trigger_dag_id=TRAINING_DAG,
            logical_date=None,  # the training starts now and belongs to no date
            skip_when_already_exists=True,
            openlineage_inject_parent_info=False,  # true adds a key to the conf, and unknown keys are refused
            **kwargs,
        )
        self.mlflow_run = mlflow_run

    def execute(self, context: Context) -> None:
        run = self.mlflow_run
        if not run["train_best"]:
            raise skip(context, "train_best=false: the report says how to train the best trial")
        with one_line_failures(context["ti"]):
            trial, best_overrides = _best(run)
        self.conf = training_conf(run, best_overrides)
        self.trigger_run_id = f"tuning__{context['dag_run'].run_id}__trial_{trial}"
        skip(context, "a training of this name exists")  # if so, Airflow skips the task after this method
        super().execute(context)


def training_conf(run: dict[str, Any], best_overrides: Sequence[str]) -> dict[str, Any]:
    """Return the conf of `model_training` that trains as the best trial did.

    The conf names each param that an environment variable could set, so that no variable changes the training.

    Args:
        run: result of `open_study`.
        best_overrides: `key=value` of each searched key.
    """
    return {
        "env": run["env"],
        "overrides": [*(pair for pair in run["overrides"] if not _is_of_search(pair)), *best_overrides],
        "warm_start_run_id": None if run["resume_run"] else run["warm_start_run_id"],
        "resume_run": False,
    }


def _best(run: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the number of the best trial and its `key=value` pairs, from the tags that `report-study` set."""
    from transformer.tracking.run_log import RunLog

    mlflow = RunLog(load_config(run["env"], run["overrides"]), run["run_id"])
    trial, overrides = mlflow.get_tag(BEST_TRIAL), mlflow.get_json_tag(BEST_OVERRIDES)
    if not (trial and overrides):
        raise UserError(f"MLflow run {run['run_id']} names no best trial; clear report_study, which records it")
    return trial, list(overrides)


def _is_of_search(override: str) -> bool:
    key = override.partition("=")[0].strip().removeprefix("cfg.")
    return key == "search" or key.startswith("search.")
