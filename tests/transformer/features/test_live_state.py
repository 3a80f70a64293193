"""Live features: worked examples, equality with a plain loop, and no effect of the future or of other service dates."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.tables import read_table
from tests.oracles.snapshot_loop import journeys_of, live_index, snapshots_by_loop
from transformer.config import Config, SnapshotConfig
from transformer.data.dates import available_dates
from transformer.data.event_table import NEVER, EventTable, Vocabulary, _key, build_event_table
from transformer.data.news import news_of
from transformer.data.points import read_op_nodes
from transformer.data.tables import EVENT_SCHEMA
from transformer.features.instants import training_instants
from transformer.features.live_state import (
    CHANGE_LIMIT_S,
    DELAY_LIMITS_S,
    FAR_S,
    LIVE_FEATURES,
    LIVE_POINT_FEATURES,
    LIVE_SECTION_FEATURES,
    NEIGHBOUR_FEATURES,
    OLD_S,
    TIME_SPAN_S,
    LiveState,
    Observations,
    Runs,
    _ascending,
    neighbours,
)
from transformer.features.snapshots import EventFeatures, SnapshotBatch, SnapshotBuilder

DAY = date(2025, 1, 6)
MIDNIGHT = datetime(2025, 1, 6, tzinfo=UTC)
NOBODY = {"gap": FAR_S, "planned_gap": 0, "delay": 0, "direction": 0}


def at(minutes: float) -> int:
    return int((MIDNIGHT + timedelta(minutes=minutes)).timestamp())


def table_of(*journeys: list[tuple[int, float, float | None]], days: tuple[int, ...] = ()) -> EventTable:
    """Journeys of (point, planned, observed) in minutes after midnight. `days` shifts the date of each journey."""
    rows = []
    for number, events in enumerate(journeys):
        day = timedelta(days=days[number] if days else 0)
        for seq, (point, planned, observed) in enumerate(events):
            moments = [None if m is None else MIDNIGHT + day + timedelta(minutes=m) for m in (planned, observed)]
            rows.append([f"T{number}", DAY + day, seq, point, "A", *moments, None])
    events = pl.DataFrame(rows, schema=EVENT_SCHEMA, orient="row")
    types = events.select("train_id", "service_date", pl.lit("regional").alias("train_type")).unique()
    return build_event_table(events, types, Vocabulary(np.arange(1, 40, dtype=np.int32), ("regional",)))


def builder_of(table: EventTable, change: np.ndarray | None = None, delay: np.ndarray | None = None) -> SnapshotBuilder:
    nothing = np.zeros(table.n_events, np.float32)
    live = LiveState.of(table, nothing if change is None else change, nothing if delay is None else delay)
    return SnapshotBuilder(table, SnapshotConfig(n_prev=3, n_foll=3), EventFeatures.none(table), live)


def of_event(batch: SnapshotBatch, event: int) -> dict[str, float]:
    """The live features of one event of the table, by name."""
    where = np.argwhere(batch.next_mask & (batch.next_event == event))
    assert len(where) == 1, f"event {event} is ahead in {len(where)} places"
    return dict(zip(LIVE_FEATURES, batch.next_live[tuple(where[0])].tolist(), strict=True))


def neighbour(features: dict[str, float], side: str) -> dict[str, float]:
    return {name: features[f"{side}_{name}"] for name in NOBODY}


def test_names_of_the_three_views_make_up_the_columns():
    assert (*LIVE_SECTION_FEATURES, *LIVE_POINT_FEATURES, *NEIGHBOUR_FEATURES) == LIVE_FEATURES
    assert len(set(LIVE_FEATURES)) == len(LIVE_FEATURES)


# Two trains have run 1 → 2 → 3, and a third will: events 0–2, 3–5 and 6–8 of the table.
EARLIER = [(1, 400, 400), (2, 410, 412), (3, 420, 423)], [(1, 500, 501), (2, 510, 505), (3, 520, 517)]
AHEAD = [(1, 600, None), (2, 610, None), (3, 620, None)]


def test_section_ahead_spelled_out():
    batch = builder_of(table_of(*EARLIER, AHEAD)).build(np.array([at(599)]))
    first = of_event(batch, 6)  # no section leads to the first event of a journey
    assert {name: first[name] for name in LIVE_SECTION_FEATURES if first[name]} == {"section_last_age": OLD_S}
    second = of_event(batch, 7)  # +120 s three hours ago, −360 s 94 minutes ago
    assert second["section_last_change"] == second["section_last_excess"] == -360
    assert second["section_last_age"] == 94 * 60
    assert second["section_count"] == 1
    assert second["section_change"] == second["section_excess"] == -180  # half the change of a single train
    assert second["section_day_excess"] == pytest.approx((120 - 360) / 3)
    third = of_event(batch, 8)  # +60 s, then +120 s
    assert third["section_last_change"] == 120 and third["section_last_age"] == 82 * 60
    assert third["section_count"] == 2  # 423 is 176 minutes ago
    assert third["section_change"] == pytest.approx(60)
    assert third["path_last_change"] == -360 + 120
    assert third["path_change"] == third["path_excess"] == pytest.approx(-180 + 60)
    assert third["path_day_excess"] == pytest.approx(-80 + 60)


def test_point_ahead_spelled_out():
    batch = builder_of(table_of(*EARLIER, AHEAD)).build(np.array([at(599)]))
    here = of_event(batch, 7)
    assert here["point_last_delay"] == -300 and here["point_last_age"] == 94 * 60
    assert here["point_count"] == 1 and here["point_delay"] == here["point_excess"] == -150
    assert here["point_day_excess"] == pytest.approx((120 - 300) / 3)


def test_what_is_usual_is_taken_off_the_excess_alone():
    table = table_of(*EARLIER, AHEAD)
    change = np.array([0, 30, 90] * 3, np.float32)  # usually 30 s from 1 to 2, then 60 s to 3
    delay = np.array([0, 45, 0] * 3, np.float32)
    batch = builder_of(table, change, delay).build(np.array([at(599)]))
    second, third = of_event(batch, 7), of_event(batch, 8)
    assert (second["section_last_change"], second["section_last_excess"]) == (-360, -390)
    assert (third["section_last_change"], third["section_last_excess"]) == (120, 60)
    assert second["section_excess"] == -195
    assert (second["point_last_delay"], second["point_excess"]) == (-300, (-300 - 45) / 2)


def test_observations_count_up_to_the_instant_and_age_out():
    builder = builder_of(table_of(*EARLIER, [(1, 800, None), (2, 810, None), (3, 820, None)]))
    builder = replace(builder, config=builder.config.model_copy(update={"lead_s": 20_000}))  # waits from 467 minutes on

    def at_point_2(minute: float) -> dict[str, float]:
        return of_event(builder.build(np.array([at(minute)])), 7)

    assert at_point_2(505 - 1 / 60)["point_last_delay"] == 120
    assert at_point_2(505)["point_last_delay"] == -300  # known in the second in which it happens
    assert at_point_2(505 + 179.9)["point_count"] == 1
    assert at_point_2(505 + 180)["point_count"] == 0
    assert at_point_2(505 + 239.9)["point_last_delay"] == -300
    old = at_point_2(505 + 240)
    assert (old["point_last_delay"], old["point_last_age"]) == (0, OLD_S)
    assert old["point_day_excess"] == -60  # the mean of the day keeps old observations


def test_section_counts_from_when_both_its_ends_are_known():
    """The start is observed after the end, and the change is unknown until then."""
    builder = builder_of(table_of([(1, 590, 597), (2, 592, 594), (3, 700, None)], AHEAD))
    assert of_event(builder.build(np.array([at(596)])), 4)["section_last_age"] == OLD_S
    late = of_event(builder.build(np.array([at(598)])), 4)
    assert (late["section_last_change"], late["section_last_age"]) == (2 * 60 - 7 * 60, 60)


def test_unobserved_event_says_nothing_of_the_sections_on_both_its_sides():
    batch = builder_of(table_of([(1, 400, 400), (2, 410, None), (3, 420, 430)], AHEAD)).build(np.array([at(599)]))
    for event in (4, 5):
        section = of_event(batch, event)
        assert (section["section_last_age"], section["section_count"], section["path_day_excess"]) == (OLD_S, 0, 0)
    assert of_event(batch, 4)["point_last_age"] == OLD_S
    assert of_event(batch, 5)["point_last_age"] == 169 * 60


def test_other_direction_and_other_event_type_are_another_section():
    batch = builder_of(table_of([(2, 500, 500), (1, 510, 515)], AHEAD)).build(np.array([at(599)]))
    assert of_event(batch, 3)["section_last_age"] == OLD_S
    assert of_event(batch, 3)["point_last_delay"] == 0 and of_event(batch, 3)["point_last_age"] == 99 * 60


def test_one_stranded_train_does_not_fill_a_mean():
    batch = builder_of(table_of([(1, 100, 100), (2, 110, 590)], AHEAD)).build(np.array([at(599)]))
    here = of_event(batch, 3)
    assert here["section_last_change"] == CHANGE_LIMIT_S and here["section_change"] == CHANGE_LIMIT_S / 2
    assert here["point_last_delay"] == DELAY_LIMITS_S[1]


def test_train_ahead_and_behind_on_the_same_track():
    """The second train is four minutes late and overtakes no train. The third is due six minutes after it."""
    table = table_of(
        [(1, 600, 600), (2, 620, None)],
        [(1, 606, 610), (2, 626, None)],
        [(1, 616, 616), (2, 636, None)],
    )
    batch = builder_of(table).build(np.array([at(617)]))
    first, second, third = (of_event(batch, event) for event in (1, 3, 5))
    assert neighbour(first, "before") == NOBODY
    assert neighbour(first, "after") == {"gap": 600, "planned_gap": 360, "delay": 240, "direction": 1}
    assert neighbour(second, "before") == {"gap": 600, "planned_gap": 360, "delay": 0, "direction": 1}
    assert neighbour(second, "after") == {"gap": 360, "planned_gap": 600, "delay": 0, "direction": 1}
    assert neighbour(third, "before") == {"gap": 360, "planned_gap": 600, "delay": 240, "direction": 1}
    assert neighbour(third, "after") == NOBODY


def test_order_that_is_to_change_shows_in_the_planned_gap():
    table = table_of([(1, 600, 615), (2, 620, None)], [(1, 606, 606), (2, 626, None)])
    second = of_event(builder_of(table).build(np.array([at(616)])), 3)
    assert neighbour(second, "after") == {"gap": 540, "planned_gap": -360, "delay": 900, "direction": 1}


def test_trains_that_meet_run_in_opposite_directions():
    table = table_of([(1, 600, 600), (2, 620, None)], [(2, 604, 605), (1, 621, None)])
    batch = builder_of(table).build(np.array([at(606)]))
    assert neighbour(of_event(batch, 1), "after") == {"gap": 120, "planned_gap": 60, "delay": 60, "direction": -1}
    assert neighbour(of_event(batch, 3), "before") == {"gap": 120, "planned_gap": 60, "delay": 0, "direction": -1}


def test_trains_hours_apart_are_as_far_as_can_be_told():
    wide = SnapshotConfig(n_prev=3, n_foll=3).model_copy(update={"lead_s": 20_000})
    table = table_of([(1, 600, 600), (2, 620, None)], [(1, 790, None), (2, 800, None)])
    batch = replace(builder_of(table), config=wide).build(np.array([at(606)]))
    assert neighbour(of_event(batch, 1), "after") == {"gap": FAR_S, "planned_gap": FAR_S, "delay": 0, "direction": 1}


def test_train_that_comes_back_does_not_meet_itself():
    alone = builder_of(table_of([(1, 600, 600), (2, 610, None), (1, 620, None), (2, 630, None)]))
    batch = alone.build(np.array([at(601)]))
    for event in (1, 2, 3):
        assert neighbour(of_event(batch, event), "before") == neighbour(of_event(batch, event), "after") == NOBODY


def test_train_that_waits_at_a_point_is_on_no_track():
    batch = builder_of(table_of([(1, 600, 600), (1, 610, None)], [(1, 600, 600), (1, 611, None)])).build(
        np.array([at(601)])
    )
    assert neighbour(of_event(batch, 1), "after") == neighbour(of_event(batch, 3), "before") == NOBODY


def test_trains_of_another_snapshot_are_no_neighbours():
    table = table_of([(1, 600, 600), (2, 620, None)], [(1, 690, 690), (2, 700, None)])
    batch = builder_of(table).build(np.array([at(610), at(691)]))
    assert neighbour(of_event(batch, 1), "after") == neighbour(of_event(batch, 3), "before") == NOBODY


def test_equal_expected_times_are_in_either_order():
    table = table_of([(1, 600, 600), (2, 620, None)], [(2, 600, 600), (1, 620, None)])
    batch = builder_of(table).build(np.array([at(601)]))
    both = [of_event(batch, event) for event in (1, 3)]
    assert sorted(train["after_direction"] for train in both) == [-1, 0]
    assert sorted(train["before_direction"] for train in both) == [-1, 0]
    assert sorted(min(train["after_gap"], train["before_gap"]) for train in both) == [0, 0]


# --- a simulated railway ---------------------------------------------------------------------------------------------
def simulated(config: Config, days: slice = slice(0, 3)) -> tuple[EventTable, np.ndarray, np.ndarray]:
    """A table, and made-up usual values of each event, which do not depend on the other loaded dates."""
    folder = Path(config.data.local_folder)
    chosen = available_dates(folder)[days]
    points = read_op_nodes(folder)["op_id"].sort().to_numpy().astype(np.int32)
    vocabulary = Vocabulary(points, ("long_distance", "regional"))
    table = read_table(config.data, chosen, vocabulary).table
    kind = table.point * 4.0 + table.event_type
    return table, (30 * np.sin(kind)).astype(np.float32), (90 * np.cos(kind)).astype(np.float32)


def instants_of(config: Config, count: int, days: slice = slice(0, 3)) -> np.ndarray:
    chosen = tuple(available_dates(Path(config.data.local_folder))[days])
    return training_instants(chosen, count, config.data, np.random.default_rng(1))


def known_at(table: EventTable, arrived: np.ndarray) -> EventTable:
    """The same observations, known from other times on."""
    news = news_of(table.reported, arrived, table.planned, table.journey.astype(np.int64), NEVER)
    key = _key(table.journey[news.event], arrived[news.event] - table._origin)
    spans = {"news_last": news.last, "news_begin": news.begin, "news_end": news.end, "known": news.known}
    return replace(table, arrived=arrived, heard=news.heard, news_key=key, **spans)


def test_the_age_is_that_of_the_observation_and_a_late_one_is_not_the_newest():
    table = table_of(*EARLIER, AHEAD)
    arrived = np.array(table.arrived)
    arrived[1], arrived[4] = at(598), at(590)  # the train of 412 is known after that of 505
    builder = builder_of(replace(table, arrived=arrived))
    assert of_event(builder.build(np.array([at(599)])), 7)["point_last_delay"] == -300
    assert of_event(builder.build(np.array([at(599)])), 7)["point_last_age"] == 94 * 60
    arrived[4] = at(600)
    builder = builder_of(replace(table, arrived=arrived))
    assert of_event(builder.build(np.array([at(599)])), 7)["point_last_delay"] == 120
    assert of_event(builder.build(np.array([at(599)])), 7)["point_last_age"] == 187 * 60


@pytest.mark.parametrize("late_s", [0, 900])
def test_same_as_a_loop_over_trains_and_observations(small_config: Config, late_s: int):
    table, change, delay = simulated(small_config)
    late = np.random.default_rng(5).integers(0, late_s, table.n_events, endpoint=True)
    table = known_at(table, np.where(table.reported < NEVER, table.reported + late, NEVER))
    builder = replace(builder_of(table, change, delay), config=SnapshotConfig(n_prev=2, n_foll=6))
    instants = instants_of(small_config, 12)
    batch = builder.build(instants)
    journeys = journeys_of(table, builder.features)
    index = live_index(journeys, change.tolist(), delay.tolist())
    expected = snapshots_by_loop(journeys, instants.tolist(), builder.config, builder.features, index)["next_live"]
    assert batch.train_mask.sum() > 50
    for column, name in enumerate(LIVE_FEATURES):
        given = batch.next_live[..., column]
        assert len(np.unique(given[batch.next_mask])) > 2, f"{name} is constant here"
        np.testing.assert_allclose(given, expected[..., column], rtol=1e-6, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("change", ["lost", "late", "early"])
def test_future_never_changes_a_live_feature(small_config: Config, change: str):
    table, *usual = simulated(small_config)
    generator = np.random.default_rng(3)
    for instant in instants_of(small_config, 6):
        instants = np.array([instant])
        before = builder_of(table, *usual).build(instants)
        observed = np.asarray(table.observed)
        future = observed > instant
        moved = {
            "lost": np.full(observed.shape, NEVER),
            "late": np.where(observed < NEVER, observed + generator.integers(0, 7_200, observed.shape), NEVER),
            "early": np.full(observed.shape, instant + 1),
        }[change]
        # Both batches have the trains of the unchanged table, so only the live state can differ.
        altered = LiveState.of(replace(table, observed=np.where(future, moved, observed)), *usual)
        after = replace(builder_of(table, *usual), live=altered).build(instants)
        np.testing.assert_array_equal(before.next_live, after.next_live)


def test_what_is_not_known_yet_never_changes_a_live_feature(small_config: Config):
    table, *usual = simulated(small_config)
    generator = np.random.default_rng(3)
    reported = np.asarray(table.reported)
    arrived = np.where(reported < NEVER, reported + generator.integers(0, 900, reported.shape), NEVER)
    for instant in instants_of(small_config, 6):
        unknown = (arrived > instant) & (reported < NEVER)
        assert (unknown & (reported <= instant)).any()
        other = replace(
            table, arrived=arrived + np.where(unknown, 60, 0), reported=reported - np.where(unknown, 120, 0)
        )
        # Both batches have the trains of the unchanged table, so only the live state can differ.
        before, after = (
            replace(builder_of(table, *usual), live=LiveState.of(of, *usual)).build(np.array([instant]))
            for of in (replace(table, arrived=arrived), other)
        )
        np.testing.assert_array_equal(before.next_live, after.next_live)


def test_live_features_do_not_depend_on_other_loaded_dates(small_config: Config):
    middle = slice(1, 2)
    instants = instants_of(small_config, 12, middle)
    alone, among = (builder_of(*simulated(small_config, days)).build(instants) for days in (middle, slice(0, 3)))
    shared = alone.train_mask.shape[1]
    np.testing.assert_array_equal(
        alone.train_mask, among.train_mask[:, :shared]
    )  # no train of another date runs at these instants
    assert not among.train_mask[:, shared:].any()
    np.testing.assert_array_equal(alone.next_live, among.next_live[:, :shared])


def test_yesterdays_observations_are_not_todays():
    table = table_of(*EARLIER, AHEAD, days=(0, 0, 1))
    builder = builder_of(table)
    ahead = of_event(builder.build(np.array([at(24 * 60 + 599)])), 7)
    assert (ahead["section_day_excess"], ahead["point_day_excess"]) == (0, 0)
    # This holds even if they are only a few minutes old, because they belong to another service date.
    night = table_of([(1, 1_430, 1_435), (2, 1_438, 1_439)], [(1, 1, None), (2, 10, None)], days=(0, 1))
    ahead = of_event(builder_of(night).build(np.array([at(1_440)])), 3)
    assert (ahead["section_last_age"], ahead["point_last_age"]) == (OLD_S, OLD_S)


def test_nothing_observed_at_all():
    batch = builder_of(table_of(AHEAD, [(1, 606, None), (2, 616, None)])).build(np.array([at(601)]))
    here = of_event(batch, 1)
    ages = {"section_last_age", "point_last_age"}
    seen = (*LIVE_SECTION_FEATURES, *LIVE_POINT_FEATURES)
    assert {name: here[name] for name in seen} == {name: OLD_S if name in ages else 0 for name in seen}
    assert here["after_gap"] == 300  # the first train is overdue by a minute, which its translation includes


def test_empty_table_and_empty_snapshot():
    empty = table_of()
    nothing = np.zeros(0, np.float32)
    none = np.zeros(0, np.int64)
    known = LiveState.of(empty, nothing, nothing).known(none, none, none, none)
    assert known.shape == (0, len(LIVE_SECTION_FEATURES) + len(LIVE_POINT_FEATURES))
    runs = Runs(track=none, forward=np.zeros(0, np.bool_), planned=none, train=none, snapshot=none, late=nothing)
    assert neighbours(runs).shape == (0, len(NEIGHBOUR_FEATURES))
    batch = builder_of(table_of(AHEAD)).build(np.array([at(100)]))
    assert not batch.train_mask.any() and not batch.next_live.any()


def test_padding_is_zero(small_config: Config):
    batch = builder_of(*simulated(small_config)).build(instants_of(small_config, 12))
    assert not batch.train_mask.all() and not batch.next_mask[batch.train_mask].all()
    assert not batch.next_live[~batch.next_mask].any()
    assert batch.next_live.dtype == np.float32


def test_without_a_live_state_there_are_no_columns():
    builder = replace(builder_of(table_of(AHEAD)), live=None)
    assert builder.build(np.array([at(599)])).next_live.shape == (1, 1, 3, 0)


def test_keys_of_the_largest_table_do_not_overflow():
    most = 2**63 // TIME_SPAN_S
    place, time = np.array([0, most - 2]), np.array([at(600), at(700)])
    last = (place[1:] * TIME_SPAN_S + time[1:])[0]
    assert last > 0 and last // TIME_SPAN_S == most - 2
    with pytest.raises(AssertionError, match="do not fit the keys"):
        Observations.of(place, time, time, np.zeros((2, 2), np.float32), most)


@pytest.mark.parametrize("most", [0, 5, 2**40, 2**62])
def test_ascending_order_is_that_of_a_stable_sort_however_large_the_values(most: int):
    values = np.random.default_rng(0).integers(0, most, 1_000, endpoint=True)
    np.testing.assert_array_equal(_ascending(values), np.argsort(values, kind="stable"))
    assert len(_ascending(values[:0])) == 0
