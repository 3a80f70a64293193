"""A trained model loads from its run folder and from MLflow, without the cache and the training data."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from transformer import stages
from transformer.config import Config, EmbeddingsConfig, load_config, with_values
from transformer.data.dates import available_dates
from transformer.errors import UserError
from transformer.features import cache
from transformer.features.embeddings import PointEmbeddings, compute_embeddings
from transformer.features.graph import RailwayGraph
from transformer.features.reading import joint_edges, obtain_readings
from transformer.prediction.rows import evaluation_rows
from transformer.tracking.names import CONFIG_ARTIFACT
from transformer.tracking.run_log import RunLog
from transformer.tracking.runs import open_run
from transformer.training.run_folder import INPUTS, TrainedModel, TrainingInputs, download_trained


@pytest.fixture(scope="module")
def trained(trained_folder: Path) -> TrainedModel:
    return TrainedModel.load(trained_folder)


def test_it_is_the_configuration_of_the_run_at_the_places_of_today(
    trained: TrainedModel, small_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    here = with_values(
        small_config,
        {
            "data.local_folder": str(tmp_path),
            "data.snapshot.n_prev": 9,
            "data.split.rolling.train": 365,
            "paths.cache": "elsewhere",
        },
        "test",
    )
    with caplog.at_level("INFO"):
        located = trained.located(here)
    assert (located.data.local_folder, located.paths.cache) == (str(tmp_path), "elsewhere")
    assert located.data.snapshot.n_prev == 5
    assert located.data.split.test == ["2025-01-13"]
    assert located.data.split.train == ["2025-01-06..2025-01-11"]
    assert "data.snapshot.n_prev=5 (given: 9)" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        trained.located(small_config)
    assert not caplog.text


def test_it_needs_neither_cache_nor_training_dates(trained: TrainedModel, small_config: Config, tmp_path: Path):
    source = Path(small_config.data.local_folder)
    test_day = trained.split.test[0]
    data = tmp_path / "data"
    (data / "events").mkdir(parents=True)
    for name in ("op_nodes.parquet", "journeys.parquet", f"events/events_{test_day}.parquet"):
        shutil.copy(source / name, data / name)
    bare = with_values(small_config, {"data.local_folder": str(data), "paths.cache": str(tmp_path / "cache")}, "test")
    assert available_dates(data) == [test_day]
    expected = pl.concat(evaluation_rows(trained, trained.located(small_config), trained.split.test))
    assert pl.concat(evaluation_rows(trained, trained.located(bare), trained.split.test)).equals(expected)
    assert expected.height > 100
    assert not (tmp_path / "cache" / "statistics").exists()


def test_another_timetable_leaves_the_model_as_it_is(trained: TrainedModel, small_config: Config):
    before = trained.module.network.point_vectors.clone()
    edges = joint_edges(
        obtain_readings(trained.located(small_config).data, trained.split.test, Path(small_config.paths.cache))
    )
    module = trained.module_for(edges)
    assert module is not trained.module
    assert torch.equal(trained.module.network.point_vectors, before)


def test_a_model_that_reads_vectors_of_a_former_kind_predicts(
    small_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As an earlier program left it: node2vec in its configuration, its vectors in the run and in the checkpoint."""

    def with_company(graph: RailwayGraph, op_nodes: pl.DataFrame, config: EmbeddingsConfig) -> PointEmbeddings:
        points = compute_embeddings(graph, op_nodes, config)
        company = np.random.default_rng(0).standard_normal((len(points.op_ids), 4)).astype(np.float32)
        return PointEmbeddings(points.op_ids, {"node2vec": company, **points.vectors})

    monkeypatch.setattr(cache, "compute_embeddings", with_company)
    folders = [f"paths.cache={tmp_path}/cache", f"paths.runs={tmp_path}/runs"]
    config = load_config("local", [*small_overrides, *folders, "training.max_epochs=1"])
    stages.train_model(config, "")
    folder = stages.run_folder(config, "")
    written = yaml.safe_load((folder / CONFIG_ARTIFACT).read_text())
    written["embeddings"]["node2vec"] = {"enabled": True, "dim": 4, "walk_length": 40, "p": 1.0, "seed": 0}
    (folder / CONFIG_ARTIFACT).write_text(yaml.safe_dump(written))
    monkeypatch.undo()

    model = TrainedModel.load(folder)
    assert model.module.network.shape.embedding_dims == {"node2vec": 4, "laplacian": 16, "geographic": 3}
    assert model.embeddings.points.vectors["node2vec"].any()
    rows = pl.concat(evaluation_rows(model, model.located(config), model.split.test))
    assert rows.height > 100
    assert rows["predicted_delay_s"].is_finite().all()


def test_files_of_two_trainings_are_refused(trained_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(trained_folder, tmp_path / "run"))
    path = folder / INPUTS / "statistics" / "inputs.json"
    path.write_text(path.read_text().replace('"op_ids": [', '"op_ids": [ 1,', 1))
    with pytest.raises(UserError, match=r"checkpoint and statistics .*train the model again"):
        TrainedModel.load(folder)


def test_a_folder_without_a_checkpoint_says_so(tmp_path: Path):
    with pytest.raises(UserError, match=r"best\.ckpt .*not exist.*train the model first"):
        TrainedModel.load(tmp_path)


# --- from MLflow -----------------------------------------------------------------------------------------------------
@pytest.fixture
def tracked(mlflow_server: str) -> Config:
    return load_config("local", [f"training.mlflow.tracking_uri={mlflow_server}"])


@pytest.fixture
def log_artifacts(tracked: Config, trained_folder: Path) -> Callable[..., RunLog]:
    """Opens a run that holds these folders of the trained model."""

    def log(*folders: str) -> RunLog:
        run = RunLog(tracked, open_run(tracked, env="local"))
        for folder in folders:
            run.log_artifacts(trained_folder / folder, folder)
        return run

    return log


@pytest.mark.slow
def test_a_run_gives_back_what_it_was_given(
    log_artifacts: Callable[..., RunLog], trained: TrainedModel, trained_folder: Path, tmp_path: Path
):
    found = download_trained(log_artifacts("config", "checkpoints", "inputs"), tmp_path)
    assert (found.config, found.split) == (trained.config, trained.split)
    for name, value in trained.module.state_dict().items():
        assert torch.equal(found.module.state_dict()[name], value)
    assert TrainingInputs.load(tmp_path).statistics.inputs == TrainingInputs.load(trained_folder).statistics.inputs
    assert {path.name for path in tmp_path.iterdir()} == {"config", "checkpoints", "inputs"}


@pytest.mark.slow
def test_runs_that_hold_no_model_are_one_line_each(
    log_artifacts: Callable[..., RunLog], tracked: Config, mlflow_server: str, tmp_path: Path
):
    from mlflow import MlflowClient

    foreign = MlflowClient(tracking_uri=mlflow_server).create_run("0").info.run_id
    with pytest.raises(UserError, match=f"^MLflow run {foreign} .*config/.*train-model"):
        download_trained(RunLog(tracked, foreign), tmp_path)
    untrained = log_artifacts("config")
    with pytest.raises(UserError, match=r"no checkpoints/best\.ckpt; .*finish an epoch"):
        download_trained(untrained, tmp_path)
    older = log_artifacts("config", "checkpoints")
    with pytest.raises(
        UserError, match=f"^MLflow run {older.run_id} .*no inputs/.*train-model --run-id {older.run_id} --resume"
    ):
        download_trained(older, tmp_path)
