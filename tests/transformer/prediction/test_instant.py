"""Predictions for one instant: without later observations, in local time, in three formats."""

import itertools
import json
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from transformer import stages
from transformer.cli import main
from transformer.config import Config, with_values
from transformer.data.dates import available_dates
from transformer.errors import UserError
from transformer.features.instants import grid_instants
from transformer.prediction import instant
from transformer.prediction.columns import PREDICTION_COLUMNS, ROW_SCHEMA, prediction_columns
from transformer.prediction.instant import InstantSnapshot, dates_around, parse_instant, predictions_at
from transformer.prediction.rows import evaluation_rows
from transformer.training.run_folder import TrainedModel

DAY = date(2025, 1, 13)  # the test date
AT = "2025-01-13T08:00+01:00"
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)  # the default
QUANTILES = [f"q{percent}_delay_s" for percent in ("05", "10", "25", "50", "75", "90", "95")]


@pytest.fixture(scope="module")
def trained(trained_folder: Path) -> TrainedModel:
    return TrainedModel.load(trained_folder)


@pytest.fixture
def data(sample_folder: Path, tmp_path: Path) -> Path:
    """A copy of the last two simulated dates. A prediction for the last date reads nothing else."""
    folder = tmp_path / "data"
    (folder / "events").mkdir(parents=True)
    days = (DAY, DAY - timedelta(days=1))
    for name in ("op_nodes.parquet", "journeys.parquet", *(f"events/events_{day}.parquet" for day in days)):
        shutil.copy(sample_folder / name, folder / name)
    return folder


def at(trained: TrainedModel, config: Config, folder: Path, text: str) -> pl.DataFrame:
    located = trained.located(with_values(config, {"data.local_folder": str(folder)}, "test"))
    instant = parse_instant(text, located.data.timezone)
    days = [day for day in dates_around(instant, located) if day in available_dates(folder)]
    return predictions_at(trained, located, instant, days)


def predict(trained_folder: Path, data: Path, out: Path, *options: str) -> bytes:
    arguments = ["--run-folder", str(trained_folder), "--data", str(data), "--out", str(out)]
    assert main(["predict", *(options or ["--at", AT]), *arguments]) == 0
    return out.read_bytes()


# --- what is predicted -----------------------------------------------------------------------------------------------
def test_every_running_train_gets_its_next_events(trained: TrainedModel, small_config: Config, data: Path):
    found = at(trained, small_config, data, AT)
    assert tuple(found.columns) == prediction_columns(LEVELS)
    assert found.n_unique(["train_id", "service_date"]) > 3
    assert found.group_by("train_id", "service_date").agg(pl.col("rank").min())["rank"].unique().to_list() == [1]
    assert found["rank"].max() == 5
    assert found.filter(pl.col("last_delay_s").is_not_null()).height > 0
    assert found["op_name"].null_count() == 0
    assert str(found.schema["planned_ts"]) == "Datetime(time_unit='us', time_zone='Europe/Brussels')"
    delay = (found["predicted_ts"] - found["planned_ts"]).dt.total_seconds()
    assert delay.to_list() == found["predicted_delay_s"].to_list()
    assert found["predicted_ts"].min() >= datetime.fromisoformat(AT)  # nothing is predicted into the past


def test_they_are_those_of_the_evaluation(trained: TrainedModel, small_config: Config, data: Path):
    """Predictions equal the evaluation's rows of this instant, and include events that were never observed."""
    config = trained.located(small_config)
    instant = datetime.fromisoformat(AT)
    assert int(instant.timestamp()) in grid_instants((DAY,), config.data.grid, config.data.timezone)
    rows = pl.concat(evaluation_rows(trained, config, [DAY])).filter(pl.col("snapshot_ts") == instant)
    found = at(trained, small_config, data, AT)
    both = rows.join(found, on=["train_id", "service_date", "rank"], how="left", suffix="_now")
    assert both["predicted_delay_s_now"].null_count() == 0 and both.height > 10
    assert (both["op_id"] == both["op_id_now"]).all()
    np.testing.assert_allclose(both["predicted_delay_s"], both["predicted_delay_s_now"], atol=0.51)


def test_evaluation_rows_hold_the_quantiles_of_the_model(trained: TrainedModel, small_config: Config):
    """Each level's value is in the column of its name, in the row of the event's point prediction."""
    config = trained.located(small_config)
    rows = pl.concat(evaluation_rows(trained, config, [DAY]))
    assert set(rows.columns) == {*ROW_SCHEMA, *QUANTILES}
    assert set(rows.select(QUANTILES).schema.values()) == {pl.Float64()}
    assert rows.select(pl.all_horizontal(pl.col(QUANTILES).is_finite()).all()).item()
    for low, high in itertools.pairwise(QUANTILES):
        assert (rows[low] <= rows[high]).all(), f"{low} crosses {high}"
    assert (rows["q05_delay_s"] < rows["q95_delay_s"]).any()
    assert (rows["q05_delay_s"] >= -rows["horizon_s"]).all(), "a quantile lies in the past"


def test_predictions_hold_the_intervals_of_the_evaluation_in_whole_seconds(
    trained: TrainedModel, small_config: Config, data: Path
):
    assert prediction_columns(LEVELS) == (
        *PREDICTION_COLUMNS,
        *(
            "low_50_delay_s",
            "high_50_delay_s",
            "low_80_delay_s",
            "high_80_delay_s",
            "low_90_delay_s",
            "high_90_delay_s",
        ),
    )
    assert prediction_columns([0.5]) == PREDICTION_COLUMNS
    found = at(trained, small_config, data, AT)
    rows = pl.concat(evaluation_rows(trained, trained.located(small_config), [DAY]))
    both = rows.filter(pl.col("snapshot_ts") == datetime.fromisoformat(AT)).join(
        found, on=["train_id", "service_date", "rank"], suffix="_now"
    )
    assert both.height > 10
    for end, quantile in (("low_90", "q05"), ("low_80", "q10"), ("low_50", "q25"), ("high_50", "q75")):
        assert found.schema[f"{end}_delay_s"] == pl.Int32
        np.testing.assert_allclose(both[f"{end}_delay_s"], both[f"{quantile}_delay_s"], atol=0.51)
    instant = datetime.fromisoformat(AT)
    earliest = found.select((pl.col("planned_ts") + pl.duration(seconds="low_90_delay_s")).min()).item()
    assert earliest >= instant  # no interval begins in the past


def test_trains_of_the_date_before_run_on_past_midnight(trained: TrainedModel, small_config: Config, data: Path):
    found = at(trained, small_config, data, "2025-01-13T00:20")
    assert date(2025, 1, 12) in found["service_date"].to_list()


@pytest.mark.parametrize("at", ["2025-01-12T23:57+01:00", "2025-01-13T08:00+01:00", "2025-01-13T00:20"])
def test_a_prediction_reads_the_dates_next_to_it_and_those_whose_trains_still_run(
    trained: TrainedModel, small_config: Config, at: str
):
    """The other dates within reach have no train any more. They leave no trace."""
    config = trained.located(small_config)
    instant = parse_instant(at, config.data.timezone)
    reach = [day for day in dates_around(instant, config) if date(2025, 1, 6) <= day <= DAY]
    assert reach == [date(2025, 1, day) for day in range(min(reach).day, 14)] and len(reach) >= 4
    found = InstantSnapshot.of(trained, config, instant, reach)
    assert found.days == ((DAY - timedelta(days=2),) * ("12T" in at) + (DAY - timedelta(days=1), DAY))
    near = predictions_at(trained, config, instant, found.days)
    assert found.predictions().drop("journey", "event").equals(near) and near.height > 0


NIGHT_TRAIN = "three days"


def delayed_until_the_third_day(data: Path) -> datetime:
    """Make a train of the 12th run for 42 h. Return a time on its third day."""
    path = data / "events" / f"events_{DAY - timedelta(days=1)}.parquet"
    events = pl.read_parquet(path)
    number = events.group_by("train_id").len().sort("len", "train_id")["train_id"][-1]
    own = events.filter(train_id=number).sort("seq")
    first = own["planned_ts"][0]
    step = timedelta(hours=42) / (own.height - 1)
    planned = pl.Series([first + step * k for k in range(own.height)], dtype=own.schema["planned_ts"])
    now = first + timedelta(hours=40)
    observed = (planned + timedelta(minutes=7)).to_frame("o").select(pl.when(pl.col("o") <= now).then("o")).to_series()
    own = own.with_columns(
        train_id=pl.lit(NIGHT_TRAIN), planned_ts=planned, observed_ts=observed, delay_sec=pl.lit(420, pl.Int32)
    )
    pl.concat([events, own]).write_parquet(path)
    return now


def copy_to_the_next_date(data: Path) -> None:
    """Give the date after the last one the timetable of the last one, without observations."""
    move = pl.col("service_date", "^(.*_)?planned_ts$").dt.offset_by("1d")
    unobserved = [
        pl.lit(None, pl.Datetime("us", "UTC")).alias("observed_ts"),
        pl.lit(None, pl.Int32).alias("delay_sec"),
    ]
    events = pl.read_parquet(data / "events" / f"events_{DAY}.parquet").with_columns(move, *unobserved)
    events.write_parquet(data / "events" / f"events_{DAY + timedelta(days=1)}.parquet")
    journeys = pl.read_parquet(data / "journeys.parquet")
    pl.concat([journeys, journeys.filter(service_date=DAY).with_columns(move)]).write_parquet(data / "journeys.parquet")


def test_a_train_of_two_nights_is_predicted_on_its_third_day(
    trained: TrainedModel, small_config: Config, sample_folder: Path, tmp_path: Path
):
    data = tmp_path / "railway"
    shutil.copytree(sample_folder, data)
    now = delayed_until_the_third_day(data)
    assert now.date() == DAY + timedelta(days=1)
    copy_to_the_next_date(data)  # today: nothing was observed yet
    found = at(trained, small_config, data, now.isoformat())
    own = found.filter(train_id=NIGHT_TRAIN)
    assert own.height > 0 and own["service_date"].unique().to_list() == [DAY - timedelta(days=1)]
    assert own["last_delay_s"].unique().to_list() == [420]
    assert found.filter(service_date=DAY + timedelta(days=1)).height > 0
    # The third day begins at midnight. Before it, the train was always found.
    evening = at(trained, small_config, data, (now - timedelta(hours=20)).isoformat())
    assert NIGHT_TRAIN in evening["train_id"]


def test_a_point_that_the_model_does_not_know_keeps_its_name(trained: TrainedModel, small_config: Config, data: Path):
    before = at(trained, small_config, data, AT)
    known = before["op_id"][0]
    path = data / "events" / f"events_{DAY}.parquet"
    renamed = pl.when(pl.col("op_id") == known).then(9_999).otherwise("op_id").cast(pl.Int32).alias("op_id")
    pl.read_parquet(path).with_columns(renamed).write_parquet(path)
    found = at(trained, small_config, data, AT)
    assert found.height == before.height
    assert found.filter(pl.col("op_id") == 9_999)["op_name"].null_count() == before.filter(op_id=known).height
    assert found["predicted_delay_s"].null_count() == 0


# --- time honesty ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_a_changed_future_leaves_the_file_as_it_is(trained_folder: Path, data: Path, tmp_path: Path, suffix: str):
    before = predict(trained_folder, data, tmp_path / f"before{suffix}")
    now = datetime.fromisoformat(AT)
    changed = 0
    for path in (data / "events").iterdir():
        events = pl.read_parquet(path)
        later = pl.col("observed_ts") > now
        changed += events.filter(later).height
        # Some events are earlier but still later than now, some are hours later, some are not observed.
        other = (
            pl.when(pl.col("seq") % 3 == 0)
            .then(pl.lit(now).dt.convert_time_zone("UTC") + pl.duration(seconds=1))
            .when(pl.col("seq") % 3 == 1)
            .then(pl.col("observed_ts") + pl.duration(hours=3))
        )
        observed = pl.when(later).then(other).otherwise("observed_ts").cast(events.schema["observed_ts"])
        events = events.with_columns(observed.alias("observed_ts"))
        delay = (pl.col("observed_ts") - pl.col("planned_ts")).dt.total_seconds().cast(pl.Int32)
        events.with_columns(delay.alias("delay_sec")).write_parquet(path)
    assert changed > 500
    assert predict(trained_folder, data, tmp_path / f"after{suffix}") == before


def test_a_changed_past_does_not(trained_folder: Path, data: Path, tmp_path: Path):
    before = predict(trained_folder, data, tmp_path / "before.csv")
    path = data / "events" / f"events_{DAY}.parquet"
    known = pl.col("observed_ts") <= datetime.fromisoformat(AT)
    pl.read_parquet(path).with_columns(
        pl.when(known).then(pl.col("observed_ts") - pl.duration(minutes=5)).otherwise("observed_ts")
    ).write_parquet(path)
    assert predict(trained_folder, data, tmp_path / "after.csv") != before


# --- files -----------------------------------------------------------------------------------------------------------
def test_the_formats_say_the_same(trained_folder: Path, data: Path, tmp_path: Path):
    for suffix in ("parquet", "csv", "json"):
        predict(trained_folder, data, tmp_path / f"p.{suffix}")
    table = pl.read_parquet(tmp_path / "p.parquet")
    csv = pl.read_csv(tmp_path / "p.csv", schema_overrides={"train_number": pl.String})
    records = json.loads((tmp_path / "p.json").read_text())
    assert csv.columns == table.columns and len(records) == csv.height == table.height
    assert pl.DataFrame(records, schema=csv.schema).equals(csv)
    assert csv["planned_ts"].str.ends_with("+01:00").all()
    assert csv["planned_ts"].str.to_datetime(time_zone="UTC").equals(table["planned_ts"].dt.convert_time_zone("UTC"))


def test_a_file_is_written_whole_or_not_at_all(
    trained: TrainedModel, small_config: Config, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "p.csv"
    out.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    found = at(trained, small_config, data, AT)
    monkeypatch.setattr(pl.DataFrame, "write_csv", fail)
    with pytest.raises(OSError, match="No space left"):
        instant.writer(out)(out, found)
    assert out.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"p.csv", "data"}


# --- the instant -----------------------------------------------------------------------------------------------------
def test_a_time_without_offset_is_local():
    assert parse_instant("2024-12-21T08:00", "Europe/Brussels") == datetime(2024, 12, 21, 7, tzinfo=UTC)
    assert parse_instant("2024-07-21 08:00", "Europe/Brussels") == datetime(2024, 7, 21, 6, tzinfo=UTC)
    assert parse_instant("2024-12-21T08:00Z", "Europe/Brussels") == datetime(2024, 12, 21, 8, tzinfo=UTC)
    first = parse_instant("2024-10-27T02:30", "Europe/Brussels")  # the clock shows it twice
    assert first == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("eight", "--at 'eight' .*2024-12-21T08:00"),
        ("2024-12-21T25:00", "--at '2024-12-21T25:00' .*time"),
        ("0001-01-01T00:00", "--at '0001-01-01T00:00' .*time"),
        ("2024-03-31T02:30", "--at '2024-03-31T02:30' .*Europe/Brussels.*offset"),
    ],
)
def test_what_is_no_time_is_one_line(text: str, words: str):
    with pytest.raises(UserError, match=words):
        parse_instant(text, "Europe/Brussels")


@pytest.mark.parametrize("text", ["2025-01-10T08:00", "2025-01-14T08:00", "2030-06-01T00:00"])
def test_a_time_outside_the_data_is_one_line(trained_folder: Path, small_config: Config, data: Path, text: str):
    config = with_values(small_config, {"data.local_folder": str(data)}, "test")
    out = data.parent / "p.csv"
    with pytest.raises(UserError, match=f"--at {text}.* {text[:10]}; .* 2025-01-12 to "):
        stages.predict(config, trained_folder, text, out)
    assert not out.exists()


def test_the_last_trains_are_predicted_after_the_last_date(
    trained_folder: Path, small_config: Config, data: Path, caplog: pytest.LogCaptureFixture
):
    config = with_values(small_config, {"data.local_folder": str(data)}, "test")
    result = stages.predict(config, trained_folder, "2025-01-14T00:20", data.parent / "p.csv")
    assert result["trains"] > 0
    assert "no events of 2025-01-14" in caplog.text


@pytest.mark.slow
def test_a_run_of_mlflow_predicts_and_stays_as_it_is(
    trained_folder: Path, data: Path, tmp_path: Path, mlflow_server: str, small_overrides: list[str]
):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_server)
    run_id = client.create_run("0").info.run_id
    client.log_artifacts(run_id, str(trained_folder))
    client.set_terminated(run_id)
    out = tmp_path / "p.csv"
    settings = ["--set", f"training.mlflow.tracking_uri={mlflow_server}", "--data", str(data), "--out", str(out)]
    assert main(["predict", "--run-id", run_id, "--at", AT, *settings]) == 0
    assert out.read_bytes() == predict(trained_folder, data, tmp_path / "q.csv")
    assert client.get_run(run_id).info.status == "FINISHED"
