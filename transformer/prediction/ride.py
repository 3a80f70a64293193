"""Predictions for the evaluator of RIDE, the open benchmark of train delay prediction (arXiv 2606.05070).

A Gold core's `test_eval_table.parquet` has a row per train and snapshot. Its columns are `ts`, `train_id`,
`service_date`, `last_known_delay` and, for the next observed events, `future_delay_1` … `future_delay_n`. Points, types
and times of these events are not read. The evaluator needs the same values in the three key columns, and a delay in
seconds in each of the n others. RIDE writes `ts` as a naive timestamp or as a whole number since 1970, and dates as
`2023-01-02` or `02JAN2023`. Naive times are in `data.timezone`, as in the event tables.

Rank k of the model is the k-th planned event after the last known one. It is the same event as RIDE's k-th observed one
if no observation in between is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.config import Config
from transformer.data.conform import midnights
from transformer.data.event_table import LoadedTable
from transformer.data.events import DayEvents, joined, read_journeys
from transformer.data.reach import dates_running
from transformer.data.tables import JOURNEY
from transformer.errors import UserError
from transformer.features.graph import edge_counts
from transformer.features.history import History
from transformer.features.inputs.catalogue import Inputs
from transformer.parquet import read_parquet
from transformer.prediction.instant import read_around
from transformer.prediction.rows import next_event_rows
from transformer.training.run_folder import TrainedModel

log = logging.getLogger(__name__)

TABLE = "test_eval_table.parquet"
KEY = ("ts", *JOURNEY)
TARGET = "future_delay_"
LAST_KNOWN = "last_known_delay"  # optional; the prediction for trains that the event tables lack
# Train data are from these years. A number of another unit lies far outside: each unit is a thousand times the next.
FIRST_YEAR, END_YEAR = 1990, 2100
_FIRST_S, _END_S = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (FIRST_YEAR, END_YEAR))
_UNITS: dict[Literal["s", "ms", "us", "ns"], int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # per second


@dataclass(frozen=True)
class RideKeys:
    """The rows to predict, in the order of the evaluation table."""

    path: Path
    table: pl.DataFrame  # KEY as in the file
    rows: pl.DataFrame  # row, instant (seconds since the Unix epoch, UTC), train_id, service_date, last_known_delay
    n: int  # delays per key


@dataclass(frozen=True)
class RidePredictions:
    """A delay for each key and each of its next events."""

    table: pl.DataFrame  # KEY and `future_delay_1` … `future_delay_n`, float32 seconds without missing values
    unmatched: int  # keys whose train the event tables do not have around the key's `ts`


def read_keys(gold: Path, timezone: str) -> RideKeys:
    """The keys of `gold/test_eval_table.parquet`.

    Args:
        timezone: zone of naive times.

    Raises:
        UserError: the file, a column or a key is missing or cannot be read, or a time is implausible.
    """
    path = gold / TABLE
    table = read_parquet(path, "name the folder of a RIDE Gold core, for example data/gold/lite/core")
    n = sum(name.startswith(TARGET) for name in table.columns)
    missing = [name for name in (*KEY, *(f"{TARGET}{k}" for k in range(1, max(n, 1) + 1))) if name not in table.columns]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; it holds {', '.join(table.columns)}")
    if table.is_empty():
        raise UserError(f"{path} holds no keys; name the folder of a RIDE Gold core that has some")
    last_known = pl.col(LAST_KNOWN) if LAST_KNOWN in table.columns else pl.lit(None)
    rows = table.select(
        _seconds(table["ts"], path, timezone).alias("instant"),
        pl.col("train_id").cast(pl.String),
        _dates(table["service_date"], path, timezone).alias("service_date"),
        last_known.cast(pl.Float64, strict=False).fill_nan(None).alias(LAST_KNOWN),
    ).with_row_index("row")
    for name, column in (("ts", "instant"), ("service_date", "service_date"), ("train_id", "train_id")):
        if unread := rows[column].null_count():
            raise UserError(f"{path}: {unread:,} values of {name!r} are missing or cannot be read as {column}")
    return RideKeys(path, table.select(KEY), rows, n)


def dates_needed(keys: RideKeys, config: Config, available: Sequence[date]) -> list[date]:
    """Service dates that have data, and whose trains may run at an instant of `keys`."""
    return sorted({day for days, _ in _by_day(keys.rows, config, available) for day in days})


def predict_ride(trained: TrainedModel, config: Config, keys: RideKeys, available: Sequence[date]) -> RidePredictions:
    """Predict the delays of every key.

    A train in the model's snapshot gets its predictions; later events get the delay of the last predicted event. Any
    other train gets its translation, else the table's last known delay, else 0. The log counts these cases, and warns
    of keys whose train the event tables do not have.

    Args:
        config: `trained.located(…)`.
        available: service dates that have data in `data.local_folder`.

    Raises:
        UserError: unreadable or invalid data, or the event tables have no train of the keys.
    """
    delays = np.full((keys.rows.height, keys.n), np.nan)
    known = keys.rows[LAST_KNOWN].fill_null(np.nan).to_numpy().copy()
    matched = np.zeros(keys.rows.height, np.bool_)
    read: dict[date, DayEvents] = {}  # of the local date before: most of its service dates count for the next one too
    for days, rows in _by_day(keys.rows, config, available):
        keyed = rows["service_date"].unique().to_list()
        of_days = read_around(config.data, days, *_span(rows), keyed, read)
        read = {of_day.day: of_day for of_day in of_days}
        _predict_day(trained, config, of_days, rows, delays, known, matched)
    unmatched = _unmatched(keys, matched, config, available)
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
    return RidePredictions(keys.table.hstack(pl.from_numpy(delays.astype(np.float32), names)), unmatched)


def _unmatched(keys: RideKeys, matched: npt.NDArray[np.bool_], config: Config, available: Sequence[date]) -> int:
    """The number of keys that match no train. The log warns of them; if no key matches, they are refused."""
    unmatched = int((~matched).sum())
    if not unmatched:
        return 0
    first = keys.rows.row(int(np.argmin(matched)), named=True)
    at = datetime.fromtimestamp(first["instant"], ZoneInfo(config.data.timezone)).isoformat()
    fault = (
        f"{keys.path}: {unmatched:,} of {len(matched):,} keys are of trains that the event tables in "
        f"{config.data.local_folder} do not have around their time, for example train_id {first['train_id']!r} of "
        f"service_date {first['service_date']} at {at}; there are dates from {available[0]} to {available[-1]}"
    )
    if not matched.any():
        raise UserError(f"{fault}; name the event tables of the keys' dates with --data")
    log.warning("%s; such keys get the table's last known delay, else 0", fault)
    return unmatched


def _by_day(rows: pl.DataFrame, config: Config, available: Sequence[date]) -> Iterator[tuple[list[date], pl.DataFrame]]:
    """Yield keys and the service dates whose trains may run then, one local date at a time."""
    local = pl.from_epoch("instant").dt.replace_time_zone("UTC").dt.convert_time_zone(config.data.timezone).dt.date()
    dated = rows.with_columns(local.alias("day")).sort("day", maintain_order=True)  # neighbours share service dates
    of_days = dated.partition_by("day", maintain_order=True, include_key=False)
    for of_day in of_days:
        if days := sorted(set(dates_running(*_span(of_day), config.data)) & set(available)):
            yield days, of_day


def _span(rows: pl.DataFrame) -> tuple[datetime, datetime]:
    """The first and the last instant of the keys."""
    first, last = rows.select(pl.col("instant").min().alias("first"), pl.col("instant").max().alias("last")).row(0)
    return datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC)


def _predict_day(
    trained: TrainedModel,
    config: Config,
    read: Sequence[DayEvents],
    rows: pl.DataFrame,
    delays: npt.NDArray[np.float64],
    known: npt.NDArray[np.float64],
    matched: npt.NDArray[np.bool_],
) -> None:
    """Predict some `rows` of the K keys.

    Fills in the predicted `delays` [K, n] and the `known` delays [K], in seconds, and which keys are `matched` [K].
    """
    folder = Path(config.data.local_folder)
    events, report = joined(read, folder)
    for line in report.lines():
        log.info(line)
    journeys = read_journeys(folder, [of_day.day for of_day in read], config.data.timezone)
    loaded = LoadedTable.of(events, journeys, trained.statistics.vocabulary)
    found = rows.join(loaded.journeys.select(JOURNEY).with_row_index("journey"), on=JOURNEY).with_columns(
        pl.col("journey").cast(pl.Int64)
    )
    if found.is_empty():
        return
    matched[found["row"].to_numpy()] = True
    days = [of_day.day for of_day in read]
    inputs = Inputs.read(trained.module.network.use, config.data, days, trained.statistics.vocabulary)
    builder = History(trained.statistics, config.data.statistics).builder(loaded, config.data.snapshot, inputs)
    journey, instant = (found[name].to_numpy() for name in ("journey", "instant"))
    known[found["row"].to_numpy()] = loaded.table.known_delays(journey, instant).translation
    predicted = (
        next_event_rows(trained, trained.module_for(edge_counts(events)), builder, loaded.names, np.unique(instant))
        .with_columns(pl.col("snapshot_ts").dt.epoch("s").alias("instant"))
        .join(found.select("row", "instant", "journey"), on=["instant", "journey"])
        .filter(pl.col("rank") <= delays.shape[1])
    )
    delays[predicted["row"].to_numpy(), predicted["rank"].to_numpy() - 1] = predicted["predicted_delay_s"].to_numpy()


# --- times and dates of the file -------------------------------------------------------------------------------------
def _seconds(column: pl.Series, path: Path, timezone: str) -> pl.Series:
    """Instants as seconds since the Unix epoch. Numbers count from 1970 in the unit that makes them plausible."""
    if column.dtype.is_integer():
        column = pl.from_epoch(column.cast(pl.Int64), time_unit=_unit(column, path))
    if not isinstance(column.dtype, pl.Datetime):
        raise UserError(f"{path}: column {column.name!r} holds {column.dtype}, expected timestamps or whole numbers")
    if column.dtype.time_zone is None:
        column = column.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
    seconds = column.dt.epoch("s")
    odd = column.filter((seconds < _FIRST_S) | (seconds >= _END_S))
    if len(odd):
        raise UserError(
            f"{path}: column {column.name!r} holds {odd[0].isoformat()}, which is not between {FIRST_YEAR} and "
            f"{END_YEAR}; correct the values, or the time unit of the column, {column.dtype}"
        )
    return seconds


def _unit(column: pl.Series, path: Path) -> Literal["s", "ms", "us", "ns"]:
    """The time unit in which all numbers are plausible times; no number is plausible in two units."""
    numbers = column.drop_nulls().to_numpy()
    if not len(numbers):
        return "s"
    low, high = int(numbers.min()), int(numbers.max())
    for unit, per_second in _UNITS.items():
        if _FIRST_S * per_second <= low and high < _END_S * per_second:
            return unit
    raise UserError(
        f"{path}: column {column.name!r} holds numbers from {low} to {high}, which are no times from {FIRST_YEAR} "
        f"to {END_YEAR} in one unit of {', '.join(_UNITS)}; write timestamps, or one unit throughout"
    )


def _dates(column: pl.Series, path: Path, timezone: str) -> pl.Series:
    """Service dates. A timestamp must be midnight: of its own zone, or of `timezone`."""
    if column.dtype == pl.String:
        iso, text = (column.str.to_date(style, strict=False) for style in ("%Y-%m-%d", "%d%b%Y"))
        return iso.zip_with(iso.is_not_null(), text)
    if not isinstance(column.dtype, pl.Date | pl.Datetime):
        raise UserError(f"{path}: column {column.name!r} holds {column.dtype}, expected dates")
    return column if isinstance(column.dtype, pl.Date) else midnights(column, timezone, path)
