"""RIDE: the keys of an evaluation table are read, and each one gets a delay."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from transformer import stages
from transformer.cli import main
from transformer.config import Config
from transformer.data.dates import available_dates
from transformer.errors import UserError
from transformer.prediction import ride
from transformer.prediction.instant import predictions_at
from transformer.prediction.ride import predict_ride, read_keys
from transformer.training.run_folder import TrainedModel

BRUSSELS = "Europe/Brussels"
DAY = date(2025, 1, 13)
N = 7  # delays per key, more than the model's five


@pytest.fixture(scope="module")
def trained(trained_folder: Path) -> TrainedModel:
    return TrainedModel.load(trained_folder)


@pytest.fixture
def config(trained: TrainedModel, small_config: Config) -> Config:
    return trained.located(small_config)


@pytest.fixture
def table(sample_folder: Path) -> pl.DataFrame:
    """An evaluation table in RIDE's format: two snapshots of all journeys of two dates, running or not."""
    journeys = pl.read_parquet(sample_folder / "journeys.parquet").select("train_id", "service_date")
    journeys = journeys.filter(pl.col("service_date").is_in([DAY, DAY - timedelta(days=1)]))
    ts = [datetime(2025, 1, 13, 8), datetime(2025, 1, 13, 0, 20)]  # naive, local
    return (
        pl.DataFrame({"ts": pl.Series(ts, dtype=pl.Datetime("ns"))})
        .join(journeys, how="cross")
        .with_columns(
            pl.col("service_date").dt.to_string("%d%b%Y").str.to_uppercase(),
            pl.lit(77.0, pl.Float32).alias("last_known_delay"),
            *(pl.lit(None, pl.Float32).alias(f"future_delay_{k}") for k in range(1, N + 1)),
        )
        .sample(fraction=1.0, shuffle=True, seed=1)
    )


def gold(tmp_path: Path, table: pl.DataFrame) -> Path:
    table.write_parquet(tmp_path / ride.TABLE)
    return tmp_path


def predicted(trained: TrainedModel, config: Config, folder: Path) -> pl.DataFrame:
    keys = read_keys(folder, BRUSSELS)
    return predict_ride(trained, config, keys, available_dates(Path(config.data.local_folder))).table


def test_every_key_gets_every_delay_in_the_order_of_the_table(
    trained: TrainedModel, config: Config, table: pl.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO"):
        found = predicted(trained, config, gold(tmp_path, table))
    assert found.columns == ["ts", "train_id", "service_date", *(f"future_delay_{k}" for k in range(1, N + 1))]
    assert found.select("ts", "train_id", "service_date").equals(table.select("ts", "train_id", "service_date"))
    values = found.select(pl.col("^future_delay_.*$")).to_numpy()
    assert values.dtype == np.float32 and np.isfinite(values).all()
    assert f"RIDE: {table.height:,} keys; the model predicts" in caplog.text


def test_a_running_train_gets_what_predict_says(
    trained: TrainedModel, config: Config, table: pl.DataFrame, tmp_path: Path
):
    instant = datetime(2025, 1, 13, 8, tzinfo=ZoneInfo(BRUSSELS))
    now = predictions_at(trained, config, instant, [DAY - timedelta(days=1), DAY])
    found = predicted(trained, config, gold(tmp_path, table))
    found = found.filter(pl.col("ts") == datetime(2025, 1, 13, 8)).with_columns(
        pl.col("service_date").str.to_date("%d%b%Y")
    )
    both = now.join(found, on=["train_id", "service_date"])
    assert both.height == now.height > 10
    for row in both.iter_rows(named=True):
        assert row[f"future_delay_{row['rank']}"] == pytest.approx(row["predicted_delay_s"], abs=0.51)
    last = both.filter(pl.col("rank") == pl.col("rank").max().over("train_id", "service_date"))
    for row in last.iter_rows(named=True):  # events after the last predicted one get its delay
        assert row[f"future_delay_{N}"] == row[f"future_delay_{row['rank']}"]


def test_other_keys_get_what_is_known(
    trained: TrainedModel, config: Config, table: pl.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A train outside the snapshot gets its last known delay; one that the data lack gets the table's, else 0."""
    keys = [("gone", "13JAN2025", 77.0), ("lost", "13JAN2025", None), ("lost", "01FEB2030", None)]
    strangers = pl.DataFrame(
        [table.row(0, named=True) | {"train_id": t, "service_date": d, "last_known_delay": k} for t, d, k in keys],
        schema=table.schema,
    )
    with caplog.at_level("INFO"):
        found = predicted(trained, config, gold(tmp_path, pl.concat([table, strangers])))
    assert found.tail(3)["future_delay_1"].to_list() == [77.0, 0.0, 0.0]
    assert "2 get 0" in caplog.text
    day = pl.read_parquet(Path(config.data.local_folder) / "events" / f"events_{DAY - timedelta(days=1)}.parquet")
    ended = day.sort("seq").group_by("train_id").agg(pl.all().last()).drop_nulls("observed_ts")
    ended = ended.filter(pl.col("observed_ts") < datetime(2025, 1, 12, 20, tzinfo=UTC))
    both = found.filter(pl.col("service_date") == "12JAN2025").join(ended, on="train_id")
    assert both.height > 10
    assert (both["future_delay_1"] == both["delay_sec"]).all()


def test_times_and_dates_are_read_however_they_are_written(table: pl.DataFrame, tmp_path: Path):
    expected = read_keys(gold(tmp_path, table), BRUSSELS).rows
    local = pl.col("ts").dt.replace_time_zone(BRUSSELS)
    midnight = pl.col("service_date").str.to_datetime("%d%b%Y")
    variants = [
        *(pl.col("ts").dt.epoch(unit) for unit in ("s", "ms", "us", "ns")),
        pl.col("ts").dt.epoch("s").cast(pl.Int32),
        pl.col("ts").cast(pl.Datetime("us")),
        local,
        local.dt.convert_time_zone("UTC"),
        pl.col("service_date").str.to_date("%d%b%Y"),
        pl.col("service_date").str.to_date("%d%b%Y").dt.to_string("%Y-%m-%d"),
        midnight,
        midnight.dt.replace_time_zone(BRUSSELS),
        midnight.dt.replace_time_zone(BRUSSELS).dt.convert_time_zone("UTC"),  # 23:00 of the day before
        midnight.dt.replace_time_zone(BRUSSELS).dt.convert_time_zone("UTC").dt.replace_time_zone(None),
        midnight.dt.replace_time_zone("UTC"),
        midnight.dt.replace_time_zone("Asia/Tokyo"),
        pl.col("train_id").cast(pl.Categorical),
    ]
    for variant in variants:
        other = table.with_columns(variant)
        keys = read_keys(gold(tmp_path, other), BRUSSELS)
        assert keys.rows.equals(expected)
        assert keys.table.equals(other.select("ts", "train_id", "service_date"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pl.exclude("train_id"), "'train_id' .*missing.* ts, service_date"),
        (pl.exclude("^future.*$"), "'future_delay_1' .*missing"),
        (pl.exclude("future_delay_3"), "'future_delay_3' .*missing"),
        (pl.all().exclude("ts"), "'ts' .*missing"),
        ([pl.lit("8 am").alias("ts"), pl.exclude("ts")], "'ts' .*String.*timestamps"),
        ([pl.lit(3).alias("service_date"), pl.exclude("service_date")], "'service_date' .*Int32.*dates"),
        ([pl.lit("soon").alias("service_date"), pl.exclude("service_date")], "values of 'service_date' .*missing"),
        (
            [pl.lit(datetime(2025, 1, 13, 8)).alias("service_date"), pl.exclude("service_date")],
            "'service_date' holds 2025-01-13T08:00:00.*no date.*midnight in data.timezone=Europe/Brussels",
        ),
        (
            # Two tables of different units, one below the other.
            [
                pl.col("ts").dt.epoch("ns") // pl.when(pl.int_range(pl.len()) % 2 == 0).then(1000).otherwise(1),
                pl.exclude("ts"),
            ],
            "'ts' holds numbers from 173.* to 173.* 1990 to 2100 in one unit of s, ms, us, ns",
        ),
        ([pl.col("ts").dt.epoch("s") // 60, pl.exclude("ts")], "'ts' holds numbers from 2.* 1990 to 2100"),
        ([pl.col("ts").dt.epoch("us").cast(pl.Datetime("ns")), pl.exclude("ts")], "'ts' holds 1970-01-2.*1990.*ns"),
        ([pl.col("ts").dt.epoch("s").cast(pl.Float64), pl.exclude("ts")], "'ts' holds Float64"),
        (pl.all().head(0), "holds no keys"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(table: pl.DataFrame, tmp_path: Path, change, words: str):
    with pytest.raises(UserError, match=words) as caught:
        read_keys(gold(tmp_path, table.select(change)), BRUSSELS)
    assert str(caught.value).startswith(str(tmp_path / ride.TABLE))


def test_keys_that_match_no_train_are_counted_and_named(
    trained: TrainedModel, config: Config, table: pl.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    other = pl.when(pl.int_range(pl.len()) < 3).then(pl.lit("0") + pl.col("train_id")).otherwise("train_id")
    later = pl.when(pl.int_range(pl.len()) == 5).then(pl.col("ts").dt.offset_by("20d")).otherwise("ts")
    keys = read_keys(gold(tmp_path, table.with_columns(other.alias("train_id"), later.alias("ts"))), BRUSSELS)
    with caplog.at_level("WARNING"):
        found = predict_ride(trained, config, keys, available_dates(Path(config.data.local_folder)))
    assert found.unmatched == 4
    first = table["train_id"][0]
    assert f"4 of {table.height:,} keys are of trains that the event tables in" in caplog.text
    assert f"train_id '0{first}'" in caplog.text and "last known delay, else 0" in caplog.text
    caplog.clear()
    keys = read_keys(gold(tmp_path, table), BRUSSELS)
    assert predict_ride(trained, config, keys, available_dates(Path(config.data.local_folder))).unmatched == 0
    assert "WARNING" not in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        pl.col("train_id") + "x",  # a day with events, but without these trains
        pl.col("ts").dt.offset_by("10d"),  # an instant without events
        pl.lit("13JAN2020").alias("service_date"),
    ],
)
def test_if_no_key_matches_a_train_nothing_is_written(
    trained_folder: Path, small_config: Config, table: pl.DataFrame, tmp_path: Path, change: pl.Expr
):
    folder, out = gold(tmp_path, table.with_columns(change)), tmp_path / "p.parquet"
    words = (
        rf"{table.height} of {table.height} keys are of trains that the event tables .* there are dates from .*--data"
    )
    with pytest.raises(UserError, match=words) as caught:
        stages.predict_ride(small_config, trained_folder, folder, out)
    assert str(caught.value).startswith(str(folder / ride.TABLE)) and not out.exists()


def test_a_key_of_an_ended_train_is_a_match(
    trained: TrainedModel, config: Config, table: pl.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The trains of the date before have ended by the next evening. Their last known delay is no fallback."""
    evening = table.filter(service_date="12JAN2025").with_columns(ts=pl.lit(datetime(2025, 1, 13, 23, 30)))
    evening = evening.with_columns(pl.col("ts").cast(pl.Datetime("ns"))).unique("train_id")
    with caplog.at_level("INFO"):
        predicted(trained, config, gold(tmp_path, evening))
    assert "the model predicts 0 of them" in caplog.text and "WARNING" not in caplog.text


def test_the_command_writes_a_parquet_file(
    trained_folder: Path, sample_folder: Path, table: pl.DataFrame, tmp_path: Path
):
    out = tmp_path / "predictions.parquet"
    model = ["--run-folder", str(trained_folder), "--data", str(sample_folder)]
    assert main(["predict", "--ride", str(gold(tmp_path, table)), *model, "--out", str(out)]) == 0
    assert pl.read_parquet(out).height == table.height


def test_a_folder_that_holds_no_table_and_another_format_are_refused(
    trained_folder: Path, small_config: Config, tmp_path: Path
):
    with pytest.raises(UserError, match=r"test_eval_table\.parquet .*not exist; .*folder of a RIDE Gold core"):
        stages.predict_ride(small_config, trained_folder, tmp_path, tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r"p\.csv: RIDE's evaluator reads Parquet"):
        stages.predict_ride(small_config, trained_folder, tmp_path, tmp_path / "p.csv")
