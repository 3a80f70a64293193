"""Rows of predictions, without a trained model."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from transformer.config import SnapshotConfig
from transformer.data.event_table import LoadedTable, Vocabulary
from transformer.data.tables import EVENT_SCHEMA, JOURNEY_SCHEMA
from transformer.features.snapshots import EventFeatures, SnapshotBuilder
from transformer.pace import Pace
from transformer.prediction import rows as rows_module
from transformer.prediction.rows import _reporting, next_event_rows

DAY = date(2025, 1, 13)
START = datetime(2025, 1, 13, 6, tzinfo=UTC)
N_EVENTS = 300


def predict(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros_like(batch["next_planned"]), torch.zeros(*batch["next_planned"].shape, 1)


@pytest.mark.parametrize("n_foll", [15, 127, 128, 200, 299])
def test_each_next_event_has_its_rank(n_foll: int):
    """A rank above 127 does not fit eight bits, and became negative."""
    lines = [("t", DAY, k, k, "P", START + timedelta(minutes=k), None, None) for k in range(N_EVENTS)]
    events = pl.DataFrame(lines, schema=EVENT_SCHEMA, orient="row")
    vocabulary = Vocabulary(np.arange(N_EVENTS, dtype=np.int32), ())
    loaded = LoadedTable.of(events, pl.DataFrame(schema=JOURNEY_SCHEMA), vocabulary)
    builder = SnapshotBuilder(loaded.table, SnapshotConfig(n_foll=n_foll), EventFeatures.none(loaded.table))
    trained: Any = SimpleNamespace(
        config=SimpleNamespace(data=SimpleNamespace(timezone="UTC")), statistics=SimpleNamespace(vocabulary=vocabulary)
    )
    module: Any = SimpleNamespace(network=SimpleNamespace(levels=(0.5,)), predict=predict)
    rows = next_event_rows(trained, module, builder, loaded.names, np.array([int(START.timestamp())]))
    assert rows["rank"].to_list() == list(range(1, n_foll + 1))
    assert rows["op_id"].to_list() == list(range(n_foll))


def test_an_evaluation_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """A year of predictions takes a quarter of an hour."""
    monkeypatch.setattr(rows_module, "Pace", lambda: Pace(0.0))
    monkeypatch.setattr(rows_module, "BATCH_SIZE", 8)
    frames = [pl.DataFrame({"a": [number]}) for number in range(3)]
    with caplog.at_level("INFO"):
        assert list(_reporting(frames, 20)) == frames
    assert [re.sub(r"most .* left", "most … left", line) for line in caplog.messages] == [
        "evaluation: 8 of 20 snapshots predicted, at most … left",
        "evaluation: 16 of 20 snapshots predicted, at most … left",
    ]
