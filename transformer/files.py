"""Atomic writes and content fingerprints of local files.

A file appears under its final name only when it is complete: it is written beside it and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from transformer.errors import DiskError, UserError

_NUMPY_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # a full disk, without its number

UNREADABLE = (PolarsError, PanicException)  # of Polars at a damaged file; the latter is no Exception


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let a disk that is full or may not be written name `path`, where the system's own error names none.

    Raises:
        DiskError: in place of such an error.
    """
    try:
        yield
    except OSError as error:
        if _NUMPY_SHORT_WRITE.fullmatch(str(error)):
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if error.errno not in DiskError.FULL | DiskError.REFUSED:
            raise
        raise DiskError(error.errno, error.strerror, str(path)) from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, else remove it."""
    with writing(path):
        temporary = _temporary_beside(path)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys; dates and paths become text.

    Raises:
        ValueError: for NaN and infinity, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, default=str) + "\n")


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    content = BytesIO()  # Polars' own errors of a full disk are many, and most do not say so
    frame.write_parquet(content, compression="zstd")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_json(path: Path) -> Any:
    """Read a JSON file this package wrote.

    Raises:
        UserError: when it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); remove it and run the stage again") from None


def read_parquet(path: Path, remedy: str) -> pl.DataFrame:
    """Read one Parquet file; `remedy` says how to get a sound one.

    Raises:
        UserError: when it is missing, truncated or not Parquet.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; {remedy}")
    try:
        return pl.read_parquet(path, glob=False)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{path}: truncated or not Parquet ({reason}); {remedy}") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block ends well, else remove it.

    A `path` that is there already stays and the new folder is dropped, since both are named by the same content;
    with `replace` the new one takes its place.
    """
    with writing(path):
        temporary = _temporary_beside(path)
        temporary.mkdir()
        outdated = temporary.with_suffix(".old")
        try:
            yield temporary
            if replace:
                with suppress(FileNotFoundError):  # none there, or another process is replacing it too
                    path.rename(outdated)
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    if outdated.is_dir():
                        outdated.rename(path)
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(outdated, ignore_errors=True)


def _temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of `path`, on the same file system, that no other process uses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def content_hash(*parts: Any) -> str:
    """16 hex digits that identify JSON-able `parts` by content (SHA-256 over canonical JSON)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
