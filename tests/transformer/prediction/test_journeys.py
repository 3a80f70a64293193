"""Sampled journeys: each event has its predicted distribution, a train goes together, and no time runs backwards."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch

from transformer.config import ModelConfig
from transformer.errors import UserError
from transformer.model.network import DelayTransformer, NetworkShape
from transformer.prediction.columns import quantile_column
from transformer.prediction.journeys import sample_times

NOON = datetime(2024, 12, 20, 12, tzinfo=UTC)
N_FOLL = 5
LEVELS = ModelConfig().quantiles


def network(resolution: float = 60.0, rho: float = 0.9, **settings: object) -> DelayTransformer:
    scales = {"delay": 300.0, "change": 80.0, "running_trains": 20.0, "resolution": resolution}
    shape = NetworkShape(2, N_FOLL, ["regional"], [1, 2], {}, scales)
    small = {"d_model": 8, "n_heads": 1, "n_layers": 1, "d_feedforward": 8, "d_point": 2, "d_head": 4, "n_members": 1}
    made = DelayTransformer(ModelConfig(**small, **settings), shape)
    at = torch.arange(N_FOLL)
    made.rank_correlation.copy_(rho ** (at[:, None] - at).abs().float())
    return made


def predictions(n_trains: int, gap_s: int = 600, n_snapshots: int = 1, width_s: float = 60.0) -> pl.DataFrame:
    """Trains with five events each, a gap between them, and quantiles a width apart."""
    n = n_snapshots * n_trains * N_FOLL
    snapshot, train, rank = (index.ravel() for index in np.indices((n_snapshots, n_trains, N_FOLL)))
    spread = {quantile_column(level): [width_s * k - 120.0] * n for k, level in enumerate(LEVELS)}
    return pl.DataFrame(
        {
            "snapshot_ts": [NOON + timedelta(minutes=15 * int(s)) for s in snapshot],
            "service_date": [date(2024, 12, 20)] * n,
            "train_id": [f"t{t}" for t in train],
            "rank": pl.Series(rank + 1, dtype=pl.Int16),
            "horizon_s": (60.0 + gap_s * rank + 60 * (train % 3)),
            **spread,
        }
    )


def test_times_are_in_the_future_and_never_run_backwards() -> None:
    rows = predictions(20, gap_s=30, n_snapshots=3, width_s=300.0)
    times = sample_times(rows, network(), n_journeys=50)
    assert times.shape == (300, 50)
    by_train = times.reshape(60, N_FOLL, 50)
    assert (by_train > 0).all()
    assert (np.diff(by_train, axis=1) >= 0).all()
    assert (np.diff(by_train, axis=1) > 0).any()


def test_each_event_has_the_distribution_of_its_quantiles() -> None:
    rows = predictions(1, gap_s=5_000)
    delays = sample_times(rows, network(resolution=1.0), n_journeys=20_000) - rows["horizon_s"].to_numpy()[:, None]
    for level in LEVELS:
        below = (delays[1:] <= rows[quantile_column(level)].to_numpy()[1:, None]).mean(axis=1)
        np.testing.assert_allclose(below, level, atol=0.015)
    observable = sample_times(rows, network(), n_journeys=100) - rows["horizon_s"].to_numpy()[:, None]
    assert (observable % 60 == 0).all()


def test_delays_of_a_train_go_together_by_rank_and_those_of_two_trains_do_not() -> None:
    rows = predictions(2, gap_s=5_000).filter(pl.col("rank") != 2)  # rank 1 and rank 3 are two steps apart
    rows = rows.with_columns(pl.col("horizon_s") + 5_000)  # no draw is raised
    times = sample_times(rows, network(resolution=1.0), n_journeys=20_000)
    found = np.corrcoef(times)
    assert found[1, 2] == pytest.approx(0.9, abs=0.03)
    assert found[0, 1] == pytest.approx(0.81, abs=0.03)
    assert np.abs(found[:4, 4:]).max() < 0.03
    alone = sample_times(rows, network(resolution=1.0), n_journeys=20_000, correlation=torch.eye(N_FOLL))
    assert np.abs(np.corrcoef(alone)[1, 2]) < 0.03


def test_draws_depend_on_the_seed_and_on_the_snapshot_alone() -> None:
    rows = predictions(4, n_snapshots=3)
    whole = sample_times(rows, network())
    assert np.array_equal(whole, sample_times(rows, network()))
    assert not np.array_equal(whole, sample_times(rows, network(), seed=1))
    later = rows["snapshot_ts"] == NOON + timedelta(minutes=30)
    assert np.array_equal(whole[later.to_numpy()], sample_times(rows.filter(later), network()))
    shuffled = rows.with_row_index().sample(fraction=1, shuffle=True, seed=2)
    assert np.array_equal(whole[shuffled["index"].to_numpy()], sample_times(shuffled.drop("index"), network()))


def test_no_train_has_no_journey() -> None:
    assert sample_times(predictions(1).clear(), network(), n_journeys=9).shape == (0, 9)


def test_a_model_without_a_distribution_is_one_line() -> None:
    with pytest.raises(UserError, match=r"model.quantiles=\[0.5\]"):
        sample_times(predictions(1), network(quantiles=[0.5]))
