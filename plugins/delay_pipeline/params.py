"""DAG params of a training, a study and an evaluation: how the trigger form shows them, and the rules they follow.

Airflow accepts unknown conf keys silently, and its trigger form sends every field. So the rules are applied to
`dag_run.conf` itself by the first task: explicit conf beats the environment variable, which beats the default.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from airflow.sdk import Param

from transformer.config import environments
from transformer.errors import UserError
from transformer.tracking.names import is_run_id

ENV_VARIABLE = "TRANSFORMER_ENV"
WARM_START_VARIABLE = "TRANSFORMER_WARM_START_RUN_ID"
RESUME_VARIABLE = "TRANSFORMER_RESUME_RUN"
TRAINING_ENV = "local"
TUNING_ENV = "optuna"
EVALUATION_ENV = TRAINING_ENV
SWITCH = {"0": False, "1": True}

# Sections of the trigger form. Airflow opens the one of this name, its default, and folds up all others. In their
# descriptions code stands in the first line only, what is below is bold: the box around code hides the line above.
OPEN_SECTION = "Run Parameters"
EARLIER_RUNS_SECTION = "Earlier MLflow runs"
EXCEPTIONS_SECTION = "Exceptions"


@dataclass(frozen=True)
class TrainingParams:
    """What a training was asked to do, after all rules.

    Attributes:
        run_id: existing MLflow run to log into; None = open one. Of a resumed run it is that run.
        warm_start_run_id: MLflow run whose weights to start from, or the run to continue when `resume_run`.
    """

    env: str
    overrides: list[str]
    run_id: str | None
    warm_start_run_id: str | None
    resume_run: bool


@dataclass(frozen=True)
class TuningParams(TrainingParams):
    """What a study was asked to do: `n_trials`, `n_workers` and `study_name` are the last of the overrides.

    Attributes:
        warm_start_run_id: MLflow run whose weights every trial begins with, or the study's own when `resume_run`.
        train_best: start a training with the best trial's values afterwards.
    """

    train_best: bool


@dataclass(frozen=True)
class EvaluationParams:
    """What an evaluation was asked to do.

    Attributes:
        warm_start_run_id: MLflow run to evaluate; None = champion and challenger of the registry.
        window: first and last service date, or the number of last ones; None = as many as the configuration says.
    """

    env: str
    overrides: list[str]
    warm_start_run_id: str | None
    window: tuple[str, str] | int | None
    again: bool
    allow_training_dates: bool


def training_params(environ: Mapping[str, str]) -> dict[str, Param]:
    """Params of a training's trigger form, with defaults from the environment variables.

    A variable with a bad value leaves its field empty: the DAG still parses and its first task names the variable.
    """
    return _run_params(
        environ,
        TRAINING_ENV,
        weights="Id of the MLflow run whose weights training begins with.",
        resume="Continue the run above itself: its weights, optimizer, epoch and metric axis.",
    )


def tuning_params(environ: Mapping[str, str]) -> dict[str, Param]:
    """Params of a study's trigger form: those of a training, and the study's own."""
    params = _run_params(
        environ,
        TUNING_ENV,
        weights="Id of the MLflow run whose weights every trial begins with.",
        resume="The run above is a study's own: go on in it instead of opening another.",
    )
    params |= {
        "n_trials": Param(
            None,
            type=["integer", "null"],
            minimum=1,
            title="Trials",
            description_md="Of the study **in total**, those of earlier DAG runs included. Empty: `search.n_trials`.",
            section=OPEN_SECTION,
        ),
        "n_workers": Param(
            None,
            type=["integer", "null"],
            minimum=1,
            title="Workers",
            description_md="Trials at a time. More than one needs `search.storage_url`. Empty: `search.n_workers`.",
            section=OPEN_SECTION,
        ),
        "study_name": Param(
            None,
            type=["string", "null"],
            title="Study",
            description_md="A study of this name is continued, else a new one begins. Empty: `search.study_name`.",
            section=OPEN_SECTION,
        ),
        "train_best": Param(
            False,
            type=["boolean", "null"],
            title="Train the best",
            description_md="Start `model_training` with the values of the best trial when the study is done.",
            section=OPEN_SECTION,
        ),
    }
    return params


def evaluation_params(environ: Mapping[str, str]) -> dict[str, Param]:
    """Params of an evaluation's trigger form."""
    return {
        **_configuration_params(environ, EVALUATION_ENV),
        "warm_start_run_id": Param(
            None,
            type=["string", "null"],
            title="Run to evaluate",
            description_md="Id of the MLflow run of a training. Empty: the registered champion, and the challenger "
            "when there is one.",
            section=OPEN_SECTION,
        ),
        "window_first": Param(
            None,
            type=["string", "null"],
            format="date",
            title="First service date",
            description_md="With the last one below. Both empty: the last dates that have data.",
            section=OPEN_SECTION,
        ),
        "window_last": Param(
            None,
            type=["string", "null"],
            format="date",
            title="Last service date",
            description_md="Included.",
            section=OPEN_SECTION,
        ),
        "window_dates": Param(
            None,
            type=["integer", "null"],
            minimum=1,
            title="Or number of last dates",
            description_md="So many of those before today that have data, without those that trained the model."
            "\n\nEmpty: **evaluation.schedule.last_dates**.",
            section=OPEN_SECTION,
        ),
        "again": Param(
            False,
            type=["boolean", "null"],
            title="Evaluate again",
            description_md="Also when the run has results on these dates; they are replaced.",
            section=EXCEPTIONS_SECTION,
        ),
        "allow_training_dates": Param(
            False,
            type=["boolean", "null"],
            title="Allow training dates",
            description_md="Also dates that trained or validated the model. Nothing is promoted on those.",
            section=EXCEPTIONS_SECTION,
        ),
    }


def _run_params(environ: Mapping[str, str], default_env: str, *, weights: str, resume: str) -> dict[str, Param]:
    """Params of what opens an MLflow run; `weights` and `resume` say what a warm start and its resuming mean there."""
    return {
        **_configuration_params(environ, default_env),
        "run_id": Param(
            None,
            type=["string", "null"],
            title="MLflow run to log into",
            description_md="Id of an **existing** run. Empty: a new run is opened.",
            section=EARLIER_RUNS_SECTION,
        ),
        "warm_start_run_id": Param(
            environ.get(WARM_START_VARIABLE) or None,
            type=["string", "null"],
            title="Warm start from run",
            description_md=f"{weights}\n\nDefault: **{WARM_START_VARIABLE}**, else random weights.",
            section=EARLIER_RUNS_SECTION,
        ),
        "resume_run": Param(
            SWITCH.get(environ.get(RESUME_VARIABLE) or "0"),
            type=["boolean", "null"],
            title="Resume that run",
            description_md=f"{resume}\n\nDefault: **{RESUME_VARIABLE}** (0 or 1), else off.",
            section=EARLIER_RUNS_SECTION,
        ),
    }


def _configuration_params(environ: Mapping[str, str], default_env: str) -> dict[str, Param]:
    """Params of every DAG."""
    env: str | None = environ.get(ENV_VARIABLE) or default_env
    choices: list[str | None] = [*environments()]
    if env not in choices:
        env, choices = None, [*choices, None]
    return {
        "env": Param(
            env,
            type=["string", "null"],
            enum=choices,
            title="Environment",
            description_md="Configuration folder in `include/config`. "
            f"Default: `{ENV_VARIABLE}`, else `{default_env}`.",
            section=OPEN_SECTION,
        ),
        "overrides": Param(
            [],
            type=["array", "null"],
            items={"type": "string"},
            title="Overrides",
            description_md="One `key=value` a line, on top of the environment: `training.max_epochs=5`"
            "\n\nAll keys: **python -m transformer config**",
            section=OPEN_SECTION,
        ),
    }


def read_params(conf: Mapping[str, Any] | None, environ: Mapping[str, str]) -> TrainingParams:
    """Apply every rule to the conf of a training's DAG run and the environment variables.

    Raises:
        UserError: unknown key, wrong type, unknown environment, a bad environment variable that is not overruled, or
            a combination that makes no sense.
    """
    conf = conf or {}
    _refuse_unknown(conf, training_params({}))
    return _run_request(conf, environ, TRAINING_ENV)


def read_tuning_params(conf: Mapping[str, Any] | None, environ: Mapping[str, str]) -> TuningParams:
    """Apply every rule to the conf of a study's DAG run and the environment variables.

    Raises:
        UserError: as `read_params`.
    """
    conf = conf or {}
    _refuse_unknown(conf, tuning_params({}))
    request = _run_request(conf, environ, TUNING_ENV)
    search = {
        "n_trials": _count("n_trials", conf, "search.n_trials"),
        "n_workers": _count("n_workers", conf, "search.n_workers"),
        "study_name": _study_name(conf),
    }
    given = [f"search.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in search.items() if value]
    return TuningParams(
        **{**vars(request), "overrides": [*request.overrides, *given]},
        train_best=_switch("train_best", conf),
    )


def read_evaluation_params(conf: Mapping[str, Any] | None, environ: Mapping[str, str]) -> EvaluationParams:
    """Apply every rule to the conf of an evaluation's DAG run and the environment variables.

    The variable with the run to warm-start from has no say: it is about what trains.

    Raises:
        UserError: as `read_params`.
    """
    conf = conf or {}
    _refuse_unknown(conf, evaluation_params({}))
    first, last = (_date(key, conf) for key in ("window_first", "window_last"))
    count = _count("window_dates", conf, "evaluation.schedule.last_dates")
    if (first is None) != (last is None):
        raise UserError("conf: window_first and window_last go together; give both, or window_dates")
    if count and first:
        raise UserError(f"conf: window_dates={count} and window_first={first} are two windows; give one of them")
    if first and last and first > last:
        raise UserError(f"conf: window_first={first} is after window_last={last}; exchange them")
    return EvaluationParams(
        env=_env(conf, environ, EVALUATION_ENV),
        overrides=_overrides(conf),
        warm_start_run_id=_run_id("warm_start_run_id", conf, None),
        window=(first, last) if first and last else count,
        again=_switch("again", conf),
        allow_training_dates=_switch("allow_training_dates", conf),
    )


def _refuse_unknown(conf: Mapping[str, Any], params: Mapping[str, Param]) -> None:
    known = list(params)
    for key in conf:
        if key not in known:
            raise UserError(f"conf: unknown key {key!r}{_remedy(key, known)}")


def _run_request(conf: Mapping[str, Any], environ: Mapping[str, str], default_env: str) -> TrainingParams:
    """What every DAG is asked."""
    warm_start_run_id = _run_id("warm_start_run_id", conf, environ.get(WARM_START_VARIABLE))
    run_id = _run_id("run_id", conf, None)
    resume_run = _resume_run(conf, environ)
    if resume_run and not warm_start_run_id:
        raise UserError("resume_run=true needs warm_start_run_id, the MLflow run to continue")
    if resume_run and run_id not in (None, warm_start_run_id):
        raise UserError(
            f"run_id={run_id!r} is not the run to resume, warm_start_run_id={warm_start_run_id!r}; leave run_id out"
        )
    return TrainingParams(
        env=_env(conf, environ, default_env),
        overrides=_overrides(conf),
        run_id=warm_start_run_id if resume_run else run_id,
        warm_start_run_id=warm_start_run_id,
        resume_run=resume_run,
    )


def _env(conf: Mapping[str, Any], environ: Mapping[str, str], default: str) -> str:
    given = conf.get("env")
    source, env = ("conf: env", given) if given not in (None, "") else (ENV_VARIABLE, environ.get(ENV_VARIABLE))
    if env in (None, ""):
        return default
    if not isinstance(env, str):
        raise UserError(f"{source}={env!r} is not a text; write the name of an environment in quotes")
    if env not in (known := environments()):
        raise UserError(f"{source}={env!r} is unknown{_remedy(env, known)}")
    return env


def _run_id(key: str, conf: Mapping[str, Any], default: str | None) -> str | None:
    """An MLflow run id; empty in the conf means none, whatever the environment says."""
    value = conf.get(key, default)
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"conf: {key}={value!r} is not a text; write the MLflow run id in quotes")
    value = value.strip()
    if value and not is_run_id(value):
        raise UserError(f"{key}={value!r} is not an MLflow run id; copy it from the run's page")
    return value or None


def _resume_run(conf: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    given = conf.get("resume_run")
    if given is None:
        text = environ.get(RESUME_VARIABLE) or "0"
        if text not in SWITCH:
            raise UserError(f"{RESUME_VARIABLE}={text!r} is neither 0 nor 1; set one of them or unset it")
        return SWITCH[text]
    return _boolean("resume_run", given)


def _switch(key: str, conf: Mapping[str, Any]) -> bool:
    """A boolean; absent or empty = off."""
    given = conf.get(key)
    return given is not None and _boolean(key, given)


def _boolean(key: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise UserError(f"conf: {key}={given!r} is not a boolean; write true or false")
    return given


def _overrides(conf: Mapping[str, Any]) -> list[str]:
    given = conf.get("overrides")
    if given is None:
        return []
    if not isinstance(given, list):
        raise UserError(f'conf: overrides={given!r} is not a list; write ["key=value", …]')
    for override in given:
        if not isinstance(override, str):
            raise UserError(f'conf: overrides holds {override!r}, which is not a text; write "key=value"')
    return given


def _count(key: str, conf: Mapping[str, Any], default_key: str) -> int | None:
    """A number above 0; None = the configuration's `default_key` counts."""
    given = conf.get(key)
    if given in (None, ""):
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise UserError(f"conf: {key}={given!r} is not a whole number above 0; leave it out to take {default_key}")
    return given


def _date(key: str, conf: Mapping[str, Any]) -> str | None:
    given = conf.get(key)
    if given in (None, ""):
        return None
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", given):
            raise ValueError
        date.fromisoformat(given)
    except (TypeError, ValueError):
        raise UserError(f"conf: {key}={given!r} is not a date; write 2024-12-21") from None
    return given


def _study_name(conf: Mapping[str, Any]) -> str | None:
    given = conf.get("study_name")
    if given is not None and not isinstance(given, str):
        raise UserError(f"conf: study_name={given!r} is not a text; write the name in quotes")
    return given and given.strip()


def _remedy(name: str, known: Sequence[str]) -> str:
    """The nearest valid name, or all of them when none is near."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known: {', '.join(known)}"
