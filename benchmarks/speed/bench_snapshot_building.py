"""Speed of snapshot building: columns compared with a loop over the trains, on the same instants.

    .venv/bin/python benchmarks/speed/bench_snapshot_building.py            # a simulated railway
    .venv/bin/python benchmarks/speed/bench_snapshot_building.py FOLDER     # event tables of your own

The benchmark prints the ratio of the two times: without features, with features from statistics, and with the live
state, too. Both produce the padded arrays of a batch. Before it times them, the benchmark checks that their outputs are
equal. The work that each does once per table is not timed: columns, lists, and the index of observed events.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.pairs import take_turns
from benchmarks.speed.railways import Railway, railway
from tests.oracles.snapshot_loop import Journey, LiveIndex, journeys_of, live_index, snapshots_by_loop
from transformer.data.event_table import Int64Array
from transformer.features.history import usual_values
from transformer.features.instants import grid_instants
from transformer.features.snapshots import EventFeatures, SnapshotBatch, SnapshotBuilder

ROUNDS = 15
BATCH = 8  # snapshots, as in training
TARGET = 40  # least number of times that columns must be faster


@dataclass(frozen=True)
class Contest:
    """The same snapshots, built by columns and by the loop."""

    builder: SnapshotBuilder
    journeys: list[Journey]
    index: LiveIndex | None
    instants: Int64Array

    @classmethod
    def of(cls, builder: SnapshotBuilder, instants: Int64Array) -> Contest:
        index, journeys = None, journeys_of(builder.table, builder.features)
        if builder.live is not None:
            index = live_index(journeys, *(values.tolist() for values in usual_values(builder.features)))
        return cls(builder, journeys, index, instants)

    def columns(self) -> SnapshotBatch:
        return self.builder.build(self.instants)

    def loop(self) -> dict[str, np.ndarray]:
        builder = self.builder
        return snapshots_by_loop(self.journeys, self.instants.tolist(), builder.config, builder.features, self.index)


def main(folder: str | None = None) -> int:
    with railway(folder) as base:
        ratios = [measure(name, contest) for name, contest in contests(base).items()]
    return 0 if min(ratios) >= TARGET else 1


def contests(base: Railway) -> dict[str, Contest]:
    """Return the contests, from snapshots without features to all inputs of a model, on the first test date."""
    full = base.builder()
    data = base.config.data
    grid = grid_instants(base.split.test[:1], data.grid, data.timezone)
    builders = {
        "core": replace(full, features=EventFeatures.none(full.table), live=None),
        "with statistics features": replace(full, live=None),
        "with all features": full,
    }
    instants = grid[:: len(grid) // BATCH][:BATCH]
    return {name: Contest.of(builder, instants) for name, builder in builders.items()}


def measure(name: str, contest: Contest) -> float:
    """Check that both outputs are equal, print both times, and return how many times faster columns are."""
    batch = contest.columns()
    compare(batch, contest.loop())
    times = take_turns({"columns": contest.columns, "loop": contest.loop}, ROUNDS)
    ratio = times.ratio("loop", "columns")
    columns_ms, loop_ms = (times.median_ms(way) / BATCH for way in ("columns", "loop"))
    print(
        f"{name}: {batch.train_mask.sum() / BATCH:.0f} trains a snapshot; columns {columns_ms:.2f} ms, "
        f"loop {loop_ms:.1f} ms a snapshot; {ratio:.0f} times faster (median of {ROUNDS}), same output"
    )
    return ratio


def compare(batch: SnapshotBatch, expected: dict[str, np.ndarray]) -> None:
    """Raise AssertionError if the outputs of the two builders differ."""
    for field in fields(SnapshotBatch):
        np.testing.assert_allclose(
            getattr(batch, field.name), expected[field.name], rtol=1e-6, atol=1e-3, err_msg=field.name
        )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
