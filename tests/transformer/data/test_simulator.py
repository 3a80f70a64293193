"""The simulated railway: the same seed gives the same bytes, tables are valid, and trains obey the rules of traffic."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.support.messages import assert_names
from transformer.data.simulator import dataset
from transformer.data.simulator.dataset import simulate
from transformer.data.simulator.disturbances import draw_disturbances, draw_habits
from transformer.data.simulator.railway import Railway, build_railway
from transformer.data.simulator.settings import SimulationConfig
from transformer.data.simulator.timetable import FIRST_START, LONG_DISTANCE, build_timetable
from transformer.data.simulator.traffic import TERMINUS_OCCUPATION_S, Disturbances, Plan, Restriction, make_plan, play
from transformer.data.tables import EVENT_SCHEMA, JOURNEY_SCHEMA, OP_NODE_SCHEMA
from transformer.errors import UserError
from transformer.files import file_digest

JOURNEY = ["train_id", "service_date"]
SMALL = SimulationConfig(service_dates=3, start_date="2025-01-10", lines=4, points=40, journeys_per_day=160)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Friday to Sunday of a small railway."""
    folder = tmp_path_factory.mktemp("simulated") / "sample"
    simulate(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """A busy railway, with times to the second and every event observed."""
    folder = tmp_path_factory.mktemp("simulated") / "complete"
    every = dict.fromkeys(("missing_terminus_share", "missing_share", "silent_share", "missing_first_stop_share"), 0.0)
    simulate(folder, dataclasses.replace(SMALL, resolution_s=1, delay_severity=1.5, **every))
    return read_events(folder)


@pytest.fixture(scope="module")
def railway() -> tuple[Railway, Plan]:
    railway = build_railway(SMALL, np.random.default_rng(1))
    return railway, make_plan(build_timetable(railway, SMALL, np.random.default_rng(2)), railway, SMALL)


def read_events(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "events" / "*.parquet").sort(*JOURNEY, "seq")


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*.parquet"))}


def undisturbed(plan: Plan) -> Disturbances:
    journeys, visits = len(plan.timetable.number), len(plan.timetable.point)
    return Disturbances(np.zeros(journeys), np.zeros(visits), np.zeros(visits), np.zeros(journeys), {})


# --- seed and size ---------------------------------------------------------------------------------------------------
def test_same_settings_give_the_same_bytes_and_another_seed_others(sample: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "again", SMALL)
    simulate(tmp_path / "other", dataclasses.replace(SMALL, seed=1))
    assert digests(tmp_path / "again") == digests(sample)
    other = digests(tmp_path / "other")
    assert all(other[name] != digest for name, digest in digests(sample).items())


def test_a_longer_simulation_begins_with_the_shorter_one(sample: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "longer", dataclasses.replace(SMALL, service_dates=4))
    longer = digests(tmp_path / "longer")
    shared = {name: digest for name, digest in digests(sample).items() if name.startswith("events")}
    assert len(shared) == 3
    assert all(longer[name] == digest for name, digest in shared.items())


@pytest.mark.parametrize(
    ("lines", "points", "journeys"), [(1, 4, 2), (1, 80, 10), (3, 24, 101), (30, 260, 700), (6, 60, 300)]
)
def test_size_is_what_was_asked_for(tmp_path: Path, lines: int, points: int, journeys: int) -> None:
    # A Friday and a Saturday.
    config = SimulationConfig(
        start_date="2025-01-10", service_dates=2, lines=lines, points=points, journeys_per_day=journeys
    )
    result = simulate(tmp_path / "data", config)
    table = pl.read_parquet(tmp_path / "data" / "journeys.parquet")
    per_date = dict(table.group_by("service_date").len().iter_rows())
    assert per_date == {date(2025, 1, 10): journeys, date(2025, 1, 11): max(1, round(0.7 * journeys))}
    assert len(pl.read_parquet(tmp_path / "data" / "op_nodes.parquet")) == points
    events = read_events(tmp_path / "data")
    assert result == {
        "folder": str(tmp_path / "data"),
        "status": "created",
        "service_dates": 2,
        "points": points,
        "journeys": len(table),
        "events": len(events),
    }
    railway = build_railway(config, np.random.default_rng(0))
    assert len(railway.lines) == lines
    assert {point for line in railway.lines for point in line} == set(range(points))


def test_more_journeys_than_the_lines_carry_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\d+; raise lines") as caught:
        simulate(tmp_path / "data", SimulationConfig(lines=2, points=20, journeys_per_day=9_000))
    assert_names(caught.value, "journeys_per_day=9000 ", "lines=2,")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("start_date", "13.12.2024"),
        ("timezone", "Mars/Olympus"),
        ("timezone", "localtime"),
        ("lines", 0),
        ("missing_share", 1.5),
        ("delay_severity", float("nan")),
        ("points", 5_000),
        ("seed", -1),
    ],
)
def test_bad_settings_are_named(setting: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{setting}="):
        SimulationConfig(**{setting: value})


def test_every_setting_explains_itself_on_the_command_line() -> None:
    for setting in dataclasses.fields(SimulationConfig):
        assert setting.metadata["help"]
        assert isinstance(setting.default, int | float | str)


# --- tables ----------------------------------------------------------------------------------------------------------
def test_tables_have_the_schema_and_agree(sample: Path) -> None:
    events, journeys = read_events(sample), pl.read_parquet(sample / "journeys.parquet")
    op_nodes = pl.read_parquet(sample / "op_nodes.parquet")
    assert dict(events.schema) == EVENT_SCHEMA
    assert dict(journeys.schema) == JOURNEY_SCHEMA
    assert dict(op_nodes.schema) == OP_NODE_SCHEMA
    assert events.select(*JOURNEY, "seq").is_unique().all()
    assert journeys.select(JOURNEY).is_unique().all()
    assert op_nodes["op_id"].is_unique().all() and op_nodes["op_name"].is_unique().all()
    assert set(events["op_id"]) <= set(op_nodes["op_id"])
    assert set(events["event_type"]) == {"A", "D", "P"}
    assert set(journeys["train_type"]) == {"long_distance", "regional", "other"}
    assert journeys.null_count().sum_horizontal().item() == 0
    counted = events.group_by(JOURNEY).len("counted").join(journeys, on=JOURNEY, how="full", nulls_equal=True)
    assert (counted["counted"] == counted["events_count"]).all()
    assert events.filter(pl.col("seq") != pl.int_range(pl.len()).over(JOURNEY)).is_empty()
    assert op_nodes.filter(pl.col("lat").is_between(45, 56) & pl.col("lon").is_between(0, 10)).height >= 30


def test_times_are_in_order_rounded_and_delays_are_their_difference(sample: Path) -> None:
    events = read_events(sample)
    steps = events.select((pl.col("planned_ts", "observed_ts").diff().over(JOURNEY)).dt.total_seconds())
    assert (steps["planned_ts"].drop_nulls() >= 0).all()
    assert (steps["observed_ts"].drop_nulls() >= 0).all()
    difference = (pl.col("observed_ts") - pl.col("planned_ts")).dt.total_seconds()
    assert events.filter(difference.ne_missing(pl.col("delay_sec"))).is_empty()
    assert events.select((pl.col("planned_ts", "observed_ts").dt.epoch("s") % 30).max()).row(0) == (0, 0)
    assert (events.filter(pl.col("event_type") == "D")["delay_sec"].drop_nulls() >= 0).all()
    assert events["delay_sec"].min() < 0


def test_service_dates_are_local_and_journeys_run_past_midnight(tmp_path: Path) -> None:
    # The clocks change on 30 March 2025 at 02:00, and the first trains keep their local time.
    config = dataclasses.replace(SMALL, start_date="2025-03-29", service_dates=2, missing_first_stop_share=0.0)
    simulate(tmp_path / "data", config)
    starts = pl.read_parquet(tmp_path / "data" / "journeys.parquet").with_columns(
        pl.col("start_planned_ts", "end_planned_ts").dt.convert_time_zone("Europe/Brussels")
    )
    assert (starts["start_planned_ts"].dt.date() == starts["service_date"]).all()
    past_midnight = starts["end_planned_ts"].dt.date() > starts["service_date"]
    assert 0 < past_midnight.mean() < 0.1
    by_date = starts.group_by("service_date").agg(pl.col("start_planned_ts").dt.time().min().alias("first"))
    assert by_date["first"].n_unique() == 1
    first = by_date["first"][0]
    assert first.hour * 3_600 + first.minute * 60 >= FIRST_START


def test_train_numbers_are_stable_and_weekends_run_fewer(sample: Path) -> None:
    journeys = pl.read_parquet(sample / "journeys.parquet").with_columns(time=pl.col("start_planned_ts").dt.time())
    of_date = {day: set(frame["train_number"]) for (day,), frame in journeys.group_by("service_date")}
    assert of_date[date(2025, 1, 11)] == of_date[date(2025, 1, 12)] < of_date[date(2025, 1, 10)]
    assert journeys.group_by("train_id").agg(pl.col("train_number").n_unique())["train_number"].max() == 1
    assert not set(journeys["train_id"]) & set(journeys["train_number"])


def test_missing_observations_follow_the_settings(sample: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        SMALL, missing_terminus_share=0.6, missing_share=0.05, silent_share=0.0, missing_first_stop_share=0.5
    )
    simulate(tmp_path / "data", config)
    events = read_events(tmp_path / "data").with_columns(last=pl.col("seq") == pl.col("seq").max().over(JOURNEY))
    missing = pl.col("observed_ts").is_null().mean()
    assert events.filter("last").select(missing).item() == pytest.approx(0.6 + 0.4 * 0.05, abs=0.06)
    assert events.filter(~pl.col("last")).select(missing).item() == pytest.approx(0.05, abs=0.01)
    first_arrives = events.filter(pl.col("seq") == 0).select((pl.col("event_type") != "D").mean()).item()
    assert first_arrives == pytest.approx(0.5, abs=0.06)
    usual = read_events(sample)["observed_ts"].is_null().mean()
    assert 0.03 < usual < 0.10


def test_silent_journeys_are_never_heard_of_again(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, missing_terminus_share=0.0, missing_share=0.0, silent_share=0.4)
    simulate(tmp_path / "data", config)
    heard = pl.col("observed_ts").is_not_null()
    per_journey = (
        read_events(tmp_path / "data")
        .group_by(JOURNEY)
        .agg(silent=heard.not_().any(), resumes=(heard & heard.not_().shift(1)).any())
    )
    assert per_journey["silent"].mean() == pytest.approx(0.4, abs=0.08)
    assert not per_journey["resumes"].any()


def test_delays_look_like_real_ones(complete: pl.DataFrame, sample: Path) -> None:
    delay = read_events(sample)["delay_sec"].drop_nulls() / 60
    assert 1 < delay.mean() < 6
    assert 0.5 <= delay.median() <= 3
    assert delay.quantile(0.99) > 4 * delay.mean()
    before = complete.with_columns(before=pl.col("delay_sec").shift(1).over(JOURNEY)).drop_nulls()
    assert before.select(pl.corr("before", "delay_sec")).item() > 0.9


def test_without_disturbances_the_timetable_can_be_run(tmp_path: Path) -> None:
    simulate(tmp_path / "data", dataclasses.replace(SMALL, delay_severity=0.0))
    assert (read_events(tmp_path / "data")["delay_sec"].drop_nulls() <= 60).mean() > 0.99


# --- traffic ---------------------------------------------------------------------------------------------------------
def section_runs(events: pl.DataFrame) -> pl.DataFrame:
    """One row per train on a section: entry and exit in seconds."""
    return events.select(
        *JOURNEY,
        pl.col("op_id").alias("start"),
        pl.col("op_id").shift(-1).over(JOURNEY).alias("end"),
        pl.col("observed_ts").dt.epoch("s").alias("entry"),
        pl.col("observed_ts").shift(-1).over(JOURNEY).dt.epoch("s").alias("exit"),
    ).filter(pl.col("start") != pl.col("end"))


def test_trains_keep_the_headway_and_their_order_on_every_section(complete: pl.DataFrame) -> None:
    runs = section_runs(complete).sort("service_date", "start", "end", "entry")
    gaps = runs.select(pl.col("entry", "exit").diff().over("service_date", "start", "end")).drop_nulls()
    assert len(gaps) > 1_000
    rounding_s = 1
    assert gaps.min().row(0) >= (SMALL.headway_s - rounding_s, SMALL.headway_s - rounding_s)
    assert gaps["exit"].min() >= SMALL.headway_s - rounding_s
    # The rule is effective: some trains follow at exactly the headway.
    assert (gaps["entry"] <= SMALL.headway_s + rounding_s).sum() > 10


def test_a_late_arrival_delays_the_train_sets_next_journey(railway: tuple[Railway, Plan]) -> None:
    _, plan = railway
    table = plan.timetable
    arriving = int(np.flatnonzero(plan.next_journey >= 0)[0])
    leaving = plan.next_journey[arriving]
    end, origin = table.first[arriving + 1] - 1, table.first[leaving]
    late = undisturbed(plan)
    late.start[arriving] = table.departure[origin] - table.arrival[end] + 900
    usual, played = play(plan, undisturbed(plan), SMALL), play(plan, late, SMALL)
    assert usual.departure[origin] == pytest.approx(table.departure[origin], abs=60)
    assert played.departure[origin] >= played.arrival[end] + SMALL.turn_round_s
    assert played.departure[origin] > table.departure[origin] + 300


@pytest.mark.parametrize("too_late", [False, True])
def test_a_connection_waits_for_its_feeder_up_to_the_limit(railway: tuple[Railway, Plan], too_late: bool) -> None:
    railway, plan = railway
    table = plan.timetable
    visit = int(np.flatnonzero(plan.feeder >= 0)[0])
    feeder = plan.feeder[visit]
    assert railway.is_hub[table.point[visit]] and table.kind[table.journey[feeder]] == LONG_DISTANCE
    slack = table.departure[visit] - SMALL.transfer_s - table.arrival[feeder]
    late = undisturbed(plan)
    # The delay arises on the last section before the hub, where the train cannot recover it.
    late.run[feeder] = slack + SMALL.wait_limit_s + 200 if too_late else slack + 150
    usual, played = play(plan, undisturbed(plan), SMALL), play(plan, late, SMALL)
    assert played.arrival[feeder] > usual.arrival[feeder] + 60
    if too_late:
        assert played.departure[visit] <= table.departure[visit] + SMALL.wait_limit_s
    else:
        assert played.departure[visit] >= played.arrival[feeder] + SMALL.transfer_s
        assert played.departure[visit] > usual.departure[visit]


def test_nothing_enters_a_closed_section_and_the_delay_spreads(railway: tuple[Railway, Plan]) -> None:
    _, plan = railway
    table = plan.timetable
    section = int(np.bincount(table.section[table.section >= 0]).argmax())
    start, end = 7 * 3_600.0, 8 * 3_600.0
    closed = undisturbed(plan)
    closed.restrictions[section] = [Restriction(start, end, 0.0, 300.0, closed=True)]
    played = play(plan, closed, SMALL)
    behind = np.flatnonzero(table.section == section)
    entries = played.departure[behind - 1]
    assert not ((entries > start) & (entries < end)).any()
    late = set(table.journey[played.arrival > table.arrival + 120])
    held = set(table.journey[behind[entries >= end]])
    assert late & held
    assert late - set(table.journey[behind]), "only trains of the closed section are late"


def test_every_train_arrives_and_none_leaves_before_its_time(railway: tuple[Railway, Plan]) -> None:
    railway, plan = railway
    severe = dataclasses.replace(SMALL, delay_severity=8.0)
    rng = np.random.default_rng(3)
    habits = draw_habits(plan.timetable, railway, severe, rng)
    table = plan.timetable
    played = play(plan, draw_disturbances(table, habits, railway, severe, rng), severe)
    assert np.isfinite(played.arrival).all() and np.isfinite(played.departure).all()
    assert (played.departure >= played.arrival).all()
    calls = table.stops & ~np.isin(np.arange(len(table.point)), table.first[1:] - 1)
    assert (played.departure[calls] >= table.departure[calls]).all()
    assert (played.arrival - table.arrival).max() > 1_800


def test_platforms_hold_no_more_trains_than_they_can(railway: tuple[Railway, Plan]) -> None:
    railway, plan = railway
    severe = dataclasses.replace(SMALL, delay_severity=8.0)
    rng = np.random.default_rng(4)
    table = plan.timetable
    habits = draw_habits(table, railway, severe, rng)
    played = play(plan, draw_disturbances(table, habits, railway, severe, rng), severe)
    last = np.isin(np.arange(len(table.point)), table.first[1:] - 1)
    until = played.departure + TERMINUS_OCCUPATION_S * last
    standing = table.stops & (table.section >= 0)
    full = 0
    for point in np.unique(table.point[standing]):
        here = standing & (table.point == point)
        time = np.concatenate([until[here], played.arrival[here]])
        change = np.repeat([-1, 1], here.sum())
        most = np.cumsum(change[np.lexsort((change, time))]).max()
        assert most <= plan.platforms[point]
        full += most == plan.platforms[point]
    assert full, "the rule never binds"


def test_history_explains_delays_that_translation_cannot(tmp_path: Path) -> None:
    """Ten events ahead, the mean change per section, stop and hour of past dates is better than translation."""
    config = dataclasses.replace(SMALL, start_date="2025-01-06", service_dates=10)
    simulate(tmp_path / "data", config)
    key = ["train_id", "op_id", "event_type"]
    rows = read_events(tmp_path / "data").with_columns(
        change=pl.col("delay_sec") - pl.col("delay_sec").shift(10).over(JOURNEY)
    )
    past, new = (rows.filter((pl.col("service_date") < date(2025, 1, 14)) == flag) for flag in (True, False))
    usual = past.drop_nulls("change").group_by(key).agg(pl.col("change").median().alias("usual"))
    judged = new.join(usual, on=key).drop_nulls(["change", "usual"])
    translation = judged["change"].abs().mean()
    assert (judged["change"] - judged["usual"]).abs().mean() < 0.95 * translation


# --- the folder ------------------------------------------------------------------------------------------------------
def test_the_same_simulation_is_reused_and_an_incomplete_one_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    lines: list[str] = []
    created = simulate(folder, SMALL)
    before = (folder / "op_nodes.parquet").stat().st_mtime_ns
    reused = simulate(folder, SMALL, lines.append)
    assert reused == {**created, "status": "reused"}
    assert len(lines) == 1
    assert lines[0].startswith(f"{folder} ")
    assert lines[0].endswith(": reused")
    assert (folder / "op_nodes.parquet").stat().st_mtime_ns == before
    (folder / "op_nodes.parquet").unlink()
    assert simulate(folder, SMALL)["status"] == "created"


def test_the_rotations_are_those_of_the_train_sets_and_change_no_event(tmp_path: Path) -> None:
    plain, turning = tmp_path / "plain", tmp_path / "turning"
    simulate(plain, SMALL)
    simulate(turning, SMALL, rotations=True)
    assert digests(turning).keys() - digests(plain).keys() == {"rotations.parquet"}
    assert digests(plain).items() <= digests(turning).items()
    assert simulate(turning, SMALL, rotations=True)["status"] == simulate(turning, SMALL)["status"] == "reused"
    assert simulate(plain, SMALL, rotations=True)["status"] == "created"
    rotations = pl.read_parquet(plain / "rotations.parquet")
    journeys = pl.read_parquet(plain / "journeys.parquet").select(
        *JOURNEY, "start_op_id", "end_op_id", "start_planned_ts", "end_planned_ts"
    )
    both = rotations.join(journeys, on=JOURNEY).join(
        journeys, left_on=["previous_train_id", "previous_service_date"], right_on=JOURNEY, suffix="_before"
    )
    assert both.height == rotations.height > 0
    assert (both["end_op_id_before"] == both["start_op_id"]).mean() > 0.5  # the first stop is not always recorded
    least = pl.duration(seconds=SMALL.turn_round_s)
    assert both.select((pl.col("end_planned_ts_before") + least <= pl.col("start_planned_ts")).all()).item()


def test_an_earlier_simulation_with_other_settings_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    simulate(folder, SMALL)
    lines: list[str] = []
    simulate(folder, dataclasses.replace(SMALL, service_dates=1, seed=5), lines.append)
    assert "other settings: replaced" in lines[0]
    assert len(list((folder / "events").iterdir())) == 1
    assert json.loads((folder / "simulation.json").read_text())["config"]["seed"] == 5
    assert list(tmp_path.iterdir()) == [folder]


def test_tables_of_another_source_need_overwrite(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    simulate(folder, SMALL)
    (folder / "simulation.json").unlink()
    kept = digests(folder)
    with pytest.raises(UserError) as caught:
        simulate(folder, dataclasses.replace(SMALL, seed=1))
    assert_names(caught.value, str(folder), "name another folder", "--overwrite")
    assert digests(folder) == kept
    assert simulate(folder, dataclasses.replace(SMALL, seed=1), overwrite=True)["status"] == "created"
    assert digests(folder) != kept


def test_other_files_are_never_removed(tmp_path: Path) -> None:
    for place in ("thesis.txt", "events/notes.txt"):
        folder = tmp_path / place.replace("/", "_")
        (folder / place).parent.mkdir(parents=True)
        (folder / place).write_text("years of work")
        with pytest.raises(UserError) as caught:
            simulate(folder, SMALL, overwrite=True)
        assert_names(caught.value, str(folder), repr(place), "name another folder")
        assert (folder / place).read_text() == "years of work"
    with pytest.raises(UserError) as caught:
        simulate(tmp_path / "thesis.txt" / "thesis.txt", SMALL, overwrite=True)
    assert_names(caught.value, str(tmp_path / "thesis.txt" / "thesis.txt"), "is a file", "name a folder")


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert simulate(tmp_path / "data", SMALL)["status"] == "created"
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


@pytest.mark.parametrize("had_earlier", [False, True])
def test_a_run_that_fails_half_way_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, had_earlier: bool
) -> None:
    folder = tmp_path / "data"
    if had_earlier:
        simulate(folder, SMALL)
    before = digests(folder)

    def full(write: Callable[..., None]) -> Callable[..., None]:
        def failing(target: Path, day: date, events: pl.DataFrame) -> None:
            if day == date(2025, 1, 12):
                raise OSError("No space left on device")
            write(target, day, events)

        return failing

    monkeypatch.setattr(dataset, "write_events", full(dataset.write_events))
    with pytest.raises(OSError, match="No space left"):
        simulate(folder, dataclasses.replace(SMALL, seed=9))
    assert digests(folder) == before
    assert list(tmp_path.iterdir()) == ([folder] if had_earlier else [])
