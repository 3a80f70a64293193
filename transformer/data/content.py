"""The content of the event tables with which a run began, so that a later stage of the run notices other data.

The files of other dates may change meanwhile: a growing `journeys.parquet` is compared by its rows of the run's dates.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import polars as pl

from transformer.config import DataConfig, UseInputsConfig
from transformer.data.events import data_fingerprint, read_journeys, table_digest
from transformer.data.input_tables import input_content
from transformer.data.tables import events_path, journeys_path, op_nodes_path
from transformer.errors import UserError
from transformer.files import content_hash

_DIGITS = 16  # hex digits of a digest
_NO_JOURNEYS = hashlib.sha256(b"").hexdigest()[:_DIGITS]  # digest of a date without rows
_LISTED = 3  # changed tables that a message names
DEFAULT_INPUTS = UseInputsConfig()  # no optional input is on


def tables_content(data: DataConfig, days: Sequence[date], use: UseInputsConfig = DEFAULT_INPUTS) -> dict[str, str]:
    """A digest of each table of `days`, by name: every events file, every date's journeys, and the points.

    The tables of the optional inputs that are on follow, see `input_content`.

    Raises:
        UserError: a table is missing or unreadable.
    """
    folder = Path(data.local_folder)
    paths = [*(events_path(folder, day) for day in days), op_nodes_path(folder)]
    files = {path.relative_to(folder).as_posix(): table_digest(path)[:_DIGITS] for path in paths}
    journeys = {f"{journeys_path(folder).name} ({day})": _journeys_digest(data, day) for day in days}
    return files | journeys | input_content(data, days, use)


def data_digest(data: DataConfig, days: Sequence[date], use: UseInputsConfig) -> str:
    """One digest of the files of `days`, and of the rows of these dates in the tables of optional inputs.

    Raises:
        UserError: a table is missing or unreadable.
    """
    return content_hash({**data_fingerprint(Path(data.local_folder), days), **input_content(data, days, use)})


def date_content(data: DataConfig, day: date) -> dict[str, str]:
    """Digests of all that a service date holds: its events file, and its rows of the journeys.

    Raises:
        UserError: a table is missing or unreadable.
    """
    events = table_digest(events_path(Path(data.local_folder), day))
    return {"events": events, "journeys": _journeys_digest(data, day)}


def _journeys_digest(data: DataConfig, day: date) -> str:
    folder = Path(data.local_folder)
    return _journeys_digests(folder, data.timezone, table_digest(journeys_path(folder))).get(day, _NO_JOURNEYS)


@lru_cache(maxsize=4)  # a process computes the digests of all dates once per content of the table
def _journeys_digests(folder: Path, timezone: str, _content: str) -> Mapping[date, str]:
    journeys = read_journeys(folder, None, timezone).sort("train_id")
    columns = ["train_id", "train_number", "train_type"]  # all that stages read
    by_day = journeys.partition_by("service_date", as_dict=True, maintain_order=True)
    return MappingProxyType({day: _digest(rows.select(columns)) for (day,), rows in by_day.items() if day is not None})


def content_digest(content: Mapping[str, str], days: Sequence[date]) -> str:
    """One digest of the tables of `days`, among those of `tables_content`."""
    named = tuple(day.isoformat() for day in days)
    return content_hash({name: digest for name, digest in content.items() if _day(name) in ("", *named)})


def _day(table: str) -> str:
    """The service date in the name of a table, which `tables_content` gave it; "" = it is of every date."""
    found = re.search(r"\d{4}-\d{2}-\d{2}", table)
    return found[0] if found else ""


def changed_tables(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of the tables that both have, with other content."""
    return sorted(name for name in before.keys() & now.keys() if before[name] != now[name])


def refuse_replaced(before: Mapping[str, str], data: DataConfig, days: Sequence[date]) -> None:
    """Refuse to keep what was read from tables that another process replaced meanwhile.

    Derived files stand under the content hash of the tables, so they must not be made of other content.

    Args:
        before: `data_fingerprint` of `days` before the tables were read.

    Raises:
        UserError: the error names the replaced tables.
    """
    folder = Path(data.local_folder)
    if changed := changed_tables(before, data_fingerprint(folder, days)):
        raise UserError(
            f"{folder}: {listed(changed)} changed while the data were read; run the stage again when they are complete"
        )


def listed(tables: Sequence[str]) -> str:
    """The first tables, and how many there are."""
    names = ", ".join(tables[:_LISTED])
    return f"{names} and {len(tables) - _LISTED} more" if len(tables) > _LISTED else names


def _digest(rows: pl.DataFrame) -> str:
    return hashlib.sha256(rows.write_csv(include_header=False).encode()).hexdigest()[:_DIGITS]
