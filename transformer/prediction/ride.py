"""Predictions for the evaluator of RIDE, the open benchmark of train delay prediction (arXiv 2606.05070).

A Gold core's `test_eval_table.parquet` has a row per train and snapshot. Its columns are `ts`, `train_id`,
`service_date`, `last_known_delay` and, for the next observed events, `future_delay_1` … `future_delay_n`. Points, types
and times of these events are not read. The evaluator needs the same values in the three key columns, and a delay in
seconds in each of the n others. RIDE writes `ts` as a naive timestamp or its nanoseconds, and dates as `2023-01-02` or
`02JAN2023`. Naive times are in `data.timezone`, as in the event tables.

Rank k of the model is the k-th planned event after the last known one. It is the same event as RIDE's k-th observed one
if no observation in between is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.config import Config
from transformer.data.event_table import LoadedTable
from transformer.data.events import DayEvents, each_day, joined, read_journeys
from transformer.data.tables import JOURNEY
from transformer.errors import UserError
from transformer.features.batches import snapshot_builder
from transformer.features.graph import edge_counts
from transformer.parquet import read_parquet
from transformer.prediction.instant import dates_around
from transformer.prediction.rows import next_event_rows
from transformer.training.run_folder import TrainedModel

log = logging.getLogger(__name__)

TABLE = "test_eval_table.parquet"
KEY = ("ts", *JOURNEY)
TARGET = "future_delay_"
LAST_KNOWN = "last_known_delay"  # optional; the prediction for trains that the event tables lack


@dataclass(frozen=True)
class RideKeys:
    """The rows to predict, in the order of the evaluation table."""

    table: pl.DataFrame  # KEY as in the file
    rows: pl.DataFrame  # row, instant (seconds since the Unix epoch, UTC), train_id, service_date, last_known_delay
    n: int  # delays per key


def read_keys(gold: Path, timezone: str) -> RideKeys:
    """The keys of `gold/test_eval_table.parquet`.

    Args:
        timezone: zone of naive times.

    Raises:
        UserError: the file, a column or a key is missing or cannot be read.
    """
    path = gold / TABLE
    table = read_parquet(path, "name the folder of a RIDE Gold core, for example data/gold/lite/core")
    n = sum(name.startswith(TARGET) for name in table.columns)
    missing = [name for name in (*KEY, *(f"{TARGET}{k}" for k in range(1, max(n, 1) + 1))) if name not in table.columns]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; it holds {', '.join(table.columns)}")
    last_known = pl.col(LAST_KNOWN) if LAST_KNOWN in table.columns else pl.lit(None)
    rows = table.select(
        _seconds(table, path, timezone).alias("instant"),
        pl.col("train_id").cast(pl.String),
        _date(table, path).alias("service_date"),
        last_known.cast(pl.Float64, strict=False).fill_nan(None).alias(LAST_KNOWN),
    ).with_row_index("row")
    for name, column in (("ts", "instant"), ("service_date", "service_date"), ("train_id", "train_id")):
        if unread := rows[column].null_count():
            raise UserError(f"{path}: {unread:,} values of {name!r} are missing or cannot be read as {column}")
    return RideKeys(table.select(KEY), rows, n)


def dates_needed(keys: RideKeys, config: Config, available: Sequence[date]) -> list[date]:
    """Service dates that have data, and whose trains may run at an instant of `keys`."""
    return sorted({day for days, _ in _by_day(keys.rows, config, available) for day in days})


def predict_ride(trained: TrainedModel, config: Config, keys: RideKeys, available: Sequence[date]) -> pl.DataFrame:
    """KEY and `future_delay_1` … `future_delay_n` (float32 seconds) for every key, without missing values.

    A train in the model's snapshot gets its predictions; later events get the delay of the last predicted event. Any
    other train gets its translation, else the table's last known delay, else 0. The log counts these cases.

    Args:
        config: `trained.located(…)`.
        available: service dates that have data in `data.local_folder`.
    """
    delays = np.full((keys.rows.height, keys.n), np.nan)
    known = keys.rows[LAST_KNOWN].fill_null(np.nan).to_numpy().copy()
    read: dict[date, DayEvents] = {}  # of the local date before: most of its service dates count for the next one too
    for days, rows in _by_day(keys.rows, config, available):
        read = {of_day.day: of_day for of_day in each_day(config.data, days, read)}
        _predict_day(trained, config, list(read.values()), rows, delays, known)
    unpredicted = np.isnan(delays[:, 0])
    unknown = unpredicted & np.isnan(known)
    before = np.nan_to_num(known)
    for column in delays.T:
        column[:] = before = np.where(np.isnan(column), before, column)
    log.info(
        "RIDE: %s keys; the model predicts %s of them, %s get their last known delay, %s get 0",
        f"{len(delays):,}",
        f"{int((~unpredicted).sum()):,}",
        f"{int((unpredicted & ~unknown).sum()):,}",
        f"{int(unknown.sum()):,}",
    )
    names = [f"{TARGET}{k}" for k in range(1, keys.n + 1)]
    return keys.table.hstack(pl.from_numpy(delays.astype(np.float32), names))


def _by_day(rows: pl.DataFrame, config: Config, available: Sequence[date]) -> Iterator[tuple[list[date], pl.DataFrame]]:
    """Yield keys and the service dates whose trains may run then, one local date at a time."""
    local = pl.from_epoch("instant").dt.replace_time_zone("UTC").dt.convert_time_zone(config.data.timezone).dt.date()
    dated = rows.with_columns(local.alias("day")).sort("day", maintain_order=True)  # neighbours share service dates
    of_days = dated.partition_by("day", maintain_order=True, include_key=False)
    for of_day in of_days:
        latest = datetime.fromtimestamp(int(of_day.select(pl.col("instant").max()).item()), UTC)
        if days := sorted(set(dates_around(latest, config)) & set(available)):
            yield days, of_day


def _predict_day(
    trained: TrainedModel,
    config: Config,
    read: Sequence[DayEvents],
    rows: pl.DataFrame,
    delays: npt.NDArray[np.float64],
    known: npt.NDArray[np.float64],
) -> None:
    """For some `rows` of the K keys, fill in the predicted `delays` [K, n] and the `known` delays [K], in seconds."""
    folder = Path(config.data.local_folder)
    events, _ = joined(read, folder)
    journeys = read_journeys(folder, [of_day.day for of_day in read], config.data.timezone)
    loaded = LoadedTable.of(events, journeys, trained.statistics.vocabulary)
    found = rows.join(loaded.journeys.select(JOURNEY).with_row_index("journey"), on=JOURNEY).with_columns(
        pl.col("journey").cast(pl.Int64)
    )
    builder = snapshot_builder(loaded, trained.statistics, config.data)
    journey, instant = (found[name].to_numpy() for name in ("journey", "instant"))
    _, _, translation = builder.known_delays(journey, instant)
    known[found["row"].to_numpy()] = translation
    predicted = (
        next_event_rows(trained, trained.module_for(edge_counts(events)), builder, loaded, np.unique(instant))
        .with_columns(pl.col("snapshot_ts").dt.epoch("s").alias("instant"))
        .join(found.select("row", "instant", "journey"), on=["instant", "journey"])
        .filter(pl.col("rank") <= delays.shape[1])
    )
    delays[predicted["row"].to_numpy(), predicted["rank"].to_numpy() - 1] = predicted["predicted_delay_s"].to_numpy()


def _seconds(table: pl.DataFrame, path: Path, timezone: str) -> pl.Expr:
    """`ts` as seconds since the Unix epoch."""
    column, dtype = pl.col("ts"), table.schema["ts"]
    if dtype.is_integer():
        column, dtype = pl.from_epoch("ts", time_unit="ns"), pl.Datetime("ns")
    if not isinstance(dtype, pl.Datetime):
        raise UserError(f"{path}: column 'ts' holds {dtype}, expected timestamps or their nanoseconds")
    if dtype.time_zone is None:
        column = column.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
    return column.dt.epoch("s")


def _date(table: pl.DataFrame, path: Path) -> pl.Expr:
    column, dtype = pl.col("service_date"), table.schema["service_date"]
    if dtype == pl.String:
        return pl.coalesce(column.str.to_date("%Y-%m-%d", strict=False), column.str.to_date("%d%b%Y", strict=False))
    if not isinstance(dtype, pl.Date | pl.Datetime):
        raise UserError(f"{path}: column 'service_date' holds {dtype}, expected dates")
    return column.cast(pl.Date)
