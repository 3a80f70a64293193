"""The benchmark times the same snapshots, with more features from contest to contest."""

import pytest

from benchmarks.speed.bench_snapshot_building import compare, contests
from benchmarks.speed.railways import Railway
from transformer.features.history import FEATURES
from transformer.features.live_state import LIVE_FEATURES


def test_loop_and_columns_agree_with_each_set_of_features(network: Railway):
    sizes = []
    for contest in contests(network).values():
        batch = contest.columns()
        assert batch.train_mask.any()
        compare(batch, contest.loop())
        sizes.append((batch.next_features.shape[-1], batch.next_live.shape[-1]))
    assert sizes == [(0, 0), (len(FEATURES), 0), (len(FEATURES), len(LIVE_FEATURES))]


def test_snapshots_that_differ_are_refused(network: Railway):
    contest = contests(network)["with all features"]
    expected = contest.loop()
    expected["next_live"][0, 0, 0, 0] += 1
    with pytest.raises(AssertionError, match="next_live"):
        compare(contest.columns(), expected)
