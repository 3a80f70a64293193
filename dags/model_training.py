"""
### Train the delay transformer

Trains one model and registers it as *challenger*, a candidate for use. The model predicts the delay of every running
train at each of its next stops. `docs/concepts.md` explains the words.

#### Steps
- **open_run** checks the conf and the configuration, and opens the MLflow run.
- **fetch_files** fetches the event tables and checks them.
- **compute_statistics_and_embeddings** computes both from the training dates. It reuses them if the cache has them.
- **train_model** trains the model. It saves a checkpoint after every epoch.
- **evaluate_model** predicts the test dates, compares the model with translation, and writes the report.
- **register_model** adds the model to the MLflow model registry.
- **close_run** always runs. It marks the MLflow run FINISHED or FAILED.
- **check_stages** always runs. It fails if somebody ended the DAG run by hand before its stages ended.

The tasks between `open_run` and `close_run` are *stages*. A stage runs in a process of the Airflow worker or in a pod.
The key `compute.backend` decides which.

#### Reads
- Event tables in the folder `data.local_folder`, or in the bucket if `data.download_data_from_s3` is on.

#### Writes
- `paths.cache`: statistics and embeddings. Their folder is named after a content hash, so that later runs find them.
- `paths.runs`: checkpoints and reports.
- MLflow: metrics, configuration, checkpoints and reports. Each stage links its *MLflow run*, and `evaluate_model` links
  its *Report*. The links are on the task's page under *Details*.
- Model registry: the model as *challenger*. This starts the DAG `model_evaluation`, which decides whether it becomes
  *champion*.

#### Trigger
Use the form, or pass any of its fields as conf. After `make up`, the form needs no entry: data are there, and stages
know MLflow's address. In a shell, `airflow` is then `AIRFLOW_HOME=$PWD/.airflow .venv/bin/airflow`.

    airflow dags trigger model_training --conf '{"env": "local", "overrides": ["training.max_epochs=5"]}'

The DAG can also run by itself: at the times `training.schedule.cron`, or when `model_evaluation` finds that a model has
become worse (`training.schedule.on_degradation`). Both are off by default, and belong to the environment that
`TRANSFORMER_ENV` names. Such a run has no conf. It begins with random weights, or with those of the champion
(`training.schedule.warm_start`). `docs/retraining.md` describes the loop.

#### Rerun and resume
- **Rerun** a failed stage: clear its task with *Downstream*, the default. The later tasks run again too, and
  `close_run` marks the MLflow run anew. Earlier stages keep their results, and the MLflow run stays the same.
- **Warm start**: `{"warm_start_run_id": "…"}` opens a new run that begins with the weights of that run.
- **Resume**: `{"warm_start_run_id": "…", "resume_run": true}` continues an interrupted training in that run itself,
  from its last epoch.
- **Log into an existing run**: `{"run_id": "…"}` trains from the start, for example into a run that another program
  opened. To continue a training, resume it.

#### How failures look
- **Wrong input**: the task fails at once, with one line that names the value and the remedy. Airflow does not retry it.
- **Anything else**: Airflow retries the task twice, with growing pauses. Training continues from its last whole epoch.
- If a task fails in the end, `close_run` marks the MLflow run FAILED. Its tag `failure_reason` names the task and its
  last error line.

#### Triage
- **Impact**: low. The champion stays champion. A failed training registers no model, and starts no evaluation.
- **Normal**: a retried stage after a lost pod; a skipped `register_model` if MLflow is switched off.
- **Look first** at the last line of the failed task's log. Find that line in `docs/operate.md`, which has the remedy.
- **Call** the addressees of the configuration group `alerts`: `python -m transformer config --env prod` prints them,
  for the environment `prod`. If the group names nobody, call the DAG's owner.
"""

import os

from airflow.sdk import chain, dag, task
from pendulum import duration

from delay_pipeline import runs
from delay_pipeline.alerts import FailureAlert
from delay_pipeline.failures import RETRIES
from delay_pipeline.params import training_params
from delay_pipeline.schedules import REGISTERED_MODEL, training_schedule
from delay_pipeline.stage import EvaluateModelOperator, StageOperator


@dag(
    doc_md=__doc__,
    params=training_params(os.environ),
    schedule=training_schedule(os.environ),
    catchup=False,
    max_active_runs=1,  # one training at a time fills a GPU or a laptop
    tags=["delays", "training"],
    default_args={
        "owner": "train-delays",  # the team to call: Triage, above
        **RETRIES,
        "execution_timeout": duration(hours=2),
        "on_failure_callback": FailureAlert(),
    },
    on_failure_callback=FailureAlert(),
)
def model_training():
    @task(multiple_outputs=True, execution_timeout=duration(minutes=10))
    def open_run(**context):
        """Check the conf and the configuration, and open the MLflow run."""
        return runs.open_run(context)

    @task(execution_timeout=duration(minutes=10))
    def close_run(run, **context):
        """Mark the MLflow run FINISHED, or FAILED with the reason."""
        runs.close_run(run, context)

    @task(execution_timeout=duration(minutes=10))
    def check_stages(**context):
        """Fail the DAG run if somebody ended it before its stages ended."""
        runs.check_stages(context)

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
            execution_timeout=duration(days=2),
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
        # Teardowns always run. Stages decide the state of the DAG run, or `check_stages` if some were skipped by hand.
        close_run(run).as_teardown(),
        check_stages().as_teardown(on_failure_fail_dagrun=True),
    )


model_training()
