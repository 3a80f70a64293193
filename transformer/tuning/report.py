"""The report of a study: a text for people, figures, a table of all trials, and the exact conf of the best trial.

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
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from transformer.errors import UserError
from transformer.figures import DPI
from transformer.files import atomic_path, write_json, write_text
from transformer.text import aligned, duration, redact
from transformer.tuning import plots
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
    value_text,
)

BEST_SHOWN = 5  # trials in the text
FOREST_SEED = 0  # seed of fANOVA's random forest, so the same study gives the same importances
# Number of complete trials that importances need. The most important of nine parameters was ranked first with 25
# trials, second or third with 12, and anywhere with 8.
RELIABLE = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyReport:
    text: str  # for the terminal and the task log
    metrics: dict[str, float]  # for the study's MLflow run
    best_trial: int
    best_overrides: list[str]  # `key=value`, as `--set` and the DAGs' `overrides` take them


def write_study_report(study: optuna.Study, target: Path, *, env: str, overrides: Sequence[str]) -> StudyReport:
    """Write `report.txt`, `best.json`, `trials.csv` and five figures of a study to `target`, each file atomically.

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
    importances = _importances(study, trials)
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
    _write_figures(target, trials, importances)
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


def _skill(trial: FrozenTrial) -> float | None:
    """1 − MAE / MAE of translation on the same rows; None if the latter is unknown or 0."""
    translation = trial.user_attrs.get(TRANSLATION_MAE)
    return 1 - value_of(trial) / translation if translation else None


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
@dataclass(frozen=True)
class _Importances:
    """Share of the variation of the validation MAE that each parameter alone explains, the largest first."""

    shares: dict[str, float]
    left_out: list[str]  # keys that at least one complete trial lacks
    missing: str = ""  # reason if there are no shares


def _importances(study: optuna.Study, trials: StudyTrials) -> _Importances:
    # This is fANOVA and not Optuna's default PED-ANOVA, although PED-ANOVA also judges conditional parameters. In a
    # test with 25 complete trials, one of 11 parameters decided everything: fANOVA gave it 99 %, PED-ANOVA 5 %. On pure
    # noise PED-ANOVA gave 43 % to a parameter that few trials had. PED-ANOVA needs hundreds of trials; a study tens.
    searched = {key for trial in trials.complete for key in trial.params}
    common = {key for key in searched if all(key in trial.params for trial in trials.complete)}
    left_out = sorted(searched - common)
    if len(trials.complete) < 2:
        return _Importances({}, left_out, missing="only one trial completed")
    if len(common) < 2:
        reason = "fewer than two parameters were searched in every complete trial"
        return _Importances({}, left_out, missing=reason)
    top = trials.top
    try:
        shares = get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(seed=FOREST_SEED), target=lambda trial: min(value_of(trial), top)
        )
    except RuntimeError:  # fANOVA needs variance
        return _Importances({}, left_out, missing="the complete trials do not differ")
    ordered = sorted(shares.items(), key=lambda share: (-share[1], share[0]))
    return _Importances({key: float(share) for key, share in ordered}, left_out)


def _metrics(trials: StudyTrials, importances: _Importances) -> dict[str, float]:
    known = {
        "study/best_val_mae_s": trials.best.value,
        "study/best_skill": _skill(trials.best),
        "study/defaults_val_mae_s": trials.defaults.value if trials.defaults else None,
        "study/trials": trials.counted,
        "study/complete": len(trials.complete),
        "study/pruned": len(trials.pruned),
        "study/failed": len(trials.failed),
        **{f"importance/{key}": share for key, share in importances.shares.items()},
    }
    return {name: float(value) for name, value in known.items() if value is not None}


def _text(name: str, trials: StudyTrials, importances: _Importances, conf: Mapping[str, Any]) -> str:
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
    best, defaults, skill = trials.best, trials.defaults, _skill(trials.best)
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
    columns = {f"best ({trials.best.number})": params_of(trials.best)}
    if trials.defaults is not None and trials.defaults is not trials.best:
        columns[f"defaults ({trials.defaults.number})"] = params_of(trials.defaults)
    keys = sorted({key for values in columns.values() for key in values})
    return aligned(
        ["parameter (trial)", *columns],
        [[key, *(value_text(values[key]) if key in values else "-" for values in columns.values())] for key in keys],
    )


def _importance_lines(trials: StudyTrials, importances: _Importances) -> list[str]:
    if importances.missing:
        return [f"importance: not known, {importances.missing}"]
    lines = aligned(["parameter", "importance"], [[key, f"{share:.1%}"] for key, share in importances.shares.items()])
    if importances.left_out:
        lines.append(f"not judged, since not every trial has them: {', '.join(importances.left_out)}")
    return [*lines, _basis(trials)]


def _basis(trials: StudyTrials) -> str:
    """The number of trials behind the importances."""
    n = len(trials.complete)
    return f"from {n:,} complete trials" + ("" if n >= RELIABLE else f"; fewer than {RELIABLE} are only a hint")


def _best_lines(trials: StudyTrials) -> list[str]:
    return aligned(
        ["trial", "validation MAE", "skill", "epochs", "training", "MLflow run"],
        [
            [
                str(trial.number),
                mae_text(value_of(trial)),
                "-" if (skill := _skill(trial)) is None else f"{skill:+.1%}",
                str(trial.user_attrs.get(EPOCHS, "-")),
                duration(trial.user_attrs[SECONDS]) if SECONDS in trial.user_attrs else "-",
                str(trial.user_attrs.get(MLFLOW_RUN_ID) or "-"),
            ]
            for trial in trials.complete[:BEST_SHOWN]
        ],
    )


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
def _write_figures(folder: Path, trials: StudyTrials, importances: _Importances) -> None:
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


def _importance_figure(trials: StudyTrials, importances: _Importances) -> Figure:
    if importances.missing:
        raise plots.EmptyFigureError(importances.missing)
    return plots.importance_bars(importances.shares, importances.left_out, _basis(trials))
