"""Accuracy on RIDE, the open benchmark: train on the snapshots of a Gold core, export, and score like its evaluator.

    .venv/bin/python benchmarks/accuracy/ride_core.py --core data/gold/lite/core     # `make bench-ride`
    .venv/bin/python benchmarks/accuracy/ride_core.py --core data/gold/standard/core --env ride-large --n-seeds 10
    .venv/bin/python benchmarks/accuracy/ride_core.py … --resume                     # after an interruption

The core gives the instants of training and test, and their dates. Dates that the data folder lacks are imported first,
from the folder `--from`, or else from Hugging Face. The last tenth of the training dates validates. The results are the
predictions of each seed, in the form that RIDE's own evaluator reads, and the tables that RIDE publishes: MAE and RMSE
as mean ± standard deviation over the seeds, over all delays and by the bins of the evaluator. They are written after
each seed, to data/benchmarks/ride. A GPU is used if there is one.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.experiment import (
    REPOSITORY,
    Experiment,
    Kept,
    configured,
    options_parser,
    own_split,
    user_errors,
)
from benchmarks.accuracy.report import Table
from benchmarks.accuracy.ride_score import ALL, BY_CHANGE, BY_HORIZON, REMEDY, score
from transformer.config import Config, to_dict
from transformer.data.dates import available_dates, parse_dates
from transformer.data.sources.importing import import_source
from transformer.data.sources.ride import TIMEZONE, Ride
from transformer.errors import UserError
from transformer.files import content_hash, file_digest, reading, write_json, write_text
from transformer.prediction.ride import TABLE, RideKeys, predict_ride, read_keys
from transformer.text import duration, skill_text
from transformer.tracking.runs import git_commit
from transformer.training.run_folder import TrainedModel

log = logging.getLogger("ride")

SPECIFICATION = "dataset_core_spec.yaml"
VALIDATION_SHARE = 10  # one of so many training dates validates
PREDICTIONS = "predictions"  # folder in the folder of the results


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(__doc__.splitlines()[0], "ride")
    parser.add_argument("--core", type=Path, required=True, help="folder of a RIDE Gold core")
    parser.set_defaults(env="ride")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--seeds", type=int, nargs="+", default=[42], help="seeds to train with (default: 42)")
    chosen.add_argument("--n-seeds", type=int, metavar="N", help="train with the seeds 0 … N-1; RIDE's tables have ten")
    parser.add_argument(
        "--from", type=Path, dest="folder", help="RIDE Silver as it is released, for the dates that --data lacks"
    )
    parser.add_argument("--resume", action="store_true", help="reuse the predictions of seeds that are done")
    options = parser.parse_args(argv)
    if options.n_seeds is not None and options.n_seeds < 1:
        parser.error("--n-seeds needs at least 1")
    seeds = list(range(options.n_seeds)) if options.n_seeds else options.seeds
    data = options.data or REPOSITORY / "data" / "ride"
    with user_errors():
        overrides = core_overrides(options.core)
        import_source(Ride(), data, core_dates(options.core), options.folder, missing=True, progress=log.info)
        config = configured(options.env, data, [*overrides, *options.overrides])
        run(config, options.core, seeds, options.to, resume=options.resume)
    return 0


def core_dates(core: Path) -> list[date]:
    """The service dates of training and test."""
    spec = read_specification(core)
    spans = [f"{spec[f'start_{split}_day']}..{spec[f'end_{split}_day']}" for split in ("train", "test")]
    return list(parse_dates(spans, SPECIFICATION))


def core_overrides(core: Path) -> list[str]:
    """The configuration that makes a training see what a Gold core says.

    Raises:
        UserError: the folder has no specification, or the specification lacks a value.
    """
    spec = read_specification(core)
    training = parse_dates([f"{spec['start_train_day']}..{spec['end_train_day']}"], "start_train_day")
    cut = len(training) - max(1, len(training) // VALIDATION_SHARE)
    if not cut:
        raise UserError(f"{core / SPECIFICATION} trains on one date, and one must validate; use a core of more dates")
    test = f"{spec['start_test_day']}..{spec['end_test_day']}"
    return [
        f"data.timezone={TIMEZONE}",
        f"data.snapshot.instants={json.dumps(str((core / SPECIFICATION).resolve()))}",
        f"data.snapshot.n_foll={spec['n_future']}",
        f"data.snapshot.lead_s={60 * int(spec['idle_time_beg'])}",
        f"data.snapshot.end_grace_s={60 * int(spec['idle_time_end'])}",
        f"data.split.train={json.dumps([f'{training[0]}..{training[cut - 1]}'])}",
        f"data.split.validation={json.dumps([f'{training[cut]}..{training[-1]}'])}",
        f"data.split.test={json.dumps([test])}",
    ]


def read_specification(core: Path) -> Mapping[str, Any]:
    path = core / SPECIFICATION
    if not path.is_file():
        raise UserError(f"{path} does not exist; {REMEDY}")
    with reading(path):
        spec = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    names = [f"{end}_{split}_day" for split in ("train", "test") for end in ("start", "end")]
    names += ["n_future", "idle_time_beg", "idle_time_end"]
    if missing := [name for name in names if not isinstance(spec, dict) or name not in spec]:
        raise UserError(f"{path} lacks {', '.join(missing)}; {REMEDY}")
    return {name: spec[name] for name in names}


def run(config: Config, core: Path, seeds: Sequence[int], to: Path, *, resume: bool = False) -> None:
    """Train once per seed. Write predictions, scores and tables to the folder `to` after each, and print the tables.

    Args:
        resume: reuse the predictions of seeds that were trained with the same configuration.
    """
    began = time.monotonic()
    experiment = Experiment.of(config, own_split(config))
    kept = Kept(to / PREDICTIONS, resume)
    keys = read_keys(core, config.data.timezone)
    identity = to_dict(experiment.config), file_digest(core / SPECIFICATION), file_digest(core / TABLE)
    scored: list[pl.DataFrame] = []
    for number, seed in enumerate(seeds, start=1):
        log.info("seed %d (%d/%d)", seed, number, len(seeds))
        make = partial(predictions, experiment, seed, keys)
        predicted = kept.obtain(make, *identity, seed, label=f"seed_{seed}_")
        scored.append(score(core, predicted).with_columns(pl.lit(seed).alias("seed")))
        whole = pl.concat(scored)
        tables = tables_of(whole, core)
        write_text(to / "ride.md", "\n\n".join(table.markdown() for table in tables) + "\n")
        write_json(
            to / "ride.json",
            {
                "core": core.name,
                "seeds": list(seeds[:number]),
                "scores": whole.to_dicts(),
                "summary": summary(whole).to_dicts(),
                "split": experiment.split.as_dict(),
                "configuration": to_dict(experiment.config),
                "configuration_hash": content_hash(to_dict(experiment.config)),
                "git_commit": git_commit(),
                "seconds": round(time.monotonic() - began, 1),
            },
        )
    print("\n" + "\n\n".join(table.text() for table in tables))
    print(f"\nin {duration(time.monotonic() - began)}; files in {to}")


def predictions(experiment: Experiment, seed: int, keys: RideKeys) -> pl.DataFrame:
    """Train with a seed, and predict the keys of the core."""
    _, folder = experiment.train_network(seed)
    trained = TrainedModel.load(folder)
    config = trained.located(experiment.config)
    return predict_ride(trained, config, keys, available_dates(Path(config.data.local_folder))).table


def summary(scored: pl.DataFrame) -> pl.DataFrame:
    """Mean and standard deviation of MAE and RMSE over the seeds, by breakdown and bin, in the order of `scored`.

    The standard deviation is that of RIDE's evaluator: it divides by the number of seeds, and is 0 for one seed.
    """
    return scored.group_by("breakdown", "bin", maintain_order=True).agg(
        pl.col("n", "translation_mae_s", "translation_rmse_s").first(),
        pl.col("mae_s", "rmse_s").mean(),
        pl.col("mae_s").std(ddof=0).alias("mae_std_s"),
        pl.col("rmse_s").std(ddof=0).alias("rmse_std_s"),
    )


def tables_of(scored: pl.DataFrame, core: Path) -> list[Table]:
    """The tables of RIDE's README and paper, each with translation and our model: all delays, and MAE by bin."""
    found = summary(scored)
    whole = found.row(by_predicate=pl.col("breakdown") == ALL, named=True)
    seeds = scored["seed"].n_unique()
    note = f"{whole['n']:,} delays of the core {core.parent.name}; ± is std. over {seeds} seed{'s' * (seeds > 1)}."
    ours = [_spread(whole["mae_s"], whole["mae_std_s"]), _spread(whole["rmse_s"], whole["rmse_std_s"])]
    base = [f"{whole[name]:.2f}" for name in ("translation_mae_s", "translation_rmse_s")]
    body = [["Translation", *base], ["Ours", *ours]]
    tables = [Table("Test set, seconds", ["Model", "MAE", "RMSE"], body, note)]
    header = ["", "delays", "translation MAE", "MAE", "skill", "translation RMSE", "RMSE"]
    for breakdown in (BY_HORIZON, BY_CHANGE):
        body = [_bin_cells(line) for line in found.filter(pl.col("breakdown") == breakdown).iter_rows(named=True)]
        tables.append(Table(f"By {breakdown}, seconds", header, body))
    return tables


def _bin_cells(line: Mapping[str, Any]) -> list[str]:
    base = line["translation_mae_s"]
    return [
        line["bin"],
        f"{line['n']:,}",
        _spread(base, 0.0),
        _spread(line["mae_s"], line["mae_std_s"]),
        skill_text(1 - line["mae_s"] / base) if base else "",
        _spread(line["translation_rmse_s"], 0.0),
        _spread(line["rmse_s"], line["rmse_std_s"]),
    ]


def _spread(mean: float | None, deviation: float) -> str:
    if mean is None:
        return ""
    return f"{mean:.2f} ± {deviation:.2f}" if deviation else f"{mean:.2f}"


if __name__ == "__main__":
    sys.exit(main())
