"""Transfers: which there are, and the probability that they hold."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from transformer.cli import main
from transformer.errors import UserError
from transformer.prediction.columns import TRANSFER_COLUMNS
from transformer.prediction.transfers import check_minutes, planned_transfers, probabilities, transfers_path

NOON = datetime(2024, 12, 20, 12, tzinfo=UTC)
TODAY, YESTERDAY = date(2024, 12, 20), date(2024, 12, 19)
AT = "2025-01-13T07:30+01:00"


def events(*lines: tuple[str, date, int, str, float]) -> pl.DataFrame:
    """Events of one snapshot: train, service date, point, type and planned minute."""
    return pl.DataFrame(
        [(NOON, *line[:4], NOON + timedelta(minutes=line[4])) for line in lines],
        schema=["snapshot_ts", "train_id", "service_date", "op_id", "event_type", "planned_ts"],
        orient="row",
    )


def test_transfers_join_arrivals_with_later_departures_of_other_trains_at_the_point() -> None:
    rows = events(
        ("a", TODAY, 7, "A", 10),
        ("a", TODAY, 7, "D", 16),  # the same train
        ("b", TODAY, 7, "D", 15),
        ("c", TODAY, 7, "D", 14),  # too soon
        ("d", TODAY, 7, "D", 70),
        ("e", TODAY, 7, "D", 71),  # not within an hour
        ("f", TODAY, 8, "D", 20),  # elsewhere
        ("g", TODAY, 7, "P", 20),  # does not stop
        ("a", YESTERDAY, 7, "D", 20),  # another journey with the same id
        ("h", TODAY, 7, "A", 15),
    )
    assert planned_transfers(rows, 5.0).rows() == [(0, 2), (0, 4), (0, 8), (9, 4), (9, 5), (9, 8)]
    other = rows.with_columns(pl.lit(NOON + timedelta(minutes=1)).alias("snapshot_ts"))
    both = planned_transfers(pl.concat([rows, other]), 5.0)
    assert both.height == 12  # none between two snapshots


def test_the_probability_is_the_share_of_pairs_of_journeys() -> None:
    g = np.random.default_rng(1)
    times = g.integers(0, 40, (60, 7)).astype(np.float32) * 60
    pairs = pl.DataFrame({"arrival": g.integers(0, 60, 2_500), "departure": g.integers(0, 60, 2_500)})
    found = probabilities(pairs, times, 5.0)
    for arrival, departure, probability in zip(*pairs.get_columns(), found, strict=True):
        held = sum(d - a >= 300 for a in times[arrival] for d in times[departure])
        assert probability == pytest.approx(held / 49)
    assert 0.1 < found.mean() < 0.9


def test_exactly_enough_time_is_enough() -> None:
    pairs = pl.DataFrame({"arrival": [0], "departure": [1]})
    times = np.array([[0.0, 0.0], [300.0, 299.0]], np.float32)
    assert probabilities(pairs, times, 5.0).tolist() == [0.5]


@pytest.mark.parametrize("minutes", [-1.0, 61.0, math.nan, math.inf])
def test_minutes_that_no_transfer_can_have_are_refused(minutes: float) -> None:
    with pytest.raises(UserError, match=r"--transfer-minutes .* from 0 to 60"):
        check_minutes(minutes, "--transfer-minutes")


def test_predict_writes_the_transfers_next_to_the_predictions(
    trained_folder: Path, sample_folder: Path, tmp_path: Path
) -> None:
    arguments = ["predict", "--at", AT, "--run-folder", str(trained_folder), "--data", str(sample_folder)]
    for name, more in (("plain", []), ("delays", ["--transfer-minutes", "0"]), ("longer", ["--transfer-minutes", "3"])):
        out = ["--out", str(tmp_path / f"{name}.parquet"), "--result", str(tmp_path / f"{name}.json")]
        assert main([*arguments, *out, *more]) == 0
    assert (tmp_path / "plain.parquet").read_bytes() == (tmp_path / "delays.parquet").read_bytes()
    assert not transfers_path(tmp_path / "plain.parquet").exists()

    predictions = pl.read_parquet(tmp_path / "delays.parquet")
    found = pl.read_parquet(tmp_path / "delays_transfers.parquet")
    result = json.loads((tmp_path / "delays.json").read_text())
    assert result["transfers"] == found.height > 0
    assert result["transfers_file"] == str(tmp_path / "delays_transfers.parquet")
    assert tuple(found.columns) == TRANSFER_COLUMNS
    assert found["probability"].is_between(0, 1).all() and found["probability"].n_unique() > 1
    assert found["op_name"].null_count() == 0
    planned = found["planned_departure_ts"] - found["planned_arrival_ts"]
    assert planned.dt.total_seconds().is_between(0, 3_600).all()

    stops = predictions.select("train_id", "service_date", "op_id", "event_type", "planned_ts", "predicted_ts")
    for kind, end in (("A", "arrival"), ("D", "departure")):
        which = {"A": "arriving", "D": "departing"}[kind]
        own = found.select(
            pl.col(f"{which}_train_id").alias("train_id"),
            pl.col(f"{which}_service_date").alias("service_date"),
            "op_id",
            pl.lit(kind).alias("event_type"),
            pl.col(f"planned_{end}_ts").alias("planned_ts"),
            pl.col(f"predicted_{end}_ts").alias("predicted_ts"),
        )
        assert own.join(stops, on=own.columns, how="semi", nulls_equal=True).height == found.height

    longer = pl.read_parquet(tmp_path / "longer_transfers.parquet")
    both = longer.join(found, on=TRANSFER_COLUMNS[:-1], suffix="_of_0", nulls_equal=True)
    assert both.height == longer.height > 0
    assert (both["probability"] <= both["probability_of_0"]).all()
    assert (both["probability"] < both["probability_of_0"]).any()


def test_a_night_without_trains_has_no_transfers(trained_folder: Path, sample_folder: Path, tmp_path: Path) -> None:
    arguments = ["predict", "--run-folder", str(trained_folder), "--data", str(sample_folder)]
    out = tmp_path / "night.csv"
    assert main([*arguments, "--at", "2025-01-13T03:00+01:00", "--out", str(out), "--transfer-minutes", "5"]) == 0
    assert transfers_path(out).read_text().splitlines() == [",".join(TRANSFER_COLUMNS)]


def test_transfers_as_text_have_times_with_their_offset(
    trained_folder: Path, sample_folder: Path, tmp_path: Path
) -> None:
    arguments = ["predict", "--at", AT, "--run-folder", str(trained_folder), "--data", str(sample_folder)]
    assert main([*arguments, "--out", str(tmp_path / "d.csv"), "--transfer-minutes", "5"]) == 0
    header, first, *_ = (tmp_path / "d_transfers.csv").read_text().splitlines()
    values = dict(zip(header.split(","), first.split(","), strict=True))
    assert list(values) == list(TRANSFER_COLUMNS)
    assert values["planned_arrival_ts"].startswith("2025-01-13T") and values["planned_arrival_ts"].endswith("+01:00")
    assert date.fromisoformat(values["arriving_service_date"]) in (date(2025, 1, 12), date(2025, 1, 13))
