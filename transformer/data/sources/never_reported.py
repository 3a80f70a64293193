"""Delays of zero that mean "never reported", in sources that write zero for both.

Such a source cannot tell an on-time train from one that nobody reported. Trains and points that report nothing at all
can be recognised: no delay of the whole file differs from zero. Their zeros are taken as not observed. The other false
zeros cannot be recognised, and make trains look more punctual than they are.
"""

from __future__ import annotations

import polars as pl

_SIDES = (("planned_arr", "observed_arr"), ("planned_dep", "observed_dep"))


def without_silent_zeros(visits: pl.LazyFrame, train: str, point: str) -> pl.LazyFrame:
    """Remove the observed times of trains and points whose delays in the file are all zero.

    The frame is read twice, first for the trains and points that report other delays.

    Args:
        visits: rows with the columns of `source.VISIT_SCHEMA` that concern times, and `problem`.
        train: column that a train has on all its dates.
        point: column that identifies a point.

    Returns:
        The visits with the column `changed`, which is `never_reported` where a time was removed.
    """
    delayed = pl.any_horizontal((pl.col(observed) != pl.col(planned)).fill_null(False) for planned, observed in _SIDES)
    reports = (
        visits.filter(pl.col("problem").is_null(), delayed).group_by(train, point).len().collect(engine="streaming")
    )
    silent = ~(pl.col(train).is_in(_values(reports, train)) & pl.col(point).is_in(_values(reports, point)))
    removed = {
        observed: silent & (pl.col(observed) == pl.col(planned)).fill_null(False) for planned, observed in _SIDES
    }
    return visits.with_columns(
        *(pl.when(~gone).then(pl.col(name)).alias(name) for name, gone in removed.items()),
        pl.when(pl.any_horizontal(removed.values())).then(pl.lit("never_reported")).alias("changed"),
    )


def _values(frame: pl.DataFrame, name: str) -> list[object]:
    return frame[name].unique().to_list()
