"""The content of a snapshot agrees with predictions, event tables and the model, for the same trains."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from transformer.config import Config, with_values
from transformer.data.events import read_days
from transformer.errors import UserError
from transformer.exploration.attention import attention_weights
from transformer.exploration.snapshot import TRAIN_COLUMNS, ExploredSnapshot, busiest_instant, explore
from transformer.features.batches import to_tensors
from transformer.features.instants import grid_instants
from transformer.prediction.instant import InstantSnapshot, dates_around, predictions_at
from transformer.training.run_folder import TrainedModel

DAY = date(2025, 1, 13)  # the test date
KEY = ["train_id", "service_date"]


def test_by_default_it_is_the_busiest_instant_of_the_test_date(trained: TrainedModel, located: Config):
    running = {}
    for second in grid_instants((DAY,), located.data.grid, located.data.timezone).tolist():
        at = datetime.fromtimestamp(second, UTC)
        running[at] = predictions_at(trained, located, at, [DAY]).n_unique(KEY)
    assert running[busiest_instant(trained, located)] == max(running.values()) > min(running.values())


def test_predictions_are_those_of_predict(trained: TrainedModel, located: Config, snapshot: ExploredSnapshot):
    days = [day for day in dates_around(snapshot.instant, located) if day <= DAY]
    expected = predictions_at(trained, located, snapshot.instant, days)
    assert snapshot.predictions.drop("train", "observed_delay_s").equals(expected)


def test_what_came_true_is_what_the_event_tables_say(located: Config, snapshot: ExploredSnapshot):
    events, _ = read_days(located.data, [DAY - timedelta(days=1), DAY])
    key = [*KEY, "op_id", "event_type"]
    events = events.unique(key, keep="none").select(*key, "delay_sec", "observed_ts")
    both = snapshot.predictions.join(events, on=key)
    assert both.height > 0.9 * snapshot.predictions.height
    assert both["observed_delay_s"].equals(both["delay_sec"].alias("observed_delay_s"), null_equal=True)
    assert both["observed_delay_s"].null_count() < both.height
    assert both["observed_ts"].drop_nulls().min() > snapshot.instant.astimezone(UTC)  # none of them was known


def test_a_changed_future_changes_nothing_but_what_came_true(
    trained: TrainedModel, located: Config, snapshot: ExploredSnapshot, sample_folder: Path, tmp_path: Path
):
    (tmp_path / "events").mkdir()
    struck = 0
    for name in ("op_nodes", "journeys", *(f"events/events_{day}" for day in (DAY - timedelta(days=1), DAY))):
        frame = pl.read_parquet(sample_folder / f"{name}.parquet")
        if name.startswith("events"):
            known = pl.col("observed_ts") <= snapshot.instant.astimezone(UTC)
            struck += frame.filter(~known).height
            frame = frame.with_columns(pl.when(known).then(pl.col("observed_ts", "delay_sec")))
        frame.write_parquet(tmp_path / f"{name}.parquet")
    assert struck > 500
    config = with_values(located, {"data.local_folder": str(tmp_path)}, "test")
    changed = explore(trained, config, snapshot.instant.isoformat())
    assert changed.predictions["observed_delay_s"].null_count() == changed.predictions.height
    assert changed.predictions.drop("observed_delay_s").equals(snapshot.predictions.drop("observed_delay_s"))
    assert changed.trains.equals(snapshot.trains) and changed.past.equals(snapshot.past)
    np.testing.assert_array_equal(changed.attention, snapshot.attention)


def test_a_line_per_train_with_where_and_how_late_it_is(located: Config, snapshot: ExploredSnapshot):
    assert snapshot.trains.columns == list(TRAIN_COLUMNS)
    assert snapshot.trains.height == snapshot.predictions.n_unique(KEY) > 5
    assert snapshot.trains["departed"].any()
    events, _ = read_days(located.data, [DAY - timedelta(days=1), DAY])
    for line, row in enumerate(snapshot.trains.iter_rows(named=True)):
        ahead = snapshot.predictions.filter(pl.col("train") == line)
        assert ahead.select(KEY).unique().row(0) == (row["train_id"], row["service_date"])
        assert ahead["translation_delay_s"].unique().to_list() == [row["delay_s"]]
        assert ahead.sort("rank")["predicted_delay_s"][-1] - row["delay_s"] == row["change_s"]
        own = events.filter(train_id=row["train_id"], service_date=row["service_date"]).sort("seq")
        known = own.filter(pl.col("observed_ts") <= snapshot.instant.astimezone(UTC))
        assert row["departed"] == (known.height > 0)
        assert row["op_id"] == (known["op_id"][-1] if known.height else own["op_id"][0])
        past = snapshot.past.filter(pl.col("train") == line)
        assert past["delay_s"].to_list() == known["delay_sec"].tail(5).to_list()  # n_prev


def test_attention_is_that_of_the_snapshot_in_the_order_of_its_trains(
    trained: TrainedModel, located: Config, snapshot: ExploredSnapshot
):
    n_trains = snapshot.trains.height
    model = located.model
    assert snapshot.attention.shape == (model.n_members, model.n_layers, model.n_heads, n_trains, n_trains)
    np.testing.assert_allclose(snapshot.attention.sum(-1), 1, rtol=1e-5)
    days = [day for day in dates_around(snapshot.instant, located) if day <= DAY]
    known = InstantSnapshot.of(trained, located, snapshot.instant, days)
    batch = to_tensors(known.builder.build(known.instants), located.data.timezone)
    names = known.loaded.journeys[batch["journey"][0].numpy()]
    assert names.select(KEY).equals(snapshot.trains.select(KEY))
    # In another order of the trains, the weights between the same two trains are the same.
    order = torch.arange(n_trains - 1, -1, -1)
    turned = {name: values if values.ndim == 1 else values[:, order] for name, values in batch.items()}
    weights = attention_weights(known.module.network, turned)[0].numpy()[..., ::-1, ::-1]
    np.testing.assert_allclose(weights, snapshot.attention, rtol=1e-3, atol=1e-6)


def test_a_train_attends_to_all_with_the_greatest_first(snapshot: ExploredSnapshot):
    train = snapshot.find()
    found = snapshot.attention_of(train)
    assert found["weight"].is_sorted(descending=True)
    assert sorted(found["train"].to_list()) == list(range(snapshot.trains.height))
    for name in ("weight", "layer_1"):
        assert found[name].sum() == pytest.approx(1, rel=1e-4)
    for row in found.iter_rows(named=True):
        assert row["weight"] == pytest.approx(float(snapshot.attention[:, :, :, train, row["train"]].mean()), rel=1e-4)
        assert row["train_id"] == snapshot.trains["train_id"][row["train"]]


def test_a_train_is_found_by_number_or_id(snapshot: ExploredSnapshot):
    for line, row in enumerate(snapshot.trains.iter_rows(named=True)):
        if snapshot.trains["train_number"].to_list().count(row["train_number"]) == 1:
            assert snapshot.find(row["train_number"]) == snapshot.find(row["train_id"]) == line
    default = snapshot.trains.row(snapshot.find(), named=True)
    assert default["departed"]
    with pytest.raises(UserError, match=r"^train 'IC 1' .* 2025-01-13T") as refused:
        snapshot.find("IC 1")
    assert f" {snapshot.trains.height} " in str(refused.value)
    assert str(refused.value).endswith(" " + ", ".join(snapshot.trains["train_number"].head(5)))


def test_the_table_of_a_train_is_its_predictions(snapshot: ExploredSnapshot):
    train = snapshot.find()
    table, ahead = snapshot.table_of(train), snapshot.predictions.filter(pl.col("train") == train)
    for name in ("predicted_delay_s", "low_90_delay_s", "high_90_delay_s", "translation_delay_s", "observed_delay_s"):
        assert table[name].equals(ahead[name], null_equal=True)
    assert table["point"].equals(ahead["op_name"].alias("point"))


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("2030-01-01T08:00", "2030-01-01; .* 2025-01-06 to 2025-01-13"),
        ("2025-01-13T03:00", r"no train .* 2025-01-13T03:00:00\+01:00; name another time"),
        ("noon", "'noon'"),
    ],
)
def test_an_instant_without_trains_is_one_line(trained: TrainedModel, located: Config, at: str, words: str):
    with pytest.raises(UserError, match=words):
        explore(trained, located, at)


def test_a_folder_without_the_test_date_is_one_line(trained: TrainedModel, located: Config, tmp_path: Path):
    with pytest.raises(UserError, match="events"):
        explore(trained, with_values(located, {"data.local_folder": str(tmp_path)}, "test"))
