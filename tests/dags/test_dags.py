"""Every DAG parses and explains itself; `model_training` is wired as its name says."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = {
    "fetch_files": "fetch-files",
    "compute_statistics_and_embeddings": "compute-statistics-and-embeddings",
    "train_model": "train-model",
    "evaluate_model": "evaluate-model",
}


@pytest.fixture(scope="module")
def bag():
    return DagBag(str(REPOSITORY / "dags"))


@pytest.fixture(scope="module")
def training(bag):
    return bag.dags["model_training"]


def test_the_bag_is_full_and_whole(bag):
    assert bag.dags
    assert bag.import_errors == {}


def test_every_dag_explains_itself(bag):
    for dag in bag.dags.values():
        assert len(dag.doc_md) > 200, f"{dag.dag_id} has no doc_md"
        assert dag.tags
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.schema["title"], name
            assert param.schema["section"], name
            assert param.schema["description_md"] or param.description, name


def test_the_documentation_says_what_to_do(training):
    for word in ("Reads", "Writes", "Rerun", "Resume", "Warm start", "Failing"):
        assert word in training.doc_md


def test_tasks_come_in_order(training):
    order = ["open_run", *STAGES, "close_run"]
    assert sorted(training.task_ids) == sorted(order)
    for earlier, later in itertools.pairwise(order):
        assert later in training.get_task(earlier).downstream_task_ids
    assert {task_id: training.get_task(task_id).stage for task_id in STAGES} == STAGES


def test_closing_runs_always_and_leaves_the_state_to_the_stages(training):
    close = training.get_task("close_run")
    assert close.is_teardown
    assert not close.on_failure_fail_dagrun
    # Were it a setup, clearing one stage would open another MLflow run.
    assert not training.get_task("open_run").is_setup


def test_stages_retry_with_growing_pauses_and_end_some_day(training):
    for task_id in STAGES:
        task = training.get_task(task_id)
        assert task.retries == 2
        assert task.retry_exponential_backoff > 1
        assert task.execution_timeout is not None


def test_it_runs_when_told_only(training):
    assert not training.timetable.can_be_scheduled
    assert training.max_active_runs == 1


def test_params_are_typed_and_optional(training):
    params = training.params.validate()
    assert params == {
        "env": "local",
        "overrides": [],
        "run_id": None,
        "warm_start_run_id": None,
        "resume_run": False,
    }
    enum = training.params.get_param("env").schema["enum"]
    assert enum == sorted(path.name for path in (REPOSITORY / "include/config").iterdir() if path.name != "base")


def test_a_bad_environment_variable_does_not_break_parsing():
    parse = (
        "import json; from airflow.dag_processing.dagbag import DagBag; "
        f"bag = DagBag({str(REPOSITORY / 'dags')!r}); "
        "print(json.dumps([bag.import_errors, bag.dags['model_training'].params.dump()]))"
    )
    variables = {"TRANSFORMER_ENV": "locl", "TRANSFORMER_RESUME_RUN": "yes", "TRANSFORMER_WARM_START_RUN_ID": "abc"}
    done = subprocess.run(
        [sys.executable, "-c", parse], capture_output=True, text=True, check=True, env={**os.environ, **variables}
    )
    errors, params = json.loads(done.stdout.splitlines()[-1])
    assert errors == {}
    assert params["env"] is None
    assert params["resume_run"] is None
    assert params["warm_start_run_id"] == "abc"
