"""When snapshots are taken: random instants, and those that a file lists."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from tests.support.messages import assert_names
from transformer.config import DataConfig, SamplingConfig, SnapshotConfig
from transformer.errors import UserError
from transformer.features.instants import (
    DATES_AT_ONCE,
    DEFAULT_SAMPLING,
    PER_DATE,
    Spans,
    evaluation_instants,
    grid_hours,
    random_instants,
    running_hours,
    training_instants,
)

SIXTH, SEVENTH = date(2025, 1, 6), date(2025, 1, 7)


def test_random_instants_are_seeded_and_see_every_date_alike():
    days, data = (date(2025, 1, 6), date(2025, 1, 8)), DataConfig(timezone="UTC")
    draw = [training_instants(days, 100, data, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(draw[0], draw[1]) and not np.array_equal(draw[0], draw[2])
    drawn = [datetime.fromtimestamp(t, UTC) for t in draw[0]]
    assert [sum(d.date() == day for d in drawn) for day in days] == [50, 50]
    assert all(5 <= d.hour <= 23 for d in drawn)


def dates_drawn(days: list[date], count: int, sampling: SamplingConfig = DEFAULT_SAMPLING) -> list[int]:
    """How many days after the first each of `count` drawn instants is."""
    data = DataConfig(timezone="UTC")
    drawn = training_instants(days, count, data, np.random.default_rng(4), sampling)
    return [(datetime.fromtimestamp(instant, UTC).date() - days[0]).days for instant in drawn]


def test_of_many_dates_some_are_drawn_at_once():
    """So a process that builds the snapshots has few dates open, and each of them serves several snapshots."""
    days = [SIXTH + timedelta(days=number) for number in range(400)]
    drawn = dates_drawn(days, 1_024)
    for begin in range(0, 1_024, DATES_AT_ONCE * PER_DATE):
        group = Counter(drawn[begin : begin + DATES_AT_ONCE * PER_DATE])
        assert set(group.values()) == {PER_DATE} and len(group) == DATES_AT_ONCE
    assert len(set(drawn)) == 1_024 // PER_DATE  # no date comes back before all others were drawn
    assert len(set(dates_drawn(days, 4_000))) == 400
    assert dates_drawn(days, 1_024) == drawn


@pytest.mark.parametrize("n_dates", [8, 400])
def test_older_dates_are_drawn_less_by_their_half_life(n_dates: int):
    days = [SIXTH + timedelta(days=number) for number in range(n_dates)]
    half = n_dates // 4
    drawn = Counter(day // half for day in dates_drawn(days, 16_000, SamplingConfig(half_life_days=half)))
    shares = [drawn[quarter] / drawn[quarter + 1] for quarter in range(3)]
    assert shares == pytest.approx([0.5] * 3, abs=0.05)


def test_every_second_with_a_running_train_is_drawn_alike():
    """Trains run from 01:00 to 01:10, from 08:00 to 08:20 and from 08:15 to 08:30, and past midnight."""
    start = int(datetime(2025, 1, 6, tzinfo=UTC).timestamp())
    first = start + np.array([3_600, 28_800, 29_700, 86_000])
    last = start + np.array([4_200, 30_000, 30_600, 90_000])
    spans = running_hours(SIXTH, "UTC", first, last)
    assert (spans.begin - start).tolist() == [3_600, 28_800, 86_000]
    assert (spans.end - start).tolist() == [4_201, 30_601, 86_400]
    after_midnight = running_hours(SEVENTH, "UTC", first, last)
    assert ((after_midnight.begin - start).tolist(), (after_midnight.end - start).tolist()) == ([86_400], [90_001])
    both = [spans, after_midnight]
    drawn = training_instants(
        [SIXTH, SEVENTH], 5_000, DataConfig(timezone="UTC"), np.random.default_rng(0),
        SamplingConfig(instants="running"), lambda: both,
    )  # fmt: skip
    inside = [
        (drawn >= begin) & (drawn < end) for of_day in both for begin, end in zip(of_day.begin, of_day.end, strict=True)
    ]
    assert np.sum(inside, axis=0).min() == 1
    lengths = np.concatenate([of_day.end - of_day.begin for of_day in both])
    assert [each.mean() for each in inside] == pytest.approx(lengths / lengths.sum(), abs=0.02)


def test_instants_of_running_trains_need_the_times_at_which_they_run():
    with pytest.raises(ValueError, match="times at which trains run"):
        training_instants([SIXTH], 5, DataConfig(), np.random.default_rng(0), SamplingConfig(instants="running"))


def test_a_date_on_which_no_train_runs_is_never_drawn():
    none = running_hours(SEVENTH, "UTC", np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert none.seconds == 0
    one = Spans(np.array([100]), np.array([200]))
    drawn = training_instants(
        [SIXTH, SEVENTH], 50, DataConfig(), np.random.default_rng(0), SamplingConfig(instants="running"),
        lambda: [one, none],
    )  # fmt: skip
    assert drawn.min() >= 100 and drawn.max() < 200


@pytest.fixture
def listed(tmp_path):
    """A configuration with a file of instants: three on the 6th in Brussels, and one on the 7th."""
    path = tmp_path / "dataset_core_spec.yaml"
    path.write_text(
        "seed: 42\nn_train: 3\n"
        "train_snapshots: ['2025-01-06T00:10:00', '2025-01-06T08:00:05', '2025-01-06T07:30:00']\n"
        "test_snapshots: ['2025-01-06T23:30:00+00:00']\n",
        encoding="utf-8",
    )
    return DataConfig(timezone="Europe/Brussels", snapshot=SnapshotConfig(instants=str(path)))


def clock(instants):
    return [datetime.fromtimestamp(instant, UTC).strftime("%d %H:%M:%S") for instant in instants]


def test_a_file_of_instants_takes_the_place_of_the_grid(listed):
    assert clock(evaluation_instants([SIXTH], listed)) == ["05 23:10:00", "06 06:30:00", "06 07:00:05"]
    assert clock(evaluation_instants([SEVENTH], listed)) == ["06 23:30:00"]  # half past midnight in Brussels
    assert len(evaluation_instants([SIXTH, SEVENTH], listed)) == 4


def test_training_draws_every_instant_of_the_file_before_it_repeats_one(listed):
    drawn = training_instants([SIXTH], 7, listed, np.random.default_rng(1)).tolist()
    assert len(drawn) == 7
    assert set(drawn[:3]) == set(drawn[3:6]) == set(evaluation_instants([SIXTH], listed).tolist())


def test_without_a_file_training_draws_from_the_grid():
    days, data = [SIXTH, SEVENTH], DataConfig()
    drawn = training_instants(days, 9, data, np.random.default_rng(3))
    hours = [grid_hours(day, data.grid, data.timezone) for day in days]
    assert np.array_equal(drawn, random_instants(hours, 9, np.random.default_rng(3)))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("train_snapshots: ['yesterday']", ["'yesterday'", "train_snapshots", "write 2024-01-02T08:00:00"]),
        ("a: 1", ["no list of times", "'snapshots'"]),
        ("- 1", ["no list of times"]),
        ("a: [", ["is not YAML"]),
        ("train_snapshots: ['2024-01-02T08:00:00']", ["no instant on 2025-01-06", "2024-01-02", "data.split"]),
    ],
)
def test_a_file_that_does_not_serve_is_one_line(tmp_path, content, parts):
    path = tmp_path / "instants.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        evaluation_instants([SIXTH], DataConfig(snapshot=SnapshotConfig(instants=str(path))))
    assert_names(caught.value, "data.snapshot.instants", *parts)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError) as caught:
        evaluation_instants([SIXTH], DataConfig(snapshot=SnapshotConfig(instants=str(tmp_path / "none.yaml"))))
    assert_names(caught.value, "none.yaml")
