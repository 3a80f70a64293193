"""Times in an impossible order: a train cannot be at a stop before it was at an earlier one.

The heaviest chain of a journey's times that never runs backwards is right, and the other times are wrong. One wrong
time is thus the only one that is given up, wherever it is in the journey. An observation that equals the plan to the
second weighs a quarter of another one, because systems write the plan where they measured nothing. A run of such
observations that begins before the train was seen at an earlier stop is discarded as a whole: the rest of the run
claims the plan as well.

Legend of dimensions: V journeys with an impossible order, N times of the longest of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.data.tables import JOURNEY

MEASURED, ON_PLAN = 4, 1  # weights; on real data, almost no measured observation loses against a run on plan
_BEYOND = 1 << 33  # seconds; later than any time of the dates of a file


def outside_chain(times: pl.DataFrame, column: str, weight: pl.Expr) -> pl.Series:
    """Find the times that are not in the heaviest chain of their journey.

    Args:
        times: rows with JOURNEY and the times `column` without nulls, in the order of each journey.
        weight: the weight of each row.
    """
    backwards = pl.col(column) < pl.col(column).cum_max().shift(1).over(JOURNEY)
    outside = np.zeros(times.height, np.bool_)
    odd = times.select(
        pl.int_range(pl.len()).alias("row"),
        pl.struct(JOURNEY).rle_id().alias("journey"),
        (pl.col(column).dt.epoch("s") - pl.col(column).dt.epoch("s").min()).alias("time"),
        weight.cast(pl.Int64).alias("weight"),
        backwards.any().over(JOURNEY).alias("odd"),
    ).filter(pl.col("odd"))
    # Journeys of similar length are padded together, so that one long journey does not widen the table of all.
    odd = odd.with_columns(
        pl.int_range(pl.len()).over("journey").alias("position"),
        pl.len().over("journey").log(2).ceil().alias("size"),
    )
    for of_size in odd.partition_by("size"):
        _, line = np.unique(of_size["journey"].to_numpy(), return_inverse=True)
        position = of_size["position"].to_numpy()
        shape = (int(line.max()) + 1, int(position.max()) + 1)
        padded, weights = np.full(shape, _BEYOND), np.zeros(shape, np.int64)
        padded[line, position] = of_size["time"].to_numpy()
        weights[line, position] = of_size["weight"].to_numpy()
        outside[of_size["row"].to_numpy()] = ~_heaviest_chain(padded, weights)[line, position]
    return pl.Series(outside)


def impossible_observations(events: pl.DataFrame) -> pl.DataFrame:
    """Find the observations that contradict the others of their journey.

    Args:
        events: validated events, sorted by journey and `seq`.

    Returns:
        For each event, `backwards` (others contradict it) and `claims_plan` (it is part of a discarded run on plan).
    """
    on_plan = pl.col("delay_sec") == 0
    observed = (
        events.select(*JOURNEY, "observed_ts", on_plan.alias("on_plan"))
        .with_row_index("row")
        .filter(pl.col("observed_ts").is_not_null())
    )
    weight = pl.when("on_plan").then(ON_PLAN).otherwise(MEASURED)
    lost = outside_chain(observed, "observed_ts", weight)
    runs = observed.with_columns(lost.alias("lost"), pl.col("on_plan").rle_id().over(JOURNEY).alias("run"))
    whole_run = pl.col("on_plan") & (pl.col("run") > 0) & pl.col("lost").first().over(*JOURNEY, "run")
    odd = runs.select("row", whole_run.alias("claims_plan"), (pl.col("lost") & ~whole_run).alias("backwards"))
    flags = events.select(pl.int_range(pl.len(), dtype=pl.get_index_type()).alias("row"))
    return flags.join(odd, on="row", how="left", maintain_order="left").select(
        pl.col("backwards", "claims_plan").fill_null(False)
    )


def _heaviest_chain(times: npt.NDArray[np.int64], weights: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """The members of the heaviest non-decreasing subsequence of each row [V, N].

    Among equally heavy chains, it is the one with the shortest step, since an outlier makes a long one. The loop runs
    over the positions, for all journeys at once.

    Args:
        times: seconds from the earliest time; below `_BEYOND`, which is the padding at the end.
    """
    rows, size = np.arange(len(times)), times.shape[1]
    total = np.zeros_like(weights)  # of the heaviest chain that ends here
    previous = np.full(times.shape, -1)
    for at in range(size):
        total[:, at] = weights[:, at]
        if at:
            earlier = times[:, :at]
            heaviest = np.where(earlier <= times[:, at : at + 1], total[:, :at] * _BEYOND + earlier, -1)
            best = np.argmax(heaviest, axis=1)
            possible = heaviest[rows, best] >= 0
            total[:, at] += np.where(possible, total[rows, best], 0)
            previous[:, at] = np.where(possible, best, -1)
    member = np.zeros(times.shape, np.bool_)
    end = size - 1 - np.argmax(total[:, ::-1], axis=1)
    while (end >= 0).any():
        going = np.flatnonzero(end >= 0)
        member[going, end[going]] = True
        end[going] = previous[going, end[going]]
    return member
