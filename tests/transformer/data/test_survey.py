"""The report of reading is kept under the content of what it counts."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from transformer.config import Config, DataConfig
from transformer.data import survey
from transformer.data.dates import available_dates
from transformer.data.events import read_days
from transformer.data.survey import Survey
from transformer.data.tables import events_path, journeys_path, op_nodes_path, write_events


@pytest.fixture
def data(small_config: Config, tmp_path: Path) -> DataConfig:
    """The data in a folder that a test may change."""
    folder = tmp_path / "data"
    for path in Path(small_config.data.local_folder).rglob("*.parquet"):
        target = folder / path.relative_to(small_config.data.local_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return small_config.data.model_copy(update={"local_folder": str(folder)})


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> list[date]:
    """The dates whose events were validated."""
    days: list[date] = []
    wanted = survey.validated_events

    def validate(found: pl.DataFrame, path: Path, day: date, *rest: object) -> object:
        days.append(day)
        return wanted(found, path, day, *rest)

    monkeypatch.setattr(survey, "validated_events", validate)
    return days


def test_a_date_is_validated_once(data: DataConfig, tmp_path: Path, validated: list[date]):
    days = available_dates(Path(data.local_folder))[:3]
    first = Survey(data, tmp_path / "cache").report(days[:2])
    assert validated == days[:2]
    assert Survey(data, tmp_path / "cache").report(days[:2]) == first == read_days(data, days[:2])[1]
    assert validated == days[:2]
    assert Survey(data, tmp_path / "cache").report(days) == read_days(data, days)[1]
    assert validated == days


@pytest.mark.parametrize("change", ["events", "journeys", "points", "settings"])
def test_it_is_validated_again_if_the_account_may_change(
    data: DataConfig, tmp_path: Path, validated: list[date], change: str
):
    folder = Path(data.local_folder)
    days = available_dates(folder)[:2]
    before = Survey(data, tmp_path / "cache").report(days)
    if change == "events":
        write_events(folder, days[0], pl.read_parquet(events_path(folder, days[0])).head(-1))
    elif change == "journeys":
        journeys = pl.read_parquet(journeys_path(folder))
        train = journeys.filter(pl.col("service_date") == days[0])["train_id"][0]
        gone = (pl.col("service_date") == days[0]) & (pl.col("train_id") == train)
        journeys.filter(~gone).write_parquet(journeys_path(folder))
    elif change == "points":
        pl.read_parquet(op_nodes_path(folder)).tail(-1).write_parquet(op_nodes_path(folder))
    else:
        data = data.model_copy(update={"validation": data.validation.model_copy(update={"max_delay_s": 900})})
    validated.clear()
    after = Survey(data, tmp_path / "cache").report(days)
    assert after != before and after == read_days(data, days)[1]
    assert validated == (days if change in ("points", "settings") else days[:1])
