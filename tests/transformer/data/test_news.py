"""The known events of a journey after each report, against a plain loop."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tests.oracles.snapshot_loop import _chains
from transformer.data.news import news_of

NEVER = 1 << 40
reports = st.lists(st.one_of(st.none(), st.just(0), st.integers(-30, 30)), min_size=1, max_size=9)


class Plain:
    def __init__(self, planned: list[int]) -> None:
        self.planned = planned


@given(st.lists(reports, min_size=1, max_size=6))
def test_the_known_events_are_those_of_the_heaviest_chain(journeys: list[list[int | None]]) -> None:
    """Reports are delays in minutes at stops five minutes apart."""
    planned = [5 * n for delays in journeys for n in range(len(delays))]
    reported = [NEVER if d is None else 5 * n + d + 100 for delays in journeys for n, d in enumerate(delays)]
    number = np.repeat(np.arange(len(journeys)), [len(delays) for delays in journeys])
    times = np.array(reported)
    found = news_of(times, times, np.array(planned) + 100, number, NEVER)
    row = first = 0
    heard = set()
    for delays in journeys:
        arrived = sorted((5 * n + d + 100, n) for n, d in enumerate(delays) if d is not None)
        chains = _chains(arrived, Plain([5 * n + 100 for n in range(len(delays))])) if arrived else []  # type: ignore[arg-type]
        for (_, event), chain in zip(arrived, chains, strict=True):
            assert found.event[row] == first + event
            known = found.known[found.begin[row] : found.end[row]] - first
            assert known.tolist() == chain
            assert found.last[row] == first + chain[-1]
            if chain[-1] == event:
                heard.add(first + event)
            row += 1
        first += len(delays)
    assert row == len(found.event)
    assert set(np.flatnonzero(found.heard).tolist()) == heard


def test_a_journey_in_order_has_one_list() -> None:
    times = np.array([1, 2, 3])
    found = news_of(times, times, np.array([0, 0, 0]), np.zeros(3, np.int64), NEVER)
    assert found.known.tolist() == [0, 1, 2]
    assert (found.begin.tolist(), found.end.tolist()) == ([0, 0, 0], [1, 2, 3])


late_reports = st.lists(
    st.tuples(st.one_of(st.none(), st.just(0), st.integers(-30, 30)), st.one_of(st.just(0), st.integers(0, 40))),
    min_size=1,
    max_size=9,
)


@given(st.lists(late_reports, min_size=1, max_size=6))
@example([[(0, 1), (None, 0), (None, 0), (-15, 0)]])  # two reports of the same time, the first of them late
def test_reports_that_arrive_late_join_the_known_events_when_they_arrive(
    journeys: list[list[tuple[int | None, int]]],
) -> None:
    """Reports are delays in minutes at stops five minutes apart, and the minutes until each is known."""
    planned = np.array([5 * n + 100 for stops in journeys for n in range(len(stops))])
    delay = np.array([np.nan if d is None else d for stops in journeys for d, _ in stops], float)
    reported = np.where(np.isnan(delay), NEVER, planned + np.nan_to_num(delay)).astype(np.int64)
    arrived = np.where(reported < NEVER, reported + [late for stops in journeys for _, late in stops], NEVER)
    number = np.repeat(np.arange(len(journeys)), [len(stops) for stops in journeys])
    found = news_of(reported, arrived, planned, number, NEVER)
    row = 0
    heard = set()
    for journey in range(len(journeys)):
        events = np.flatnonzero((number == journey) & (reported < NEVER))
        first = int(np.flatnonzero(number == journey)[0])
        order = sorted(events.tolist(), key=lambda event: (arrived[event], reported[event], event))
        plain = Plain(planned[number == journey].tolist())
        for count, event in enumerate(order, start=1):
            so_far = sorted((int(reported[known]), known - first) for known in order[:count])
            chain = _chains(so_far, plain)[-1]  # type: ignore[arg-type]
            assert found.event[row] == event
            assert (found.known[found.begin[row] : found.end[row]] - first).tolist() == chain
            assert found.last[row] == first + chain[-1]
            if event - first in chain:
                heard.add(event)
            row += 1
    assert row == len(found.event)
    assert set(np.flatnonzero(found.heard).tolist()) == heard


def test_a_report_between_two_known_events_is_known_from_its_arrival_on() -> None:
    reported, arrived = np.array([10, 20, 30]), np.array([10, 40, 30])
    found = news_of(reported, arrived, np.array([0, 0, 0]), np.zeros(3, np.int64), NEVER)
    assert found.event.tolist() == [0, 2, 1]
    known = [found.known[begin:end].tolist() for begin, end in zip(found.begin, found.end, strict=True)]
    assert known == [[0], [0, 2], [0, 1, 2]]
    assert found.heard.all() and found.last.tolist() == [0, 2, 2]
