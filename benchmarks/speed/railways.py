"""Railways for the benchmarks of speed, from simulated or your own event tables, and batches of their snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from benchmarks.tables import read_table
from transformer.config import Config, load_config
from transformer.data.dates import Split, resolve_split
from transformer.data.event_table import Int64Array, LoadedTable
from transformer.data.events import read_days, read_journeys
from transformer.data.simulator.dataset import simulate
from transformer.data.simulator.settings import SimulationConfig
from transformer.features.batches import Batch, to_tensors
from transformer.features.cache import Embeddings, obtain_inputs
from transformer.features.history import History
from transformer.features.instants import grid_instants, training_instants
from transformer.features.snapshots import SnapshotBuilder
from transformer.features.statistics import Statistics
from transformer.model.module import DelayModule
from transformer.training.trainer import create_module

# As many trains at a time as on railways with open data: at most about 250, and 190 as mean over the day.
USUAL = SimulationConfig(service_dates=4, lines=60, points=700, journeys_per_day=2_500)
# Rounded predictions have no gradient. The training of the pipeline leaves the rounding out by itself.
TRAINABLE = ("model.round_predictions=false",)


@dataclass(frozen=True)
class Railway:
    """Event tables, and the split, statistics and embeddings of a training on them."""

    config: Config
    split: Split
    statistics: Statistics
    embeddings: Embeddings

    def module(self) -> DelayModule:
        """Return an untrained module for this railway."""
        return create_module(self.config, self.split, self.statistics, self.embeddings)

    def builder(self, split: str = "test") -> SnapshotBuilder:
        """Return a builder of snapshots of the first date of a split."""
        days = getattr(self.split, split)[:1]
        return self._builder(read_table(self.config.data, days, self.statistics.vocabulary))

    def side_by_side(self, copies: int) -> SnapshotBuilder:
        """Return a builder of snapshots of the first test date that hold `copies` copies of this railway's trains."""
        data, days = self.config.data, self.split.test[:1]
        events, _ = read_days(data, days)
        journeys = read_journeys(Path(data.local_folder), days, data.timezone)
        many = [
            pl.concat([frame.with_columns(pl.col("train_id") + f"/{copy}") for copy in range(copies)])
            for frame in (events, journeys)
        ]
        return self._builder(LoadedTable.of(*many, self.statistics.vocabulary))

    def _builder(self, loaded: LoadedTable) -> SnapshotBuilder:
        data = self.config.data
        return History(self.statistics, data.statistics).builder(loaded, data.snapshot)

    def busiest(self, builder: SnapshotBuilder) -> tuple[int, int]:
        """Return the instant of the first test date's grid at which most trains run, and their number."""
        instants = grid_instants(self.split.test[:1], self.config.data.grid, self.config.data.timezone)
        trains = count_trains(builder, instants)
        return int(instants[trains.argmax()]), int(trains.max())

    def random_instants(self, count: int) -> Int64Array:
        """Draw instants of the first training date, as an epoch of training does."""
        data = self.config.data
        return training_instants(self.split.train[:1], count, data, np.random.default_rng(0))

    def batches(self, builder: SnapshotBuilder, instants: Int64Array, size: int) -> list[Batch]:
        """Return batches of `size` snapshots in the order of `instants`, as tensors in memory."""
        timezone = self.config.data.timezone
        return [
            to_tensors(builder.build(instants[first : first + size]), timezone)
            for first in range(0, len(instants), size)
        ]


@contextmanager
def railway(
    folder: str | None, simulation: SimulationConfig = USUAL, overrides: Sequence[str] = ()
) -> Iterator[Railway]:
    """Return the railway in `folder`, or a simulated one. At the end of the block, its caches are deleted."""
    with TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        data = Path(folder) if folder else scratch / "data"
        if not folder:
            simulate(data, simulation)
        config = load_config(
            "local", [f"data.local_folder={data}", f"paths.cache={scratch / 'cache'}", *TRAINABLE, *overrides]
        )
        split = resolve_split(config.data.split, data, True, config.data.timezone)
        yield Railway(config, split, *obtain_inputs(config, split))


def count_trains(builder: SnapshotBuilder, instants: Int64Array) -> Int64Array:
    """Return the number of trains that run at each instant."""
    return np.array([builder.build(instants[i : i + 1]).train_mask.sum() for i in range(len(instants))], np.int64)
