"""The first sentence of a report: what the model is worth, and where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from transformer.evaluation import metrics
from transformer.evaluation.measures import Measures
from transformer.evaluation.report.figures import minute_ranges
from transformer.evaluation.report.page_tables import Comparison
from transformer.pages.page import plain_number
from transformer.text import seconds_text, share_text

LEAST_SHARE = 0.03  # of the predictions; a smaller group says little
CLEARLY_BELOW = 0.02  # skill; a group less below the skill of all is no weak spot


@dataclass(frozen=True)
class _Group:
    name: str  # completes "the model fails …"
    share: float  # of the predictions
    skill: float


def lead(measures: Measures, comparison: Comparison | None) -> str:
    """`The model is off by 81.6 s on average, 32.3% less than translation; it is weakest …`

    The weakest group is the one with the least skill among horizons, train types, hours, and trains with or without a
    known event: what is known when the model predicts.

    Args:
        comparison: the model and the champion, if there is one.
    """
    summary = measures.summary
    worth = f"The model is off by {_seconds(summary['mae_s'])} on average"
    if summary["translation_mae_s"] > 0:
        worth += f", {_less_or_more(summary['skill'])} than translation"
    if comparison:
        worth += f", and {_against(comparison)}"
    return f"{worth}; {_weak_spot(measures)}."


def _seconds(value: float) -> str:
    return plain_number(seconds_text(value))


def _less_or_more(skill: float) -> str:
    return f"{share_text(abs(skill))} {'less' if skill >= 0 else 'more'}"


def _against(comparison: Comparison) -> str:
    difference, name = comparison.mae_s - comparison.theirs["mae_s"], comparison.champion.name
    interval = comparison.champion.interval
    if interval and interval["low_s"] <= 0 <= interval["high_s"]:
        return f"not clearly other than {name}"
    return f"{_seconds(abs(difference))} {'less' if difference <= 0 else 'more'} than {name}"


def _weak_spot(measures: Measures) -> str:
    groups = [group for group in _groups(measures) if group.share >= LEAST_SHARE]
    weakest = min(groups, key=lambda group: group.skill, default=None)
    if weakest is None or weakest.skill > measures.summary["skill"] - CLEARLY_BELOW:
        return "no horizon, train type or hour is clearly weaker than the others"
    share = f"({share_text(weakest.share)} of the predictions)"
    if weakest.skill < 0:
        return f"it fails {weakest.name} {share}, where it is {share_text(-weakest.skill)} worse than translation"
    return f"it is weakest {weakest.name} {share}, where it is {share_text(weakest.skill)} better than translation"


def _groups(measures: Measures) -> Iterator[_Group]:
    total = measures.summary["n"]
    for by in ("horizon", "train_type", "departed", "hour"):
        groups = measures.groups(by).filter(pl.col("skill").is_not_null() & pl.col("skill").is_not_nan())
        for name, group in zip(_names(by, groups[by]), groups.iter_rows(named=True), strict=True):
            yield _Group(name, group["n"] / total, group["skill"])


def _names(by: str, groups: pl.Series) -> list[str]:
    if by == "horizon":
        ranges = minute_ranges(groups, metrics.HORIZON, first="overdue")
        return ["at overdue events" if name == "overdue" else f"at events planned in {name} min" for name in ranges]
    if by == "train_type":
        return [f"for trains of type {name}" for name in groups]
    if by == "departed":
        return [f"for trains {'with' if known == 'yes' else 'without'} a known event" for known in groups]
    return [f"from {hour}:00 to {hour}:59" for hour in groups]
