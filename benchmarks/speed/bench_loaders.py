"""Speed of the loaders that feed a training: snapshots/s with all inputs, by number of workers and of trains.

    .venv/bin/python benchmarks/speed/bench_loaders.py                  # 100, 230 and 1,000 trains; up to 8 workers
    .venv/bin/python benchmarks/speed/bench_loaders.py --trains 230 --workers 0 1 2 --set training.batch_size=32

The loader is that of `train-model`. A measurement is the batches of an epoch, with the start of the workers. Nothing is
trained: a process takes one batch after the other. Without workers, it builds the batches itself. More workers than
cores are not measured. The ratios are medians over rounds in which the numbers of workers take turns.

A worker hands over a block without padding. The process that trains adds it, or its GPU does. On a CPU the network
computes nothing for padding; on a GPU its attention does, for the pairs of trains.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.bench_training import padding
from benchmarks.speed.pairs import take_turns
from benchmarks.speed.railways import USUAL, Railway, railway
from transformer.config import with_values
from transformer.data.simulator.settings import SimulationConfig
from transformer.features.batches import Batch, PackedBatches
from transformer.training.datamodule import SnapshotDataModule

ROUNDS = 3
WORKERS = (0, 1, 2, 4, 8)
LEAST_SHARE = 0.85  # target: snapshots/s of each of several workers, as share of those of a single one
EPOCH = 4_096  # snapshots; the start of the workers is a part of it
# By the mean number of trains in a snapshot.
RAILWAYS = {
    100: replace(USUAL, journeys_per_day=1_150),
    230: replace(USUAL, journeys_per_day=2_850),
    1_000: replace(USUAL, lines=250, points=3_000, journeys_per_day=12_700),
}


def main(arguments: list[str], railways: Mapping[int, SimulationConfig] = RAILWAYS) -> int:
    parser = argparse.ArgumentParser(description="snapshots/s of the loaders of a training")
    parser.add_argument("--trains", type=int, nargs="+", choices=[*railways], default=[*railways], help="default: all")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=WORKERS, help=f"default: {' '.join(map(str, WORKERS))}"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of the configuration"
    )
    chosen = parser.parse_args(arguments)
    cores = os.cpu_count() or 1
    workers = sorted(count for count in {*chosen.workers} if count <= cores)
    for number in chosen.trains:
        settings = [f"training.snapshots_per_epoch={EPOCH}", *chosen.set]
        with railway(None, railways[number], settings) as network:
            measure(network, workers)
    return 0


def measure(network: Railway, workers: list[int]) -> None:
    """Print the snapshots/s of an epoch for each number of workers, and what its batches hold."""
    loaders = {count: TrainingLoader(network, count) for count in workers}
    masks = [{"train_mask": batch["train_mask"]} for batch in loaders[workers[0]]]  # whole batches would not fit
    snapshots = sum(len(batch["train_mask"]) for batch in masks)
    trains = sum(int(batch["train_mask"].sum()) for batch in masks) / snapshots
    slots, pairs = padding(masks)
    print(f"{trains:.0f} trains a snapshot, {snapshots} snapshots in {len(masks)} batches")
    shares = f"{slots:.0%} of the trains and {pairs:.0%} of the pairs of trains"
    print(f"  {shares} in a batch are padding; none is handed over")
    print(f"  {loaders[workers[0]].packed_bytes() / 2**10:,.0f} KiB a snapshot are handed over")
    times = take_turns({str(count): partial(drain, loader) for count, loader in loaders.items()}, ROUNDS)
    for count in workers:
        speed = snapshots / times.median_ms(str(count)) * 1e3
        line = f"  {count} workers: {speed:,.0f} snapshots/s"
        if count > 0 and 0 in workers:
            line += f", {times.ratio('0', str(count)):.2f} × without workers"
        if count > 1 and 1 in workers:
            share = times.ratio("1", str(count)) / count
            line += f"; each {share:.2f} × a single one (target: at least {LEAST_SHARE})"
        print(line)


class TrainingLoader:
    """The batches of an epoch, as the network gets them."""

    def __init__(self, network: Railway, workers: int) -> None:
        config = with_values(network.config, {"training.num_workers": workers}, "benchmark")
        self._data = SnapshotDataModule(config, network.split, network.statistics)
        self._data.setup("fit")
        self._loader = self._data.train_dataloader()

    def __iter__(self) -> Iterator[Batch]:
        return (self._data.on_after_batch_transfer(batch, 0) for batch in self._loader)

    def packed_bytes(self) -> float:
        """The bytes of a snapshot in the first batch that a worker would hand over."""
        dataset: Any = self._loader.dataset
        block, layout = (dataset if isinstance(dataset, PackedBatches) else PackedBatches(dataset))[0]
        return block.nbytes / layout.snapshots


def drain(loader: Iterable[Batch]) -> None:
    for _ in loader:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
