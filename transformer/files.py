"""Atomic writes and content fingerprints of local files.

A file appears under its final name only when it is complete: it is written under a temporary name, then renamed.
This module imports no Polars, which the Airflow image does not hold.
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
from pathlib import Path
from typing import Any

from transformer.errors import DiskError, UserError

_NOT_READABLE = frozenset({errno.EACCES, errno.EPERM, errno.EISDIR})
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})
_NUMPY_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # NumPy's error on a full disk, which has no errno


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name `path` in the errors of a disk that is full or must not be written; the system's errors may name none.

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
def reading(path: Path) -> Iterator[None]:
    """Name `path` in the errors of a file that cannot be read; the system's errors may name none.

    Raises:
        UserError: this process may not read the file, or the file went away.
        OSError: another fault, such as that of a disk; a retry may help.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_READABLE:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); let the user of this process read the file and its folder"
            ) from None
        if error.errno in _GONE:
            raise UserError(f"{path} went away while it was read; run again when the data are complete") from None
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` if the block succeeds, else remove it."""
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
    """Write indented JSON with sorted keys. Dates and paths become text.

    Raises:
        ValueError: for NaN and infinity, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that this package wrote.

    Raises:
        UserError: the file is missing, not JSON, or must not be read.
    """
    try:
        with reading(path):
            if not path.exists():
                raise UserError(f"{path} does not exist")
            return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); remove it and run the stage again") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex.

    Raises:
        UserError: see `reading`.
    """
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; rename it to `path` if the block succeeds, else remove it.

    If `path` exists, it stays and the new folder is dropped: both are named after the same content. With `replace`, the
    new folder takes the place of `path`.
    """
    with writing(path):
        temporary = _temporary_beside(path)
        temporary.mkdir()
        outdated = temporary.with_suffix(".old")
        try:
            yield temporary
            if replace:
                with suppress(FileNotFoundError):  # no folder to replace, or another process is replacing it too
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
    """A hidden path in the folder of `path`, thus on the same file system. No other process uses this path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def content_hash(*parts: Any) -> str:
    """16 hex digits that identify `parts` by content: SHA-256 over their canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
