"""Which of the observations that contradict each other are discarded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.events import DAY, NOON
from transformer.data.tables import EVENT_SCHEMA
from transformer.data.time_order import MEASURED, ON_PLAN, impossible_observations, outside_chain


def journeys(*delays: Sequence[float | None], every: float = 2) -> pl.DataFrame:
    """Journeys with these delays in minutes, and a stop every few minutes."""
    lines = []
    for number, of_journey in enumerate(delays):
        for seq, delay in enumerate(of_journey):
            planned = NOON + timedelta(minutes=every * seq)
            seen = None if delay is None else planned + timedelta(minutes=delay)
            seconds = None if delay is None else int(60 * delay)
            lines.append((f"{number:05d}", DAY, seq, seq, "A", planned, seen, seconds))
    return pl.DataFrame(lines, schema=EVENT_SCHEMA, orient="row")


def discarded(delays: Sequence[float | None], every: float = 2) -> tuple[list[int], list[int]]:
    """Positions that others contradict, and positions of runs that claim the plan."""
    flags = impossible_observations(journeys(delays, every=every))
    return tuple(flags[name].arg_true().to_list() for name in ("backwards", "claims_plan"))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("delays", "backwards", "claims_plan"),
    [
        ([3, 3, 4, 4, 5], [], []),
        ([0, 0, 0, 0], [], []),  # a train on time
        ([3, 3, 3, 3, -45], [4], []),  # the terminus
        ([-30, -30, 3, 3, 3], [], []),  # in order
        ([90, 3, 3, 3, 3], [0], []),
        ([7, 7, 7, 0, 0, 0, 0, 7, 7], [], [3, 4, 5, 6]),  # points that were not measured
        ([7, 7, 7, 0, 0, 0, 0, 0], [], [3, 4, 5, 6, 7]),
        ([7, 7, None, 0, None, 0, 7], [], [3, 5]),
        ([1, 1, 0, 0, 0], [], []),  # a minute caught up between two stops
        ([0, 0, 45, 0, 0, 0, 0, 0, 0], [2], []),  # most stops on plan contradict one delay
        ([9, 8, 7, 0, 1, 9, 9], [4], [3]),
        ([], [], []),
        ([None, None], [], []),
    ],
)
def test_what_most_observations_contradict_loses(
    delays: list[float | None], backwards: list[int], claims_plan: list[int]
) -> None:
    assert discarded(delays) == (backwards, claims_plan)


def test_journeys_of_any_length_do_not_affect_each_other() -> None:
    many = [[3.0, 3.0, -45.0], [7.0, 7.0, 7.0, 0.0, 7.0], [5.0] * 300, [5.0] * 299 + [-100.0], [1.0]]
    together = impossible_observations(journeys(*many))
    alone = pl.concat([impossible_observations(journeys(one)) for one in many])
    assert together.equals(alone)
    assert together.sum().row(0) == (2, 1)


@given(st.lists(st.one_of(st.none(), st.integers(-20, 20), st.just(0)), max_size=12))
def test_the_chain_is_the_heaviest_that_never_runs_backwards(delays: list[int | None]) -> None:
    """A search through all chains is the oracle."""
    frame = journeys(delays)
    flags = impossible_observations(frame)
    times = [(2 * n + d, ON_PLAN if d == 0 else MEASURED) for n, d in enumerate(delays) if d is not None]
    best = 0
    for chosen in range(1 << len(times)):
        chain = [times[n] for n in range(len(times)) if chosen >> n & 1]
        if all(a[0] <= b[0] for a, b in pairwise(chain)):
            best = max(best, sum(weight for _, weight in chain))
    kept = frame.filter(~flags["backwards"] & ~flags["claims_plan"] & frame["observed_ts"].is_not_null())
    assert kept["observed_ts"].is_sorted()
    if not flags["claims_plan"].any():
        weights = np.where(kept["delay_sec"].to_numpy() == 0, ON_PLAN, MEASURED)
        assert weights.sum() == best


def test_one_planned_time_that_is_too_late_costs_itself_only() -> None:
    minutes = [0, 300, 10, 20, 30, 5, 40]
    times = journeys([None] * 7).with_columns(pl.Series("planned_ts", [NOON + timedelta(minutes=m) for m in minutes]))
    assert outside_chain(times, "planned_ts", pl.lit(1)).arg_true().to_list() == [1, 5]


def test_of_two_times_the_one_with_the_longer_step_is_wrong() -> None:
    for minutes, wrong in (([0, -170, 20, 30], [1]), ([0, 10, 200, 30], [2])):
        times = journeys([None] * 4).with_columns(
            pl.Series("planned_ts", [NOON + timedelta(minutes=m) for m in minutes])
        )
        assert outside_chain(times, "planned_ts", pl.lit(1)).arg_true().to_list() == wrong


def test_without_contradiction_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer.data.time_order._heaviest_chain", None)
    assert discarded([1, 2, 3, 2, 1, 0, 0]) == ([], [])
