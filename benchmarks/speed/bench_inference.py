"""Speed of inference: the time to predict all delays of a railway on the CPU, from event columns to predictions.

    .venv/bin/python benchmarks/speed/bench_inference.py            # simulated railways
    .venv/bin/python benchmarks/speed/bench_inference.py FOLDER     # event tables of your own

A large railway is made of copies of one railway in the same snapshot. It has any number of trains, each with events of
its own, and attention between all of them. The time does not depend on the delays.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.pairs import take_turns
from benchmarks.speed.railways import Railway, railway
from benchmarks.speed.steps import predict
from transformer.features.batches import Batch, to_tensors
from transformer.model.module import DelayModule

LARGE = 3_000  # trains at a time: a large national railway
MOST_SECONDS = 1.0  # limit of the 95th percentile, for building and predicting a snapshot of LARGE trains
REPETITIONS = 40
SIZES = (250, 1_000, LARGE, 10_000)  # least numbers of trains
ROUNDS = 5


@dataclass(frozen=True)
class Network:
    """A railway at the instant when most trains run, and the model that predicts its delays."""

    n_trains: int
    build: Callable[[], Batch]
    module: DelayModule


def main(folder: str | None = None) -> int:
    with railway(folder) as base:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
        large = network_of(base, LARGE)
        seconds = []
        predict(large.module, large.build())
        for _ in range(REPETITIONS):
            start = time.perf_counter()
            predict(large.module, large.build())
            seconds.append(time.perf_counter() - start)
        p95 = float(np.quantile(seconds, 0.95, method="higher"))
        print(
            f"{large.n_trains:,} trains built and predicted: median {np.median(seconds) * 1e3:.0f} ms, "
            f"95th percentile {p95 * 1e3:.0f} ms of {REPETITIONS} (below {MOST_SECONDS * 1e3:.0f} ms)"
        )
        costs(base)
    return 0 if p95 < MOST_SECONDS else 1


def network_of(base: Railway, n_trains: int) -> Network:
    """Return a railway of at least `n_trains` trains at one instant, made of copies of `base`."""
    instant, trains = base.busiest(base.builder())
    builder = base.side_by_side(-(-n_trains // trains))
    instants = np.array([instant])

    def build() -> Batch:
        return to_tensors(builder.build(instants), base.config.data.timezone)

    return Network(int(build()["train_mask"].sum()), build, base.module().eval())


def costs(base: Railway) -> None:
    """Print the time per train in railways of SIZES trains, and the share of attention in a prediction."""
    networks = [network_of(base, size) for size in SIZES]
    built = [network.build() for network in networks]
    building = take_turns({f"{network.n_trains}": network.build for network in networks}, ROUNDS)
    predicting = take_turns(
        {
            f"{network.n_trains}": partial(predict, network.module, batch)
            for network, batch in zip(networks, built, strict=True)
        },
        ROUNDS,
    )
    print(f"{'trains':>8} {'build':>12} {'predict':>12} {'attention':>10}   (microseconds a train)")
    for network, batch in zip(networks, built, strict=True):
        name = f"{network.n_trains}"
        build_us, predict_us = (times.median_ms(name) * 1e3 / network.n_trains for times in (building, predicting))
        print(f"{network.n_trains:>8,} {build_us:>12.1f} {predict_us:>12.1f} {attention_share(network, batch):>10.0%}")


def attention_share(network: Network, batch: Batch) -> float:
    """Return the share of `scaled_dot_product_attention` in the CPU time of a prediction."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        predict(network.module, batch)
    operations = profiled.key_averages()
    attention = sum(op.self_cpu_time_total for op in operations if "scaled_dot_product" in op.key)
    return attention / sum(op.self_cpu_time_total for op in operations)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
