"""Expressions that several sources need to make visits of their rows."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from transformer.data.sources.reasons import LEFT_OUT

MAX_DAYS_FROM_SERVICE_DATE = 7  # a time further away is a typing error or a placeholder such as 31DEC9999


def first_problem(conditions: Mapping[str, pl.Expr]) -> pl.Expr:
    """Return the column `problem`: the first reason whose condition holds, or null.

    Args:
        conditions: reasons of LEFT_OUT in the order in which they count. A condition that is null does not hold.
    """
    unknown = conditions.keys() - LEFT_OUT.keys()
    assert not unknown, f"{unknown} are no reasons of LEFT_OUT"
    reasons = (pl.when(condition).then(pl.lit(reason)) for reason, condition in conditions.items())
    return pl.coalesce(*reasons).alias("problem")


def without_planned_time() -> pl.Expr:
    return pl.col("planned_arr").is_null() & pl.col("planned_dep").is_null()


def near_service_date(name: str) -> pl.Expr:
    """Return whether a time is near the column `service_date`; false if one of them is null."""
    days = (pl.col(name).dt.date() - pl.col("service_date")).dt.total_days()
    return (days.abs() <= MAX_DAYS_FROM_SERVICE_DATE).fill_null(False)


def filled_text(name: str) -> pl.Expr:
    """Return a column of text with null in place of empty text."""
    return pl.when(pl.col(name) != "").then(pl.col(name))


def train_kind(long_distance: pl.Expr, regional: pl.Expr) -> pl.Expr:
    """Return the train type of rows. A condition that is null does not hold."""
    return (
        pl.when(long_distance)
        .then(pl.lit("long_distance"))
        .when(regional)
        .then(pl.lit("regional"))
        .otherwise(pl.lit("other"))
    )
