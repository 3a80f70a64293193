"""Download published files. An interrupted download is resumed, failed requests are retried, the length is checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import requests
from tenacity import wait_exponential

from transformer.errors import UserError

ATTEMPTS = 8
RETRY_WAIT = wait_exponential(multiplier=1, max=60)  # seconds
TIMEOUT_S = (10, 60)  # longest wait for the connection, and between two bytes
CHUNK_BYTES = 1 << 16  # at most so many bytes are lost when a connection breaks
PROGRESS_EVERY_S = 5.0
RETRIED_CLIENT_ERRORS = (408, 416, 429)


def _fetch(month: str, url: str, part: Path, progress: Callable[[str], None]) -> None:
    """Download `url` to `part`. If the server's file has not changed, continue at the end of `part`."""
    stored = _validator_path(part)
    validator = stored.read_text(encoding="utf-8") if stored.exists() else ""
    offset = part.stat().st_size if validator and part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # so that sizes and offsets are those of the file
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        status = response.status_code
        if 400 <= status < 500 and status not in RETRIED_CLIENT_ERRORS:
            raise UserError(
                f"month {month}: {url} answered {status} {response.reason}; choose a month that the server lists"
            )
        total = _total_bytes(response)
        if status == requests.codes.requested_range_not_satisfiable and total == offset:
            return  # the file is complete: an earlier call stopped before it renamed the file
        resumed = status == requests.codes.partial_content
        # Some servers ignore If-Range. A partial answer may leave Last-Modified out (RFC 9110, section 15.3.7).
        changed = resumed and _validator(response) not in ("", validator)
        if changed or status == requests.codes.requested_range_not_satisfiable:
            stored.unlink(missing_ok=True)
            raise requests.RequestException("the file on the server has changed, so the download starts again")
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
    """Return a function to call with the size of every piece. Every `PROGRESS_EVERY_S` it reports the progress."""
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
    """Return the validator for If-Range: a strong ETag, or else the modification time, or else ""."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _validator_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _total_bytes(response: requests.Response) -> int | None:
    """Return the size of the whole file, or None if the server does not send it."""
    text: str = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers.get(
        "Content-Length", ""
    )
    return int(text) if text.isdigit() else None
