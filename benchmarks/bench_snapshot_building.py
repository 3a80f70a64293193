"""Snapshot building: columns against a loop over the trains, on the same instants, with the same output.

    .venv/bin/python benchmarks/bench_snapshot_building.py            # a simulated network
    .venv/bin/python benchmarks/bench_snapshot_building.py FOLDER     # event tables of your own

Prints the ratio of the two in one run, pair by pair. Both produce the padded arrays of a batch, statistics features
included; the outputs are compared before anything is timed.
"""

from __future__ import annotations

import statistics as stat
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.snapshot_loop import journeys_of, snapshots_by_loop
from transformer.config import load_config
from transformer.data.event_table import load_event_table
from transformer.data.events import resolve_split
from transformer.data.simulator import SimulationConfig, simulate
from transformer.data.snapshots import EventFeatures, SnapshotBatch, SnapshotBuilder, grid_instants
from transformer.statistics import compute_statistics, event_features

ROUNDS = 5
BATCH = 8  # snapshots, as in training
TARGET = 40  # times faster, the least the project asks of itself


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        if len(sys.argv) > 1:
            folder = Path(sys.argv[1])
        else:
            folder = scratch / "data"
            simulate(folder, SimulationConfig(service_dates=4, lines=60, points=700, journeys_per_day=2_500))
        config = load_config("local", [f"data.local_folder={folder}"])
        split = resolve_split(config.data.split, folder, skip_partial=True)
        known = compute_statistics(config.data, split.train)
        loaded = load_event_table(config.data, split.test[-1:], known.vocabulary, scratch / "cache")
        table = loaded.table
        instants = grid_instants(split.test[-1:], config.data.grid, config.data.timezone)
        ratios = []
        for name, features in (
            ("core", EventFeatures.none(table)),
            ("with statistics features", event_features(loaded, known, config.data.statistics)),
        ):
            builder = SnapshotBuilder(table, config.data.snapshot, features)
            journeys = journeys_of(table, features)
            chosen = instants[:: len(instants) // BATCH][:BATCH]
            compare(builder.build(chosen), snapshots_by_loop(journeys, chosen.tolist(), config.data.snapshot, features))
            pairs = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                batch = builder.build(chosen)
                middle = time.perf_counter()
                snapshots_by_loop(journeys, chosen.tolist(), config.data.snapshot, features)
                pairs.append((middle - start, time.perf_counter() - middle))
            ratio = stat.median(loop / columns for columns, loop in pairs)
            ratios.append(ratio)
            columns_ms, loop_ms = (stat.median(column) * 1e3 / BATCH for column in zip(*pairs, strict=True))
            print(
                f"{name}: {batch.train_mask.sum() / BATCH:.0f} trains a snapshot; columns {columns_ms:.2f} ms, "
                f"loop {loop_ms:.1f} ms a snapshot; {ratio:.0f} times faster (median of {ROUNDS}), same output"
            )
    return 0 if min(ratios) >= TARGET else 1


def compare(batch: SnapshotBatch, expected: dict[str, np.ndarray]) -> None:
    """Refuse to time two builders that do not agree."""
    for field in fields(SnapshotBatch):
        np.testing.assert_allclose(
            getattr(batch, field.name), expected[field.name], rtol=0, atol=1e-3, err_msg=field.name
        )


if __name__ == "__main__":
    sys.exit(main())
