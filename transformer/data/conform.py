"""Columns of a table from outside in the types of its schema. A column whose values would change is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import time
from pathlib import Path

import polars as pl
from polars.exceptions import InvalidOperationError

from transformer.data.tables import TIMESTAMP
from transformer.errors import UserError

REMEDY = "fetch the data again or name another data.local_folder"
SECOND_READING = "_second"  # suffix of a column: the later instant of times that daylight saving repeats


def conform(
    frame: pl.DataFrame,
    schema: Mapping[str, pl.DataType],
    optional: Collection[str],
    path: Path,
    timezone: str,
    second_readings: Collection[str] = (),
) -> pl.DataFrame:
    """Return `frame` with only the columns of `schema`, in its types.

    A timestamp without a zone is in `timezone`. A time that daylight saving repeats means the first of both. A time
    that it skips becomes null. A date may also be midnight of a zone: of the column's own, or of `timezone`.

    Args:
        path: file that the messages name.
        second_readings: timestamps for which a column with the suffix `SECOND_READING` is added. It holds the second
            of both instants where daylight saving repeats the time, and null elsewhere.

    Raises:
        UserError: a column is missing or has the wrong type, a value does not fit, or a date is no midnight.
    """
    missing = [name for name in schema if name not in frame.columns and name not in optional]
    if missing:
        names = ", ".join(map(repr, missing))
        what = f"column {names} is missing" if len(missing) == 1 else f"columns {names} are missing"
        raise UserError(f"{path}: {what}; it has {', '.join(frame.columns)} (docs/data.md lists all columns)")
    columns = []
    for name, wanted in schema.items():
        if name not in frame.columns:
            continue
        column, found = pl.col(name), frame.schema[name]
        if expected := _mismatch(frame[name], wanted):
            raise UserError(f"{path}: column {name!r} has type {found}, not {expected}; {REMEDY}")
        if isinstance(found, pl.Datetime) and wanted == TIMESTAMP:
            if found.time_zone is None:
                first, second = (_in_zone(column, timezone, which) for which in ("earliest", "latest"))
                if name in second_readings:
                    columns.append(pl.when(first != second).then(second).cast(wanted).alias(name + SECOND_READING))
                column = first
            column = column.dt.convert_time_zone("UTC")
        elif isinstance(found, pl.Datetime) and wanted == pl.Date:
            column = pl.lit(midnights(frame[name], timezone, path)).alias(name)
        columns.append(column.cast(wanted))
    try:
        return frame.select(columns)
    except InvalidOperationError as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{path}: a value does not fit its column ({reason}); {REMEDY}") from None


def _in_zone(column: pl.Expr, timezone: str, which: str) -> pl.Expr:
    return column.dt.replace_time_zone(timezone, ambiguous=which, non_existent="null").dt.convert_time_zone("UTC")  # type: ignore[arg-type]


def midnights(column: pl.Series, timezone: str, path: Path) -> pl.Series:
    """The dates of timestamps that are all midnight in one zone: the column's own, or `timezone`.

    A date at midnight in Brussels is stored as the evening before in UTC, with or without that zone.

    Raises:
        UserError: some are not midnight. The message names `path`.
    """
    zone = column.dtype.time_zone if isinstance(column.dtype, pl.Datetime) else None
    aware = column if zone else column.dt.replace_time_zone("UTC")
    for local in (column, aware.dt.convert_time_zone(timezone)):
        if (local.dt.time().drop_nulls() == time()).all():
            return local.dt.date()
    odd = column.filter(column.dt.time() != time())[0]
    raise UserError(
        f"{path}: {column.name!r} holds {odd.isoformat()}, which is no date; write dates, or midnight in "
        f"data.timezone={timezone}"
    )


def _mismatch(column: pl.Series, wanted: pl.DataType) -> str:
    """The expected kind of values if `column` cannot be read as `wanted` without a change of its values; else ""."""
    found = column.dtype
    if wanted == TIMESTAMP:
        expected, fits = "timestamps", isinstance(found, pl.Datetime)
    elif wanted == pl.Date:
        expected, fits = "dates", isinstance(found, pl.Date | pl.Datetime)
    elif wanted == pl.Boolean:
        expected, fits = "true or false", found == pl.Boolean
    elif wanted.is_float():
        expected, fits = "numbers", found.is_numeric()
    elif wanted.is_integer():
        whole = found.is_float() and not (column % 1 != 0).any()
        expected, fits = "whole numbers", found.is_integer() or whole
    else:
        expected, fits = "text", found.is_integer() or isinstance(found, pl.String | pl.Categorical | pl.Enum)
    return "" if fits or found == pl.Null else expected
