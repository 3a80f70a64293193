"""Descriptions of runs: made of what a run holds, and below the notes of people."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import (
    DatasetInput,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunTag,
)

from transformer.config import Config, DataConfig, load_config
from transformer.tracking.datasets import EventTables, dataset_input
from transformer.tracking.description import NOTES, describe, description, with_notes
from transformer.tracking.run_log import RunLog
from transformer.tracking.runs import close_run, open_run

QUERY = "?workflowType=machine_learning"
VALIDATED = {"val/best_mae_s": 61.24, "val/best_translation_mae_s": 80.0, "val/best_skill": 0.2345}
TESTED = {"test/mae_s": 62.0, "test/translation_mae_s": 81.0, "test/skill": 0.2}


def used(context: str, *dates: str) -> DatasetInput:
    return dataset_input(EventTables(context, dates, "0123", {}), DataConfig(local_folder="ride"))


def run(metrics: dict[str, float] | None = None, *datasets: DatasetInput, **tags: Any) -> Run:
    values = [Metric(name, value, 0, 0) for name, value in (metrics or {}).items()]
    data = RunData(values, [Param("model.d_model", "16")], [RunTag(name, str(value)) for name, value in tags.items()])
    return Run(RunInfo("abc", "7", "u", "RUNNING", 0, None, "active"), data, RunInputs(list(datasets), []))


def test_a_training_that_was_opened_has_its_origin() -> None:
    opened = run(env="prod", airflow_run_url="https://airflow/x", warm_start_run_id="def", overrides="none (in …)")
    assert description(opened, [], "train-delays") == (
        "**Training** in environment prod: no result yet.\n\n"
        f"[Airflow run](https://airflow/x) · [Begun from run def](#/experiments/7/runs/def{QUERY})\n\n"
        "Overrides: `none (in …)`"
    )
    without_page = run(env="local", airflow_run_id="manual__1", dag_id="model_training")
    assert "Airflow run `manual__1` of `model_training`" in description(without_page, [], "train-delays")


def test_a_training_has_a_row_per_result() -> None:
    split = [used("train", "2025-01-06..2025-01-10"), used("validation", "2025-01-13"), used("test", "2025-01-14")]
    kept = "training.seed=1 (in artifact tags/overrides-0123.json)"
    trained = description(run(VALIDATED, *split, env="local", overrides=kept), [], "m").splitlines()
    assert trained[0] == "**Training** in environment local: validation MAE 61.2 s, translation 80.0 s, skill +23.4%."
    assert trained[-3:] == [
        "Trained on 2025-01-06..2025-01-10; validated on 2025-01-13; tested on 2025-01-14",
        "",
        "Overrides: `training.seed=1`",
    ]
    window = run({"window/mae_s": 63.0}, window="2025-01-15..2025-01-16")
    text = description(run(VALIDATED | TESTED, *split, env="local", model_version=3), [window], "m")
    assert text.startswith("**Training** in environment local: test MAE 62.0 s, translation 81.0 s, skill +20.0%.\n")
    assert f"[Report](#/experiments/7/runs/abc/artifacts/evaluation/report.html{QUERY})" in text
    assert "[Version 3 of m](#/models/m/versions/3)" in text
    rows = [line.replace("&emsp;", "") for line in text.splitlines() if line.startswith("|")][2:]
    assert rows == [
        "| validation 2025-01-13 | 61.2 s | 80.0 s | +23.4% |",
        "| test 2025-01-14 | 62.0 s | 81.0 s | +20.0% |",
        f"| [window 2025-01-15..2025-01-16](#/experiments/7/runs/abc{QUERY}) | 63.0 s |  |  |",
    ]


def test_a_failed_run_says_why() -> None:
    failed = description(run(env="local", failure_reason="train_model: out of\nmemory"), [], "m")
    assert "\n\n**Ended:** train_model: out of memory" in failed


def test_an_evaluation_a_study_and_a_trial_have_their_result_in_the_first_line() -> None:
    parent = {"mlflow.parentRunId": "def"}
    page = f"(#/experiments/7/runs/def{QUERY})"
    window = run({"window/mae_s": 63.0, "window/skill": 0.1}, window="2025-01-15..2025-01-16", **parent)
    assert description(window, [], "m").splitlines()[0] == (
        f"**Evaluation** of run [def]{page} on 2025-01-15..2025-01-16: MAE 63.0 s, skill +10.0%."
    )
    trial = run(VALIDATED, trial=5, study_name="wide", state="complete", overrides="none", **parent)
    assert description(trial, [], "m") == (
        f"**Trial 5** of study [wide]{page}, complete: validation MAE 61.2 s, translation 80.0 s, skill +23.4%.\n\n"
        "Values: `model.d_model=16`"
    )
    opened = description(run(study_name="wide", env="optuna"), [], "m")
    assert opened == "**Study wide**: no result yet."
    result = {"study/best_val_mae_s": 60.0, "study/best_skill": 0.25, "study/complete": 20, "study/pruned": 3}
    best = run(result, study_name="wide", best_trial=5, best_overrides="model.d_model=16 (in artifact tags/b-0.json)")
    assert description(best, [], "m") == (
        "**Study wide**, 20 complete, 3 pruned: best validation MAE 60.0 s, skill +25.0% in trial 5.\n\n"
        f"[Report](#/experiments/7/runs/abc/artifacts/study/report.txt{QUERY})\n\n"
        "Best values: `model.d_model=16`"
    )


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("", ""),
        (f"old\n\n{NOTES}", ""),
        (f"old\n\n{NOTES}\n\nmy note\n\nand more", "\n\nmy note\n\nand more"),
        ("all of it is mine", "\n\nall of it is mine"),
        ("Trained by an earlier release.", ""),
    ],
)
def test_notes_of_people_are_kept(written: str, kept: str) -> None:
    assert with_notes("new", written, earlier="Trained by ") == f"new\n\n{NOTES}{kept}"


@pytest.fixture
def config(mlflow_server: str) -> Config:
    return load_config("local", [f"training.mlflow.tracking_uri={mlflow_server}"])


@pytest.mark.slow
def test_a_run_is_described_when_it_opens_gets_results_and_ends(config: Config, mlflow_server: str) -> None:
    client = MlflowClient(tracking_uri=mlflow_server)
    log = RunLog(config, open_run(config, env="local", overrides=["training.seed=1"]))

    def shown() -> str:
        return str(client.get_run(log.run_id).data.tags["mlflow.note.content"])

    assert shown().startswith("**Training** in environment local: no result yet.")
    assert "Overrides: `training.seed=1`" in shown()
    client.set_tag(log.run_id, "mlflow.note.content", f"{shown()}\n\nThe first one with the new data.")
    log.log_metrics(TESTED)
    child = log.open_child(config, "window a", {}, {"window": "2025-01-15..2025-01-16"}, inherits=())
    child.log_metrics({"window/mae_s": 63.0})
    log.describe()
    assert "test MAE 62.0 s" in shown() and "window 2025-01-15..2025-01-16](#/experiments/" in shown()
    close_run(config, log.run_id, "FAILED", "register_model: no room")
    assert "**Ended:** register_model: no room" in shown()
    assert shown().endswith("\n\nThe first one with the new data.")
    assert log.results().startswith("Test MAE 62.0 s, translation 81.0 s, skill +20.0%.\n\n| |")


@pytest.mark.slow
def test_notes_that_fill_the_tag_are_not_cut(config: Config, mlflow_server: str) -> None:
    client = MlflowClient(tracking_uri=mlflow_server)
    run_id = open_run(config, env="local")
    notes = "x" * 7_990
    client.set_tag(run_id, "mlflow.note.content", notes)
    describe(client, run_id, "m")
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == notes


def test_without_a_run_nothing_is_described() -> None:
    log = RunLog(load_config("local"), "")
    log.describe()
    assert log.results() == ""
