"""Measures of the predicted distribution: its quantiles are compared with the observed delays.

Evaluation rows hold a quantile per level in seconds, in a column named by the level in percent: `q05_delay_s`,
`q50_delay_s`, `q97.5_delay_s`. Rows without such columns have no distribution, and nothing is measured.

There are three measures, over all rows and per group:

- *Pinball loss* of a level, in seconds: `level × (y − q)` if the observed delay y is above the quantile q, and
  `(1 − level) × (q − y)` if y is below q. The true quantile has the least loss. Source: Koenker & Bassett 1978,
  Econometrica 46.
- *CRPS*, the continuous ranked probability score, in seconds: twice the integral of the pinball loss over all levels.
  Source: Laio & Tamea 2007, doi 10.5194/hess-11-1267-2007; Gneiting & Ranjan 2011, doi 10.1198/jbes.2010.08110.
  Between two levels, the quantiles are interpolated in a straight line. Beyond the outermost levels, the quantile stays
  constant, as if the rest of the probability sat there. The integral over this distribution is exact; it has the form
  over delays that Gneiting & Raftery 2007, doi 10.1198/016214506000001437, start from. The score is therefore that of a
  possible distribution, and favours no form of prediction. The CRPS of a point prediction is its absolute error, for
  any levels, so the CRPS of translation is its MAE. The quantiles of a normal distribution at 0.05, 0.1, 0.25, 0.5,
  0.75, 0.9 and 0.95 score 0.2 % worse than the normal distribution itself. The trapezoidal rule on the losses would
  score them 3 % better.
- *Coverage*: the share of observed delays inside a central interval, and the mean width of the interval. The ends
  belong to the interval, because delays in whole minutes often fall exactly on an end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from transformer.data.tables import JOURNEY
from transformer.errors import UserError
from transformer.evaluation.metrics import (
    TRANSLATION,
    TRANSLATION_ERROR_S,
    check_rows,
    finite_metrics,
    group_keys,
    legal_name,
)
from transformer.evaluation.sums import exact_sum, mean_of
from transformer.prediction.columns import Interval, intervals_of, levels_in, quantile_column, quantile_name
from transformer.prediction.row_files import EvaluationRows, collect_parts

OBSERVED_S = pl.col("observed_delay_s").cast(pl.Float64)
# The operational points of the rows, ordered by their number of events, in four groups of equally many points.
POINT_GROUPS = ("busiest-quarter", "second-quarter", "third-quarter", "quietest-quarter")
BREAKDOWNS = ("horizon", "train_type", "departed", "point_group")
EVENT = ("op_id", *JOURNEY, "event_type", "planned_ts")


# --- measures --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Uncertainty:
    """Measures of the distributions of some rows. Times are in seconds, shares are fractions.

    `summary` and each line of a breakdown hold n, `crps_s`, `translation_crps_s`, `crps_skill` (1 − CRPS / CRPS of
    translation) and `pinball_s` (mean over the levels). For each interval they hold, for example, `coverage_90` and
    `width_90_s`.
    """

    summary: dict[str, float]
    levels: (
        pl.DataFrame
    )  # level, pinball_s, and the shares of observed delays `below` the quantile and `at_or_below` it
    intervals: tuple[Interval, ...]
    breakdowns: dict[str, pl.DataFrame]  # by BREAKDOWNS

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics under MLflow-legal names: `test/crps_s`, `test/pinball/q05_s`, `test/departed/no/crps_s`, …

        Undefined values are left out.
        """
        values = {f"{prefix}/{name}": value for name, value in self.summary.items()}
        for level, pinball in self.levels.select("level", "pinball_s").iter_rows():
            values[f"{prefix}/pinball/{quantile_name(level)}_s"] = pinball
        for by, groups in self.breakdowns.items():
            for group in groups.iter_rows(named=True):
                name = legal_name(group.pop(by))
                values |= {f"{prefix}/{by}/{name}/{measure}": group[measure] for measure in _of_groups(group)}
        return finite_metrics(values)


def _of_groups(group: Mapping[str, object]) -> list[str]:
    """The measures of a group that go to MLflow. The others say little more, or are in MLflow already."""
    return [name for name in group if name not in ("translation_crps_s", "pinball_s")]


def uncertainty(rows: EvaluationRows) -> Uncertainty | None:
    """Measure the distribution in `rows`; None = the rows hold no quantiles.

    Args:
        rows: columns of `columns.ROW_SCHEMA`, and the columns of quantiles that this module's text describes.

    Raises:
        UserError: `metrics.check_rows` refuses the rows, a quantile is null, NaN or infinite, or quantiles cross.
    """
    levels = levels_in(rows.columns)
    if not levels:
        return None
    check_rows(rows)
    _check_quantiles(rows, levels)
    intervals = intervals_of(levels)
    keys = {name: key for name, key in group_keys("UTC").items() if name in BREAKDOWNS}
    points = point_groups(rows).lazy()
    inside = {f"inside_{interval.name}": _inside(interval) for interval in intervals}
    seconds = {
        "crps": _crps(levels),
        "translation": TRANSLATION_ERROR_S.abs(),
        "pinball": pl.mean_horizontal(_pinball(level, _quantile(level)) for level in levels),
        **{f"width_{interval.name}": _quantile(interval.high) - _quantile(interval.low) for interval in intervals},
    }

    def totals(part: pl.LazyFrame) -> pl.LazyFrame:
        scored = part.join(points, on="op_id", how="left").select(
            **keys, point_group="point_group", **inside, **seconds
        )
        sums = pl.col(list(inside)).sum(), exact_sum(pl.col(list(seconds)))
        return scored.group_by(BREAKDOWNS).agg(pl.len().alias("n"), *sums)

    cells = collect_parts(rows, totals)
    n = pl.col("n").sum()
    crps, translation = _mean("crps"), _mean("translation")
    aggregates = [
        n,
        crps.alias("crps_s"),
        translation.alias(f"{TRANSLATION}crps_s"),
        pl.when(translation > 0).then(1 - crps / translation).alias("crps_skill"),
        _mean("pinball").alias("pinball_s"),
        *((pl.col(f"inside_{interval.name}").sum() / n).alias(f"coverage_{interval.name}") for interval in intervals),
        *(_mean(f"width_{interval.name}").alias(f"width_{interval.name}_s") for interval in intervals),
    ]
    summary = cells.select(aggregates).row(0, named=True)
    return Uncertainty(
        {name: math.nan if value is None else value for name, value in summary.items()},
        _by_level(rows, levels),
        intervals,
        {by: cells.group_by(by).agg(aggregates).sort(by) for by in BREAKDOWNS},
    )


def point_groups(rows: EvaluationRows) -> pl.DataFrame:
    """`op_id` and `point_group`, an Enum of POINT_GROUPS: the points in `rows`, grouped by their number of events.

    An event that several snapshots predict counts once. If two points have equally many events, the point with the
    smaller `op_id` counts as the busier one.
    """
    parts = collect_parts(rows, lambda part: part.select(EVENT).unique().group_by("op_id").len())
    busiest_first = parts.group_by("op_id").agg(pl.col("len").sum()).sort("len", "op_id", descending=[True, False])
    quarter = pl.int_range(pl.len()) * len(POINT_GROUPS) // pl.len()
    named = quarter.replace_strict(range(len(POINT_GROUPS)), POINT_GROUPS, return_dtype=pl.Enum(POINT_GROUPS))
    return busiest_first.select("op_id", named.alias("point_group"))


def exceedance(levels: Sequence[float], limit_s: pl.Expr) -> pl.Expr:
    """The predicted probability that the delay is above a limit in seconds.

    Between two levels, the quantiles are interpolated in a straight line, as for the CRPS. Each tail is exponential,
    through the two outermost quantiles of its side: the rank of rare delays needs probabilities beyond the outermost
    levels. If these two are equal, or there is only one level, the rest of the probability sits on the outermost one.
    """
    first, last = _quantile(levels[0]), _quantile(levels[-1])
    steps = [(limit_s >= first).cast(pl.Float64) * levels[0]]
    for p, r in itertools.pairwise(levels):
        low, high = _quantile(p), _quantile(r)
        share = pl.when(high > low).then((limit_s - low) / (high - low)).otherwise((limit_s >= low).cast(pl.Float64))
        steps.append((r - p) * share.clip(0, 1))
    above = pl.when(limit_s >= last).then(0.0).otherwise(1 - pl.sum_horizontal(steps))
    if len(levels) == 1:
        return above
    second, next_to_last = _quantile(levels[1]), _quantile(levels[-2])
    return (
        pl.when((limit_s < first) & (first < second))
        .then(1 - _tail(limit_s, first, second, levels[0], levels[1]))
        .when((limit_s >= last) & (next_to_last < last))
        .then(_tail(limit_s, last, next_to_last, 1 - levels[-1], 1 - levels[-2]))
        .otherwise(above)
    )


def _tail(limit_s: pl.Expr, outer: pl.Expr, inner: pl.Expr, beyond_outer: float, beyond_inner: float) -> pl.Expr:
    """The probability beyond a limit outside the `outer` quantile, from the probabilities beyond it and the `inner`."""
    return beyond_outer * (math.log(beyond_outer / beyond_inner) * (limit_s - outer) / (outer - inner)).exp()


def _check_quantiles(rows: EvaluationRows, levels: Sequence[float]) -> None:
    columns = [quantile_column(level) for level in levels]
    crossing = [pl.col(low) > pl.col(high) for low, high in itertools.pairwise(columns)]
    counts = collect_parts(
        rows,
        lambda part: part.select(
            pl.col(columns).is_finite().fill_null(False).not_().sum(),
            crossed=pl.any_horizontal(crossing or [pl.lit(False)]).sum(),
        ),
    )
    bad = counts.sum().row(0, named=True)
    crossed = bad.pop("crossed")
    for name, count in bad.items():
        if count:
            raise UserError(
                f"{name} is null, NaN or infinite in {count:,} of {rows.height:,} evaluation rows; "
                "check that training did not diverge"
            )
    if crossed:
        raise UserError(
            f"quantiles cross in {crossed:,} of {rows.height:,} evaluation rows; sort the quantiles of each row by "
            "level before the evaluation"
        )


def _by_level(rows: EvaluationRows, levels: Sequence[float]) -> pl.DataFrame:
    totals: dict[str, pl.Expr] = {}
    for level in levels:
        quantile = _quantile(level)
        totals |= {
            f"pinball {level}": exact_sum(_pinball(level, quantile)),
            f"below {level}": (quantile > OBSERVED_S).sum(),
            f"at or below {level}": (quantile >= OBSERVED_S).sum(),
        }
    found = collect_parts(rows, lambda part: part.select(**totals)).sum()
    n = pl.lit(rows.height)
    lines = [
        found.select(
            level=pl.lit(level),
            pinball_s=mean_of(pl.col(f"pinball {level}"), n),
            below=pl.col(f"below {level}") / n,
            at_or_below=pl.col(f"at or below {level}") / n,
        )
        for level in levels
    ]
    return pl.concat(lines)


def _quantile(level: float) -> pl.Expr:
    return pl.col(quantile_column(level)).cast(pl.Float64)


def _pinball(level: float, quantile_s: pl.Expr) -> pl.Expr:
    error = OBSERVED_S - quantile_s
    return pl.max_horizontal(level * error, (level - 1) * error)


def _crps(levels: Sequence[float]) -> pl.Expr:
    """∫ (F(x) − 1{x ≥ y})² dx. The quantiles describe F, see the module's text; y is the observed delay."""
    first, last = _quantile(levels[0]), _quantile(levels[-1])
    parts = [(first - OBSERVED_S).clip(lower_bound=0), (OBSERVED_S - last).clip(lower_bound=0)]
    for p, r in itertools.pairwise(levels):
        low, high = _quantile(p), _quantile(r)
        y = OBSERVED_S.clip(low, high)
        at_y = pl.when(high > low).then(p + (r - p) * (y - low) / (high - low)).otherwise(p)
        parts += [(y - low) * _mean_square(pl.lit(p), at_y), (high - y) * _mean_square(1 - at_y, pl.lit(1 - r))]
    return pl.sum_horizontal(parts)


def _mean_square(start: pl.Expr, end: pl.Expr) -> pl.Expr:
    """The mean square of a quantity that goes from `start` to `end` in a straight line."""
    return (start * start + start * end + end * end) / 3


def _inside(interval: Interval) -> pl.Expr:
    return OBSERVED_S.is_between(_quantile(interval.low), _quantile(interval.high), closed="both")


def _mean(name: str) -> pl.Expr:
    """The mean of a measure over groups of rows, of which each has `n` and the `exact_sum`."""
    return mean_of(pl.col(name).sum(), pl.col("n").sum())
