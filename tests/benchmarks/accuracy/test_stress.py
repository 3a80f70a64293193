"""The stress benchmark: damage changes inputs and never labels, is seeded, and is as large as its name says."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.accuracy import stress
from benchmarks.accuracy.damage import DAMAGES, FROZEN_S, SILENT_SHARE, STRETCH, WRONG_SHARE
from benchmarks.accuracy.experiment import Experiment, own_split
from benchmarks.tables import read_table
from tests.benchmarks.accuracy.test_against_trees import FEW
from transformer.config import Config
from transformer.data.event_table import LoadedTable, in_table_order
from transformer.data.events import read_days, read_journeys
from transformer.data.tables import JOURNEY
from transformer.features.snapshots import SnapshotBatch

KNOWN = {"reported_ts", "known_ts"}


@pytest.fixture(scope="module")
def experiment(small_config: Config) -> Experiment:
    return Experiment.of(small_config, own_split(small_config))


@pytest.fixture(scope="module")
def events(experiment: Experiment) -> pl.DataFrame:
    return in_table_order(read_days(experiment.config.data, experiment.split.validation)[0])


def damaged(events: pl.DataFrame, name: str, seed: int = 1) -> pl.DataFrame:
    return DAMAGES[name](events, np.random.default_rng(seed))


def lost_share(before: pl.DataFrame, after: pl.DataFrame) -> float:
    return 1 - after["reported_ts"].count() / before["reported_ts"].count()


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_changes_what_is_known_and_nothing_else(events: pl.DataFrame, name: str):
    after = damaged(events, name)
    unchanged = [column for column in events.columns if column not in KNOWN]
    assert after.columns == events.columns and after.schema == events.schema
    assert after.select(unchanged).equals(events.select(unchanged))
    assert after.equals(events) == (name == "undamaged")
    assert (after["known_ts"] >= after["reported_ts"]).all()
    assert after["known_ts"].is_null().equals(after["reported_ts"].is_null())
    assert after.equals(damaged(events, name))


@pytest.mark.parametrize("share", [5, 15, 30])
def test_as_much_is_lost_as_the_name_says(events: pl.DataFrame, share: int):
    singly, bursts = damaged(events, f"{share}% lost"), damaged(events, f"{share}% lost in bursts")
    assert lost_share(events, singly) == pytest.approx(share / 100, abs=0.02)
    assert share / 100 <= lost_share(events, bursts) < share / 100 + 0.15


def test_bursts_are_runs_of_a_point_and_single_losses_are_not(events: pl.DataFrame):
    """A burst loses two neighbours in time at a point, or none."""

    def changes(after: pl.DataFrame) -> float:
        seen = events.select("op_id", "reported_ts", lost=after["reported_ts"].is_null()).drop_nulls("reported_ts")
        ordered = seen.sort("op_id", "reported_ts")
        return ordered.select((pl.col("lost") != pl.col("lost").shift(1).over("op_id")).mean()).item()

    singly, bursts = (changes(damaged(events, f"30% lost{kind}")) for kind in ("", " in bursts"))
    assert bursts < 0.6 * singly


def test_points_report_late_each_by_its_own_time(events: pl.DataFrame):
    after = damaged(events, "known late, 30 s to 10 min per point")
    delay = after.select("op_id", late=(pl.col("known_ts") - pl.col("reported_ts")).dt.total_seconds()).drop_nulls()
    assert delay.group_by("op_id").agg(pl.col("late").n_unique())["late"].unique().to_list() == [1]
    assert 30 <= delay["late"].min() < 150 and 450 < delay["late"].max() <= 600


def test_the_terminus_is_reported_while_the_train_is_under_way(events: pl.DataFrame):
    after = damaged(events, "terminus reported early (10% of trains)")
    wrong = events.with_columns(wrong=after["reported_ts"]).filter(pl.col("wrong").ne_missing(pl.col("reported_ts")))
    last = events.group_by(JOURNEY).agg(pl.col("seq").max())
    assert wrong.join(last, on=[*JOURNEY, "seq"]).height == wrong.height
    assert wrong.height / last.height == pytest.approx(WRONG_SHARE, abs=0.05)
    assert (wrong["wrong"] < wrong["planned_ts"]).mean() > 0.8


def test_a_stretch_claims_its_planned_times(events: pl.DataFrame):
    after = damaged(events, "a stretch claims the plan (10% of trains)")
    changed = events.select(*JOURNEY, "planned_ts", before="reported_ts").with_columns(after=after["reported_ts"])
    wrong = changed.filter(pl.col("before").ne_missing(pl.col("after")))
    assert wrong.height > 0 and (wrong["after"] == wrong["planned_ts"]).all()
    assert wrong.group_by(JOURNEY).len()["len"].max() <= STRETCH


def test_a_silent_region_reports_nothing_and_hangs_together(events: pl.DataFrame):
    after = damaged(events, "a region silent (10% of observations)")
    heard, before = (set(of.filter(pl.col("reported_ts").is_not_null())["op_id"]) for of in (after, events))
    silent, unheard = before - heard, set(events["op_id"]) - heard
    assert silent and lost_share(events, after) >= SILENT_SHARE
    pairs = events.select(a="op_id", b=pl.col("op_id").shift(1).over(JOURNEY)).drop_nulls().unique().rows()
    lines = {*pairs, *((b, a) for a, b in pairs)}
    reached = {min(silent)}
    while more := {b for a, b in lines if a in reached and b in unheard} - reached:
        reached |= more
    assert silent <= reached


def test_a_frozen_feed_is_a_reporting_delay(experiment: Experiment, events: pl.DataFrame):
    data, days = experiment.config.data, experiment.split.validation
    vocabulary, instants = experiment.statistics.vocabulary, experiment.grid(days)
    journeys = read_journeys(Path(data.local_folder), days, data.timezone)
    frozen = LoadedTable.of(damaged(events, "feed frozen for 20 min"), journeys, vocabulary)
    delayed = read_table(data.model_copy(update={"reporting_delay_s": FROZEN_S}), days, vocabulary)
    one, other = (experiment.builder(loaded).build(instants) for loaded in (frozen, delayed))
    for field in fields(SnapshotBatch):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def test_skill_is_compared_on_the_rows_that_both_feeds_have():
    whole = pl.DataFrame({"snapshot": [0, 0, 1], "event": [4, 5, 5], "observed": [0.0, 0.0, 0.0]})
    found = stress.judged(
        whole.with_columns(translation=pl.lit(100.0), transformer=pl.Series([50.0, 60.0, 70.0]), tree=pl.lit(80.0)),
        whole[:2].with_columns(translation=pl.lit(200.0), transformer=pl.lit(110.0), tree=pl.lit(180.0)),
    )
    assert found["rows"] == pytest.approx(2 / 3) and found["translation mae_s"] == 200
    assert found["transformer skill"] == pytest.approx(0.45) and found["tree skill"] == pytest.approx(0.1)
    assert found["transformer skill change"] == pytest.approx(0.0) and found["tree skill change"] == pytest.approx(-0.1)
    assert found["tree mae_s added"] == 100
    changed = whole.with_columns(observed=pl.lit(1.0), translation=0.0, transformer=0.0, tree=0.0)
    with pytest.raises(ValueError, match="changed labels"):
        stress.judged(whole.with_columns(translation=0.0, transformer=0.0, tree=0.0), changed)


@pytest.mark.slow
def test_stress_writes_every_damage(small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    stress.stress(small_config, (1,), tmp_path, trees=FEW)
    result = json.loads((tmp_path / "stress.json").read_text())
    assert result["evaluated_on"] == "validation" and set(result["damages"]) == set(DAMAGES)
    whole = result["damages"]["undamaged"]
    assert whole["rows"] == 1 and whole["transformer skill change"] == whole["tree skill change"] == 0
    assert all(0 < found["rows"] <= 1 and found["n"] > 0 for found in result["damages"].values())
    for name in ("30% lost", "known late, 30 s to 10 min per point", "feed frozen for 20 min"):
        assert result["damages"][name]["translation mae_s"] > whole["translation mae_s"]
    text = (tmp_path / "stress.md").read_text()
    assert all(f"| {name} |" in text for name in DAMAGES)
    assert "Accuracy under a bad feed" in capsys.readouterr().out
