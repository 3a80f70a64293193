"""A copy of a simulated railway, to which tests add the tables of optional inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.tables import read_table
from transformer.config import Config
from transformer.data.event_table import Int64Array, LoadedTable
from transformer.data.tables import events_path
from transformer.features.dated import DatedSnapshots
from transformer.features.history import History
from transformer.features.inputs.catalogue import INPUTS, Inputs
from transformer.features.instants import training_instants
from transformer.features.reading import obtain_readings
from transformer.features.snapshots import SnapshotBatch, SnapshotBuilder
from transformer.features.statistics import Statistics


@dataclass(frozen=True)
class Railway:
    """Two service dates of the simulated railway, in a folder that the test may change."""

    config: Config
    statistics: Statistics
    days: tuple[date, ...]
    cache: Path

    @property
    def folder(self) -> Path:
        return Path(self.config.data.local_folder)

    @property
    def instants(self) -> Int64Array:
        return training_instants(self.days, 24, self.config.data, np.random.default_rng(5))

    def loaded(self, days: Sequence[date] = ()) -> LoadedTable:
        return read_table(self.config.data, days or self.days, self.statistics.vocabulary)

    def batch(self, name: str, days: Sequence[date] = ()) -> SnapshotBatch:
        """Snapshots of a table of all days, with this input on."""
        return self.builder(name, days).build(self.instants)

    def builder(self, name: str, days: Sequence[date] = ()) -> SnapshotBuilder:
        data = self.config.data
        history = History(self.statistics, data.statistics)
        return history.builder(self.loaded(days), data.snapshot, self.inputs(name, days))

    def dated_batch(self, name: str) -> SnapshotBatch:
        """The same, from the tables of single dates."""
        data = self.config.data
        readings = obtain_readings(data, self.days, self.cache)
        history = History(self.statistics, data.statistics)
        return DatedSnapshots(readings, self.statistics.vocabulary, history, data, self.inputs(name)).build(
            self.instants
        )

    def inputs(self, name: str, days: Sequence[date] = ()) -> Inputs:
        use = self.config.model.use_inputs.model_copy(update={name: True})
        return Inputs.read(use, self.config.data, days or self.days, self.statistics.vocabulary)

    def assert_same_as(
        self, name: str, by_loop: Callable[[LoadedTable, int, int, int], Sequence[float] | None]
    ) -> np.ndarray:
        """Compare the columns with those of `by_loop(loaded, journey, event, instant)`; None = all unknown.

        Returns:
            The columns of all next events [C, n + 1].
        """
        loaded, batch = self.loaded(), self.batch(name)
        n = len(INPUTS[name].features)
        assert batch.next_inputs.shape[-1] == n + 1
        assert batch.next_inputs.dtype == np.float32
        assert not batch.next_inputs[~batch.next_mask].any()
        for b, s, f in np.argwhere(batch.next_mask):
            given = by_loop(loaded, int(batch.journey[b, s]), int(batch.next_event[b, s, f]), int(batch.instant[b]))
            values = np.full(n, np.nan) if given is None else np.array(given, np.float64)
            wanted = [*np.nan_to_num(values), float(not np.isnan(values).all())]
            np.testing.assert_allclose(batch.next_inputs[b, s, f], wanted, rtol=1e-6, atol=1e-3)
        dated = self.dated_batch(name)
        np.testing.assert_array_equal(dated.next_inputs, batch.next_inputs)
        return batch.next_inputs[batch.next_mask]

    def assert_blind_to_the_future(self, name: str) -> None:
        """Change every observation after the middle of the instants. Only columns of later instants may differ."""
        before = self.batch(name)
        middle = int(np.median(self.instants))
        later = pl.col("observed_ts").dt.epoch("s") > middle
        for day in self.days:
            path = events_path(self.folder, day)
            events = pl.read_parquet(path)
            shifted = pl.col("observed_ts") + pl.duration(seconds=1_200)
            events.with_columns(pl.when(later).then(shifted).otherwise("observed_ts")).drop("delay_sec").write_parquet(
                path
            )
        after = self.batch(name)
        past = before.instant <= middle
        kept = min(before.next_inputs.shape[1], after.next_inputs.shape[1])
        assert before.next_inputs[past].any()
        np.testing.assert_array_equal(before.next_inputs[past, :kept], after.next_inputs[past, :kept])
        assert (before.next_inputs[~past, :kept] != after.next_inputs[~past, :kept]).any()
