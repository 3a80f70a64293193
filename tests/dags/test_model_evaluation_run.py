"""Whole runs of `model_evaluation` with doubles of stages, MLflow and registry: models, alerts and promotion."""

import hashlib
from functools import partial

import pytest

from tests.support.registry_double import FakeRegistry
from transformer.evaluation.decision import PromotionDecision

pytestmark = pytest.mark.slow

DEGRADATION = "degraded: skill +1.0% on 2025-01-24..2025-01-25"


@pytest.fixture
def evaluate(run_dag):
    return partial(run_dag, "model_evaluation")


@pytest.fixture
def registry(monkeypatch):
    """A registry with both models. An evaluation leaves the outcome in `left` of its run in the run."""
    registry = FakeRegistry(champion="old-run", challenger="new-run")
    registry.double_evaluations(monkeypatch)
    return registry


def judged(verdict, reason):
    return {"decision": PromotionDecision(verdict, reason, version=2, instead_of=1).as_dict()}


def arguments(run, index):
    pulled = run.get_task_instance("decide").xcom_pull(task_ids="evaluate_model", key="result", map_indexes=index)
    return pulled["argv"][:-2]  # without --result


def test_the_better_challenger_becomes_champion(evaluate, registry, states):
    registry.left["new-run"] = judged("promote", "better")
    run = evaluate({"window_dates": 3})
    assert run.state == "success"
    assert states(run) == {
        "open_evaluation": "success",
        "list_models": "success",
        "evaluate_model[0]": "success",
        "evaluate_model[1]": "success",
        "decide": "success",
        "approve": "skipped",
        "promote": "success",
        "request_training": "skipped",
    }
    request = hashlib.sha256(f"model_evaluation {run.run_id}".encode()).hexdigest()[:16]
    for index, run_id in enumerate(("old-run", "new-run")):
        window = ["--last", "3", "--request", request]
        assert arguments(run, index) == ["evaluate-model", "--env", "local", "--run-id", run_id, *window]
    names = [ti.rendered_map_index for ti in run.get_task_instances() if ti.task_id == "evaluate_model"]
    assert sorted(names) == ["challenger", "champion"]
    assert registry.decided == [("promote", 2, 1, "better", f"model_evaluation {run.run_id}")]


def test_a_declined_challenger_changes_nothing_and_fails_nothing(evaluate, registry, states):
    registry.left["new-run"] = judged("decline", "no better")
    run = evaluate({})
    assert run.state == "success"
    assert (states(run)["approve"], states(run)["promote"]) == ("skipped", "skipped")
    assert registry.decided == [("decline", 2, "no better", f"model_evaluation {run.run_id}")]


def test_after_a_failed_evaluation_nothing_is_promoted_and_the_run_fails(evaluate, registry, states):
    registry.left["new-run"] = judged("promote", "better")
    run = evaluate({}, failing="evaluate-model old-run")
    assert run.state == "failed"
    found = states(run)
    assert (found["evaluate_model[0]"], found["evaluate_model[1]"]) == ("failed", "success")
    assert (found["decide"], found["promote"]) == ("success", "upstream_failed")
    assert registry.decided == []


def test_a_degraded_model_sends_an_alert(evaluate, registry, monkeypatch):
    sent = []
    monkeypatch.setattr("delay_pipeline.alerts._send", lambda context, alerts: sent.extend(alerts))
    registry.left["old-run"] = {"degradation": DEGRADATION}
    run = evaluate({})
    assert run.state == "success"
    assert [alert.subject for alert in sent] == [f"model {DEGRADATION}"]


def test_a_refused_conf_fails_at_once_and_sends_an_alert(evaluate, registry, states, monkeypatch):
    sent = []
    monkeypatch.setattr("delay_pipeline.alerts._send", lambda context, alerts: sent.extend(alerts))
    run = evaluate({"window_first": "2025-01-01"})
    assert run.state == "failed"
    assert states(run)["open_evaluation"] == "failed"
    assert run.get_task_instance("open_evaluation").try_number == 1
    assert {alert.key for alert in sent} == {f"failed/{run.run_id}/0"}  # task and DAG share one alert
    assert all("window_first" in alert.subject and "window_last" in alert.subject for alert in sent)
