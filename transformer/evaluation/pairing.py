"""The rows that a challenger and the champion predict for the same events, reduced to sums of absolute errors.

The sums are those of each *unit*, a service date or a journey, in each group of each breakdown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from transformer.config import GateConfig
from transformer.data.tables import JOURNEY
from transformer.errors import UserError
from transformer.evaluation.metrics import MODEL_ERROR_S, TRANSLATION_ERROR_S, check_rows, group_keys
from transformer.evaluation.sums import exact_sum, number_of
from transformer.prediction.columns import ROW_KEY
from transformer.prediction.row_files import EvaluationRows, collect_parts, parts_of

CHALLENGER, CHAMPION, TRANSLATION = "challenger", "champion", "translation"
TRUTH = ("observed_delay_s", "translation_delay_s")  # columns that depend on the data and not on the model
SAME_S = 0.5  # two models may differ by this much in a column of TRUTH: their delays are float32

_COUNTS = (pl.len().cast(pl.Int64).alias("n"), pl.struct(JOURNEY).n_unique().cast(pl.Int64).alias("journeys"))
_DATES = (pl.len() > 0).cast(pl.Int64).alias("dates")
_DIFFERING = tuple(((pl.col(name) - pl.col(f"{name}_theirs")).abs() > SAME_S).sum().alias(name) for name in TRUTH)


@dataclass(frozen=True)
class Paired:
    """Counts of the compared rows, and the sums of their absolute errors."""

    predictors: tuple[str, ...]
    n: int
    journeys: int
    unmatched: int  # rows that only one model predicts
    beyond: int  # rows further ahead than one of the two models predicts at all
    unit: str  # `service date` or `journey`
    groups: pl.DataFrame  # breakdown, group, n, journeys: first all rows, then each breakdown in its natural order
    sums: pl.DataFrame  # unit (a number from 0), breakdown, group, n, and a column for each predictor


def pair(
    challenger: EvaluationRows, champion: EvaluationRows | None, gate: GateConfig, timezone: str = "UTC"
) -> Paired:
    """Pair the rows of two models. Without a champion, all rows of the challenger count.

    The unit is the service date if the rows are of at least `min_service_dates` dates, else the journey.

    Args:
        timezone: IANA name, for `time_of_day`.

    Raises:
        UserError: there are too few journeys, or the rows of the two models do not belong together.
    """
    _check(challenger, CHALLENGER)
    errors = (MODEL_ERROR_S.abs().alias(CHALLENGER), TRANSLATION_ERROR_S.abs().alias(TRANSLATION))
    own = {day: part.with_columns(errors) for day, part in parts_of(challenger).items()}
    if champion is None:
        parts = list(own.values())
        return _summed(parts, _added(parts, *_COUNTS, _DATES), (CHALLENGER, TRANSLATION), {}, gate)
    _check(champion, CHAMPION)
    # One model may look further ahead than the other. Its additional events do not mean that the rows differ.
    ahead = pl.col("rank") <= min(_reach(challenger), _reach(champion))
    theirs = (pl.col(*ROW_KEY, *TRUTH), MODEL_ERROR_S.abs().alias(CHAMPION))
    others = {day: part.filter(ahead).select(theirs) for day, part in parts_of(champion).items()}
    joined = [
        part.filter(ahead).join(others[day], on=ROW_KEY, suffix="_theirs", validate="1:1")
        for day, part in own.items()
        if day in others
    ]
    counts = _added(joined, *_COUNTS, _DATES, *_DIFFERING)
    within_reach = sum(_count(rows, ahead) for rows in (challenger, champion))
    unmatched = within_reach - 2 * counts["n"]
    beyond = challenger.height + champion.height - within_reach
    _refuse_other_rows(counts, unmatched, gate)
    keys = group_keys(timezone)
    breakdowns = {by: keys[by] for by in gate.breakdowns}
    return _summed(joined, counts, (CHALLENGER, CHAMPION, TRANSLATION), breakdowns, gate, unmatched, beyond)


def _check(rows: EvaluationRows, whose: str) -> None:
    check_rows(rows)
    surplus = collect_parts(rows, lambda part: part.select(pl.len().cast(pl.Int64) - pl.struct(ROW_KEY).n_unique()))
    if twice := surplus.sum().item():
        raise UserError(f"{twice:,} rows of the {whose} occur twice; evaluate it on one window")


def _reach(rows: EvaluationRows) -> int:
    """The greatest rank."""
    return int(collect_parts(rows, lambda part: part.select(pl.col("rank").max())).max().item())


def _count(rows: EvaluationRows, condition: pl.Expr) -> int:
    return int(collect_parts(rows, lambda part: part.select(condition.sum())).sum().item())


def _added(parts: Sequence[pl.LazyFrame], *counts: pl.Expr) -> Counter[str]:
    """Counts over the rows of all parts."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part.select(counts).collect().row(0, named=True))
    return total


def _refuse_other_rows(counts: Mapping[str, int], unmatched: int, gate: GateConfig) -> None:
    """Refuse models whose rows differ.

    Args:
        counts: `n` rows that both models predict, and how many of them differ, by column of TRUTH.
    """
    n = counts["n"]
    share = unmatched / (unmatched + n)
    if share > gate.max_unmatched_share:
        raise UserError(
            f"only one model predicts {unmatched:,} rows ({share:.1%}), above evaluation.gate.max_unmatched_share="
            f"{gate.max_unmatched_share}; evaluate both models on the same window, with the same data.grid and "
            "data.snapshot"
        )
    for name in TRUTH:
        if counts[name]:
            raise UserError(
                f"{name} differs between the two models in {counts[name]:,} of {n:,} rows; "
                "evaluate both on the same event tables"
            )


def _summed(
    parts: Sequence[pl.LazyFrame],
    counts: Mapping[str, int],
    predictors: tuple[str, ...],
    breakdowns: Mapping[str, pl.Expr],
    gate: GateConfig,
    unmatched: int = 0,
    beyond: int = 0,
) -> Paired:
    """Sum the columns of the predictors.

    Args:
        parts: the compared rows of each service date.
        counts: `n` rows, `journeys` and `dates` of these parts.
        breakdowns: the group of each row, by name of the breakdown.
    """
    if counts["journeys"] < gate.min_journeys:
        raise UserError(
            f"{counts['journeys']} journeys are too few to compare models on (evaluation.gate.min_journeys="
            f"{gate.min_journeys}); evaluate on a longer window"
        )
    name, unit = (
        ("service date", ["service_date"]) if counts["dates"] >= gate.min_service_dates else ("journey", JOURNEY)
    )
    keys = {"": pl.lit(""), **breakdowns}
    groups: dict[str, list[pl.DataFrame]] = {by: [] for by in keys}
    sums: dict[str, list[pl.DataFrame]] = {by: [] for by in keys}
    for part in parts:
        rows = part.collect()
        for by, key in keys.items():
            keyed = rows.with_columns(key.alias("group"))
            groups[by].append(keyed.group_by("group").agg(_COUNTS))
            sums[by].append(keyed.group_by(*unit, "group").agg(pl.len().alias("n"), exact_sum(pl.col(predictors))))
    ordered = {by: pl.concat(found).group_by("group").agg(pl.all().sum()).sort("group") for by, found in groups.items()}
    number = (pl.struct(unit).rank("dense") - 1).cast(pl.Int64).alias("unit")
    return Paired(
        predictors,
        counts["n"],
        counts["journeys"],
        unmatched,
        beyond,
        name,
        _by_breakdown(ordered),
        _by_breakdown({by: pl.concat(found) for by, found in sums.items()}).select(
            number, "breakdown", "group", "n", number_of(pl.col(predictors))
        ),
    )


def _by_breakdown(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The frames one below the other, with the name of the breakdown and the group's name as text."""
    group = pl.col("group").cast(pl.String)
    return pl.concat([frame.with_columns(group, pl.lit(by).alias("breakdown")) for by, frame in frames.items()])
