"""The registered model: an MLflow pyfunc that predicts from events alone. It needs neither Airflow nor a checkout.

    model = mlflow.pyfunc.load_model("models:/train-delays@champion")
    predictions = model.predict(events, params={"at": "2024-12-21T08:00+01:00"})

`events` is a pandas DataFrame with a row per event. It holds the whole timetable of every train that runs at that
instant, and the times observed so far. Its columns are INPUT, which are those of EVENT_SCHEMA in
`transformer.data.tables`. Its times are UTC without a zone. Times observed after `at` are not used. Leave out the
events that are known to be cancelled, unless the model has the input `cancellations`: it needs them with the column
`cancelled`.

The result has a row per running train and next event. Its columns are OUTPUT and the ends of the predicted intervals in
seconds. For example, 90 % of the delays should lie between `low_90_delay_s` and `high_90_delay_s`.

A model whose optional inputs read tables, such as `weather.parquet`, also needs the parameter `tables`: the folder that
holds them. Rows that are known only after `at` are not used.

With the parameter `transfer_minutes`, the result has a row per transfer in place of these, with the columns TRANSFERS.
A transfer is a train that arrives at a point and another one that departs there within an hour. The column
`probability` says how likely it is that so many minutes remain.

MLflow runs this file itself ("models from code"), with a copy of the package made at registration. Nothing is pickled.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import polars as pl
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from polars.exceptions import PolarsError

from transformer.config import with_values
from transformer.data.input_tables import switch, used_tables
from transformer.data.tables import (
    JOURNEY,
    journeys_from_events,
    write_events,
    write_journeys,
    write_op_nodes,
)
from transformer.errors import UserError
from transformer.prediction.columns import TRANSFER_COLUMNS, intervals_of
from transformer.prediction.instant import InstantSnapshot, dates_around, parse_instant
from transformer.prediction.transfers import check_minutes
from transformer.training.run_folder import TrainedModel

log = logging.getLogger(__name__)

INPUT = Schema(
    [
        ColSpec(DataType.string, "train_id"),
        ColSpec(DataType.datetime, "service_date"),
        ColSpec(DataType.long, "seq"),
        ColSpec(DataType.long, "op_id"),
        ColSpec(DataType.string, "event_type"),
        ColSpec(DataType.datetime, "planned_ts"),
        ColSpec(DataType.datetime, "observed_ts"),  # NaT = not observed
        ColSpec(DataType.string, "train_number", required=False),  # a model may know the history of the number
        ColSpec(DataType.string, "train_type", required=False),  # without this column, every type is unknown
    ]
)
INPUT_OF = {  # further columns that a model needs with an optional input
    "cancellations": [
        ColSpec(DataType.boolean, "cancelled"),
        ColSpec(DataType.datetime, "cancelled_ts", required=False),  # NaT = known at the first cancelled event
    ],
    "platform": [ColSpec(DataType.string, "planned_platform")],
}
OUTPUT = Schema(
    [
        ColSpec(DataType.string, "train_id"),
        ColSpec(DataType.datetime, "service_date"),
        ColSpec(DataType.string, "train_number", required=False),
        ColSpec(DataType.string, "train_type", required=False),
        ColSpec(DataType.integer, "rank"),  # 1 = the first of the train's next events
        ColSpec(DataType.integer, "op_id"),
        ColSpec(DataType.string, "event_type"),
        ColSpec(DataType.datetime, "planned_ts"),
        ColSpec(DataType.datetime, "predicted_ts"),
        ColSpec(DataType.integer, "predicted_delay_s"),
        ColSpec(DataType.integer, "translation_delay_s"),
        ColSpec(DataType.double, "last_delay_s", required=False),  # NaN when no event of the train is known
    ]
)  # the ends of the predicted intervals follow, see `output_schema`
TRANSFERS = tuple(name for name in TRANSFER_COLUMNS if name != "op_name")  # the events name no points
PARAMS = ParamSchema(
    [
        ParamSpec("at", DataType.string, ""),  # an ISO 8601 time; "" = the time of the newest observation
        ParamSpec("transfer_minutes", DataType.double, None),  # None = predictions, and no transfers
    ]
)
TABLES_PARAM = ParamSpec("tables", DataType.string, "")  # folder with the tables of the model's optional inputs


class ServedModel(PythonModel):
    """Predicts with the trained model of the registered version, which is loaded once."""

    def load_context(self, context: PythonModelContext) -> None:
        self._trained = TrainedModel.load(Path(context.artifacts["trained"]))

    def predict(  # type: ignore[override]  # MLflow passes the context only if asked
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        given = params or {}
        tables = given.get(TABLES_PARAM.name) or None
        return predict(self._trained, model_input, given.get("at", ""), given.get("transfer_minutes"), tables)


def predict(
    trained: TrainedModel,
    events: pd.DataFrame,
    at: str,
    transfer_minutes: float | None = None,
    tables: str | Path | None = None,
) -> pd.DataFrame:
    """Predict at an instant, from a pandas table to a pandas table.

    Args:
        events: one row per event, with the columns of INPUT.
        at: ISO 8601; "" = the time of the newest observation.
        transfer_minutes: return the transfers, with the probability that they hold if they need so many minutes.
        tables: folder with the tables of the model's optional inputs.

    Raises:
        UserError: the time is not valid, no service date is near it, the events or the minutes are not valid, the
            model predicts no distribution and transfers are asked for, or a table of an optional input is missing.
    """
    if transfer_minutes is not None:
        check_minutes(transfer_minutes, "params: transfer_minutes")
    frame = _from_pandas(events)
    if not at and frame["observed_ts"].null_count() == frame.height:
        raise UserError("no event is observed; give the instant to predict at: params={'at': …}")
    newest = frame["observed_ts"].max()
    instant = parse_instant(at, trained.config.data.timezone) if at else newest
    assert isinstance(instant, datetime)  # the column holds times
    with _snapshot_at(trained, frame, instant, tables) as snapshot:
        if transfer_minutes is not None:
            return to_pandas(snapshot.transfers(transfer_minutes).select(TRANSFERS))
        return to_pandas(snapshot.predictions().select(output_schema(trained).input_names()))


def input_schema(trained: TrainedModel) -> Schema:
    """INPUT, and the columns of the events that optional inputs of the model read."""
    use = trained.config.model.use_inputs
    return Schema([*INPUT.inputs, *(spec for name, specs in INPUT_OF.items() if getattr(use, name) for spec in specs)])


def params_schema(trained: TrainedModel) -> ParamSchema:
    """PARAMS, and TABLES_PARAM if the model reads tables of optional inputs."""
    if not used_tables(trained.config.model.use_inputs):
        return PARAMS
    return ParamSchema([*PARAMS.params, TABLES_PARAM])


def output_schema(trained: TrainedModel) -> Schema:
    """OUTPUT and the ends of the model's intervals in whole seconds."""
    ends = [name for interval in intervals_of(trained.module.network.levels) for name in interval.columns]
    return Schema([*OUTPUT.inputs, *(ColSpec(DataType.integer, name) for name in ends)])


@contextmanager
def _snapshot_at(
    trained: TrainedModel, events: pl.DataFrame, instant: datetime, tables: str | Path | None
) -> Iterator[InstantSnapshot]:
    """Write a data folder of these events and read it, with the usual checks and the cut-off at the instant."""
    with tempfile.TemporaryDirectory() as temporary, _faults_of_the_table(Path(temporary)):
        folder = Path(temporary)
        config = with_values(trained.config, {"data.local_folder": str(folder)}, "served model")
        given = events["service_date"].unique()
        days = sorted(set(dates_around(instant, config)) & set(given))
        if not days:
            raise UserError(
                f"no event has a service date near {instant.isoformat()}; add the events of the trains that run then"
            )
        if unused := events.height - int(events["service_date"].is_in(days).sum()):
            log.warning("%s events are not used: no train of their service date runs at %s", f"{unused:,}", instant)
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
        _link_tables(trained, tables, folder)
        yield InstantSnapshot.of(trained, config, instant, days)


def _link_tables(trained: TrainedModel, tables: str | Path | None, folder: Path) -> None:
    """Let the data folder show the tables of the model's optional inputs.

    Raises:
        UserError: one of them is missing.
    """
    for name, table in used_tables(trained.config.model.use_inputs).items():
        given = None if tables is None else Path(tables).resolve() / table.file
        if given is None or not given.is_file():
            where = "no folder of tables is given" if tables is None else f"{tables} holds no {table.file}"
            raise UserError(
                f"the model reads {table.file} (its {switch(name)}=true), and {where}; "
                "give the folder that holds it: params={'tables': …}"
            )
        (folder / table.file).symlink_to(given)


@contextmanager
def _faults_of_the_table(folder: Path) -> Iterator[None]:
    """Name the given table in place of a file of `folder`, which is temporary. The remedy is the caller's, too."""
    try:
        yield
    except UserError as error:
        fault = re.sub(rf"{re.escape(str(folder))}/events/events_([\d-]+)\.parquet", r"events of \1", str(error))
        if fault == str(error) and str(folder) not in fault:
            raise
        fault = fault.rpartition("; ")[0] or fault
        raise UserError(f"{fault.replace(str(folder), 'the given events')}; correct the given events") from None


def _from_pandas(events: pd.DataFrame) -> pl.DataFrame:
    frame = pl.from_pandas(events)
    times = ["planned_ts", "observed_ts", *(name for name in ("cancelled_ts",) if name in frame.columns)]
    absent = [name for name in ("train_number", "train_type") if name not in frame.columns]
    try:
        typed = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent).with_columns(
            pl.col("train_id", "event_type", "train_number", "train_type").cast(pl.String),
            pl.col("service_date").cast(pl.Date),
            pl.col("seq").cast(pl.Int16),
            pl.col("op_id").cast(pl.Int32),
            pl.col(times).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        )
    except PolarsError as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"a value does not fit its column ({reason}); correct the given events") from None
    return typed.with_columns((pl.col("observed_ts") - pl.col("planned_ts")).dt.total_seconds().alias("delay_sec"))


def to_pandas(frame: pl.DataFrame) -> pd.DataFrame:
    """Convert to pandas: times in UTC without a zone, and dates as times. An MLflow signature has no other types."""
    zoned = pl.col(pl.Datetime("us", "*")).dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return frame.with_columns(zoned, pl.col(pl.Date).cast(pl.Datetime("us"))).to_pandas()


mlflow.models.set_model(ServedModel())
