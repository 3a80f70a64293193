"""The tables of optional inputs: `weather.parquet` and others, one per input. No table is read unless its input is on.

To add a table, add an entry to TABLES under the name of its input in `model.use_inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import polars as pl

from transformer.config import DataConfig, UseInputsConfig
from transformer.data.conform import REMEDY, conform
from transformer.data.events import table_digest
from transformer.data.tables import TIMESTAMP, events_path
from transformer.errors import UserError
from transformer.parquet import parquet_schema, read_parquet

_DIGITS = 16  # hex digits of a digest
_DAYS_BEFORE, _DAYS_AFTER = 1, 2  # rows of these dates around a service date may be known to its trains


class InputColumn(NamedTuple):
    """Type and meaning of a column. A number outside of `low` to `high` is read as missing."""

    dtype: pl.DataType
    meaning: str
    required: bool = True
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class InputTable:
    """A table of an optional input.

    A row without a value in a column of `key` is dropped. The first of several rows with the same `key` counts, unless
    `repeats` says that repetitions have a meaning.
    """

    file: str
    columns: Mapping[str, InputColumn]
    key: tuple[str, ...]
    date: str = ""  # column that says to which date a row belongs; "" = every row is of every date
    repeats: bool = False

    @property
    def schema(self) -> dict[str, pl.DataType]:
        return {name: column.dtype for name, column in self.columns.items()}

    @property
    def optional(self) -> set[str]:
        return {name for name, column in self.columns.items() if not column.required}


TABLES: Mapping[str, InputTable] = MappingProxyType(
    {
        "weather": InputTable(
            "weather.parquet",
            {
                "op_id": InputColumn(pl.Int32(), "operational point, as in the events"),
                "ts": InputColumn(TIMESTAMP, "begin of the hour; the row is known when the hour has ended"),
                "temperature_c": InputColumn(pl.Float32(), "air temperature, °C", False, -90, 60),
                "precipitation_mm": InputColumn(pl.Float32(), "rain and melted snow of the hour, mm", False, 0, 400),
                "snowfall_cm": InputColumn(pl.Float32(), "fresh snow of the hour, cm", False, 0, 200),
                "wind_m_s": InputColumn(pl.Float32(), "wind speed, m/s", False, 0, 120),
            },
            key=("op_id", "ts"),
            date="ts",
        ),
        "rotation": InputTable(
            "rotations.parquet",
            {
                "train_id": InputColumn(pl.String(), "as in the events"),
                "service_date": InputColumn(pl.Date(), "as in the events"),
                "previous_train_id": InputColumn(pl.String(), "the journey that its vehicle made before; null = none"),
                "previous_service_date": InputColumn(pl.Date(), "service date of that journey"),
            },
            key=("train_id", "service_date"),
            date="service_date",
        ),
        "links": InputTable(
            "node_links.parquet",
            {
                "u_node_id": InputColumn(pl.Int32(), "`op_id` of one end"),
                "v_node_id": InputColumn(pl.Int32(), "`op_id` of the other end; a link has no direction"),
                "distance_m": InputColumn(pl.Float32(), "length, m", False, 0, 1_000_000),
                "nb_tracks": InputColumn(pl.Float32(), "number of tracks", False, 1, 100),
            },
            key=("u_node_id", "v_node_id"),
            repeats=True,
        ),
    }
)


# Optional inputs that read a column of the events, which is optional without the input.
EVENT_COLUMNS_OF: Mapping[str, str] = MappingProxyType({"cancellations": "cancelled", "platform": "planned_platform"})


@dataclass(frozen=True)
class InputRows:
    """The valid rows of a table of an input, and what became of the others."""

    rows: pl.DataFrame  # every column of the table; an absent one is null
    lines: tuple[str, ...]  # for the log


def switch(name: str) -> str:
    return f"model.use_inputs.{name}"


def used_tables(use: UseInputsConfig) -> dict[str, InputTable]:
    """The tables of the inputs that are on."""
    return {name: table for name, table in TABLES.items() if getattr(use, name)}


def is_available(name: str, data: DataConfig) -> bool:
    """Whether the data folder has the table of an input, or its column in the events of the last date."""
    folder = Path(data.local_folder)
    if name in TABLES:
        return (folder / TABLES[name].file).is_file()
    last = max(folder.glob("events/events_*.parquet"), default=None)
    return last is not None and EVENT_COLUMNS_OF[name] in parquet_schema(last, REMEDY)


def refuse_absent_columns(use: UseInputsConfig, data: DataConfig, days: Sequence[date]) -> None:
    """Refuse events of `days` without a column that an input reads.

    Raises:
        UserError: the error names the first such file.
    """
    wanted = {name: column for name, column in EVENT_COLUMNS_OF.items() if getattr(use, name)}
    for day in days if wanted else ():
        path = events_path(Path(data.local_folder), day)
        found = parquet_schema(path, REMEDY)
        for name, column in wanted.items():
            if column not in found:
                raise UserError(
                    f"{path} has no column {column!r}, and {switch(name)}=true reads it; add it (docs/data.md) or set "
                    f"{switch(name)}=false"
                )


def read_input_table(name: str, data: DataConfig, days: Sequence[date]) -> InputRows:
    """The valid rows of an input's table that the trains of `days` may know.

    Raises:
        UserError: the file or a required column is missing, a column has the wrong type, there is no row, or too many
            rows are unusable.
    """
    table, folder = TABLES[name], Path(data.local_folder)
    path = folder / table.file
    off = f"{switch(name)}=false"
    _refuse_absent(path, name)
    found = read_parquet(path, f"write it again or set {off}")
    known = [column for column in table.columns if column in found.columns]
    values = [column for column in table.columns if column not in table.key]
    if not set(values) & set(known):
        names = ", ".join(map(repr, values))
        raise UserError(f"{path} has none of the columns {names}; add one (docs/data.md) or set {off}")
    rows = conform(found, table.schema, table.optional, path, data.timezone)
    if rows.is_empty():
        raise UserError(f"{path} has no rows; fill it or set {off}")
    total = rows.height
    rows = rows.with_columns(
        pl.lit(None, column.dtype).alias(absent) for absent, column in table.columns.items() if absent not in known
    ).select(list(table.columns))
    lines = []

    def count(reason: str, number: int) -> None:
        if number:
            lines.append(f"{table.file}: {number:,} of {total:,} {reason}")

    rows = rows.drop_nulls(list(table.key))
    dropped = total - rows.height
    count(f"rows without {' or '.join(table.key)} (dropped)", dropped)
    if not table.repeats:
        before = rows.height
        rows = rows.unique(list(table.key), keep="first", maintain_order=True)
        count(f"rows with the {' and '.join(table.key)} of another row (dropped)", before - rows.height)
        dropped = total - rows.height
    if dropped > data.validation.max_dropped_share * total:
        raise UserError(
            f"{path}: {dropped / total:.0%} of its rows are unusable; mend the file or raise "
            f"data.validation.max_dropped_share={data.validation.max_dropped_share}"
        )
    for column, described in table.columns.items():
        if described.low is None or described.high is None:
            continue
        possible = pl.col(column).is_between(described.low, described.high).fill_null(False)
        before = rows[column].count()
        rows = rows.with_columns(pl.when(possible).then(column))
        count(f"values of {column} outside of {described.low:g} to {described.high:g} (read as missing)",
              before - rows[column].count())  # fmt: skip
    if table.date:
        near = {day + timedelta(shift) for day in days for shift in range(-_DAYS_BEFORE, _DAYS_AFTER + 1)}
        rows = rows.filter(_date_of(table).is_in(sorted(near)))
    if rows.is_empty():
        lines.append(f"{table.file}: no row of these dates, so the input is unknown everywhere")
    return InputRows(rows, tuple(lines))


def input_lines(data: DataConfig, days: Sequence[date], use: UseInputsConfig) -> list[str]:
    """The account of reading the tables of the inputs that are on, for the log.

    Raises:
        UserError: see `read_input_table` and `refuse_absent_columns`.
    """
    lines = []
    refuse_absent_columns(use, data, days)
    for name, table in used_tables(use).items():
        found = read_input_table(name, data, days)
        lines += [f"{table.file}: {found.rows.height:,} rows of these dates", *found.lines]
    return lines


def input_content(data: DataConfig, days: Sequence[date], use: UseInputsConfig) -> dict[str, str]:
    """A digest of the rows of each date in each table of the inputs that are on, by name.

    A table without dates has a single digest. Rows of other dates may be added to a table meanwhile.

    Raises:
        UserError: a table is missing or unreadable.
    """
    content = {}
    for name, table in used_tables(use).items():
        path = Path(data.local_folder) / table.file
        _refuse_absent(path, name)
        digest = table_digest(path)
        if not table.date:
            content[table.file] = digest[:_DIGITS]
            continue
        digests = _digests(name, path, data.timezone, digest)
        content |= {f"{table.file} ({day})": digests.get(day, "no rows") for day in days}
    return content


@lru_cache(maxsize=4)  # a process computes the digests of all dates once per content of the table
def _digests(name: str, path: Path, timezone: str, _content: str) -> Mapping[date, str]:
    table = TABLES[name]
    rows = conform(read_parquet(path, "write it again"), table.schema, table.optional, path, timezone)
    by_day = rows.with_columns(_date_of(table).alias("_date")).sort(rows.columns).partition_by("_date", as_dict=True)
    return MappingProxyType(
        {
            day: sha256(of_day.drop("_date").write_csv(include_header=False).encode()).hexdigest()[:_DIGITS]
            for (day,), of_day in by_day.items()
            if day is not None
        }
    )


def _refuse_absent(path: Path, name: str) -> None:
    if not path.exists():
        raise UserError(
            f"{path} does not exist, and {switch(name)}=true reads it; write it (docs/data.md) or set "
            f"{switch(name)}=false"
        )


def _date_of(table: InputTable) -> pl.Expr:
    column = pl.col(table.date)
    return column.dt.date() if table.columns[table.date].dtype == TIMESTAMP else column
