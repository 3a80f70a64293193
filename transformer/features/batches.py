"""Snapshots as batches of tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from transformer.data.event_table import Int64Array
from transformer.features.snapshots import COLUMNS, SnapshotBatch, TrainRows, into_slots, utc_offset_s

Batch = dict[str, Tensor]


def to_tensors(batch: SnapshotBatch, timezone: str) -> Batch:
    """Turn the arrays of a snapshot batch into tensors, without copying them, and add its calendar.

    The calendar is `time_of_day` [B] in days (0…1), `day_of_week` [B] (0 = Monday) and `local_day` [B] (days since
    1970), all in local time.
    """
    arrays = vars(batch) | _calendar(batch.instant, timezone)
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _calendar(instants: Int64Array, timezone: str) -> dict[str, npt.NDArray[Any]]:
    local = instants + utc_offset_s(instants, timezone)
    return {
        "time_of_day": (local % 86_400 / 86_400).astype(np.float32),
        "local_day": local // 86_400,
        "day_of_week": (local // 86_400 + 3) % 7,  # 1 January 1970 was a Thursday
    }


class Layout(NamedTuple):
    """The names and types of the arrays in a packed batch."""

    snapshots: int  # B
    trains: int  # N, of all snapshots
    columns: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]  # name, type in the block, shape behind [B] or [N]


Packed = tuple[Tensor, Layout]
_ALIGNED = 16  # bytes; a view of a type begins at a multiple of its size
_TORCH = {
    np.bool_: torch.bool, np.int8: torch.int8, np.int32: torch.int32, np.int64: torch.int64, np.float32: torch.float32,
}  # fmt: skip


def pack(trains: TrainRows, instants: Int64Array, timezone: str) -> Packed:
    """Copy the trains of snapshots at `instants` [B] into one tensor of bytes, one array behind the other.

    A process hands a tensor to another one through shared memory, and a GPU gets it in one transfer. One tensor costs
    as much in both as any of the many of a batch. There is no padding in it, and small numbers stay small.
    """
    count = np.bincount(trains.snapshot, minlength=len(instants))
    arrays = {"instant": instants, "count": count, **_calendar(instants, timezone)}
    types = {name: array.dtype for name, array in arrays.items()}
    for name, dtype in COLUMNS.items():
        array, wanted = getattr(trains, name), np.dtype(dtype)
        arrays[name] = array
        types[name] = array.dtype if array.dtype.itemsize < wanted.itemsize else wanted
    sizes = [_aligned(array.size * types[name].itemsize) for name, array in arrays.items()]
    block = _block(sum(sizes))
    begin, columns = 0, []
    for (name, array), size in zip(arrays.items(), sizes, strict=True):
        held = types[name]
        place = block.numpy()[begin : begin + array.size * held.itemsize].view(held).reshape(array.shape)
        np.copyto(place, array, casting="unsafe")
        columns.append((name, _TORCH[held.type], array.shape[1:]))
        begin += size
    return block, Layout(len(instants), len(trains.journey), tuple(columns))


def unpack(packed: Packed) -> Batch:
    """The batch of `pack`, padded to the number of trains of the fullest snapshot. It is on the device of the block."""
    block, layout = packed
    columns, begin = {}, 0
    for name, held, behind in layout.columns:
        shape = (layout.trains if name in COLUMNS else layout.snapshots, *behind)
        size = math.prod(shape) * held.itemsize
        columns[name] = block[begin : begin + size].view(held).view(shape)
        begin += _aligned(size)
    count = columns.pop("count")
    mask = torch.arange(max(int(count.max()), 1), device=block.device) < count[:, None]
    if block.device.type == "cpu":  # by NumPy, on one core, since other cores build the next batches
        padded = {
            name: torch.from_numpy(into_slots(columns.pop(name).numpy(), count.numpy(), dtype))
            for name, dtype in COLUMNS.items()
        }
    else:
        at = mask.nonzero(as_tuple=True)
        padded = {
            name: _into_slots(columns.pop(name), mask.shape, at, _TORCH[dtype]) for name, dtype in COLUMNS.items()
        }
    return {"instant": columns.pop("instant"), "train_mask": mask, **padded, **columns}


def _into_slots(values: Tensor, shape: torch.Size, at: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """As `snapshots.into_slots`, in a few operations of a GPU."""
    slots = torch.zeros(*shape, *values.shape[1:], dtype=dtype, device=values.device)
    slots[at] = values.to(dtype)
    return slots


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _block(size: int) -> Tensor:
    """Bytes, in shared memory if another process builds batches. The loader would copy others there."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    # As PyTorch's `default_collate` does.
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)


class Builder(Protocol):
    def build(self, instants: Int64Array) -> SnapshotBatch:
        """Snapshots at `instants` [B], padded to the number of trains of the fullest, at least one."""

    def trains(self, instants: Int64Array) -> TrainRows:
        """The trains of the snapshots at `instants` [B], complete."""


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
        return to_tensors(self.builder.build(self.chosen(index)), self.timezone)

    def chosen(self, index: int) -> Int64Array:
        """The instants of a batch."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.instants[index * self.batch_size : (index + 1) * self.batch_size][self.rank :: self.n_processes]


@dataclass(frozen=True)
class PackedBatches(Dataset[Packed]):
    """The batches of another process, or for a GPU."""

    batches: SnapshotBatches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Packed:
        instants = self.batches.chosen(index)
        return pack(self.batches.builder.trains(instants), instants, self.batches.timezone)
