"""The report of a study as a page, and the rows of its tables, which the text for the task log shows too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from transformer.pages.page import Cell, Page, Picture, Section, Table, plain_number
from transformer.text import duration, share_text, skill_text
from transformer.tuning.importances import Importances, basis
from transformer.tuning.trials import (
    EPOCHS,
    MLFLOW_RUN_ID,
    SECONDS,
    TRANSLATION_MAE,
    StudyTrials,
    failure_of,
    mae_text,
    params_of,
    value_of,
    value_text,
)

LISTED = 50  # complete trials in the table of the page; trials.csv has all
FAILURES = 10  # the latest failed trials

_CAPTIONS = {  # by file name: caption and alternative text
    "history": (
        "Validation MAE of each trial in the order of their start. The line is the best so far.",
        "Dots of the validation MAE by number of the trial, with the best value so far.",
    ),
    "importances": (
        "Share of the variation of the validation MAE that each parameter alone explains.",
        "Bars of the importance of each parameter; the same numbers are in the table of importances.",
    ),
    "slice": (
        "Validation MAE by value of each parameter. Later trials are darker.",
        "A panel for each searched parameter, with the validation MAE of each trial by its value.",
    ),
    "parallel_coordinates": (
        "A line for each trial through its values. Dark lines are the best trials.",
        "Lines of the trials through one axis for each parameter, coloured by validation MAE.",
    ),
    "intermediate_values": (
        "Validation MAE after each epoch. Pruned and failed trials end early.",
        "Curves of the validation MAE by epoch, one for each trial.",
    ),
}


def skill_of(trial: FrozenTrial) -> float | None:
    """1 − MAE / MAE of translation on the same rows; None if the latter is unknown or 0."""
    translation = trial.user_attrs.get(TRANSLATION_MAE)
    return 1 - value_of(trial) / translation if translation else None


def parameter_values(trials: StudyTrials) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each parameter with its best value and that of the defaults; a dash for a value not searched."""
    columns = {f"best ({trials.best.number})": params_of(trials.best)}
    if trials.defaults is not None and trials.defaults is not trials.best:
        columns[f"defaults ({trials.defaults.number})"] = params_of(trials.defaults)
    keys = sorted({key for values in columns.values() for key in values})
    return (
        ["parameter (trial)", *columns],
        [[key, *(value_text(values[key]) if key in values else "-" for values in columns.values())] for key in keys],
    )


def best_trials(trials: StudyTrials, count: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the complete trials, best first."""
    return (
        ["trial", "validation MAE", "skill", "epochs", "training", "MLflow run"],
        [
            [
                str(trial.number),
                mae_text(value_of(trial)),
                skill_text(skill_of(trial)),
                str(trial.user_attrs.get(EPOCHS, "-")),
                duration(trial.user_attrs[SECONDS]) if SECONDS in trial.user_attrs else "-",
                str(trial.user_attrs.get(MLFLOW_RUN_ID) or "-"),
            ]
            for trial in trials.complete[:count]
        ],
    )


def study_page(
    name: str, trials: StudyTrials, importances: Importances, figures: Sequence[Path], commands: Sequence[str]
) -> Page:
    """
    Args:
        figures: PNG files named as the keys of `_CAPTIONS`.
        commands: shell commands that train with the best values.
    """
    shown = {path.stem: Picture.of(path.read_bytes(), *_CAPTIONS[path.stem]) for path in figures}

    def named(*names: str) -> list[Picture]:
        return [shown[name] for name in names if name in shown]

    return Page(
        f"Study {name}",
        _lead(trials, importances),
        [
            Section(
                "Best values",
                figures=named("importances"),
                tables=[
                    _table("Values of the best trial", *parameter_values(trials)),
                    *_importance_table(trials, importances),
                ],
            ),
            Section("Trials", figures=named("history", "intermediate_values"), tables=_trial_tables(trials)),
            Section("Values and errors", figures=named("slice", "parallel_coordinates")),
            Section("Train with these values", commands=commands),
        ],
        facts=_facts(trials),
    )


def _lead(trials: StudyTrials, importances: Importances) -> str:
    """The sentence that says what the study has gained, and which parameter matters."""
    best, defaults, skill = trials.best, trials.defaults, skill_of(trials.best)
    sentence = f"Trial {best.number} is the best of {trials.counted:,}, with a validation MAE of {_mae(best)}"
    if skill is not None:
        sentence += f" (skill {plain_number(skill_text(skill))})"
    if defaults is best:
        sentence += ", and has the values of the defaults"
    elif defaults is not None and value_of(defaults):
        gain = value_of(defaults) - value_of(best)
        sentence += f", {share_text(gain / value_of(defaults))} better than the defaults"
    if importances.shares:
        key, share = next(iter(importances.shares.items()))
        sentence += f"; {key} matters most ({share_text(share)}, {basis(trials)})"
    return sentence + "."


def _facts(trials: StudyTrials) -> list[tuple[str, str, str]]:
    best, defaults = trials.best, trials.defaults
    facts = [("best", _mae(best), f"validation MAE of trial {best.number}")]
    if defaults is not None and defaults is not best:
        facts.append(("defaults", _mae(defaults), f"validation MAE of trial {defaults.number}"))
    if TRANSLATION_MAE in best.user_attrs and (translation := best.user_attrs[TRANSLATION_MAE]) is not None:
        facts.append(("translation", plain_number(mae_text(translation)), "MAE if the last known delay stays"))
    states = {"complete": trials.complete, "pruned": trials.pruned, "failed": trials.failed}
    counts = ", ".join(f"{len(group):,} {state}" for state, group in states.items() if group)
    facts.append(("trials", f"{trials.counted:,}", counts))
    facts.append(("training", duration(trials.seconds()), "all trials together"))
    return facts


def _trial_tables(trials: StudyTrials) -> list[Table]:
    complete = len(trials.complete)
    note = f"The best {LISTED} of {complete:,} complete trials; trials.csv has all." if complete > LISTED else ""
    tables = [_table("Complete trials, best first", *best_trials(trials, LISTED), note=note)]
    if trials.failed:
        rows = [[str(trial.number), failure_of(trial)] for trial in trials.failed[-FAILURES:]]
        tables.append(_table("Failed trials, the latest", ["trial", "reason"], rows, numbers=False))
    return tables


def _importance_table(trials: StudyTrials, importances: Importances) -> list[Table]:
    if importances.missing:
        return []
    rows = [[key, share_text(share)] for key, share in importances.shares.items()]
    note = basis(trials).capitalize() + "."
    if importances.left_out:
        note += f" Not judged, since not every trial has them: {', '.join(importances.left_out)}."
    return [_table("Importance of each parameter", ["parameter", "importance"], rows, note=note)]


def _table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: bool = True, note: str = ""
) -> Table:
    return Table(caption, header, [[Cell(str(text)) for text in row] for row in rows], numbers=numbers, note=note)


def _mae(trial: FrozenTrial) -> str:
    return plain_number(mae_text(value_of(trial)))
