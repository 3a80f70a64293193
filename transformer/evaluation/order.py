"""The order of times along a train: in how many forecasts does one run backwards?

A *forecast* is all predictions for one train in one snapshot. A time runs backwards if it lies before that of an
earlier event of the same train. Predictions of this release never do (`transformer.model.coherence`). Observed times
do if an observation is wrong, so their share says what the data are worth.
"""

from __future__ import annotations

import polars as pl

from transformer.evaluation.metrics import TRANSLATION, check_rows
from transformer.prediction.columns import FORECAST, levels_in, quantile_column
from transformer.prediction.row_files import EvaluationRows, collect_parts

BACKWARD = "backward_share"  # of the forecasts; prefixes name other times than the predicted ones
OBSERVED, QUANTILES = "observed_", "quantiles_"


def backward_shares(rows: EvaluationRows) -> dict[str, float]:
    """Shares of the forecasts in which times run backwards, from the events that were observed in the end.

    Keys: BACKWARD for the predicted times; with a prefix for TRANSLATION, OBSERVED times, and QUANTILES, which counts
    forecasts in which the times of any level run backwards. Without quantiles in the rows, its key is missing.

    Raises:
        UserError: `metrics.check_rows` refuses the rows.
    """
    check_rows(rows)
    delays = {
        BACKWARD: ["predicted_delay_s"],
        TRANSLATION + BACKWARD: ["translation_delay_s"],
        OBSERVED + BACKWARD: ["observed_delay_s"],
    }
    if levels := levels_in(rows.columns):
        delays[QUANTILES + BACKWARD] = [quantile_column(level) for level in levels]
    backward = {name: pl.any_horizontal(map(_runs_backwards, columns)) for name, columns in delays.items()}

    def totals(part: pl.LazyFrame) -> pl.LazyFrame:
        forecasts = part.group_by(FORECAST).agg(**backward)
        return forecasts.select(pl.len().alias("n"), pl.col(list(backward)).sum())

    counts = collect_parts(rows, totals).sum().row(0, named=True)
    return {name: counts[name] / counts["n"] for name in backward}


def _runs_backwards(delay: str) -> pl.Expr:
    time_s = pl.col("horizon_s").cast(pl.Float64) + pl.col(delay)
    return (time_s.sort_by("rank").diff() < 0).any()
