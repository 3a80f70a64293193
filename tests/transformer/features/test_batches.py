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
from transformer.features.batches import Batch, PackedBatches, SnapshotBatches, pack, unpack
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


def test_unpacking_gives_the_batch_as_views_of_one_block(small_config: Config):
    batch = batches_of(small_config)[0]
    block, layout = pack(batch)
    found = unpack((block, layout))
    assert_equal(found, batch)
    assert {tensor.untyped_storage().data_ptr() for tensor in found.values()} == {block.untyped_storage().data_ptr()}
    assert block.nbytes < sum(tensor.nbytes for tensor in batch.values()) + 16 * len(batch)
    assert len(pickle.dumps(layout)) < 2_000  # all that a process sends, but for the block


def test_tensors_of_any_size_and_type():
    batch = {
        "none": torch.zeros(0, 3),
        "flags": torch.tensor([True, False, True]),
        "whole": torch.arange(5),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "one": torch.tensor(3.5, dtype=torch.float64),
    }
    assert_equal(unpack(pack(batch)), batch)


def test_another_process_hands_over_the_same_batches(small_config: Config):
    batches = batches_of(small_config)
    loader = DataLoader(PackedBatches(batches), batch_size=None, num_workers=2)
    found = [unpack(packed) for packed in loader]
    assert len(found) == len(batches) == 3
    for number, batch in enumerate(found):
        assert_equal(batch, batches[number])
