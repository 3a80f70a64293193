"""Exact sums of numbers.

The sum of floating-point numbers depends on their order, and so on the parts in which rows are read and on the number
of threads. These sums do not: each number becomes a whole multiple of UNIT, and whole numbers are added.
"""

from __future__ import annotations

import polars as pl

UNIT = 2.0**-50  # of seconds or their squares. Delays are float32: those above 2⁻²⁶ s in size are multiples of it
LIMIT = 2.0**40  # a larger number counts as the limit, so that the sum of 2³⁶ numbers fits into 128 bits


def exact_sum(values: pl.Expr) -> pl.Expr:
    """The sum in UNITs, as Int128. The sums of several parts add up to the sum of the whole."""
    return (values.clip(-LIMIT, LIMIT) / UNIT).cast(pl.Int128).sum()


def number_of(total: pl.Expr) -> pl.Expr:
    """An `exact_sum` as the nearest Float64."""
    return total.cast(pl.Float64) * UNIT


def mean_of(total: pl.Expr, n: pl.Expr) -> pl.Expr:
    """The mean of `n` numbers with this `exact_sum`."""
    return number_of(total) / n
