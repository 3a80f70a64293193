"""The schedule of `model_evaluation`, and the asset with which `model_training` starts it."""

from __future__ import annotations

from collections.abc import Mapping

import pendulum
from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable

from delay_pipeline.params import EVALUATION_ENV
from transformer.config import environments, load_config
from transformer.protocol import ENV_VARIABLE

REGISTERED_MODEL = Asset(
    name="registered_delay_model",
    uri="train-delays://models/challenger",
    group="train-delays",
)


def evaluation_schedule(environ: Mapping[str, str]) -> list[Asset] | CronTriggerTimetable | AssetOrTimeSchedule | None:
    """Return the schedule of `model_evaluation` in the environment that `TRANSFORMER_ENV` names.

    An unknown name counts as unset. The DAG still parses, and its first task names the variable.
    """
    env = environ.get(ENV_VARIABLE)
    config = load_config(env if env in environments() else EVALUATION_ENV)
    schedule = config.evaluation.schedule
    assets = [REGISTERED_MODEL] if schedule.on_new_model else []
    if not schedule.cron:
        return assets or None
    timetable = CronTriggerTimetable(schedule.cron, timezone=pendulum.timezone(config.data.timezone))
    return AssetOrTimeSchedule(timetable=timetable, assets=assets) if assets else timetable
