"""The schedules of `model_training` and `model_evaluation`, and the assets with which each starts the other."""

from __future__ import annotations

from collections.abc import Mapping

import pendulum
from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable

from delay_pipeline.params import EVALUATION_ENV, TRAINING_ENV
from transformer.config import Config, environments, load_config
from transformer.protocol import ENV_VARIABLE

GROUP = "train-delays"
REGISTERED_MODEL = Asset(name="registered_delay_model", uri="train-delays://models/challenger", group=GROUP)
DEGRADED_MODEL = Asset(name="degraded_delay_model", uri="train-delays://models/degraded", group=GROUP)

Schedule = list[Asset] | CronTriggerTimetable | AssetOrTimeSchedule | None


def training_schedule(environ: Mapping[str, str]) -> Schedule:
    """Return the schedule of `model_training` in the environment that `TRANSFORMER_ENV` names.

    An unknown name counts as unset. The DAG still parses, and its first task names the variable.
    """
    config = _config(environ, TRAINING_ENV)
    schedule = config.training.schedule
    return _schedule(schedule.cron, config.data.timezone, [DEGRADED_MODEL] if schedule.on_degradation else [])


def evaluation_schedule(environ: Mapping[str, str]) -> Schedule:
    """Return the schedule of `model_evaluation`, as `training_schedule` does."""
    config = _config(environ, EVALUATION_ENV)
    schedule = config.evaluation.schedule
    return _schedule(schedule.cron, config.data.timezone, [REGISTERED_MODEL] if schedule.on_new_model else [])


def _config(environ: Mapping[str, str], default: str) -> Config:
    env = environ.get(ENV_VARIABLE)
    return load_config(env if env in environments() else default)


def _schedule(cron: str, timezone: str, assets: list[Asset]) -> Schedule:
    if not cron:
        return assets or None
    timetable = CronTriggerTimetable(cron, timezone=pendulum.timezone(timezone))
    return AssetOrTimeSchedule(timetable=timetable, assets=assets) if assets else timetable
