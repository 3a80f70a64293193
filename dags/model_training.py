"""
### Train the delay transformer

Predicts, for every train running at one instant, how late it will be at each of its next stops.

`open_run` checks the conf and the configuration and opens the MLflow run; then `fetch_files`,
`compute_statistics_and_embeddings`, `train_model`, `evaluate_model` and `register_model` each run
`python -m transformer <stage>`, beside the worker or in a pod (`compute.backend`); `close_run` marks the MLflow run
FINISHED or FAILED, always.

**Reads** event tables in `data.local_folder`, or the bucket when `data.download_data_from_s3` is on.
**Writes** statistics and embeddings to `paths.cache` (reused under a content hash), checkpoints and reports to
`paths.runs`, and everything worth comparing to MLflow: button *MLflow run* on every stage, *Report* on
`evaluate_model`. The model becomes a version of the registered model, its *challenger*; `model_evaluation` judges it.

**Trigger** with the form, or with any of its fields as conf:

    airflow dags trigger model_training --conf '{"env": "local", "overrides": ["training.max_epochs=5"]}'

- **Rerun** a failed stage: clear it. The stages before it are kept, and it logs into the same MLflow run.
- **Warm start**: `{"warm_start_run_id": "…"}` begins a new run with that run's weights.
- **Resume**: `{"warm_start_run_id": "…", "resume_run": true}` continues that run itself, optimizer and epoch too.
- **Log into an existing run**: `{"run_id": "…"}`.

**Failing** looks like this: wrong input turns `open_run` (or the stage that found it) red at once, with one line that
names the value and the remedy, and is not retried; anything else is retried twice with growing pauses. The MLflow run
is then FAILED, with the task and its last error line as the reason.
"""

import os
from datetime import timedelta

from airflow.sdk import chain, dag, task

from delay_pipeline import runs
from delay_pipeline.alerts import FailureAlert
from delay_pipeline.failures import RETRIES
from delay_pipeline.params import training_params
from delay_pipeline.schedules import REGISTERED_MODEL
from delay_pipeline.stage import EvaluateModelOperator, StageOperator


@dag(
    doc_md=__doc__,
    params=training_params(os.environ),
    schedule=None,
    max_active_runs=1,  # one training at a time fills a GPU or a laptop
    tags=["delays", "training"],
    default_args={**RETRIES, "execution_timeout": timedelta(hours=2), "on_failure_callback": FailureAlert()},
    on_failure_callback=FailureAlert(),
)
def model_training():
    @task(multiple_outputs=True, execution_timeout=timedelta(minutes=10))
    def open_run(**context):
        """Check the conf and the configuration, open the MLflow run."""
        return runs.open_run(context)

    @task(execution_timeout=timedelta(minutes=10))
    def close_run(run, **context):
        """Mark the MLflow run FINISHED, or FAILED with the reason."""
        runs.close_run(run, context)

    run = open_run()
    chain(
        run,
        StageOperator(task_id="fetch_files", stage="fetch-files", mlflow_run=run),
        StageOperator(
            task_id="compute_statistics_and_embeddings",
            stage="compute-statistics-and-embeddings",
            mlflow_run=run,
        ),
        StageOperator(
            task_id="train_model",
            stage="train-model",
            mlflow_run=run,
            execution_timeout=timedelta(days=2),
        ),
        EvaluateModelOperator(task_id="evaluate_model", mlflow_run=run),
        StageOperator(
            task_id="register_model",
            stage="register-model",
            mlflow_run=run,
            pre_execute=runs.skip_unless_tracked,
            post_execute=runs.announce_model,
            outlets=[REGISTERED_MODEL],
        ),
        # A teardown runs whatever happened before it and leaves the DAG run's state to the stages.
        close_run(run).as_teardown(),
    )


model_training()
