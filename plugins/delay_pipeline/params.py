"""DAG params of a training: how the trigger form shows them, and the rules that `open_run` holds them to.

Airflow accepts unknown conf keys silently, and its trigger form sends every field. So the rules are applied to
`dag_run.conf` itself by the first task: explicit conf beats the environment variable, which beats the default.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow.sdk import Param

from transformer.config import environments
from transformer.errors import UserError

ENV_VARIABLE = "TRANSFORMER_ENV"
WARM_START_VARIABLE = "TRANSFORMER_WARM_START_RUN_ID"
RESUME_VARIABLE = "TRANSFORMER_RESUME_RUN"
DEFAULT_ENV = "local"
SWITCH = {"0": False, "1": True}


@dataclass(frozen=True)
class TrainingRequest:
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


def training_params(environ: Mapping[str, str]) -> dict[str, Param]:
    """Params of the trigger form, with defaults from the environment variables.

    A variable with a bad value leaves its field empty: the DAG still parses and its first task names the variable.
    """
    env: str | None = environ.get(ENV_VARIABLE) or DEFAULT_ENV
    choices: list[str | None] = [*environments()]
    if env not in choices:
        env, choices = None, [*choices, None]
    resume = SWITCH.get(environ.get(RESUME_VARIABLE) or "0")
    return {
        "env": Param(
            env,
            type=["string", "null"],
            enum=choices,
            title="Environment",
            description_md="Configuration folder in `include/config`. "
            f"Default: `{ENV_VARIABLE}`, else `{DEFAULT_ENV}`.",
            section="Configuration",
        ),
        "overrides": Param(
            [],
            type=["array", "null"],
            items={"type": "string"},
            title="Overrides",
            description_md="One `key=value` a line, on top of the environment: `training.max_epochs=5`. "
            "`python -m transformer config` lists the keys.",
            section="Configuration",
        ),
        "run_id": Param(
            None,
            type=["string", "null"],
            title="MLflow run to log into",
            description_md="Id of an **existing** run. Empty: a new run is opened.",
            section="MLflow run",
        ),
        "warm_start_run_id": Param(
            environ.get(WARM_START_VARIABLE) or None,
            type=["string", "null"],
            title="Warm start from run",
            description_md="Id of the MLflow run whose weights training begins with. "
            f"Default: `{WARM_START_VARIABLE}`, else random weights.",
            section="MLflow run",
        ),
        "resume_run": Param(
            resume,
            type=["boolean", "null"],
            title="Resume that run",
            description_md="Continue the run above itself: its weights, optimizer, epoch and metric axis. "
            f"Default: `{RESUME_VARIABLE}` (`0` or `1`), else off.",
            section="MLflow run",
        ),
    }


def read_request(conf: Mapping[str, Any] | None, environ: Mapping[str, str]) -> TrainingRequest:
    """Apply every rule to the conf of a DAG run and the environment variables.

    Raises:
        UserError: unknown key, wrong type, unknown environment, a bad environment variable that is not overruled, or
            a combination that makes no sense.
    """
    conf = conf or {}
    known = list(training_params({}))
    for key in conf:
        if key not in known:
            raise UserError(f"conf: unknown key {key!r}{_remedy(key, known)}")

    warm_start_run_id = _run_id("warm_start_run_id", conf, environ.get(WARM_START_VARIABLE))
    run_id = _run_id("run_id", conf, None)
    resume_run = _resume_run(conf, environ)
    if resume_run and not warm_start_run_id:
        raise UserError("resume_run=true needs warm_start_run_id, the MLflow run to continue")
    if resume_run and run_id not in (None, warm_start_run_id):
        raise UserError(
            f"run_id={run_id!r} is not the run to resume, warm_start_run_id={warm_start_run_id!r}; leave run_id out"
        )
    return TrainingRequest(
        env=_env(conf, environ),
        overrides=_overrides(conf),
        run_id=warm_start_run_id if resume_run else run_id,
        warm_start_run_id=warm_start_run_id,
        resume_run=resume_run,
    )


def _env(conf: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    given = conf.get("env")
    source, env = ("conf: env", given) if given not in (None, "") else (ENV_VARIABLE, environ.get(ENV_VARIABLE))
    if env in (None, ""):
        return DEFAULT_ENV
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
    if value.startswith("-") or len(value.split()) > 1:  # an option of the stage's command line, not an id
        raise UserError(f"{key}={value!r} is not an MLflow run id; copy it from the run's page")
    return value or None


def _resume_run(conf: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    given = conf.get("resume_run")
    if given is None:
        text = environ.get(RESUME_VARIABLE) or "0"
        if text not in SWITCH:
            raise UserError(f"{RESUME_VARIABLE}={text!r} is neither 0 nor 1; set one of them or unset it")
        return SWITCH[text]
    if not isinstance(given, bool):
        raise UserError(f"conf: resume_run={given!r} is not a boolean; write true or false")
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


def _remedy(name: str, known: Sequence[str]) -> str:
    """The nearest valid name, or all of them when none is near."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known: {', '.join(known)}"
