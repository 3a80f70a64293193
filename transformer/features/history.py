"""Features of an event from the statistics of the training dates: usual values for its place and its train."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import date
from functools import cached_property
from types import MappingProxyType

import numpy as np

from transformer.config import SnapshotConfig, StatisticsConfig
from transformer.data.event_table import LoadedTable
from transformer.features.inputs.catalogue import NO_INPUTS, Inputs
from transformer.features.live_state import FloatArray, LiveState
from transformer.features.snapshots import EventFeatures, SnapshotBuilder
from transformer.features.statistics import Statistics
from transformer.features.usual import CodedSums, Usual

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


_EPOCH = date(1970, 1, 1)


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
        self._usual: dict[int, Usual] = {}  # by fold

    def prepare(self, days: Iterable[date]) -> None:
        """Compute what the features of these dates are looked up in, and free what it is computed from."""
        for day in days:
            self._without((day - _EPOCH).days)
        self.__dict__.pop("_sums", None)  # a further date would compute it again

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

    def builder(self, loaded: LoadedTable, config: SnapshotConfig, inputs: Inputs = NO_INPUTS) -> SnapshotBuilder:
        """A builder of snapshots of a table, with every input of a model.

        Args:
            inputs: the optional inputs that are on.
        """
        features = self.features(loaded)
        live = LiveState.of(loaded.table, *usual_values(features))
        return SnapshotBuilder(loaded.table, config, features, live, inputs.on(loaded))

    @cached_property
    def _sums(self) -> CodedSums:
        return CodedSums.of(self._statistics)

    def _without(self, day: int) -> Usual:
        """The usual values for a service date, in days since the Unix epoch; training dates leave their fold out."""
        fold = self._fold_of.get(day, -1)
        if fold not in self._usual:
            without = {fold, *self._also_without.get(fold, ())} if fold >= 0 else set()
            self._usual[fold] = Usual.of(self._sums, self._config, without)
        return self._usual[fold]


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
