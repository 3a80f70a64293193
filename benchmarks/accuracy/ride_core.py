"""Accuracy on RIDE, the open benchmark: train on the snapshots of a Gold core, export, and score like its evaluator.

    .venv/bin/python benchmarks/accuracy/ride_core.py --core data/gold/lite/core     # `make bench-ride`

The core gives the instants of training and test, and their dates. Dates that the data folder lacks are imported first,
from the folder `--from`, or else from Hugging Face. The last tenth of the training dates validates. The results are the
predictions, in the form that RIDE's own evaluator reads, and a table of the evaluator's metrics. They are in
data/benchmarks/ride.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.experiment import REPOSITORY, Experiment, configured, options_parser, own_split, user_errors
from benchmarks.accuracy.ride_score import ALL, REMEDY, score
from transformer.config import Config, to_dict
from transformer.data.dates import available_dates, parse_dates
from transformer.data.sources.importing import import_source
from transformer.data.sources.ride import TIMEZONE, Ride
from transformer.errors import UserError
from transformer.files import content_hash, reading, write_json, write_text
from transformer.parquet import write_parquet
from transformer.prediction.ride import predict_ride, read_keys
from transformer.text import duration, seconds_text, skill_text
from transformer.tracking.runs import git_commit
from transformer.training.run_folder import TrainedModel

log = logging.getLogger("ride")

SPECIFICATION = "dataset_core_spec.yaml"
VALIDATION_SHARE = 10  # one of so many training dates validates


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(__doc__.splitlines()[0], "ride")
    parser.add_argument("--core", type=Path, required=True, help="folder of a RIDE Gold core")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42], help="seeds to train with (default: 42)")
    parser.add_argument(
        "--from", type=Path, dest="folder", help="RIDE Silver as it is released, for the dates that --data lacks"
    )
    options = parser.parse_args(argv)
    data = options.data or REPOSITORY / "data" / "ride"
    with user_errors():
        overrides = core_overrides(options.core)
        import_source(Ride(), data, core_dates(options.core), options.folder, missing=True, progress=log.info)
        config = configured(options.env, data, [*overrides, *options.overrides])
        run(config, options.core, options.seeds, options.to)
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


def run(config: Config, core: Path, seeds: Sequence[int], to: Path) -> None:
    """Train once per seed. Write predictions, scores and a table to the folder `to`, and print the table."""
    began = time.monotonic()
    experiment = Experiment.of(config, own_split(config))
    keys = read_keys(core, config.data.timezone)
    available: list[date] = available_dates(Path(config.data.local_folder))
    scored = []
    for seed in seeds:
        _, folder = experiment.train_network(seed)
        trained = TrainedModel.load(folder)
        predicted = predict_ride(trained, trained.located(experiment.config), keys, available)
        path = to / f"predictions_seed_{seed}.parquet"
        write_parquet(path, predicted.table)
        log.info("seed %d: %s, %s keys", seed, path, f"{predicted.table.height:,}")
        scored.append(score(core, predicted.table).with_columns(pl.lit(seed).alias("seed")))
    whole = pl.concat(scored)
    text = markdown(whole)
    write_text(to / "ride.md", text)
    write_json(
        to / "ride.json",
        {
            "core": core.name,
            "scores": whole.to_dicts(),
            "split": experiment.split.as_dict(),
            "configuration": to_dict(experiment.config),
            "configuration_hash": content_hash(to_dict(experiment.config)),
            "git_commit": git_commit(),
            "seconds": round(time.monotonic() - began, 1),
        },
    )
    print(f"\n{text}\nin {duration(time.monotonic() - began)}; files in {to}")


def markdown(scored: pl.DataFrame) -> str:
    """The table of the evaluator's metrics, with the mean over the seeds."""
    mean = scored.group_by("breakdown", "bin", maintain_order=True).agg(
        pl.col("n").first(), pl.exclude("n", "seed").mean()
    )
    lines = [
        "| | delays | translation MAE | model MAE | skill | translation RMSE | model RMSE |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in mean.iter_rows(named=True):
        base, mae = row["translation_mae_s"], row["mae_s"]
        name = row["bin"] if row["breakdown"] == ALL else f"{row['breakdown']} {row['bin']}"
        skill = skill_text(1 - mae / base) if base else ""
        cells = ["" if value is None else seconds_text(value) for value in (base, mae)]
        squares = ["" if row[key] is None else seconds_text(row[key]) for key in ("translation_rmse_s", "rmse_s")]
        lines.append(f"| {' | '.join([name, format(row['n'], ','), *cells, skill, *squares])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
