"""Severe growth: delays that grow by more than 5 or 10 minutes over the last known delay of the train.

Each forecast has a score for a growth. The score of a model with quantiles is the predicted probability, see
`quantiles.exceedance`. The score of a point prediction is its own growth: predicted − last known delay. Translation is
one, and so is a model without quantiles. As a probability, a point prediction counts as 0 or 1.

There are four measures:

- *Average precision*: the mean of the precision over all severe growths, from the highest score down. Scores without
  any skill have the share of severe growths. Source: Zhu 2004, Recall, precision and average precision.
- *Precision of the alerts* at a budget an hour. An alert is a train in a snapshot, not each of its events. Its score is
  the highest of its events, and it comes true if one of them grows so much. A train that stays in danger is an alert
  again in the next snapshot. The alerts are the highest scores of all hours together, so a bad hour may have more than
  the budget. The *recall* is the share of the trains with a severe growth, in any snapshot, that are alerts.
- *Brier score*: the mean of (probability − outcome)². Source: Brier 1950, Monthly Weather Review 78.
- *Reliability*: how often the growth happened, by predicted probability; and as one number, the mean square of the
  difference. Source: Murphy 1973, Journal of Applied Meteorology 12.

Ranks come from histograms with BINS steps (`ranking`). A probability is resolved to 0.001, and the growth of a point
prediction to GROWTH_STEP_S. Nothing depends on the parts in which rows are read.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from transformer.config import EvaluationConfig
from transformer.data.tables import JOURNEY
from transformer.evaluation.metrics import TRANSLATION, finite_metrics
from transformer.evaluation.quantiles import exceedance
from transformer.evaluation.ranking import Ranking
from transformer.evaluation.sums import UNIT, exact_sum
from transformer.prediction.columns import levels_in
from transformer.prediction.row_files import EvaluationRows, parts_of

GROWTHS_MIN = (5, 10)
ALERTS_PER_HOUR = EvaluationConfig().alerts_per_hour
BINS = 1_000  # of a ranking
LEAST_GROWTH_S, GROWTH_STEP_S = -3_000.0, 15.0  # the bins of growths: from −50 to 200 minutes
RELIABILITY_BINS = 20  # of equal width in probability
PREDICTORS = {"": "predicted_delay_s", TRANSLATION: "translation_delay_s"}  # by prefix of the measures
_CASES = tuple(itertools.product(GROWTHS_MIN, PREDICTORS))

Case = tuple[int, str]  # one of _CASES


@dataclass(frozen=True)
class SevereGrowth:
    """The measures of some rows. An undefined value is NaN: there may be no severe growth."""

    alerts_per_hour: float  # the budget
    # By growth in minutes: the `share` of severe growths; `average_precision`, `alert_precision`, `alert_recall` and
    # `brier` of the model, and `translation_…` the same of translation; `brier_skill`; with quantiles, `reliability`.
    summary: Mapping[int, dict[str, float]]
    curves: pl.DataFrame  # growth_min, prefix of the predictor, recall, precision; the highest score first
    reliability: pl.DataFrame  # growth_min, n, `predicted` and `observed` share; empty if the rows hold no quantiles

    @property
    def seen(self) -> list[int]:
        """Those of GROWTHS_MIN that happened."""
        return [minutes for minutes, values in self.summary.items() if values["share"]]

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics under MLflow-legal names: `test/growth_over_5min/average_precision`, …

        Undefined values are left out.
        """
        named = {
            f"{prefix}/growth_over_{minutes}min/{name}": value
            for minutes, values in self.summary.items()
            for name, value in values.items()
        }
        return finite_metrics(named)


def severe_growth(rows: EvaluationRows, alerts_per_hour: float = ALERTS_PER_HOUR) -> SevereGrowth:
    """Measure how well severe growths are foreseen.

    Args:
        rows: at least one, such that `metrics.check_rows` and `quantiles.uncertainty` accept them.
        alerts_per_hour: the budget, as a mean over the clock hours with a snapshot.
    """
    levels = levels_in(rows.columns)
    forecasts, trains = ({case: Ranking.empty(BINS) for case in _CASES} for _ in range(2))
    squared: Counter[Case] = Counter()  # the `exact_sum` of (probability − outcome)²
    hours: set[datetime] = set()
    for part in parts_of(rows).values():
        scored = part.select("snapshot_ts", *JOURNEY, *_scores(levels)).collect()
        of_trains = scored.group_by("snapshot_ts", *JOURNEY).agg(pl.col("^(bin|grown) .*$").max())
        for case in _CASES:
            forecasts[case] = _including(forecasts[case], scored, case)
            trains[case] = _including(trains[case], of_trains, case)
            squared[case] += scored.select(exact_sum(pl.col(_name("squared", case)))).item()
        hours.update(scored["snapshot_ts"].dt.truncate("1h").unique())
    summary: dict[int, dict[str, float]] = {}
    for minutes, prefix in _CASES:
        ranking = forecasts[minutes, prefix]
        precision, recall = trains[minutes, prefix].of_highest(alerts_per_hour * len(hours))
        summary.setdefault(minutes, {"share": float(ranking.hits.sum() / rows.height)}).update(
            {
                f"{prefix}average_precision": ranking.average_precision(),
                f"{prefix}alert_precision": precision,
                f"{prefix}alert_recall": recall,
                f"{prefix}brier": squared[minutes, prefix] * UNIT / rows.height,
            }
        )
    reliability = pl.concat([_reliability(minutes, forecasts[minutes, ""]) for minutes in GROWTHS_MIN])
    for minutes, values in summary.items():
        baseline = values[f"{TRANSLATION}brier"]
        values["brier_skill"] = 1 - values["brier"] / baseline if baseline else math.nan
        if levels:
            values["reliability"] = _mean_square(reliability.filter(growth_min=minutes))
    return SevereGrowth(
        alerts_per_hour,
        summary,
        pl.concat([_curve(*case, forecasts[case]) for case in _CASES]),
        reliability if levels else reliability.clear(),
    )


def _name(what: str, case: Case) -> str:
    minutes, prefix = case
    return f"{what} {minutes} {prefix}"


def _scores(levels: Sequence[float]) -> Iterator[pl.Expr]:
    """The columns `grown`, `bin` and `squared` of each case: the outcome, the bin of the score, the square error."""
    last = pl.col("last_delay_s")
    for minutes, prefix in _CASES:
        limit_s = 60.0 * minutes
        grown = pl.col("observed_delay_s") - last > limit_s
        if levels and not prefix:
            probability = exceedance(levels, last + limit_s)
            bins = probability * BINS
        else:
            growth = pl.col(PREDICTORS[prefix]) - last
            probability = (growth > limit_s).cast(pl.Float64)
            bins = (growth - LEAST_GROWTH_S) / GROWTH_STEP_S
        yield grown.alias(_name("grown", (minutes, prefix)))
        yield bins.floor().clip(0, BINS - 1).cast(pl.Int16).alias(_name("bin", (minutes, prefix)))
        yield (probability - grown.cast(pl.Float64)).pow(2).alias(_name("squared", (minutes, prefix)))


def _including(ranking: Ranking, scored: pl.DataFrame, case: Case) -> Ranking:
    return ranking.including(*(scored[_name(what, case)].to_numpy() for what in ("bin", "grown")))


def _curve(minutes: int, prefix: str, ranking: Ranking) -> pl.DataFrame:
    recall, precision = ranking.curve()
    return pl.DataFrame({"recall": recall, "precision": precision}).select(
        pl.lit(minutes).alias("growth_min"), pl.lit(prefix).alias("predictor"), "recall", "precision"
    )


def _reliability(minutes: int, ranking: Ranking) -> pl.DataFrame:
    """The share of growths by predicted probability, whose mean is that of the middles of the ranking's bins."""
    middle = (np.arange(BINS) + 0.5) / BINS
    n, grown, predicted = (
        values.reshape(RELIABILITY_BINS, -1).sum(axis=1)
        for values in (ranking.cases, ranking.hits, ranking.cases * middle)
    )
    found = pl.DataFrame({"n": n, "predicted": predicted, "observed": grown}).filter(pl.col("n") > 0)
    return found.select(pl.lit(minutes).alias("growth_min"), "n", pl.col("predicted", "observed") / pl.col("n"))


def _mean_square(reliability: pl.DataFrame) -> float:
    difference = pl.col("predicted") - pl.col("observed")
    return float(reliability.select((pl.col("n") * difference.pow(2)).sum() / pl.col("n").sum()).item())
