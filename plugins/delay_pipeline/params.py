"""DAG params of a training, a study and an evaluation: their fields in the trigger form, and their rules.

Airflow accepts unknown conf keys silently, and its trigger form sends every field. The first task therefore applies the
rules to `dag_run.conf` itself. Explicit conf beats the environment variable, and the variable beats the default.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pendulum
from airflow.sdk import Param

from transformer.config import environments
from transformer.errors import UserError
from transformer.protocol import ENV_VARIABLE, RESUME_VARIABLE, WARM_START_VARIABLE
from transformer.tracking.names import is_run_id

TRAINING_ENV = "local"
TUNING_ENV = "optuna"
EVALUATION_ENV = TRAINING_ENV
SWITCH = {"0": False, "1": True}

# Sections of the trigger form. Airflow opens the section of this name, which is its default, and folds up all others.
# A description has code in its first line only, and bold text below: the box around code hides the line above it.
OPEN_SECTION = "Run Parameters"
EARLIER_RUNS_SECTION = "Earlier MLflow runs"
EXCEPTIONS_SECTION = "Exceptions"


@dataclass(frozen=True)
class TrainingParams:
    """A checked request to train.

    Attributes:
        run_id: existing MLflow run to log into; None = open a new one. When a run is resumed, this is the resumed run.
        warm_start_run_id: MLflow run whose weights the training begins with; if `resume_run`, the run to continue.
    """

    env: str
    overrides: list[str]
    run_id: str | None
    warm_start_run_id: str | None
    resume_run: bool


@dataclass(frozen=True)
class TuningParams(TrainingParams):
    """A checked request to run a study. `n_trials`, `n_workers` and `study_name` are appended to the overrides.

    Attributes:
        warm_start_run_id: MLflow run whose weights every trial begins with; if `resume_run`, the study's own run.
        train_best: start a training with the best trial's values afterwards.
    """

    train_best: bool


@dataclass(frozen=True)
class EvaluationParams:
    """A checked request to evaluate.

    Attributes:
        warm_start_run_id: MLflow run to evaluate; None = champion and challenger of the registry.
        window: first and last service date, or a number of newest dates; None = the number in the configuration.
    """

    env: str
    overrides: list[str]
    warm_start_run_id: str | None
    window: tuple[str, str] | int | None
    again: bool
    allow_training_dates: bool


def training_params(environ: Mapping[str, str]) -> dict[str, Param]:
    """Return the params of a training, with defaults from the environment variables.

    A variable with a bad value leaves its field empty. The DAG still parses, and its first task names the variable.
    """
    return _run_params(
        environ,
        TRAINING_ENV,
        weights="Id of an MLflow run. The training begins with the weights of that run.",
        resume="Continue the run above itself, with its weights, optimizer, epoch and metric axis.",
    )


def tuning_params(environ: Mapping[str, str]) -> dict[str, Param]:
    """Return the params of a study: those of a training, and four more."""
    params = _run_params(
        environ,
        TUNING_ENV,
        weights="Id of an MLflow run. Every trial begins with the weights of that run.",
        resume="The run above belongs to a study. Continue in it, and open no new run.",
    )
    params |= {
        "n_trials": Param(
            None,
            type=["integer", "null"],
            minimum=1,
            title="Trials",
            description_md="Total of the study, trials of earlier DAG runs included. Empty: `search.n_trials`.",
            section=OPEN_SECTION,
        ),
        "n_workers": Param(
            None,
            type=["integer", "null"],
            minimum=1,
            title="Workers",
            description_md="Trials at the same time. Several need `search.storage_url`. Empty: `search.n_workers`.",
            section=OPEN_SECTION,
        ),
        "study_name": Param(
            None,
            type=["string", "null"],
            title="Study",
            description_md="The study to continue. A new name begins a new study. Empty: `search.study_name`.",
            section=OPEN_SECTION,
        ),
        "train_best": Param(
            False,
            type=["boolean", "null"],
            title="Train the best",
            description_md="When the study is done, start `model_training` with the values of the best trial.",
            section=OPEN_SECTION,
        ),
    }
    return params


def evaluation_params(environ: Mapping[str, str]) -> dict[str, Param]:
    """Return the params of an evaluation."""
    return {
        **_configuration_params(environ, EVALUATION_ENV),
        "warm_start_run_id": Param(
            None,
            type=["string", "null"],
            title="Run to evaluate",
            description_md="Id of the MLflow run of a training. Empty: the registered champion, and the challenger "
            "if there is one.",
            section=OPEN_SECTION,
        ),
        "window_first": Param(
            None,
            type=["string", "null"],
            format="date",
            title="First service date",
            description_md="First date of the window. Give the last one, too. Both empty: the newest dates with data.",
            section=OPEN_SECTION,
        ),
        "window_last": Param(
            None,
            type=["string", "null"],
            format="date",
            title="Last service date",
            description_md="Last date of the window, included.",
            section=OPEN_SECTION,
        ),
        "window_dates": Param(
            None,
            type=["integer", "null"],
            minimum=1,
            title="Or number of newest dates",
            description_md="Evaluate this many of the newest dates before today that have data. Dates that trained the "
            "model do not count.\n\nEmpty: **evaluation.schedule.last_dates**.",
            section=OPEN_SECTION,
        ),
        "again": Param(
            False,
            type=["boolean", "null"],
            title="Evaluate again",
            description_md="Evaluate these dates although the run has results on them, and replace the results.",
            section=EXCEPTIONS_SECTION,
        ),
        "allow_training_dates": Param(
            False,
            type=["boolean", "null"],
            title="Allow training dates",
            description_md="Also evaluate dates that trained or validated the model. This promotes nothing.",
            section=EXCEPTIONS_SECTION,
        ),
    }


def _run_params(environ: Mapping[str, str], default_env: str, *, weights: str, resume: str) -> dict[str, Param]:
    """Return the params of a DAG that opens an MLflow run.

    Args:
        weights: description of `warm_start_run_id`.
        resume: description of `resume_run`.
    """
    return {
        **_configuration_params(environ, default_env),
        "run_id": Param(
            None,
            type=["string", "null"],
            title="MLflow run to log into",
            description_md="Id of an existing run. Empty: the first task opens a new run.",
            section=EARLIER_RUNS_SECTION,
        ),
        "warm_start_run_id": Param(
            environ.get(WARM_START_VARIABLE) or None,
            type=["string", "null"],
            title="Warm start from run",
            description_md=f"{weights}\n\nDefault: **{WARM_START_VARIABLE}**. If that is unset: random weights.",
            section=EARLIER_RUNS_SECTION,
        ),
        "resume_run": Param(
            SWITCH.get(environ.get(RESUME_VARIABLE) or "0"),
            type=["boolean", "null"],
            title="Resume that run",
            description_md=f"{resume}\n\nDefault: **{RESUME_VARIABLE}** (0 or 1). If that is unset: off.",
            section=EARLIER_RUNS_SECTION,
        ),
    }


def _configuration_params(environ: Mapping[str, str], default_env: str) -> dict[str, Param]:
    """Return the params of every DAG."""
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
            f"Default: `{ENV_VARIABLE}`. If that is unset: `{default_env}`.",
            section=OPEN_SECTION,
        ),
        "overrides": Param(
            [],
            type=["array", "null"],
            items={"type": "string"},
            title="Overrides",
            description_md="Keys to change in the configuration, one `key=value` per line: `training.max_epochs=5`"
            "\n\nAll keys: **python -m transformer config**",
            section=OPEN_SECTION,
        ),
    }


def read_params(conf: Mapping[str, Any] | None, environ: Mapping[str, str]) -> TrainingParams:
    """Check the conf of a training's DAG run and the environment variables.

    Raises:
        UserError: an unknown key, a wrong type, an unknown environment, a bad environment variable that the conf does
            not overrule, or a contradiction between keys.
    """
    conf = conf or {}
    _refuse_unknown(conf, training_params({}))
    return _run_request(conf, environ, TRAINING_ENV)


def read_tuning_params(conf: Mapping[str, Any] | None, environ: Mapping[str, str]) -> TuningParams:
    """Check the conf of a study's DAG run and the environment variables.

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
    """Check the conf of an evaluation's DAG run and the environment variables.

    `TRANSFORMER_WARM_START_RUN_ID` is ignored, since it names a run to train from.

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
    """Check the keys that a training and a study share."""
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
    """Return an MLflow run id. An empty one in the conf means none, even if the environment variable names a run."""
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
    """Return a boolean. If the key is absent or null, it is off."""
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
    """Return a number above 0, or None if the configuration's `default_key` applies."""
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
        pendulum.Date.fromisoformat(given)
    except (TypeError, ValueError):
        raise UserError(f"conf: {key}={given!r} is not a date; write 2024-12-21") from None
    return given


def _study_name(conf: Mapping[str, Any]) -> str | None:
    given = conf.get("study_name")
    if given is not None and not isinstance(given, str):
        raise UserError(f"conf: study_name={given!r} is not a text; write the name in quotes")
    return given and given.strip()


def _remedy(name: str, known: Sequence[str]) -> str:
    """Name the nearest valid name, or all valid names if none is near."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known: {', '.join(known)}"
