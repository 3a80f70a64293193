"""
### Evaluate trained models, and promote the better one

Predicts the service dates of a window with a trained model, beside translation and the registered champion, and decides
whether the challenger becomes champion.

#### Steps
- **open_evaluation** checks the conf and the configuration and chooses the models.
- **evaluate_model** evaluates each of them, beside the worker or in a pod, from what its own MLflow run keeps.
- **decide** gathers what was found.
- **approve** asks a person where `evaluation.gate.ask_for_approval` says so.
- **promote** changes the registry.

#### Reads
- Event tables in `data.local_folder` or the bucket, and the models in MLflow.

#### Writes
- Into the MLflow run of each model: metrics `window/FIRST..LAST/…`, artifacts `evaluation/FIRST..LAST/` with a report
  (links *MLflow run* and *Report* on the task's page under *Details*), tags with the outcome.
- Into the registry: aliases and tags of its versions.

#### Trigger
It runs whenever `model_training` has registered a model, at `evaluation.schedule.cron` of the environment that
`TRANSFORMER_ENV` names, and by hand: with the form, or with any of its
fields as conf (of `make up`: `AIRFLOW_HOME=$PWD/.airflow .venv/bin/airflow …`):

    airflow dags trigger model_evaluation --conf '{"warm_start_run_id": "…", "window_dates": 7}'

- **Which model**: `warm_start_run_id` names any trained run. Without it: champion, and challenger if there is one.
- **Which dates**: `window_first` and `window_last`, or `window_dates`, the last so many that have data and are over.
- **By hand**: `python -m transformer promote` and `rollback` overrule the gate.

#### Rerun and resume
- **Rerun** a failed task: clear it, no more is needed. There is nothing to resume: an evaluation begins anew.
- **Again**: `{"again": true}` evaluates a window that has results.

#### What failing looks like
- **Wrong input**, an unknown run, data that are too old or dates that trained the model turn a task red with one line
  that names the value and the remedy. It is not retried.
- **No newer dates**: a scheduled run keeps the results there are and says so in the log of `evaluate_model`.
- After a failed evaluation nothing is promoted.
"""

import os
from datetime import timedelta

from airflow.sdk import TriggerRule, chain, dag, task

from delay_pipeline import evaluations
from delay_pipeline.alerts import DegradationAlert, FailureAlert
from delay_pipeline.failures import RETRIES
from delay_pipeline.params import evaluation_params
from delay_pipeline.schedules import evaluation_schedule
from delay_pipeline.stage import EvaluateModelOperator


@dag(
    doc_md=__doc__,
    params=evaluation_params(os.environ),
    schedule=evaluation_schedule(os.environ),
    catchup=False,
    max_active_runs=1,  # one decision about the champion at a time
    tags=["delays", "evaluation"],
    default_args={**RETRIES, "execution_timeout": timedelta(hours=2), "on_failure_callback": FailureAlert()},
    on_failure_callback=FailureAlert(),
)
def model_evaluation():
    @task(multiple_outputs=True, execution_timeout=timedelta(minutes=10))
    def open_evaluation(**context):
        """Check the conf and the configuration, choose the models to evaluate."""
        return evaluations.open_evaluation(context)

    @task(execution_timeout=timedelta(minutes=10))
    def list_models(opened):
        """The models that `evaluate_model` is mapped over; Airflow maps over no part of a result."""
        return opened["models"]

    # What one evaluation found counts, whoever else failed.
    @task(
        execution_timeout=timedelta(minutes=10),
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
        on_success_callback=DegradationAlert(),
    )
    def decide(opened, **context):
        """Gather what was found, decline a challenger that is not better."""
        return evaluations.decide(opened, context)

    # Behind the evaluations too: a failed one fails the DAG run, and nothing is promoted.
    @task(execution_timeout=timedelta(minutes=10), trigger_rule=TriggerRule.NONE_FAILED)
    def promote(opened, decision, **context):
        """Make the challenger champion, if the gate and the person who was asked say so."""
        return evaluations.promote(opened, decision, context)

    opened = open_evaluation()
    evaluate = EvaluateModelOperator.partial(
        task_id="evaluate_model", map_index_template="{{ task.mlflow_run['model'] }}"
    ).expand(mlflow_run=list_models(opened))
    decision = decide(opened)
    approve = evaluations.ApprovePromotion(
        task_id="approve",
        opened=opened,
        decision=decision,
        response_timeout=timedelta(days=7),
        execution_timeout=None,
        retries=0,
    )
    promoted = promote(opened, decision)
    chain(evaluate, decision, approve, promoted)
    chain(evaluate, promoted)


model_evaluation()
