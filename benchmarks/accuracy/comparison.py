"""Compare predictors on the same rows: errors per seed, and paired differences with intervals.

Legend of dimensions: N rows, U units of the bootstrap, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.accuracy.experiment import KEY
from transformer.config import GateConfig
from transformer.data.tables import JOURNEY
from transformer.evaluation import metrics
from transformer.evaluation.bootstrap import interval, resampled_sums
from transformer.evaluation.growth import SevereGrowth, severe_growth
from transformer.evaluation.metrics import group_keys
from transformer.evaluation.quantiles import Uncertainty, uncertainty
from transformer.evaluation.wobble import wobble
from transformer.model.coherence import earliest_delay
from transformer.prediction import columns

FloatArray = npt.NDArray[np.float64]

TRANSFORMER, TREE, CONTEXT_TREE = "transformer", "tree", "tree with context"
BLEND = "blend"  # the mean of transformer and tree, of the same seed
UNROUNDED = ", not rounded"  # ends the name of a predictor
BREAKDOWNS = ("horizon", "train_type", "departed")
KIND_OF_DATE = "kind of date"  # a breakdown where there are several service dates
ORDINARY, DISRUPTED = "ordinary", "disrupted"
UNITS = {"journey": tuple(JOURNEY), "service date": ("service_date",)}  # units of the bootstrap
SAME_S = 0.5  # largest difference (s) between the same delay computed in two ways, both in float32


@dataclass(frozen=True)
class Predictions:
    """Predictions of several predictors for the same rows."""

    rows: pl.DataFrame  # columns.ROW_SCHEMA without the predicted delay
    delays: Mapping[str, Mapping[int, FloatArray]]  # predictor → seed → [N] seconds
    uncertainty: Mapping[int, Uncertainty] = field(default_factory=dict)  # seed → quality of TRANSFORMER's quantiles
    growth: Mapping[int, SevereGrowth] = field(default_factory=dict)  # seed → TRANSFORMER's, from its quantiles

    @classmethod
    def of(cls, rows: pl.DataFrame) -> Self:
        return cls(rows.select(name for name in columns.ROW_SCHEMA if name != "predicted_delay_s"), {})

    def including(self, name: str, seed: int, predicted: pl.DataFrame, column: str = "predicted_delay_s") -> Self:
        """Return a copy with the delays of one more predictor and seed.

        Raises:
            ValueError: the rows of `predicted` are not the same, in the same order.
        """
        if not predicted.select(KEY).equals(self.rows.select(KEY)):
            raise ValueError(f"{name}: {predicted.height} rows, expected the same {self.rows.height} in the same order")
        for truth in ("translation_delay_s", "observed_delay_s"):
            if np.abs(predicted[truth].to_numpy() - self.rows[truth].to_numpy()).max() > SAME_S:
                raise ValueError(f"{name}: {truth} differs from the {truth} of the other predictors")
        delays = {**self.delays.get(name, {}), seed: predicted[column].to_numpy().astype(np.float64)}
        return replace(self, delays={**self.delays, name: delays})

    def judged(self, seed: int, predicted: pl.DataFrame) -> Self:
        """Return a copy with the quality of TRANSFORMER's quantiles in `predicted`, or itself if there are none."""
        judgement = uncertainty(predicted)
        if judgement is None:
            return self
        growth = {**self.growth, seed: severe_growth(predicted)}
        return replace(self, uncertainty={**self.uncertainty, seed: judgement}, growth=growth)

    def with_blend(self, round_to_s: float, resolution_s: float) -> Self:
        """Return a copy with BLEND. It is rounded like its parts, and every event is predicted after its snapshot.

        Args:
            round_to_s: step of the predicted delays; 0 = not rounded.
            resolution_s: step of the observed delays.
        """
        trees = self.delays[TREE + UNROUNDED]
        earliest = earliest_delay(self.rows["horizon_s"].to_numpy(), resolution_s)
        blends = {}
        for seed, delay in self.delays[TRANSFORMER].items():
            mean = (delay + trees[seed]) / 2
            blends[seed] = np.maximum(np.round(mean / round_to_s) * round_to_s if round_to_s else mean, earliest)
        return replace(self, delays={**self.delays, BLEND: blends})

    def of_seed(self, name: str, seed: int) -> pl.DataFrame:
        """Return the evaluation rows (columns.ROW_SCHEMA) of one predictor and seed."""
        return self.rows.with_columns(pl.Series("predicted_delay_s", self.delays[name][seed]))

    def errors(self, name: str) -> FloatArray:
        """Return the absolute error of each row [N] in seconds, as mean over the seeds."""
        observed = self.rows["observed_delay_s"].to_numpy()
        per_seed = [np.abs(delay - observed) for delay in self.delays[name].values()]
        return np.asarray(np.mean(per_seed, axis=0), np.float64)


def joined(several: Sequence[Predictions]) -> Predictions:
    """Concatenate the rows of several test dates. All have the same predictors and seeds. Quantiles are left out."""
    names = {name: list(delays) for name, delays in several[0].delays.items()}
    return Predictions(
        pl.concat([one.rows for one in several]),
        {
            name: {seed: np.concatenate([one.delays[name][seed] for one in several]) for seed in seeds}
            for name, seeds in names.items()
        },
    )


# --- figures of merit ------------------------------------------------------------------------------------------------
def scores(predictions: Predictions) -> dict[str, dict[int, dict[str, float]]]:
    """Return `metrics.summary` and the wobble of every predictor and seed."""
    return {
        name: {seed: _scores(predictions.of_seed(name, seed)) for seed in d} for name, d in predictions.delays.items()
    }


def finite_scores(found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, dict[int, dict[str, float]]]:
    """Return the scores that JSON can hold. A skill or a wobble may be undefined."""
    return {
        name: {seed: metrics.finite_metrics(values) for seed, values in of_seed.items()}
        for name, of_seed in found.items()
    }


def _scores(rows: pl.DataFrame) -> dict[str, float]:
    return metrics.summary(rows) | wobble(rows).summary


def growths(predictions: Predictions) -> dict[str, dict[int, SevereGrowth]]:
    """Return how well every predictor and seed foresees severe growths.

    TRANSFORMER is ranked by the probabilities of its quantiles, if it has any. All others are ranked by the growth of
    their point prediction.
    """
    found = {TRANSFORMER: dict(predictions.growth)}
    for name, delays in predictions.delays.items():
        of_seed = found.setdefault(name, {})
        for seed in delays.keys() - of_seed.keys():
            of_seed[seed] = severe_growth(predictions.of_seed(name, seed))
    return found


def group_means(predictions: Predictions, by: str, measure: str) -> pl.DataFrame:
    """Return for each group: n, and a measure of `translation` and of each predictor as mean over the seeds.

    Args:
        measure: one of `metrics.METRICS`.
    """
    table = pl.DataFrame()
    for name, delays in predictions.delays.items():
        per_seed = [metrics.breakdown(predictions.of_seed(name, seed), by) for seed in delays]
        if table.is_empty():
            table = per_seed[0].select(by, "n", pl.col(metrics.TRANSLATION + measure).alias("translation"))
        mean = np.mean([groups[measure].to_numpy() for groups in per_seed], axis=0)
        table = table.with_columns(pl.Series(name, mean))
    return table


def kinds_of_dates(rows: pl.DataFrame) -> dict[date, str]:
    """DISRUPTED for each service date on which translation errs more than on the median of the dates, else ORDINARY."""
    error = (pl.col("translation_delay_s") - pl.col("observed_delay_s")).abs().mean()
    dates = rows.group_by("service_date").agg(error.alias("mae_s")).sort("service_date")
    kind = pl.when(pl.col("mae_s") > pl.col("mae_s").median()).then(pl.lit(DISRUPTED)).otherwise(pl.lit(ORDINARY))
    return dict(dates.select("service_date", kind.alias("kind")).iter_rows())


def group_expressions(rows: pl.DataFrame) -> dict[str, pl.Expr]:
    """The group of each row, by name of the breakdown: BREAKDOWNS, and KIND_OF_DATE if there are several dates."""
    keys = {by: group_keys("UTC")[by] for by in BREAKDOWNS}
    if rows["service_date"].n_unique() > 1:
        keys[KIND_OF_DATE] = pl.col("service_date").replace_strict(kinds_of_dates(rows), return_dtype=pl.String)
    return keys


def skills(predictions: Predictions, by: str) -> pl.DataFrame:
    """Return for each group: n, `translation_mae_s`, and the skill of each predictor as mean over the seeds.

    Args:
        by: a breakdown, see `group_expressions`.
    """
    observed = pl.col("observed_delay_s")
    rows = predictions.rows.select(
        group_expressions(predictions.rows)[by].alias(by),
        (pl.col("translation_delay_s") - observed).abs().alias("translation"),
        *(pl.Series(name, predictions.errors(name)) for name in predictions.delays),
    )
    base = pl.col("translation_mae_s")
    skill = pl.when(base > 0).then(1 - pl.col(list(predictions.delays)) / base)  # undefined if translation never errs
    return (
        rows.group_by(by)
        .agg(pl.len().alias("n"), pl.exclude(by).mean())
        .sort(by)
        .rename({"translation": base.meta.output_name()})
        .with_columns(skill.name.keep())
    )


def differences(
    predictions: Predictions, other: str, unit: str, gate: GateConfig, *, of: str = TRANSFORMER
) -> pl.DataFrame:
    """Return MAE of the predictor `of` − MAE of another one, with intervals, over all rows and per group.

    The error of a row is its mean over the seeds. The bootstrap is paired: both predictors are resampled together.

    Args:
        other: the other predictor.
        unit: unit of the bootstrap, one of UNITS. If a group has only one, both ends of its interval are null.
        gate: confidence, number of resamples and their seed.

    Returns:
        Columns: breakdown, group, n, units, difference_s, low_s, high_s; negative = `of` is better.
    """
    rows = predictions.rows.with_columns(
        pl.Series("difference", predictions.errors(of) - predictions.errors(other)),
        (pl.struct(UNITS[unit]).rank("dense").cast(pl.Int64) - 1).alias("unit"),
    )
    n_units = rows["unit"].n_unique()
    lines: list[dict[str, Any]] = []
    sums: list[FloatArray] = []
    for by, key in {"": pl.lit("all"), **group_expressions(predictions.rows)}.items():
        cells = rows.group_by(key.alias("group"), "unit").agg(pl.len(), pl.col("difference").sum())
        for (group,), of_group in cells.sort("group").group_by("group", maintain_order=True):
            sums_U2 = np.zeros((n_units, 2))
            sums_U2[of_group["unit"].to_numpy()] = of_group.select("len", "difference").to_numpy()
            sums.append(sums_U2)
            n = int(of_group["len"].sum())
            lines.append({"breakdown": by, "group": str(group), "n": n, "units": of_group.height})
    sums_UG2 = np.stack(sums, axis=1)
    drawn_RG2 = resampled_sums(sums_UG2.reshape(n_units, -1), gate.resamples, gate.seed).reshape(
        -1, *sums_UG2.shape[1:]
    )
    with np.errstate(invalid="ignore"):  # a resample may hold no row of a small group
        means_RG = drawn_RG2[..., 1] / drawn_RG2[..., 0]
    # A kind of date has few of the dates, and a single one gives no interval.
    ends = [interval(means_RG[:, g], line["units"], gate.confidence) for g, line in enumerate(lines)]
    totals_G2 = sums_UG2.sum(axis=0)
    return pl.DataFrame(lines).with_columns(
        pl.Series("difference_s", totals_G2[:, 1] / totals_G2[:, 0]),
        pl.Series("low_s", [float(low) for low, _ in ends]).fill_nan(None),
        pl.Series("high_s", [float(high) for _, high in ends]).fill_nan(None),
    )
