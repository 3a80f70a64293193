"""When snapshots are taken: random instants, and those that a file lists."""

from datetime import UTC, date, datetime

import numpy as np
import pytest

from tests.support.messages import assert_names
from transformer.config import DataConfig, GridConfig, SnapshotConfig
from transformer.errors import UserError
from transformer.features.instants import evaluation_instants, random_instants, training_instants

SIXTH, SEVENTH = date(2025, 1, 6), date(2025, 1, 7)


def test_random_instants_are_seeded_and_see_every_date_alike():
    days = (date(2025, 1, 6), date(2025, 1, 8))
    draw = [random_instants(days, 100, GridConfig(), "UTC", np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(draw[0], draw[1]) and not np.array_equal(draw[0], draw[2])
    drawn = [datetime.fromtimestamp(t, UTC) for t in draw[0]]
    assert [sum(d.date() == day for d in drawn) for day in days] == [50, 50]
    assert all(5 <= d.hour <= 23 for d in drawn)


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
    same = random_instants(tuple(days), 9, data.grid, data.timezone, np.random.default_rng(3))
    assert np.array_equal(drawn, same)


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
