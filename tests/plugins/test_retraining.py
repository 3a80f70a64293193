"""Trainings that nobody starts: when an evaluation asks for one, and how it begins."""

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from delay_pipeline import retraining, runs
from delay_pipeline.schedules import DEGRADED_MODEL
from tests.support.registry_double import FakeRegistry
from tests.support.tracking_double import FakeTracking
from transformer.errors import UserError
from transformer.evaluation.outcome import Outcome

WEEK = "2025-01-20..2025-01-26"
ON = ["training.schedule.on_degradation=true"]
FOUND = {"env": "local", "overrides": ON, "window": WEEK, "reason": f"champion on {WEEK}: degraded"}
VARIABLES = {"TRANSFORMER_WARM_START_RUN_ID": "elsewhere", "TRANSFORMER_RESUME_RUN": "1"}


@pytest.fixture
def registry(monkeypatch):
    return FakeRegistry(champion="old-run", challenger="new-run").install(monkeypatch)


# --- finding ---------------------------------------------------------------------------------------------------------
def model(name, run_id, **outcome):
    run = {"model": name, "run_id": run_id, "env": "local", "overrides": [f"training.seed={len(run_id)}"]}
    return run, Outcome(**{"window": WEEK, **outcome})


def test_without_a_worse_model_nothing_is_found():
    assert retraining.finding([model("champion", "old-run"), model("challenger", "new-run")], "") is None
    assert retraining.finding([], "") is None


def test_each_worse_model_is_a_reason_and_the_newest_gives_the_configuration():
    worse = [
        model("champion", "old", degradation="degraded: skill +1.0%"),
        model("challenger", "newer", drift="delays: PSI 0.300", window="2025-01-18..2025-01-22"),
    ]
    assert retraining.finding(worse, "") == {
        "env": "local",
        "overrides": ["training.seed=5"],
        "window": "2025-01-18..2025-01-26",
        "reason": f"champion on {WEEK}: degraded: skill +1.0%; "
        "challenger on 2025-01-18..2025-01-22: drift: delays: PSI 0.300",
    }


def test_a_worse_champion_that_a_good_model_replaces_is_no_reason():
    champion, good = model("champion", "old", degradation="degraded"), model("challenger", "new")
    assert retraining.finding([champion, good], promoted="new") is None
    assert retraining.finding([champion, good], promoted="") is not None
    assert retraining.finding([champion, model("challenger", "new", drift="delays")], promoted="new") is not None


# --- asking ----------------------------------------------------------------------------------------------------------


def asking(run_type="scheduled", earlier=(), under_way=0):
    """Context of `request_training` after requests with these values."""
    counted = []
    ti = SimpleNamespace(xcoms={}, counted=counted)
    ti.xcom_push = lambda key, value: ti.xcoms.update({key: value})
    ti.get_dr_count = lambda dag_id, states: counted.append((dag_id, sorted(states))) or under_way
    return {
        "ti": ti,
        "dag_run": SimpleNamespace(run_type=run_type),
        "inlet_events": {DEGRADED_MODEL: [SimpleNamespace(extra=extra) for extra in earlier]},
        "outlet_events": {DEGRADED_MODEL: SimpleNamespace(extra={})},
    }


def ask(found=FOUND, **given):
    context = asking(**given)
    returned = retraining.request_training({"retraining": found}, context)
    assert returned == context["outlet_events"][DEGRADED_MODEL].extra
    assert context["ti"].counted == [("model_training", ["queued", "running"])]
    return returned


@pytest.mark.parametrize("run_type", ["scheduled", "asset_triggered"])
def test_an_evaluation_that_nobody_started_asks_for_a_training(run_type):
    assert ask(run_type=run_type) == FOUND


@pytest.mark.parametrize(
    ("found", "given", "words"),
    [
        (None, {}, "no model has become worse"),
        (FOUND, {"run_type": "manual"}, "a person started this evaluation: trigger model_training"),
        (FOUND | {"overrides": []}, {}, "training.schedule.on_degradation=false"),
        (FOUND, {"under_way": 1}, "model_training is queued or running"),
        (FOUND, {"earlier": [FOUND]}, f"window {WEEK} .* asked for a training before"),
        (FOUND, {"earlier": [FOUND | {"window": "2025-01-26..2025-02-01"}]}, "2025-01-26..2025-02-01 shares dates"),
        (FOUND, {"earlier": [FOUND | {"window": "2025-01-14..2025-01-20"}]}, "2025-01-14..2025-01-20 shares dates"),
    ],
)
def test_a_training_is_not_asked_for_in_vain(found, given, words):
    with pytest.raises(AirflowSkipException, match=words):
        ask(found, **given)


@pytest.mark.parametrize(
    "earlier",
    [
        FOUND | {"window": "2025-01-13..2025-01-19"},
        FOUND | {"env": "dev"},
        {"from_rest_api": True},  # a person made this event
        None,
    ],
)
def test_other_windows_and_environments_do_not_count(earlier):
    assert ask(earlier=[earlier]) == FOUND


def test_a_wrong_configuration_is_one_line():
    context = asking()
    with pytest.raises(AirflowFailException, match="unknown environment 'gone'"):
        retraining.request_training({"retraining": FOUND | {"env": "gone"}}, context)
    assert "unknown environment" in context["ti"].xcoms["error"]


# --- beginning -------------------------------------------------------------------------------------------------------
def beginning(run_type, conf=None, events=()):
    """Context of a DAG run of `model_training`, which these values of events started."""
    found = [SimpleNamespace(extra=extra, timestamp=number) for number, extra in enumerate(events)]
    return {
        "dag_run": SimpleNamespace(run_type=run_type, conf=conf),
        "triggering_asset_events": {DEGRADED_MODEL: found} if found else {},
    }


@pytest.fixture
def variables(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


def test_a_person_starts_a_training_as_the_conf_says(variables):
    request, reason = retraining.training_request(beginning("manual", {"overrides": ["training.seed=3"]}))
    assert (request.overrides, request.warm_start_run_id, request.resume_run) == (
        ["training.seed=3"],
        "elsewhere",
        True,
    )
    assert reason == ""


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("conf", [None, {}])
def test_a_scheduled_training_begins_anew_in_the_environment_of_airflow(monkeypatch, conf):
    monkeypatch.setenv("TRANSFORMER_ENV", "dev")
    request, reason = retraining.training_request(beginning("scheduled", conf))
    assert (request.env, request.overrides, request.run_id) == ("dev", [], None)
    assert (request.warm_start_run_id, request.resume_run, reason) == (None, False, "")


@pytest.mark.usefixtures("variables")
def test_a_training_after_a_degradation_has_the_configuration_of_the_worse_model(monkeypatch):
    monkeypatch.setenv("TRANSFORMER_ENV", "dev")
    older = FOUND | {"overrides": ["training.seed=1"]}
    request, reason = retraining.training_request(beginning("asset_triggered", {}, [older, FOUND]))
    assert (request.env, request.overrides, reason) == ("local", ON, FOUND["reason"])
    assert (request.warm_start_run_id, request.resume_run) == (None, False)


@pytest.mark.parametrize("extra", [None, {"from_rest_api": True}])
def test_an_event_that_a_person_made_trains_in_the_environment_of_airflow(extra):
    request, reason = retraining.training_request(beginning("asset_triggered", {}, [extra]))
    assert (request.env, request.overrides, reason) == ("local", [], "")


WARM = ["training.schedule.warm_start=champion"]


def test_a_warm_start_begins_with_the_champion(registry):
    context = beginning("asset_triggered", {}, [FOUND | {"overrides": WARM}])
    assert retraining.training_request(context)[0].warm_start_run_id == "old-run"


def test_without_a_champion_a_warm_start_begins_anew(registry, caplog):
    context = beginning("asset_triggered", {}, [FOUND | {"overrides": WARM}])
    registry.versions["champion"].foreign = "version 1 was not registered by this program"
    assert retraining.training_request(context)[0].warm_start_run_id is None
    del registry.versions["champion"]
    assert retraining.training_request(context)[0].warm_start_run_id is None
    assert "version 1 was not registered by this program; training anew" in caplog.text
    assert "no champion; training anew" in caplog.text


def test_an_event_with_a_wrong_value_is_refused():
    with pytest.raises(UserError, match="env='locl' is unknown; did you mean 'local'"):
        retraining.training_request(beginning("asset_triggered", {}, [FOUND | {"env": "locl"}]))


def test_the_mlflow_run_says_why_an_evaluation_asked_for_it(monkeypatch):
    opened = {}
    FakeTracking.install(monkeypatch, opened="new-run")
    monkeypatch.setattr(FakeTracking, "open_run", lambda config, **given: opened.update(given) or "new-run")
    context = beginning("asset_triggered", {}, [FOUND])
    context["dag_run"].dag_id, context["dag_run"].run_id = "model_training", "asset_triggered__1"
    runs.open_run(context | {"ti": SimpleNamespace()})
    assert opened["tags"]["training_reason"] == FOUND["reason"]
