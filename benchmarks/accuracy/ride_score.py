"""The metrics of RIDE's evaluator: a prediction file compared with the `test_eval_table.parquet` of a Gold core.

The evaluator (arXiv 2606.05070) pools the delays of all keys and all next events. Its bins of the horizon are of the
time from the snapshot to the *observed* event. Its bins of the change are of the observed delay minus the last known
one. A value below the first edge counts in the first bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import polars as pl

from transformer.errors import UserError
from transformer.parquet import read_parquet
from transformer.prediction.ride import KEY, LAST_KNOWN, TABLE, TARGET

HORIZON_EDGES_MIN = (0, 5, 10, 15, 20, 25, 30, 35, 40, 45, math.inf)
CHANGE_EDGES_S = (-math.inf, -300, -120, -60, -30, 0, 30, 60, 120, 300, 600, math.inf)
OBSERVED = "future_obs_ts_"
REMEDY = "name the folder of a RIDE Gold core, for example data/gold/lite/core"
ALL, BY_HORIZON, BY_CHANGE = "all", "horizon", "delay change"


def score(core: Path, predictions: pl.DataFrame) -> pl.DataFrame:
    """Compare predictions and translation with the evaluation table of a Gold core.

    Args:
        predictions: a row per key of the table, with KEY and `future_delay_1` … `future_delay_n` in seconds.

    Returns:
        `breakdown`, `bin`, `n` (delays), and `mae_s`, `rmse_s`, `translation_mae_s`, `translation_rmse_s`; the first
        row is over all delays.

    Raises:
        UserError: the keys or the columns of predictions and table differ, or a delay is not predicted.
    """
    path = core / TABLE
    table = read_parquet(path, REMEDY)
    ranks = sorted(int(name.removeprefix(TARGET)) for name in table.columns if name.startswith(TARGET))
    missing = [f"{TARGET}{rank}" for rank in ranks if f"{TARGET}{rank}" not in predictions.columns]
    if missing or not ranks:
        raise UserError(f"{path}: the predictions lack {', '.join(missing) or TARGET}; export them for this core again")
    keyed = table.with_columns(pl.lit(True).alias("in_table"))
    joined = keyed.join(predictions, on=KEY, how="full", coalesce=True, suffix="_predicted", nulls_equal=True)
    if not predictions.height == table.height == joined.height or joined["in_table"].null_count():
        raise UserError(f"{path}: its keys and those of the predictions differ; export them for this core again")
    rows = pl.concat(_of_rank(joined, rank) for rank in ranks).filter(pl.col("observed").is_not_null())
    if unpredicted := rows.filter(~pl.col("predicted").is_finite().fill_null(False)).height:
        raise UserError(f"{path}: {unpredicted:,} of its delays are not predicted; export the predictions again")
    return pl.concat(
        [
            _measured(rows, pl.lit(ALL), ALL),
            _measured(rows.drop_nulls("horizon_min"), _bin("horizon_min", HORIZON_EDGES_MIN, "min"), BY_HORIZON),
            _measured(rows.drop_nulls("change_s"), _bin("change_s", CHANGE_EDGES_S, "s"), BY_CHANGE),
        ]
    )


def _of_rank(joined: pl.DataFrame, rank: int) -> pl.DataFrame:
    """The delays of the rank-th next events, in long form."""
    observed = pl.col(f"{TARGET}{rank}").cast(pl.Float64).fill_nan(None)
    last_known = pl.col(LAST_KNOWN).cast(pl.Float64).fill_nan(None) if LAST_KNOWN in joined.columns else pl.lit(None)
    horizon = pl.lit(None, pl.Float64)
    if f"{OBSERVED}{rank}" in joined.columns and isinstance(joined.schema["ts"], pl.Datetime):
        horizon = (pl.col(f"{OBSERVED}{rank}") - pl.col("ts")).dt.total_microseconds() / 60e6
    return joined.select(
        observed.alias("observed"),
        pl.col(f"{TARGET}{rank}_predicted").cast(pl.Float64).alias("predicted"),
        last_known.cast(pl.Float64).alias("translation"),
        horizon.alias("horizon_min"),
        (observed - last_known).cast(pl.Float64).alias("change_s"),
    )


def _bin(column: str, edges: Sequence[float], unit: str) -> pl.Expr:
    """The bin of a value as `index|text`, since bins are sorted by their edges."""
    labels = [f"[{low:g}, {high:g}) {unit}" for low, high in pairwise(edges)]
    index = pl.sum_horizontal((pl.col(column) >= edge).cast(pl.Int32) for edge in edges) - 1
    names = {place: f"{place:02d}|{label}" for place, label in enumerate(labels)}
    return index.clip(0, len(labels) - 1).replace_strict(names, return_dtype=pl.String)


def _measured(rows: pl.DataFrame, group: pl.Expr, breakdown: str) -> pl.DataFrame:
    def error(predictor: str) -> pl.Expr:
        return pl.col(predictor) - pl.col("observed")

    return (
        rows.group_by(group.alias("bin"))
        .agg(
            pl.len().alias("n"),
            error("predicted").abs().mean().alias("mae_s"),
            error("predicted").pow(2).mean().sqrt().alias("rmse_s"),
            error("translation").abs().mean().alias("translation_mae_s"),
            error("translation").pow(2).mean().sqrt().alias("translation_rmse_s"),
        )
        .sort("bin")
        .select(pl.lit(breakdown).alias("breakdown"), pl.col("bin").str.split("|").list.last(), pl.exclude("bin"))
    )
