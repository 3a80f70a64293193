"""Ablation: the change in validation MAE without each group of inputs and each kind of point embedding.

    .venv/bin/python benchmarks/accuracy/ablation.py --data FOLDER                 # what `make bench-ablation` runs
    .venv/bin/python benchmarks/accuracy/ablation.py --data FOLDER --epochs 4 --only network_load random

The benchmark trains the network as configured, then once per switch, with only that switch changed: inputs and
embeddings that are on are left out, those that are off are added. It does not read the test dates. After every training
it writes data/benchmarks/ablation/ablation.md and .json again, so that an interruption loses no result.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.experiment import Experiment, configured, options_parser, own_split, user_errors
from benchmarks.accuracy.report import Table
from transformer.config import Config, to_dict, with_values
from transformer.data.input_tables import is_available
from transformer.features.embeddings import KINDS
from transformer.features.inputs.catalogue import INPUTS
from transformer.files import write_json, write_text
from transformer.text import seconds_text, signed_seconds_text
from transformer.tracking.runs import git_commit

log = logging.getLogger("ablation")

DEFAULT = "as configured"
SEEDS = (42,)


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(__doc__.splitlines()[0], "ablation")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds to train with; default: 42")
    parser.add_argument("--epochs", type=int, help="epochs of each training; default: training.max_epochs")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="inputs and embeddings to change; default: all"
    )
    options = parser.parse_args(argv)
    epochs = [f"training.max_epochs={options.epochs}"] if options.epochs is not None else []
    with user_errors():
        config = configured(options.env, options.data, [*options.overrides, *epochs])
        ablate(config, options.seeds, options.to, only=options.only)
    return 0


def variants(config: Config) -> dict[str, dict[str, bool]]:
    """Return the configuration values of each variant by its name: DEFAULT, then one variant per changed switch.

    There is no variant for an optional input that the data lack.
    """
    use = {name: f"model.use_inputs.{name}" for name in to_dict(config.model.use_inputs)}
    switches = {
        name: (key, getattr(config.model.use_inputs, name))
        for name, key in use.items()
        if name not in INPUTS or is_available(name, config.data)
    }
    for kind in KINDS:
        switches[kind] = (f"embeddings.{kind}.enabled", getattr(config.embeddings, kind).enabled)
    turned = {f"{'without' if on else 'with'} {name}": {key: not on} for name, (key, on) in switches.items()}
    return {DEFAULT: {}, **turned}


def ablate(config: Config, seeds: Sequence[int], to: Path, *, only: Sequence[str] = ()) -> None:
    """Train every variant with every seed. Print and write the validation MAE of each variant."""
    split = own_split(config)
    chosen = {
        name: values
        for name, values in variants(config).items()
        if name == DEFAULT or not only or name.split(" ", 1)[1] in only
    }
    found: dict[str, dict[int, float]] = {}
    for number, (name, values) in enumerate(chosen.items(), start=1):
        experiment = Experiment.of(with_values(config, values, name), split)
        for seed in seeds:
            log.info("variant %d/%d: %s, seed %d", number, len(chosen), name, seed)
            result, _ = experiment.train_network(seed)
            found.setdefault(name, {})[seed] = result.best_val_mae_s
            log.info(
                "variant %d/%d: %s, seed %d: validation MAE %.1f s", number, len(chosen), name, seed, found[name][seed]
            )
        _write(to, ablation_table(found, config), config, found)
    print(ablation_table(found, config).text())


def ablation_table(found: Mapping[str, Mapping[int, float]], config: Config) -> Table:
    """Return a table with the validation MAE of each variant (mean over the seeds) and its difference from DEFAULT."""
    default = found[DEFAULT]
    body = []
    for name, mae in found.items():
        change = np.array([mae[seed] - default[seed] for seed in mae])
        spread = f" ± {change.std(ddof=1):.1f} s" if len(change) > 1 else ""
        difference = "" if name == DEFAULT else f"{signed_seconds_text(float(change.mean()))}{spread}"
        body.append([name, seconds_text(float(np.mean(list(mae.values())))), difference])
    note = (
        f"Best epoch on the validation dates, {config.training.max_epochs} epochs of "
        f"{config.training.snapshots_per_epoch:,} snapshots, seeds {', '.join(map(str, default))}; + = worse. "
        "± is the standard deviation over the seeds, paired by seed."
    )
    return Table("Ablation on the validation dates", ["", "validation MAE", "difference"], body, note)


def _write(to: Path, table: Table, config: Config, found: Mapping[str, Mapping[int, float]]) -> None:
    write_text(to / "ablation.md", table.markdown() + "\n")
    origin = {"training": to_dict(config.training), "model": to_dict(config.model), "commit": git_commit()}
    write_json(to / "ablation.json", {"val_mae_s": found, **origin})


if __name__ == "__main__":
    sys.exit(main())
