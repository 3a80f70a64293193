"""The MLflow run of a DAG run: what opening refuses and hands on, and what closing says."""

import sys
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

import transformer
from delay_pipeline import runs
from transformer.errors import ServiceError, UserError

STAGES = ["open_run", "fetch_files", "train_model", "close_run"]


class RecordedTracking:
    """Stands in for `transformer.tracking`: remembers its calls, answers like a server would."""

    def __init__(self):
        self.opened = None
        self.closed = None
        self.problem = None

    def open_run(self, config, **given):
        if self.problem:
            raise self.problem
        self.opened = given
        return (given["run_id"] or "new-run") if config.training.mlflow.use_mlflow else ""

    def close_run(self, config, run_id, status="FINISHED", reason=""):
        self.closed = (run_id, status, reason)

    def run_url(self, config, run_id):
        return f"{config.training.mlflow.tracking_uri}/#/{run_id}"


@pytest.fixture
def tracking(monkeypatch):
    tracking = RecordedTracking()
    monkeypatch.setitem(sys.modules, "transformer.tracking", tracking)
    monkeypatch.setattr(transformer, "tracking", tracking, raising=False)
    return tracking


def opening(conf):
    ti = SimpleNamespace(xcoms={})
    ti.xcom_push = lambda key, value: ti.xcoms.update({key: value})
    return {"ti": ti, "dag_run": SimpleNamespace(dag_id="model_training", run_id="manual__1", conf=conf)}


def closing(states, errors=None):
    ti = SimpleNamespace(
        dag_id="model_training",
        run_id="manual__1",
        task_id="close_run",
        get_task_states=lambda dag_id, run_ids: {"manual__1": states},
        xcom_pull=lambda task_ids, key: (errors or {}).get(task_ids),
    )
    tasks = [SimpleNamespace(task_id=name) for name in STAGES]
    return {"ti": ti, "dag": SimpleNamespace(topological_sort=lambda: tasks)}


def test_opening_hands_on_all_that_stages_need(tracking):
    run = runs.open_run(opening({"overrides": ["training.max_epochs=2"], "warm_start_run_id": "abc"}))
    assert run == {
        "env": "local",
        "overrides": ["training.max_epochs=2"],
        "run_id": "new-run",
        "warm_start_run_id": "abc",
        "resume_run": False,
        "run_url": "http://127.0.0.1:5000/#/new-run",
    }
    assert tracking.opened == {
        "env": "local",
        "overrides": ["training.max_epochs=2"],
        "tags": {"dag_id": "model_training", "airflow_run_id": "manual__1"},
        "run_id": None,
        "warm_start_run_id": "abc",
        "resume": False,
    }


def test_resuming_opens_the_run_that_is_resumed(tracking):
    run = runs.open_run(opening({"warm_start_run_id": "abc", "resume_run": True}))
    assert run["run_id"] == "abc"
    assert tracking.opened["resume"] is True


def test_without_mlflow_the_run_id_is_empty(tracking):
    run = runs.open_run(opening({"overrides": ["training.mlflow.use_mlflow=false"]}))
    assert (run["run_id"], run["run_url"]) == ("", "")


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"environment": "local"}, "unknown key 'environment'"),
        ({"overrides": ["training.max_epoch=2"]}, "did you mean 'training.max_epochs'"),
        ({"overrides": ["training.max_epochs=many"]}, "training.max_epochs"),
    ],
)
def test_wrong_input_fails_at_once_in_one_line(tracking, conf, words):
    with pytest.raises(AirflowFailException) as failed:
        runs.open_run(context := opening(conf))
    assert words in str(failed.value)
    assert context["ti"].xcoms == {"error": str(failed.value)}
    assert "\n" not in str(failed.value)
    assert tracking.opened is None


def test_an_unknown_run_is_not_retried(tracking):
    tracking.problem = UserError("run 'abc' does not exist")
    with pytest.raises(AirflowFailException, match="run 'abc' does not exist"):
        runs.open_run(opening({"run_id": "abc"}))


def test_an_absent_server_is_retried(tracking):
    tracking.problem = ServiceError("MLflow at http://127.0.0.1:5000 does not answer")
    with pytest.raises(AirflowException, match="does not answer") as failed:
        runs.open_run(opening({}))
    assert not isinstance(failed.value, AirflowFailException)


RUN = {"env": "local", "overrides": [], "run_id": "abc"}


def test_closing_after_success(tracking):
    runs.close_run(RUN, closing({"open_run": "success", "fetch_files": "success", "train_model": "success"}))
    assert tracking.closed == ("abc", "FINISHED", "")


def test_closing_after_a_failure_names_the_first_failed_task_and_its_error(tracking):
    states = {"open_run": "success", "fetch_files": "failed", "train_model": "upstream_failed"}
    runs.close_run(RUN, closing(states, {"fetch_files": "data/sample holds no events"}))
    assert tracking.closed == ("abc", "FAILED", "fetch_files: data/sample holds no events")


def test_closing_after_a_task_that_died_silently(tracking):
    runs.close_run(RUN, closing({"open_run": "success", "fetch_files": "success", "train_model": "failed"}))
    assert tracking.closed == ("abc", "FAILED", "train_model: failed")


@pytest.mark.parametrize("run", [None, {**RUN, "run_id": ""}])
def test_closing_without_a_run_does_nothing(tracking, run):
    runs.close_run(run, closing({}))
    assert tracking.closed is None
