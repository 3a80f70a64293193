"""Transfers: are the probabilities right that a connection holds?

    .venv/bin/python benchmarks/accuracy/transfers.py --data FOLDER                      # trains, validation dates
    .venv/bin/python benchmarks/accuracy/transfers.py --data FOLDER --run-folder FOLDER  # with a trained model
    .venv/bin/python benchmarks/accuracy/transfers.py … --minutes 3 --on test

The benchmark predicts the grid instants of the dates, and judges two kinds of questions by what happened:

- *transfer*: does a train depart at least `--minutes` after another one has arrived at its point? All transfers that
  the timetable allows within an hour count, if both times were observed.
- *loss*: does a train lose more than two minutes between its first and its last predicted event?

It compares sampled journeys, the same with independent ranks, and a yes or no from the predicted delays and from
translation. It writes tables (Markdown, JSON) to data/benchmarks/transfers.

Legend of dimensions: R rows, K sampled journeys.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.experiment import Experiment, configured, options_parser, own_split, user_errors
from benchmarks.accuracy.report import Table
from transformer.config import Config
from transformer.data.dates import format_dates
from transformer.files import write_json, write_text
from transformer.model.copula import independent
from transformer.model.network import DelayTransformer
from transformer.prediction.columns import FORECAST
from transformer.prediction.journeys import sample_times
from transformer.prediction.rows import evaluation_rows
from transformer.prediction.transfers import check_minutes, planned_transfers, probabilities
from transformer.text import share_text
from transformer.tracking.runs import git_commit
from transformer.training.run_folder import TrainedModel

log = logging.getLogger("transfers")

SEED = 42
LOSS_S = 120.0
JOURNEYS, INDEPENDENT, POINT, TRANSLATION = "sampled journeys", "independent ranks", "predicted delays", "translation"
PREDICTORS = (JOURNEYS, INDEPENDENT, POINT, TRANSLATION)
DELAY_COLUMNS = {POINT: "predicted_delay_s", TRANSLATION: "translation_delay_s"}
EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)  # of the bins of probabilities
TITLES = {"transfer": "Transfers that hold", "loss": "Trains that lose more than two minutes"}

FloatArray = npt.NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(__doc__.splitlines()[0], "transfers")
    parser.add_argument("--run-folder", type=Path, metavar="FOLDER", help="run folder of a trained model; else train")
    parser.add_argument("--minutes", type=float, default=5.0, metavar="M", help="time of a transfer (default: 5)")
    parser.add_argument("--on", choices=("test", "validation"), default="validation", help="dates to judge on")
    options = parser.parse_args(argv)
    with user_errors():
        check_minutes(options.minutes, "--minutes")
        config = configured(options.env, options.data, options.overrides)
        judge(config, options.minutes, options.to, on=options.on, folder=options.run_folder)
    return 0


def judge(config: Config, minutes: float, to: Path, *, on: str = "validation", folder: Path | None = None) -> None:
    """Predict, judge, and print and write the tables.

    Args:
        minutes: time that a transfer needs.
        on: dates to judge on, test or validation.
        folder: run folder of a trained model; None = train one.
    """
    if folder is None:
        _, folder = Experiment.of(config, own_split(config)).train_network(SEED)
    trained = TrainedModel.load(folder)
    located = trained.located(config)
    days = getattr(trained.split, on)
    network = trained.module.network
    sums = summed(judgements(rows, network, minutes) for rows in evaluation_rows(trained, located, days))
    dates = ", ".join(format_dates(days))
    tables = [
        *(scores_table(sums, kind, dates) for kind in TITLES),
        *(reliability_table(sums, kind) for kind in TITLES),
    ]
    write_text(to / "transfers.md", "\n\n".join(table.markdown() for table in tables) + "\n")
    result: dict[str, Any] = {"minutes": minutes, "dates": format_dates(days), "git_commit": git_commit()}
    write_json(to / "transfers.json", result | {"bins": sums.to_dicts()})
    print("\n\n".join(table.text() for table in tables))


# --- questions and answers -------------------------------------------------------------------------------------------
def judgements(rows: pl.DataFrame, network: DelayTransformer, minutes: float) -> pl.DataFrame:
    """Return a line per question: `kind`, `happened`, and a probability for each of PREDICTORS.

    Args:
        rows: labelled predictions of whole snapshots, see `prediction.rows.labelled_rows`.
        minutes: time that a transfer needs.
    """
    if rows.is_empty():
        return pl.DataFrame(schema={"kind": pl.String, "happened": pl.Boolean, **dict.fromkeys(PREDICTORS, pl.Float64)})
    sampled = {
        JOURNEYS: sample_times(rows, network),
        INDEPENDENT: sample_times(rows, network, correlation=independent(network.shape.n_foll)),
    }
    points = {name: _times(rows, column) for name, column in DELAY_COLUMNS.items()}
    known = rows.with_row_index("row").filter(pl.col("op_id") != 0)  # 0: points that the model does not know
    pairs = planned_transfers(known, minutes)
    pairs = pairs.with_columns(known["row"].gather(pairs[end]).alias(end) for end in pairs.columns)
    times = sampled | {name: values[:, None] for name, values in points.items()}
    observed = _times(rows, "observed_delay_s")[:, None]
    transfers = pl.DataFrame({name: probabilities(pairs, values, minutes) for name, values in times.items()})
    held = pl.Series("happened", probabilities(pairs, observed, minutes) == 1)
    first, last = _ends(rows)
    planned = rows["horizon_s"].to_numpy()[:, None]
    losses = pl.DataFrame({name: _loses(values - planned, first, last) for name, values in times.items()})
    lost = pl.Series("happened", _loses(observed - planned, first, last) == 1)
    return pl.concat(
        [
            transfers.select(pl.lit("transfer").alias("kind"), held, *PREDICTORS),
            losses.select(pl.lit("loss").alias("kind"), lost, *PREDICTORS),
        ]
    )


def _times(rows: pl.DataFrame, delay: str) -> FloatArray:
    """Return the times [R] after the snapshot, in seconds."""
    return np.asarray((rows["horizon_s"] + rows[delay]).to_numpy(), np.float64)


def _ends(rows: pl.DataFrame) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the row of the first and of the last event of each train with at least two."""
    ends = (
        rows.with_row_index("row")
        .sort("rank")
        .group_by(FORECAST, maintain_order=True)
        .agg(pl.col("row").first().alias("first"), pl.col("row").last().alias("last"))
        .filter(pl.col("first") != pl.col("last"))
        .sort("first")
    )
    return ends["first"].to_numpy().astype(np.int64), ends["last"].to_numpy().astype(np.int64)


def _loses(delay_RK: npt.NDArray[Any], first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]) -> FloatArray:
    """Return the share of the journeys in which the delay grows by more than LOSS_S."""
    return np.asarray((delay_RK[last] - delay_RK[first] > LOSS_S).mean(axis=1), np.float64)


# --- figures of merit ------------------------------------------------------------------------------------------------
def summed(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return sums of the judgements by kind, predictor and bin of probabilities.

    Columns: kind, predictor, bin (its lower end), n, and the sums `probability`, `happened` and `squares` (Brier).
    """
    keys = ["kind", "predictor", "bin"]
    edges = pl.Series(EDGES)
    found = []
    for part in parts:
        long = part.unpivot(PREDICTORS, index=["kind", "happened"], variable_name="predictor", value_name="probability")
        place = edges.search_sorted(long["probability"], side="right") - 1
        found.append(
            long.with_columns(bin=edges.gather(place), squares=(pl.col("probability") - pl.col("happened")).pow(2))
            .group_by(keys)
            .agg(pl.len().alias("n"), pl.col("probability", "happened", "squares").sum())
        )
    return pl.concat(found).group_by(keys).agg(pl.all().sum()).sort(keys)


def scores_table(sums: pl.DataFrame, kind: str, dates: str) -> Table:
    """Return a table of the Brier score, its part that calibration could remove, and the mean probability."""
    body = []
    for name in PREDICTORS:
        bins = sums.filter(kind=kind, predictor=name)
        n, happened = bins["n"].sum(), bins["happened"].sum() / bins["n"].sum()
        gap = (bins["probability"] - bins["happened"]) / bins["n"]
        reliability = float((bins["n"] * gap.pow(2)).sum()) / n
        brier = bins["squares"].sum() / n
        skill = 1 - brier / (happened * (1 - happened)) if 0 < happened < 1 else float("nan")
        numbers = (f"{brier:.4f}", f"{skill:+.1%}", f"{reliability:.5f}", share_text(bins["probability"].sum() / n))
        body.append([name, *numbers, share_text(happened)])
    header = ["", "Brier score", "skill", "reliability", "mean probability", "happened"]
    note = "Skill is against always saying the share that happened. Reliability is the part of the Brier score that "
    note += "right probabilities in each bin would remove."
    return Table(f"{TITLES[kind]}, {n:,} on {dates}", header, body, note)


def reliability_table(sums: pl.DataFrame, kind: str) -> Table:
    """Return the share that happened by predicted probability, for journeys and for independent ranks."""
    ends = {low: f"{low:.0%} to {high:.0%}" for low, high in zip(EDGES, (*EDGES[1:], 1.0), strict=True)}
    body = []
    for low, title in ends.items():
        line = [title]
        for name in (JOURNEYS, INDEPENDENT):
            of_bin = sums.filter(pl.col("bin") == low, kind=kind, predictor=name)
            n = of_bin["n"].sum()
            line += [f"{n:,}"] + [
                share_text(of_bin[what].sum() / n) if n else "" for what in ("probability", "happened")
            ]
        body.append(line)
    header = ["predicted", "n", JOURNEYS, "happened", "n", INDEPENDENT, "happened"]
    return Table(f"{TITLES[kind]}, by predicted probability", header, body)


if __name__ == "__main__":
    sys.exit(main())
