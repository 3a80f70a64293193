"""Trains of one date that a source lists in a way that no stage can use: twice, or with a route that goes back."""

from __future__ import annotations

import polars as pl


def without_re_routed(visits: pl.DataFrame) -> pl.DataFrame:
    """Give all visits of a train the problem `re_routed` if its planned times go back in their order.

    After a diversion some sources append the new stops, and keep the old ones. The route is then neither.

    Args:
        visits: usable rows of one service date with the columns of `source.VISIT_SCHEMA`, and an `order`.
    """
    arrival, departure = pl.col("planned_arr"), pl.col("planned_dep")
    before = pl.max_horizontal(arrival, departure).cum_max().shift(1).over("train_id", order_by="order")
    again = (pl.col("order") == pl.col("order").shift(1)).over(
        "train_id", order_by="order"
    )  # a row that is listed twice
    goes_back = ((pl.min_horizontal(arrival, departure) < before) & ~again) | (departure < arrival)
    found = goes_back.fill_null(False).any().over("train_id")
    return visits.with_columns(pl.when(found).then(pl.lit("re_routed")).otherwise("problem").alias("problem"))


def without_repeated(visits: pl.DataFrame) -> pl.DataFrame:
    """Give all visits of a train the problem `repeated_service` if another train has all its planned times and more.

    Coupled and renumbered trains are recorded several times under several numbers, so numbers cannot show this. One
    that runs is never left out for one that is cancelled. If two are equal, the first in the file stays.

    Args:
        visits: usable rows of one service date with the columns of `source.VISIT_SCHEMA`.
    """
    where = ["point", "side", "time"]
    rows = visits.filter(pl.col("problem").is_null()).with_row_index("first")
    events = (
        pl.concat(
            rows.select(
                "train_id",
                pl.col("first").min().over("train_id"),
                pl.coalesce("source_id", pl.col("op_id").cast(pl.String)).alias("point"),
                pl.lit(side).alias("side"),
                pl.col(f"planned_{side}").alias("time"),
                pl.col(f"cancelled_{side}").fill_null(False).alias("cancelled"),
            )
            for side in ("arr", "dep")
        )
        .drop_nulls("time")
        .unique(["train_id", *where], keep="first", maintain_order=True)
        .with_columns(pl.len().over("train_id").alias("size"))
    )
    pairs = events.join(events, on=where, suffix="_other").filter(pl.col("train_id") != pl.col("train_id_other"))
    lost, won = pl.col("cancelled_other") & ~pl.col("cancelled"), pl.col("cancelled") & ~pl.col("cancelled_other")
    trains = pairs.group_by("train_id", "train_id_other").agg(
        pl.len().alias("shared"),
        lost.any().alias("lost"),
        won.any().alias("won"),
        pl.col("size", "size_other", "first", "first_other").first(),
    )
    size, other = pl.col("size"), pl.col("size_other")
    repeated = trains.filter(
        pl.col("shared") == size,
        ~pl.col("lost"),
        (other > size) | pl.col("won") | (pl.col("first_other") < pl.col("first")),
    )["train_id"].unique()
    found = pl.col("train_id").is_in(repeated.to_list())
    return visits.with_columns(pl.when(found).then(pl.lit("repeated_service")).otherwise("problem").alias("problem"))
