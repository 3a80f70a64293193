"""Snapshots as batches of tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from transformer.data.event_table import Int64Array
from transformer.features.snapshots import SnapshotBatch, utc_offset_s

Batch = dict[str, Tensor]


def to_tensors(batch: SnapshotBatch, timezone: str) -> Batch:
    """Turn the arrays of a snapshot batch into tensors, without copying them, and add its calendar.

    The calendar is `time_of_day` [B] in days (0…1), `day_of_week` [B] (0 = Monday) and `local_day` [B] (days since
    1970), all in local time.
    """
    local = batch.instant + utc_offset_s(batch.instant, timezone)
    tensors = {name: torch.from_numpy(values) for name, values in vars(batch).items()}
    tensors["time_of_day"] = torch.from_numpy((local % 86_400 / 86_400).astype(np.float32))
    tensors["local_day"] = torch.from_numpy(local // 86_400)
    tensors["day_of_week"] = torch.from_numpy((local // 86_400 + 3) % 7)  # 1 January 1970 was a Thursday
    return tensors


class Builder(Protocol):
    def build(self, instants: Int64Array) -> SnapshotBatch:
        """Snapshots at `instants` [B], padded to the number of trains of the fullest, at least one."""


@dataclass(frozen=True)
class SnapshotBatches(Dataset[Batch]):
    """Item i is the batch of the i-th `batch_size` instants. It is built when it is read.

    Several processes share every batch, so a step has the same snapshots for any number of processes.
    """

    builder: Builder
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
