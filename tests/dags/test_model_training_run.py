"""Whole runs of `model_training` with doubles of stages and MLflow: XComs and failures."""

from functools import partial

import pytest

from tests.support.tracking_double import FakeTracking

pytestmark = pytest.mark.slow


@pytest.fixture
def train(run_dag):
    return partial(run_dag, "model_training")


def test_success_hands_the_run_id_to_every_stage_and_closes_the_run(train):
    run = train({"env": "local", "run_id": "given", "warm_start_run_id": "old"})
    assert run.state == "success"
    assert FakeTracking.closed == ("given", "FINISHED", "")
    ti = run.get_task_instance("close_run")
    assert ti.xcom_pull(task_ids="open_run", key="run_id") == "given"
    argv = ti.xcom_pull(task_ids="train_model", key="result")["argv"]
    assert argv[:5] == ["train-model", "--env", "local", "--run-id", "given"]
    assert "--warm-start-run-id" in argv


def test_a_failed_stage_fails_the_dag_run_and_the_mlflow_run_without_retry(train, states):
    run = train({}, failing="train-model")
    assert run.state == "failed"
    assert states(run) == {
        "open_run": "success",
        "fetch_files": "success",
        "compute_statistics_and_embeddings": "success",
        "train_model": "failed",
        "evaluate_model": "upstream_failed",
        "register_model": "upstream_failed",
        "close_run": "success",
        "check_stages": "success",
    }
    assert run.get_task_instance("train_model").try_number == 1
    assert FakeTracking.closed == ("new-run", "FAILED", "train_model: data/x does not exist; run fetch-files")


def test_without_mlflow_a_skipped_registration_is_no_failure(train, states):
    """`check_stages` tells it from a task that a person skipped."""
    run = train({}, opened="")
    assert run.state == "success"
    found = states(run)
    assert (found["register_model"], found["close_run"], found["check_stages"]) == ("skipped", "success", "success")


def test_a_refused_conf_spends_nothing(train, states):
    run = train({"warm_start": "abc"})
    assert run.state == "failed"
    assert states(run)["open_run"] == "failed"
    assert run.get_task_instance("open_run").try_number == 1
    assert states(run)["fetch_files"] == "upstream_failed"
    assert FakeTracking.closed is None
