"""Features of an event from the statistics of the training dates: usual values for its place and its train."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.config import SnapshotConfig, StatisticsConfig
from transformer.data.event_table import EVENT_TYPE_INDEX, MAX_TRAIN_TYPES, Int64Array, LoadedTable, Vocabulary
from transformer.data.events import UNKNOWN_TRAIN_TYPE
from transformer.data.tables import EVENT_TYPES
from transformer.features.live_state import FloatArray, LiveState
from transformer.features.snapshots import EventFeatures, SnapshotBuilder
from transformer.features.statistics import (
    HISTORY,
    HISTORY_PARENT,
    SECTION_PARENT,
    Statistics,
    mean_and_std,
    without_folds,
)

CUMULATIVE_FEATURES = ("change_mean", "change_middle_mean", "planned_excess", "history_change", "history_median_change")
PLAIN_FEATURES = (
    "change_std", "history_delay", "history_weight", "history_median", "history_low", "history_high",
)  # fmt: skip
FEATURES = (*CUMULATIVE_FEATURES, *PLAIN_FEATURES)
SECTION_FEATURES = ("change_mean", "change_middle_mean", "planned_excess", "change_std")
HISTORY_FEATURES = (
    "history_change", "history_median_change", "history_delay", "history_weight",
    "history_median", "history_low", "history_high",
)  # fmt: skip


class History:
    """The historical features of events, looked up in the statistics of the training dates.

    The statistics are turned into sorted arrays once for each group of folds that is left out, see `prepare`. A look-up
    uses NumPy alone, so it may run in a forked process.
    """

    def __init__(
        self,
        statistics: Statistics,
        config: StatisticsConfig,
        also_without: Mapping[int, Collection[int]] = MappingProxyType({}),
    ) -> None:
        """
        Args:
            also_without: per fold, the further folds that are left out of the features of its dates.
        """
        self._statistics = statistics
        self._config = config
        self._also_without = also_without
        self._fold_of = {(day - _EPOCH).days: fold for day, fold in statistics.fold_of.items()}
        self._usual: dict[int, _Usual] = {}  # by fold

    def prepare(self, days: Iterable[date]) -> None:
        """Compute what the features of these dates are looked up in."""
        for day in days:
            self._without((day - _EPOCH).days)

    def features(self, loaded: LoadedTable) -> EventFeatures:
        """The historical features of every event of a table [E, K], K as in `FEATURES`, in seconds.

        - `change_mean`, `change_middle_mean`: usual delay change from the journey's first event up to this event, as
          running sums.
        - `planned_excess`: planned running time so far minus the usual planned running time, as a running sum.
        - `history_delay`: usual delay of this train number at this event.
        - `history_change`: the same. The snapshot builder subtracts its value at the last known event, as it does for
          the running sums.
        - `history_median`, `history_low`, `history_high`: median, smallest and largest of the mean delays per fold of
          this train number at this event. A single extreme date shifts a mean but not the median.
        - `history_median_change`: the median. The snapshot builder subtracts its value at the last known event.
        - `change_std`: standard deviation of the delay change on the section that leads to this event.
        - `history_weight`: share (0…1) of this train number's own past in `history_delay`; the rest comes from all
          trains of its type at this event.
        """
        table = loaded.table
        days, day_of = np.unique(np.asarray(table.day), return_inverse=True)
        usual = [self._without(int(day)) for day in days]
        values = np.empty((table.n_events, len(FEATURES)), np.float32)
        if len(usual) == 1:
            values[:] = usual[0].features(loaded, np.arange(table.n_journeys))
            return EventFeatures(values, len(CUMULATIVE_FEATURES))
        for number, of_day in enumerate(usual):
            journeys = np.flatnonzero(day_of == number)
            length = np.asarray(table.end - table.start)[journeys]
            rows = np.repeat(np.asarray(table.start)[journeys] - np.cumsum(length) + length, length)
            values[rows + np.arange(len(rows))] = of_day.features(loaded, journeys)
        return EventFeatures(values, len(CUMULATIVE_FEATURES))

    def builder(self, loaded: LoadedTable, config: SnapshotConfig) -> SnapshotBuilder:
        """A builder of snapshots of a table, with every input of a model."""
        features = self.features(loaded)
        live = LiveState.of(loaded.table, *usual_values(features))
        return SnapshotBuilder(loaded.table, config, features, live)

    def _without(self, day: int) -> _Usual:
        """The usual values for a service date, in days since the Unix epoch; training dates leave their fold out."""
        fold = self._fold_of.get(day, -1)
        if fold not in self._usual:
            without = {fold, *self._also_without.get(fold, ())} if fold >= 0 else set()
            self._usual[fold] = _Usual.of(self._statistics, self._config, without)
        return self._usual[fold]


@dataclass(frozen=True)
class _LookUp:
    """Rows of values by a key. A key without a row has a row of zeros."""

    keys: Int64Array  # [R] ascending
    values: npt.NDArray[np.float64]  # [R + 1, C]; the last row is that of zeros

    @classmethod
    def of(cls, keys: Int64Array, values: pl.DataFrame) -> _LookUp:
        order = np.argsort(keys)
        columns = values.fill_null(0.0).to_numpy().astype(np.float64).reshape(len(keys), values.width)
        return cls(keys[order], np.vstack([columns[order], np.zeros((1, values.width))]))

    def __call__(self, keys: Int64Array) -> npt.NDArray[np.float64]:
        """The values [C, N] of keys [N]."""
        if not len(self.keys):
            return np.zeros((self.values.shape[1], len(keys)))
        row = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        row = np.where(self.keys[row] == keys, row, len(self.keys))
        return np.ascontiguousarray(np.take(self.values, row, axis=0).T)


@dataclass(frozen=True)
class _Usual:
    """Usual values for places and trains, from the statistics without some folds."""

    vocabulary: Vocabulary
    numbers: npt.NDArray[np.str_]  # train numbers, ascending
    section_weight: float  # number of observations at which a section's own mean weighs as much as its parent's
    history_weight: float
    sections: _LookUp  # n, planned_mean, change_mean, change_std, change_middle_mean
    section_parents: _LookUp  # parent_change_mean, parent_change_std
    history: _LookUp  # history_n, history_mean, fold_median, fold_low, fold_high
    history_parents: _LookUp  # parent_history_mean

    @classmethod
    def of(cls, statistics: Statistics, config: StatisticsConfig, without: Collection[int]) -> _Usual:
        vocabulary = statistics.vocabulary
        sections, parents = statistics.section_table(without), _section_parents(statistics, without)
        history, history_parents = _history_features(statistics, without), _history_parents(statistics, without)
        numbers = np.unique(history["train_number"].to_numpy().astype(np.str_))
        step = _place(vocabulary, sections, "from_"), _place(vocabulary, sections, "to_")
        k = float(max(config.min_count, 1))
        return cls(
            vocabulary,
            numbers,
            k,
            k / 4 if config.history_min_count is None else config.history_min_count,
            _LookUp.of(
                _section_key(vocabulary, *step, _type_code(vocabulary, sections["train_type"].to_numpy())),
                sections.select("n", "planned_mean", "change_mean", "change_std", "change_middle_mean"),
            ),
            _LookUp.of(
                _kind_key(
                    _event_type_code(parents["from_type"]),
                    _event_type_code(parents["to_type"]),
                    _type_code(vocabulary, parents["train_type"].to_numpy()),
                ),
                parents.select("parent_change_mean", "parent_change_std"),
            ),
            _LookUp.of(
                np.searchsorted(numbers, history["train_number"].to_numpy().astype(np.str_)) * _n_places(vocabulary)
                + _place(vocabulary, history),
                history.select("history_n", "history_mean", "fold_median", "fold_low", "fold_high"),
            ),
            _LookUp.of(
                _place(vocabulary, history_parents) * _TYPE_SPAN
                + _type_code(vocabulary, history_parents["train_type"].to_numpy()),
                history_parents.select("parent_history_mean"),
            ),
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
        parent_change, parent_std = self.section_parents(_kind_key(before % _KINDS, kind, train_type))
        weight = n / (n + self.section_weight)
        history_n, mean, median, low, high = self.history(number * _n_places(self.vocabulary) + place)
        (parent_mean,) = self.history_parents(place * _TYPE_SPAN + train_type)
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
    order = np.argsort(rank, kind="stable")
    ends = np.cumsum(np.bincount(rank))
    for begin, end in pairwise(ends):
        at = order[begin:end]
        sums[at] += sums[at - 1]
    return sums


# --- Keys ------------------------------------------------------------------------------------------------------------
_EPOCH = date(1970, 1, 1)
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


def usual_values(features: EventFeatures) -> tuple[FloatArray, FloatArray]:
    """The usual delay change up to each event and the usual delay at it, [E] each, in seconds, for `LiveState.of`."""
    change, delay = (features.values[:, FEATURES.index(name)] for name in ("change_middle_mean", "history_delay"))
    return change, delay


def varied_folds(statistics: Statistics, generator: np.random.Generator) -> dict[int, tuple[int, ...]]:
    """Draw for each fold other folds that are left out as well, at most about half of them.

    Predictions in service are for dates that differ from every training date. In training, each epoch therefore uses
    the history of other dates, and the model learns how reliable history is. If folds hold several dates each, the
    result is empty, because such folds differ little.
    """
    folds = sorted(set(statistics.fold_of.values()))
    if len(folds) < len(statistics.fold_of):
        return {}
    varied = {}
    for fold in folds:
        others = [other for other in folds if other != fold]
        count = int(generator.integers(0, max(min(len(others) // 2 + 2, len(others)), 1)))
        varied[fold] = tuple(generator.choice(others, count, replace=False).tolist()) if count else ()
    return varied


def _section_parents(statistics: Statistics, without: Collection[int]) -> pl.DataFrame:
    sums = (
        without_folds(statistics.sections, without)
        .group_by(SECTION_PARENT)
        .agg(pl.col("n", "change", "change_squares").sum())
    )
    return sums.select(*SECTION_PARENT, *(column.name.prefix("parent_") for column in mean_and_std("change")))


def _history_features(statistics: Statistics, without: Collection[int]) -> pl.DataFrame:
    folds = without_folds(statistics.history, without).group_by("fold", *HISTORY).agg(pl.col("n", "delay").sum())
    of_fold = pl.col("delay") / pl.col("n")
    return folds.group_by(HISTORY).agg(
        pl.col("n").sum().alias("history_n"),
        (pl.col("delay").sum() / pl.col("n").sum()).alias("history_mean"),
        of_fold.median().alias("fold_median"),
        of_fold.min().alias("fold_low"),
        of_fold.max().alias("fold_high"),
    )


def _history_parents(statistics: Statistics, without: Collection[int]) -> pl.DataFrame:
    sums = without_folds(statistics.history, without).group_by(HISTORY_PARENT).agg(pl.col("n", "delay").sum())
    return sums.select(*HISTORY_PARENT, (pl.col("delay") / pl.col("n")).alias("parent_history_mean"))
