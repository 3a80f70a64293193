"""The content of one snapshot: its trains, their predicted and observed delays, and their attention to each other.

Legend of dimensions: T trains of the snapshot, M members, N layers, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transformer.config import Config
from transformer.data.event_table import in_table_order
from transformer.data.events import read_days
from transformer.data.fetch import fetch_dates, list_dates
from transformer.data.points import read_op_nodes
from transformer.data.tables import JOURNEY
from transformer.errors import UserError
from transformer.exploration.attention import attention_weights
from transformer.features.batches import to_tensors
from transformer.features.instants import grid_instants
from transformer.features.reading import obtain_readings
from transformer.features.snapshots import EventFeatures, SnapshotBuilder
from transformer.prediction.columns import Interval, intervals_of
from transformer.prediction.instant import InstantSnapshot, dates_around, parse_instant
from transformer.training.run_folder import TrainedModel

TRAIN_COLUMNS = (
    "train_id",
    "service_date",
    "train_number",
    "train_type",
    "op_id",  # point of its last observed event or, before its first one, of its first event
    "op_name",  # null = the points table has no name
    "departed",  # at least one event is known
    "delay_s",  # translation: its last known delay, carried forward to the instant
    "change_s",  # predicted delay at the last of its next events − `delay_s`
)
_NAMED_TRAINS = 5  # trains that the error about an unknown train lists


@dataclass(frozen=True, eq=False)
class ExploredSnapshot:
    """A snapshot with the predictions and attention of a model. Delays are whole seconds, times are local times."""

    instant: datetime
    trains: pl.DataFrame  # [T] TRAIN_COLUMNS, a line per train
    predictions: pl.DataFrame  # `prediction.prediction_columns`; `train`, the line in `trains`; `observed_delay_s`
    past: pl.DataFrame  # known events: `train`, `op_id`, `op_name`, `event_type`, `planned_ts`, `delay_s`
    attention: NDArray[np.float32]  # [M, N, H, T, T] how much the train of the row attends to that of the column
    intervals: tuple[Interval, ...]  # narrowest first

    def find(self, train: str = "") -> int:
        """Return the line of a train's latest journey.

        Args:
            train: `train_id` or train number; "" = the departed train with the most next events and, among equals, the
                largest predicted change of delay.

        Raises:
            UserError: the train is not in the snapshot.
        """
        lines = self.trains.with_row_index("train")
        if train:
            found = lines.filter((pl.col("train_id") == train) | (pl.col("train_number") == train))
            if found.is_empty():
                known = self.trains["train_number"].head(_NAMED_TRAINS).to_list()
                raise UserError(
                    f"train {train!r} does not run at {self.instant.isoformat()}; name one of the {self.trains.height} "
                    f"trains that do, for example {', '.join(known)}"
                )
            return int(found.sort("service_date", "train")["train"][-1])
        ahead = self.predictions.group_by("train").agg(pl.len().alias("events"))
        ranked = lines.join(ahead, on="train").sort(
            "departed", "events", pl.col("change_s").abs(), "train", descending=[True, True, True, False]
        )
        return int(ranked["train"][0])

    def name(self, train: int) -> str:
        """Return the train's number."""
        return str(self.trains["train_number"][train])

    def table_of(self, train: int) -> pl.DataFrame:
        """Return a table of a train's next events. Delays are in seconds; null = the event was not observed later."""
        ends = [name for interval in self.intervals[-1:] for name in interval.columns]
        return self.predictions.filter(pl.col("train") == train).select(
            "rank",
            pl.coalesce("op_name", pl.col("op_id").cast(pl.String)).alias("point"),
            "event_type",
            pl.col("planned_ts").dt.to_string("%H:%M:%S").alias("planned"),
            *(pl.col(name) for name in ("predicted_delay_s", *ends, "translation_delay_s", "observed_delay_s")),
        )

    def attention_of(self, train: int) -> pl.DataFrame:
        """Return the attention of a train to each train of the snapshot, itself included: T lines, the largest first.

        Columns: TRAIN_COLUMNS; `train`; `weight`, the mean over members, layers and heads; `layer_1`, `layer_2`, …, the
        means over members and heads. Each column of weights sums to 1.
        """
        given = self.attention[:, :, :, train]
        layers = given.mean(axis=(0, 2))
        columns = {f"layer_{number}": layer for number, layer in enumerate(layers, start=1)}
        weights = pl.DataFrame({"weight": given.mean(axis=(0, 1, 2)), **columns})
        return (
            pl.concat([self.trains.with_row_index("train"), weights], how="horizontal")
            .sort("weight", "train", descending=[True, False])
            .select(*TRAIN_COLUMNS, "train", *weights.columns)
        )


def busiest_instant(trained: TrainedModel, config: Config) -> datetime:
    """Return the instant (UTC) of the evaluation grid, on the last test date, at which most trains run.

    Args:
        config: `trained.located(…)`.
    """
    data, day = config.data, trained.split.test[-1]
    _require([day], config, day)
    (reading,) = obtain_readings(data, [day], Path(config.paths.cache))
    loaded = reading.table(trained.statistics.vocabulary)
    builder = SnapshotBuilder(loaded.table, data.snapshot, EventFeatures.none(loaded.table))
    instants = grid_instants((day,), data.grid, data.timezone)
    count = np.bincount(builder.active_trains(instants).snapshot, minlength=len(instants))
    return datetime.fromtimestamp(int(instants[count.argmax()]), UTC)


def explore(trained: TrainedModel, config: Config, at: str = "") -> ExploredSnapshot:
    """Return the content of the snapshot at an instant. The only data after the instant are the observed delays.

    Args:
        config: `trained.located(…)`.
        at: ISO 8601 time; without an offset it is in `data.timezone`; "" = `busiest_instant`.

    Raises:
        UserError: the time is not valid, or there are no data or no trains at this time.
    """
    zone = ZoneInfo(config.data.timezone)
    instant = parse_instant(at, config.data.timezone) if at else busiest_instant(trained, config)
    local = instant.astimezone(zone)
    days = _require(dates_around(instant, config), config, local.date())
    known = InstantSnapshot.of(trained, config, instant, days)
    batch = to_tensors(known.builder.build(known.instants), config.data.timezone)
    if not batch["train_mask"].any():
        raise UserError(f"no train runs at {local.isoformat()}; name another time")
    predictions = _predictions(known)
    names = read_op_nodes(Path(config.data.local_folder)).select("op_id", "op_name")
    return ExploredSnapshot(
        instant=local,
        trains=_trains(known, predictions, names),
        predictions=predictions,
        past=_past(known, names),
        attention=attention_weights(known.module.network, batch)[0].numpy(),
        intervals=intervals_of(known.module.network.levels),
    )


def _require(days: Sequence[date], config: Config, own: date) -> list[date]:
    """Fetch the events of `days` to `data.local_folder`. Return the dates that have data. The error names `own`."""
    available = list_dates(config)
    found = [day for day in days if day in available]
    if not found:
        dates = f"name a time on the dates from {available[0]} to {available[-1]}"
        raise UserError(f"{config.data.local_folder}: no events of {own}; {dates}")
    fetch_dates(config, found)
    return found


def _running(known: InstantSnapshot) -> pl.DataFrame:
    """Return journey, first event and last known event of each train, in the order of the trains in a batch."""
    active = known.builder.active_trains(known.instants)
    start = known.loaded.table.start[active.journey]
    return pl.DataFrame(
        {
            "journey": active.journey,
            "start": start,
            "last": active.last,
            "departed": active.last >= start,
            "delay_s": active.translation.astype(np.int32),
        }
    ).with_row_index("train")


def _predictions(known: InstantSnapshot) -> pl.DataFrame:
    """Return the predictions, with the line of their train and the delay that was observed later."""
    happened, _ = read_days(known.config.data, known.days)
    predictions = known.predictions()
    observed = in_table_order(happened)["delay_sec"].gather(predictions["event"])
    return (
        predictions.with_columns(observed.alias("observed_delay_s"))
        .join(_running(known).select("journey", "train"), on="journey", how="left", maintain_order="left")
        .drop("journey", "event")
    )


def _trains(known: InstantSnapshot, predictions: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    running = _running(known)
    place = pl.max_horizontal("last", "start")
    change = pl.col("predicted_delay_s") - pl.col("translation_delay_s")
    changes = predictions.group_by("train").agg(change.sort_by("rank").last().alias("change_s"))
    return (
        pl.concat([running, known.loaded.journeys[running["journey"]]], how="horizontal")
        .with_columns(known.events["op_id"].gather(running.select(place).to_series()))
        .join(names, on="op_id", how="left", maintain_order="left")
        .join(changes, on="train", how="left", maintain_order="left")
        .select(TRAIN_COLUMNS)
    )


def _past(known: InstantSnapshot, names: pl.DataFrame) -> pl.DataFrame:
    """Return the last `n_prev` observed events of each train."""
    running = _running(known)
    journeys = pl.concat(
        [running.select("train"), known.loaded.journeys[running["journey"]].select(JOURNEY)],
        how="horizontal",
    )
    return (
        known.events.join(journeys, on=JOURNEY, maintain_order="left")
        .filter(pl.col("observed_ts").is_not_null())
        .group_by("train", maintain_order=True)
        .tail(known.config.data.snapshot.n_prev)
        .join(names, on="op_id", how="left", maintain_order="left")
        .select(
            "train",
            "op_id",
            "op_name",
            "event_type",
            pl.col("planned_ts").dt.convert_time_zone(known.config.data.timezone),
            pl.col("delay_sec").alias("delay_s"),
        )
    )
