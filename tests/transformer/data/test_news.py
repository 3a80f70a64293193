"""The known events of a journey after each report, against a plain loop."""

import numpy as np
from hypothesis import given
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
    found = news_of(np.array(reported), np.array(planned) + 100, number, NEVER)
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
    found = news_of(np.array([1, 2, 3]), np.array([0, 0, 0]), np.zeros(3, np.int64), NEVER)
    assert found.known.tolist() == [0, 1, 2]
    assert (found.begin.tolist(), found.end.tolist()) == ([0, 0, 0], [1, 2, 3])
