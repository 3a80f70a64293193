"""CSV files as sources publish them: all columns as text, a last line that may be cut off."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import polars as pl


def scan_text(path: Path) -> pl.LazyFrame:
    """Read a CSV file, also a gzipped one, as text. Missing fields are null, bytes that are no UTF-8 are replaced."""
    return pl.scan_csv(
        path,
        infer_schema=False,
        empty_string_is_null=False,
        truncate_ragged_lines=True,
        encoding="utf8-lossy",
        glob=False,
    )


def without_cut_line(lines: pl.LazyFrame, path: Path, fields: int, counts: Counter[str]) -> pl.LazyFrame:
    """Leave out the last line of a file if it is cut off, and count it.

    Args:
        lines: the rows of the file `path`, which is not packed.
        fields: number of columns.
    """
    if not _last_line_is_cut(path, fields):
        return lines
    counts["rows"] += 1
    counts["dropped_truncated_line"] += 1
    return lines.head(lines.select(pl.len()).collect().item() - 1)


def _last_line_is_cut(path: Path, fields: int) -> bool:
    """Return whether the last line is truncated: it has no line end, and fewer fields than the header."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        tail = file.read()
    last_line = tail.rpartition(b"\n")[2].decode(errors="replace")
    return bool(last_line) and len(next(csv.reader([last_line]), [])) < fields
