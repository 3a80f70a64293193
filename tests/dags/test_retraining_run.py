"""The closed loop: a scheduled evaluation finds a degraded champion, and its training ends in a new champion.

The scheduler of Airflow, which starts the next DAG run of the loop from the events, is the only part that is left out.
"""

import pytest
from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import delete, select

from delay_pipeline import retraining, schedules
from delay_pipeline.schedules import DEGRADED_MODEL, REGISTERED_MODEL
from tests.support.registry_double import FakeRegistry
from transformer.config import load_config
from transformer.evaluation.decision import PromotionDecision

pytestmark = pytest.mark.slow

DEGRADATION = "degraded: skill +1.0% on 2025-01-24..2025-01-25"


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    """Every environment trains after a degradation, with a warm start from the champion."""

    def load(env, overrides=()):
        asked = ["training.schedule.on_degradation=true", "training.schedule.warm_start=champion"]
        return load_config(env, [*asked, *overrides])

    monkeypatch.setattr(retraining, "load_config", load)
    monkeypatch.setattr(schedules, "load_config", load)


@pytest.fixture(autouse=True)
def no_training_waits(airflow_database):
    """Other tests leave trainings that a study started, and no scheduler takes them up."""
    with create_session() as session:
        session.execute(delete(DagRun).where(DagRun.dag_id == "model_training"))


@pytest.fixture
def registry(monkeypatch):
    """A registry with a champion, and a new model once it is trained. An evaluation leaves the outcome in `left`."""
    registry = FakeRegistry(champion="old-run")
    registry.tags["new-run"] = {}
    registry.double_evaluations(monkeypatch)
    request = retraining.training_request

    def training_request(context):
        with monkeypatch.context() as within:
            registry.install(within)
            return request(context)

    monkeypatch.setattr("delay_pipeline.runs.training_request", training_request)
    return registry


def events(asset):
    with create_session() as session:
        return session.scalars(select(AssetEvent).join(AssetEvent.asset).where(AssetModel.name == asset.name)).all()


def waiting():
    """The DAGs that an event starts at the next turn of the scheduler."""
    with create_session() as session:
        return set(session.scalars(select(AssetDagRunQueue.target_dag_id)))


def test_a_degraded_champion_is_replaced_without_a_person(run_dag, registry, states):
    registry.left["old-run"] = {"degradation": DEGRADATION}
    evaluation = run_dag("model_evaluation", {}, run_type="scheduled")
    assert evaluation.state == "success"
    assert states(evaluation)["request_training"] == "success"
    [asked] = events(DEGRADED_MODEL)
    window = "2025-01-24..2025-01-25"
    reason = f"champion on {window}: {DEGRADATION}"
    assert asked.extra == {"env": "local", "overrides": [], "window": window, "reason": reason}
    assert "model_training" in waiting()

    again = run_dag("model_evaluation", {}, run_type="scheduled")  # no newer dates
    assert (again.state, states(again)["request_training"]) == ("success", "skipped")
    assert len(events(DEGRADED_MODEL)) == 1

    announced = len(events(REGISTERED_MODEL))
    training = run_dag("model_training", {}, run_type="asset_triggered", events=[asked])
    assert (training.state, training.logical_date) == ("success", None)
    argv = training.get_task_instance("close_run").xcom_pull(task_ids="train_model", key="result")["argv"]
    assert argv[:7] == ["train-model", "--env", "local", "--run-id", "new-run", "--warm-start-run-id", "old-run"]
    *_, model = events(REGISTERED_MODEL)
    assert len(events(REGISTERED_MODEL)) == announced + 1
    assert model.extra == {"env": "local", "overrides": [], "run_id": "new-run"}

    decision = PromotionDecision("promote", "better", version=2, instead_of=1).as_dict()
    registry.left["new-run"] = {"decision": decision, "drift": "delays: PSI 0.300"}
    judged = run_dag("model_evaluation", {}, run_type="asset_triggered", events=[model])
    assert (judged.state, states(judged)["promote"]) == ("success", "success")
    assert registry.decided == [("promote", 2, 1, "better", f"model_evaluation {judged.run_id}")]
    assert states(judged)["request_training"] == "skipped"  # the same window: the loop does not turn by itself
    assert len(events(DEGRADED_MODEL)) == 1


def test_a_person_who_evaluates_starts_no_training(run_dag, registry, states):
    registry.left["old-run"] = {"degradation": DEGRADATION, "window": "2025-02-01..2025-02-07"}
    before = len(events(DEGRADED_MODEL))
    evaluation = run_dag("model_evaluation", {})
    assert (evaluation.state, states(evaluation)["request_training"]) == ("success", "skipped")
    assert len(events(DEGRADED_MODEL)) == before
