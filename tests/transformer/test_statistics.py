"""Statistics: spelled out on a handful of events, mergeable, and blind to a training date's own outcome."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from transformer import statistics as st
from transformer.config import Config, DataConfig, StatisticsConfig
from transformer.data.event_table import Vocabulary, load_event_table
from transformer.data.events import available_dates, read_events, read_journeys
from transformer.data.tables import EVENT_SCHEMA, events_path, write_events
from transformer.errors import UserError
from transformer.statistics import (
    FEATURES,
    Moments,
    Statistics,
    compute_statistics,
    day_statistics,
    event_features,
    load_statistics,
    save_statistics,
)

DAY = date(2025, 1, 6)
START = datetime(2025, 1, 6, 8, tzinfo=UTC)


def events_of(delays: list[list[int | None]]) -> pl.DataFrame:
    """Journeys over points 1, 2, 3 … ten minutes apart, each with its delays in seconds."""
    rows = []
    for number, journey in enumerate(delays):
        for seq, delay in enumerate(journey):
            planned = START + timedelta(minutes=10 * seq)
            observed = None if delay is None else planned + timedelta(seconds=delay)
            rows.append([f"T{number}", DAY, seq, seq + 1, "D", planned, observed, delay])
    return pl.DataFrame(rows, schema=EVENT_SCHEMA, orient="row")


def statistics_of(delays: list[list[int | None]], **config: int) -> Statistics:
    events = events_of(delays)
    journeys = events.select(
        "train_id", "service_date", pl.col("train_id").alias("train_number"), pl.lit("regional").alias("train_type")
    ).unique()
    data = DataConfig(statistics=StatisticsConfig(**config), timezone="UTC")
    return day_statistics(events, journeys, DAY, 0, Vocabulary(np.arange(1, 9, dtype=np.int32), ("regional",)), data)


def test_delay_change_and_running_time_of_a_section_spelled_out():
    table = statistics_of([[0, 60], [60, 180], [0, None]]).section_table()
    section = table.filter((pl.col("from_op") == 1) & (pl.col("to_op") == 2)).row(0, named=True)
    assert section["n"] == 2  # the third train was not observed at its end
    assert section["change_mean"] == 90 and section["change_deviation"] == 30
    assert section["running_mean"] == 690 and section["running_deviation"] == 30
    assert section["planned_mean"] == 600
    first = table.filter(pl.col("from_op") == 0).row(0, named=True)
    assert (first["to_op"], first["n"], first["change_mean"]) == (1, 3, 20)


def test_middle_mean_leaves_the_quarters_at_both_ends_out():
    changes = [-600, 0, 0, 30, 30, 60, 60, 1_800]
    table = statistics_of([[0, change] for change in changes]).section_table()
    section = table.filter(pl.col("from_op") == 1).row(0, named=True)
    assert section["change_middle_mean"] == pytest.approx(30)  # of 0 30 30 60
    assert section["running_middle_mean"] == pytest.approx(630)


def test_moments_merge_like_the_values_would():
    values = np.random.default_rng(0).normal(5, 3, 1_000)
    merged = Moments.of(values[:300]) + Moments.of(values[300:])
    assert merged.mean == pytest.approx(values.mean()) and merged.std == pytest.approx(values.std())
    assert Moments().std == 1 and Moments.of(np.array([2.0, 2.0])).std == 1


def test_the_resolution_divides_every_observed_delay():
    assert statistics_of([[0, 60], [-120, 1_800], [None, None]]).resolution_s == 60
    assert statistics_of([[0, 60], [-120, 1_801]]).resolution_s == 1
    assert statistics_of([[30, 90], [None, 150]]).resolution_s == 30
    assert statistics_of([[0, 0], [None, None]]).resolution_s == 0


def test_merging_dates_in_any_order_gives_the_same(small_config: Config):
    data, folder = small_config.data, Path(small_config.data.local_folder)
    days = available_dates(folder)[:3]
    journeys = read_journeys(folder, days, data.timezone)
    vocabulary = Vocabulary(np.arange(1, 25, dtype=np.int32), ("long_distance", "other", "regional"))
    parts = [
        day_statistics(
            read_events(folder, day, data.timezone, data.validation)[0], journeys, day, fold, vocabulary, data
        )
        for fold, day in enumerate(days)
    ]
    forward, backward = parts[0] + parts[1] + parts[2], parts[2] + (parts[1] + parts[0])
    for name in ("sections", "histograms", "history"):
        assert getattr(forward, name).equals(getattr(backward, name)), name
    assert forward.summary() == pytest.approx(backward.summary())
    with pytest.raises(ValueError, match="same service date"):
        _ = forward + parts[0]


def features_of(config: Config, statistics: Statistics, day: date) -> np.ndarray:
    loaded = load_event_table(config.data, [day], statistics.vocabulary, Path(config.paths.cache))
    return event_features(loaded, statistics, config.data.statistics).values


def test_features_of_a_training_date_leave_it_out(small_config: Config):
    days = available_dates(Path(small_config.data.local_folder))[:4]
    whole = compute_statistics(small_config.data, days)
    for day in days:
        others = compute_statistics(small_config.data, [other for other in days if other != day])
        np.testing.assert_array_equal(
            features_of(small_config, whole, day), features_of(small_config, others, day), err_msg=str(day)
        )
    assert features_of(small_config, whole, days[0]).std(0).min() > 0  # every feature says something


def test_changing_a_later_date_changes_no_statistics(small_config: Config, tmp_path: Path):
    """Statistics see the training dates only: rewriting another date's observations must not show."""
    source = Path(small_config.data.local_folder)
    days = available_dates(source)
    folder = tmp_path / "data"
    (folder / "events").mkdir(parents=True)
    for path in source.rglob("*.parquet"):
        (folder / path.relative_to(source)).write_bytes(path.read_bytes())
    data = replace(small_config.data, local_folder=str(folder))
    before = compute_statistics(data, days[:3])
    later = pl.read_parquet(events_path(folder, days[4]))
    write_events(folder, days[4], later.with_columns(pl.col("observed_ts") + pl.duration(hours=1)))
    after = compute_statistics(data, days[:3])
    assert before.sections.equals(after.sections) and before.history.equals(after.history)
    assert st.statistics_hash(data, days[:3]) == st.statistics_hash(small_config.data, days[:3])


def test_unseen_section_falls_back_to_its_kind(small_config: Config):
    days = available_dates(Path(small_config.data.local_folder))[:3]
    statistics = compute_statistics(small_config.data, days)
    bare = replace(
        statistics,
        sections=statistics.sections.with_columns(pl.col("to_op") + 1_000),
        histograms=statistics.histograms.with_columns(pl.col("to_op") + 1_000),
    )
    values = features_of(small_config, bare, available_dates(Path(small_config.data.local_folder))[4])
    assert np.isfinite(values).all()
    assert values[:, FEATURES.index("change_mean")].std() > 0
    assert (values[:, FEATURES.index("planned_excess")] == 0).all()


def test_saved_and_loaded_is_the_same_and_nothing_is_pickled(small_config: Config, tmp_path: Path):
    days = available_dates(Path(small_config.data.local_folder))[:2]
    statistics = compute_statistics(small_config.data, days)
    save_statistics(statistics, tmp_path / "s")
    loaded = load_statistics(tmp_path / "s")
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "histograms.parquet", "history.parquet", "inputs.json", "sections.parquet",
    ]  # fmt: skip
    assert loaded.sections.equals(statistics.sections) and loaded.inputs == dict(statistics.inputs)
    assert loaded.fold_of == dict(statistics.fold_of)
    np.testing.assert_array_equal(loaded.vocabulary.op_ids, statistics.vocabulary.op_ids)


def test_damaged_statistics_are_refused_in_one_line(small_config: Config, tmp_path: Path):
    statistics = compute_statistics(small_config.data, available_dates(Path(small_config.data.local_folder))[:1])
    save_statistics(statistics, tmp_path / "s")
    (tmp_path / "s" / "sections.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match=r"remove the folder and run the stage again$"):
        load_statistics(tmp_path / "s")


def test_hash_follows_data_and_relevant_configuration(small_config: Config):
    days = available_dates(Path(small_config.data.local_folder))
    base = st.statistics_hash(small_config.data, days[:3])
    other = replace(small_config.data, timezone="UTC")
    assert len({base, st.statistics_hash(small_config.data, days[:4]), st.statistics_hash(other, days[:3])}) == 3
    moved = replace(small_config.data, save_results_to_s3=True, bucket_name="b")
    assert st.statistics_hash(moved, days[:3]) == base
