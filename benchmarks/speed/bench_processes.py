"""A training in 1, 2 and 4 processes on this machine: its curve, its time, and the memory of each process.

    .venv/bin/python benchmarks/speed/bench_processes.py                    # on the simulated railway of the benchmarks
    .venv/bin/python benchmarks/speed/bench_processes.py --processes 1 2 --epochs 4

Each number of processes trains the same network on the same snapshots, as `train-model` does. The processes exchange
gradients over gloo, and each takes its share of every batch. The curve is therefore that of one process up to
rounding, if nothing is dropped out: dropout draws other numbers in each process. The tables of the dates are mapped, so
a page of them counts once. Each process computes on one core, so a further process adds a core while there are any.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.railways import USUAL
from benchmarks.speed.stages import StageError, Usage, run_stage
from transformer import protocol
from transformer.data.simulator.dataset import simulate
from transformer.data.simulator.settings import SimulationConfig

GIB = 2**30
PROCESSES = (1, 2, 4)
EPOCH = r"epoch (\d+)/\d+ done: training loss ([\d.]+), validation MAE ([\d.]+) s"  # in a line of the log
MOST_DIFFERENCE = 0.01  # target: of the validation MAE of an epoch from that of one process, as share of it


@dataclass(frozen=True)
class Training:
    usage: Usage
    loss: list[float]  # of each epoch
    mae_s: list[float]  # validation MAE after each epoch

    @classmethod
    def run(cls, processes: int, settings: Sequence[str]) -> Training:
        """Run `train-model`.

        Raises:
            StageError: it failed.
        """
        lines: list[str] = []
        several = [f"training.devices={processes}", f"training.strategy={'ddp' if processes > 1 else 'auto'}"]
        usage = run_stage([protocol.TRAIN_MODEL, protocol.ENV, "local", *_options([*settings, *several])], lines.append)
        epochs = {found[1]: found for line in lines if (found := re.search(EPOCH, line))}
        return cls(
            usage, [float(found[2]) for found in epochs.values()], [float(found[3]) for found in epochs.values()]
        )

    def difference(self, other: Training) -> float:
        """The largest difference of the validation MAE of an epoch, as share of that of `other`."""
        return max(abs(own / theirs - 1) for own, theirs in zip(self.mae_s, other.mae_s, strict=True))


def main(arguments: list[str], simulation: SimulationConfig = USUAL) -> int:
    parser = argparse.ArgumentParser(description="a training in several processes")
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES, help="default: 1 2 4")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each training; default: 3")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of the configuration"
    )
    chosen = parser.parse_args(arguments)
    found: dict[int, Training] = {}
    os.environ["OMP_NUM_THREADS"] = "1"
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate(folder / "data", simulation)
        settings = [
            f"data.local_folder={folder / 'data'}",
            f"paths.cache={folder / 'cache'}",
            "training.mlflow.use_mlflow=false",
            "training.accelerator=cpu",
            "training.log_every_s=3600",
            f"training.max_epochs={chosen.epochs}",
            "model.dropout=0.0",
            "model.head_dropout=0.0",
            *chosen.set,
        ]
        try:
            run_stage([protocol.COMPUTE_STATISTICS_AND_EMBEDDINGS, protocol.ENV, "local", *_options(settings)], _say)
            for processes in chosen.processes:
                _say(f"{processes} processes: {chosen.epochs} epochs")
                runs = f"paths.runs={folder / f'runs-{processes}'}"
                found[processes] = Training.run(processes, [*settings, runs])
        except StageError as error:
            _say(str(error))
            return 1
    print_table(found)
    return 0


def print_table(found: Mapping[int, Training]) -> None:
    """Print a row for each number of processes, compared with the smallest."""
    single = found[min(found)]
    print(f"{os.cpu_count()} cores; the MAE of an epoch is to differ by at most {MOST_DIFFERENCE:.0%}\n")
    print("| processes | loss | validation MAE after each epoch | largest difference | time | speed | memory of each |")
    print("|---|---|---|---|---|---|---|")
    for processes, training in sorted(found.items()):
        losses = ", ".join(f"{loss:.3f}" for loss in training.loss)
        curve = ", ".join(f"{mae:.1f}" for mae in training.mae_s)
        memory = training.usage.peak.total / processes / GIB
        speed = single.usage.seconds / training.usage.seconds
        cells = (f"{training.difference(single):.2%}", f"{training.usage.seconds:.0f} s", f"{speed:.2f} ×")
        print(f"| {processes} | {losses} | {curve} s | {' | '.join(cells)} | {memory:.2f} GiB |")


def _options(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in (protocol.SET, setting)]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
