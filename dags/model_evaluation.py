"""
### Evaluate trained models and promote the better one

Evaluates trained models on a *window*, which is a range of service dates. The *champion* is the registered model to
predict with. The *challenger* is the newest registered model. Both predict the same rows. The *gate* decides whether
the challenger becomes champion. Its rule is in `docs/evaluation.md`, section *The gate*. The first model only has to be
better than translation, the baseline. `docs/concepts.md` explains the words.

#### Steps
- **open_evaluation** checks the conf and the configuration, and chooses the models.
- **evaluate_model** evaluates each model, from the files in the model's own MLflow run. Airflow maps it: one task per
  model.
- **decide** collects the results and declines a challenger that the gate does not promote.
- **approve** asks a person before a promotion, if `evaluation.gate.ask_for_approval` is on (in `prod`). Airflow sends
  no message. Open *Browse → Required Actions* or the page of the task, and press *Approve* or *Reject*. *Reject* skips
  `promote`. Without an answer within 7 days, `approve` and the DAG run fail, and nothing is promoted.
- **promote** makes the challenger champion.
- **request_training** starts `model_training` if a model has degraded, or the data have drifted beyond a limit. It does
  so in runs that nobody triggered, once per window, and only if `training.schedule.on_degradation` is on.

Only `evaluate_model` is a stage. The DAG opens no MLflow run of its own.

#### Reads
- Event tables in the folder `data.local_folder` or in the bucket, and the models in MLflow.

#### Writes
- A run `window FIRST..LAST`, nested in the MLflow run of each model: metrics `window/…`, artifacts `evaluation/` with a
  report, and tags with the decision. The task's page links *MLflow run* and *Report* under *Details*.
- The model registry: aliases and tags of the model's versions.
- The Airflow asset `degraded_delay_model`, whose event starts `model_training`.

#### Trigger
The DAG runs after `model_training` has registered a model. If several models are registered at about the same time,
one run evaluates all of them. The DAG also runs on the schedule `evaluation.schedule.cron` of
the environment that `TRANSFORMER_ENV` names. To run it by hand, use the form, or pass any of its fields as conf. After
`make up`, `airflow` is `AIRFLOW_HOME=$PWD/.airflow .venv/bin/airflow`.

    airflow dags trigger model_evaluation --conf '{"warm_start_run_id": "…", "window_dates": 7}'

- **Which model**: `warm_start_run_id` is the run to evaluate; nothing is trained. It may be any trained run. A
  registered one can become champion, any other is only compared with the champion. If empty: the champion, and the
  challenger if there is one.
- **Which dates**: `window_first` and `window_last`, or `window_dates`. `{"window_dates": 7}` evaluates the last 7 dates
  before today that have data, without the training and validation dates of the model. If all three are empty,
  `evaluation.schedule.last_dates` (7) replaces `window_dates`.
- **Overrule the gate** on the command line: `python -m transformer promote --version 7 --why "…"`, and
  `python -m transformer rollback --why "…"` to go back to the previous champion.

#### Rerun and resume
- **Rerun** a failed task: clear it. An evaluation has no half-way state: it starts from its first row.
- **Evaluate again**: if the model has results on exactly these dates, `evaluate_model` fails at once in a run by hand.
  `{"again": true}` evaluates them again, and replaces the results.

#### How failures look
- **Wrong input**: the task fails at once, with one line that names the value and the remedy. Airflow does not retry it.
  Examples: an unknown run, data that are too old, a window with training or validation dates of the model.
- **No newer dates**: a run that nobody triggered by hand keeps the earlier results and succeeds. The log of
  `evaluate_model` says so.
- After a failed evaluation, nothing is promoted.

#### Triage
- **Impact**: medium. The champion stays champion, but nobody sees whether it has become worse.
- **Normal**: a skipped `approve`, `promote` or `request_training`, since most challengers are not better, and most
  models have not degraded; no newer dates.
- **Look first** at the last line of the failed task's log. Find that line in `docs/operate.md`. Stale data are the most
  frequent cause: check the feed of the event tables.
- **Call** the addressees of the configuration group `alerts`: `python -m transformer config --env prod` prints them,
  for the environment `prod`. If the group names nobody, call the DAG's owner.
"""

import os

from airflow.sdk import TriggerRule, chain, dag, task
from pendulum import duration

from delay_pipeline import evaluations, retraining
from delay_pipeline.alerts import DegradationAlert, FailureAlert
from delay_pipeline.failures import RETRIES
from delay_pipeline.params import evaluation_params
from delay_pipeline.schedules import DEGRADED_MODEL, evaluation_schedule
from delay_pipeline.stage import EvaluateModelOperator


@dag(
    doc_md=__doc__,
    params=evaluation_params(os.environ),
    schedule=evaluation_schedule(os.environ),
    catchup=False,
    max_active_runs=1,  # one decision about the champion at a time
    tags=["delays", "evaluation"],
    default_args={
        "owner": "train-delays",  # the team to call: Triage, above
        **RETRIES,
        "execution_timeout": duration(hours=2),
        "on_failure_callback": FailureAlert(),
    },
    on_failure_callback=FailureAlert(),
)
def model_evaluation():
    @task(multiple_outputs=True, execution_timeout=duration(minutes=10))
    def open_evaluation(**context):
        """Check the conf and the configuration, and choose the models to evaluate."""
        return evaluations.open_evaluation(context)

    @task(execution_timeout=duration(minutes=10))
    def list_models(opened):
        """Return the models, for `evaluate_model` to be mapped over: Airflow cannot map over a part of a result."""
        return opened["models"]

    # One successful evaluation is enough for a decision about its model.
    @task(
        execution_timeout=duration(minutes=10),
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
        on_success_callback=DegradationAlert(),
    )
    def decide(opened, **context):
        """Collect the results, and decline a challenger that is not better."""
        return evaluations.decide(opened, context)

    # `promote` follows the evaluations too: a failed one must fail the DAG run and promote nothing.
    @task(execution_timeout=duration(minutes=10), trigger_rule=TriggerRule.NONE_FAILED)
    def promote(decision, **context):
        """Make the challenger champion if the gate and, where one is asked, a person agree."""
        return evaluations.promote(decision, context)

    @task(execution_timeout=duration(minutes=10), inlets=[DEGRADED_MODEL], outlets=[DEGRADED_MODEL])
    def request_training(decision, **context):
        """Start `model_training` if a model has become worse."""
        return retraining.request_training(decision, context)

    opened = open_evaluation()
    evaluate = EvaluateModelOperator.partial(
        task_id="evaluate_model", map_index_template="{{ task.mlflow_run['model'] }}"
    ).expand(mlflow_run=list_models(opened))
    decision = decide(opened)
    approve = evaluations.ApprovePromotion(
        task_id="approve",
        decision=decision,
        response_timeout=duration(days=7),
        execution_timeout=None,
        retries=0,
    )
    promoted = promote(decision)
    request_training(decision)
    chain(evaluate, decision, approve, promoted)
    chain(evaluate, promoted)


model_evaluation()
