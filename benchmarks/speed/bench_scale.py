"""Three years of a network of Belgium's size: time, memory and reads of every stage, and of one date more.

    make bench-scale                                                     # 1,096 dates, 94.5 million events
    make bench-scale DATES=30                                            # fewer dates, for which there are no targets
    make bench-scale CURVE="30 120 365"                                  # several numbers of dates: the cost of a date
    .venv/bin/python benchmarks/speed/bench_scale.py --keep data/scale   # the next run finds the network written
    .venv/bin/python benchmarks/speed/bench_scale.py --keep data/scale --stages train evaluate

The last third of the dates tests: one year of three. Each stage is a process of the command line, without MLflow:

    fetch         fetch-files, with an empty cache
    again         fetch-files again
    statistics    compute-statistics-and-embeddings
    train         train-model, one epoch with four loader workers
    evaluate      evaluate-model
    more          one date more: fetch-files, compute-statistics-and-embeddings, and train-model until its first step

Before each stage, the files of the data and of the cache are dropped from the page cache, so the stage reads them from
disk. The memory is the largest sum of the proportional set sizes (PSS) of the stage's processes, in samples taken up to
five times a second. A page that processes share counts once. Pages of mapped files count, and are printed apart.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.belgium import BELGIUM, Network
from benchmarks.speed.processes import in_a_process_of_its_own
from benchmarks.speed.stages import StageError, Usage, drop_from_page_cache, run_stage
from transformer import protocol
from transformer.data.dates import Split
from transformer.data.simulator.settings import SimulationConfig

FULL = 1_096  # service dates to which the targets apply
FIRST_STEP = r"epoch 1/1, step \d"  # in a line of the log of train-model
MOST_GROWTH = 1.25  # a date of the largest size costs at most this many times as much as one of the smallest
LEAST = 3  # service dates
SMAPS = Path("/proc/self/smaps_rollup")
GIB = 2**30


@dataclass(frozen=True)
class Target:
    """A limit in seconds, or in GiB of memory."""

    limit: float
    unit: str

    def __str__(self) -> str:
        return f"≤ {self.limit:g} {self.unit}"

    def is_met(self, usage: Usage) -> bool:
        return (usage.seconds if self.unit == "s" else usage.peak.total / GIB) <= self.limit


@dataclass(frozen=True)
class Stage:
    name: str
    commands: tuple[str, ...]
    target: Target | None = None


FETCH, TRAIN, EVALUATE = protocol.FETCH_FILES, protocol.TRAIN_MODEL, protocol.EVALUATE_MODEL
STATISTICS = protocol.COMPUTE_STATISTICS_AND_EMBEDDINGS
MORE = "more"
STAGES = {
    "fetch": Stage(FETCH, (FETCH,)),
    "again": Stage(f"{FETCH} again", (FETCH,), Target(30, "s")),
    "statistics": Stage(STATISTICS, (STATISTICS,)),
    "train": Stage(f"{TRAIN}, one epoch", (TRAIN,), Target(6, "GiB")),
    "evaluate": Stage(EVALUATE, (EVALUATE,), Target(4, "GiB")),
    MORE: Stage("one date more, until training begins", (FETCH, STATISTICS, TRAIN), Target(60, "s")),
}


@dataclass(frozen=True)
class Pipeline:
    """The stages on the first dates of a network, with a data folder, a cache and runs of their own."""

    network: Network
    dates: int
    overrides: Sequence[str]

    @property
    def folder(self) -> Path:
        return self.network.folder / f"{self.dates}-dates"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def prepare(self) -> None:
        """Make the data folder of the dates."""
        in_a_process_of_its_own(self.network.fill, self.data, self.dates)

    def measure(self, name: str) -> Usage:
        """Run a stage.

        Raises:
            StageError: the stage failed.
        """
        if name == "fetch":
            for folder in ("cache", "runs"):
                shutil.rmtree(self.folder / folder, ignore_errors=True)
        if name == MORE:
            in_a_process_of_its_own(self.network.add, self.data, self.dates)
        first, *others = (self._run(command, name == MORE) for command in STAGES[name].commands)
        return sum(others, start=first)

    def _run(self, command: str, one_more: bool) -> Usage:
        settings = [
            f"data.local_folder={self.data}",
            f"paths.cache={self.folder / 'cache'}",
            f"paths.runs={self.folder / 'runs'}",
            "training.mlflow.use_mlflow=false",
            "training.max_epochs=1",
            "training.num_workers=4",
            *split_settings(self.network.days(self.dates + one_more)),
            *self.overrides,
        ]
        until = FIRST_STEP if one_more and command == TRAIN else ""
        if until:
            settings.append("training.log_every_s=0.001")  # so that the first step has its line
        drop_from_page_cache(self.folder)
        options = [word for setting in settings for word in (protocol.SET, setting)]
        say(f"{self.dates:,} dates: {command}")
        usage = run_stage([command, protocol.ENV, "local", *options], say, until)
        say(f"{self.dates:,} dates: {command} took {usage.seconds:.1f} s")
        return usage


def split_settings(days: Sequence[date]) -> list[str]:
    """The settings of the split: the last third of the dates tests, and at most 14 dates before it validate."""
    n_test, n_validation = len(days) // 3, min(14, max(1, len(days) // 20))
    train = len(days) - n_test - n_validation
    split = Split(*(tuple(part) for part in (days[:train], days[train:-n_test], days[-n_test:])))
    return [f"data.split.{name}=[{', '.join(ranges)}]" for name, ranges in split.as_ranges().items()]


def main(arguments: list[str], simulation: SimulationConfig = BELGIUM) -> int:
    parser = argparse.ArgumentParser(description="every stage on years of a whole network")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--dates", type=int, default=FULL, help=f"number of service dates; default: {FULL:,}")
    sizes.add_argument("--curve", type=int, nargs="+", metavar="DATES", help="several numbers of dates")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=[*STAGES], help="default: all")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the network, caches and runs in FOLDER")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of the configuration"
    )
    chosen = parser.parse_args(arguments)
    numbers = sorted(chosen.curve or [chosen.dates])
    if numbers[0] < LEAST:
        parser.error(f"{numbers[0]} dates are too few for training, validation and test; name at least {LEAST}")
    if not SMAPS.exists():
        parser.error(f"memory is measured with {SMAPS}, which Linux has")
    with folder_of_networks(chosen.keep) as root:
        network = Network(root, simulation)
        in_a_process_of_its_own(network.write, numbers[-1] + 1, say)
        found: dict[int, dict[str, Usage]] = {}
        try:
            for dates in numbers:
                pipeline = Pipeline(network, dates, chosen.set)
                pipeline.prepare()
                found[dates] = dict(printed(pipeline, [name for name in STAGES if name in chosen.stages]))
                if chosen.keep is None:
                    shutil.rmtree(pipeline.folder)  # the caches of several sizes do not fit on every disk
        except StageError as error:
            say(str(error))
            return 1
        finally:
            if len(found) > 1:
                print_curve(found)
    return 1 if FULL in found and missed(found[FULL]) else 0


@contextmanager
def folder_of_networks(kept: Path | None) -> Iterator[Path]:
    """Yield `kept` as absolute path, or a temporary folder if it is None."""
    if kept is not None:
        yield kept.resolve()
        return
    with TemporaryDirectory() as temporary:
        yield Path(temporary)


def missed(found: Mapping[str, Usage]) -> list[str]:
    """Return the stages that miss their target."""
    targets = {name: target for name in found if (target := STAGES[name].target)}
    return [name for name, target in targets.items() if not target.is_met(found[name])]


def printed(pipeline: Pipeline, names: Sequence[str]) -> Iterator[tuple[str, Usage]]:
    """Run stages, yield the usage of each, and print each as a row of a table."""
    events = count_events(pipeline.data)
    print(f"\n{pipeline.dates:,} dates, {events:,} events; targets for {FULL:,} dates\n")
    print("| stage | time | memory | of it files | read from disk | target |\n|---|---|---|---|---|---|", flush=True)
    for name in names:
        usage, stage = pipeline.measure(name), STAGES[name]
        sizes = (f"{size / GIB:.2f} GiB" for size in (usage.peak.total, usage.peak.files, usage.read_bytes))
        cells = (stage.name, f"{usage.seconds:.1f} s", *sizes, str(stage.target or "–"))
        print(f"| {' | '.join(cells)} |", flush=True)
        yield name, usage


def print_curve(found: Mapping[int, Mapping[str, Usage]]) -> None:
    """Print what a date costs at each size, and how much memory a further date takes."""
    smallest, *_, largest = found
    print("\nSeconds a date, and memory:\n")
    print("| stage | " + " | ".join(f"{dates:,} dates" for dates in found) + " | a date | memory of a further date |")
    print("|---|" + "---|" * (len(found) + 2))
    for name in found[smallest]:
        usages = {dates: of_size[name] for dates, of_size in found.items()}
        cells = [f"{usage.seconds / dates:.2f} s, {usage.peak.total / GIB:.2f} GiB" for dates, usage in usages.items()]
        growth = usages[largest].seconds / largest / (usages[smallest].seconds / smallest)
        more = (usages[largest].peak.total - usages[smallest].peak.total) / (largest - smallest) / 2**20
        verdict = "flat" if growth <= MOST_GROWTH else "**grows**"
        print(f"| {STAGES[name].name} | {' | '.join(cells)} | {growth:.2f} × as much: {verdict} | {more:.1f} MiB |")


def count_events(data: Path) -> int:
    events = pl.scan_parquet(sorted(data.glob("events/*.parquet")), glob=False)
    return int(events.select(pl.len()).collect().item())


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
