"""Whole runs of `hyperparameter_tuning` with doubles of stages and MLflow: its workers, report and best trial."""

import json
from functools import partial

import pytest
from airflow.models.dagrun import DagRun

from tests.support.tracking_double import FakeTracking

pytestmark = pytest.mark.slow

SPACE = "search.space=[{key: training.learning_rate, low: 3e-4, high: 3e-3, log: true}]"
OVERRIDES = ["search.storage_url=postgresql://database.example.org/optuna", SPACE]
THREE = {"n_workers": 3, "overrides": OVERRIDES}
BEST = ["training.learning_rate=0.002", "model.n_heads=4"]


@pytest.fixture
def tune(run_dag):
    return partial(run_dag, "hyperparameter_tuning")


def argv(run, task_id, map_index=-1):
    return run.get_task_instance("close_run").xcom_pull(task_ids=task_id, key="result", map_indexes=map_index)["argv"]


def trainings():
    return {run.run_id: run.conf for run in DagRun.find(dag_id="model_training") if run.run_id.startswith("tuning__")}


def test_every_worker_is_a_task_and_the_report_comes_last(tune, states):
    run = tune({**THREE, "n_trials": 12, "study_name": "wider", "warm_start_run_id": "old"})
    assert run.state == "success"
    assert states(run) == {
        "open_run": "success",
        "list_workers": "success",
        "fetch_files": "success",
        "compute_statistics_and_embeddings": "success",
        "tune[0]": "success",
        "tune[1]": "success",
        "tune[2]": "success",
        "report_study": "success",
        "train_best": "skipped",
        "close_run": "success",
        "check_stages": "success",
    }
    assert FakeTracking.closed == ("new-run", "FINISHED", "")
    study = ["--env", "optuna"]
    for override in [*OVERRIDES, "search.n_trials=12", "search.n_workers=3", 'search.study_name="wider"']:
        study += ["--set", override]
    study += ["--run-id", "new-run"]
    for worker in range(3):
        expected = ["tune", *study, "--worker", str(worker), "--warm-start-run-id", "old", "--result"]
        assert argv(run, "tune", worker)[:-1] == expected
    assert argv(run, "report_study")[:-1] == ["report-study", *study, "--result"]
    names = [ti.rendered_map_index for ti in run.get_task_instances() if ti.task_id == "tune"]
    assert sorted(names) == ["worker 0", "worker 1", "worker 2"]
    assert trainings() == {}


def test_a_failed_worker_fails_the_dag_run_after_the_report(tune, states):
    run = tune({**THREE, "train_best": True}, failing="tune --worker 1")
    assert run.state == "failed"
    found = states(run)
    assert [found[f"tune[{worker}]"] for worker in range(3)] == ["success", "failed", "success"]
    assert (found["report_study"], found["train_best"], found["close_run"]) == ("success", "upstream_failed", "success")
    assert FakeTracking.closed == ("new-run", "FAILED", "tune[1]: data/x does not exist; run fetch-files")
    times = {ti.task_id: (ti.start_date, ti.end_date) for ti in run.get_task_instances()}
    assert times["report_study"][1] <= times["close_run"][0]


def test_the_only_worker_may_fail_and_its_trials_are_reported(tune, states):
    run = tune({}, failing="tune")
    assert run.state == "failed"
    assert states(run)["report_study"] == "success"
    assert FakeTracking.closed == ("new-run", "FAILED", "tune[0]: data/x does not exist; run fetch-files")


def test_without_a_worker_there_is_nothing_to_report(tune, states):
    run = tune({}, failing="fetch-files")
    assert run.state == "failed"
    found = states(run)
    assert (found["tune"], found["report_study"], found["train_best"]) == (
        "upstream_failed",
        "skipped",
        "upstream_failed",
    )
    assert FakeTracking.closed == ("new-run", "FAILED", "fetch_files: data/x does not exist; run fetch-files")


def test_a_failed_report_starts_no_training(tune, states):
    run = tune({"train_best": True}, failing="report-study")
    assert run.state == "failed"
    assert states(run)["train_best"] == "upstream_failed"
    assert FakeTracking.closed == ("new-run", "FAILED", "report_study: data/x does not exist; run fetch-files")


def test_the_winner_is_trained_when_asked(tune, states, monkeypatch):
    monkeypatch.setattr(FakeTracking, "tags", {"best_trial": "7", "best_overrides": json.dumps(BEST)})
    conf = {"n_trials": 12, "train_best": True, "overrides": ["training.max_epochs=3", "search.sampler.name=random"]}
    run = tune(conf)
    assert run.state == "success"
    assert states(run)["train_best"] == "success"
    assert trainings() == {
        f"tuning__{run.run_id}__trial_7": {
            "env": "optuna",
            "overrides": ["training.max_epochs=3", *BEST],
            "warm_start_run_id": None,
            "resume_run": False,
        }
    }


def test_a_refused_conf_spends_nothing(tune, states):
    run = tune({"n_workers": 4})
    assert run.state == "failed"
    found = states(run)
    assert (found["open_run"], found["tune"], found["report_study"]) == ("failed", "upstream_failed", "upstream_failed")
    assert FakeTracking.closed is None
