"""Statistics of the training dates: scales of the inputs, and usual values of sections and train numbers.

All statistics are sums and histograms, which merge by addition. They are kept per *fold*, a group of service dates.
Features of a training date leave out its own fold, so that no training example contains its own outcome. Other dates
use all folds.

A *section* is the step between two consecutive events of a journey: from one (point, event type) to the next, per train
type. Its *delay change* is the observed delay at its end minus the one at its start. The first event of a journey has a
section that begins at point 0. Its delay change is the delay itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.config import DataConfig, StatisticsConfig, to_dict
from transformer.data.content import date_content
from transformer.data.event_table import MAX_TRAIN_TYPES, EventTable, Vocabulary, build_event_table
from transformer.data.events import (
    UNKNOWN_TRAIN_TYPE,
    DayEvents,
    data_fingerprint,
    each_day,
    journeys_by_date,
)
from transformer.data.points import read_op_nodes
from transformer.data.tables import JOURNEY
from transformer.errors import UserError
from transformer.features.instants import grid_instants
from transformer.features.snapshots import EventFeatures, SnapshotBuilder
from transformer.files import atomic_folder, content_hash, read_json, write_json
from transformer.parquet import UNREADABLE, write_parquet

log = logging.getLogger(__name__)

VERSION = 2  # of the files; raise when their meaning changes
MINUTE_S = 60
ROUND_SHARE = 0.99  # share of the delays that must be multiples of a step, to call it the resolution
FOLDS = 10  # at most; with fewer training dates, each date is one fold
WEIGHT_STEP = 1 / 1024  # weights of dates are multiples of it, so that their sums are exact and need no order
SECTION = ["from_op", "from_type", "to_op", "to_type", "train_type"]
SECTION_SUMS = ["n", "change", "change_squares", "planned"]
HISTORY = ["train_number", "op_id", "event_type"]


@dataclass(frozen=True)
class Moments:
    """Count, sum and sum of squares of a quantity. They merge by addition and yield mean and standard deviation."""

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
        """Standard deviation; 1 if nothing varies, so that code can divide by it."""
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
    sections: pl.DataFrame  # fold, *SECTION, *SECTION_SUMS
    histograms: pl.DataFrame  # of the delay change: fold, *SECTION, bin, n
    history: pl.DataFrame  # fold, *HISTORY, train_type, n, delay, delay_squares
    histogram_step_s: int
    residues: tuple[int, ...]  # [MINUTE_S] observed delays by their seconds beyond a whole minute

    def __add__(self, other: Statistics) -> Statistics:
        """Merge the statistics of different dates."""
        return Statistics.merged([self, other])

    @classmethod
    def merged(cls, parts: Sequence[Statistics]) -> Statistics:
        """Merge the statistics of different dates."""
        first = parts[0]
        train_types = tuple(sorted({name for part in parts for name in part.vocabulary.train_types}))
        op_ids = np.unique(np.concatenate([part.vocabulary.op_ids for part in parts]))
        fold_of = {day: fold for part in parts for day, fold in part.fold_of.items()}
        if len(fold_of) < sum(len(part.fold_of) for part in parts):
            raise ValueError("the same service date is in both statistics")
        return cls(
            vocabulary=Vocabulary(op_ids, train_types),
            fold_of=fold_of,
            inputs={name: sum((part.inputs[name] for part in parts), Moments()) for name in first.inputs},
            sections=_merge([part.sections for part in parts], ["fold", *SECTION]),
            histograms=_merge([part.histograms for part in parts], ["fold", *SECTION, "bin"]),
            history=_merge([part.history for part in parts], ["fold", *HISTORY, "train_type"]),
            histogram_step_s=first.histogram_step_s,
            residues=tuple(map(sum, zip(*(part.residues for part in parts), strict=True))),
        )

    def _in_fold(self, fold: int) -> Statistics:
        tables = {name: getattr(self, name).with_columns(pl.lit(fold, pl.Int32).alias("fold")) for name in _TABLES}
        return replace(self, fold_of=dict.fromkeys(self.fold_of, fold), **tables)

    def weighted(self, weight: float) -> Statistics:
        """The statistics with `weight` times each count and sum. The resolution of the delays stays the same."""

        def times(frame: pl.DataFrame, *sums: str) -> pl.DataFrame:
            return frame.with_columns(pl.col(sums) * weight)

        return replace(
            self,
            inputs={name: Moments(*(weight * value for value in astuple(m))) for name, m in self.inputs.items()},
            sections=times(self.sections, *SECTION_SUMS),
            histograms=times(self.histograms, "n"),
            history=times(self.history, "n", "delay", "delay_squares"),
        )

    @property
    def resolution_s(self) -> int:
        """The step of nearly all observed delays: 60 where times are whole minutes; 0 without any delay.

        A few odd values do not decide, as a common divisor of all delays would let them.
        """
        return self._resolution[0]

    def resolution_text(self) -> str:
        step, multiples = self._resolution
        total = sum(self.residues)
        return f"{multiples:,} of {total:,} observed delays are multiples of {step} s" if total else "no observed delay"

    @property
    def _resolution(self) -> tuple[int, int]:
        """The step, and the number of delays that are multiples of it."""
        total = sum(self.residues)
        for step in (step for step in range(MINUTE_S, 0, -1) if MINUTE_S % step == 0):
            multiples = sum(self.residues[::step])
            if total and multiples >= ROUND_SHARE * total:
                return step, multiples
        return 0, 0

    def summary(self) -> dict[str, float]:
        """Key figures for people."""
        return {
            "service_dates": len(self.fold_of),
            "points": len(self.vocabulary.op_ids),
            "train_types": len(self.vocabulary.train_types),
            "sections": self.sections.select(pl.struct(SECTION).n_unique()).item(),
            "train_numbers": self.history["train_number"].n_unique(),
            "delay_mean_s": self.inputs["delay"].mean,
            "delay_std_s": self.inputs["delay"].std,
            "running_trains_mean": self.inputs["running_trains"].mean,
            "resolution_s": self.resolution_s,
        }

    def section_table(self, without: Collection[int] = ()) -> pl.DataFrame:
        """Per section and train type: n, mean planned time, and mean, std and middle mean of the delay change, seconds.

        The middle mean is the mean of the values between the quartiles. It is computed from the histogram.
        """
        sums = without_folds(self.sections, without).group_by(SECTION).agg(pl.exclude("fold").sum())
        table = sums.select(
            *SECTION,
            "n",
            (pl.col("planned") / pl.col("n")).alias("planned_mean"),
            *mean_and_std("change"),
        )
        middle = middle_mean(without_folds(self.histograms, without), SECTION, self.histogram_step_s)
        return table.join(middle.rename({"middle_mean": "change_middle_mean"}), on=SECTION, how="left")


def compute_statistics(data: DataConfig, days: Sequence[date]) -> Statistics:
    """Compute the statistics of the training dates `days`, with the events of one date in memory at a time."""
    folds = folds_of(days)
    order = [day for fold in folds for day in fold]
    journeys = journeys_by_date(Path(data.local_folder), order, data.timezone)
    parts = (date_statistics(read, journeys[read.day], data) for read in each_day(data, order))
    op_ids = read_op_nodes(Path(data.local_folder))["op_id"].to_numpy()
    return merge_dates(parts, folds, op_ids, data.statistics.half_life_days)


def folds_of(days: Sequence[date]) -> list[list[date]]:
    """The training dates in at most FOLDS groups.

    Raises:
        UserError: there are no dates.
    """
    if not days:
        raise UserError("data.split.train is empty; statistics need at least one training date")
    return [sorted(days)[number::FOLDS] for number in range(min(FOLDS, len(days)))]


def merge_dates(
    parts: Iterable[Statistics],
    folds: Sequence[Sequence[date]],
    op_ids: npt.NDArray[np.integer],
    half_life_days: float | None = None,
) -> Statistics:
    """The statistics of several dates from those of each date, with the dates of one fold in memory at a time.

    Args:
        parts: of `date_statistics`, in the order of the dates of `folds`.
        op_ids: points that the vocabulary has besides those of the dates.
        half_life_days: see `date_weights`.

    Raises:
        UserError: too many train types.
    """
    order = [day for fold in folds for day in fold]
    if weights := date_weights(order, half_life_days):
        parts = (part.weighted(weights[day]) for day, part in zip(order, parts, strict=True))
    parts = iter(parts)
    whole = Statistics.merged(
        [Statistics.merged(list(islice(parts, len(days))))._in_fold(number) for number, days in enumerate(folds)]
    )
    points = np.union1d(op_ids, whole.vocabulary.op_ids).astype(np.int32)
    return replace(whole, vocabulary=Vocabulary(points, _checked(whole.vocabulary.train_types)))


def date_weights(days: Sequence[date], half_life_days: float | None) -> dict[date, float]:
    """The weight of each date: 1 for the last one, and half of that for each half-life before it.

    Without a half-life the result is empty: all dates count alike. No weight is 0, so that no section is lost.
    """
    if half_life_days is None:
        return {}
    last = max(days)
    exact = {day: 0.5 ** ((last - day).days / half_life_days) for day in days}
    return {day: max(round(weight / WEIGHT_STEP), 1) * WEIGHT_STEP for day, weight in exact.items()}


def _checked(train_types: tuple[str, ...]) -> tuple[str, ...]:
    if len(train_types) > MAX_TRAIN_TYPES:
        raise UserError(
            f"the training dates have {len(train_types)} train types, more than {MAX_TRAIN_TYPES}; "
            "write broader ones into journeys.parquet, such as regional and long_distance"
        )
    return train_types


def date_statistics(read: DayEvents, journeys: pl.DataFrame, data: DataConfig) -> Statistics:
    """Statistics of the events of one service date, in fold 0. The vocabulary is that of the date.

    Args:
        journeys: rows of the date, from `read_journeys`.

    Raises:
        UserError: too many train types.
    """
    config, events, day = data.statistics, read.events, read.day
    types = sorted(set(journeys["train_type"].unique().to_list()) - {UNKNOWN_TRAIN_TYPE})
    vocabulary = Vocabulary(events["op_id"].unique().sort().to_numpy(), _checked(tuple(types)))
    steps = section_steps(
        events.join(
            journeys.select(*JOURNEY, "train_number", "train_type"),
            on=JOURNEY,
            how="left",
        ).with_columns(
            pl.col("train_number").fill_null(pl.col("train_id")), pl.col("train_type").fill_null(UNKNOWN_TRAIN_TYPE)
        )
    ).with_columns(pl.lit(0, pl.Int32).alias("fold"))
    changed = steps.filter(pl.col("change").is_not_null())
    observed = steps.filter(pl.col("delay").is_not_null())
    sections = changed.group_by("fold", *SECTION).agg(
        pl.len().cast(pl.Int64).alias("n"),
        pl.col("change").sum(),
        pl.col("change").pow(2).sum().alias("change_squares"),
        pl.col("planned").sum(),
    )
    history = observed.group_by("fold", *HISTORY, "train_type").agg(
        pl.len().cast(pl.Int64).alias("n"),
        pl.col("delay").sum(),
        pl.col("delay").pow(2).sum().alias("delay_squares"),
    )
    table = build_event_table(events, journeys, vocabulary)
    log.info("statistics: %s done (%s events)", day, f"{events.height:,}")
    return Statistics(
        vocabulary=vocabulary,
        fold_of={day: 0},
        inputs=_input_moments(table, steps, day, data),
        sections=_merge([sections], ["fold", *SECTION]),
        histograms=_merge([_change_histograms(changed, config)], ["fold", *SECTION, "bin"]),
        history=_merge([history], ["fold", *HISTORY, "train_type"]),
        histogram_step_s=config.histogram_step_s,
        residues=_residues(observed["delay"].to_numpy().astype(np.int64)),
    )


def section_steps(events: pl.DataFrame) -> pl.DataFrame:
    """Add to each event the section that leads to it, its delay, and the delay change and planned time of the section.

    Times are in seconds; null = not observed. `events` has the columns of EVENT_SCHEMA, `train_number` and
    `train_type`. The result keeps the order of `events`.
    """

    def before(column: str) -> pl.Expr:
        return pl.col(column).shift(1).over(JOURNEY)

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
    )


# --- files -----------------------------------------------------------------------------------------------------------
_TABLES = ("sections", "histograms", "history")


def statistics_hash(data: DataConfig, days: Sequence[date]) -> str:
    """The content hash that names the folder of the statistics of `days`: data files and settings of the statistics."""
    found = _hash(data_fingerprint(Path(data.local_folder), days), data)
    half_life = data.statistics.half_life_days
    return found if half_life is None else content_hash(found, half_life)  # without it as of older programs


def date_statistics_hash(data: DataConfig, day: date) -> str:
    """The content hash of the statistics of one date. Other points and the journeys of other dates do not change it."""
    return _hash(date_content(data, day), data)


def _hash(fingerprint: Mapping[str, str], data: DataConfig) -> str:
    relevant = {
        "version": VERSION,
        "validation": to_dict(data.validation),
        "snapshot": to_dict(data.snapshot),
        "grid": to_dict(data.grid),
        "timezone": data.timezone,
        # The name gives these files another hash than those of older programs, which expect more columns.
        "histogram": ["change", data.statistics.histogram_step_s, data.statistics.histogram_limit_s],
    }
    if data.reporting_delay_s:  # without it as of older programs
        relevant["reporting_delay_s"] = data.reporting_delay_s
    return content_hash(fingerprint, relevant)


def save_statistics(statistics: Statistics, folder: Path, replace: bool = False) -> None:
    """Write `sections`, `histograms` and `history` as Parquet and the rest as JSON: all files or none."""
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
                "histogram_step_s": statistics.histogram_step_s,
                "residues": list(statistics.residues),
                "resolution_s": statistics.resolution_s,  # older programs read this
                "summary": statistics.summary(),
            },
        )


def load_statistics(folder: Path) -> Statistics:
    """Read what `save_statistics` wrote. Additional columns of older programs are ignored.

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
        tables["sections"] = tables["sections"].select("fold", *SECTION, *SECTION_SUMS)
        if "quantity" in tables["histograms"].columns:
            tables["histograms"] = tables["histograms"].filter(pl.col("quantity") == "change").drop("quantity")
    except (OSError, *UNREADABLE) as error:
        raise UserError(f"{folder}: damaged statistics ({error}); remove the folder and run the stage again") from None
    return Statistics(
        vocabulary=Vocabulary(np.array(content["op_ids"], np.int32), tuple(content["train_types"])),
        fold_of={date.fromisoformat(day): fold for day, fold in content["fold_of"].items()},
        inputs={name: Moments(*values) for name, values in content["inputs"].items()},
        histogram_step_s=content["histogram_step_s"],
        residues=tuple(content["residues"]) if "residues" in content else _residues_of_step(content["resolution_s"]),
        **tables,
    )


# --- pieces ----------------------------------------------------------------------------------------------------------
def _input_moments(table: EventTable, steps: pl.DataFrame, day: date, data: DataConfig) -> dict[str, Moments]:
    """Moments of the quantities that scale inputs, for one date. Running trains are counted at the grid's instants."""
    builder = SnapshotBuilder(table, data.snapshot, EventFeatures.none(table))
    instants = grid_instants((day,), data.grid, data.timezone)
    trains = builder.active_trains(instants)
    return {
        "delay": Moments.of(steps["delay"].drop_nulls().to_numpy()),
        "change": Moments.of(steps["change"].drop_nulls().to_numpy()),
        "running_trains": Moments.of(np.bincount(trains.snapshot, minlength=len(instants))),
    }


def _residues(delays_s: npt.NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(np.bincount(delays_s % MINUTE_S, minlength=MINUTE_S).tolist())


def _residues_of_step(step_s: int) -> tuple[int, ...]:
    """Residues that have this resolution, for files of older programs, which kept the resolution alone."""
    return _residues(np.arange(0, MINUTE_S, math.gcd(step_s, MINUTE_S))) if step_s else (0,) * MINUTE_S


def _change_histograms(steps: pl.DataFrame, config: StatisticsConfig) -> pl.DataFrame:
    step, limit = config.histogram_step_s, config.histogram_limit_s
    width = pl.col("change").clip(-limit, limit) / step
    return steps.group_by("fold", *SECTION, (width + 0.5).floor().cast(pl.Int32).alias("bin")).agg(
        pl.len().cast(pl.Int64).alias("n")
    )


def middle_mean(histogram: pl.DataFrame, keys: list[str], step_s: int) -> pl.DataFrame:
    """Interquartile mean of each histogram, in columns `keys` and `middle_mean`."""
    bins = histogram.group_by(*keys, "bin").agg(pl.col("n").sum()).sort(*keys, "bin")
    total = pl.col("n").sum().over(keys)
    upper = pl.col("n").cum_sum().over(keys)
    inside = (pl.min_horizontal(upper, 0.75 * total) - pl.max_horizontal(upper - pl.col("n"), 0.25 * total)).clip(0)
    return (
        bins.with_columns(inside.alias("inside"))
        .group_by(keys)
        .agg(((pl.col("bin") * pl.col("inside")).sum() / pl.col("inside").sum() * step_s).alias("middle_mean"))
    )


def mean_and_std(quantity: str) -> list[pl.Expr]:
    mean = pl.col(quantity) / pl.col("n")
    variance = (pl.col(f"{quantity}_squares") / pl.col("n") - mean.pow(2)).clip(0)
    return [mean.alias(f"{quantity}_mean"), variance.sqrt().alias(f"{quantity}_std")]


def without_folds(frame: pl.DataFrame, folds: Collection[int]) -> pl.DataFrame:
    return frame.filter(~pl.col("fold").is_in(list(folds))) if folds else frame


def _merge(frames: list[pl.DataFrame], keys: list[str]) -> pl.DataFrame:
    """Add up the rows of the same key. The result is sorted, so it does not depend on the order of `frames`."""
    texts = [name for name in keys if frames[0].schema[name] == pl.String]
    # Each date repeats these texts. Polars groups and sorts numbers several times as fast.
    kinds = {name: pl.Enum(pl.concat([frame[name].unique() for frame in frames]).unique().sort()) for name in texts}
    coded = pl.concat([frame.with_columns(pl.col(name).cast(kind) for name, kind in kinds.items()) for frame in frames])
    merged = coded.group_by(keys).agg(pl.exclude(keys).sum()).sort(keys)
    return merged.with_columns(pl.col(texts).cast(pl.String)) if texts else merged
