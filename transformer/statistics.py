"""Statistics of the training dates: what normalises the inputs, and what usually happens on a section or to a train.

Everything is kept as sums and histograms, which merge by addition, in a few *folds* of service dates. Features of a
training date leave its own fold out, so that no training example has seen its own outcome; other dates use all folds.

A *section* is a step between consecutive events of a journey: from one (point, event type) to the next, per train type.
Its *delay change* is the observed delay at its end minus that at its start. The first event of a journey has a section
of its own, from point 0, whose change is the delay itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from transformer.config import DataConfig, StatisticsConfig, content_hash, to_dict
from transformer.data.event_table import EventTable, LoadedTable, Vocabulary, build_event_table
from transformer.data.events import UNKNOWN_TRAIN_TYPE, data_fingerprint, read_events, read_journeys, read_op_nodes
from transformer.data.snapshots import EventFeatures, SnapshotBuilder, grid_instants
from transformer.data.tables import EVENT_TYPES
from transformer.errors import UserError
from transformer.files import atomic_folder, read_json, write_json, write_parquet

log = logging.getLogger(__name__)

VERSION = 2  # raise when the content below changes meaning
FOLDS = 10  # at most; with fewer training dates each date is a fold of its own
SECTION = ["from_op", "from_type", "to_op", "to_type", "train_type"]
SECTION_PARENT = ["from_type", "to_type", "train_type"]  # what a section without observations is like
HISTORY = ["train_number", "op_id", "event_type"]
HISTORY_PARENT = ["op_id", "event_type", "train_type"]
CUMULATIVE_FEATURES = ("change_mean", "change_middle_mean", "planned_excess", "history_change")
PLAIN_FEATURES = ("change_deviation", "history_delay", "history_weight")
FEATURES = (*CUMULATIVE_FEATURES, *PLAIN_FEATURES)
SECTION_FEATURES = ("change_mean", "change_middle_mean", "planned_excess", "change_deviation")
HISTORY_FEATURES = ("history_change", "history_delay", "history_weight")


@dataclass(frozen=True)
class Moments:
    """Count, sum and sum of squares of a quantity: mean and deviation that merge by addition."""

    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else 0.0

    @property
    def std(self) -> float:
        """Standard deviation; 1 where nothing varies, so that it can divide."""
        variance = self.squares / self.n - self.mean**2 if self.n else 0.0
        return float(np.sqrt(variance)) if variance > 1e-12 else 1.0

    @classmethod
    def of(cls, values: np.ndarray[Any, Any]) -> Moments:
        values = np.asarray(values, np.float64)
        return cls(float(values.size), float(values.sum()), float(np.square(values).sum()))


@dataclass(frozen=True)
class Statistics:
    """Statistics of a set of training dates."""

    vocabulary: Vocabulary
    fold_of: Mapping[date, int]
    inputs: Mapping[str, Moments]  # seconds or counts, per input quantity
    hour_of_day: tuple[int, ...]  # planned events per UTC hour, 24 of them
    day_of_week: tuple[int, ...]  # planned events per weekday, Monday first
    sections: pl.DataFrame  # fold, *SECTION, n, change, change_squares, running, running_squares, planned
    histograms: pl.DataFrame  # fold, *SECTION, quantity (change | running), bin, n
    history: pl.DataFrame  # fold, *HISTORY, train_type, n, delay, delay_squares
    histogram_step_s: int
    resolution_s: int  # every observed delay is a multiple of it: 60 where times are whole minutes; 0 without any delay

    def __add__(self, other: Statistics) -> Statistics:
        """Statistics of the dates of both. The vocabularies must be the same."""
        if self.fold_of.keys() & other.fold_of.keys():
            raise ValueError("the same service date is in both statistics")
        return Statistics(
            vocabulary=self.vocabulary,
            fold_of={**self.fold_of, **other.fold_of},
            inputs={name: self.inputs[name] + other.inputs[name] for name in self.inputs},
            hour_of_day=tuple(a + b for a, b in zip(self.hour_of_day, other.hour_of_day, strict=True)),
            day_of_week=tuple(a + b for a, b in zip(self.day_of_week, other.day_of_week, strict=True)),
            sections=_merge([self.sections, other.sections], ["fold", *SECTION]),
            histograms=_merge([self.histograms, other.histograms], ["fold", *SECTION, "quantity", "bin"]),
            history=_merge([self.history, other.history], ["fold", *HISTORY, "train_type"]),
            histogram_step_s=self.histogram_step_s,
            resolution_s=math.gcd(self.resolution_s, other.resolution_s),
        )

    def summary(self) -> dict[str, float]:
        """The few numbers a person reads first."""
        return {
            "service_dates": len(self.fold_of),
            "points": len(self.vocabulary.op_ids),
            "train_types": len(self.vocabulary.train_types),
            "sections": self.sections.select(pl.struct(SECTION).n_unique()).item(),
            "train_numbers": self.history["train_number"].n_unique(),
            "delay_mean_s": self.inputs["delay"].mean,
            "delay_deviation_s": self.inputs["delay"].std,
            "running_trains_mean": self.inputs["running_trains"].mean,
            "resolution_s": self.resolution_s,
        }

    def section_table(self, without_fold: int | None = None) -> pl.DataFrame:
        """Per section and train type: n, mean, deviation and middle mean of delay change and running time, seconds.

        The middle mean is the mean of the values between the quartiles, from the histogram.
        """
        sums = _without(self.sections, without_fold).group_by(SECTION).agg(pl.exclude("fold").sum())
        table = sums.select(
            *SECTION,
            "n",
            (pl.col("planned") / pl.col("n")).alias("planned_mean"),
            *_mean_and_deviation("change"),
            *_mean_and_deviation("running"),
        )
        histograms = _without(self.histograms, without_fold)
        for quantity in ("change", "running"):
            middle = _middle_mean(histograms.filter(pl.col("quantity") == quantity), SECTION, self.histogram_step_s)
            table = table.join(middle.rename({"middle_mean": f"{quantity}_middle_mean"}), on=SECTION, how="left")
        return table


def compute_statistics(data: DataConfig, days: Sequence[date]) -> Statistics:
    """Statistics of the training dates `days`, one date in memory at a time."""
    folder = Path(data.local_folder)
    journeys = read_journeys(folder, days, data.timezone)
    op_nodes = read_op_nodes(folder)
    vocabulary = build_vocabulary(data, days)
    fold_of = {day: index % FOLDS for index, day in enumerate(sorted(days))}
    result: Statistics | None = None
    for day in sorted(days):
        events, _ = read_events(folder, day, data.timezone, data.validation, op_nodes["op_id"])
        of_day = day_statistics(events, journeys, day, fold_of[day], vocabulary, data)
        result = of_day if result is None else result + of_day
        log.info("statistics: %s done (%s events)", day, f"{events.height:,}")
    if result is None:
        raise UserError("data.split.train is empty; statistics need at least one training date")
    return result


def build_vocabulary(data: DataConfig, days: Sequence[date]) -> Vocabulary:
    """Every point of the points table and of the timetable of `days`, and the train types of `days`."""
    folder = Path(data.local_folder)
    op_nodes = read_op_nodes(folder)
    points = set(op_nodes["op_id"].to_list())
    for day in days:
        points.update(read_events(folder, day, data.timezone, data.validation)[0]["op_id"].unique().to_list())
    types = read_journeys(folder, days, data.timezone)["train_type"].unique().to_list()
    named = sorted(name for name in types if name != UNKNOWN_TRAIN_TYPE)
    return Vocabulary(np.array(sorted(points), np.int32), tuple(named))


def day_statistics(
    events: pl.DataFrame, journeys: pl.DataFrame, day: date, fold: int, vocabulary: Vocabulary, data: DataConfig
) -> Statistics:
    """Statistics of one service date's validated events."""
    config = data.statistics
    steps = section_steps(
        events.join(
            journeys.select("train_id", "service_date", "train_number", "train_type"),
            on=["train_id", "service_date"],
            how="left",
        ).with_columns(
            pl.col("train_number").fill_null(pl.col("train_id")), pl.col("train_type").fill_null(UNKNOWN_TRAIN_TYPE)
        )
    ).with_columns(pl.lit(fold, pl.Int32).alias("fold"))
    changed = steps.filter(pl.col("change").is_not_null())
    observed = steps.filter(pl.col("delay").is_not_null())
    sections = changed.group_by("fold", *SECTION).agg(
        pl.len().cast(pl.Int64).alias("n"),
        pl.col("change").sum(),
        pl.col("change").pow(2).sum().alias("change_squares"),
        pl.col("running").sum(),
        pl.col("running").pow(2).sum().alias("running_squares"),
        pl.col("planned").sum(),
    )
    histograms = pl.concat(
        [
            _histogram(changed, quantity, config).with_columns(pl.lit(quantity).alias("quantity"))
            for quantity in ("change", "running")
        ]
    ).select("fold", *SECTION, "quantity", "bin", "n")
    history = observed.group_by("fold", *HISTORY, "train_type").agg(
        pl.len().cast(pl.Int64).alias("n"),
        pl.col("delay").sum(),
        pl.col("delay").pow(2).sum().alias("delay_squares"),
    )
    table = build_event_table(events, journeys, vocabulary)
    return Statistics(
        vocabulary=vocabulary,
        fold_of={day: fold},
        inputs=_input_moments(table, steps, vocabulary, day, data),
        hour_of_day=tuple(np.bincount(steps["hour"].to_numpy(), minlength=24).tolist()),
        day_of_week=tuple(steps.height if weekday == day.weekday() else 0 for weekday in range(7)),
        sections=_merge([sections], ["fold", *SECTION]),
        histograms=_merge([histograms], ["fold", *SECTION, "quantity", "bin"]),
        history=_merge([history], ["fold", *HISTORY, "train_type"]),
        histogram_step_s=config.histogram_step_s,
        resolution_s=int(np.gcd.reduce(observed["delay"].to_numpy().astype(np.int64))),
    )


def section_steps(events: pl.DataFrame) -> pl.DataFrame:
    """One row per event: the section that leads to it, and what happened on it, in seconds (null = not observed).

    `events` holds EVENT_SCHEMA columns, `train_number` and `train_type`; the result keeps its order.
    """
    journey = ["train_id", "service_date"]

    def before(column: str) -> pl.Expr:
        return pl.col(column).shift(1).over(journey)

    delay = pl.col("delay_sec").cast(pl.Float64)
    first = before("planned_ts").is_null()
    return events.with_columns(
        before("op_id").fill_null(0).alias("from_op"),
        before("event_type").fill_null("").alias("from_type"),
        pl.col("op_id").alias("to_op"),
        pl.col("event_type").alias("to_type"),
        delay.alias("delay"),
        pl.when(first).then(delay).otherwise(delay - before("delay_sec")).alias("change"),
        pl.when(first)
        .then(pl.lit(0.0))
        .otherwise((pl.col("planned_ts") - before("planned_ts")).dt.total_seconds().cast(pl.Float64))
        .alias("planned"),
        pl.col("planned_ts").dt.hour().cast(pl.Int64).alias("hour"),
    ).with_columns((pl.col("planned") + pl.col("change")).alias("running"))


def event_features(loaded: LoadedTable, statistics: Statistics, config: StatisticsConfig) -> EventFeatures:
    """The historical features FEATURES of every event of a table [E, K], in seconds (`history_weight` in 0…1).

    change_mean, change_middle_mean   usual delay change from the journey's first event up to this one (running sums)
    planned_excess                    planned running time so far minus what is usually planned there (running sum)
    history_change, history_delay     usual delay of this train number here; `history_change` is taken relative to the
                                      last known event by the snapshot builder, as the running sums are
    change_deviation                  deviation of the delay change on the section that leads here
    history_weight                    how much of history_delay is this train's own past rather than its type's here
    """
    table, key = loaded.table, ["train_id", "service_date"]
    decode = np.concatenate([[0], statistics.vocabulary.op_ids]).astype(np.int32)
    names = loaded.journeys.with_row_index("journey").with_columns(pl.col("journey").cast(pl.Int32))
    events = pl.DataFrame(
        {
            "journey": np.asarray(table.journey),
            "to_op": decode[np.asarray(table.point)],
            "to_type": np.array(["", *EVENT_TYPES])[np.asarray(table.event_type)],
            "planned_s": np.asarray(table.planned),
        }
    ).join(names, on="journey", how="left", maintain_order="left")
    events = events.with_columns(
        pl.col("train_type").fill_null(UNKNOWN_TRAIN_TYPE),
        pl.col("service_date")
        .replace_strict(dict(statistics.fold_of), default=-1, return_dtype=pl.Int32)
        .alias("fold"),
        pl.col("to_op").shift(1).over("journey").fill_null(0).alias("from_op"),
        pl.col("to_type").shift(1).over("journey").fill_null("").alias("from_type"),
        (pl.col("planned_s") - pl.col("planned_s").shift(1).over("journey")).fill_null(0).alias("planned"),
        pl.col("to_op").alias("op_id"),
        pl.col("to_type").alias("event_type"),
    ).drop(key)
    parts = []
    for fold in sorted(events["fold"].unique().to_list()):
        left_out = None if fold < 0 else fold
        part = events.with_row_index("row").filter(pl.col("fold") == fold)
        part = part.join(statistics.section_table(left_out), on=SECTION, how="left")
        part = part.join(_section_parents(statistics, left_out), on=SECTION_PARENT, how="left")
        part = part.join(_history_features(statistics, left_out), on=HISTORY, how="left")
        part = part.join(_history_parents(statistics, left_out), on=HISTORY_PARENT, how="left")
        parts.append(part.select("row", "journey", *_shrunk(config)))
    ordered = pl.concat(parts).sort("row")
    sums = [pl.col(name).cum_sum().over("journey") for name in CUMULATIVE_FEATURES[:3]]
    values = ordered.select(
        *sums, pl.col("history_delay").alias("history_change"), *(pl.col(name) for name in PLAIN_FEATURES)
    )
    return EventFeatures(
        np.ascontiguousarray(values.select(FEATURES).to_numpy().astype(np.float32)), len(CUMULATIVE_FEATURES)
    )


def _shrunk(config: StatisticsConfig) -> list[pl.Expr]:
    """A section or train with few observations is taken to be partly like its parent; with none, wholly."""
    k = float(max(config.min_count, 1))
    n, own_n = pl.col("n").fill_null(0), pl.col("history_n").fill_null(0)
    weight, own_weight = n / (n + k), own_n / (own_n + k / 4)

    def mixed(own: str, parent: str, share: pl.Expr) -> pl.Expr:
        return share * pl.col(own).fill_null(0.0) + (1 - share) * pl.col(parent).fill_null(0.0)

    return [
        mixed("change_mean", "parent_change_mean", weight).alias("change_mean"),
        mixed("change_middle_mean", "parent_change_mean", weight).alias("change_middle_mean"),
        (weight * (pl.col("planned") - pl.col("planned_mean")).fill_null(0.0)).alias("planned_excess"),
        mixed("change_deviation", "parent_change_deviation", weight).alias("change_deviation"),
        mixed("history_mean", "parent_history_mean", own_weight).alias("history_delay"),
        own_weight.alias("history_weight"),
    ]


def _section_parents(statistics: Statistics, without_fold: int | None) -> pl.DataFrame:
    sums = (
        _without(statistics.sections, without_fold)
        .group_by(SECTION_PARENT)
        .agg(pl.col("n", "change", "change_squares").sum())
    )
    return sums.select(*SECTION_PARENT, *(column.name.prefix("parent_") for column in _mean_and_deviation("change")))


def _history_features(statistics: Statistics, without_fold: int | None) -> pl.DataFrame:
    sums = _without(statistics.history, without_fold).group_by(HISTORY).agg(pl.col("n", "delay").sum())
    return sums.select(*HISTORY, pl.col("n").alias("history_n"), (pl.col("delay") / pl.col("n")).alias("history_mean"))


def _history_parents(statistics: Statistics, without_fold: int | None) -> pl.DataFrame:
    sums = _without(statistics.history, without_fold).group_by(HISTORY_PARENT).agg(pl.col("n", "delay").sum())
    return sums.select(*HISTORY_PARENT, (pl.col("delay") / pl.col("n")).alias("parent_history_mean"))


# --- files -----------------------------------------------------------------------------------------------------------
_TABLES = ("sections", "histograms", "history")


def statistics_hash(data: DataConfig, days: Sequence[date]) -> str:
    """The content hash statistics of `days` live under: the data files and the configuration that makes them."""
    relevant = {
        "version": VERSION,
        "validation": to_dict(data.validation),
        "snapshot": to_dict(data.snapshot),
        "grid": to_dict(data.grid),
        "timezone": data.timezone,
        "histogram": [data.statistics.histogram_step_s, data.statistics.histogram_limit_s],
    }
    return content_hash(data_fingerprint(Path(data.local_folder), days), relevant)


def save_statistics(statistics: Statistics, folder: Path, replace: bool = False) -> None:
    """Write `sections`, `histograms` and `history` as Parquet and the rest as JSON; all or nothing."""
    with atomic_folder(folder, replace) as temporary:
        for name in _TABLES:
            write_parquet(temporary / f"{name}.parquet", getattr(statistics, name))
        write_json(
            temporary / "inputs.json",
            {
                "version": VERSION,
                "op_ids": statistics.vocabulary.op_ids.tolist(),
                "train_types": list(statistics.vocabulary.train_types),
                "fold_of": {day.isoformat(): fold for day, fold in statistics.fold_of.items()},
                "inputs": {name: [m.n, m.total, m.squares] for name, m in statistics.inputs.items()},
                "hour_of_day": list(statistics.hour_of_day),
                "day_of_week": list(statistics.day_of_week),
                "histogram_step_s": statistics.histogram_step_s,
                "resolution_s": statistics.resolution_s,
                "summary": statistics.summary(),
            },
        )


def load_statistics(folder: Path) -> Statistics:
    """Read what `save_statistics` wrote.

    Raises:
        UserError: missing or damaged files, or statistics of another version.
    """
    content = read_json(folder / "inputs.json")
    if content.get("version") != VERSION:
        raise UserError(
            f"{folder}: statistics of version {content.get('version')}, this code reads {VERSION}; recompute"
        )
    try:
        tables = {name: pl.read_parquet(folder / f"{name}.parquet", glob=False) for name in _TABLES}
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{folder}: damaged statistics ({error}); remove the folder and run the stage again") from None
    return Statistics(
        vocabulary=Vocabulary(np.array(content["op_ids"], np.int32), tuple(content["train_types"])),
        fold_of={date.fromisoformat(day): fold for day, fold in content["fold_of"].items()},
        inputs={name: Moments(*values) for name, values in content["inputs"].items()},
        hour_of_day=tuple(content["hour_of_day"]),
        day_of_week=tuple(content["day_of_week"]),
        histogram_step_s=content["histogram_step_s"],
        resolution_s=content["resolution_s"],
        **tables,
    )


# --- pieces ----------------------------------------------------------------------------------------------------------
def _input_moments(
    table: EventTable, steps: pl.DataFrame, vocabulary: Vocabulary, day: date, data: DataConfig
) -> dict[str, Moments]:
    """Moments of the input quantities of one date; trains are counted at the instants of the evaluation grid."""
    builder = SnapshotBuilder(table, data.snapshot, EventFeatures.none(table))
    instants = grid_instants((day,), data.grid, data.timezone)
    trains = builder.active_trains(instants)
    n_types = len(vocabulary.train_types) + 1
    count = np.bincount(
        trains.snapshot * n_types + table.train_type[trains.journey], minlength=len(instants) * n_types
    ).reshape(len(instants), n_types)
    moments = {
        "delay": Moments.of(steps["delay"].drop_nulls().to_numpy()),
        "change": Moments.of(steps["change"].drop_nulls().to_numpy()),
        "planned": Moments.of(steps["planned"].to_numpy()),
        "running_trains": Moments.of(count.sum(1)),
        "running_trains/unknown": Moments.of(count[:, 0]),
    }
    for index, name in enumerate(vocabulary.train_types, start=1):
        moments[f"running_trains/{name}"] = Moments.of(count[:, index])
    return moments


def _histogram(steps: pl.DataFrame, quantity: str, config: StatisticsConfig) -> pl.DataFrame:
    step, limit = config.histogram_step_s, config.histogram_limit_s
    if quantity == "running":  # a running time is positive and long ones matter
        low, high = 0, 4 * limit
    else:
        low, high = -limit, limit
    width = pl.col(quantity).clip(low, high) / step
    return steps.group_by("fold", *SECTION, (width + 0.5).floor().cast(pl.Int32).alias("bin")).agg(
        pl.len().cast(pl.Int64).alias("n")
    )


def _middle_mean(histogram: pl.DataFrame, keys: list[str], step_s: int) -> pl.DataFrame:
    """Mean of the values between the quartiles of each histogram (the interquartile mean): `keys`, `middle_mean`."""
    bins = histogram.group_by(*keys, "bin").agg(pl.col("n").sum()).sort(*keys, "bin")
    total = pl.col("n").sum().over(keys)
    upper = pl.col("n").cum_sum().over(keys)
    inside = (pl.min_horizontal(upper, 0.75 * total) - pl.max_horizontal(upper - pl.col("n"), 0.25 * total)).clip(0)
    return (
        bins.with_columns(inside.alias("inside"))
        .group_by(keys)
        .agg(((pl.col("bin") * pl.col("inside")).sum() / pl.col("inside").sum() * step_s).alias("middle_mean"))
    )


def _mean_and_deviation(quantity: str) -> list[pl.Expr]:
    mean = pl.col(quantity) / pl.col("n")
    variance = (pl.col(f"{quantity}_squares") / pl.col("n") - mean.pow(2)).clip(0)
    return [mean.alias(f"{quantity}_mean"), variance.sqrt().alias(f"{quantity}_deviation")]


def _without(frame: pl.DataFrame, fold: int | None) -> pl.DataFrame:
    return frame if fold is None else frame.filter(pl.col("fold") != fold)


def _merge(frames: list[pl.DataFrame], keys: list[str]) -> pl.DataFrame:
    """Add up sums of the same key, in a fixed order so that merging in any order gives the same table."""
    return pl.concat(frames).group_by(keys).agg(pl.exclude(keys).sum()).sort(keys)
