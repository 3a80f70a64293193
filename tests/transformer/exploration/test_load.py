"""The run that is explored, and the folder of its data."""

import os
import shutil
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from transformer.config import Config, with_values
from transformer.errors import UserError
from transformer.exploration.load import load_run, newest_run


@pytest.fixture
def here(small_config: Config, tmp_path: Path) -> Config:
    return with_values(small_config, {"paths.runs": str(tmp_path / "runs"), "data.local_folder": "nowhere"}, "test")


def copy(trained_folder: Path, here: Config, name: str, age_s: int) -> Path:
    folder = Path(shutil.copytree(trained_folder, Path(here.paths.runs) / name))
    os.utime(folder / "checkpoints" / "best.ckpt", (1_700_000_000 - age_s,) * 2)
    return folder


def test_the_newest_run_is_the_one_that_improved_last(trained_folder: Path, here: Config):
    new = copy(trained_folder, here, "b", age_s=10)
    copy(trained_folder, here, "c", age_s=1_000)
    unfinished = copy(trained_folder, here, "a", age_s=0)
    (unfinished / "checkpoints" / "best.ckpt").unlink()
    without_inputs = copy(trained_folder, here, "d", age_s=0)
    shutil.rmtree(without_inputs / "inputs")
    assert newest_run(here) == new


def test_without_a_run_one_line_says_what_to_do(here: Config):
    with pytest.raises(UserError, match=r"^\S+/runs .*; run `make train`"):
        load_run("", here)


def test_an_error_of_the_user_is_one_line_in_a_notebook_too(capsys: pytest.CaptureFixture[str]):
    InteractiveShell().run_cell("from transformer.errors import UserError\nraise UserError('x is wrong; write y')")
    assert capsys.readouterr().out.strip() == "error: x is wrong; write y"


@pytest.mark.parametrize("by", ["folder", "id", "newest"])
def test_a_run_is_found_and_reads_the_data_it_was_trained_on(
    trained_folder: Path, here: Config, sample_folder: Path, by: str
):
    folder = copy(trained_folder, here, "0f1e", age_s=0)
    trained, config = load_run({"folder": str(folder), "id": "0f1e", "newest": ""}[by], here)
    assert config.data.local_folder == str(sample_folder)
    assert config.data.split.test == [trained.split.test[0].isoformat()]


def test_data_that_moved_are_where_the_configuration_or_the_user_says(
    trained_folder: Path, here: Config, sample_folder: Path, tmp_path: Path
):
    folder = copy(trained_folder, here, "moved", age_s=0)
    path = folder / "config" / "config.yaml"
    path.write_text(path.read_text().replace(str(sample_folder), str(tmp_path / "gone")))
    assert load_run("moved", here)[1].data.local_folder == "nowhere"
    assert load_run("moved", here, str(tmp_path))[1].data.local_folder == str(tmp_path)


def test_what_is_no_run_is_one_line(here: Config):
    with pytest.raises(UserError, match=r"^no/where .*; name .* in \S+/runs or .* MLflow run"):
        load_run("no/where", here)
    with pytest.raises(UserError, match="use_mlflow"):
        load_run("0f1e", here)


@pytest.mark.slow
def test_a_run_of_mlflow_is_fetched(trained_folder: Path, here: Config, sample_folder: Path, mlflow_server: str):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_server)
    run_id = client.create_run("0").info.run_id
    client.log_artifacts(run_id, str(trained_folder))
    tracked = {"training.mlflow.use_mlflow": True, "training.mlflow.tracking_uri": mlflow_server}
    _, config = load_run(run_id, with_values(here, tracked, "test"))
    assert config.data.local_folder == str(sample_folder)
