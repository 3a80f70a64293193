"""The benchmark of transfers: it asks the right questions, and knows right probabilities from wrong ones."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.accuracy.transfers import (
    INDEPENDENT,
    JOURNEYS,
    POINT,
    TRANSLATION,
    judge,
    judgements,
    reliability_table,
    scores_table,
    summed,
)
from tests.transformer.prediction.test_journeys import N_FOLL, network
from transformer.config import Config, with_values
from transformer.prediction.columns import quantile_column
from transformer.prediction.journeys import sample_times

NOON = datetime(2024, 12, 20, 12, tzinfo=UTC)


def rows(n_snapshots: int, n_trains: int) -> pl.DataFrame:
    """Trains that arrive at and depart from points 1 to 5, with the same quantiles and with delays to be filled in."""
    snapshot, train, rank = (index.ravel() for index in np.indices((n_snapshots, n_trains, N_FOLL)))
    made = network(resolution=1.0)
    horizon = 3_000.0 + 900 * rank + 60 * (train % 7)
    stamps = [NOON + timedelta(minutes=15 * int(s)) for s in snapshot]
    spread = {quantile_column(level): 400.0 * k**1.5 - 300 for k, level in enumerate(made.levels)}
    return pl.DataFrame(
        {
            "snapshot_ts": stamps,
            "service_date": [date(2024, 12, 20)] * len(rank),
            "train_id": [f"t{t}" for t in train],
            "rank": pl.Series(rank + 1, dtype=pl.Int16),
            "op_id": 1 + (train + rank) % 5,
            "event_type": np.where(rank % 2 == 0, "A", "D").tolist(),
            "planned_ts": [at + timedelta(seconds=s) for at, s in zip(stamps, horizon, strict=True)],
            "horizon_s": horizon,
            "translation_delay_s": 0.0,
            "predicted_delay_s": 60.0,
            "observed_delay_s": 0.0,
        }
    ).with_columns(pl.lit(value).alias(name) for name, value in spread.items())


def test_probabilities_are_right_if_delays_come_from_the_predicted_distribution() -> None:
    made = network(resolution=1.0, rho=0.95)
    given = rows(60, 14)
    drawn = sample_times(given, made, n_journeys=1, seed=7)[:, 0] - given["horizon_s"].to_numpy()
    sums = summed([judgements(given.with_columns(observed_delay_s=drawn), made, 5.0)])
    for kind, least in (("transfer", 1_000), ("loss", 800)):
        bins = sums.filter(kind=kind, predictor=JOURNEYS)
        assert bins["n"].sum() >= least
        gap = (bins["probability"].sum() - bins["happened"].sum()) / bins["n"].sum()
        assert abs(gap) < 0.04, kind
    brier = {name: of["squares"].sum() for (kind, name), of in sums.group_by("kind", "predictor") if kind == "loss"}
    assert brier[JOURNEYS] < 0.95 * brier[INDEPENDENT]
    assert brier[JOURNEYS] < brier[TRANSLATION]


def test_yes_and_no_are_those_of_the_times() -> None:
    made = network(resolution=1.0)
    given = rows(1, 14).with_columns(observed_delay_s=pl.when(pl.col("train_id") == "t3").then(3_000.0).otherwise(0.0))
    found = judgements(given, made, 5.0)
    transfers = found.filter(kind="transfer")
    assert transfers.height > 20
    assert transfers[TRANSLATION].to_list() == transfers[POINT].to_list() == [1.0] * transfers.height
    assert 0 < (~transfers["happened"]).sum() < transfers.height  # those from t3
    losses = found.filter(kind="loss")
    assert losses.height == 14 and not losses["happened"].any()
    grown = given.with_columns(observed_delay_s=pl.when(pl.col("rank") == N_FOLL).then(121.0).otherwise(0.0))
    assert judgements(grown, made, 5.0).filter(kind="loss")["happened"].all()


def test_tables_of_sums_by_hand() -> None:
    lines = {"kind": ["transfer"] * 4, "happened": [True, True, False, True]}
    predicted = pl.DataFrame(
        lines | {JOURNEYS: [0.99, 0.55, 0.55, 1.0], INDEPENDENT: [0.5] * 4, POINT: [1.0] * 4, TRANSLATION: [0.0] * 4}
    )
    sums = summed([predicted.head(3), predicted.tail(1)])
    table = scores_table(sums, "transfer", "a date")
    assert table.title == "Transfers that hold, 4 on a date"
    # Brier (0.01² + 0.45² + 0.55² + 0) / 4; within the bin at 0.55 the gap is 0.05, within that at 0.99 it is 0.005
    assert table.body[0] == [JOURNEYS, "0.1263", "+32.7%", "0.00126", "77.2%", "75.0%"]
    assert table.body[3][:2] == [TRANSLATION, "0.7500"]
    lines = {line[0]: line[1:] for line in reliability_table(sums, "transfer").body}
    assert lines["50% to 60%"] == ["2", "55.0%", "50.0%", "4", "50.0%", "75.0%"]
    assert lines["98% to 100%"] == ["2", "99.5%", "100.0%", "0", "", ""]


def test_snapshots_without_a_row_ask_nothing() -> None:
    assert judgements(rows(1, 3).clear(), network(), 5.0).is_empty()


@pytest.mark.slow
def test_the_whole_benchmark(small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge(with_values(small_config, {"training.max_epochs": 1}, "test"), 2.0, tmp_path)
    text = capsys.readouterr().out
    assert "Transfers that hold" in text and "Trains that lose more than two minutes" in text
    assert (tmp_path / "transfers.md").read_text().count("## ") == 4
    result = json.loads((tmp_path / "transfers.json").read_text())
    assert result["minutes"] == 2.0 and len(result["bins"]) > 8
