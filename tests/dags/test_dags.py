"""Every DAG parses, has documentation and keeps the common rules. Tests of each DAG check its wiring."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

from delay_pipeline.schedules import DEGRADED_MODEL, REGISTERED_MODEL

REPOSITORY = Path(__file__).resolve().parents[2]
PREPARATION = {
    "fetch_files": "fetch-files",
    "compute_statistics_and_embeddings": "compute-statistics-and-embeddings",
}
STAGES = {
    "model_training": {
        **PREPARATION,
        "train_model": "train-model",
        "evaluate_model": "evaluate-model",
        "register_model": "register-model",
    },
    "hyperparameter_tuning": {**PREPARATION, "tune": "tune", "report_study": "report-study"},
}


@pytest.fixture(scope="module")
def bag():
    return DagBag(str(REPOSITORY / "dags"))


@pytest.fixture(scope="module")
def training(bag):
    return bag.dags["model_training"]


@pytest.fixture(scope="module")
def tuning(bag):
    return bag.dags["hyperparameter_tuning"]


@pytest.fixture(scope="module")
def evaluation(bag):
    return bag.dags["model_evaluation"]


@pytest.fixture(scope="module", params=STAGES)
def dag(bag, request):
    return bag.dags[request.param]


def test_the_bag_is_full_and_whole(bag):
    assert bag.dags
    assert bag.import_errors == {}


def test_every_dag_explains_itself(bag):
    for dag in bag.dags.values():
        assert len(dag.doc_md) > 200, f"{dag.dag_id} has no doc_md"
        assert dag.tags
        assert {task.owner for task in dag.tasks} == {"train-delays"}, f"{dag.dag_id} has no owner"
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.schema["title"], name
            assert param.schema["section"], name
            assert param.schema["description_md"] or param.description, name


def test_the_documentation_says_what_to_do(dag):
    for word in ("Reads", "Writes", "Trigger", "Rerun", "Resume", "Warm start", "How failures look"):
        assert word in dag.doc_md


def test_the_documentation_says_who_is_called(bag):
    for dag in bag.dags.values():
        triage = dag.doc_md.partition("#### Triage\n")[2]
        for words in ("**Impact**", "**Normal**", "**Look first**", "**Call**", "docs/operate.md", "`alerts`", "owner"):
            assert words in triage, f"{dag.dag_id}: {words}"


def test_tasks_come_in_order(dag):
    stages = STAGES[dag.dag_id]
    order = ["open_run", *stages, "close_run"]
    for earlier, later in itertools.pairwise(order):
        assert later in dag.get_task(earlier).downstream_task_ids
    for task_id, stage in stages.items():
        task = dag.get_task(task_id)
        assert (task.partial_kwargs["stage"] if task.is_mapped else task.stage) == stage


def test_closing_runs_always_and_leaves_the_state_to_the_stages(dag):
    """If `check_stages` followed a stage, that stage would decide nothing: Airflow asks the last tasks only."""
    close, check = dag.get_task("close_run"), dag.get_task("check_stages")
    assert close.is_teardown and check.is_teardown
    assert not close.on_failure_fail_dagrun and check.on_failure_fail_dagrun
    assert check.upstream_task_ids == {"close_run"} and not check.downstream_task_ids
    # If open_run were a setup, clearing one stage would open another MLflow run.
    assert not dag.get_task("open_run").is_setup


def test_stages_retry_with_growing_pauses_and_end_some_day(dag):
    for task_id in STAGES[dag.dag_id]:
        task = dag.get_task(task_id)
        assert task.retries == 2
        assert task.retry_exponential_backoff > 1
        assert task.execution_timeout is not None


def test_they_run_only_when_triggered_and_one_at_a_time(dag):
    assert not dag.timetable.can_be_scheduled
    assert dag.max_active_runs == 1


def test_a_study_is_mapped_over_its_workers_and_names_them(tuning):
    tune = tuning.get_task("tune")
    assert tune.is_mapped
    assert tune.upstream_task_ids == {"open_run", "list_workers", "compute_statistics_and_embeddings"}
    assert tune.map_index_template == "worker {{ task.worker }}"


def test_a_failed_worker_fails_the_dag_run_even_with_a_report(tuning):
    """The last tasks decide the state of a DAG run, and `train_best` needs both the workers and the report."""
    train_best, close = tuning.get_task("train_best"), tuning.get_task("close_run")
    assert train_best.upstream_task_ids == {"open_run", "tune", "report_study"}
    assert train_best.trigger_rule == "all_success"
    assert close.upstream_task_ids == {"open_run", "report_study", "train_best"}


def test_a_training_announces_the_model_that_it_registered(training):
    register = training.get_task("register_model")
    assert register.outlets == [REGISTERED_MODEL]
    assert not any(task.outlets for task in training.tasks if task is not register)


def test_an_evaluation_is_mapped_over_its_models_and_names_them(evaluation):
    evaluate = evaluation.get_task("evaluate_model")
    assert evaluate.is_mapped
    assert evaluate.map_index_template == "{{ task.mlflow_run['model'] }}"
    assert [link.name for link in evaluate.operator_extra_links] == ["MLflow run", "Pod", "Report"]


def test_what_one_evaluation_found_counts_and_nothing_is_promoted_after_a_failed_one(evaluation):
    assert evaluation.get_task("decide").trigger_rule == "all_done_min_one_success"
    promote = evaluation.get_task("promote")
    assert promote.upstream_task_ids == {"evaluate_model", "decide", "approve"}
    assert promote.trigger_rule == "none_failed"
    assert not promote.downstream_task_ids
    assert evaluation.max_active_runs == 1
    assert not evaluation.catchup


def test_an_evaluation_runs_when_a_model_was_registered(evaluation):
    assert evaluation.schedule == [REGISTERED_MODEL]


def test_an_evaluation_announces_a_degraded_model_and_remembers_what_it_announced(evaluation):
    request = evaluation.get_task("request_training")
    assert request.inlets == request.outlets == [DEGRADED_MODEL]
    assert not any(task.outlets for task in evaluation.tasks if task is not request)
    assert request.upstream_task_ids == {"decide"}  # it does not wait for a person who approves
    assert request.trigger_rule == "all_success"


def test_missed_times_are_not_made_up_for(training):
    assert not training.catchup


def test_approve_waits_a_week_for_a_person(evaluation):
    approve = evaluation.get_task("approve")
    assert approve.response_timeout.days == 7
    assert approve.execution_timeout is None


def test_the_dag_and_its_tasks_send_alerts_of_failures(bag):
    for dag in bag.dags.values():
        assert type(dag.on_failure_callback).__name__ == "FailureAlert"
        for task in dag.tasks:
            assert [type(callback).__name__ for callback in task.on_failure_callback] == ["FailureAlert"], task.task_id
    decide = bag.dags["model_evaluation"].get_task("decide")
    assert [type(callback).__name__ for callback in decide.on_success_callback] == ["DegradationAlert"]


def test_params_are_typed_and_optional(training):
    params = training.params.validate()
    assert params == {
        "env": "local",
        "overrides": [],
        "run_id": None,
        "warm_start_run_id": None,
        "resume_run": False,
    }


def test_params_of_a_study_are_those_of_a_training_and_its_own(training, tuning):
    own = {"env": "optuna", "n_trials": None, "n_workers": None, "study_name": None, "train_best": False}
    assert tuning.params.validate() == training.params.validate() | own


def test_the_form_offers_every_environment(dag):
    enum = dag.params.get_param("env").schema["enum"]
    assert enum == sorted(path.name for path in (REPOSITORY / "include/config").iterdir() if path.name != "base")


def test_a_bad_environment_variable_does_not_break_parsing():
    parse = (
        "import json; from airflow.dag_processing.dagbag import DagBag; "
        f"bag = DagBag({str(REPOSITORY / 'dags')!r}); "
        "print(json.dumps([bag.import_errors, [dag.params.dump() for dag in bag.dags.values()]]))"
    )
    variables = {"TRANSFORMER_ENV": "locl", "TRANSFORMER_RESUME_RUN": "yes", "TRANSFORMER_WARM_START_RUN_ID": "abc"}
    done = subprocess.run(
        [sys.executable, "-c", parse], capture_output=True, text=True, check=True, env={**os.environ, **variables}
    )
    errors, dags = json.loads(done.stdout.splitlines()[-1])
    assert errors == {}
    assert len(dags) == len(STAGES) + 1
    for params in dags:
        assert params["env"] is None
    opening = [params for params in dags if "resume_run" in params]
    assert len(opening) == len(STAGES)
    for params in opening:
        assert params["resume_run"] is None
        assert params["warm_start_run_id"] == "abc"
