"""Observations in an impossible order: a train cannot be at a stop before it was at an earlier one.

Which observation is wrong is decided per journey by the heaviest chain of observations that never runs backwards. An
observation equal to the plan to the second weighs a quarter of another one, because systems write the plan where they
measured nothing. A run of such observations that begins before the train was seen at an earlier stop is discarded as a
whole: the rest of the run claims the plan as well.

Legend of dimensions: V journeys with an impossible order, N observations of the longest of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.data.tables import JOURNEY

MEASURED, ON_PLAN = 4, 1  # weights; on real data, almost no measured observation loses against a run on plan
_BEYOND = np.iinfo(np.int64).max


def impossible_observations(events: pl.DataFrame) -> pl.DataFrame:
    """Find the observations that contradict the others of their journey.

    Args:
        events: validated events, sorted by journey and `seq`.

    Returns:
        For each event, `backwards` (others contradict it) and `claims_plan` (it is part of a discarded run on plan).
    """
    observed = (
        events.select(*JOURNEY, "observed_ts", "delay_sec")
        .with_row_index("row")
        .filter(pl.col("observed_ts").is_not_null())
    )
    before = pl.col("observed_ts").cum_max().shift(1).over(JOURNEY)
    odd = (
        observed.filter((pl.col("observed_ts") < before).any().over(JOURNEY))
        .with_columns(
            pl.struct(JOURNEY).rle_id().alias("journey"),
            (pl.col("delay_sec") == 0).alias("on_plan"),
        )
        .with_columns(
            pl.int_range(pl.len()).over("journey").alias("position"),
            pl.col("on_plan").rle_id().over("journey").alias("run"),
        )
    )
    odd = odd.with_columns(~pl.lit(_in_chain(odd), pl.Boolean).alias("lost"))
    whole_run = pl.col("on_plan") & (pl.col("run") > 0) & pl.col("lost").first().over("journey", "run")
    odd = odd.select("row", (pl.col("lost") & ~whole_run).alias("backwards"), whole_run.alias("claims_plan"))
    flags = events.select(pl.int_range(pl.len(), dtype=pl.get_index_type()).alias("row"))
    return flags.join(odd, on="row", how="left", maintain_order="left").select(
        pl.col("backwards", "claims_plan").fill_null(False)
    )


def _in_chain(odd: pl.DataFrame) -> pl.Series:
    """Whether each observation is in the heaviest chain of its journey."""
    kept = np.zeros(odd.height, np.bool_)
    length = odd.select(pl.len().over("journey")).to_series().to_numpy()
    journey, position = odd["journey"].to_numpy(), odd["position"].to_numpy()
    seconds = odd["observed_ts"].dt.epoch("s").to_numpy()
    weight = np.where(odd["on_plan"].to_numpy(), ON_PLAN, MEASURED)
    # Journeys of similar length are padded together, so that one long journey does not widen the table of all.
    for size in np.unique(np.ceil(np.log2(length))) if len(length) else ():
        rows = np.flatnonzero(np.ceil(np.log2(length)) == size)
        _, line = np.unique(journey[rows], return_inverse=True)
        shape = (int(line.max()) + 1, int(length[rows].max()))
        times, weights = np.full(shape, _BEYOND), np.zeros(shape, np.int64)
        times[line, position[rows]] = seconds[rows]
        weights[line, position[rows]] = weight[rows]
        kept[rows] = _heaviest_chain(times, weights)[line, position[rows]]
    return pl.Series(kept)


def _heaviest_chain(times: npt.NDArray[np.int64], weights: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """The members of the heaviest non-decreasing subsequence of each row [V, N]; of equals, the later one.

    The loop runs over the positions, for all journeys at once.
    """
    rows, size = np.arange(len(times)), times.shape[1]
    total = np.zeros_like(weights)  # of the heaviest chain that ends here
    previous = np.full(times.shape, -1)
    for at in range(size):
        total[:, at] = weights[:, at]
        if at:
            possible = np.where(times[:, :at] <= times[:, at : at + 1], total[:, :at], 0)
            best = at - 1 - np.argmax(possible[:, ::-1], axis=1)
            gain = possible[rows, best]
            total[:, at] += gain
            previous[:, at] = np.where(gain > 0, best, -1)
    member = np.zeros(times.shape, np.bool_)
    end = size - 1 - np.argmax(total[:, ::-1], axis=1)
    while (end >= 0).any():
        going = np.flatnonzero(end >= 0)
        member[going, end[going]] = True
        end[going] = previous[going, end[going]]
    return member
