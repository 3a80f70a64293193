"""The accuracy benchmark: trees have the inputs of the network, nothing of the future, and the same rows."""

import json
import math
from dataclasses import fields, replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.accuracy import ablation, against_trees
from benchmarks.accuracy.comparison import (
    BLEND,
    KIND_OF_DATE,
    TRANSFORMER,
    TREE,
    UNROUNDED,
    Predictions,
    differences,
    group_means,
    growths,
    skills,
)
from benchmarks.accuracy.experiment import Experiment, own_split, rolling_splits, splits_by_date
from benchmarks.accuracy.report import coverage_table, growth_table, measure_table
from benchmarks.accuracy.tree import (
    EVENT_ARRAYS,
    GIB,
    PAST_ARRAYS,
    ROW_BYTES,
    SEARCHED,
    TRAIN_ARRAYS,
    TreeRows,
    TreeSettings,
    gathered,
    predict,
    tree_rows,
)
from transformer.config import Config, GateConfig, TrainingConfig, with_values
from transformer.data.event_table import LoadedTable
from transformer.data.events import read_days, read_journeys
from transformer.data.tables import TIMESTAMP
from transformer.errors import UserError
from transformer.evaluation import metrics
from transformer.features.history import FEATURES, History
from transformer.features.inputs.catalogue import INPUTS
from transformer.features.instants import grid_instants
from transformer.features.snapshots import SnapshotBatch, SnapshotBuilder
from transformer.prediction.rows import labelled_rows
from transformer.text import signed_seconds_text
from transformer.training.trainer import create_module

FEW = TreeSettings(parameters={"num_leaves": 7, "min_data_in_leaf": 20, "num_threads": 1}, max_rounds=20, snapshots=40)


@pytest.fixture(scope="module")
def experiment(small_config: Config) -> Experiment:
    return Experiment.of(small_config, own_split(small_config))


@pytest.fixture(scope="module")
def test_events(experiment: Experiment) -> pl.DataFrame:
    return read_days(experiment.config.data, experiment.split.test)[0]


def loaded_and_builder(experiment: Experiment, events: pl.DataFrame) -> tuple[LoadedTable, SnapshotBuilder]:
    data = experiment.config.data
    journeys = read_journeys(Path(data.local_folder), experiment.split.test, data.timezone)
    loaded = LoadedTable.of(events, journeys, experiment.statistics.vocabulary)
    return loaded, History(experiment.statistics, data.statistics).builder(loaded, data.snapshot)


def rows_of(
    experiment: Experiment, builder: SnapshotBuilder, instants: np.ndarray, file: Path, context: bool = True
) -> TreeRows:
    vocabulary = experiment.statistics.vocabulary
    vectors = experiment.embeddings.points.matrix(vocabulary.op_ids)
    timezone = experiment.config.data.timezone
    parts = tree_rows(builder, instants, vectors, len(vocabulary.train_types), timezone, context=context)
    return gathered(parts, file)


def test_rows_hold_nothing_of_the_future(experiment: Experiment, test_events: pl.DataFrame, tmp_path: Path):
    data = experiment.config.data
    instants = grid_instants(experiment.split.test, data.grid, data.timezone)[6:7]
    later = pl.col("observed_ts") > pl.lit(int(instants[0]) * 1_000_000).cast(TIMESTAMP)
    changed = test_events.with_columns(
        pl.when(later)
        .then(pl.struct(pl.col("observed_ts") + pl.duration(minutes=7), pl.col("delay_sec") + 420))
        .otherwise(pl.struct("observed_ts", "delay_sec"))
        .struct.unnest()
    )
    before, after = (
        rows_of(experiment, loaded_and_builder(experiment, events)[1], instants, tmp_path / name)
        for name, events in (("before", test_events), ("after", changed))
    )
    assert len(before) > 0
    np.testing.assert_array_equal(after.label - before.label, 420)
    np.testing.assert_array_equal(after.inputs, before.inputs)


def test_rows_are_those_of_the_network_and_hold_its_inputs(
    experiment: Experiment, test_events: pl.DataFrame, tmp_path: Path
):
    data = experiment.config.data
    loaded, builder = loaded_and_builder(experiment, test_events)
    instants = grid_instants(experiment.split.test, data.grid, data.timezone)
    module = create_module(experiment.config, experiment.split, experiment.statistics, experiment.embeddings).eval()
    vocabulary = experiment.statistics.vocabulary
    network = pl.concat(labelled_rows(module, loaded.names, builder, vocabulary, instants, data.timezone))
    rows = rows_of(experiment, builder, instants, tmp_path / "rows")
    assert len(rows) == network.height > 0
    assert loaded.journeys[rows.journey]["train_id"].equals(network["train_id"])
    np.testing.assert_array_equal(rows.instant * 1_000_000, network["snapshot_ts"].to_physical().to_numpy())
    np.testing.assert_array_equal(rows.rank, network["rank"].to_numpy())
    np.testing.assert_array_equal(rows.label, network["observed_delay_s"].to_numpy())

    inputs = dict(zip(rows.columns, rows.inputs.T, strict=True))
    assert len(inputs) == rows.inputs.shape[1]
    assert {*FEATURES, "past_delay_1", "hour", "running_0", "point_0", "n_next"} <= inputs.keys()
    np.testing.assert_array_equal(inputs["next_planned"], network["horizon_s"].to_numpy())
    np.testing.assert_array_equal(inputs["translation"], network["translation_delay_s"].to_numpy())
    departed = inputs["departed"] == 1
    np.testing.assert_array_equal(inputs["past_delay_1"][departed], inputs["last_delay"][departed])
    assert np.isnan(inputs["past_delay_1"][~departed]).all()
    plain = rows_of(experiment, builder, instants, tmp_path / "plain", context=False)
    assert set(plain.columns) < set(rows.columns)


def test_every_array_of_a_batch_is_a_column_or_left_out_on_purpose():
    columns = {*EVENT_ARRAYS, *TRAIN_ARRAYS, *PAST_ARRAYS}
    otherwise = {"instant", "train_mask", "past_mask", "past_point", "next_mask", "next_point", "label_mask", "label"}
    otherwise |= {"next_inputs"}
    left_out = {"journey", "next_event", "past_type"}
    assert {array.name for array in fields(SnapshotBatch)} == columns | otherwise | left_out


def test_tree_predictions_end_as_those_of_the_network(experiment: Experiment):
    rows = experiment.tree_predictions(42, experiment.split.test, FEW, context=False)
    again = experiment.tree_predictions(42, experiment.split.test, FEW, context=False)
    assert rows.equals(again)
    predicted, raw = rows["predicted_delay_s"].to_numpy(), rows["unrounded_delay_s"].to_numpy()
    step = experiment.statistics.resolution_s
    assert (predicted % step == 0).all()
    assert np.abs(predicted - raw).max() <= step / 2


def test_trees_predict_no_event_before_the_next_step_or_an_earlier_event() -> None:
    class Falling:
        """Predicts a correction for each row, in the place of trees."""

        def predict(self, block: np.ndarray) -> np.ndarray:
            return block[:, 0]

    planned = np.array([-90, 0, 60, 120, 0, 60], np.float32)
    rows = TreeRows(
        columns=("correction",),
        inputs=np.array([[-400], [100], [20], [-70], [-500], [-40]], np.float32),
        instant=np.array([7, 7, 7, 7, 7, 8]),
        journey=np.array([1, 1, 1, 1, 2, 1]),
        rank=np.array([1, 2, 3, 4, 1, 1]),
        translation=np.zeros(6, np.float32),
        planned=planned,
        label=np.zeros(6, np.float32),
    )
    times = predict(Falling(), rows, 60.0, 60.0) + planned  # type: ignore[arg-type]
    assert times.tolist() == [30.0, 120.0, 120.0, 120.0, 60.0, 60.0]
    assert (predict(Falling(), rows, 0.0, 60.0) + planned).tolist() == [30.0, 100.0, 100.0, 100.0, 60.0, 60.0]  # type: ignore[arg-type]


def test_rows_beyond_the_memory_limit_are_left_out_and_not_made(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def parts():
        for instant in range(5):
            made.append(instant)
            rows = np.full(100, instant)
            numbers = rows.astype(np.float32)
            yield TreeRows(("a", "b"), np.stack([numbers, -numbers], axis=1), rows, rows, rows, *[numbers] * 3)

    made: list[int] = []
    caplog.set_level("INFO")
    some = gathered(parts(), tmp_path / "some", 250 * (2 + ROW_BYTES) / GIB)
    assert (len(some), made) == (200, [0, 1, 2])
    assert "200 rows of 2 columns from 2 snapshots; no more fit" in caplog.text
    np.testing.assert_array_equal(some.inputs[:, 1], -some.label)
    everything = gathered(parts(), tmp_path / "everything", 500 * (2 + ROW_BYTES) / GIB)
    assert everything.inputs.shape == (500, 2)
    assert "from 5 snapshots; all fit" in caplog.text


def test_trees_of_months_learn_from_more_snapshots_up_to_those_of_the_network():
    network = TrainingConfig(max_epochs=8, snapshots_per_epoch=1_024)
    assert TreeSettings().n_snapshots(6, network) == 400
    assert TreeSettings().n_snapshots(100, network) == 6_400
    assert TreeSettings().n_snapshots(500, network) == TreeSettings(snapshots="all").n_snapshots(6, network) == 8_192
    assert TreeSettings(snapshots=7).n_snapshots(500, network) == 7
    assert TreeSettings().n_snapshots(500, TrainingConfig(max_epochs=1, snapshots_per_epoch=16)) == 400


def test_trees_learn_from_the_instants_that_the_network_draws(experiment: Experiment, monkeypatch):
    from benchmarks.accuracy import experiment as module

    drawn = []

    def recorded(parts, file, memory_gib=math.inf):
        rows = gathered(parts, file, memory_gib)
        drawn.append(rows.instant)
        return rows

    monkeypatch.setattr(module, "gathered", recorded)
    night = {"data.grid.start": "12:00", "data.grid.end": "12:00", "training.sampling.instants": "running"}
    chosen = replace(experiment, config=with_values(experiment.config, night, "test"))
    chosen.tree_predictions(42, experiment.split.test, FEW, context=False)
    seconds = pl.Series(drawn[0] * 1_000_000).cast(TIMESTAMP).dt.convert_time_zone(experiment.config.data.timezone)
    assert seconds.dt.hour().n_unique() > 10  # those of the grid hours would all be noon


def predictions(delays: dict[str, list[float]], n_dates: int = 1) -> Predictions:
    n = len(next(iter(delays.values())))
    start = pl.date(2025, 1, 6)
    rows = pl.select(index=pl.int_range(n)).select(
        snapshot_ts=pl.lit(0).cast(TIMESTAMP),
        service_date=start.dt.offset_by(pl.concat_str(pl.col("index") % n_dates, pl.lit("d"))),
        train_id=pl.col("index").cast(pl.String),
        train_number=pl.col("index").cast(pl.String),
        train_type=pl.lit("regional"),
        op_id=pl.lit(1, pl.Int32),
        event_type=pl.lit("A"),
        rank=pl.lit(1, pl.Int16),
        planned_ts=pl.lit(0).cast(TIMESTAMP),
        horizon_s=pl.lit(600.0),
        departed=pl.lit(True),
        last_delay_s=pl.lit(0.0),
        observed_delay_s=pl.lit(0.0),
        translation_delay_s=pl.lit(100.0),
    )
    found = Predictions.of(rows.with_columns(predicted_delay_s=pl.lit(0.0)))
    for name, values in delays.items():
        found = found.including(name, 42, rows.with_columns(pl.Series("predicted_delay_s", values)))
    return found


def test_differences_are_paired_and_one_date_alone_has_no_interval():
    found = predictions({TRANSFORMER: [60.0] * 40, TREE: [80.0] * 40})
    by_journey = differences(found, TREE, "journey", GateConfig(resamples=200))
    assert by_journey["group"].to_list() == ["all", "10-20min", "regional", "yes"]
    assert by_journey.select("difference_s", "low_s", "high_s").unique().rows() == [(-20.0, -20.0, -20.0)]
    assert by_journey["units"].to_list() == [40] * 4
    by_date = differences(found, TREE, "service date", GateConfig(resamples=200))
    assert by_date["low_s"].null_count() == by_date.height
    several = predictions({TRANSFORMER: [60.0] * 40, TREE: list(map(float, range(40)))}, n_dates=4)
    low, high = differences(several, TREE, "service date", GateConfig(resamples=200)).select("low_s", "high_s").row(0)
    assert low < 60 - 19.5 < high


def test_rows_of_other_trains_are_refused():
    found = predictions({TRANSFORMER: [60.0] * 3})
    other = found.rows.with_columns(pl.Series("predicted_delay_s", [0.0] * 3)).reverse()
    with pytest.raises(ValueError, match=r"^tree: 3 rows.*\b3 in the same order"):
        found.including(TREE, 42, other)


def test_blend_is_the_rounded_mean():
    found = predictions({TRANSFORMER: [60.0, 60.0, -900.0], TREE + UNROUNDED: [100.0, 170.0, -900.0]})
    assert found.with_blend(60.0, 60.0).delays[BLEND][42].tolist() == [60.0, 120.0, -540.0]


def test_coverage_of_intervals_per_seed_and_group():
    found = predictions({TRANSFORMER: [0.0] * 4})
    rows = found.of_seed(TRANSFORMER, 42)
    inside = {"q25_delay_s": [-1.0, -1.0, -1.0, 1.0], "q50_delay_s": [0.0, 0.0, 0.0, 2.0]}
    inside["q75_delay_s"] = [1.0, 1.0, 1.0, 3.0]
    found = found.judged(42, rows.with_columns(**{name: pl.Series(values) for name, values in inside.items()}))
    table = coverage_table(found.uncertainty, "horizon")
    assert table.header == ["horizon", "n", "50 %, seed 42"]
    assert table.body == [["all", "4", "75.0%"], ["10-20min", "4", "75.0%"]]
    assert "translation 100.0 s" in table.note


def test_severe_growth_of_the_transformer_is_ranked_by_its_quantiles_and_of_a_tree_by_its_prediction():
    found = predictions({TRANSFORMER: [0.0] * 4, TREE: [400.0, 360.0, 0.0, 0.0]})
    observed = pl.Series("observed_delay_s", [301.0, 0.0, 0.0, 0.0])
    found = replace(found, rows=found.rows.with_columns(observed, last_delay_s=pl.lit(0.0)))
    quantiles = {"q50_delay_s": pl.lit(0.0), "q90_delay_s": pl.Series([200.0, 290.0, 310.0, 100.0])}
    found = found.judged(42, found.of_seed(TRANSFORMER, 42).with_columns(**quantiles))
    growth = growths(found)
    assert growth[TRANSFORMER][42].summary[5]["average_precision"] == pytest.approx(1 / 3)
    assert growth[TREE][42].summary[5]["average_precision"] == 1
    table = growth_table(growth, 5)
    assert table.title == "Growth by more than 5 min, 25.0% of the predictions"
    assert table.header[:2] == ["", "average precision"]
    assert [line[:2] for line in table.body] == [["translation", "0.250"], ["transformer", "0.333"], ["tree", "1.000"]]


def test_shares_and_bias_by_horizon_are_means_over_the_seeds():
    found = predictions({TRANSFORMER: [60.0, 61.0], TREE: [-130.0, 60.0]})
    found = replace(found, delays={**found.delays, TRANSFORMER: {42: np.array([60.0, 61.0]), 43: np.array([0.0, 0.0])}})
    assert group_means(found, "horizon", "within_1_min").rows() == [("10-20min", 2, 0.0, 0.75, 0.5)]
    table = measure_table(group_means(found, "horizon", "bias_s"), "horizon", "Bias", signed_seconds_text)
    assert table.header == ["horizon", "n", "translation", "tree", "transformer"]
    assert table.body == [["10-20min", "2", "+100.0 s", "-35.0 s", "+30.2 s"]]


def test_predictions_without_quantiles_have_no_coverage():
    found = predictions({TRANSFORMER: [0.0] * 3})
    assert found.judged(42, found.of_seed(TRANSFORMER, 42)).uncertainty == {}


def test_every_full_date_is_held_out_once(sample_folder: Path):
    splits = splits_by_date(sample_folder, "Europe/Brussels")
    assert len({split.test for split in splits}) == len(splits) == 8
    for split in splits:
        assert len(set(split.all)) == len(split.all) == 8
    assert splits[0].validation > splits[0].test
    assert all(split.validation < split.test for split in splits[1:])


def test_a_rolling_origin_learns_from_the_past_alone(sample_folder: Path):
    splits = rolling_splits(sample_folder, "Europe/Brussels", 5)
    assert [len(split.train) for split in splits] == [2, 3, 4, 5, 6]
    for split in splits:
        assert max(split.train) < split.validation[0] < split.test[0]
        assert split.validation[0] == max(day for day in splits[-1].all if day < split.test[0])
    assert len({split.test for split in splits}) == 5
    assert rolling_splits(sample_folder, "Europe/Brussels", 1) == splits[-1:]


@pytest.mark.parametrize("origins", [6, 0, -1])
def test_a_rolling_origin_without_enough_dates_is_refused(sample_folder: Path, origins: int):
    with pytest.raises(UserError, match=f"8 full service dates; --rolling-origin {origins} .* from 1 to 5"):
        rolling_splits(sample_folder, "Europe/Brussels", origins)


def test_ordinary_and_disrupted_dates_are_told_apart():
    found = predictions({TRANSFORMER: [60.0] * 40, TREE: [80.0] * 40}, n_dates=4)
    late = pl.col("service_date") == date(2025, 1, 8)
    found = replace(found, rows=found.rows.with_columns(translation_delay_s=pl.when(late).then(300.0).otherwise(100.0)))
    kinds = skills(found, KIND_OF_DATE)
    assert kinds.select(KIND_OF_DATE, "n", "translation_mae_s").rows() == [
        ("disrupted", 10, 300.0),
        ("ordinary", 30, 100.0),
    ]
    assert kinds[TRANSFORMER].to_list() == pytest.approx([0.8, 0.4])
    paired = differences(found, TREE, "journey", GateConfig(resamples=200)).filter(pl.col("breakdown") == KIND_OF_DATE)
    assert paired.select("group", "n", "difference_s").rows() == [("disrupted", 10, -20.0), ("ordinary", 30, -20.0)]
    by_date = differences(found, TREE, "service date", GateConfig(resamples=200)).filter(
        pl.col("breakdown") == KIND_OF_DATE
    )
    assert by_date.select("group", "units", "low_s").rows() == [("disrupted", 1, None), ("ordinary", 3, -20.0)]


def test_skills_by_group_are_those_of_the_evaluation():
    found = predictions({TRANSFORMER: [60.0, 10.0, 40.0]})
    expected = metrics.breakdown(found.of_seed(TRANSFORMER, 42), "train_type")
    assert skills(found, "train_type")[TRANSFORMER].to_list() == pytest.approx(expected["skill"].to_list())
    never_wrong = replace(found, rows=found.rows.with_columns(translation_delay_s=0.0))
    assert skills(never_wrong, "train_type")[TRANSFORMER].to_list() == [None]


def test_ablation_turns_every_switch_over_once(small_config: Config):
    found = ablation.variants(small_config)
    switches = [key for values in found.values() for key in values]
    assert len(switches) == len(set(switches)) == len(found) - 1
    assert found["without network_load"] == {"model.use_inputs.network_load": False}
    assert found["with calendar"] == {"model.use_inputs.calendar": True}
    assert found["without geographic"] == {"embeddings.geographic.enabled": False}
    assert found["with random"] == {"embeddings.random.enabled": True}


def test_ablation_leaves_out_the_inputs_that_the_data_lack(small_config: Config, tmp_path: Path):
    assert not any(f"with {name}" in ablation.variants(small_config) for name in INPUTS)
    (tmp_path / "events").mkdir()
    (tmp_path / "weather.parquet").touch()
    pl.DataFrame({"cancelled": [False]}).write_parquet(tmp_path / "events" / "events_2025-01-06.parquet")
    config = with_values(small_config, {"data.local_folder": str(tmp_path)}, "test")
    found = {name for name in INPUTS if f"with {name}" in ablation.variants(config)}
    assert found == {"weather", "cancellations"}


@pytest.mark.slow
def test_whole_comparison_and_its_resumption(
    small_config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    config = with_values(small_config, {"training.max_epochs": 1}, "test")
    against_trees.compare(config, [1, 2], tmp_path, trees=FEW)
    shown = capsys.readouterr().out
    assert {"translation", "tree", "tree with context", "transformer", "blend", "· seed 2"} <= {
        line.split("  ")[0].strip() for line in shown.splitlines()
    }
    assert "no interval over service dates" in shown
    assert "Observed delays within the intervals, by horizon" in shown
    assert "Within 2 min by horizon" in shown and "Growth by more than 5 min" in shown and "wobble per hour" in shown
    assert {path.name for path in tmp_path.iterdir()} == {
        *("accuracy.md", "accuracy.json", "skill_by_horizon.png", "paired_differences.png", "mae_by_seed.png"),
        "predictions",
    }
    result = json.loads((tmp_path / "accuracy.json").read_text())
    assert result["seeds"] == [1, 2]
    assert result["scores"][TRANSFORMER].keys() == result["quantiles"].keys() == {"1", "2"}
    assert result["severe_growth"][TREE]["1"]["test/growth_over_5min/brier"] > 0
    assert [line["n"] for line in result["by_horizon"]["bias_s"]] == [line["n"] for line in result["groups"]["horizon"]]
    assert result["split"]["test"] == [day.isoformat() for day in own_split(config).test]

    def refused(*arguments: object, **options: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Experiment, "network_predictions", refused)
    monkeypatch.setattr(Experiment, "tree_predictions", refused)
    against_trees.compare(config, [1, 2], tmp_path, trees=FEW, resume=True)
    assert capsys.readouterr().out == shown
    with pytest.raises(AssertionError, match="trained again"):
        against_trees.compare(config, [1, 2], tmp_path, trees=FEW)


@pytest.mark.slow
def test_whole_comparison_by_date(small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = with_values(small_config, {"training.max_epochs": 1, "training.snapshots_per_epoch": 8}, "test")
    splits = splits_by_date(Path(config.data.local_folder), config.data.timezone)
    trees = replace(FEW, max_rounds=5, snapshots=8)
    kind, names = against_trees.LEAVE_ONE_DATE_OUT, {TREE: False}
    against_trees.compare_by_date(config, splits, kind, [1], tmp_path, names=names, trees=trees)
    assert "mean of the dates" in capsys.readouterr().out
    result = json.loads((tmp_path / "leave_one_date_out.json").read_text())
    assert len(result["dates"]) == 8
    assert {line["kind"] for line in result["dates"]} == {"ordinary", "disrupted"}
    by_date = next(d for d in result["differences"] if (d["other"], d["unit"]) == (TREE, "service date"))
    assert by_date["groups"][0]["units"] == 8
    assert by_date["groups"][0]["low_s"] <= by_date["groups"][0]["difference_s"] <= by_date["groups"][0]["high_s"]


@pytest.mark.slow
def test_whole_rolling_origin_with_tuned_trees(
    small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    config = with_values(small_config, {"training.max_epochs": 1, "training.snapshots_per_epoch": 8}, "test")
    monkeypatch.setattr(against_trees, "configured", lambda *_: config)
    arguments = ["--rolling-origin", "2", "--seeds", "1", "--tree-snapshots", "all", "--tune-tree", "3"]
    assert against_trees.main([*arguments, "--context-tree", "--to", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert {"Each date predicted from the dates before it", "Skill by kind of date", "Parameters of the trees"} <= {
        *shown.splitlines()
    }
    result = json.loads((tmp_path / "rolling_origin.json").read_text())
    assert [max(split["train"]) < split["validation"][0] < split["test"][0] for split in result["splits"]] == [True] * 2
    assert {(d["other"], d["unit"]) for d in result["differences"]} == {
        (tree, unit) for tree in ("tree", "tree with context") for unit in ("journey", "service date")
    }
    for of_tree in result["tuning"].values():
        for trials in of_tree.values():
            assert len(trials) == 3
            assert trials[0]["num_leaves"] == TreeSettings().parameters["num_leaves"]
            assert len({trial["learning_rate"] for trial in trials}) == 3
            assert SEARCHED.keys() < trials[0].keys()

    def refused(*arguments: object, **options: object) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(Experiment, "tree_trials", refused)
    monkeypatch.setattr(Experiment, "tree_predictions", refused)  # its name is that of the chosen parameters
    assert against_trees.main([*arguments, "--context-tree", "--to", str(tmp_path), "--resume"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.slow
def test_whole_ablation(small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = with_values(small_config, {"training.max_epochs": 1, "training.snapshots_per_epoch": 8}, "test")
    ablation.ablate(config, [1], tmp_path, only=["network_load", "random"])
    shown = capsys.readouterr().out
    assert "without network_load" in shown
    assert "with random" in shown
    assert json.loads((tmp_path / "ablation.json").read_text())["val_mae_s"].keys() == {
        *("as configured", "without network_load", "with random"),
    }
