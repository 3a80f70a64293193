"""Variants of a configuration compared on the same rows: MAE and skill per seed, and paired differences.

    .venv/bin/python benchmarks/accuracy/variants.py --data FOLDER --seeds 42 43 44 --judge data.grid.start=00:00 \
        --variant "grid hours" --variant "running" training.sampling.instants=running

The first variant is what the others are compared with. Variants are trained on the training dates and compared on the
validation dates, or with `--on test` on the test dates, which are to be looked at once. `--judge` changes the
configuration of the comparison alone, for example its grid of instants. Intervals are over journeys.

Tables are written to data/benchmarks/variants. With `--resume`, trainings that are done are not repeated.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy import report
from benchmarks.accuracy.comparison import BREAKDOWNS, Predictions, differences, finite_scores, scores, skills
from benchmarks.accuracy.experiment import Experiment, Kept, configured, options_parser, own_split, user_errors
from transformer.config import Config, GateConfig, read_value, to_dict
from transformer.data.dates import format_dates
from transformer.files import write_json, write_text

log = logging.getLogger("variants")

SEEDS = (42,)
PREDICTIONS = "predictions"  # folder in the folder of the results


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(__doc__.splitlines()[0], "variants")
    parser.add_argument(
        "--variant",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "KEY=VALUE"),
        help="a variant and the settings that it changes; may be repeated",
    )
    parser.add_argument(
        "--judge", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the comparison alone, for all variants"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds to train with; default: 42")
    parser.add_argument(
        "--on", choices=("validation", "test"), default="validation", help="dates to compare on (default: validation)"
    )
    parser.add_argument("--resume", action="store_true", help="reuse the predictions of trainings that are done")
    options = parser.parse_args(argv)
    with user_errors():
        variants = {
            name: configured(options.env, options.data, [*options.overrides, *settings])
            for name, *settings in options.variant
        }
        judge = {key: read_value(value) for key, _, value in (setting.partition("=") for setting in options.judge)}
        kept = Kept(options.to / PREDICTIONS, options.resume)
        compare(variants, options.seeds, options.to, kept, on=options.on, judge=judge)
    return 0


def compare(
    variants: Mapping[str, Config],
    seeds: Sequence[int],
    to: Path,
    kept: Kept,
    *,
    on: str = "validation",
    judge: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Train every variant with every seed. Write the tables after each variant, and print them at the end.

    Args:
        on: dates to compare on: test or validation.
        judge: values of the configuration for the comparison alone, by key.
    """
    first, *_ = variants
    split = own_split(variants[first])
    days = getattr(split, on)
    found: Predictions | None = None
    tables: list[report.Table] = []
    for number, (name, config) in enumerate(variants.items(), start=1):
        experiment = Experiment.of(config, split)
        for seed in seeds:
            log.info("variant %d/%d: %s, seed %d", number, len(variants), name, seed)
            make = partial(experiment.network_predictions, seed, days, judge)
            rows = kept.obtain(make, to_dict(experiment.config), dict(judge), seed, format_dates(days))
            found = (found or Predictions.of(rows)).including(name, seed, rows)
        assert found is not None, "argparse asks for a seed"
        tables = tables_of(found, first, config.evaluation.gate, f"{on} dates {', '.join(format_dates(days))}")
        write_text(to / "variants.md", "\n\n".join(table.markdown() for table in tables) + "\n")
        write_json(
            to / "variants.json", {"scores": finite_scores(scores(found)), "judge": dict(judge), "seeds": list(seeds)}
        )
    print("\n\n".join(table.text() for table in tables))


def tables_of(found: Predictions, first: str, gate: GateConfig, of: str) -> list[report.Table]:
    """The scores of all variants, their skill by group, and the differences of the others from the first one."""
    tables = [report.scores_table(scores(found), f"Variants on the {of}")]
    tables += [report.skill_table(skills(found, by), by) for by in BREAKDOWNS]
    for name in found.delays:
        if name != first:
            table = differences(found, first, "journey", gate, of=name)
            tables.append(report.difference_table(table, first, "journey", gate.confidence, of=name))
    return tables


if __name__ == "__main__":
    sys.exit(main())
