"""Stress: the accuracy under a bad feed, with observations that are known late, lost or wrong.

    .venv/bin/python benchmarks/accuracy/stress.py --data FOLDER                       # `make bench-stress`
    .venv/bin/python benchmarks/accuracy/stress.py --data FOLDER --on test --seeds 42 43

The benchmark trains the network and a tree per seed on the feed as it is. Then it damages the inputs of the evaluated
dates, see `damage.DAMAGES`, and predicts again. The labels stay. Each damage is judged on the rows that the damaged
feed shares with the undamaged one: a train that a wrong report takes for arrived has no prediction. The share of these
rows is given. Tables are written to data/benchmarks/stress.

Legend of dimensions: N rows.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.comparison import TRANSFORMER, TREE
from benchmarks.accuracy.damage import DAMAGES, Damage
from benchmarks.accuracy.experiment import Experiment, configured, options_parser, own_split, user_errors
from benchmarks.accuracy.report import Table
from benchmarks.accuracy.tree import TreeSettings
from benchmarks.accuracy.tree import predict as predict_tree
from transformer.config import Config, to_dict
from transformer.data.dates import format_dates
from transformer.data.event_table import Int64Array, LoadedTable, in_table_order
from transformer.data.events import read_days, read_journeys
from transformer.features.snapshots import SnapshotBuilder
from transformer.files import write_json, write_text
from transformer.prediction.rows import labelled_rows
from transformer.text import seconds_text, share_text, skill_text
from transformer.tracking.runs import git_commit
from transformer.training.run_folder import TrainedModel

log = logging.getLogger("stress")

SEEDS = (42,)
DAMAGE_SEED = 0  # the feed is damaged alike for all seeds of the models
TRANSLATION = "translation"
KEY = ("snapshot", "event")
Predict = Callable[[pl.DataFrame], pl.DataFrame]  # damaged events → KEY, observed, and a column per predictor, seconds


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(__doc__.splitlines()[0], "stress")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds to train with; default: 42")
    parser.add_argument(
        "--on", choices=("validation", "test"), default="validation", help="dates to evaluate on (default: validation)"
    )
    own = TreeSettings()
    parser.add_argument("--tree-snapshots", type=int, default=own.snapshots, help=f"default: {own.snapshots}")
    parser.add_argument("--tree-rounds", type=int, default=own.max_rounds, help=f"at most; default: {own.max_rounds}")
    options = parser.parse_args(argv)
    trees = replace(own, snapshots=options.tree_snapshots, max_rounds=options.tree_rounds)
    with user_errors():
        config = configured(options.env, options.data, options.overrides)
        stress(config, options.seeds, options.to, on=options.on, trees=trees)
    return 0


def stress(
    config: Config,
    seeds: Sequence[int],
    to: Path,
    *,
    on: str = "validation",
    trees: TreeSettings | None = None,
    damages: Mapping[str, Damage] = DAMAGES,
) -> None:
    """Judge network and tree under each damage. Print the table, and write it as Markdown and JSON.

    Args:
        on: the dates to evaluate on, validation or test.
        damages: the first leaves the feed as it is.
    """
    settings = trees or TreeSettings()
    split = own_split(config)
    experiment, days = Experiment.of(config, split), getattr(split, on)
    events = in_table_order(read_days(experiment.config.data, days)[0])
    found: dict[str, list[dict[str, float]]] = {name: [] for name in damages}
    for seed in seeds:
        predict = predictor(experiment, seed, days, settings)
        whole = predict(events)
        for number, (name, damage) in enumerate(damages.items()):
            damaged = damage(events, np.random.default_rng([DAMAGE_SEED, number]))
            found[name].append(judged(whole, predict(damaged) if number else whole))
            log.info("seed %d: %s: %s", seed, name, found[name][-1])
    means = {
        name: {key: float(np.mean([one[key] for one in of_seed])) for key in of_seed[0]}
        for name, of_seed in found.items()
    }
    table = stress_table(means, f"Accuracy under a bad feed, {', '.join(format_dates(days))}")
    print(table.text())
    write_text(to / "stress.md", table.markdown() + "\n")
    origin = {
        "split": split.as_dict(),
        "evaluated_on": on,
        "seeds": list(seeds),
        "tree": asdict(settings),
        "training": to_dict(config.training),
        "model": to_dict(config.model),
        "commit": git_commit(),
    }
    write_json(to / "stress.json", {"damages": means, "by_seed": found, **origin})


def predictor(experiment: Experiment, seed: int, days: Sequence[date], settings: TreeSettings) -> Predict:
    """Train the neural network and the tree, and return the function that predicts `days` from damaged events."""
    log.info("seed %d: the network", seed)
    trained = TrainedModel.load(experiment.train_network(seed)[1])
    log.info("seed %d: the tree", seed)
    booster = experiment.fitted_tree(seed, settings, context=False)
    data, vocabulary = experiment.config.data, experiment.statistics.vocabulary
    journeys = read_journeys(Path(data.local_folder), days, data.timezone)
    timetable, instants = experiment.timetable(days), experiment.grid(days)
    module = trained.module_for(timetable)

    def predict(events: pl.DataFrame) -> pl.DataFrame:
        loaded = LoadedTable.of(events, journeys, vocabulary)
        builder = experiment.builder(loaded)
        network = pl.concat(labelled_rows(module, loaded.names, builder, vocabulary, instants, data.timezone))
        parts = experiment.rows_for_tree(builder, timetable, instants, context=False)
        steps = experiment.round_to_s, experiment.resolution_s
        snapshot, event = _keys(builder, instants)
        return pl.DataFrame(
            {
                "snapshot": snapshot,
                "event": event,
                "observed": network["observed_delay_s"],
                TRANSLATION: network["translation_delay_s"],
                TRANSFORMER: network["predicted_delay_s"],
                TREE: np.concatenate([predict_tree(booster, rows, *steps) for rows in parts]),
            }
        )

    return predict


def _keys(builder: SnapshotBuilder, instants: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Snapshot and event of the table [N] of each labelled next event, in the order of `labelled_rows`."""
    rows = builder.rows(instants)
    return np.repeat(rows.snapshot, rows.label_mask.sum(axis=1)), rows.next_event[rows.label_mask]


def judged(whole: pl.DataFrame, damaged: pl.DataFrame) -> dict[str, float]:
    """Errors and skills with the damaged feed, and the skills that the undamaged feed has on the same rows.

    Args:
        whole: the result of a `Predict` with the undamaged feed.
        damaged: the result with the damaged one.
    """
    both = whole.join(damaged, on=KEY, suffix=" damaged", maintain_order="left")
    if not (both["observed"] == both["observed damaged"]).all():
        raise ValueError("the damage changed labels")
    found = {"n": float(both.height), "rows": both.height / whole.height}
    mae = {
        name: [float((both[column] - both["observed"]).abs().mean()) for column in (name, f"{name} damaged")]  # type: ignore[arg-type]
        for name in (TRANSLATION, TRANSFORMER, TREE)
    }
    found[f"{TRANSLATION} mae_s"] = mae[TRANSLATION][1]
    for name in (TRANSFORMER, TREE):
        before, after = (1 - own / plain for own, plain in zip(mae[name], mae[TRANSLATION], strict=True))
        found |= {f"{name} mae_s": mae[name][1], f"{name} skill": after, f"{name} skill change": after - before}
        found[f"{name} mae_s added"] = mae[name][1] - mae[name][0]
    return found


def stress_table(found: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """Return a table of the results of `judged` by damage."""
    body = [
        [
            name,
            share_text(values["rows"]),
            seconds_text(values[f"{TRANSLATION} mae_s"]),
            *(seconds_text(values[f"{of} mae_s"]) for of in (TRANSFORMER, TREE)),
            *(skill_text(values[f"{of} skill"]) for of in (TRANSFORMER, TREE)),
            *(skill_text(values[f"{of} skill change"]) for of in (TRANSFORMER, TREE)),
        ]
        for name, values in found.items()
    ]
    header = ["", "rows", TRANSLATION, TRANSFORMER, TREE]
    header += [f"{kind}, {of}" for kind in ("skill", "change of skill") for of in (TRANSFORMER, TREE)]
    note = (
        "MAE and skill on the rows that the damaged feed shares with the undamaged one, as a share of "
        f"{next(iter(found.values()))['n']:,.0f}. Translation has the same damage. Change of skill: against the "
        "undamaged feed, on the same rows."
    )
    return Table(title, header, body, note)


if __name__ == "__main__":
    sys.exit(main())
