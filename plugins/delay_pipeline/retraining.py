"""Trainings that no person starts: at fixed times, or after an evaluation found that a model has become worse.

The events of the asset DEGRADED_MODEL record which evaluations asked for a training. The tasks import MLflow only when
they run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from delay_pipeline.failures import one_line_failures
from delay_pipeline.params import TrainingParams, read_params
from delay_pipeline.schedules import DEGRADED_MODEL
from transformer.config import Config, load_config

if TYPE_CHECKING:
    from transformer.evaluation.outcome import Outcome

log = logging.getLogger(__name__)

AUTOMATIC = ("scheduled", "asset_triggered")  # types of the DAG runs that nobody starts
TRAINING_DAG = "model_training"
UNDER_WAY = ("queued", "running")


def finding(models: Sequence[tuple[Mapping[str, Any], Outcome]], promoted: str) -> dict[str, Any] | None:
    """Return why to train again after an evaluation; None = no model has become worse, or a better one replaces it.

    Args:
        models: the input of each evaluation, and its outcome; the newest model comes last.
        promoted: MLflow run of the model that the gate promotes; "" = it promotes none.

    Returns:
        `env` and `overrides` of the newest model that has become worse, the `window` of all evaluations, and `reason`,
        one line.
    """
    worse = [(model, found) for model, found in models if found.worse]
    if not worse or (promoted and promoted not in [model["run_id"] for model, _ in worse]):
        return None
    firsts, lasts = zip(*(found.window.split("..") for _, found in worse), strict=True)
    return {
        "env": worse[-1][0]["env"],
        "overrides": worse[-1][0]["overrides"],
        "window": f"{min(firsts)}..{max(lasts)}",
        "reason": "; ".join(f"{model['model']} on {found.window}: {found.worse}" for model, found in worse),
    }


def request_training(decision: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Ask for a training if a model has become worse. The asset event of this task starts `model_training`.

    Raises:
        AirflowSkipException: no training is needed, wanted or possible now, or one was asked for before.
        AirflowFailException: the configuration is wrong; not retried.
    """
    found = decision["retraining"]
    if not found:
        raise AirflowSkipException("no model has become worse")
    log.warning(found["reason"])
    if context["dag_run"].run_type not in AUTOMATIC:
        raise AirflowSkipException(f"a person started this evaluation: trigger {TRAINING_DAG} to train again")
    with one_line_failures(context["ti"]):
        config = load_config(found["env"], found["overrides"])
    if not config.training.schedule.on_degradation:
        raise AirflowSkipException("training.schedule.on_degradation=false: no training is started")
    if earlier := _requested(found, context):
        raise AirflowSkipException(f"window {earlier} shares dates with this one, and asked for a training before")
    if context["ti"].get_dr_count(dag_id=TRAINING_DAG, states=list(UNDER_WAY)):
        raise AirflowSkipException(f"a DAG run of {TRAINING_DAG} is queued or running: its model is evaluated next")
    context["outlet_events"][DEGRADED_MODEL].extra = dict(found)
    return dict(found)


def training_request(context: Context) -> tuple[TrainingParams, str]:
    """Return the request of a DAG run of `model_training`, and why an evaluation asked for it ("" = none did).

    A run that nobody started trains anew or from the champion, as `training.schedule.warm_start` says. The environment
    variables of a warm start do not count.

    Raises:
        UserError: as `read_params`.
        ServiceError: MLflow does not answer.
    """
    dag_run = context["dag_run"]
    if dag_run.run_type not in AUTOMATIC:
        return read_params(dag_run.conf, os.environ), ""
    asked = _asked(context)
    given = {key: asked[key] for key in ("env", "overrides") if key in asked}
    request = read_params(given | {"warm_start_run_id": None, "resume_run": False}, os.environ)
    config = load_config(request.env, request.overrides)
    if config.training.schedule.warm_start == "champion":
        request = replace(request, warm_start_run_id=_champion_run(config))
    return request, str(asked.get("reason") or "")


def _asked(context: Context) -> dict[str, Any]:
    """Return what the newest event says that started this DAG run; {} = a fixed time did, or an event by hand."""
    events = (context.get("triggering_asset_events") or {}).get(DEGRADED_MODEL, ())
    newest = max(events, key=lambda event: event.timestamp, default=None)
    return (newest and newest.extra) or {}


def _requested(found: Mapping[str, Any], context: Context) -> str:
    """Return the window of an earlier request in the same environment that shares dates with this one; "" = none."""
    first, last = found["window"].split("..")
    for event in context["inlet_events"][DEGRADED_MODEL]:
        before = event.extra or {}
        earliest, _, latest = str(before.get("window") or "").partition("..")
        if before.get("env") == found["env"] and earliest <= last and first <= latest:
            return f"{earliest}..{latest}"
    return ""


def _champion_run(config: Config) -> str | None:
    """Return the MLflow run of the champion; None = there is none to begin with."""
    from transformer.registry.versions import champion

    found = champion(config)
    if found and not found.foreign:
        return found.run_id
    log.warning("training.schedule.warm_start=champion: %s; training anew", found.foreign if found else "no champion")
    return None
