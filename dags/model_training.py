"""
### Train the delay transformer

Predicts, for every train running at one instant, how late it will be at each of its next stops.

#### Steps
- **open_run** checks the conf and the configuration and opens the MLflow run.
- **fetch_files** brings the event tables and checks them.
- **compute_statistics_and_embeddings** does so over the training dates, or finds them done.
- **train_model** trains, with a checkpoint after every epoch.
- **evaluate_model** predicts the test dates, beside translation, and writes the report.
- **register_model** makes the model a version in the registry.
- **close_run** marks the MLflow run FINISHED or FAILED, always.

Each stage runs beside the worker or in a pod: `compute.backend`.

#### Reads
- Event tables in `data.local_folder`, or the bucket when `data.download_data_from_s3` is on.

#### Writes
- To `paths.cache`: statistics and embeddings, reused under a content hash.
- To `paths.runs`: checkpoints and reports.
- To MLflow: everything worth comparing. Each stage has a link *MLflow run*, `evaluate_model` a link *Report*, on the
  task's page under *Details*.
- To the model registry: the model as *challenger*, which `model_evaluation` judges.

#### Trigger
With the form, or with any of its fields as conf (of `make up`: `AIRFLOW_HOME=$PWD/.airflow .venv/bin/airflow …`):

    airflow dags trigger model_training --conf '{"env": "local", "overrides": ["training.max_epochs=5"]}'

#### Rerun and resume
- **Rerun** a failed stage: clear it. The stages before it are kept, and it logs into the same MLflow run.
- **Warm start**: `{"warm_start_run_id": "…"}` begins a new run with that run's weights.
- **Resume**: `{"warm_start_run_id": "…", "resume_run": true}` continues that run itself, optimizer and epoch too.
- **Log into an existing run**: `{"run_id": "…"}`.

#### What failing looks like
- **Wrong input** turns `open_run`, or the stage that found it, red at once, with one line that names the value and the
  remedy. It is not retried.
- **Anything else** is retried twice with growing pauses.
- The MLflow run is then FAILED, with the task and its last error line as the reason.
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
