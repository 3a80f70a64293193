"""Contestants take turns, and ratios compare measurements of the same round."""

from collections.abc import Callable

import pytest

from benchmarks.speed.pairs import Times, take_turns


def test_ratio_is_the_median_over_rounds_not_the_ratio_of_medians():
    times = Times({"slow": [2.0, 30.0, 4.0], "fast": [1.0, 10.0, 4.0]})
    assert times.ratio("slow", "fast") == 2
    assert times.ratio("fast", "slow") == 0.5
    assert times.median_ms("slow") == 4_000


def test_contestants_alternate_and_warm_up_does_not_count():
    calls: list[str] = []
    times = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, warm_up=1)
    assert "".join(calls) == "ba" + "ab" + "ba"
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 2, "b": 2}


def test_ratio_of_what_was_timed(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr("benchmarks.speed.pairs.time.perf_counter", lambda: clock[0])

    def taking(seconds: float) -> Callable[[], None]:
        def run() -> None:
            clock[0] += seconds

        return run

    times = take_turns({"long": taking(3), "short": taking(1.5)}, rounds=3)
    assert times.seconds == {"long": [3, 3, 3], "short": [1.5, 1.5, 1.5]}
    assert times.ratio("long", "short") == 2
