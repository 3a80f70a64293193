"""Statistics: worked examples on a few events, merging, and no effect of a training date's own outcome."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from polars.testing import assert_frame_equal

from benchmarks.tables import read_table
from tests.support.messages import assert_names
from transformer.config import Config, DataConfig, SnapshotConfig, StatisticsConfig
from transformer.data.dates import available_dates
from transformer.data.event_table import LoadedTable, Vocabulary
from transformer.data.events import DayEvents, each_day, read_journeys
from transformer.data.reasons import ReadingReport
from transformer.data.tables import EVENT_SCHEMA, events_path, write_events
from transformer.errors import UserError
from transformer.features import statistics as st
from transformer.features.history import FEATURES, History, varied_folds
from transformer.features.snapshots import EventFeatures, SnapshotBuilder
from transformer.features.statistics import (
    Moments,
    Statistics,
    compute_statistics,
    date_statistics,
    date_weights,
    folds_of,
    load_statistics,
    merge_dates,
    save_statistics,
)
from transformer.files import read_json, write_json
from transformer.parquet import write_parquet

DAY = date(2025, 1, 6)
START = datetime(2025, 1, 6, 8, tzinfo=UTC)


def events_of(delays: list[list[int | None]], after_days: int = 0) -> pl.DataFrame:
    """Journeys over points 1, 2, 3 … ten minutes apart, each with its delays in seconds."""
    rows = []
    for number, journey in enumerate(delays):
        for seq, delay in enumerate(journey):
            planned = START + timedelta(days=after_days, minutes=10 * seq)
            observed = None if delay is None else planned + timedelta(seconds=delay)
            rows.append([f"T{number}", DAY + timedelta(days=after_days), seq, seq + 1, "D", planned, observed, delay])
    return pl.DataFrame(rows, schema=EVENT_SCHEMA, orient="row")


def journeys_of(events: pl.DataFrame) -> pl.DataFrame:
    return events.select(
        "train_id", "service_date", pl.col("train_id").alias("train_number"), pl.lit("regional").alias("train_type")
    ).unique()


VOCABULARY = Vocabulary(np.arange(1, 9, dtype=np.int32), ("regional",))


def statistics_of(delays: list[list[int | None]], after_days: int = 0, **config: int) -> Statistics:
    """Statistics of one date, whose fold is its number."""
    events = events_of(delays, after_days)
    data = DataConfig(statistics=StatisticsConfig(**config), timezone="UTC")
    read = DayEvents(DAY + timedelta(days=after_days), events, ReadingReport())
    return date_statistics(read, journeys_of(events), data)._in_fold(after_days)


def test_delay_change_of_a_section_spelled_out():
    table = statistics_of([[0, 60], [60, 180], [0, None]]).section_table()
    section = table.filter((pl.col("from_op") == 1) & (pl.col("to_op") == 2)).row(0, named=True)
    assert section["n"] == 2  # the third train was not observed at its end
    assert section["change_mean"] == 90 and section["change_std"] == 30
    assert section["planned_mean"] == 600
    first = table.filter(pl.col("from_op") == 0).row(0, named=True)
    assert (first["to_op"], first["n"], first["change_mean"]) == (1, 3, 20)


def test_middle_mean_leaves_the_quarters_at_both_ends_out():
    changes = [-600, 0, 0, 30, 30, 60, 60, 1_800]
    table = statistics_of([[0, change] for change in changes]).section_table()
    section = table.filter(pl.col("from_op") == 1).row(0, named=True)
    assert section["change_middle_mean"] == pytest.approx(30)  # mean of 0, 30, 30 and 60


def test_moments_merge_like_the_values_would():
    values = np.random.default_rng(0).normal(5, 3, 1_000)
    merged = Moments.of(values[:300]) + Moments.of(values[300:])
    assert merged.mean == pytest.approx(values.mean()) and merged.std == pytest.approx(values.std())
    assert Moments().std == 1 and Moments.of(np.array([2.0, 2.0])).std == 1


def test_the_resolution_divides_every_observed_delay():
    assert statistics_of([[0, 60], [-120, 1_800], [None, None]]).resolution_s == 60
    assert statistics_of([[0, 60], [-120, 1_801]]).resolution_s == 1
    assert statistics_of([[15, 75], [-45, 90]]).resolution_s == 15
    assert statistics_of([[30, 90], [None, 150]]).resolution_s == 30
    assert statistics_of([[None, None]]).resolution_s == 0
    assert statistics_of([[0, 0], [None, None]]).resolution_s == 60


def test_one_odd_second_does_not_switch_rounding_off():
    statistics = statistics_of([[60 * (n % 9) for n in range(200)], [1]])
    assert statistics.resolution_s == 60
    assert statistics.resolution_text() == "200 of 201 observed delays are multiples of 60 s"
    assert (statistics_of([[1, 2]]) + statistics_of([[60] * 1_000], after_days=1)).resolution_s == 60


def test_a_date_counts_half_as_much_for_each_half_life_before_the_last():
    days = [DAY + timedelta(days=offset) for offset in (0, 30, 60, 75, 90)]
    weights = date_weights(days, half_life_days=30)
    assert list(weights.values()) == [1 / 8, 1 / 4, 1 / 2, pytest.approx(0.5**0.5, abs=st.WEIGHT_STEP), 1]
    assert all((weight / st.WEIGHT_STEP).is_integer() for weight in weights.values())
    assert date_weights([DAY, DAY + timedelta(days=10_000)], half_life_days=30)[DAY] == st.WEIGHT_STEP
    assert date_weights(days, half_life_days=None) == {}


def test_an_older_date_weighs_less_in_every_mean():
    older, last = statistics_of([[0, 60]] * 3).weighted(0.25), statistics_of([[0, 0]], after_days=1).weighted(1.0)
    merged = older + last
    section = merged.section_table().filter(pl.col("from_op") == 1).row(0, named=True)
    assert section["n"] == 1.75 and section["planned_mean"] == 600
    assert section["change_mean"] == pytest.approx(0.75 * 60 / 1.75)
    assert section["change_middle_mean"] == pytest.approx(60 * (0.75 * 1.75 - 1) / (0.5 * 1.75))
    assert merged.inputs["delay"].mean == pytest.approx(0.75 * 60 / (2 * 1.75))
    assert merged.resolution_text() == "8 of 8 observed delays are multiples of 60 s"
    history = merged.history.filter(pl.col("op_id") == 2).select(pl.col("n", "delay").sum()).row(0)
    assert history == (1.75, 45)


def test_equal_weights_leave_every_value_as_it_is(small_config: Config):
    days = available_dates(Path(small_config.data.local_folder))
    alike = compute_statistics(small_config.data, days[:3])
    ages = small_config.data.statistics.model_copy(update={"half_life_days": 1e6})
    data = small_config.data.model_copy(update={"statistics": ages})
    nearly = compute_statistics(data, days[:3])
    tables = [found.section_table().sort(st.SECTION).with_columns(pl.col("n").cast(float)) for found in (nearly, alike)]
    assert tables[0].equals(tables[1])
    assert_array_equal(features_of(small_config, nearly, days[4]), features_of(small_config, alike, days[4]))


def test_merging_dates_in_any_order_gives_the_same(small_config: Config):
    data, days = small_config.data, available_dates(Path(small_config.data.local_folder))[:3]
    journeys = read_journeys(Path(data.local_folder), days, data.timezone)
    parts = [
        date_statistics(read, journeys.filter(pl.col("service_date") == read.day), data)._in_fold(fold)
        for fold, read in enumerate(each_day(data, days))
    ]
    forward, backward = parts[0] + parts[1] + parts[2], parts[2] + (parts[1] + parts[0])
    for name in ("sections", "histograms", "history"):
        assert getattr(forward, name).equals(getattr(backward, name)), name
    at_once = Statistics.merged(parts)
    assert all(getattr(forward, name).equals(getattr(at_once, name)) for name in ("sections", "histograms", "history"))
    assert forward.inputs == at_once.inputs and forward.fold_of == at_once.fold_of
    assert forward.summary() == pytest.approx(backward.summary())
    with pytest.raises(ValueError, match="same service date"):
        _ = forward + parts[0]


@pytest.mark.parametrize("most", [1, 2, 10])
def test_the_dates_of_every_fold_add_up(small_config: Config, monkeypatch: pytest.MonkeyPatch, most: int):
    """The statistics are those of the events of each fold together, in any order of the dates."""
    monkeypatch.setattr(st, "FOLDS", most)
    data, days = small_config.data, available_dates(Path(small_config.data.local_folder))[:5]
    whole = compute_statistics(data, days[::-1])
    assert whole.fold_of == {day: number % most for number, day in enumerate(days)}
    assert [len(fold) for fold in folds_of(days)] == [len(days[number::most]) for number in range(min(most, 5))]
    for number, fold in enumerate(folds_of(days)):
        of_fold = compute_statistics(data, fold)
        for name in ("sections", "histograms", "history"):
            alone = getattr(of_fold, name).drop("fold")
            keys = alone.columns[: -4 if name == "sections" else -1 if name == "histograms" else -3]
            alone = alone.group_by(keys).agg(pl.all().sum()).sort(keys)
            assert_frame_equal(getattr(whole, name).filter(pl.col("fold") == number).drop("fold"), alone)
    with pytest.raises(UserError, match=r"data\.split\.train is empty"):
        merge_dates([], folds_of([]), np.zeros(0, np.int32))


def features_of(config: Config, statistics: Statistics, day: date) -> np.ndarray:
    loaded = read_table(config.data, [day], statistics.vocabulary)
    return History(statistics, config.data.statistics).features(loaded).values


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
    """Statistics depend on the training dates only: changed observations of another date have no effect."""
    source = Path(small_config.data.local_folder)
    days = available_dates(source)
    folder = tmp_path / "data"
    (folder / "events").mkdir(parents=True)
    for path in source.rglob("*.parquet"):
        (folder / path.relative_to(source)).write_bytes(path.read_bytes())
    data = small_config.data.model_copy(update={"local_folder": str(folder)})
    before = compute_statistics(data, days[:3])
    later = pl.read_parquet(events_path(folder, days[4]))
    write_events(folder, days[4], later.with_columns(pl.col("observed_ts") + pl.duration(hours=1)))
    after = compute_statistics(data, days[:3])
    assert before.sections.equals(after.sections) and before.history.equals(after.history)
    assert st.statistics_hash(data, days[:3]) == st.statistics_hash(small_config.data, days[:3])


# Delays of one train on three dates, with an extreme delay on the last, and delays of another train.
PAST = [
    [[0, 60, 120], [0, 0, 0]],
    [[0, 120, 60], [0, 0, 0]],
    [[0, 6_000, 7_200], [0, 0, None]],
]


def of_date(after_days: int, trains: int = 2, **config: float) -> tuple[LoadedTable, EventFeatures]:
    """The table and the features of a date, given the statistics of PAST."""
    known = Statistics.merged([statistics_of(delays, number) for number, delays in enumerate(PAST)])
    events = events_of([[0, 0, 0]] * trains, after_days)
    loaded = LoadedTable.of(events, journeys_of(events), VOCABULARY)
    return loaded, History(known, StatisticsConfig(min_count=4, **config)).features(loaded)


def columns(features: EventFeatures, train: int, *names: str) -> list[list[float]]:
    """Features `names` of each of the three events of a train."""
    wanted = [FEATURES.index(name) for name in names]
    return features.values[3 * train : 3 * train + 3, wanted].tolist()


HISTORY_ORDER = ("history_low", "history_median", "history_high")


def test_one_stranded_date_moves_the_mean_of_a_train_and_not_its_median():
    _, features = of_date(after_days=7)
    assert columns(features, 0, *HISTORY_ORDER) == [[0, 0, 0], [60, 120, 6_000], [60, 120, 7_200]]
    # Three dates have a weight of three quarters; the rest is the mean of trains of its type here.
    own, both = (60 + 120 + 6_000) / 3, (60 + 120 + 6_000) / 6
    assert columns(features, 0, "history_delay")[1] == pytest.approx([0.75 * own + 0.25 * both])
    assert columns(features, 0, "history_weight") == [[0.75]] * 3
    assert columns(features, 1, *HISTORY_ORDER) == [[0, 0, 0]] * 3


def test_the_weight_of_a_train_s_own_past_has_a_key_of_its_own():
    for count, weight in ((3.0, 0.5), (0.0, 1.0), (9.0, 0.25)):
        assert columns(of_date(7, history_min_count=count)[1], 0, "history_weight") == [[weight]] * 3
    _, features = of_date(after_days=7, trains=3, history_min_count=0.0)
    assert columns(features, 2, "history_weight") == [[0]] * 3  # never seen


def test_median_change_is_taken_from_the_last_known_event_on():
    loaded, features = of_date(after_days=7)
    builder = SnapshotBuilder(loaded.table, SnapshotConfig(n_prev=2, n_foll=2), features)
    batch = builder.build(np.array([int((START + timedelta(days=7, minutes=11)).timestamp())]))
    change = batch.next_features[0, :, :, FEATURES.index("history_median_change")]
    assert batch.next_mask[0].tolist() == [[True, False]] * 2  # the second of three events has passed
    assert change.tolist() == [[120 - 120, 0], [0, 0]]
    waiting = builder.build(np.array([int((START + timedelta(days=7, minutes=-1)).timestamp())]))
    assert waiting.next_features[0, 0, :, FEATURES.index("history_median_change")].tolist() == [0, 120]


def test_history_of_a_training_date_leaves_that_date_out():
    stranded, usual = of_date(after_days=2)[1], of_date(after_days=0)[1]
    assert columns(stranded, 0, *HISTORY_ORDER) == [[0, 0, 0], [60, 90, 120], [60, 90, 120]]
    assert columns(usual, 0, *HISTORY_ORDER)[1] == [120, (120 + 6_000) / 2, 6_000]


def test_unseen_train_number_is_taken_to_be_like_its_type_there():
    _, features = of_date(after_days=7, trains=3)
    usual = [0, (60 + 120 + 6_000) / 6, (120 + 60 + 7_200) / 5]
    for name in (*HISTORY_ORDER, "history_delay"):
        assert [value for (value,) in columns(features, 2, name)] == pytest.approx(usual), name
    assert columns(features, 2, "history_weight") == [[0]] * 3


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


def test_statistics_of_an_older_program_load(small_config: Config, tmp_path: Path):
    """Earlier programs also kept hours, weekdays, running times and moments per train type, which nothing read."""
    folder = tmp_path / "s"
    statistics = compute_statistics(small_config.data, available_dates(Path(small_config.data.local_folder))[:2])
    save_statistics(statistics, folder)
    inputs = read_json(folder / "inputs.json")
    inputs["inputs"] |= {"planned": [2.0, 60.0, 1_800.0], "running_trains/unknown": [2.0, 0.0, 0.0]}
    write_json(folder / "inputs.json", inputs | {"hour_of_day": [1] * 24, "day_of_week": [1] * 7})
    sections = statistics.sections.with_columns(pl.lit(600.0).alias("running"), pl.lit(6e5).alias("running_squares"))
    write_parquet(
        folder / "sections.parquet", sections.select(*sections.columns[:-3], *sections.columns[-2:], "planned")
    )
    changes = statistics.histograms.select(pl.exclude("bin", "n"), pl.lit("change").alias("quantity"), "bin", "n")
    running_times = changes.with_columns(pl.lit("running").alias("quantity"), pl.col("bin") + 20)
    write_parquet(folder / "histograms.parquet", pl.concat([changes, running_times]))
    loaded = load_statistics(folder)
    for name in ("sections", "histograms", "history"):
        assert getattr(loaded, name).equals(getattr(statistics, name)), name
    assert loaded.section_table().columns == statistics.section_table().columns
    assert loaded.summary() == statistics.summary()
    day = available_dates(Path(small_config.data.local_folder))[2]
    assert_array_equal(features_of(small_config, loaded, day), features_of(small_config, statistics, day))


def test_damaged_statistics_are_refused_in_one_line(small_config: Config, tmp_path: Path):
    statistics = compute_statistics(small_config.data, available_dates(Path(small_config.data.local_folder))[:1])
    save_statistics(statistics, tmp_path / "s")
    (tmp_path / "s" / "sections.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError) as caught:
        load_statistics(tmp_path / "s")
    assert_names(caught.value, str(tmp_path / "s"), "remove the folder and run the stage again")


def test_hash_follows_data_and_relevant_configuration(small_config: Config):
    days = available_dates(Path(small_config.data.local_folder))
    base = st.statistics_hash(small_config.data, days[:3])
    other = small_config.data.model_copy(update={"timezone": "UTC"})
    assert len({base, st.statistics_hash(small_config.data, days[:4]), st.statistics_hash(other, days[:3])}) == 3
    moved = small_config.data.model_copy(update={"save_results_to_s3": True, "bucket_name": "b"})
    assert st.statistics_hash(moved, days[:3]) == base


def of_folds(fold_of: dict[date, int]) -> Statistics:
    return replace(statistics_of([[0, 60]]), fold_of=fold_of)


def test_varied_history_leaves_up_to_half_of_the_other_dates_out():
    dates = [DAY + timedelta(days=number) for number in range(6)]
    several = of_folds({day: fold for fold, day in enumerate(dates)})
    draws = [varied_folds(several, np.random.default_rng(seed)) for seed in range(200)]
    assert {len(others) for draw in draws for others in draw.values()} == {0, 1, 2, 3}
    assert all(fold not in others for draw in draws for fold, others in draw.items())
    assert varied_folds(several, np.random.default_rng(7)) == draws[7]
    assert varied_folds(of_folds({DAY: 0}), np.random.default_rng(0)) == {0: ()}
    assert {*varied_folds(of_folds({dates[0]: 0, dates[1]: 1}), np.random.default_rng(0)).values()} == {()}
    assert varied_folds(of_folds({dates[0]: 0, dates[1]: 0}), np.random.default_rng(0)) == {}  # a fold of two dates


def test_features_leave_out_the_varied_folds_and_their_own(small_config: Config):
    days = available_dates(Path(small_config.data.local_folder))[:3]
    of_three, of_two = (compute_statistics(small_config.data, chosen) for chosen in (days, days[:2]))
    loaded = read_table(small_config.data, days[:1], of_three.vocabulary)
    third = of_three.fold_of[days[2]]
    varied = History(of_three, small_config.data.statistics, {of_three.fold_of[days[0]]: [third]}).features(loaded)
    assert_array_equal(varied.values, History(of_two, small_config.data.statistics).features(loaded).values)
    assert (varied.values != History(of_three, small_config.data.statistics).features(loaded).values).any()


def test_more_train_types_than_a_code_can_hold_are_refused(
    small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(small_config.data.local_folder)
    monkeypatch.setattr(st, "MAX_TRAIN_TYPES", 1)
    with pytest.raises(UserError) as caught:
        compute_statistics(small_config.data, available_dates(folder)[:2])
    assert_names(caught.value, "3 train types", "more than 1;", "journeys.parquet")
