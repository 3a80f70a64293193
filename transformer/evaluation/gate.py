"""The gate decides whether a challenger becomes champion. All models and translation are compared on the same rows.

A difference is the MAE of the challenger − the MAE of the other: it is negative if the challenger is better.

Legend of dimensions: R resamples, G groups of rows (the first is all rows), P predictors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from transformer.config import GateConfig
from transformer.evaluation.bootstrap import Estimate, FloatArray, interval, resampled_sums
from transformer.evaluation.decision import DECLINE, NO_DECISION, PROMOTE, PromotionDecision
from transformer.evaluation.pairing import CHALLENGER, CHAMPION, TRANSLATION, Paired, pair
from transformer.prediction.row_files import EvaluationRows

GROUP_SCHEMA: dict[str, pl.DataType] = {
    "breakdown": pl.String(),
    "group": pl.String(),
    "n": pl.Int64(),
    "journeys": pl.Int64(),
    "challenger_mae_s": pl.Float64(),
    "champion_mae_s": pl.Float64(),
    "change": pl.Float64(),  # challenger / champion - 1
    "difference_s": pl.Float64(),
    "low_s": pl.Float64(),
    "high_s": pl.Float64(),
    "degraded": pl.Boolean(),  # by more than `max_degradation`, and beyond chance
}


@dataclass(frozen=True)
class GateResult:
    """The gate's decision, and the figures behind it."""

    decision: PromotionDecision
    confidence: float  # of every interval
    n: int  # compared rows
    unmatched: int  # rows that only one model predicts
    beyond: int  # rows further ahead than one of the two models predicts at all
    journeys: int
    unit: str  # the resampled unit: `service date` or `journey`
    units: int
    mae_s: dict[str, Estimate]  # of challenger, translation, and the champion if there is one
    difference_s: dict[str, Estimate]  # challenger − champion, challenger − translation
    skill: dict[str, Estimate]  # of challenger and champion
    groups: pl.DataFrame  # GROUP_SCHEMA: the groups of the judged breakdowns; empty without a champion

    def metrics(self, prefix: str = "gate") -> dict[str, float]:
        """Figures under MLflow-legal names: `gate/mae_s/challenger`, `gate/difference_s/champion/low`, …"""
        values: dict[str, float] = {
            "promote": self.decision.promotes,
            "n": self.n,
            "unmatched": self.unmatched,
            "beyond": self.beyond,
            "journeys": self.journeys,
            "units": self.units,
        }
        for kind, estimates in (("mae_s", self.mae_s), ("difference_s", self.difference_s), ("skill", self.skill)):
            for name, estimate in estimates.items():
                ends = {f"{kind}/{name}/low": estimate.low, f"{kind}/{name}/high": estimate.high}
                values |= {f"{kind}/{name}": estimate.value, **ends}
        return {f"{prefix}/{name}": float(value) for name, value in values.items() if math.isfinite(value)}

    def text(self) -> str:
        """The comparison as a table for a log."""
        lines = [
            self.decision.text,
            f"{self.journeys:,} journeys; {self.unmatched:,} rows of one model only, {self.beyond:,} too far ahead",
            f"{'':<28}{'MAE s':>26}{'skill':>26}",
        ]
        for name, mae in self.mae_s.items():
            skill = _ends(self.skill[name], ".3f") if name in self.skill else ""
            lines.append(f"{name:<28}{_ends(mae):>26}{skill:>26}")
        lines.append(f"{'challenger −':<28}{'difference s':>26}{'change':>26}")
        for name, difference in self.difference_s.items():
            change = _number(difference.value / self.mae_s[name].value, "+.1%") if self.mae_s[name].value else ""
            lines.append(f"{name:<28}{_ends(difference, '+.2f'):>26}{change:>26}")
        for group in self.groups.iter_rows(named=True):
            difference = Estimate(group["difference_s"], group["low_s"], group["high_s"])
            name = f"{group['breakdown']} {group['group']}"
            degraded = "  degraded" if group["degraded"] else ""
            lines.append(f"{name:<28}{_ends(difference, '+.2f'):>26}{_number(group['change'], '+.1%'):>26}{degraded}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Errors:
    """Mean absolute errors of the rows and of every resample."""

    mae: FloatArray  # [G, P]
    replicates: FloatArray  # [R, G, P]
    units: int
    confidence: float

    def estimate(self, value: Any, replicates_R: FloatArray) -> Estimate:
        low, high = interval(replicates_R, self.units, self.confidence)
        return Estimate(float(value), float(low), float(high))


def compare(
    challenger: EvaluationRows,
    champion: EvaluationRows | None,
    gate: GateConfig,
    considered: PromotionDecision = NO_DECISION,
    timezone: str = "UTC",
) -> GateResult:
    """Decide whether the challenger becomes champion.

    The challenger must fulfil three conditions. The interval of its difference to the champion lies beyond
    `min_improvement_s`. The interval of its difference to translation lies below 0. No group of `breakdowns` has become
    worse. The first model must only beat translation.

    Args:
        challenger: evaluation rows (ROW_SCHEMA) of the challenger.
        champion: evaluation rows of the champion on the same window; None = there is no champion yet.
        considered: the compared versions, still without a verdict.
        timezone: IANA name of the railway's clock, which says when it is night.

    Raises:
        UserError: there are too few journeys, or the rows of the two models do not belong together.
    """
    paired = pair(challenger, champion, gate, timezone)
    errors = _errors(paired, gate)
    of = dict(zip(paired.predictors, range(len(paired.predictors)), strict=True))
    mae_P, mae_RP = errors.mae[0], errors.replicates[:, 0]
    others = [name for name in paired.predictors if name != CHALLENGER]
    mae_s = {name: errors.estimate(mae_P[p], mae_RP[:, p]) for name, p in of.items()}
    difference_s = {
        name: errors.estimate(mae_P[of[CHALLENGER]] - mae_P[of[name]], mae_RP[:, of[CHALLENGER]] - mae_RP[:, of[name]])
        for name in others
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_P, ratio_RP = mae_P / mae_P[of[TRANSLATION]], mae_RP / mae_RP[:, [of[TRANSLATION]]]
    skill = {name: errors.estimate(1 - ratio_P[p], 1 - ratio_RP[:, p]) for name, p in of.items() if name != TRANSLATION}
    table = _table(paired.groups, errors, of, gate)

    complaints = list(_complaints(mae_s, difference_s, table, gate))
    verdict = "; ".join(complaints or [_difference(mae_s, difference_s, name) for name in others])
    reason = f"{verdict} ({paired.n:,} rows, {gate.confidence:.0%} intervals over {errors.units:,} {paired.unit}s)"
    return GateResult(
        decision=replace(considered, verdict=DECLINE if complaints else PROMOTE, reason=reason),
        confidence=gate.confidence,
        n=paired.n,
        unmatched=paired.unmatched,
        beyond=paired.beyond,
        journeys=paired.journeys,
        unit=paired.unit,
        units=errors.units,
        mae_s=mae_s,
        difference_s=difference_s,
        skill=skill,
        groups=table,
    )


def _errors(paired: Paired, gate: GateConfig) -> _Errors:
    code = paired.groups.select("breakdown", "group").with_row_index("code")
    found = paired.sums.join(code, on=["breakdown", "group"])
    columns = ["n", *paired.predictors]
    units = int(found.select(pl.col("unit").max()).item()) + 1
    sums = np.zeros((units, code.height, len(columns)))
    sums[found["unit"].to_numpy(), found["code"].to_numpy()] = found.select(pl.col(columns).cast(pl.Float64)).to_numpy()
    resampled = resampled_sums(sums.reshape(units, -1), gate.resamples, gate.seed).reshape(-1, *sums.shape[1:])
    totals = sums.sum(axis=0)
    with np.errstate(invalid="ignore"):  # a resample may hold no row of a small group
        return _Errors(totals[:, 1:] / totals[:, :1], resampled[..., 1:] / resampled[..., :1], units, gate.confidence)


def _table(groups: pl.DataFrame, errors: _Errors, of: dict[str, int], gate: GateConfig) -> pl.DataFrame:
    if CHAMPION not in of:
        return pl.DataFrame(schema=GROUP_SCHEMA)
    own, theirs = of[CHALLENGER], of[CHAMPION]
    low, high = interval(errors.replicates[..., own] - errors.replicates[..., theirs], errors.units, errors.confidence)
    table = groups.with_columns(
        pl.Series("challenger_mae_s", errors.mae[:, own]),
        pl.Series("champion_mae_s", errors.mae[:, theirs]),
        pl.Series("low_s", low),
        pl.Series("high_s", high),
    ).with_columns(
        (pl.col("challenger_mae_s") / pl.col("champion_mae_s") - 1).alias("change"),
        (pl.col("challenger_mae_s") - pl.col("champion_mae_s")).alias("difference_s"),
    )
    degraded = (
        (pl.col("change") > gate.max_degradation)
        & (pl.col("low_s") > 0)
        & (pl.col("journeys") >= gate.min_group_journeys)
    )
    return table.slice(1).with_columns(degraded.alias("degraded")).select(list(GROUP_SCHEMA))


def _complaints(
    mae_s: dict[str, Estimate], difference_s: dict[str, Estimate], table: pl.DataFrame, gate: GateConfig
) -> Iterator[str]:
    """The reasons why the challenger does not become champion."""
    limits = {CHAMPION: 0.0 - gate.min_improvement_s}
    if gate.must_beat_translation or CHAMPION not in mae_s:
        limits[TRANSLATION] = 0.0
    for name, difference in difference_s.items():
        if name in limits and not difference.high < limits[name]:
            yield f"{_difference(mae_s, difference_s, name)}, not all below {_number(limits[name], 'g')} s"
    for group in table.filter("degraded").iter_rows(named=True):
        yield (
            f"{group['breakdown']} {group['group']} {group['change']:+.1%} ({group['champion_mae_s']:.2f} s → "
            f"{group['challenger_mae_s']:.2f} s), more than {gate.max_degradation:.0%}"
        )


def _difference(mae_s: dict[str, Estimate], difference_s: dict[str, Estimate], name: str) -> str:
    difference = difference_s[name]
    return (
        f"MAE {mae_s[CHALLENGER].value:.2f} s against {mae_s[name].value:.2f} s of {_ARTICLE[name]}, "
        f"difference {_ends(difference, '+.2f')} s"
    )


_ARTICLE = {CHAMPION: "the champion", TRANSLATION: "translation"}


def _ends(estimate: Estimate, form: str = ".2f") -> str:
    """`61.20 [60.11, 62.34]`."""
    value, low, high = (_number(number, form) for number in vars(estimate).values())
    return f"{value} [{low}, {high}]"


def _number(number: float, form: str) -> str:
    return format(number, form).replace("-", "−")
