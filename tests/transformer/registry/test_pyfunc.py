"""The registered model loads by its alias without a checkout and without Airflow, and predicts the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import mlflow
import polars as pl
import pytest
import yaml
from mlflow.models import Model
from packaging.requirements import Requirement

from tests.support.messages import assert_names
from transformer.config import Config, load_config, with_values
from transformer.data.dates import resolve_split
from transformer.data.events import read_journeys
from transformer.data.tables import events_path
from transformer.errors import UserError
from transformer.features.cache import obtain_inputs
from transformer.registry import register, versions
from transformer.tracking.run_log import RunLog
from transformer.tracking.runs import open_run
from transformer.training.trainer import train

pytest.importorskip("transformer.training.run_folder")

from transformer.prediction.instant import InstantSnapshot, predictions_at
from transformer.registry.logged import trained_files_of
from transformer.registry.package import _few_journeys, trained_files, write_model
from transformer.registry.pyfunc import INPUT, OUTPUT, TRANSFERS, output_schema, predict
from transformer.training.run_folder import TrainedModel, TrainingInputs

pytestmark = pytest.mark.slow

ENDS = [f"{end}_{share}_delay_s" for share in (50, 80, 90) for end in ("low", "high")]

# Predicts the model's own example.
LOADER = """
import json, sys
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
predictions = model.predict(model.input_example, params=json.loads(sys.argv[2]))
import transformer
print(json.dumps({"code": transformer.__file__, "predictions": json.loads(predictions.to_json())}))
"""


@pytest.fixture(scope="module")
def run_folder(small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = with_values(small_config, {"training.max_epochs": 1}, "test")
    split = resolve_split(config.data.split, Path(config.data.local_folder), True, config.data.timezone)
    statistics, embeddings = obtain_inputs(config, split)
    inputs = TrainingInputs(config, split, statistics, embeddings, reference=None)
    train(config, split, inputs.statistics, inputs.embeddings, RunLog(config, ""), folder)
    inputs.save(folder)
    return folder


@pytest.fixture(scope="module")
def events(small_config: Config) -> pl.DataFrame:
    data = small_config.data
    day = resolve_split(data.split, Path(data.local_folder), True, data.timezone).test[0]
    return pl.read_parquet(events_path(Path(data.local_folder), day))


@pytest.fixture(scope="module")
def model(run_folder: Path, events: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    write_model(run_folder, folder, events)
    return folder


def as_input(events: pl.DataFrame):
    naive = pl.col("planned_ts", "observed_ts").dt.replace_time_zone(None)
    return events.with_columns(naive, pl.col("service_date").cast(pl.Datetime("us"))).drop("delay_sec").to_pandas()


def middle(events: pl.DataFrame) -> datetime:
    found = events["observed_ts"].median()
    assert isinstance(found, datetime)
    return found.replace(microsecond=0)


def install(model: Path, target: Path) -> Path:
    """A folder to import from. It holds only the requirements of the model, and MLflow without its server."""
    lines = (model / "requirements.txt").read_text().splitlines()
    todo = [Requirement(re.sub("^mlflow==", "mlflow-skinny==", line)) for line in lines]
    target.mkdir()
    while todo:
        wanted = todo.pop()
        try:
            found = distribution(wanted.name)
        except PackageNotFoundError:  # a package for another platform
            continue
        for name in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (target / name).exists():
                (target / name).symlink_to(found.locate_file(name))
                inner = map(Requirement, found.requires or [])
                extras = wanted.extras or {""}
                todo += [r for r in inner if not r.marker or any(r.marker.evaluate({"extra": e}) for e in extras)]
    return target


def test_the_model_holds_its_files_its_code_and_no_pickle(model: Path, run_folder: Path) -> None:
    kept = model / "artifacts" / "trained"
    assert trained_files(kept) == trained_files(run_folder)
    for name in trained_files(kept):
        assert (kept / name).read_bytes() == (run_folder / name).read_bytes()
    assert (model / "code" / "transformer" / "registry" / "pyfunc.py").is_file()
    assert not [path for path in model.rglob("*") if path.suffix in (".pkl", ".pickle", ".pyc")]
    lines = (model / "requirements.txt").read_text().splitlines()
    assert all("==" in line and "+" not in line for line in lines)
    assert not [line for line in lines if "airflow" in line]


def test_the_model_says_what_it_takes_and_gives(model: Path, run_folder: Path) -> None:
    described = Model.load(model)
    assert described.signature is not None
    assert described.signature.inputs == INPUT
    assert described.signature.outputs == output_schema(TrainedModel.load(run_folder))
    assert described.signature.outputs.input_names() == [*OUTPUT.input_names(), *ENDS]
    flavor = yaml.safe_load((model / "MLmodel").read_text())["flavors"]["python_function"]
    assert flavor["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    assert "python_model" not in flavor


def with_names(events: pl.DataFrame, config: Config) -> pl.DataFrame:
    """The events with the number and the type of their train."""
    days = events["service_date"].unique().to_list()
    names = read_journeys(Path(config.data.local_folder), days, config.data.timezone)
    key = ["train_id", "service_date"]
    return events.join(names.select(*key, "train_number", "train_type"), on=key, how="left")


def test_it_predicts_what_the_pipeline_predicts(
    model: Path, run_folder: Path, events: pl.DataFrame, small_config: Config
) -> None:
    at, days = middle(events), events["service_date"].unique().to_list()
    given = with_names(events, small_config)
    loaded = mlflow.pyfunc.load_model(str(model))
    served = pl.from_pandas(loaded.predict(as_input(given), params={"at": at.isoformat()}))
    trained = TrainedModel.load(run_folder)
    expected = predictions_at(trained, trained.located(small_config), at, days)
    assert served.height == expected.height > 20
    assert (served["low_90_delay_s"] <= served["high_90_delay_s"]).all()
    same = (
        "train_id",
        "train_number",
        "train_type",
        "rank",
        "op_id",
        "predicted_delay_s",
        "translation_delay_s",
        *ENDS,
    )
    for name in same:
        assert served[name].to_list() == expected[name].to_list()
    for name in ("planned_ts", "predicted_ts"):
        assert served[name].dt.replace_time_zone("UTC").to_list() == expected[name].to_list()


def test_it_serves_the_transfers_of_the_pipeline(
    model: Path, run_folder: Path, events: pl.DataFrame, small_config: Config
) -> None:
    at, days = middle(events), events["service_date"].unique().to_list()
    given = with_names(events, small_config)
    params = {"at": at.isoformat(), "transfer_minutes": 0.0}
    served = pl.from_pandas(mlflow.pyfunc.load_model(str(model)).predict(as_input(given), params=params))
    trained = TrainedModel.load(run_folder)
    expected = InstantSnapshot.of(trained, trained.located(small_config), at, days).transfers(0.0)
    assert served.columns == list(TRANSFERS)
    assert served.height == expected.height > 0
    for name in ("arriving_train_id", "departing_train_id", "op_id", "probability"):
        assert served[name].to_list() == expected[name].to_list()
    for name in ("planned_arrival_ts", "predicted_departure_ts"):
        assert served[name].dt.replace_time_zone("UTC").to_list() == expected[name].to_list()
    with pytest.raises(UserError, match="transfer_minutes 90"):
        predict(trained, as_input(given), at.isoformat(), 90.0)


def test_the_future_changes_nothing(run_folder: Path, events: pl.DataFrame) -> None:
    trained, at = TrainedModel.load(run_folder), middle(events)
    later = pl.col("observed_ts") > at
    changed = events.with_columns(
        pl.when(later).then(pl.col("observed_ts") + pl.duration(hours=1)).otherwise("observed_ts")
    )
    first = predict(trained, as_input(events), at.isoformat())
    assert first.equals(predict(trained, as_input(changed), at.isoformat()))


def test_mistakes_are_one_line(run_folder: Path, events: pl.DataFrame, tmp_path: Path) -> None:
    trained = TrainedModel.load(run_folder)
    with pytest.raises(UserError) as caught:
        predict(trained, as_input(events), "2030-01-01T08:00+00:00")
    assert_names(caught.value, "service date", "2030-01-01")
    unseen = events.with_columns(observed_ts=pl.lit(None, pl.Datetime("us", "UTC")))
    with pytest.raises(UserError) as caught:
        predict(trained, as_input(unseen), "")
    assert_names(caught.value, "no event is observed", "params={'at':")
    with pytest.raises(UserError) as caught:
        trained_files(tmp_path)
    assert_names(caught.value, str(tmp_path), "config/config.yaml", "missing", "train the model")


def test_a_fault_of_the_table_names_the_table_and_not_a_file(run_folder: Path, events: pl.DataFrame) -> None:
    """The model writes the table into a temporary folder, which the caller does not know."""
    trained, at = TrainedModel.load(run_folder), middle(events).isoformat()
    day = str(events["service_date"][0])
    for damaged, words in (
        (pl.concat([events, events]), (f"events of {day}", f"{events.height:,} with a duplicate key")),
        (events.with_columns(event_type=pl.lit("X")), (f"events of {day}", "unknown event_type")),
        (events.with_columns(seq=pl.col("seq").cast(pl.Int64) + 40_000), ("seq", "does not fit", "40000")),
        (events.with_columns(op_id=pl.col("op_id").cast(pl.Int64) + 2**40), ("op_id", "does not fit")),
    ):
        with pytest.raises(UserError) as caught:
            predict(trained, as_input(damaged), at)
        message = str(caught.value)
        assert_names(message, *words, "correct the given events")
        assert len(message.splitlines()) == 1 and not re.search(r"/|parquet|data\.", message), message


def test_events_that_are_not_used_are_counted(
    run_folder: Path, events: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    trained, at = TrainedModel.load(run_folder), middle(events).isoformat()
    expected = predict(trained, as_input(events), at)
    older = events.with_columns(pl.col("service_date", "planned_ts", "observed_ts").dt.offset_by("-9d"))
    assert "not used" not in caplog.text
    found = predict(trained, as_input(pl.concat([events, older])), at)
    assert f"{events.height:,} events are not used" in caplog.text
    assert found.equals(expected)


def test_it_loads_by_its_alias_with_its_requirements_and_nothing_else(
    mlflow_server: str, run_folder: Path, model: Path, events: pl.DataFrame, tmp_path: Path
) -> None:
    name = "served-elsewhere"
    config = load_config(
        "local", [f"training.mlflow.tracking_uri={mlflow_server}", f"evaluation.registry.model_name={name}"]
    )
    run = RunLog(config, open_run(config, env="local"))
    registered = register.register(run, run_folder, events)
    versions.promote(config, registered.version, why="the first", by="a test")
    assert trained_files(trained_files_of(run, registered, tmp_path)) == trained_files(run_folder)

    installed = install(model, tmp_path / "installed")
    assert {"torch", "polars", "mlflow"} <= {path.name for path in installed.iterdir()}
    assert not {"airflow", "sklearn", "flask", "matplotlib"} & {path.name for path in installed.iterdir()}
    at = {"at": middle(events).isoformat()}
    command = [sys.executable, "-S", "-c", LOADER, f"models:/{name}@champion", json.dumps(at)]
    environment = {"MLFLOW_TRACKING_URI": mlflow_server, "PYTHONPATH": str(installed), "HOME": str(tmp_path)}
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr[-2_000:]
    found = json.loads(answer.stdout.splitlines()[-1])
    assert Path(found["code"]).parts[-3:-1] == ("code", "transformer")
    assert set(found["predictions"]) == {*OUTPUT.input_names(), *ENDS}


def test_the_example_has_the_type_and_the_number_of_each_train(events: pl.DataFrame) -> None:
    """A copy of the example would otherwise predict trains without type and history."""
    named = events.with_columns(pl.lit("regional").alias("train_type"), pl.col("train_id").alias("train_number"))
    example = _few_journeys(named)
    assert {"train_type", "train_number"} <= set(example.columns) <= set(INPUT.input_names())
    assert set(_few_journeys(events).columns) == set(INPUT.required_input_names())
