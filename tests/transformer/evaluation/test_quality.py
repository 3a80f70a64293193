"""The quality of the events of an evaluation."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from transformer.config import with_values
from transformer.data.events import each_day, read_days
from transformer.data.profile import EventProfile, profile_of
from transformer.evaluation.quality import DataQuality, Examination

DAYS = (date(2025, 1, 12), date(2025, 1, 13))
LATER = datetime(2026, 1, 1, tzinfo=UTC)


def profile_on(config, days) -> EventProfile:
    first, *others = (profile_of(read.events) for read in each_day(config.data, days))
    return sum(others, start=first)


def examine(config, days, reference, now, newest_observation=None) -> DataQuality:
    examination = Examination(now)
    for read in each_day(config.data, days):
        examination.add(read)
    return examination.quality(reference, config.evaluation.drift, newest_observation)


def test_reading_and_drift_are_of_all_dates(small_config):
    reference = profile_on(small_config, DAYS)
    quality = examine(small_config, DAYS, reference, LATER)
    assert quality.reading == read_days(small_config.data, DAYS)[1]
    assert quality.drift.planned == reference.planned == quality.reading.kept
    assert quality.drift.verdict == "as on the training dates"
    metrics = quality.metrics("window/x")
    assert metrics["window/x/drift/delay_psi"] == metrics["window/x/drift/unknown_share"] == 0
    assert metrics["window/x/drift/observed_events"] == reference.observed


def test_what_is_planned_later_than_now_is_no_drift(small_config):
    noon = datetime(2025, 1, 13, 11, tzinfo=UTC)
    reference = profile_on(small_config, DAYS)
    so_far = profile_of(read_days(small_config.data, DAYS)[0], until=noon)
    assert examine(small_config, DAYS, reference, noon).drift.planned == so_far.planned < reference.planned


def test_the_limits_are_the_configurations(small_config, caplog: pytest.LogCaptureFixture):
    strict = {"evaluation.drift.psi_noticeable": 1e-9, "evaluation.drift.psi_shifted": 1e-9}
    config = with_values(small_config, strict, "test")
    quality = examine(config, DAYS[1:], profile_on(config, DAYS[:1]), LATER)
    assert quality.drift.verdict.startswith("delays: PSI 0.")
    assert [record.levelname for record in caplog.records if "PSI" in record.getMessage()] == ["WARNING"] * 2


def test_without_a_profile_of_the_training_dates_there_is_no_drift(small_config, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO"):
        quality = examine(small_config, DAYS, None, LATER, newest_observation=LATER)
    assert quality.drift is None and quality.metrics("test") == {}
    assert quality.newest_observation == LATER
    assert "drift: not measured" in caplog.text
