"""The report of a study: a page, a text, figures, a table of all trials, and the exact conf of the best trial.

Values are validation MAE in seconds; lower is better.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import polars as pl
from matplotlib.figure import Figure
from optuna.trial import TrialState

from transformer.errors import UserError
from transformer.figures import DPI
from transformer.files import atomic_path, write_json, write_text
from transformer.text import aligned, duration, redact
from transformer.tuning import plots
from transformer.tuning.importances import Importances, basis, importances_of
from transformer.tuning.page import best_trials, parameter_values, skill_of, study_page
from transformer.tuning.space import as_override
from transformer.tuning.trials import (
    EPOCHS,
    IDENTITY,
    MLFLOW_RUN_ID,
    RETRIED,
    SECONDS,
    STATES,
    TRANSLATION_MAE,
    WARM_START,
    StudyTrials,
    failure_of,
    mae_text,
    params_of,
    value_of,
)

PAGE = "report.html"  # next to the figures
BEST_SHOWN = 5  # trials in the text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyReport:
    text: str  # for the terminal and the task log
    metrics: dict[str, float]  # for the study's MLflow run
    best_trial: int
    best_overrides: list[str]  # `key=value`, as `--set` and the DAGs' `overrides` take them


def write_study_report(study: optuna.Study, target: Path, *, env: str, overrides: Sequence[str]) -> StudyReport:
    """Write the page, `report.txt`, `best.json`, `trials.csv` and five figures of a study to `target`, each atomically.

    A figure with nothing to show is left out, and the log gives the reason. The same study gives the same files.

    Args:
        study: minimises the validation MAE, in seconds.
        env: environment of the study, for the command that trains the best trial's values.
        overrides: overrides of the study; the command does not repeat those of group `search`.

    Raises:
        UserError: no trial completed.
    """
    trials = StudyTrials.of(study)
    _refuse_none_complete(study.study_name, trials)
    values = params_of(trials.best)
    importances = importances_of(study, trials)
    best_overrides = [f"{key}={as_override(value)}" for key, value in sorted(values.items())]
    conf: dict[str, Any] = {
        "env": env,
        "overrides": [*(str(redact(o)) for o in overrides if _group(o) != "search"), *best_overrides],
    }
    if began_with := study.user_attrs.get(IDENTITY, {}).get(WARM_START):
        conf[WARM_START] = began_with
    text = _text(study.study_name, trials, importances, conf)
    write_text(target / "report.txt", text + "\n")
    write_json(
        target / "best.json",
        {"trial": trials.best.number, "value": trials.best.value, "values": values, "conf": conf},
    )
    write_text(target / "trials.csv", _table(trials).write_csv())
    figures = _write_figures(target, trials, importances)
    study_page(study.study_name, trials, importances, figures, _commands(conf)).write(target / PAGE)
    return StudyReport(text, _metrics(trials, importances), trials.best.number, best_overrides)


def _refuse_none_complete(name: str, trials: StudyTrials) -> None:
    """Refuse a study without a finite value.

    Raises:
        UserError: no complete trial has a finite value.
    """
    if trials.complete and math.isfinite(value_of(trials.best)):
        return
    failed, pruned = trials.failed, trials.pruned
    raise UserError(
        f"study {name!r}: no trial completed, {len(failed)} failed, {len(pruned)} were pruned"
        + (
            f", the last failure: {failure_of(failed[-1])}; correct that and give another study_name "
            "(search.study_name)"
            if failed
            else "; run more trials (search.n_trials)"
        )
    )


# --- the winner's conf -----------------------------------------------------------------------------------------------
def _group(override: str) -> str:
    return override.partition("=")[0].strip().removeprefix("cfg.").partition(".")[0]


def _commands(conf: Mapping[str, Any]) -> list[str]:
    """Shell commands that train with the best trial's values."""
    lines = [f"airflow dags trigger model_training --conf {shlex.quote(json.dumps(conf, ensure_ascii=False))}"]
    # `make train` has no warm start, it splits SET at spaces, and its shell splits SET at quotes.
    if WARM_START not in conf and all(re.fullmatch(r"[\w.,:/=+\"\[\]@-]+", override) for override in conf["overrides"]):
        lines.append(f"make train ENV={shlex.quote(conf['env'])} SET={shlex.quote(' '.join(conf['overrides']))}")
    return lines


# --- numbers and text ------------------------------------------------------------------------------------------------
def _metrics(trials: StudyTrials, importances: Importances) -> dict[str, float]:
    known = {
        "study/best_val_mae_s": trials.best.value,
        "study/best_skill": skill_of(trials.best),
        "study/defaults_val_mae_s": trials.defaults.value if trials.defaults else None,
        "study/trials": trials.counted,
        "study/complete": len(trials.complete),
        "study/pruned": len(trials.pruned),
        "study/failed": len(trials.failed),
        **{f"importance/{key}": share for key, share in importances.shares.items()},
    }
    return {name: float(value) for name, value in known.items() if value is not None}


def _text(name: str, trials: StudyTrials, importances: Importances, conf: Mapping[str, Any]) -> str:
    """Plain text: summary, best values, importances, best trials, commands."""
    blocks = [
        _headline(name, trials),
        _value_lines(trials),
        _importance_lines(trials, importances),
        _best_lines(trials),
    ]
    commands = ["train with these values", *(f"  {line}" for line in _commands(conf))]
    if "://***@" in str(conf):
        commands.append("  (*** stands for credentials, which are not shown)")
    return "\n\n".join("\n".join(block) for block in (*blocks, commands) if block)


def _headline(name: str, trials: StudyTrials) -> list[str]:
    counts = Counter(trials.state(trial) for trial in trials.all)
    shown = ", ".join(f"{counts[state]} {state}" for state in STATES.values() if counts[state])
    shown += f"; {counts[RETRIED]} run again under another number" if counts[RETRIED] else ""
    best, defaults, skill = trials.best, trials.defaults, skill_of(trials.best)
    lines = [
        ("study", name),
        ("trials", f"{trials.counted:,}: {shown}"),
        ("training", f"{duration(trials.seconds())} in all"),
        ("best", f"{mae_text(value_of(best))} in trial {best.number}"),
    ]
    if defaults is best:
        lines.append(("defaults", "are the best"))
    elif defaults is not None:
        gain = value_of(defaults) - value_of(best)
        share = f" ({gain / value_of(defaults):.1%})" if value_of(defaults) else ""
        lines.append(
            ("defaults", f"{mae_text(value_of(defaults))} in trial {defaults.number}; gain {gain:.2f} s{share}")
        )
    if skill is not None:
        lines.append(("translation", f"{mae_text(best.user_attrs[TRANSLATION_MAE])}; skill {skill:+.1%}"))
    return [f"{label:<12} {line}" for label, line in lines]


def _value_lines(trials: StudyTrials) -> list[str]:
    """The best values, and next to them those of the defaults; a dash for a key that the trial did not search."""
    return aligned(*parameter_values(trials))


def _importance_lines(trials: StudyTrials, importances: Importances) -> list[str]:
    if importances.missing:
        return [f"importance: not known, {importances.missing}"]
    lines = aligned(["parameter", "importance"], [[key, f"{share:.1%}"] for key, share in importances.shares.items()])
    if importances.left_out:
        lines.append(f"not judged, since not every trial has them: {', '.join(importances.left_out)}")
    return [*lines, basis(trials)]


def _best_lines(trials: StudyTrials) -> list[str]:
    return aligned(*best_trials(trials, BEST_SHOWN))


def _table(trials: StudyTrials) -> pl.DataFrame:
    """One row per trial, in the order of their start."""
    schema = {
        "number": pl.Int64,
        "state": pl.String,
        "value": pl.Float64,
        "params": pl.String,
        "epochs": pl.Int64,
        "seconds": pl.Float64,
        "mlflow_run_id": pl.String,
        "failure": pl.String,
    }
    rows = [
        (
            trial.number,
            trials.state(trial),
            trial.value,
            json.dumps(params_of(trial), sort_keys=True, ensure_ascii=False),
            trial.user_attrs.get(EPOCHS),
            trial.user_attrs.get(SECONDS),
            trial.user_attrs.get(MLFLOW_RUN_ID) or None,
            failure_of(trial) if trials.state(trial) == STATES[TrialState.FAIL] else None,
        )
        for trial in trials.all
    ]
    return pl.DataFrame(rows, schema=schema, orient="row")


# --- figures ---------------------------------------------------------------------------------------------------------
def _write_figures(folder: Path, trials: StudyTrials, importances: Importances) -> list[Path]:
    written = []
    figures: dict[str, Callable[[], Figure]] = {
        "history": partial(plots.history, trials),
        "parallel_coordinates": partial(plots.parallel_coordinates, trials),
        "importances": partial(_importance_figure, trials, importances),
        "slice": partial(plots.slices, trials),
        "intermediate_values": partial(plots.intermediate_values, trials),
    }
    for name, draw in figures.items():
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)  # the figure of an earlier report must not stay if this one is left out
        try:
            figure = draw()
        except plots.EmptyFigureError as reason:
            log.info("%s is left out: %s", path.name, reason)
            continue
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=DPI, format="png")
        written.append(path)
    return written


def _importance_figure(trials: StudyTrials, importances: Importances) -> Figure:
    if importances.missing:
        raise plots.EmptyFigureError(importances.missing)
    return plots.importance_bars(importances.shares, importances.left_out, basis(trials))
