"""Speed of an evaluation after the predictions: time and memory of measures, gate, figures and report on many rows.

    .venv/bin/python benchmarks/speed/bench_evaluation.py               # 31 dates, 5 million rows
    .venv/bin/python benchmarks/speed/bench_evaluation.py --year        # 365 dates, 60 million rows: some 20 minutes
    .venv/bin/python benchmarks/speed/bench_evaluation.py --dates 120

The rows are random. Their numbers of points, journeys and next events are those of Belgium's network. A champion
predicts the same events. The memory is the peak resident memory of the process that evaluates, with its imports.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.processes import in_a_process_of_its_own, peak_gib  # the line above finds the package
from transformer.prediction.columns import ROW_SCHEMA, quantile_column
from transformer.prediction.row_files import RowFiles, write_rows

MOST_GIB = 4.0  # limit of the peak memory
MONTH, YEAR = 31, 365  # service dates
START = datetime(2024, 1, 1, 4, tzinfo=UTC)  # the first snapshot
TIMEZONE = "Europe/Brussels"
POINTS, JOURNEYS = 1_355, 3_300  # journeys a date
SNAPSHOTS, TRAINS, RANKS = 20, 550, 15  # snapshots a date; of each, running trains and their next events
QUANTILES = {0.05: -1.6, 0.1: -1.3, 0.25: -0.7, 0.5: 0.0, 0.75: 0.7, 0.9: 1.3, 0.95: 1.6}  # in standard deviations
TYPES = ("IC", "L", "S", "P", "ICE", "THA", "EXT")


@dataclass(frozen=True)
class Stage:
    name: str
    seconds: float
    peak_gib: float  # up to the end of the stage


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="time and memory of an evaluation after the predictions")
    parser.add_argument("--dates", type=int, default=MONTH, help=f"number of service dates; default: {MONTH}")
    parser.add_argument("--year", dest="dates", action="store_const", const=YEAR, help=f"{YEAR} service dates")
    dates = parser.parse_args(arguments).dates
    with TemporaryDirectory() as scratch:
        began = time.perf_counter()
        own, champion = (
            in_a_process_of_its_own(write_dates, Path(scratch) / name, dates, seed)
            for seed, name in enumerate(("own", "champion"))
        )
        seconds, size = (
            time.perf_counter() - began,
            sum(path.stat().st_size for path in Path(scratch).rglob("*.parquet")),
        )
        stages = in_a_process_of_its_own(measure, own, champion, Path(scratch) / "evaluation")
    million = own.height / 1e6
    print(
        f"{dates} dates, {own.height:,} rows of each of two models: {size / 2**30:.2f} GiB, written in {seconds:.0f} s"
    )
    print(f"{'stage':<20} {'s':>8} {'s/million':>10} {'peak GiB':>10}")
    for stage in stages:
        print(f"{stage.name:<20} {stage.seconds:>8.1f} {stage.seconds / million:>10.2f} {stage.peak_gib:>10.2f}")
    peak = stages[-1].peak_gib
    growth = (peak - stages[0].peak_gib) / million
    print(
        f"peak memory {peak:.2f} GiB (below {MOST_GIB:g} GiB), {1024 * growth:.0f} MiB per million rows and the imports"
    )
    return 0 if peak < MOST_GIB else 1


def write_dates(folder: Path, dates: int, seed: int) -> RowFiles:
    return write_rows(random_dates(dates, seed), folder)


def random_dates(dates: int, seed: int) -> Iterator[pl.DataFrame]:
    """Yield the rows of one service date after the other. The observed delays do not depend on the seed."""
    shape = (SNAPSHOTS, TRAINS, RANKS)
    snapshot, train, rank = (index.ravel() for index in np.indices(shape))
    journey = (train + snapshot * JOURNEYS // SNAPSHOTS) % JOURNEYS
    for day in range(dates):
        truth, model = np.random.default_rng([day]), np.random.default_rng([day, seed])
        observed = np.round(truth.gamma(1.5, 120, shape) - 60).ravel()
        last = observed + np.round(truth.normal(0, 90, shape)).ravel()
        spread = truth.gamma(4, 20, shape).ravel()
        predicted = observed + np.round(model.normal(0, 1, shape).ravel() * spread)
        start = START + timedelta(days=day)
        start_us = int(start.timestamp()) * 1_000_000
        quantiles = {
            quantile_column(level): (predicted + deviation * spread).astype(np.float32)
            for level, deviation in QUANTILES.items()
        }
        yield pl.DataFrame(
            {
                "snapshot_ts": start_us + snapshot * 3_600_000_000,
                "service_date": pl.repeat(start.date(), len(rank), dtype=pl.Date, eager=True),
                "train_id": pl.Series([f"{number}" for number in range(JOURNEYS)])[journey],
                "train_number": pl.Series([f"{number}" for number in range(JOURNEYS)])[journey],
                "train_type": pl.Series(TYPES)[journey % len(TYPES)],
                "op_id": (journey * 7 + rank + snapshot) % POINTS,
                "event_type": pl.Series(["A", "D"])[rank % 2],
                "rank": rank + 1,
                "planned_ts": start_us + (3_600 * snapshot + 60 + 420 * rank) * 1_000_000,
                "horizon_s": 60.0 + 420 * rank,
                "departed": journey % 5 > 0,
                "last_delay_s": last,
                "observed_delay_s": observed,
                "translation_delay_s": last,
                "predicted_delay_s": predicted,
                **quantiles,
            }
        ).cast({**ROW_SCHEMA, **dict.fromkeys(quantiles, pl.Float64())})


def measure(own: RowFiles, champion: RowFiles, folder: Path) -> list[Stage]:
    """Evaluate as `evaluate-model` does after it has predicted."""
    from transformer.config import GateConfig
    from transformer.evaluation import evaluate  # the stage's module imports what it needs, which takes memory too
    from transformer.evaluation.gate import compare
    from transformer.evaluation.report.page_tables import Champion

    numbers = np.arange(POINTS, dtype=np.int32)
    op_nodes = pl.DataFrame(
        {"op_id": numbers, "lat": 50 + numbers % 37 / 37, "lon": 4 + numbers / POINTS}
    ).with_columns(op_name=pl.format("point {}", "op_id"))
    edges = pl.DataFrame({"op_a": numbers[:-1], "op_b": numbers[1:]})
    stages = [Stage("imports", 0.0, peak_gib())]
    began = time.perf_counter()

    def ended(name: str) -> None:
        nonlocal began
        stages.append(Stage(name, time.perf_counter() - began, peak_gib()))
        began = time.perf_counter()

    compare(own, champion, GateConfig())
    ended("gate")
    measures = evaluate.Measures.of(own, TIMEZONE)
    ended("measures")
    result = evaluate.write_evaluation(measures, op_nodes, edges, folder, prefix="test")
    ended("figures and tables")
    days = list(measures.groups("service_date")["service_date"])
    provenance = evaluate.Provenance("", "local", "", "", "", [])
    evaluate.write_html_report(
        folder / evaluate.REPORT,
        measures,
        op_nodes,
        result.figures,
        window=days,
        provenance=provenance,
        champion=Champion("the champion", champion),
    )
    ended("report")
    return stages


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
