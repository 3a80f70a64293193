"""Snapshots as batches of tensors: random instants to train on, the fixed grid to validate on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transformer.config import Config, DataConfig
from transformer.data.event_table import Int64Array, LoadedTable, load_event_table
from transformer.data.events import Split
from transformer.data.live_state import FloatArray, LiveState
from transformer.data.snapshots import (
    EventFeatures,
    SnapshotBatch,
    SnapshotBuilder,
    grid_instants,
    random_instants,
    utc_offset_s,
)
from transformer.statistics import FEATURES, Statistics, event_features, varied_folds

Batch = dict[str, Tensor]


def to_tensors(batch: SnapshotBatch, timezone: str) -> Batch:
    """The arrays of a snapshot batch as tensors without copying, and its calendar.

    Adds `time_of_day` [B] in days (0…1) and `day_of_week` [B] (0 = Monday), both local.
    """
    local = batch.instant + utc_offset_s(batch.instant, timezone)
    tensors = {name: torch.from_numpy(values) for name, values in vars(batch).items()}
    tensors["time_of_day"] = torch.from_numpy((local % 86_400 / 86_400).astype(np.float32))
    tensors["day_of_week"] = torch.from_numpy((local // 86_400 + 3) % 7)  # 1 January 1970 was a Thursday
    return tensors


def snapshot_builder(
    loaded: LoadedTable,
    statistics: Statistics,
    data: DataConfig,
    also_without: Mapping[int, Collection[int]] = MappingProxyType({}),
) -> SnapshotBuilder:
    """What builds snapshots of a table with everything that a model reads; `also_without` as in `event_features`."""
    features = event_features(loaded, statistics, data.statistics, also_without)
    live = LiveState.of(loaded.table, *usual_values(features))
    return SnapshotBuilder(loaded.table, data.snapshot, features, live)


def usual_values(features: EventFeatures) -> tuple[FloatArray, FloatArray]:
    """What is usual at each event [E], as `LiveState.of` takes it: the change so far, and the delay, seconds."""
    change, delay = (features.values[:, FEATURES.index(name)] for name in ("change_middle_mean", "history_delay"))
    return change, delay


@dataclass(frozen=True)
class SnapshotBatches(Dataset[Batch]):
    """Item i is the batch of the i-th `batch_size` instants, built when asked for.

    With several processes each builds its share of every batch: a step sees the same snapshots whatever their number.
    """

    builder: SnapshotBuilder
    instants: Int64Array
    batch_size: int
    timezone: str
    rank: int = 0
    n_processes: int = 1

    def __len__(self) -> int:
        return math.ceil(len(self.instants) / self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        chosen = self.instants[index * self.batch_size : (index + 1) * self.batch_size]
        return to_tensors(self.builder.build(chosen[self.rank :: self.n_processes]), self.timezone)


class SnapshotDataModule(LightningDataModule):
    """Batches of the three splits.

    The training instants and the history of an epoch depend on the seed and the epoch's number alone, so that a resumed
    training sees what an uninterrupted one would have seen. The Trainer must reload training batches every epoch.
    """

    def __init__(self, config: Config, split: Split, statistics: Statistics) -> None:
        super().__init__()
        self.config = config
        self.split = split
        self.statistics = statistics
        self.loaded: dict[str, LoadedTable] = {}
        self.builders: dict[str, SnapshotBuilder] = {}

    def setup(self, stage: str) -> None:
        for name in {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",)}[stage]:
            self._load(name)

    def train_dataloader(self) -> DataLoader[Batch]:
        training, data = self.config.training, self.config.data
        epoch = 0 if self.trainer is None or training.overfit_batches else self.trainer.current_epoch
        generator = np.random.default_rng([training.seed, epoch])
        count = training.snapshots_per_epoch
        if training.overfit_batches:
            count = training.overfit_batches * training.batch_size
        instants = random_instants(self.split.train, count, data.grid, data.timezone, generator)
        varied = training.vary_history and not training.overfit_batches  # one batch stays what it was
        if varied and (folds := varied_folds(self.statistics, generator)):
            self.builders["train"] = snapshot_builder(self.loaded["train"], self.statistics, data, folds)
        return self._loader("train", instants)

    def val_dataloader(self) -> DataLoader[Batch]:
        if self.config.training.overfit_batches:
            return self.train_dataloader()
        return self._grid("validation", self.split.validation)

    def _load(self, name: str) -> None:
        if name not in self.builders:
            data = self.config.data
            cache = Path(self.config.paths.cache)
            loaded = load_event_table(data, getattr(self.split, name), self.statistics.vocabulary, cache)
            self.loaded[name] = loaded
            self.builders[name] = snapshot_builder(loaded, self.statistics, data)

    def _grid(self, name: str, days: Sequence[date]) -> DataLoader[Batch]:
        data = self.config.data
        return self._loader(name, grid_instants(tuple(days), data.grid, data.timezone))

    def _loader(self, name: str, instants: Int64Array) -> DataLoader[Batch]:
        training = self.config.training
        rank, n_processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = SnapshotBatches(
            self.builders[name], instants, training.batch_size, self.config.data.timezone, rank, n_processes
        )
        return DataLoader(
            batches,
            batch_size=None,  # an item is a batch already
            num_workers=training.num_workers,
            persistent_workers=False,  # training batches are reloaded every epoch
            pin_memory=torch.cuda.is_available(),
        )
