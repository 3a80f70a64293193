from __future__ import annotations

import json
import logging
import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from tests.support.messages import assert_names
from transformer.config import DataConfig, DriftConfig
from transformer.data.dates import available_dates
from transformer.data.events import each_day, read_events
from transformer.data.profile import (
    CHANGE_RANGE_MIN,
    DELAY_RANGE_MIN,
    EventProfile,
    load_profile,
    profile_of,
    save_profile,
)
from transformer.data.tables import EVENT_SCHEMA
from transformer.errors import UserError
from transformer.evaluation.drift import measure_drift, population_stability_index

MORNING = datetime(2024, 12, 20, 6, tzinfo=UTC)


def events(journeys: dict[str, list[int | None]], day: date = date(2024, 12, 20), first_op: int = 1) -> pl.DataFrame:
    """An event every ten minutes for each delay in seconds, at points counted from `first_op`."""
    lines = [
        (train, day, seq, first_op + seq, "A", planned := MORNING + timedelta(minutes=10 * seq))
        + ((None, None) if delay is None else (planned + timedelta(seconds=delay), delay))
        for train, delays in journeys.items()
        for seq, delay in enumerate(delays)
    ]
    return pl.DataFrame(lines, schema=EVENT_SCHEMA, orient="row")


def many(delays: np.ndarray, **more) -> EventProfile:
    """The profile of journeys of ten events each."""
    return profile_of(events({f"t{k}": part.tolist() for k, part in enumerate(delays.reshape(-1, 10))}, **more))


def delays(mean_s: float, seed: int, n: int = 20_000) -> np.ndarray:
    return np.random.default_rng(seed).exponential(mean_s, n).astype(int)


def as_dict(counts: np.ndarray, range_min: tuple[int, int]) -> dict[int, int]:
    return {index + range_min[0]: int(counts[index]) for index in np.flatnonzero(counts)}


def test_a_profile_counts_what_was_planned_observed_and_how_late():
    profile = profile_of(events({"a": [0, 60, None, 200], "b": [-40, 29, 30, 90_000]}))
    assert (profile.dates, profile.planned, profile.observed) == ((date(2024, 12, 20),), 8, 7)
    assert dict(profile.points.iter_rows()) == {1: 2, 2: 2, 3: 2, 4: 2}
    # Delays are rounded to the nearest minute. A delay beyond the range counts in the last minute of the range.
    assert as_dict(profile.delay, DELAY_RANGE_MIN) == {-1: 1, 0: 2, 1: 2, 3: 1, 180: 1}
    # A change is between two observed events of one journey. The unobserved event has none, and none goes from a to b.
    assert as_dict(profile.change, CHANGE_RANGE_MIN) == {1: 2, 0: 1, 30: 1}


def test_what_could_not_have_been_observed_yet_is_left_out():
    frame = events({"a": [0, 0, None, None]})
    assert profile_of(frame).observed_share == 0.5
    assert profile_of(frame, until=MORNING + timedelta(minutes=19)).observed_share == 1.0
    nothing = profile_of(frame, until=MORNING - timedelta(days=1))
    assert nothing.planned == 0 and math.isnan(nothing.observed_share)


def test_profiles_of_dates_add_up(sample_folder):
    data = DataConfig(local_folder=str(sample_folder))
    days = available_dates(sample_folder)[:3]
    together = profile_of(pl.concat(read_events(sample_folder, day, data.timezone, data.validation)[0] for day in days))
    first, *others = (profile_of(read.events) for read in each_day(data, days))
    added = sum(others, start=first)
    assert added.dates == together.dates == tuple(days)
    assert (added.planned, added.observed) == (together.planned, together.observed)
    assert added.points.equals(together.points)
    assert np.array_equal(added.delay, together.delay) and np.array_equal(added.change, together.change)


def test_a_profile_reads_back(tmp_path):
    profile = many(delays(180, seed=1))
    save_profile(profile, tmp_path / "reference.json")
    found = load_profile(tmp_path / "reference.json")
    assert (found.dates, found.observed) == (profile.dates, profile.observed)
    assert found.points.equals(profile.points) and found.points.schema == profile.points.schema
    assert np.array_equal(found.delay, profile.delay) and np.array_equal(found.change, profile.change)
    assert (tmp_path / "reference.json").stat().st_size < 10_000


def test_a_profile_of_another_version_is_refused(tmp_path):
    path = tmp_path / "reference.json"
    save_profile(many(delays(180, seed=1, n=100)), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 0}))
    with pytest.raises(UserError) as caught:
        load_profile(path)
    assert_names(caught.value, str(path), "version 0", "reads 1")


def test_a_damaged_profile_is_refused_in_one_line(tmp_path):
    path = tmp_path / "reference.json"
    path.write_text('{"version": 1, "dates": []}')
    with pytest.raises(UserError) as caught:
        load_profile(path)
    assert_names(caught.value, str(path), "damaged", "observed", "train again")


def test_a_date_counts_once():
    profile = profile_of(events({"a": [0, 0]}))
    with pytest.raises(ValueError, match="2024-12-20"):
        profile + profile


def test_psi_by_hand():
    window, reference = np.array([299, 699]), np.array([499, 499])  # half an event more in each bin
    expected = (0.2995 - 0.4995) / 0.999 * math.log(0.2995 / 0.4995) + (0.6995 - 0.4995) / 0.999 * math.log(
        0.6995 / 0.4995
    )
    assert population_stability_index(window, reference) == pytest.approx(expected, rel=1e-6)


def test_psi_is_finite_where_a_bin_is_empty_and_joins_rare_bins():
    # An empty bin counts as half an event: w = (0.0005, 0.9995), r = (0.5, 0.5), so PSI = 3.450 + 0.346.
    assert population_stability_index(np.array([0, 1_000]), np.array([500, 500])) == pytest.approx(3.80, abs=0.01)
    # The last two bins hold 1 % of the reference each and count as one. It does not matter which of the two is full.
    reference = np.array([490, 490, 10, 10])
    assert population_stability_index(np.array([490, 490, 20, 0]), reference) == pytest.approx(0, abs=1e-9)
    assert population_stability_index(np.array([490, 490, 0, 20]), reference) == pytest.approx(0, abs=1e-9)


def test_psi_of_nothing_is_undefined():
    assert math.isnan(population_stability_index(np.zeros(3, int), np.ones(3, int)))
    assert math.isnan(population_stability_index(np.ones(3, int), np.zeros(3, int)))


def levels(window: EventProfile, reference: EventProfile, limits: DriftConfig | None = None) -> dict[str, str]:
    return {
        measure.name: measure.level for measure in measure_drift(window, reference, limits or DriftConfig()).measures
    }


def test_the_same_distribution_is_no_drift(caplog):
    reference, window = many(delays(180, seed=1)), many(delays(180, seed=2))
    with caplog.at_level(logging.INFO):
        drift = measure_drift(window, reference, DriftConfig())
    assert drift.warnings == [] and {record.levelname for record in caplog.records} == {"INFO"}
    metrics = drift.metrics("drift")
    assert metrics["drift/planned_events"] == metrics["drift/observed_events"] == 20_000
    assert metrics["drift/observed_share"] == 1 and metrics["drift/unknown_share"] == 0
    assert 0 <= metrics["drift/delay_psi"] < 0.01 and 0 <= metrics["drift/change_psi"] < 0.01


def test_a_shifted_delay_differs_from_a_shifted_change(caplog):
    reference, later = many(delays(180, seed=1)), many(delays(180, seed=2) + 180)
    with caplog.at_level(logging.WARNING):
        drift = measure_drift(later, reference, DriftConfig())
    assert [line.split(":")[0] for line in drift.warnings] == ["delays"]
    assert [record.getMessage() for record in caplog.records] == [f"drift: {line}" for line in drift.warnings]
    limits = DriftConfig()
    assert_names(
        drift.warnings[0],
        f"PSI {drift.metrics('d')['d/delay_psi']:.3f}",
        "on the training dates",
        f"limits {limits.psi_noticeable:g} and {limits.psi_shifted:g}",
    )
    assert levels(many(delays(360, seed=3)), reference)["change_psi"] == "beyond limit"


def test_between_the_thresholds_a_shift_is_noticeable():
    reference, window = many(delays(180, seed=1)), many(delays(280, seed=2))
    assert levels(window, reference)["delay_psi"] == "noticeable"
    assert levels(window, reference, DriftConfig(psi_noticeable=0.5, psi_shifted=0.9))["delay_psi"] == "ok"
    drift = measure_drift(window, reference, DriftConfig())
    assert drift.warnings and drift.beyond_limits == ""
    shifted = measure_drift(window, reference, DriftConfig(psi_noticeable=0.01, psi_shifted=0.02))
    assert_names(shifted.beyond_limits, "delays: PSI", "limits 0.01 and 0.02")


def test_fewer_observed_events_are_a_warning():
    reference = profile_of(events({"a": [0] * 9 + [None]}))
    some, few = profile_of(events({"a": [0] * 8 + [None] * 2})), profile_of(events({"a": [0] * 7 + [None] * 3}))
    assert levels(some, reference, DriftConfig(max_observed_drop=0.11))["observed_share"] == "ok"
    drift = measure_drift(few, reference, DriftConfig(max_observed_drop=0.11))
    assert drift.warnings[0].startswith("observed events: ")
    assert_names(drift.warnings[0], "7 of 10 planned events", "70.0%", "90.0% on the training dates", "limit 11 points")


def test_events_at_points_that_training_never_saw_are_a_warning():
    reference = many(delays(180, seed=1, n=1_000))
    window = many(delays(180, seed=2, n=1_000), first_op=10)  # one of ten points, op 10, is known
    drift = measure_drift(window, reference, DriftConfig())
    assert drift.metrics("d")["d/unknown_share"] == 0.9
    assert_names(drift.warnings[0], "900 events", "90.0%", "9 points", "on the training dates", "limit 1.0%")


def test_a_window_without_observations_warns_and_logs_no_undefined_metric():
    reference, silent = many(delays(180, seed=1, n=1_000)), profile_of(events({"a": [None] * 10}))
    drift = measure_drift(silent, reference, DriftConfig())
    assert len(drift.warnings) == 3 and "no events to compare" in drift.warnings[1]
    assert set(drift.metrics("d")) == {"d/planned_events", "d/observed_events", "d/observed_share", "d/unknown_share"}
