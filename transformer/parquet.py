"""Parquet files. A file is written whole or not at all. A damaged file is refused in one line."""

from __future__ import annotations

import os
from collections.abc import Collection
from io import BytesIO
from pathlib import Path

import polars as pl
from polars.exceptions import PanicException, PolarsError

from transformer.errors import UserError
from transformer.files import atomic_path, reading
from transformer.text import first_line

UNREADABLE = (PolarsError, PanicException)  # Polars raises these on a damaged file; PanicException is no Exception


class _Content(BytesIO):
    """The bytes of a file, which keep the file's name."""

    name: str


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    # In memory first: on a full disk Polars raises many kinds of errors, and most of them do not name the disk.
    content = BytesIO()
    frame.write_parquet(content, compression="zstd")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def parquet_schema(path: Path, remedy: str) -> pl.Schema:
    """Read the columns of a Parquet file, and no row.

    Args:
        remedy: how to get a sound file. The error message ends with it.

    Raises:
        UserError: the file is missing, truncated or not Parquet, or must not be read.
    """
    try:
        return pl.scan_parquet(path, glob=False).collect_schema()
    except (*UNREADABLE, OSError) as error:
        raise _not_parquet(path, error, remedy) from None


def read_parquet(path: Path, remedy: str, columns: Collection[str] | None = None) -> pl.DataFrame:
    """Read one Parquet file.

    Args:
        remedy: how to get a sound file. The error message ends with it.
        columns: the ones to read; None = all. If the file lacks one of them, all are read, so that an error can list
            them.

    Raises:
        UserError: the file is missing, truncated or not Parquet, must not be read, or changed meanwhile.
    """
    with reading(path):
        if not path.is_file():
            raise UserError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; {remedy}")
        with path.open("rb") as file:
            # Whole first: Polars would map the file, and a file that shrinks under a map ends the process by SIGBUS.
            before = os.fstat(file.fileno())
            content = _Content(file.read())
            after = os.fstat(file.fileno())  # of the same file, even if another file has taken the name
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UserError(f"{path} changed while it was read; run again when it is complete")
    content.name = str(path)
    try:
        whole = columns is None or not set(columns) <= set(pl.read_parquet_schema(content))
        content.seek(0)
        return pl.read_parquet(content, columns=None if whole or columns is None else list(columns), glob=False)
    except UNREADABLE as error:
        raise _not_parquet(path, error, remedy) from None


def _not_parquet(path: Path, error: BaseException, remedy: str) -> UserError:
    return UserError(f"{path}: truncated or not Parquet ({first_line(error)[:160]}); {remedy}")
