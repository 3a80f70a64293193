"""Sums that do not depend on the order of the numbers."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from transformer.evaluation.sums import LIMIT, exact_sum, mean_of, number_of


def summed(values: list[float]) -> float:
    return pl.DataFrame({"x": values}).select(number_of(exact_sum(pl.col("x")))).item()


@pytest.mark.parametrize("seed", range(3))
def test_a_sum_is_the_nearest_number_to_the_exact_one_in_any_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(0, 500, 10_000)
    exact = math.fsum(values)
    assert len({values.cumsum()[-1], values[::-1].cumsum()[-1], np.sort(values).cumsum()[-1]}) > 1  # the usual sum
    for order in (values, values[::-1], np.sort(values), random.permutation(values)):
        assert summed(order.tolist()) == exact


def test_sums_of_parts_add_up_to_the_sum_of_the_whole() -> None:
    values = pl.DataFrame({"x": np.random.default_rng(1).exponential(300, 999), "part": np.arange(999) % 7})
    parts = values.group_by("part").agg(exact_sum(pl.col("x")))
    whole = values.select(exact_sum(pl.col("x")))
    assert parts["x"].sum() == whole["x"].item()
    assert (
        parts.select(mean_of(pl.col("x").sum(), pl.lit(999))).item()
        == whole.select(mean_of(pl.col("x"), pl.lit(999))).item()
    )


def test_a_number_beyond_the_limit_counts_as_the_limit() -> None:
    """The squared error of a training that diverged must not overflow."""
    assert summed([1e30, -1e300, 1e38, 5.0]) == LIMIT + 5
    assert summed([1e30] * 10_000) == 10_000 * LIMIT
