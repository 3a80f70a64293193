"""Usual values of sections, trains and places from the statistics of the training dates.

The sums of the statistics are turned into sorted arrays, in which NumPy looks the values up. So a process that was
forked may do it, and the features of a date take some hundredths of a second.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.config import StatisticsConfig
from transformer.data.event_table import EVENT_TYPE_INDEX, MAX_TRAIN_TYPES, Int64Array, LoadedTable, Vocabulary
from transformer.data.events import UNKNOWN_TRAIN_TYPE
from transformer.data.tables import EVENT_TYPES
from transformer.features.live_state import FloatArray
from transformer.features.statistics import (
    HISTORY,
    SECTION_SUMS,
    Statistics,
    mean_and_std,
    middle_mean,
    without_folds,
)


@dataclass(frozen=True)
class _LookUp:
    """Rows of values by a key. A key without a row has a row of zeros."""

    keys: Int64Array  # [R] ascending
    values: npt.NDArray[np.float64]  # [R + 1, C]; the last row is that of zeros

    @classmethod
    def of(cls, frame: pl.DataFrame) -> _LookUp:
        """
        Args:
            frame: `key`, then the columns of the values.
        """
        ordered = frame.sort("key").fill_null(0)
        columns = ordered.drop("key").cast(pl.Float64).to_numpy().reshape(frame.height, frame.width - 1)
        return cls(ordered["key"].to_numpy(), np.vstack([columns, np.zeros((1, frame.width - 1))]))

    def __call__(self, keys: Int64Array) -> npt.NDArray[np.float64]:
        """The values [C, N] of keys [N]."""
        if not len(self.keys):
            return np.zeros((self.values.shape[1], len(keys)))
        row = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        row = np.where(self.keys[row] == keys, row, len(self.keys))
        return np.ascontiguousarray(np.take(self.values, row, axis=0).T)


@dataclass(frozen=True)
class CodedSums:
    """The sums of statistics, with a number for each section, train and place. Grouping numbers is fast.

    Every table has the columns `fold` and `key`.
    """

    vocabulary: Vocabulary
    numbers: npt.NDArray[np.str_]  # train numbers, ascending
    sections: pl.DataFrame  # n, change, change_squares, planned
    histograms: pl.DataFrame  # bin, n
    kinds: pl.DataFrame  # n, change, change_squares: sections by event types and train type
    history: pl.DataFrame  # n, delay: events by train number and place
    places: pl.DataFrame  # n, delay: events by place and train type
    histogram_step_s: int

    @classmethod
    def of(cls, statistics: Statistics) -> CodedSums:
        vocabulary, history = statistics.vocabulary, statistics.history
        names = history["train_number"].to_numpy().astype(np.str_)
        numbers, number = np.unique(names, return_inverse=True)
        place, train_type = _place(vocabulary, history), _type_code(vocabulary, history["train_type"].to_numpy())

        def summed(frame: pl.DataFrame, keys: Int64Array, *columns: str) -> pl.DataFrame:
            coded = frame.select("fold", pl.Series("key", keys), *columns)
            return coded.group_by("fold", "key").agg(pl.col(columns).sum())

        def sections(frame: pl.DataFrame) -> Int64Array:
            before, after = _place(vocabulary, frame, "from_"), _place(vocabulary, frame, "to_")
            return _section_key(vocabulary, before, after, _type_code(vocabulary, frame["train_type"].to_numpy()))

        kind = _kind_key(
            _event_type_code(statistics.sections["from_type"]),
            _event_type_code(statistics.sections["to_type"]),
            _type_code(vocabulary, statistics.sections["train_type"].to_numpy()),
        )
        return cls(
            vocabulary,
            numbers,
            statistics.sections.select("fold", pl.Series("key", sections(statistics.sections)), *SECTION_SUMS),
            statistics.histograms.select("fold", pl.Series("key", sections(statistics.histograms)), "bin", "n"),
            summed(statistics.sections, kind, "n", "change", "change_squares"),
            summed(history, number * _n_places(vocabulary) + place, "n", "delay"),
            summed(history, place * _TYPE_SPAN + train_type, "n", "delay"),
            statistics.histogram_step_s,
        )


@dataclass(frozen=True)
class Usual:
    """Usual values for places and trains, from the statistics without some folds."""

    vocabulary: Vocabulary
    numbers: npt.NDArray[np.str_]  # train numbers, ascending
    section_weight: float  # number of observations at which a section's own mean weighs as much as its parent's
    history_weight: float
    sections: _LookUp  # number of trains, mean planned time; mean, standard deviation and middle mean of the change
    kinds: _LookUp  # of all sections of a kind: mean and standard deviation of the change
    trains: _LookUp  # number of trains, mean delay; median, least and greatest of the mean delays per fold
    places: _LookUp  # mean delay of all trains of a type

    @classmethod
    def of(cls, sums: CodedSums, config: StatisticsConfig, without: Collection[int]) -> Usual:
        """
        Args:
            without: folds that are left out.
        """
        sections = without_folds(sums.sections, without).group_by("key").agg(pl.exclude("fold").sum())
        middle = middle_mean(without_folds(sums.histograms, without), ["key"], sums.histogram_step_s)
        kinds = without_folds(sums.kinds, without).group_by("key").agg(pl.exclude("fold").sum())
        history = without_folds(sums.history, without)
        of_fold = pl.col("delay") / pl.col("n")
        trains = history.group_by("key").agg(
            pl.col("n").sum(),
            (pl.col("delay").sum() / pl.col("n").sum()).alias("mean"),
            of_fold.median().alias("median"),
            of_fold.min().alias("low"),
            of_fold.max().alias("high"),
        )
        places = without_folds(sums.places, without).group_by("key").agg(pl.col("n", "delay").sum())
        k = float(max(config.min_count, 1))
        return cls(
            sums.vocabulary,
            sums.numbers,
            k,
            k / 4 if config.history_min_count is None else config.history_min_count,
            _LookUp.of(
                sections.select(
                    "key", "n", (pl.col("planned") / pl.col("n")).alias("planned_mean"), *mean_and_std("change")
                ).join(middle, on="key", how="left")
            ),
            _LookUp.of(kinds.select("key", *mean_and_std("change"))),
            _LookUp.of(trains.select("key", "n", "mean", "median", "low", "high")),
            _LookUp.of(places.select("key", pl.col("delay") / pl.col("n"))),
        )

    def features(self, loaded: LoadedTable, journeys: Int64Array) -> FloatArray:
        """`FEATURES` of the events of some journeys, one journey after the other. See `History.features`.

        The fewer observations a section or train number has, the more its values are mixed with those of its parent.
        """
        table = loaded.table
        start = np.asarray(table.start)[journeys]
        length = np.asarray(table.end)[journeys] - start
        first = np.cumsum(length) - length
        rank = np.arange(int(length.sum())) - np.repeat(first, length)
        event = np.repeat(start, length) + rank
        begins = rank == 0
        kind = np.asarray(table.event_type)[event].astype(np.int64)
        place = np.asarray(table.point)[event].astype(np.int64) * _KINDS + kind
        planned_at = np.asarray(table.planned)[event]
        before = np.where(begins, 0, np.roll(place, 1))
        planned = np.where(begins, 0, planned_at - np.roll(planned_at, 1)).astype(np.float64)
        train_type = np.repeat(_type_code(self.vocabulary, loaded.type_name[journeys]), length)
        number = np.repeat(self._number_code(loaded.train_number[journeys]), length)

        n, planned_mean, change, change_std, middle = self.sections(
            _section_key(self.vocabulary, before, place, train_type)
        )
        parent_change, parent_std = self.kinds(_kind_key(before % _KINDS, kind, train_type))
        weight = n / (n + self.section_weight)
        history_n, mean, median, low, high = self.trains(number * _n_places(self.vocabulary) + place)
        (parent_mean,) = self.places(place * _TYPE_SPAN + train_type)
        own = np.divide(history_n, history_n + self.history_weight, out=np.zeros(len(event)), where=history_n > 0)
        usual = own * mean + (1 - own) * parent_mean
        median, low, high = (np.where(history_n > 0, values, usual) for values in (median, low, high))
        sums = np.stack(
            [
                weight * change + (1 - weight) * parent_change,
                weight * middle + (1 - weight) * parent_change,
                weight * np.where(n > 0, planned - planned_mean, 0.0),
            ],
            axis=1,
        )
        return np.column_stack(
            [
                _running_sums(sums, rank),
                usual,
                median,
                weight * change_std + (1 - weight) * parent_std,
                usual,
                own,
                median,
                low,
                high,
            ]
        ).astype(np.float32)

    def _number_code(self, names: npt.NDArray[np.str_]) -> Int64Array:
        """The codes of train numbers; -1 = the statistics have none of this number."""
        if not len(self.numbers):
            return np.full(len(names), -1)
        code = np.minimum(np.searchsorted(self.numbers, names), len(self.numbers) - 1)
        return np.asarray(np.where(self.numbers[code] == names, code, -1), np.int64)


def _running_sums(values: npt.NDArray[np.float64], rank: Int64Array) -> npt.NDArray[np.float64]:
    """Running sums [N, *] along each journey of values [N, *] with their `rank` [N] in the journey.

    All journeys advance together, one event at a time.
    """
    sums = values.copy()
    order = np.argsort(rank.astype(np.int16), kind="stable")  # holds every rank, and is sorted fast
    ends = np.cumsum(np.bincount(rank))
    for begin, end in pairwise(ends):
        at = order[begin:end]
        sums[at] += sums[at - 1]
    return sums


# --- Keys ------------------------------------------------------------------------------------------------------------
_KINDS = len(EVENT_TYPES) + 1  # codes of event types; 0 is that of the place before a journey
_TYPE_SPAN = MAX_TRAIN_TYPES + 2  # codes of train types: 0 is unknown, the greatest is of a type without statistics


def _n_places(vocabulary: Vocabulary) -> int:
    return (len(vocabulary.op_ids) + 1) * _KINDS


def _place(vocabulary: Vocabulary, frame: pl.DataFrame, prefix: str = "") -> Int64Array:
    """A number for the point and event type of each row; 0 = before the journey."""
    point, kind = ("from_op", "from_type") if prefix == "from_" else ("to_op", "to_type") if prefix else HISTORY[1:]
    codes, kinds = vocabulary.encode_points(frame[point].to_numpy()).astype(np.int64), _event_type_code(frame[kind])
    return np.where(kinds > 0, codes * _KINDS + kinds, 0)


def _event_type_code(names: pl.Series) -> Int64Array:
    return names.replace_strict({"": 0, **EVENT_TYPE_INDEX}, return_dtype=pl.Int64).to_numpy()


def _type_code(vocabulary: Vocabulary, names: npt.NDArray[Any]) -> Int64Array:
    codes = {"": 0, UNKNOWN_TRAIN_TYPE: 0} | {name: at for at, name in enumerate(vocabulary.train_types, start=1)}
    kinds, kind = np.unique(names.astype(np.str_), return_inverse=True)
    return np.array([codes.get(name, _TYPE_SPAN - 1) for name in kinds.tolist()], np.int64)[kind]


def _section_key(vocabulary: Vocabulary, before: Int64Array, place: Int64Array, train_type: Int64Array) -> Int64Array:
    return (before * _n_places(vocabulary) + place) * _TYPE_SPAN + train_type


def _kind_key(before: Int64Array, kind: Int64Array, train_type: Int64Array) -> Int64Array:
    return (before * _KINDS + kind) * _TYPE_SPAN + train_type
