"""The MLflow run of a DAG run: refused input, the values that opening returns, and the reason that closing records."""

import sys
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

import transformer.tracking
from delay_pipeline import runs
from delay_pipeline.schedules import REGISTERED_MODEL
from transformer.errors import ServiceError, UserError

TRAINING = ["open_run", "fetch_files", "train_model", "close_run", "check_stages"]
STUDY = ["open_run", "fetch_files", "tune", "report_study", "train_best", "close_run", "check_stages"]
TEARDOWNS = ("close_run", "check_stages")


class RecordedTracking:
    """A double of `transformer.tracking` that records its calls and answers like a server."""

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
    monkeypatch.setitem(sys.modules, "transformer.tracking.runs", tracking)
    monkeypatch.setattr(transformer.tracking, "runs", tracking, raising=False)
    return tracking


def opening(conf):
    ti = SimpleNamespace(xcoms={})
    ti.xcom_push = lambda key, value: ti.xcoms.update({key: value})
    dag_run = SimpleNamespace(dag_id="model_training", run_id="manual__1", conf=conf, run_type="manual")
    return {"ti": ti, "dag_run": dag_run}


def closing(states, errors=None, tasks=TRAINING, skips=()):
    """Context of a teardown.

    Args:
        errors: by task id; those of mapped tasks have the key `(task_id, map index)`.
        skips: tasks that skipped themselves.
    """
    xcoms = {"error": errors or {}, "skipped": dict.fromkeys(skips, "not needed")}
    pushed = {}
    ti = SimpleNamespace(
        xcoms=pushed,
        xcom_push=lambda key, value: pushed.update({key: value}),
        dag_id="model_training",
        run_id="manual__1",
        task_id="close_run",
        get_task_states=lambda dag_id, run_ids: {"manual__1": states},
        xcom_pull=lambda task_ids, key, map_indexes: xcoms[key].get(
            task_ids if map_indexes < 0 else (task_ids, map_indexes)
        ),
    )
    found = [SimpleNamespace(task_id=name, is_teardown=name in TEARDOWNS) for name in tasks]
    dag = SimpleNamespace(topological_sort=lambda: found)
    return {"ti": ti, "dag": dag}


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
        "name": "",
        "overrides": ["training.max_epochs=2"],
        "tags": {"dag_id": "model_training", "airflow_run_id": "manual__1"},
        "user": "",
        "run_id": None,
        "warm_start_run_id": "abc",
        "resume": False,
    }


@pytest.mark.parametrize(("triggered_by", "user"), [("ada", "ada"), (None, ""), ("dag_test", "")])
def test_a_run_has_the_person_and_the_page_that_it_began_from(tracking, monkeypatch, triggered_by, user):
    """Nobody triggers a scheduled run, and `airflow dags test` names a user of its own."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.org/")
    context = opening({})
    context["dag_run"].triggering_user_name = triggered_by
    runs.open_run(context)
    assert tracking.opened["user"] == user
    assert tracking.opened["tags"]["airflow_run_url"] == (
        "https://airflow.example.org/dags/model_training/runs/manual__1"
    )


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


WORKERS = ["search.n_workers=3", "search.storage_url=postgresql://database.example.org/optuna"]


def test_opening_a_study_names_it_and_its_workers(tracking):
    conf = {"overrides": WORKERS, "n_trials": 9, "study_name": "wider", "train_best": True}
    run = runs.open_study(opening(conf))
    overrides = [*WORKERS, "search.n_trials=9", 'search.study_name="wider"']
    assert run == {
        "env": "optuna",
        "overrides": overrides,
        "run_id": "new-run",
        "warm_start_run_id": None,
        "resume_run": False,
        "run_url": "http://127.0.0.1:5000/#/new-run",
        "workers": [0, 1, 2],
        "train_best": True,
    }
    assert tracking.opened["overrides"] == overrides
    assert tracking.opened["name"] == "study wider"
    assert tracking.opened["tags"]["study_name"] == "wider"
    assert runs.open_study(opening({}))["workers"] == [0]


def test_resuming_a_study_goes_on_in_its_run_and_warm_starts_nothing(tracking):
    """The default space has keys that a warm start would refuse."""
    run = runs.open_study(opening({"warm_start_run_id": "abc", "resume_run": True}))
    assert (run["run_id"], tracking.opened["resume"]) == ("abc", True)


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"trials": 3}, "did you mean 'n_trials'"),
        ({"n_workers": 2}, "search.n_workers=2"),
        ({"study_name": "a/b"}, "search.study_name='a/b'"),
        ({"overrides": ["search.space=[{key: model.d_modl, choices: [32]}]"]}, "model.d_modl"),
        ({"warm_start_run_id": "abc"}, "changes the model, so the weights of warm_start_run_id"),
        ({"train_best": True, "overrides": ["training.mlflow.use_mlflow=false"]}, "train_best=true"),
    ],
)
def test_a_wrong_study_fails_at_once_in_one_line(tracking, conf, words):
    with pytest.raises(AirflowFailException) as failed:
        runs.open_study(context := opening(conf))
    assert words in str(failed.value)
    assert context["ti"].xcoms == {"error": str(failed.value)}
    assert "\n" not in str(failed.value)
    assert tracking.opened is None


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


STUDIED = {"open_run": "success", "fetch_files": "success", "report_study": "success"}


def test_closing_a_study_names_the_worker_that_failed(tracking):
    states = {**STUDIED, **{f"tune_{worker}": "success" for worker in range(12)}, "train_best": "upstream_failed"}
    runs.close_run(RUN, closing(states | {"tune_2": "failed", "tune_10": "failed"}, {("tune", 2): "killed"}, STUDY))
    assert tracking.closed == ("abc", "FAILED", "tune[2]: killed")


def test_a_training_that_nobody_asked_for_is_no_failure(tracking):
    context = closing({**STUDIED, "tune_0": "success", "train_best": "skipped"}, tasks=STUDY, skips=["train_best"])
    runs.close_run(RUN, context)
    assert tracking.closed == ("abc", "FINISHED", "")
    runs.check_stages(context)


def test_closing_a_study_whose_workers_never_came_to_be(tracking):
    states = {"open_run": "success", "fetch_files": "success", "tune": "upstream_failed", "report_study": "skipped"}
    runs.close_run(RUN, closing(states, tasks=STUDY))
    assert tracking.closed == ("abc", "FAILED", "tune: upstream_failed")


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        # `train_model` waited for its retry.
        ({"open_run": "success", "fetch_files": "success", "train_model": "skipped"}, "train_model: skipped by hand"),
        # `fetch_files` ran.
        ({"open_run": "success", "fetch_files": "failed", "train_model": "skipped"}, "fetch_files: failed"),
        # `open_run` waited: there is no MLflow run.
        ({"open_run": "skipped", "fetch_files": "skipped", "train_model": "skipped"}, None),
    ],
)
def test_a_dag_run_that_was_ended_by_hand_has_failed(tracking, states, reason):
    """Airflow skips what waits, and skipped tasks alone make a DAG run a success."""
    context = closing(states)
    runs.close_run(RUN if reason else None, context)
    assert tracking.closed == (("abc", "FAILED", tracking.closed[2]) if reason else None)
    assert reason is None or tracking.closed[2].startswith(reason)
    with pytest.raises(AirflowFailException, match=r"skipped by hand.*; clear it") as failed:
        runs.check_stages(context)
    assert context["ti"].xcoms == {"error": str(failed.value)}


def test_a_failed_stage_decides_alone(tracking):
    for last in ("failed", "upstream_failed"):
        runs.check_stages(closing({"open_run": "success", "fetch_files": "skipped", "train_model": last}))
    runs.check_stages(closing({"open_run": "success", "fetch_files": "success", "train_model": "success"}))


@pytest.mark.parametrize("tune", [{"tune_0": "failed"}, {"tune_0": "upstream_failed", "tune_1": "success"}])
def test_a_study_is_reported_when_a_worker_ran(tune):
    runs.skip_unless_tuned(closing(STUDIED | tune))


@pytest.mark.parametrize("tune", [{"tune": "upstream_failed"}, {}, {"tuned": "success", "tune_x": "success"}])
def test_a_study_without_a_worker_is_not_reported(tune):
    with pytest.raises(AirflowSkipException):
        runs.skip_unless_tuned(closing(STUDIED | tune))


# --- registered models -----------------------------------------------------------------------------------------------
def registering(run_id):
    run = {"env": "dev", "overrides": ["training.max_epochs=2"], "run_id": run_id}
    event = SimpleNamespace(extra=None)
    ti = SimpleNamespace(xcoms={})
    ti.xcom_push = lambda key, value: ti.xcoms.update({key: value})
    return {"ti": ti, "task": SimpleNamespace(mlflow_run=run), "outlet_events": {REGISTERED_MODEL: event}}, event


def test_a_registered_model_is_announced_with_its_configuration():
    context, event = registering("abc")
    runs.skip_unless_tracked(context)
    runs.announce_model(context, None)
    assert event.extra == {"env": "dev", "overrides": ["training.max_epochs=2"], "run_id": "abc"}


def test_without_mlflow_nothing_is_registered_nor_announced():
    context, _ = registering("")
    with pytest.raises(AirflowSkipException, match="no model to register"):
        runs.skip_unless_tracked(context)
    assert "no model to register" in context["ti"].xcoms["skipped"]
