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


Layout = tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]  # name, type and shape of each tensor
Packed = tuple[Tensor, Layout]
_ALIGNED = 16  # bytes; a view of a type begins at a multiple of its size


def pack(batch: Batch) -> Packed:
    """Copy the tensors of a batch into one of bytes, one behind the other.

    A process hands a tensor to another one through shared memory, and a GPU gets it in one transfer. One tensor costs
    as much in both as any of the many of a batch.
    """
    ends = np.cumsum([_padded_size(tensor) for tensor in batch.values()])
    block = np.empty(int(ends[-1]), np.uint8)
    for tensor, end in zip(batch.values(), ends.tolist(), strict=True):
        begin = end - _padded_size(tensor)
        block[begin : begin + tensor.nbytes] = tensor.contiguous().numpy().reshape(-1).view(np.uint8)
    return torch.from_numpy(block), tuple((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items())


def unpack(packed: Packed) -> Batch:
    """The tensors of `pack`, as views of the bytes on their device."""
    block, layout = packed
    batch, begin = {}, 0
    for name, dtype, shape in layout:
        size = math.prod(shape) * dtype.itemsize
        batch[name] = block[begin : begin + size].view(dtype).view(shape)
        begin += -(-size // _ALIGNED) * _ALIGNED
    return batch


def _padded_size(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNED) * _ALIGNED


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


@dataclass(frozen=True)
class PackedBatches(Dataset[Packed]):
    """The batches of another process."""

    batches: SnapshotBatches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Packed:
        return pack(self.batches[index])
