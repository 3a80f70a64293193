"""
### Search better settings for the delay transformer

Trains the model many times, each time with other values of the keys that `search.space` names
(`include/config/<env>/search.yaml`), and finds those with the least validation error.

#### Steps
- **open_run** checks the conf, the configuration and the search space and opens the study's MLflow run.
- **fetch_files** and **compute_statistics_and_embeddings** prepare what all trials share.
- **tune** runs the trials, one task per worker (a pod each with `compute.backend: kubernetes`).
- **report_study** writes the results into the MLflow run.
- **train_best** starts **model_training** with the winner if asked.
- **close_run** marks the MLflow run FINISHED or FAILED, always.

#### Reads
- Event tables in `data.local_folder`, or the bucket when `data.download_data_from_s3` is on.

#### Writes
- The study: to the SQLite file `paths.optuna_db` (copied to the bucket after every trial when
  `data.save_results_to_s3` is on), or to the PostgreSQL database `search.storage_url`.
- To MLflow: one run for the study with best values, importances and plots, and inside it one run per trial. Each stage
  has a link *MLflow run*, on the task's page under *Details*.

#### Trigger
With the form, or with any of its fields as conf (of `make up`: `AIRFLOW_HOME=$PWD/.airflow .venv/bin/airflow …`):

    airflow dags trigger hyperparameter_tuning --conf '{"n_trials": 30, "study_name": "wider-models"}'

- **Trials** are counted in total: `{"n_trials": 30}` brings a study that has 20 to 30, and one that has 30 gets none.
- **Many workers**: `{"n_workers": 4}` needs `search.storage_url`; its password is `PGPASSWORD` of the worker or pod, or
  that of the Airflow connection `optuna_postgres`.
- **Warm start**: `{"warm_start_run_id": "…"}` alone lets every trial begin with that run's weights.
- **Train the winner**: `{"train_best": true}`, with `model_training` not paused. Else the report prints its conf.
- **See** the study while it runs and afterwards: `.venv/bin/optuna-dashboard sqlite:///data/optuna/studies.db`

#### Rerun and resume
- **Rerun** what failed: clear it, or trigger again. The study goes on where it stood, and its trials are kept.
- **Resume** in the study's own MLflow run: `{"warm_start_run_id": "…", "resume_run": true}`, or `{"run_id": "…"}`.

#### What failing looks like
- **Wrong input** turns `open_run` red at once, with one line that names the value and the remedy.
- **A trial** that fails does not end the study. **A worker** that fails is retried twice. If it still fails, the others
  finish, the report is written, the winner is not trained, and the DAG run and its MLflow run are FAILED.
"""

import os
from datetime import timedelta

from airflow.sdk import TriggerRule, chain, dag, task

from delay_pipeline import runs
from delay_pipeline.alerts import FailureAlert
from delay_pipeline.failures import RETRIES
from delay_pipeline.params import tuning_params
from delay_pipeline.stage import StageOperator
from delay_pipeline.train_best import TrainBestOperator


@dag(
    doc_md=__doc__,
    params=tuning_params(os.environ),
    schedule=None,
    max_active_runs=1,  # two studies at a time would share one GPU or laptop
    tags=["delays", "tuning"],
    default_args={**RETRIES, "execution_timeout": timedelta(hours=2), "on_failure_callback": FailureAlert()},
    on_failure_callback=FailureAlert(),
)
def hyperparameter_tuning():
    @task(multiple_outputs=True, execution_timeout=timedelta(minutes=10))
    def open_run(**context):
        """Check the conf, the configuration and the search space, open the study's MLflow run."""
        return runs.open_study(context)

    @task(execution_timeout=timedelta(minutes=10))
    def list_workers(run):
        """The workers that `tune` is mapped over; Airflow maps over no part of a result."""
        return run["workers"]

    @task(execution_timeout=timedelta(minutes=10))
    def close_run(run, **context):
        """Mark the MLflow run FINISHED, or FAILED with the reason."""
        runs.close_run(run, context)

    run = open_run()
    tune = StageOperator.partial(
        task_id="tune",
        stage="tune",
        mlflow_run=run,
        map_index_template="worker {{ task.worker }}",
        execution_timeout=timedelta(days=7),
    ).expand(worker=list_workers(run))
    report = StageOperator(
        task_id="report_study",
        stage="report-study",
        mlflow_run=run,
        # What the other workers found is worth a report, whoever failed.
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
        pre_execute=runs.skip_unless_tuned,
    )
    train_best = TrainBestOperator(task_id="train_best", mlflow_run=run, execution_timeout=timedelta(minutes=10))
    # A teardown runs whatever happened before it and leaves the DAG run's state to the stages.
    close = close_run(run).as_teardown()
    chain(
        run,
        StageOperator(task_id="fetch_files", stage="fetch-files", mlflow_run=run),
        StageOperator(
            task_id="compute_statistics_and_embeddings",
            stage="compute-statistics-and-embeddings",
            mlflow_run=run,
        ),
        tune,
        report,
        close,
    )
    # Behind both: a failed worker fails the DAG run though its trials were reported.
    chain([tune, report], train_best, close)


hyperparameter_tuning()
