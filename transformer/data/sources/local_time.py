"""Wall-clock times of sources as instants, also in the hours that the two clock changes skip and repeat.

In the hour that autumn repeats, a planned time is the first of the two instants, or the second if the order of the
journey says so. A real time is the instant nearer to the planned time, so that no delay gains or loses an hour. A time
in the hour that spring skips is read at the offset before the change: 02:30 is the instant 03:30.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

_HOUR = pl.duration(hours=1)


def earlier_instant(name: str, timezone: str) -> pl.Expr:
    """Return the UTC instants of a column of naive local times; the first one of an hour that is repeated."""
    return _instant(name, timezone, latest=False).alias(name)


def planned_instants(name: str, timezone: str, journey: Sequence[str], order: str) -> pl.Expr:
    """Return the UTC instants of planned local times of journeys whose order is known.

    A time of the hour that is repeated is the first of both, unless the journey would then go back in time.

    Args:
        journey: columns that identify a journey.
        order: column of the order in a journey.
    """
    earlier, later = _instant(name, timezone, latest=False), _instant(name, timezone, latest=True)
    before = earlier.cum_max().shift(1).over(journey, order_by=order)
    return pl.when((earlier < before).fill_null(False)).then(later).otherwise(earlier).alias(name)


def nearer_instant(name: str, planned: str, timezone: str) -> pl.Expr:
    """Return the UTC instants of naive local times. If the clock showed one twice, it is that nearer to `planned`.

    Args:
        planned: column of UTC instants.
    """
    earlier, later = _instant(name, timezone, latest=False), _instant(name, timezone, latest=True)
    nearer_later = (later - pl.col(planned)).abs() < (earlier - pl.col(planned)).abs()
    return pl.when(nearer_later).then(later).otherwise(earlier).alias(name)


def only_instant(name: str, timezone: str) -> pl.Expr:
    """Return the UTC instants of naive local times. If the clock showed one twice, it is the first."""
    return _instant(name, timezone, latest=False).alias(name)


def in_order(visits: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """Return the visits of one service date with planned times of the repeated hour moved to its second instant.

    A time is moved if the journey would go back in time without it. The observed times follow the planned ones.

    Args:
        visits: rows with the columns of `source.VISIT_SCHEMA`, and an `order`. Planned times of the repeated hour are
            the first of both instants.
    """
    planned = ("planned_arr", "planned_dep")
    observed = ("observed_arr", "observed_dep")
    clocks = visits.with_row_index("row").with_columns(
        pl.col(name).dt.convert_time_zone(timezone).dt.replace_time_zone(None) for name in planned + observed
    )
    later = clocks.select(_instant(name, timezone, latest=True).alias(name) for name in planned)
    if later.equals(visits.select(planned)):
        return visits
    events = (
        pl.concat(
            visits.select(
                "train_id", "order", pl.lit(name).alias("side"), pl.col(name).alias("time"), later=later[name]
            ).with_row_index("row")
            for name in planned
        )
        .drop_nulls("time")
        .sort("train_id", "order", "side")  # an arrival comes before the departure
    )
    goes_back = (pl.col("time") < pl.col("time").cum_max().shift(1)).fill_null(False)
    events = events.with_columns(
        pl.when((goes_back.cum_sum() > 0).over("train_id")).then("later").otherwise("time").alias("time")
    )
    for name in planned:
        times = events.filter(pl.col("side") == name).select("row", pl.col("time").alias(name))
        clocks = clocks.drop(name).join(times, on="row", how="left", maintain_order="left")
    return clocks.with_columns(
        nearer_instant(name, basis, timezone) for name, basis in zip(observed, planned, strict=True)
    ).select(visits.columns)


def _instant(name: str, timezone: str, latest: bool) -> pl.Expr:
    shown = pl.col(name).dt.replace_time_zone(
        timezone, ambiguous="latest" if latest else "earliest", non_existent="null"
    )
    skipped = (pl.col(name) - _HOUR).dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null") + _HOUR
    return pl.coalesce(shown, skipped).dt.convert_time_zone("UTC")
