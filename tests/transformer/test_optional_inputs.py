"""Every stage runs with an optional input on: training, evaluation, prediction, and the served model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import mlflow
import polars as pl
import pytest

from transformer import stages
from transformer.config import Config, with_values
from transformer.data import input_tables
from transformer.data.dates import available_dates
from transformer.data.points import read_op_nodes
from transformer.data.tables import TIMESTAMP, events_path, journeys_path
from transformer.errors import UserError
from transformer.files import read_json
from transformer.prediction.instant import predictions_at
from transformer.registry.package import write_model
from transformer.registry.pyfunc import PARAMS, input_schema, params_schema, predict, to_pandas
from transformer.training.run_folder import TrainedModel

pytestmark = pytest.mark.slow


def write_weather(folder: Path) -> None:
    days = available_dates(folder)
    hours = pl.datetime_range(days[0], days[-1] + timedelta(days=1), "1h", time_zone="UTC", eager=True).alias("ts")
    points = read_op_nodes(folder).select("op_id")
    table = points.join(hours.cast(TIMESTAMP).to_frame(), how="cross")
    table.with_columns(temperature_c=(pl.col("ts").dt.hour() - 12).cast(pl.Float64)).write_parquet(
        folder / "weather.parquet"
    )


def write_rotations(folder: Path) -> None:
    """Each journey comes from the journey of its date that ends last before it."""
    journeys = pl.read_parquet(journeys_path(folder)).sort("start_planned_ts")
    ends = journeys.sort("end_planned_ts").select(
        "service_date", "end_planned_ts", previous_train_id="train_id", previous_service_date="service_date"
    )
    journeys.join_asof(
        ends, left_on="start_planned_ts", right_on="end_planned_ts", by="service_date", check_sortedness=False
    ).select("train_id", "service_date", "previous_train_id", "previous_service_date").write_parquet(
        folder / "rotations.parquet"
    )


def write_links(folder: Path) -> None:
    points = read_op_nodes(folder)["op_id"]
    pairs = pl.DataFrame({"u_node_id": points}).join(pl.DataFrame({"v_node_id": points}), how="cross")
    pairs.with_columns(distance_m=pl.lit(5_000.0), nb_tracks=pl.lit(2)).write_parquet(folder / "node_links.parquet")


def write_cancelled(folder: Path) -> None:
    """Every tenth train is cancelled from its third event on."""
    for path in folder.glob("events/*.parquet"):
        events = pl.read_parquet(path)
        gone = (pl.col("train_id").rank("dense") % 10 == 0) & (pl.col("seq") >= 2)
        observed = pl.when(~gone).then("observed_ts")
        events.with_columns(observed, gone.alias("cancelled")).drop("delay_sec").write_parquet(path)


def write_platforms(folder: Path) -> None:
    for path in folder.glob("events/*.parquet"):
        events = pl.read_parquet(path)
        platform = (pl.col("train_id").rank("dense") % 3).cast(pl.String)
        events.with_columns(planned_platform=platform).write_parquet(path)


TABLES: dict[str, Callable[[Path], None]] = {
    "weather": write_weather,
    "rotation": write_rotations,
    "links": write_links,
    "cancellations": write_cancelled,
    "platform": write_platforms,
}


@pytest.fixture(scope="module", params=list(TABLES))
def config(request: pytest.FixtureRequest, small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A railway with the tables of one input, which is on."""
    scratch = tmp_path_factory.mktemp(request.param)
    shutil.copytree(small_config.data.local_folder, scratch / "data")
    values = {
        "data.local_folder": str(scratch / "data"),
        "paths.runs": str(scratch / "runs"),
        "paths.cache": str(scratch / "cache"),
        "training.max_epochs": 1,
        f"model.use_inputs.{request.param}": True,
    }
    config = with_values(small_config, values, "test")
    with pytest.raises(UserError, match=f"set model.use_inputs.{request.param}=false"):
        stages.fetch_files(config, "")
    TABLES[request.param](scratch / "data")
    return config


@pytest.fixture(scope="module")
def run_folder(config: Config) -> Path:
    stages.fetch_files(config, "")
    stages.train_model(config, "")
    return stages.run_folder(config, "")


def test_training_evaluation_and_prediction(
    config: Config, run_folder: Path, sample_folder: Path, tmp_path: Path
) -> None:
    trained = TrainedModel.load(run_folder)
    assert len(trained.module.network.input_scale) > 0
    stages.evaluate_model(config, "")
    day = trained.split.test[0]
    result = stages.predict(config, run_folder, f"{day}T12:00:00+00:00", tmp_path / "predictions.json")
    assert result["events"] == len(read_json(tmp_path / "predictions.json")) > 0
    bare = with_values(config, {"data.local_folder": str(sample_folder)}, "test")
    with pytest.raises(UserError, match=r"set model.use_inputs.\w+=false"):
        stages.predict(bare, run_folder, f"{day}T12:00:00+00:00", tmp_path / "predictions.json")


def test_the_served_model_predicts_the_same(config: Config, run_folder: Path, tmp_path: Path) -> None:
    trained, folder = TrainedModel.load(run_folder), Path(config.data.local_folder)
    day = trained.split.test[0]
    events = pl.read_parquet(events_path(folder, day))
    at = events["observed_ts"].median().replace(microsecond=0)
    served = predict(trained, to_pandas(events), at.isoformat(), tables=folder)
    piped = predictions_at(trained, trained.located(config), at, [day])
    assert served["predicted_delay_s"].tolist() == piped["predicted_delay_s"].to_list()
    reads_table = bool(input_tables.used_tables(trained.config.model.use_inputs))
    without = events.drop(input_tables.EVENT_COLUMNS_OF.values(), strict=False)
    refusal = r"the model reads .*\.parquet .*; give the folder that holds it" if reads_table else "has no column '.*'"
    with pytest.raises(UserError, match=refusal) as caught:
        predict(trained, to_pandas(without), at.isoformat())
    assert "\n" not in str(caught.value)
    write_model(run_folder, tmp_path / "model", stages._example(config, day), folder)
    assert params_schema(trained).params[: len(PARAMS.params)] == PARAMS.params
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert set(loaded.metadata.signature.inputs.input_names()) == set(input_schema(trained).input_names())
    params = {"at": at.isoformat()} | ({"tables": str(folder)} if reads_table else {})
    again = loaded.predict(to_pandas(events.drop("delay_sec", strict=False)), params=params)
    assert again["predicted_delay_s"].tolist() == served["predicted_delay_s"].tolist()
    held = {path.name for path in (tmp_path / "model").rglob("*.parquet")}
    assert not held & {table.file for table in input_tables.TABLES.values()}
