"""Run the whole DAG `hyperparameter_tuning` with sample data and MLflow, and print the best trials.

    .venv/bin/python scripts/tune.py     # what `make tune` runs
    .venv/bin/python scripts/tune.py --trials 20 --set training.max_epochs=8 --set search.study_name=longer

By default the study has six short trials, which take minutes on two cores. If you run the command again with more
trials, it continues the same study.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from pipeline import Pipeline, exit_status, import_missing, options_parser, run_whole
from transformer.config import Config, load_config
from transformer.errors import UserError
from transformer.tuning.space import read_space

STUDY = Pipeline(
    dag="hyperparameter_tuning", product="study", env="optuna", result_task="report_study", database="tune"
)
# Short trials show how a study works, but not how good the model is. So they have a study of their own.
STUDY_NAME = "make-tune"
SHORT_TRIALS = ["training.max_epochs=4", "training.snapshots_per_epoch=256"]


def main(argv: list[str] | None = None) -> int:
    parser = options_parser(__doc__.splitlines()[0], STUDY)
    parser.add_argument("--trials", default="6", help="total number of trials of the study (default: 6)")
    parser.add_argument(
        "--workers", default="1", help="number of trials at a time (default: 1); several need search.storage_url"
    )
    options = parser.parse_args(argv)
    return exit_status(lambda: tune(options))


def tune(options: argparse.Namespace) -> None:
    options.data, options.overrides = import_missing(options)
    conf = {"n_trials": whole_number("TRIALS", options.trials), "n_workers": whole_number("WORKERS", options.workers)}
    overrides = [f"search.study_name={study_name(options.data)}", *SHORT_TRIALS, *options.overrides]
    asked = [*overrides, *(f"search.{key}={value}" for key, value in conf.items())]
    config = load_config(options.env, asked)
    read_space(config)  # refuses a wrong search space before any process starts
    run_whole(STUDY, options.env, options.data, overrides, conf, [f"Optuna Dashboard  {dashboard_command(config)}"])


def study_name(data: Path | None) -> str:
    """Return the name of the study. Each data folder has its own, since trials on different data are not comparable."""
    return f"{STUDY_NAME}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', data.resolve().name)}" if data else STUDY_NAME


def whole_number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{name}={text!r} is not a whole number above 0; write {name}=6")
    return int(text)


def dashboard_command(config: Config) -> str:
    return f".venv/bin/optuna-dashboard {config.search.storage_url or 'sqlite:///' + config.paths.optuna_db}"


if __name__ == "__main__":
    sys.exit(main())
