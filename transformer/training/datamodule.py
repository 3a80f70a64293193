"""Batches for the Lightning trainer: random instants to train on, and fixed ones to validate on."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from transformer.config import Config, TrainingConfig
from transformer.data.dates import Split, format_dates
from transformer.data.event_table import Int64Array
from transformer.errors import UserError
from transformer.features.batches import Batch, Packed, PackedBatches, SnapshotBatches, unpack
from transformer.features.damage import Damage
from transformer.features.dated import DatedSnapshots
from transformer.features.history import History, varied_folds
from transformer.features.inputs.catalogue import Inputs
from transformer.features.instants import Spans, evaluation_instants, training_instants
from transformer.features.reading import DateReading, obtain_readings, running_times
from transformer.features.statistics import Statistics
from transformer.memory import give_back_free_memory

MOST_WORKERS = 9  # for each GPU; the profile gpu-1 has 10 cores, and one of them trains


class SnapshotDataModule(LightningDataModule):
    """Batches of the three splits.

    The training instants and the history of an epoch depend only on the seed and the epoch's number, so a resumed
    training sees the same batches as an uninterrupted one. The Trainer must reload training batches every epoch.
    """

    def __init__(self, config: Config, split: Split, statistics: Statistics) -> None:
        super().__init__()
        self.config = config
        self.split = split
        self.statistics = statistics
        self.readings: dict[str, list[DateReading]] = {}
        self.builders: dict[str, DatedSnapshots] = {}
        self.inputs: dict[str, Inputs] = {}

    def setup(self, stage: str) -> None:
        for name in {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",)}[stage]:
            self._load(name)

    def train_dataloader(self) -> DataLoader[Batch | Packed]:
        training, data = self.config.training, self.config.data
        epoch = 0 if self.trainer is None or training.overfit_batches else self.trainer.current_epoch
        generator = np.random.default_rng([training.seed, epoch])
        count = training.snapshots_per_epoch
        if training.overfit_batches:
            count = training.overfit_batches * training.batch_size
        instants = training_instants(
            self.split.train, count, data, generator, training.sampling, lambda: self._running_times
        )
        if not training.overfit_batches:  # which repeats the same batches every epoch
            folds = varied_folds(self.statistics, generator) if training.vary_history else {}
            damage = None
            if n_damaged := round(training.sampling.damaged * len(instants)):
                damage = Damage(generator.choice(instants, n_damaged, replace=False), [training.seed, epoch])
            if folds or damage:
                self.builders["train"] = self._builder("train", folds, damage)
        return self._loader("train", instants)

    def val_dataloader(self) -> DataLoader[Batch | Packed]:
        if self.config.training.overfit_batches:
            return self.train_dataloader()
        return self._grid("validation", self.split.validation)

    def on_after_batch_transfer(self, batch: Batch | Packed, dataloader_idx: int) -> Batch:
        """Lightning calls this with each batch of a loader, on the device of the network."""
        return batch if isinstance(batch, dict) else unpack(batch)

    def _load(self, name: str) -> None:
        if name not in self.builders:
            self.readings[name] = obtain_readings(
                self.config.data, getattr(self.split, name), Path(self.config.paths.cache)
            )
            self.inputs[name] = Inputs.read(
                self.config.model.use_inputs,
                self.config.data,
                getattr(self.split, name),
                self.statistics.vocabulary,
            )
            self.builders[name] = self._builder(name)
            if not self.builders[name].observed:
                days = format_dates(getattr(self.split, name))
                raise UserError(
                    f"data.split.{name}: no event is observed on {', '.join(days)}, so there is no delay to learn or "
                    "to measure; name dates with observations"
                )

    @cached_property
    def _running_times(self) -> list[Spans]:
        return running_times(self.readings["train"], self.config.data)

    def _builder(
        self,
        name: str,
        also_without: Mapping[int, Collection[int]] = MappingProxyType({}),
        damage: Damage | None = None,
    ) -> DatedSnapshots:
        data = self.config.data
        history = History(self.statistics, data.statistics, also_without)
        return DatedSnapshots(self.readings[name], self.statistics.vocabulary, history, data, self.inputs[name], damage)

    def _grid(self, name: str, days: Sequence[date]) -> DataLoader[Batch | Packed]:
        return self._loader(name, evaluation_instants(days, self.config.data))

    def _loader(self, name: str, instants: Int64Array) -> DataLoader[Batch | Packed]:
        training = self.config.training
        rank, n_processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = SnapshotBatches(
            self.builders[name], instants, training.batch_size, self.config.data.timezone, rank, n_processes
        )
        workers = loader_workers(training)
        packed = workers > 0 or torch.cuda.is_available()
        dataset: Dataset[Any] = PackedBatches(batches) if packed else batches
        return _FrugalLoader(
            dataset,
            batch_size=None,  # each item is a batch already
            num_workers=workers,
            persistent_workers=False,  # training batches are reloaded every epoch
            pin_memory=torch.cuda.is_available(),
        )


class _FrugalLoader(DataLoader[Batch | Packed]):
    """Forks its workers from a process that has given back what it freed: the activations of a training are large."""

    def __iter__(self) -> Any:  # torch's type of it is private
        give_back_free_memory()
        return super().__iter__()


def loader_workers(training: TrainingConfig) -> int:
    """Number of processes that build the batches of one process that trains."""
    if training.num_workers is not None:
        return training.num_workers
    gpus = torch.cuda.device_count() if training.accelerator != "cpu" else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores // gpus - 1, MOST_WORKERS), 0) if gpus else 0
