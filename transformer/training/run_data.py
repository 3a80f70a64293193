"""The event tables that a run uses, as its MLflow run names them. This module imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from transformer.data.content import content_digest
from transformer.data.dates import Split, format_dates
from transformer.data.tables import EVENT_SCHEMA
from transformer.tracking.datasets import TEST, TRAIN, VALIDATION, EventTables

_COLUMNS = {name: str(dtype.base_type()) for name, dtype in EVENT_SCHEMA.items()}


def split_tables(split: Split, content: Mapping[str, str]) -> list[EventTables]:
    """The tables of each split.

    Args:
        content: `tables_content` of all dates of the split.
    """
    days = {TRAIN: split.train, VALIDATION: split.validation, TEST: split.test}
    return [event_tables(context, dates, content) for context, dates in days.items()]


def event_tables(context: str, days: Sequence[date], content: Mapping[str, str]) -> EventTables:
    """The tables of some service dates, sorted.

    Args:
        context: how the run uses them, see `EventTables`.
        content: `tables_content` of these dates, and perhaps of others.
    """
    return EventTables(context, format_dates(days), content_digest(content, days), _COLUMNS)
