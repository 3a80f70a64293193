"""Download published files. An interrupted download is resumed, failed requests are retried, the length is checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from transformer.errors import ServiceError, UserError
from transformer.pace import Pace
from transformer.text import one_line

ATTEMPTS = 8
RETRY_WAIT = wait_exponential(multiplier=1, max=60)  # seconds
TIMEOUT_S = (10, 60)  # longest wait for the connection, and between two bytes
CHUNK_BYTES = 1 << 16  # at most so many bytes are lost when a connection breaks
RETRIED_CLIENT_ERRORS = (408, 416, 429)


Progress = Callable[[str], None]


@dataclass(frozen=True)
class PublishedFile:
    """A file that a source publishes."""

    name: str  # relative to the folder of raw files
    url: str
    first: date  # first and last service date
    last: date
    headers: Mapping[str, str] = field(default_factory=dict)  # that the server asks for


def download(file: PublishedFile, path: Path, progress: Progress) -> None:
    """Download a published file to `path`, unless it is already there.

    An interrupted download continues from its `.part` file, also in a later call, if the server's file is still the
    same by its ETag or Last-Modified (RFC 9110, If-Range).

    Raises:
        UserError: the server does not have the file.
        ServiceError: the file is not complete after `ATTEMPTS` attempts.
    """
    if path.exists():
        progress(f"{file.name}: {path} is already there; remove it to download it again")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")

    def say_retry(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        progress(f"{file.name}: {_one_line(error)}; attempt {state.attempt_number + 1} of {ATTEMPTS}")

    attempts = Retrying(
        retry=retry_if_exception_type(requests.RequestException),
        stop=stop_after_attempt(ATTEMPTS),
        wait=RETRY_WAIT,
        before_sleep=say_retry,
        reraise=True,
    )
    try:
        attempts(_fetch, file, part, progress)
    except requests.RequestException as error:
        raise ServiceError(
            f"{file.name}: the download of {file.url} failed ({_one_line(error)}); run the command again to continue "
            "it, or name a folder that has the file with --from"
        ) from None
    part.replace(path)
    _validator_path(part).unlink(missing_ok=True)


def _fetch(file: PublishedFile, part: Path, progress: Progress) -> None:
    """Download a file to `part`. If the server's file has not changed, continue at the end of `part`."""
    stored = _validator_path(part)
    validator = stored.read_text(encoding="utf-8") if stored.exists() else ""
    offset = part.stat().st_size if validator and part.exists() else 0
    headers = {"Accept-Encoding": "identity", **file.headers}  # so that sizes and offsets are those of the file
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    with requests.get(file.url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        status = response.status_code
        if 400 <= status < 500 and status not in RETRIED_CLIENT_ERRORS:
            raise UserError(
                f"{file.first} to {file.last}: {file.url} answered {status} {response.reason}; choose dates that the "
                "server has"
            )
        # A body that is packed for the way arrives unpacked, so its length and its offsets are others.
        packed = response.headers.get("Content-Encoding", "identity") != "identity"
        total = None if packed else _total_bytes(response)
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
            stored.write_text("" if packed else _validator(response), encoding="utf-8")
        say_progress = _progress_lines(file.name, offset, total, progress)
        with part.open("ab") as written:
            for chunk in response.iter_content(CHUNK_BYTES):
                say_progress(written.write(chunk))
    if total is not None and (size := part.stat().st_size) != total:
        raise requests.ConnectionError(f"got {size} of {total} bytes")


def _progress_lines(name: str, offset: int, total: int | None, progress: Progress) -> Callable[[int], None]:
    """Return a function to call with the size of every piece. It reports the progress every few seconds."""
    begun, pace = time.monotonic(), Pace()
    done = offset

    def add(size: int) -> None:
        nonlocal done
        done += size
        if pace.due() or done == total:
            rate = (done - offset) / max(time.monotonic() - begun, 1e-3)
            share = f" of {total / 1e6:.1f} MB ({100 * done / total:.0f} %)" if total else " MB"
            progress(f"{name}: {done / 1e6:.1f}{share}, {rate / 1e6:.2f} MB/s")

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


def _one_line(error: BaseException | None) -> str:
    return one_line(str(error))
