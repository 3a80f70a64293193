"""Run the whole DAG `model_training` with sample data and MLflow, and print the evaluation.

    .venv/bin/python scripts/train.py     # what `make train` runs
    .venv/bin/python scripts/train.py --data FOLDER --set training.max_epochs=5
    .venv/bin/python scripts/train.py --source ride --months 2024-01

The command runs the same tasks as a DAG run that you start in Airflow's UI, and prints their logs. It stops every
server that it started.
"""

from __future__ import annotations

import sys

from pipeline import Pipeline, exit_status, import_missing, options_parser, run_whole

TRAINING = Pipeline(
    dag="model_training", product="training", env="local", result_task="evaluate_model", database="train"
)


def main(argv: list[str] | None = None) -> int:
    options = options_parser(__doc__.splitlines()[0], TRAINING).parse_args(argv)

    def train() -> None:
        data, overrides = import_missing(options)
        run_whole(TRAINING, options.env, data, overrides)

    return exit_status(train)


if __name__ == "__main__":
    sys.exit(main())
