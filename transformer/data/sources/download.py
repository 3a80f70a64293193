"""Downloads of published files: resumed where they broke off, retried, checked for length."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import requests
from tenacity import wait_exponential

from transformer.errors import UserError

ATTEMPTS = 8
RETRY_WAIT = wait_exponential(multiplier=1, max=60)  # seconds
TIMEOUT_S = (10, 60)  # to connect, between two bytes
CHUNK_BYTES = 1 << 16  # lost at most when a connection is cut
PROGRESS_EVERY_S = 5.0
RETRIED_CLIENT_ERRORS = (408, 416, 429)


def _fetch(month: str, url: str, part: Path, progress: Callable[[str], None]) -> None:
    """Download `url` to `part`, from where `part` ends if the server's file is the one it began with."""
    stored = _validator_path(part)
    validator = stored.read_text(encoding="utf-8") if stored.exists() else ""
    offset = part.stat().st_size if validator and part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # sizes and offsets count the file's own bytes
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        status = response.status_code
        if 400 <= status < 500 and status not in RETRIED_CLIENT_ERRORS:
            raise UserError(f"month {month}: {url} answered {status} {response.reason}; choose a month listed there")
        total = _total_bytes(response)
        if status == requests.codes.requested_range_not_satisfiable and total == offset:
            return  # an earlier call was stopped between the last byte and the rename
        resumed = status == requests.codes.partial_content
        # Some servers ignore If-Range. A partial answer may leave Last-Modified out (RFC 9110, section 15.3.7).
        changed = resumed and _validator(response) not in ("", validator)
        if changed or status == requests.codes.requested_range_not_satisfiable:
            stored.unlink(missing_ok=True)
            raise requests.RequestException("the file on the server changed; starting over")
        response.raise_for_status()
        if not resumed:
            offset = 0
            part.unlink(missing_ok=True)
            stored.write_text(_validator(response), encoding="utf-8")
        say_progress = _progress_lines(month, offset, total, progress)
        with part.open("ab") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                say_progress(file.write(chunk))
    if total is not None and (size := part.stat().st_size) != total:
        raise requests.ConnectionError(f"got {size} of {total} bytes")


def _progress_lines(
    month: str, offset: int, total: int | None, progress: Callable[[str], None]
) -> Callable[[int], None]:
    """A function that is told of every piece of so many bytes, and says at times how far the download is."""
    begun = said = time.monotonic()
    done = offset

    def add(size: int) -> None:
        nonlocal done, said
        done += size
        now = time.monotonic()
        if now - said >= PROGRESS_EVERY_S or done == total:
            said = now
            rate = (done - offset) / max(now - begun, 1e-3)
            share = f" of {total / 1e6:.1f} MB ({100 * done / total:.0f} %)" if total else " MB"
            progress(f"{month}: {done / 1e6:.1f}{share}, {rate / 1e6:.2f} MB/s")

    return add


def _validator(response: requests.Response) -> str:
    """What If-Range may name: a strong ETag, else the modification time, else nothing."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _validator_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _total_bytes(response: requests.Response) -> int | None:
    """Size of the whole file, None where the server does not say."""
    text: str = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers.get(
        "Content-Length", ""
    )
    return int(text) if text.isdigit() else None
