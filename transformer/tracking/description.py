"""The description of a run that its page in MLflow shows: its results, its dates and where to go from there.

It is made of what the run itself holds, so that each stage can write it anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from transformer.text import one_line, seconds_text, skill_text
from transformer.tracking.client import TAG_LENGTH, set_tags, shown_of
from transformer.tracking.datasets import EVALUATION, TEST, TRAIN, VALIDATION, context_of, dates_of
from transformer.tracking.json_tags import NONE
from transformer.tracking.names import (
    AIRFLOW_PAGE,
    AIRFLOW_RUN,
    BEST_OVERRIDES,
    BEST_TRIAL,
    DAG_ID,
    DESCRIPTION,
    FAILURE_REASON,
    MODEL_VERSION,
    OVERRIDES,
    PARENT,
    STATE,
    STUDY_NAME,
    TRIAL,
    WARM_START,
    WINDOW,
    artifact_page,
    run_page,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

WINDOWS_SHOWN = 10
NOTES = "*Notes below this line are kept.*"  # those of a person
NO_RESULT = "no result yet"
_GAP = "&emsp;"  # MLflow's page sets the columns of a table without a gap
_HEAD = (f"| | model MAE{_GAP} | translation MAE{_GAP} | skill |", "|---|---|---|---|")
# Metrics of a result: MAE of the model, MAE of translation, skill
_VALIDATION = ("val/best_mae_s", "val/best_translation_mae_s", "val/best_skill")
_TEST = ("test/mae_s", "test/translation_mae_s", "test/skill")
_WINDOW = ("window/mae_s", "window/translation_mae_s", "window/skill")
_STUDY = ("study/best_val_mae_s", "", "study/best_skill")
_EVALUATION_REPORT, _STUDY_REPORT = "evaluation/report.html", "study/report.txt"


def describe(client: MlflowClient, run_id: str, model_name: str) -> None:
    """Write the description of a run anew, from what the run holds by now. A person's notes in it are kept.

    Args:
        model_name: the registered model, whose versions the run may name.
    """
    run = client.get_run(run_id)
    written = run.data.tags.get(DESCRIPTION, "")
    text = with_notes(description(run, newest_windows(client, run), model_name), written)
    if text != written and len(text) <= TAG_LENGTH:  # notes may fill the tag, and are kept first
        set_tags(client, run_id, {DESCRIPTION: text})


def newest_windows(client: MlflowClient, run: Run) -> list[Run]:
    """The newest nested runs with evaluations of the run's model on windows."""
    query = f"tags.`{PARENT}` = '{run.info.run_id}' and tags.`{WINDOW}` LIKE '%'"
    return list(client.search_runs([run.info.experiment_id], query, max_results=WINDOWS_SHOWN))


def with_notes(text: str, written: str, earlier: str = "") -> str:
    """A description, and below it the notes of a person.

    Args:
        written: the former description. Without the line NOTES, a person wrote all of it.
        earlier: the beginning of the descriptions that earlier releases wrote, which are no notes.
    """
    _, mark, notes = written.partition(NOTES)
    if not mark and not (earlier and written.startswith(earlier)):
        notes = written
    return "\n\n".join(block for block in (text, NOTES, notes.strip()) if block)


def description(run: Run, windows: Sequence[Run], model_name: str) -> str:
    """The description as Markdown, without notes. Its first lines say the most: MLflow folds the others.

    Args:
        windows: see `newest_windows`.
    """
    tags = run.data.tags
    if TRIAL in tags:
        study = f"[{tags.get(STUDY_NAME, '')}]({_page(run, tags.get(PARENT))})"
        kind = f"**Trial {tags[TRIAL]}** of study {study}, {tags.get(STATE, '')}"
        result = f"validation {_result(run, _VALIDATION)}"
    elif WINDOW in tags:
        kind = f"**Evaluation** of run [{tags.get(PARENT, '')}]({_page(run, tags.get(PARENT))}) on {tags[WINDOW]}"
        result = _result(run, _WINDOW)
    elif STUDY_NAME in tags:
        kind = f"**Study {tags[STUDY_NAME]}**{_counts(run)}"
        of_trial = f" in trial {tags[BEST_TRIAL]}" if BEST_TRIAL in tags else ""
        result = f"best validation {_result(run, _STUDY)}{of_trial}"
    else:
        kind = f"**Training** in environment {tags.get('env', '')}"
        result = headline(run)
    blocks = [
        f"{kind}: {result if NO_RESULT not in result else NO_RESULT}.",
        f"**Ended:** {one_line(tags[FAILURE_REASON])}" if FAILURE_REASON in tags else "",
        " · ".join(_links(run, model_name)),
        results(run, windows) if not {TRIAL, WINDOW, STUDY_NAME} & set(tags) else "",
        _dates_used(run),
        *_settings(run),
    ]
    return "\n\n".join(block for block in blocks if block)


def headline(run: Run) -> str:
    """The best known result of a training in one line."""
    test = _result(run, _TEST)
    return f"test {test}" if test != NO_RESULT else f"validation {_result(run, _VALIDATION)}"


def results(run: Run, windows: Sequence[Run] = ()) -> str:
    """The results of a training's model as a Markdown table; "" = there is none yet."""
    dates = _dates(run)
    rows = [
        _row(f"validation {dates.get(VALIDATION, '')}", run, _VALIDATION),
        _row(f"test {dates.get(TEST, '')}", run, _TEST),
        *(_row(f"[window {window.data.tags[WINDOW]}]({_page(window)})", window, _WINDOW) for window in windows),
    ]
    known = [row for row in rows if row]
    return "\n".join([*_HEAD, *known]) if known else ""


def _row(label: str, run: Run, names: tuple[str, str, str]) -> str:
    """A row of the table; "" = the run lacks the result."""
    mae, translation, skill = _texts(run, names)
    return f"| {label.strip()}{_GAP} | {mae} | {translation} | {skill} |" if mae else ""


def _result(run: Run, names: tuple[str, str, str]) -> str:
    """`MAE 168.9 s, translation 235.7 s, skill +28.4%`."""
    mae, translation, skill = _texts(run, names)
    known = (f"MAE {mae}", f"translation {translation}" if translation else "", f"skill {skill}" if skill else "")
    return ", ".join(part for part in known if part) if mae else NO_RESULT


def _texts(run: Run, names: tuple[str, str, str]) -> tuple[str, str, str]:
    """MAE of the model, MAE of translation and skill; "" = the run lacks it."""
    mae, translation, skill = (run.data.metrics.get(name, math.nan) for name in names)
    return (
        "" if math.isnan(mae) else seconds_text(mae),
        "" if math.isnan(translation) else seconds_text(translation),
        "" if math.isnan(skill) else skill_text(skill),
    )


def _counts(run: Run) -> str:
    counts = {name: run.data.metrics.get(f"study/{name}", 0) for name in ("complete", "pruned", "failed")}
    listed = ", ".join(f"{count:.0f} {name}" for name, count in counts.items() if count)
    return f", {listed}" if listed else ""


def _settings(run: Run) -> Iterator[str]:
    tags = run.data.tags
    if TRIAL in tags:
        yield f"Values: `{', '.join(f'{key}={value}' for key, value in sorted(run.data.params.items()))}`"
    if BEST_OVERRIDES in tags:
        yield f"Best values: `{shown_of(tags[BEST_OVERRIDES])}`"
    overrides = shown_of(tags.get(OVERRIDES, NONE))
    if overrides not in (NONE, "[]"):
        yield f"Overrides: `{overrides}`"


def _dates_used(run: Run) -> str:
    dates = _dates(run)
    words = {TRAIN: "trained on", VALIDATION: "validated on", TEST: "tested on", EVALUATION: "evaluated on"}
    return "; ".join(f"{words[context]} {dates[context]}" for context in words if context in dates).capitalize()


def _dates(run: Run) -> dict[str, str]:
    """The service dates of the run by context."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {context_of(used): dates_of(used) for used in inputs}


def _links(run: Run, model_name: str) -> Iterator[str]:
    tags = run.data.tags
    if BEST_TRIAL in tags:
        yield f"[Report]({artifact_page(_page(run), _STUDY_REPORT)})"
    elif {_TEST[0], _WINDOW[0]} & set(run.data.metrics):
        yield f"[Report]({artifact_page(_page(run), _EVALUATION_REPORT)})"
    if version := tags.get(MODEL_VERSION):
        yield f"[Version {version} of {model_name}](#/models/{model_name}/versions/{version})"
    if page := tags.get(AIRFLOW_PAGE):
        yield f"[Airflow run]({page})"
    elif dag_run := tags.get(AIRFLOW_RUN):
        yield f"Airflow run `{dag_run}` of `{tags.get(DAG_ID, '')}`"
    if begun_from := tags.get(WARM_START):
        yield f"[Begun from run {begun_from}]({_page(run, begun_from)})"


def _page(run: Run, run_id: str | None = None) -> str:
    """Address of a run's page on the server that shows the description."""
    return run_page("", run.info.experiment_id, run_id or run.info.run_id).removeprefix("/")
