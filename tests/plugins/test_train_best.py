"""The training of a study's best trial: its conf, and that it is started once."""

import json
from types import SimpleNamespace

import pytest
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DagRunTriggerException

from delay_pipeline.params import read_params
from delay_pipeline.train_best import TrainBestOperator, training_conf
from tests.support.tracking_double import FakeTracking

BEST = ["model.n_heads=4", "training.learning_rate=0.002"]
RUN = {
    "env": "optuna",
    "overrides": ["training.max_epochs=3", "search.n_trials=9"],
    "run_id": "abc",
    "warm_start_run_id": None,
    "resume_run": False,
    "run_url": "http://127.0.0.1:5000/#/experiments/1/runs/abc",
    "train_best": True,
}


@pytest.fixture
def start(monkeypatch):
    """Execute the operator, and return the DAG run that it triggers. `start.xcoms` holds its XComs."""
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    FakeTracking.install(monkeypatch, opened="")
    monkeypatch.setattr(FakeTracking, "tags", {"best_trial": "7", "best_overrides": json.dumps(BEST)})
    xcoms = {}

    def execute(**changes):
        ti = SimpleNamespace(xcom_push=lambda key, value: xcoms.update({key: value}))
        context = {"ti": ti, "dag_run": SimpleNamespace(run_id="manual__1")}
        with pytest.raises(DagRunTriggerException) as triggered:
            TrainBestOperator(task_id="train_best", mlflow_run={**RUN, **changes}).execute(context)
        return triggered.value

    execute.xcoms = xcoms
    return execute


def test_the_training_is_named_after_the_study_and_its_trial_so_that_it_starts_once(start):
    first, second = start(), start()
    assert first.dag_run_id == second.dag_run_id == "tuning__manual__1__trial_7"
    assert first.skip_when_already_exists and not first.reset_dag_run and not first.wait_for_completion
    assert first.trigger_dag_id == "model_training"
    assert first.conf["overrides"] == ["training.max_epochs=3", *BEST]
    assert "error" not in start.xcoms
    assert "exists" in start.xcoms["skipped"]  # for the second one, Airflow skips the task


def test_the_conf_of_the_training_beats_the_environment(start):
    environ = {"TRANSFORMER_ENV": "dev", "TRANSFORMER_WARM_START_RUN_ID": "other", "TRANSFORMER_RESUME_RUN": "1"}
    request = read_params(start().conf, environ)
    assert (request.env, request.run_id, request.warm_start_run_id, request.resume_run) == ("optuna", None, None, False)


def test_the_winner_begins_where_its_trial_began():
    assert training_conf({**RUN, "warm_start_run_id": "old"}, BEST)["warm_start_run_id"] == "old"
    assert training_conf({**RUN, "warm_start_run_id": "abc", "resume_run": True}, BEST)["warm_start_run_id"] is None


def test_nothing_of_the_search_goes_into_the_training():
    overrides = ["search={n_trials: 3}", " cfg.search.n_workers=2", "search.study_name=a=b", "training.seed=1"]
    assert training_conf({**RUN, "overrides": overrides}, BEST)["overrides"] == ["training.seed=1", *BEST]


def test_unasked_it_is_skipped(monkeypatch):
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    task = TrainBestOperator(task_id="train_best", mlflow_run={**RUN, "train_best": False})
    xcoms = {}
    with pytest.raises(AirflowSkipException):
        task.execute({"ti": SimpleNamespace(xcom_push=lambda key, value: xcoms.update({key: value}))})
    assert "train_best=false" in xcoms["skipped"]  # it is no skip by hand


def test_a_study_without_a_report_is_one_line(start, monkeypatch):
    monkeypatch.setattr(FakeTracking, "tags", {})
    with pytest.raises(AirflowFailException, match=r"abc .*best trial; clear report_study") as failed:
        start()
    assert start.xcoms["error"] == str(failed.value)
