"""One snapshot taken apart: its trains, what is predicted of each and what came true, and who attends to whom.

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
from transformer.data.event_table import in_table_order, load_event_table
from transformer.data.events import read_days, read_op_nodes
from transformer.data.fetch import fetch_dates, list_dates
from transformer.errors import UserError
from transformer.exploration.attention import attention_weights
from transformer.features.batches import to_tensors
from transformer.features.snapshots import EventFeatures, SnapshotBuilder, grid_instants
from transformer.prediction.columns import Interval, intervals_of
from transformer.prediction.instant import InstantSnapshot, dates_around, parse_instant
from transformer.training.run_folder import TrainedModel

TRAIN_COLUMNS = (
    "train_id",
    "service_date",
    "train_number",
    "train_type",
    "op_id",  # where it was last observed; before its first observed event, where it begins
    "op_name",  # null where the points table has none
    "departed",  # some event is known
    "delay_s",  # translation: what is known of its delay, carried forward to the instant
    "change_s",  # predicted delay at the last of its next events, less `delay_s`
)
_NAMED_TRAINS = 5  # in the message that a train is not there


@dataclass(frozen=True, eq=False)
class ExploredSnapshot:
    """A snapshot and what a model makes of it. Delays in whole seconds, times in local time."""

    instant: datetime
    trains: pl.DataFrame  # [T] TRAIN_COLUMNS, a line per train
    predictions: pl.DataFrame  # `prediction.prediction_columns`; `train`, the line in `trains`; `observed_delay_s`
    past: pl.DataFrame  # known events: `train`, `op_id`, `op_name`, `event_type`, `planned_ts`, `delay_s`
    attention: NDArray[np.float32]  # [M, N, H, T, T] how much the train of the row takes from that of the column
    intervals: tuple[Interval, ...]  # narrowest first

    def find(self, train: str = "") -> int:
        """The line of a train by its `train_id` or number, its latest journey; "" = the one that changes most.

        That is the train under way whose delay is predicted to change most, of those with most events ahead.

        Raises:
            UserError: no such train in the snapshot.
        """
        lines = self.trains.with_row_index("train")
        if train:
            found = lines.filter((pl.col("train_id") == train) | (pl.col("train_number") == train))
            if found.is_empty():
                known = self.trains["train_number"].head(_NAMED_TRAINS).to_list()
                raise UserError(
                    f"train {train!r} does not run at {self.instant.isoformat()}; {self.trains.height} trains do, "
                    f"among them {', '.join(known)}"
                )
            return int(found.sort("service_date", "train")["train"][-1])
        ahead = self.predictions.group_by("train").agg(pl.len().alias("events"))
        ranked = lines.join(ahead, on="train").sort(
            "departed", "events", pl.col("change_s").abs(), "train", descending=[True, True, True, False]
        )
        return int(ranked["train"][0])

    def name(self, train: int) -> str:
        """The train's number."""
        return str(self.trains["train_number"][train])

    def table_of(self, train: int) -> pl.DataFrame:
        """The next events of a train for reading: delays in seconds, null where no event was observed in the end."""
        ends = [name for interval in self.intervals[-1:] for name in interval.columns]
        return self.predictions.filter(pl.col("train") == train).select(
            "rank",
            pl.coalesce("op_name", pl.col("op_id").cast(pl.String)).alias("point"),
            "event_type",
            pl.col("planned_ts").dt.to_string("%H:%M:%S").alias("planned"),
            *(pl.col(name) for name in ("predicted_delay_s", *ends, "translation_delay_s", "observed_delay_s")),
        )

    def attention_of(self, train: int) -> pl.DataFrame:
        """What a train takes from each train of the snapshot, itself included: T lines, the greatest first.

        Columns: TRAIN_COLUMNS; `train`; `weight`, the mean over members, layers and heads; `layer_1`, `layer_2`, …, the
        means over members and heads. Each of them sums to 1.
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
    """The instant of the evaluation grid, on the last test date, at which most trains run; in UTC.

    Args:
        config: `trained.located(…)`.
    """
    data, day = config.data, trained.split.test[-1]
    _require([day], config)
    loaded = load_event_table(data, [day], trained.statistics.vocabulary, Path(config.paths.cache))
    builder = SnapshotBuilder(loaded.table, data.snapshot, EventFeatures.none(loaded.table))
    instants = grid_instants((day,), data.grid, data.timezone)
    count = np.bincount(builder.active_trains(instants).snapshot, minlength=len(instants))
    return datetime.fromtimestamp(int(instants[count.argmax()]), UTC)


def explore(trained: TrainedModel, config: Config, at: str = "") -> ExploredSnapshot:
    """Take apart the snapshot at an instant. Only what came true is read from after it.

    Args:
        config: `trained.located(…)`.
        at: ISO 8601 time, without an offset one of `data.timezone`; "" = `busiest_instant`.

    Raises:
        UserError: no such time, or no data or no train around it.
    """
    zone = ZoneInfo(config.data.timezone)
    instant = parse_instant(at, config.data.timezone) if at else busiest_instant(trained, config)
    local = instant.astimezone(zone)
    days = _require(dates_around(instant, config), config)
    known = InstantSnapshot.of(trained, config, instant, days)
    batch = to_tensors(known.builder.build(known.instants), config.data.timezone)
    if not batch["train_mask"].any():
        raise UserError(f"no train runs at {local.isoformat()}; name another time")
    predictions = _predictions(known, days)
    names = read_op_nodes(Path(config.data.local_folder)).select("op_id", "op_name")
    return ExploredSnapshot(
        instant=local,
        trains=_trains(known, predictions, names),
        predictions=predictions,
        past=_past(known, names),
        attention=attention_weights(known.module.network, batch)[0].numpy(),
        intervals=intervals_of(known.module.network.levels),
    )


def _require(days: Sequence[date], config: Config) -> list[date]:
    """Those of `days` that have data, brought to `data.local_folder`."""
    available = list_dates(config)
    found = [day for day in days if day in available]
    if not found:
        dates = f"there are dates from {available[0]} to {available[-1]}"
        raise UserError(f"{config.data.local_folder}: no events of {max(days)}; {dates}")
    fetch_dates(config, found)
    return found


def _running(known: InstantSnapshot) -> pl.DataFrame:
    """Journey, first and last known event in the table of each train, in the order of a batch's slots."""
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


def _predictions(known: InstantSnapshot, days: Sequence[date]) -> pl.DataFrame:
    """Predictions with the line of their train, and the delay that was observed in the end."""
    happened, _ = read_days(known.config.data, days, quiet=True)
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
    """The last `n_prev` observed events of each train."""
    running = _running(known)
    journeys = pl.concat(
        [running.select("train"), known.loaded.journeys[running["journey"]].select("train_id", "service_date")],
        how="horizontal",
    )
    return (
        known.events.join(journeys, on=["train_id", "service_date"], maintain_order="left")
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
