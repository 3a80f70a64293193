"""The inputs of a training are written with its checkpoints, and read back."""

import shutil
from pathlib import Path

import pytest
import yaml

from transformer.config import Config, to_dict
from transformer.errors import UserError
from transformer.training.run_folder import TrainingInputs, model_values


def test_a_training_keeps_all_that_its_model_needs(trained_folder: Path):
    kept = {path.relative_to(trained_folder).as_posix() for path in trained_folder.rglob("*") if path.is_file()}
    assert kept == {
        "config/config.yaml",
        *(f"checkpoints/{name}" for name in ("best.ckpt", "last.ckpt", "history.json")),
        "inputs/split.json",
        "inputs/reference.json",
        *(f"inputs/embeddings/{name}.parquet" for name in ("points", "edges")),
        *(f"inputs/statistics/{name}.parquet" for name in ("sections", "histograms", "history")),
        "inputs/statistics/inputs.json",
    }


def test_inputs_read_back_are_those_that_were_written(trained_folder: Path, small_config: Config, tmp_path: Path):
    inputs = TrainingInputs.load(trained_folder)
    inputs.save(tmp_path)
    again = TrainingInputs.load(tmp_path)
    assert again.split == inputs.split
    assert [str(day) for day in again.split.test] == ["2025-01-13"]
    assert again.config == inputs.config
    assert again.statistics.inputs == inputs.statistics.inputs
    assert again.statistics.sections.equals(inputs.statistics.sections)
    assert again.embeddings.edges.equals(inputs.embeddings.edges)
    assert again.reference.dates == inputs.reference.dates == inputs.split.train
    assert (again.reference.delay == inputs.reference.delay).all()
    assert model_values(inputs.config) == model_values(small_config)


def test_where_data_and_servers_were_is_forgotten(trained_folder: Path):
    config = TrainingInputs.load(trained_folder).config
    assert config.paths == Config().paths
    assert config.data.local_folder == Config().data.local_folder
    assert config.training == Config().training
    assert not any(key.startswith(("data.local", "data.bucket", "paths", "compute")) for key in model_values(config))


@pytest.fixture
def copy(trained_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_folder, tmp_path / "run"))


def test_an_older_training_kept_no_profile_of_its_dates(copy: Path):
    (copy / "inputs" / "reference.json").unlink()
    inputs = TrainingInputs.load(copy)
    assert inputs.reference is None
    inputs.save(copy)
    assert not (copy / "inputs" / "reference.json").exists()


def test_a_setting_that_places_nothing_in_a_model_may_be_unknown_by_now(copy: Path):
    path = copy / "config" / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["compute"]["gone"] = 1
    path.write_text(yaml.safe_dump(values))
    assert TrainingInputs.load(copy).config.model.d_model == 32


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: shutil.rmtree(folder / "inputs"), r"no inputs/.*train the model again"),
        (lambda folder: (folder / "inputs" / "split.json").unlink(), r"split\.json does not exist"),
        (
            lambda folder: (folder / "inputs" / "embeddings" / "edges.parquet").unlink(),
            r"edges\.parquet does not exist",
        ),
        (
            lambda folder: (folder / "inputs" / "reference.json").write_text("{}"),
            r"reference\.json: profile of version",
        ),
        (lambda folder: (folder / "inputs" / "statistics" / "history.parquet").write_text("x"), "damaged statistics"),
        (lambda folder: (folder / "config" / "config.yaml").unlink(), r"config\.yaml does not exist"),
        (
            lambda folder: (folder / "config" / "config.yaml").write_text("a: [b"),
            r"config\.yaml .*configuration; train the model again",
        ),
        (
            lambda folder: (folder / "config" / "config.yaml").write_text("text"),
            r"config\.yaml .*configuration; train the model again",
        ),
        (
            lambda folder: (folder / "config" / "config.yaml").write_text(
                yaml.safe_dump(to_dict(Config()) | {"model": {"wings": 2}})
            ),
            r"config\.yaml: unknown key 'model\.wings'",
        ),
    ],
)
def test_damaged_inputs_are_one_line(copy: Path, damage, words: str):
    damage(copy)
    with pytest.raises(UserError, match=words) as caught:
        TrainingInputs.load(copy)
    assert len(str(caught.value).splitlines()) == 1
