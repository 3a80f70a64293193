"""The events of several service dates in one table in memory, where a measurement or a test needs a single table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from transformer.config import DataConfig
from transformer.data.event_table import LoadedTable, Vocabulary
from transformer.data.events import read_days, read_journeys


def read_table(data: DataConfig, days: Sequence[date], vocabulary: Vocabulary) -> LoadedTable:
    events, _ = read_days(data, days)
    return LoadedTable.of(events, read_journeys(Path(data.local_folder), days, data.timezone), vocabulary)
