"""The registered model: an MLflow pyfunc that predicts from events alone. It needs neither Airflow nor a checkout.

    model = mlflow.pyfunc.load_model("models:/train-delays@champion")
    predictions = model.predict(events, params={"at": "2024-12-21T08:00+01:00"})

`events` is a pandas DataFrame with a row for each event of each train, the whole timetable of those that run at that
instant and what is known of it: the columns of INPUT, those of EVENT_SCHEMA in `transformer.data.tables`. Its times
are UTC without a zone. What was observed after `at` is not used. The result has a row for every running train and next
event: the columns of OUTPUT, and the delays in seconds between which a share of the events is to lie, 90 % between
`low_90_delay_s` and `high_90_delay_s`.

MLflow runs this file itself ("models from code"), beside the package as it was at registration: nothing is pickled.
"""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

import mlflow
import pandas as pd
import polars as pl
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from transformer.config import with_values
from transformer.data.tables import (
    JOURNEY,
    journeys_from_events,
    write_events,
    write_journeys,
    write_op_nodes,
)
from transformer.errors import UserError
from transformer.prediction.columns import intervals_of
from transformer.prediction.instant import dates_around, parse_instant, predictions_at
from transformer.training.run_folder import TrainedModel

INPUT = Schema(
    [
        ColSpec(DataType.string, "train_id"),
        ColSpec(DataType.datetime, "service_date"),
        ColSpec(DataType.long, "seq"),
        ColSpec(DataType.long, "op_id"),
        ColSpec(DataType.string, "event_type"),
        ColSpec(DataType.datetime, "planned_ts"),
        ColSpec(DataType.datetime, "observed_ts"),  # NaT where not observed
        ColSpec(DataType.string, "train_number", required=False),  # a model may know the number's history
        ColSpec(DataType.string, "train_type", required=False),  # unknown where left out
    ]
)
OUTPUT = Schema(
    [
        ColSpec(DataType.string, "train_id"),
        ColSpec(DataType.datetime, "service_date"),
        ColSpec(DataType.string, "train_number", required=False),
        ColSpec(DataType.string, "train_type", required=False),
        ColSpec(DataType.integer, "rank"),  # 1 = the train's very next event
        ColSpec(DataType.integer, "op_id"),
        ColSpec(DataType.string, "event_type"),
        ColSpec(DataType.datetime, "planned_ts"),
        ColSpec(DataType.datetime, "predicted_ts"),
        ColSpec(DataType.integer, "predicted_delay_s"),
        ColSpec(DataType.integer, "translation_delay_s"),
        ColSpec(DataType.double, "last_delay_s", required=False),  # NaN when no event of the train is known
    ]
)  # and the ends of the predicted intervals, see `output_schema`
# An ISO 8601 time; "" = that of the newest observation.
PARAMS = ParamSchema([ParamSpec("at", DataType.string, "")])


class ServedModel(PythonModel):
    """Loads the trained model that lies beside it, once."""

    def load_context(self, context: PythonModelContext) -> None:
        self._trained = TrainedModel.load(Path(context.artifacts["trained"]))

    def predict(  # type: ignore[override]  # MLflow passes the context to those that ask for it
        self, model_input: pd.DataFrame, params: dict[str, str] | None = None
    ) -> pd.DataFrame:
        return predict(self._trained, model_input, (params or {}).get("at", ""))


def predict(trained: TrainedModel, events: pd.DataFrame, at: str) -> pd.DataFrame:
    """Predictions at an instant, from and as pandas tables.

    Args:
        at: ISO 8601; "" = the time of the newest observation.

    Raises:
        UserError: no such time, no train near it, or events that are not valid.
    """
    frame = _from_pandas(events)
    if not at and frame["observed_ts"].null_count() == frame.height:
        raise UserError("no event is observed; say of which instant the predictions are, params={'at': …}")
    newest = frame["observed_ts"].max()
    instant = parse_instant(at, trained.config.data.timezone) if at else newest
    assert isinstance(instant, datetime)  # of a column of times
    columns = output_schema(trained).input_names()
    return to_pandas(_predict_at(trained, frame, instant).select(columns))


def output_schema(trained: TrainedModel) -> Schema:
    """OUTPUT and the ends of the model's intervals, whole seconds."""
    ends = [name for interval in intervals_of(trained.module.network.levels) for name in interval.columns]
    return Schema([*OUTPUT.inputs, *(ColSpec(DataType.integer, name) for name in ends)])


def _predict_at(trained: TrainedModel, events: pl.DataFrame, instant: datetime) -> pl.DataFrame:
    """Predict from a data folder of these events: read, checked and cut off at the instant as any other."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = with_values(trained.config, {"data.local_folder": str(folder)}, "served model")
        given = events["service_date"].unique()
        days = sorted(set(dates_around(instant, config)) & set(given))
        if not days:
            raise UserError(f"no event is of a service date near {instant.isoformat()}; give those that run then")
        for day in days:
            write_events(folder, day, events.filter(service_date=day))
        attributes = events.group_by(JOURNEY).agg(
            pl.col("train_number", "train_type").first(),
            pl.lit(None, pl.String).alias("train_relation"),
            pl.lit(None, pl.String).alias("operator"),
        )
        write_journeys(folder, journeys_from_events(events, attributes))
        nowhere = pl.lit(None, pl.Float64)
        points = events.select(pl.col("op_id").unique())
        write_op_nodes(folder, points.with_columns(op_name=pl.col("op_id").cast(pl.String), lat=nowhere, lon=nowhere))
        return predictions_at(trained, config, instant, days)


def _from_pandas(events: pd.DataFrame) -> pl.DataFrame:
    frame = pl.from_pandas(events)
    absent = [name for name in ("train_number", "train_type") if name not in frame.columns]
    return (
        frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent)
        .with_columns(
            pl.col("train_id", "event_type", "train_number", "train_type").cast(pl.String),
            pl.col("service_date").cast(pl.Date),
            pl.col("seq").cast(pl.Int16),
            pl.col("op_id").cast(pl.Int32),
            pl.col("planned_ts", "observed_ts").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        )
        .with_columns((pl.col("observed_ts") - pl.col("planned_ts")).dt.total_seconds().alias("delay_sec"))
    )


def to_pandas(frame: pl.DataFrame) -> pd.DataFrame:
    """Times in UTC without a zone, and dates as times: all that a signature can say."""
    zoned = pl.col(pl.Datetime("us", "*")).dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return frame.with_columns(zoned, pl.col(pl.Date).cast(pl.Datetime("us"))).to_pandas()


mlflow.models.set_model(ServedModel())
