"""When `model_training` and `model_evaluation` run by themselves."""

import pytest
from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable

from delay_pipeline import schedules
from delay_pipeline.schedules import DEGRADED_MODEL, REGISTERED_MODEL, evaluation_schedule, training_schedule
from transformer.config import load_config


@pytest.fixture
def configured(monkeypatch):
    """Load every environment with these overrides, and record which environments are asked for."""

    def load(*overrides):
        asked = []

        def load_env(env):
            asked.append(env)
            return load_config(env, overrides)

        monkeypatch.setattr(schedules, "load_config", load_env)
        return asked

    return load


def test_locally_only_a_new_model_starts_an_evaluation():
    assert evaluation_schedule({}) == [REGISTERED_MODEL]


def test_in_production_both_do():
    schedule = evaluation_schedule({"TRANSFORMER_ENV": "prod"})
    assert isinstance(schedule, AssetOrTimeSchedule)
    assert (schedule.timetable.expression, str(schedule.timetable.timezone)) == ("0 6 * * 1", "Europe/Brussels")


def test_the_configuration_switches_each_off(configured):
    configured("evaluation.schedule.on_new_model=false")
    assert evaluation_schedule({}) is None
    asked = configured("evaluation.schedule.on_new_model=false", "evaluation.schedule.cron=30 5 * * *")
    found = evaluation_schedule({"TRANSFORMER_ENV": "dev"})
    assert isinstance(found, CronTriggerTimetable)
    assert found.expression == "30 5 * * *"
    assert asked == ["dev"]


def test_an_unknown_environment_counts_as_none():
    assert evaluation_schedule({"TRANSFORMER_ENV": "locl"}) == [REGISTERED_MODEL]
    assert training_schedule({"TRANSFORMER_ENV": "locl"}) is None


@pytest.mark.parametrize("env", ["local", "local-gpu", "optuna", "dev", "prod", "ride", "ride-large"])
def test_by_default_a_person_starts_every_training(env):
    assert training_schedule({"TRANSFORMER_ENV": env}) is None


def test_a_training_starts_at_fixed_times_or_after_a_degradation(configured):
    configured("training.schedule.on_degradation=true")
    assert training_schedule({}) == [DEGRADED_MODEL]
    asked = configured("training.schedule.cron=0 3 * * *", "data.timezone=Europe/Paris")
    at_night = training_schedule({"TRANSFORMER_ENV": "dev"})
    assert isinstance(at_night, CronTriggerTimetable)
    assert (at_night.expression, str(at_night.timezone), asked) == ("0 3 * * *", "Europe/Paris", ["dev"])
    configured("training.schedule.cron=0 3 * * *", "training.schedule.on_degradation=true")
    both = training_schedule({})
    assert isinstance(both, AssetOrTimeSchedule)
    assert both.timetable.expression == "0 3 * * *"
    assert list(both.asset_condition.objects) == [DEGRADED_MODEL]


def test_the_assets_are_two():
    assert DEGRADED_MODEL.name != REGISTERED_MODEL.name and DEGRADED_MODEL.uri != REGISTERED_MODEL.uri
