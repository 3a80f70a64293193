"""Accuracy: the transformer compared with gradient-boosted trees, with the same information and on the same rows.

    .venv/bin/python benchmarks/accuracy/against_trees.py --data FOLDER --seeds 42 43         # `make bench-accuracy`
    .venv/bin/python benchmarks/accuracy/against_trees.py --data FOLDER --leave-one-date-out  # every full date in turn
    .venv/bin/python benchmarks/accuracy/against_trees.py --data FOLDER --rolling-origin 5    # each from the past alone
    .venv/bin/python benchmarks/accuracy/against_trees.py … --resume                          # after an interruption

The benchmark trains the network and two LightGBM models per seed. It evaluates them, translation and a blend on the
test dates, and writes tables (Markdown, JSON) and figures to data/benchmarks/accuracy.
"""

from __future__ import annotations

import logging
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy import report
from benchmarks.accuracy.comparison import (
    CONTEXT_TREE,
    TRANSFORMER,
    TREE,
    UNITS,
    UNROUNDED,
    Predictions,
    differences,
    finite_scores,
    group_expressions,
    group_means,
    growths,
    joined,
    kinds_of_dates,
    scores,
    skills,
)
from benchmarks.accuracy.experiment import (
    Experiment,
    Kept,
    configured,
    options_parser,
    own_split,
    rolling_splits,
    splits_by_date,
    user_errors,
)
from benchmarks.accuracy.tree import TreeSettings, tuned
from transformer.config import Config, to_dict
from transformer.data.dates import Split, format_dates
from transformer.evaluation.growth import GROWTHS_MIN
from transformer.evaluation.metrics import WITHIN_MIN
from transformer.figures import DPI
from transformer.files import atomic_path, write_json, write_text
from transformer.text import duration, seconds_text, share_text, signed_seconds_text, skill_text
from transformer.tracking.runs import git_commit

log = logging.getLogger("accuracy")

TREES = {TREE: False, CONTEXT_TREE: True}  # predictor → whether it has columns on the rest of the train
SEEDS = (42, 43, 44)
ORIGINS = 5  # test dates of --rolling-origin
COVERED = ("horizon", "train_type", "point_group")  # breakdowns of the coverage of intervals
BY_HORIZON = {  # measure → title and text of its table by planned horizon
    **{f"within_{minutes}_min": (f"Within {minutes} min", share_text) for minutes in WITHIN_MIN},
    "bias_s": ("Bias", signed_seconds_text),
}
PREDICTIONS = "predictions"  # folder in the folder of the results


@dataclass(frozen=True)
class DateByDate:
    """A comparison on several test dates, each with training dates of its own: the words of its tables and figures."""

    file: str  # name of the results, without extension
    title: str
    each: str
    note: str


LEAVE_ONE_DATE_OUT = DateByDate(
    "leave_one_date_out", "Each date held out once", "each held out once", "The models train on the other full dates."
)
ROLLING_ORIGIN = DateByDate(
    "rolling_origin",
    "Each date predicted from the dates before it",
    "each predicted from the dates before it",
    "The models train on the full dates before the validation date.",
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(__doc__.splitlines()[0], "accuracy")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="seeds to train with; default: 42 43 44, with several test dates: 42"
    )
    several = parser.add_mutually_exclusive_group()
    several.add_argument("--leave-one-date-out", action="store_true", help="test on every full service date in turn")
    several.add_argument(
        "--rolling-origin",
        type=int,
        nargs="?",
        const=ORIGINS,
        metavar="N",
        help="test on each of the last N full service dates (default: 5), trained on the dates before it alone",
    )
    parser.add_argument(
        "--on",
        choices=("test", "validation"),
        default="test",
        help="dates to evaluate on; use validation to choose between models (default: test)",
    )
    parser.add_argument(
        "--context-tree", action="store_true", help="with several test dates, compare the tree with context as well"
    )
    parser.add_argument(
        "--tree-snapshots",
        type=_snapshots,
        metavar="N|all",
        help="snapshots that a tree learns from; all = as many as the network sees; default: 64 for each training "
        "date, at least 400",
    )
    parser.add_argument(
        "--tree-memory",
        type=float,
        default=TreeSettings.memory_gib,
        metavar="GIB",
        help="memory for the training rows of a tree; rows beyond it are left out (default: %(default)s)",
    )
    parser.add_argument(
        "--tune-tree",
        type=int,
        default=0,
        metavar="TRIALS",
        help="search the parameters of the trees on the validation dates, in so many trials per split",
    )
    parser.add_argument(
        "--resume", action="store_true", help="reuse the predictions of an interrupted run with the same options"
    )
    options = parser.parse_args(argv)
    settings = TreeSettings(
        snapshots=options.tree_snapshots, memory_gib=options.tree_memory, tuning_trials=options.tune_tree
    )
    with user_errors():
        config = configured(options.env, options.data, options.overrides)
        if options.leave_one_date_out or options.rolling_origin is not None:
            folder, timezone = Path(config.data.local_folder), config.data.timezone
            kind, splits = (
                (LEAVE_ONE_DATE_OUT, splits_by_date(folder, timezone))
                if options.leave_one_date_out
                else (ROLLING_ORIGIN, rolling_splits(folder, timezone, options.rolling_origin))
            )
            trees = TREES if options.context_tree else {TREE: TREES[TREE]}
            seeds = options.seeds or SEEDS[:1]
            compare_by_date(config, splits, kind, seeds, options.to, names=trees, trees=settings, resume=options.resume)
        else:
            seeds = options.seeds or SEEDS
            compare(config, seeds, options.to, on=options.on, trees=settings, resume=options.resume)
    return 0


def _snapshots(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"{text!r} is neither a number of snapshots nor all")
    return int(text)


def compare(
    config: Config,
    seeds: Sequence[int],
    to: Path,
    *,
    on: str = "test",
    trees: TreeSettings | None = None,
    resume: bool = False,
) -> None:
    """Compare all predictors on one split. `on` names the dates to evaluate on: test or validation."""
    began = time.monotonic()
    settings = trees or TreeSettings()
    split = own_split(config)
    days = getattr(split, on)
    predictions, trials = predict_all(config, split, days, seeds, TREES, settings, Kept(to / PREDICTIONS, resume))
    found = scores(predictions)
    groups = {by: skills(predictions, by) for by in group_expressions(predictions.rows)}
    growth = growths(predictions)
    means = {name: group_means(predictions, "horizon", name) for name in BY_HORIZON}
    gate = config.evaluation.gate
    paired = {(other, unit): differences(predictions, other, unit, gate) for other in TREES for unit in UNITS}
    dates = ", ".join(format_dates(days))
    tables = [
        report.scores_table(found, f"Accuracy on {dates}"),
        *(report.skill_table(table, by) for by, table in groups.items()),
        *(report.measure_table(table, "horizon", *BY_HORIZON[name]) for name, table in means.items()),
        *(report.growth_table(growth, minutes) for minutes in GROWTHS_MIN),
        *(report.difference_table(table, *key, gate.confidence) for key, table in paired.items()),
        *(report.coverage_table(predictions.uncertainty, by) for by in COVERED if predictions.uncertainty),
        *([report.tuning_table({dates: trials})] if trials else []),
    ]
    detail = f"{dates}, {predictions.rows.height:,} predictions, {_listed(seeds)}"

    def figures() -> Iterator[tuple[str, Figure]]:
        yield "skill_by_horizon", report.skill_by_horizon(groups["horizon"], f"{detail} (mean)")
        lines = paired[TREE, "journey"]
        labels = [" ".join(filter(None, line)).replace("_", " ") for line in lines.select("breakdown", "group").rows()]
        under = f"{detail}; {gate.confidence:.0%} intervals over journeys"
        yield "paired_differences", report.paired_differences(lines, labels, TREE, under)
        yield "mae_by_seed", report.mae_by_seed(found, f"{dates}, {predictions.rows.height:,} predictions; bar = mean")

    result = {
        "split": split.as_dict(),
        "evaluated_on": on,
        "n": predictions.rows.height,
        "scores": finite_scores(found),
        "groups": {by: table.to_dicts() for by, table in groups.items()},
        "by_horizon": {name: table.to_dicts() for name, table in means.items()},
        "severe_growth": {
            name: {seed: found.metrics("test") for seed, found in of_seed.items()} for name, of_seed in growth.items()
        },
        "differences": [
            {"other": other, "unit": unit, "groups": table.to_dicts()} for (other, unit), table in paired.items()
        ],
        "tuning": {name: table.to_dicts() for name, table in trials.items()},
        "quantiles": {seed: judgement.metrics("test") for seed, judgement in predictions.uncertainty.items()},
    }
    _write(to, "accuracy", tables, figures(), result | _origin(config, seeds, settings, began))


def compare_by_date(
    config: Config,
    splits: Sequence[Split],
    kind: DateByDate,
    seeds: Sequence[int],
    to: Path,
    *,
    names: Mapping[str, bool],
    trees: TreeSettings | None = None,
    resume: bool = False,
) -> None:
    """Compare all predictors on the test date of each split.

    Args:
        names: the trees to compare with, see TREES.
    """
    began = time.monotonic()
    settings = trees or TreeSettings()
    gate = config.evaluation.gate
    kept = Kept(to / PREDICTIONS, resume)
    per_date, lines, tried = [], [], {}
    for number, split in enumerate(splits, start=1):
        log.info("date %d/%d: %s tests, %s validates", number, len(splits), split.test[0], split.validation[0])
        found, trials = predict_all(config, split, split.test, seeds, names, settings, kept)
        per_date.append(found)
        tried |= {str(split.test[0]): trials} if trials else {}
        lines.append(_of_date(split, found, differences(found, TREE, "journey", gate).row(0, named=True)))
        log.info("date %d/%d: %s", number, len(splits), _date_line(lines[-1], found))
    pooled = joined(per_date)
    kinds = kinds_of_dates(pooled.rows)
    dates = pl.DataFrame([{**line, "kind": kinds[line["test"]]} for line in lines])
    paired = {(other, unit): differences(pooled, other, unit, gate) for other in names for unit in UNITS}
    shown = [name for name in pooled.delays if not name.endswith(UNROUNDED)]
    tables = [
        _dates_table(dates, shown, paired[TREE, "service date"].row(0, named=True), kind),
        report.scores_table(scores(pooled), "Accuracy over all dates"),
        *(report.skill_table(skills(pooled, by), by) for by in group_expressions(pooled.rows)),
        *(report.difference_table(table, *key, gate.confidence) for key, table in paired.items()),
        *([report.tuning_table(tried)] if tried else []),
    ]
    detail = f"{len(splits)} service dates, {kind.each}; {_listed(seeds)}"

    def figures() -> Iterator[tuple[str, Figure]]:
        yield "skill_by_date", report.skill_by_date(dates, detail)
        yield "skill_by_horizon_by_date", report.skill_by_horizon(skills(pooled, "horizon"), detail)
        whole = paired[TREE, "service date"].head(1)
        ends = pl.concat(
            [dates.select("difference_s", "low_s", "high_s"), whole.select("difference_s", "low_s", "high_s")]
        )
        under = f"{gate.confidence:.0%} intervals: of a date over its journeys, of all dates over dates"
        labels = [*map(str, dates["test"]), "all dates"]
        yield "paired_differences_by_date", report.paired_differences(ends, labels, TREE, under)

    result = {
        "splits": [split.as_dict() for split in splits],
        "dates": dates.to_dicts(),
        "scores": finite_scores(scores(pooled)),
        "groups": {by: skills(pooled, by).to_dicts() for by in group_expressions(pooled.rows)},
        "differences": [
            {"other": other, "unit": unit, "groups": table.to_dicts()} for (other, unit), table in paired.items()
        ],
        "tuning": {day: {name: table.to_dicts() for name, table in of_day.items()} for day, of_day in tried.items()},
    }
    _write(to, kind.file, tables, figures(), result | _origin(config, seeds, settings, began))


def predict_all(
    config: Config,
    split: Split,
    days: Sequence[date],
    seeds: Sequence[int],
    trees: Mapping[str, bool],
    settings: TreeSettings,
    kept: Kept,
) -> tuple[Predictions, dict[str, pl.DataFrame]]:
    """Train the transformer and `trees` on `split` for every seed, and predict the rows of `days`.

    Returns:
        Predictions of transformer, trees and blend, and the trials of each tree's parameters, if there were any.
    """
    experiment = Experiment.of(config, split)
    own = to_dict(experiment.config)
    of_tree, trials = dict.fromkeys(trees, settings), {}
    for name, context in trees.items() if settings.tuning_trials else ():
        log.info("the %s: %d trials of its parameters", name, settings.tuning_trials)
        make = partial(experiment.tree_trials, seeds[0], settings, context=context)
        trials[name] = kept.obtain(make, "trials", name, own, seeds[0], asdict(settings))
        of_tree[name] = tuned(settings, trials[name])
    predictions: Predictions | None = None
    for number, seed in enumerate(seeds, start=1):
        log.info("seed %d (%d/%d): the network", seed, number, len(seeds))
        identity = own, seed, format_dates(days)
        rows = kept.obtain(partial(experiment.network_predictions, seed, days), TRANSFORMER, *identity)
        predictions = (predictions or Predictions.of(rows)).including(TRANSFORMER, seed, rows).judged(seed, rows)
        for name, context in trees.items():
            log.info("seed %d (%d/%d): the %s", seed, number, len(seeds), name)
            make = partial(experiment.tree_predictions, seed, days, of_tree[name], context=context)
            rows = kept.obtain(make, name, *identity, asdict(of_tree[name]))
            predictions = predictions.including(name, seed, rows)
            predictions = predictions.including(name + UNROUNDED, seed, rows, "unrounded_delay_s")
    assert predictions is not None, "argparse asks for a seed"
    return predictions.with_blend(experiment.round_to_s, experiment.resolution_s), trials


def _of_date(split: Split, predictions: Predictions, difference: dict[str, Any]) -> dict[str, Any]:
    """Return a line of the table by date: MAE and skill of each predictor, as means over the seeds."""
    found = scores(predictions)
    first = next(iter(found[TRANSFORMER].values()))
    line = {"test": split.test[0], "validation": split.validation[0], "n": predictions.rows.height}
    line |= {"translation_mae_s": first["translation_mae_s"]}
    for name, of_seed in found.items():
        line[f"{name} mae_s"] = float(np.mean([values["mae_s"] for values in of_seed.values()]))
        line[name] = float(np.mean([values["skill"] for values in of_seed.values()]))
    return line | {name: difference[name] for name in ("difference_s", "low_s", "high_s")}


def _date_line(line: dict[str, Any], predictions: Predictions) -> str:
    mae = (f"{name} {seconds_text(line[f'{name} mae_s'])}" for name in predictions.delays)
    return f"{line['test']}: MAE of translation {seconds_text(line['translation_mae_s'])}, {', '.join(mae)}"


def _dates_table(dates: pl.DataFrame, names: Sequence[str], whole: dict[str, Any], kind: DateByDate) -> report.Table:
    mean = dates.mean().row(0, named=True)
    body = []
    for line in dates.iter_rows(named=True):
        named = [str(line["test"]), line["kind"], str(line["validation"])]
        body.append([*named, f"{line['n']:,}", *_date_cells(line, names, line)])
    body.append(["mean of the dates", "", "", f"{dates['n'].sum():,}", *_date_cells(mean, names, whole)])
    header = ["test", "kind", "validation", "n", "translation MAE", *(f"{name} MAE (skill)" for name in names)]
    header += [f"transformer − {TREE}", "interval"]
    note = (
        f"{kind.note} The interval of a date is over its journeys. In the last line, the difference is over all "
        "predictions and its interval over service dates. Disrupted: translation errs more than on the median of the "
        "dates."
    )
    return report.Table(kind.title, header, body, note)


def _date_cells(line: dict[str, Any], names: Sequence[str], difference: dict[str, Any]) -> list[str]:
    cells = [f"{seconds_text(line[f'{name} mae_s'])} ({skill_text(line[name])})" for name in names]
    ends = [signed_seconds_text(difference["difference_s"]), report.interval_text(difference)]
    return [seconds_text(line["translation_mae_s"]), *cells, *ends]


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _origin(config: Config, seeds: Sequence[int], settings: TreeSettings, began: float) -> dict[str, Any]:
    """Return the origin of the results: seeds, configuration, commit, versions and duration."""
    import lightgbm

    seconds = time.monotonic() - began
    log.info("%s in all", duration(seconds))
    return {
        "seeds": list(seeds),
        "tree": asdict(settings),
        "training": to_dict(config.training),
        "model": to_dict(config.model),
        "commit": git_commit(),
        "versions": {"torch": torch.__version__, "lightning": lightning.__version__, "lightgbm": lightgbm.__version__},
        "seconds": round(seconds, 1),
    }


def _write(
    to: Path,
    name: str,
    tables: Sequence[report.Table],
    figures: Iterator[tuple[str, Figure]],
    result: dict[str, Any],
) -> None:
    """Print the tables, and write `name`.md, `name`.json and the figures."""
    print("\n\n".join(table.text() for table in tables))
    drawn = []
    for title, figure in figures:
        drawn.append(f"{title}.png")
        with atomic_path(to / drawn[-1]) as temporary:
            figure.savefig(temporary, dpi=DPI, format="png")
    images = "\n".join(f"![{image}]({image})" for image in drawn)
    write_text(to / f"{name}.md", "\n\n".join([*(table.markdown() for table in tables), images]) + "\n")
    write_json(to / f"{name}.json", result)
    print(f"\n{to / f'{name}.md'}, {name}.json and {', '.join(drawn)}")


if __name__ == "__main__":
    sys.exit(main())
