"""Speed of statistics: time and memory of `compute_statistics` on many service dates with 88,000 events each.

    .venv/bin/python benchmarks/speed/bench_statistics.py               # a simulated month
    .venv/bin/python benchmarks/speed/bench_statistics.py --year        # 365 dates, 32 million events: some ten minutes
    .venv/bin/python benchmarks/speed/bench_statistics.py --dates 7
    .venv/bin/python benchmarks/speed/bench_statistics.py FOLDER        # event tables of your own

Every date is simulated, and no date repeats another. Simulation and computation run in separate processes. The memory
is the peak resident memory of the process of the computation.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.processes import in_a_process_of_its_own, peak_gib  # the line above finds the package

MOST_GIB = 6.0  # limit of the peak memory
MONTH, YEAR = 30, 365  # service dates
START = "2024-01-01"


@dataclass(frozen=True)
class Measurement:
    dates: int
    events: int
    seconds: float
    peak_gib: float
    rows: dict[str, int]  # number of rows by table of the statistics


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="time and memory of compute_statistics")
    parser.add_argument("folder", nargs="?", type=Path, help="event tables of your own; default: simulated")
    parser.add_argument(
        "--dates", type=int, help=f"number of service dates; default: all of the folder, or {MONTH} simulated ones"
    )
    parser.add_argument("--year", dest="dates", action="store_const", const=YEAR, help=f"{YEAR} service dates")
    chosen = parser.parse_args(arguments)
    with TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch) / "data"
        if chosen.folder is None:
            in_a_process_of_its_own(simulate_dates, folder, chosen.dates or MONTH)
        found = in_a_process_of_its_own(measure, folder, chosen.dates)
    print(
        f"{found.dates} dates, {found.events:,} events: {found.seconds:.1f} s, "
        f"{found.events / found.seconds:,.0f} events/s, peak memory {found.peak_gib:.2f} GiB (below {MOST_GIB:g} GiB)"
    )
    print("rows: " + ", ".join(f"{name} {rows:,}" for name, rows in found.rows.items()))
    return 0 if found.peak_gib < MOST_GIB else 1


def simulate_dates(folder: Path, dates: int) -> None:
    from transformer.data.simulator.dataset import simulate
    from transformer.data.simulator.settings import SimulationConfig

    # 97,000 events on a weekday, and 70 % of that number on Saturday and Sunday.
    simulate(
        folder,
        SimulationConfig(start_date=START, service_dates=dates, lines=60, points=700, journeys_per_day=3_280),
    )


def measure(folder: Path, dates: int | None) -> Measurement:
    """Measure `compute_statistics` on the first `dates` dates in `folder`; None = all dates."""
    from transformer.config import load_config
    from transformer.data.dates import available_dates
    from transformer.data.tables import events_path
    from transformer.features.statistics import compute_statistics

    config = load_config("local", [f"data.local_folder={folder}"])
    days = available_dates(folder)[:dates]
    start = time.perf_counter()
    statistics = compute_statistics(config.data, days)
    seconds = time.perf_counter() - start
    return Measurement(
        dates=len(days),
        events=pl.scan_parquet([events_path(folder, day) for day in days], glob=False)
        .select(pl.len())
        .collect()
        .item(),
        seconds=seconds,
        peak_gib=peak_gib(),
        rows={name: getattr(statistics, name).height for name in ("sections", "histograms", "history")},
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
