"""A packed batch holds the same tensors, in one block."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.tables import read_table
from transformer.config import Config
from transformer.data.dates import available_dates
from transformer.features.batches import Batch, PackedBatches, SnapshotBatches, pack, to_tensors, unpack
from transformer.features.history import History
from transformer.features.instants import training_instants
from transformer.features.statistics import compute_statistics


def batches_of(config: Config) -> SnapshotBatches:
    data, days = config.data, available_dates(Path(config.data.local_folder))[:2]
    statistics = compute_statistics(data, days)
    loaded = read_table(data, days, statistics.vocabulary)
    builder = History(statistics, data.statistics).builder(loaded, data.snapshot)
    return SnapshotBatches(builder, training_instants(days, 12, data, np.random.default_rng(0)), 4, data.timezone)


def assert_equal(found: Batch, wanted: Batch) -> None:
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_unpacking_gives_the_batch_of_one_block(small_config: Config):
    batches = batches_of(small_config)
    wanted = batches[0]
    block, layout = PackedBatches(batches)[0]
    assert_equal(unpack((block, layout)), wanted)
    padded = sum(tensor.nbytes for tensor in wanted.values())
    assert wanted["train_mask"].float().mean() < 1
    assert block.nbytes < wanted["train_mask"].float().mean() * padded  # no padding, and small numbers
    assert len(pickle.dumps(layout)) < 2_000  # all that a process sends, but for the block


def test_snapshots_without_trains(small_config: Config):
    batches = batches_of(small_config)
    far = batches.instants[:3] + 10 * 365 * 86_400
    packed = pack(batches.builder.trains(far), far, batches.timezone)
    assert_equal(unpack(packed), to_tensors(batches.builder.build(far), batches.timezone))


def test_another_process_hands_over_the_same_batches(small_config: Config):
    batches = batches_of(small_config)
    loader = DataLoader(PackedBatches(batches), batch_size=None, num_workers=2)
    found = [unpack(packed) for packed in loader]
    assert len(found) == len(batches) == 3
    for number, batch in enumerate(found):
        assert_equal(batch, batches[number])
