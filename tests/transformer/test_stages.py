"""Stages: one after the other from event tables to an evaluated model, each with a JSON-able result."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from transformer import stages
from transformer.config import Config, load_config
from transformer.errors import UserError
from transformer.training import BEST, CHECKPOINTS


@pytest.fixture(scope="module")
def results(small_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, dict]]:
    config = load_config("local", [*small_overrides, f"paths.runs={tmp_path_factory.mktemp('runs')}"])
    steps = (stages.fetch_files, stages.compute_statistics_and_embeddings, stages.train_model, stages.evaluate_model)
    return config, {step.__name__: step(config, "") for step in steps}


def test_each_stage_returns_json_and_what_it_did(results):
    _, by_stage = results
    json.dumps(by_stage, allow_nan=False)
    assert by_stage["fetch_files"]["split"] == {
        "train": [f"2025-01-{day:02d}" for day in range(6, 12)], "validation": ["2025-01-12"], "test": ["2025-01-13"],
    }  # fmt: skip
    assert by_stage["fetch_files"]["quality"]["kept"] == by_stage["fetch_files"]["quality"]["events"] > 5_000
    assert by_stage["compute_statistics_and_embeddings"]["embedding_dimension"] == 16 + 16 + 3
    assert by_stage["train_model"]["epochs"] == 3
    metrics = by_stage["evaluate_model"]["metrics"]
    assert metrics["test/n"] > 100
    assert metrics["test/skill"] == pytest.approx(1 - metrics["test/mae_s"] / metrics["test/translation_mae_s"])


def test_evaluating_again_gives_the_same_figures(results):
    config, by_stage = results
    assert stages.evaluate_model(config, "")["metrics"] == by_stage["evaluate_model"]["metrics"]


def test_evaluation_leaves_figures_and_tables(results):
    _, by_stage = results
    folder = Path(by_stage["evaluate_model"]["folder"])
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"error_map", "error_by_horizon", "predicted_vs_observed", "training_curves"} <= figures
    assert any(name.startswith("error_timeline") for name in figures)
    tables = {path.stem for path in (folder / "tables").glob("*.json")}
    assert {"summary", "horizon", "delay_change", "train_type", "rank", "op_id", "service_date", "hour"} <= tables


def test_validation_figures_are_those_of_the_evaluation(results, small_overrides: list[str]):
    """Train-then-evaluate gives the same metric: evaluate the best checkpoint on the validation date."""
    config, by_stage = results
    split = by_stage["fetch_files"]["split"]
    swapped = load_config(
        "local",
        [
            *small_overrides,
            f"data.split.train={split['train']}",
            f"data.split.validation={split['test']}",
            f"data.split.test={split['validation']}",
        ],
    )
    folder = stages.run_folder(swapped, "") / CHECKPOINTS
    folder.mkdir(parents=True)
    for path in (stages.run_folder(config, "") / CHECKPOINTS).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    mae = stages.evaluate_model(swapped, "")["metrics"]["test/mae_s"]
    assert mae == pytest.approx(by_stage["train_model"]["best_val_mae_s"], rel=1e-5)


def test_second_computation_is_reused_and_says_so(results, caplog: pytest.LogCaptureFixture):
    config, _ = results
    with caplog.at_level("INFO"):
        stages.compute_statistics_and_embeddings(config, "")
    assert "statistics: reused from" in caplog.text and "embeddings: reused from" in caplog.text
    caplog.clear()
    afresh = replace(config.training.use_precomputed, statistics=False, embeddings=False)
    with caplog.at_level("INFO"):
        stages.compute_statistics_and_embeddings(
            replace(config, training=replace(config.training, use_precomputed=afresh)), ""
        )
    assert "statistics: computing" in caplog.text and "embeddings: computing" in caplog.text


def test_evaluating_without_a_training_says_so(small_overrides: list[str], tmp_path: Path):
    config = load_config("local", [*small_overrides, f"paths.runs={tmp_path}"])
    with pytest.raises(UserError, match="does not exist; train the model first"):
        stages.evaluate_model(config, "")


def test_evaluating_with_other_training_dates_is_refused(results, small_overrides: list[str], tmp_path: Path):
    config, _ = results
    folder = tmp_path / "data"
    (folder / "events").mkdir(parents=True)
    for path in Path(config.data.local_folder).rglob("*.parquet"):
        (folder / path.relative_to(config.data.local_folder)).write_bytes(path.read_bytes())
    nodes = pl.read_parquet(folder / "op_nodes.parquet")
    nodes.with_columns(pl.col("op_id") + 1_000).write_parquet(folder / "op_nodes.parquet")
    other = load_config("local", [*small_overrides, f"data.local_folder={folder}", f"paths.runs={tmp_path}/runs"])
    copy = stages.run_folder(other, "") / CHECKPOINTS
    copy.mkdir(parents=True)
    for path in (stages.run_folder(config, "") / CHECKPOINTS).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="trained on other points or dates"):
        stages.evaluate_model(other, "")


def test_changing_the_test_date_changes_no_model(small_overrides: list[str], results, tmp_path: Path):
    """Nothing of the test date reaches the training: rewrite it and the best checkpoint stays the same."""
    config, by_stage = results
    source = Path(config.data.local_folder)
    folder = tmp_path / "data"
    (folder / "events").mkdir(parents=True)
    for path in source.rglob("*.parquet"):
        (folder / path.relative_to(source)).write_bytes(path.read_bytes())
    target = folder / "events" / f"events_{by_stage['fetch_files']['split']['test'][0]}.parquet"
    changed = pl.read_parquet(target).with_columns(pl.col("observed_ts") + pl.duration(minutes=30))
    changed.write_parquet(target)
    altered = load_config("local", [*small_overrides, f"data.local_folder={folder}", f"paths.runs={tmp_path}/runs"])
    result = stages.train_model(altered, "")
    assert result["best_val_mae_s"] == by_stage["train_model"]["best_val_mae_s"]
    assert (Path(result["checkpoints"]) / BEST).is_file()
