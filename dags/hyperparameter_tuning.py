"""
### Search better settings for the delay transformer

Runs a *study*: it trains the model many times, each time with other values of some configuration keys. A single
training is a *trial*. The study looks for the values with the lowest validation error. The *search space* lists the
searched keys and their ranges: `search.space` in `include/config/base/search.yaml`, unless the environment replaces it.
The default environment is `optuna`: it makes trials shorter than a training, and keeps that search space.

#### Steps
- **open_run** checks the conf, the configuration and the search space, and opens the MLflow run of the study.
- **fetch_files** and **compute_statistics_and_embeddings** prepare the data that all trials share.
- **tune** runs the trials. Airflow maps it over the workers: one task per worker, in a pod if
  `compute.backend: kubernetes`.
- **report_study** writes the results into the MLflow run.
- **train_best** starts the DAG `model_training` with the winner's values, if the conf asks for it.
- **close_run** always runs. It marks the MLflow run FINISHED or FAILED.
- **check_stages** always runs. It fails if somebody ended the DAG run by hand before its stages ended.

The *stages* are `fetch_files`, `compute_statistics_and_embeddings`, `tune` and `report_study`.

#### Reads
- Event tables in the folder `data.local_folder`, or in the bucket if `data.download_data_from_s3` is on.

#### Writes
- The study: into the PostgreSQL database `search.storage_url`. If that key is empty, which is the default: into the
  SQLite file `paths.optuna_db`, by default `data/optuna/studies.db`. If `data.save_results_to_s3` is on, the SQLite
  file is copied to the bucket after every trial.
- MLflow: one run for the study, with best values, importances and plots, and one nested run per trial. Each stage links
  its *MLflow run*, on the task's page under *Details*.

#### Trigger
Use the form, or pass any of its fields as conf. After `make up`, `airflow` is
`AIRFLOW_HOME=$PWD/.airflow .venv/bin/airflow`.

    airflow dags trigger hyperparameter_tuning --conf '{"n_trials": 30, "study_name": "wider-models"}'

- **Which study**: `study_name`; if empty, `search.study_name` (`train-delays`). A name that exists continues that
  study, a new name begins a new one.
- **Trials**: `n_trials` is the total of the study; if empty, `search.n_trials` (20, in `prod` 40). With
  `{"n_trials": 30}`, a study with 20 trials gets 10 more, and a study with 30 gets none.
- **Many workers**: `{"n_workers": 4}` needs `search.storage_url`. `docs/tuning.md` says where the password comes from.
- **Warm start**: with `{"warm_start_run_id": "…"}`, and `resume_run` off, every trial begins with the weights of that
  run. The search space must then leave the size and the inputs of the model as they are. The default one does not:
  override `search.space`.
- **Train the winner**: `{"train_best": true}` starts `model_training`, which must not be paused. With `false`, the
  report prints the conf of that training.
- **Watch** a study in SQLite, during the run or later: `.venv/bin/optuna-dashboard sqlite:///data/optuna/studies.db`

#### Rerun and resume
- **Rerun** a failed task: clear it with *Downstream*, the default, or trigger the DAG again. Either way the study keeps
  its trials and continues: its name decides, and not the MLflow run.
- **Resume**: a new trigger opens a new MLflow run. To log into the earlier run of the study, pass `{"run_id": "…"}`.
  `{"warm_start_run_id": "…", "resume_run": true}` does the same, as in `model_training`.

#### How failures look
- **Wrong input**: `open_run` fails at once, with one line that names the value and the remedy.
- **A failed trial** does not end the study.
- **A failed worker** is retried twice. If it still fails, the other workers finish and `report_study` writes the
  report. Then `train_best` does not run, and the DAG run and the MLflow run are FAILED.

#### Triage
- **Impact**: low. A study changes no registered model. Only `train_best` starts another DAG, `model_training`, which
  registers a challenger.
- **Normal**: some failed or pruned trials; a retried worker after a lost pod.
- **Look first** at the last line of the failed task's log. Find that line in `docs/operate.md`, which has the remedy.
- **Call** the addressees of the configuration group `alerts`: `python -m transformer config --env prod` prints them,
  for the environment `prod`. If the group names nobody, call the DAG's owner.
"""

import os

from airflow.sdk import TriggerRule, chain, dag, task
from pendulum import duration

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
    default_args={
        "owner": "train-delays",  # the team to call: Triage, above
        **RETRIES,
        "execution_timeout": duration(hours=2),
        "on_failure_callback": FailureAlert(),
    },
    on_failure_callback=FailureAlert(),
)
def hyperparameter_tuning():
    @task(multiple_outputs=True, execution_timeout=duration(minutes=10))
    def open_run(**context):
        """Check the conf, the configuration and the search space, and open the study's MLflow run."""
        return runs.open_study(context)

    @task(execution_timeout=duration(minutes=10))
    def list_workers(run):
        """Return the workers, for `tune` to be mapped over: Airflow cannot map over a part of a result."""
        return run["workers"]

    @task(execution_timeout=duration(minutes=10))
    def close_run(run, **context):
        """Mark the MLflow run FINISHED, or FAILED with the reason."""
        runs.close_run(run, context)

    @task(execution_timeout=duration(minutes=10))
    def check_stages(**context):
        """Fail the DAG run if somebody ended it before its stages ended."""
        runs.check_stages(context)

    run = open_run()
    tune = StageOperator.partial(
        task_id="tune",
        stage="tune",
        mlflow_run=run,
        map_index_template="worker {{ task.worker }}",
        execution_timeout=duration(days=7),
    ).expand(worker=list_workers(run))
    report = StageOperator(
        task_id="report_study",
        stage="report-study",
        mlflow_run=run,
        # The trials of the other workers are worth a report although one worker failed.
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
        pre_execute=runs.skip_unless_tuned,
    )
    train_best = TrainBestOperator(task_id="train_best", mlflow_run=run, execution_timeout=duration(minutes=10))
    close = close_run(run).as_teardown()  # always runs; `check_stages` fails the DAG run if a stage was skipped
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
    # `train_best` follows both: a failed worker must fail the DAG run although `report_study` succeeded.
    chain([tune, report], train_best, close, check_stages().as_teardown(on_failure_fail_dagrun=True))


hyperparameter_tuning()
