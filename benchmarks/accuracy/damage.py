"""Damage to a feed: observations that are known late, lost or wrong. Only inputs change, and never labels.

Each damage takes validated events in the order of their table and a generator. It returns the same events with other
`reported_ts` and `known_ts`.

Legend of dimensions: E events, J journeys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.data.tables import JOURNEY, TIMESTAMP
from transformer.features.graph import edge_counts

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Damage = Callable[[pl.DataFrame, np.random.Generator], pl.DataFrame]

LATE_S = (30, 600)  # range of the delays of points
FROZEN_S = 1_200
BURST_S = (1_800, 7_200)  # range of the lengths of bursts
WRONG_SHARE = 0.1  # share of journeys with a wrong report
EARLY_AFTER_S = 60  # from a stop of the train to the wrong report of its terminus
STRETCH = 5  # events that claim the plan
SILENT_SHARE = 0.1  # share of the observations that are in the silent region


def unharmed(events: pl.DataFrame, _: np.random.Generator) -> pl.DataFrame:
    return events


def late(events: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
    """Each point reports with a delay of its own, drawn from LATE_S."""
    points, point = np.unique(events["op_id"].to_numpy(), return_inverse=True)
    return _later(events, generator.integers(*LATE_S, len(points), endpoint=True)[point])


def frozen(events: pl.DataFrame, _: np.random.Generator) -> pl.DataFrame:
    """At each instant, the feed has been frozen for FROZEN_S."""
    return _later(events, np.full(events.height, FROZEN_S))


def lost(share: float) -> Damage:
    """A share of the observations is lost, each by itself."""

    def damage(events: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
        return _without(events, generator.random(events.height) < share)

    return damage


def lost_in_bursts(share: float) -> Damage:
    """All observations on the line of a random journey are lost for a time of BURST_S, until a share is lost."""

    def damage(events: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
        seen, time = events["reported_ts"].is_not_null().to_numpy(), _seconds(events["reported_ts"])
        start, length, _ = _journeys(events)
        point = events["op_id"].to_numpy()
        gone = np.zeros(events.height, np.bool_)
        while seen.any() and (gone & seen).sum() < share * seen.sum():
            journey = int(generator.integers(len(start)))
            line = slice(start[journey], start[journey] + length[journey])
            if not seen[line].any():
                continue
            begin = generator.choice(time[line][seen[line]])
            end = begin + generator.integers(*BURST_S, endpoint=True)
            gone |= np.isin(point, point[line]) & (time >= begin) & (time <= end)
        return _without(events, gone)

    return damage


def early_terminus(events: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
    """The last event of some journeys is reported while the train is at an earlier stop; its true report is lost."""
    start, length, journey = _journeys(events)
    end = start + length - 1
    seen = events["reported_ts"].is_not_null().to_numpy()
    seen[end] = False
    number = np.bincount(journey[seen], minlength=len(start))
    chosen = (generator.random(len(start)) < WRONG_SHARE) & (number > 0)
    rank = (generator.random(len(start)) * number).astype(np.int64)
    stop = np.flatnonzero(seen)[(np.cumsum(number) - number + rank)[chosen]]
    return _reporting(events, end[chosen], _seconds(events["reported_ts"])[stop] + EARLY_AFTER_S)


def claimed_plan(events: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
    """STRETCH events of some journeys are reported at their planned times, whether the train was there or not."""
    start, length, journey = _journeys(events)
    chosen = generator.random(len(start)) < WRONG_SHARE
    first = (generator.random(len(start)) * length).astype(np.int64)
    rank = np.arange(events.height) - start[journey] - first[journey]
    rows = np.flatnonzero(chosen[journey] & (rank >= 0) & (rank < STRETCH))
    return _reporting(events, rows, _seconds(events["planned_ts"])[rows])


def silent_region(events: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
    """A region reports nothing: points around a random one, step by step along the lines, up to SILENT_SHARE."""
    seen = events.filter(pl.col("reported_ts").is_not_null()).group_by("op_id").len().sort("op_id")
    observations = dict(seen.iter_rows())
    edges = edge_counts(events)
    ends = edges.select("op_a", "op_b").sort("op_a", "op_b")
    near: dict[int, list[int]] = {}
    for a, b in ends.iter_rows():
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    centre = int(generator.choice(seen["op_id"].to_numpy())) if len(seen) else -1
    region, total, most = [centre], observations.get(centre, 0), SILENT_SHARE * sum(observations.values())
    reached = {centre}
    for point in region:  # grows while it is read: nearer points come first
        for other in near.get(point, []):
            if other not in reached and total < most:
                reached.add(other)
                region.append(other)
                total += observations.get(other, 0)
    return _without(events, events["op_id"].is_in(region).to_numpy())


DAMAGES: Mapping[str, Damage] = MappingProxyType(
    {
        "undamaged": unharmed,
        "known late, 30 s to 10 min per point": late,
        **{f"{share:.0%} lost": lost(share) for share in (0.05, 0.15, 0.3)},
        **{f"{share:.0%} lost in bursts": lost_in_bursts(share) for share in (0.05, 0.15, 0.3)},
        "terminus reported early (10% of trains)": early_terminus,
        "a stretch claims the plan (10% of trains)": claimed_plan,
        "a region silent (10% of observations)": silent_region,
        "feed frozen for 20 min": frozen,
    }
)


def _journeys(events: pl.DataFrame) -> tuple[Int64Array, Int64Array, Int64Array]:
    """First event [J] and number of events [J] of each journey, and the journey of each event [E]."""
    journey = events.select(pl.struct(JOURNEY).rle_id()).to_series().to_numpy().astype(np.int64)
    length = np.bincount(journey).astype(np.int64)
    return np.cumsum(length) - length, length, journey


def _seconds(column: pl.Series) -> Int64Array:
    """Seconds since the Unix epoch [E]; 0 = null."""
    return column.dt.epoch("s").fill_null(0).to_numpy().astype(np.int64)


def _later(events: pl.DataFrame, seconds: Int64Array) -> pl.DataFrame:
    delay = pl.Series(seconds * 1_000_000).cast(pl.Duration("us"))
    return events.with_columns(pl.col("known_ts") + delay)


def _without(events: pl.DataFrame, gone: BoolArray) -> pl.DataFrame:
    return events.with_columns(pl.when(~pl.Series(gone)).then(pl.col("reported_ts", "known_ts")))


def _reporting(events: pl.DataFrame, rows: Int64Array, seconds: Int64Array) -> pl.DataFrame:
    """Report the events `rows` at these times, which are also the times at which that is known."""
    changed = np.zeros(events.height, np.bool_)
    times = np.zeros(events.height, np.int64)
    changed[rows], times[rows] = True, seconds
    wrong = pl.Series(times * 1_000_000).cast(TIMESTAMP)
    return events.with_columns(
        pl.when(pl.Series(changed)).then(wrong).otherwise(pl.col(name)).alias(name)
        for name in ("reported_ts", "known_ts")
    )
