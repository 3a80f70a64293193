"""List, download and verify objects of an S3 bucket, and write them on a condition.

Layout under `s3://<data.bucket_name>/<data.bucket_prefix>/`:

    data/events/events_YYYY-MM-DD.parquet, data/op_nodes.parquet, data/journeys.parquet     see `data.fetch`
    statistics/<hash>/, embeddings/<hash>/      shared folders, see `storage.shared_folder`
    optuna/<file>                               study database; <file>.lock names the process that may write it

Credentials come only from the standard chain (environment, profile, web identity of the pod, instance), never from the
configuration. Stores differ in their conditions, see `storage.probe`; the guide has a table of stores.
"""

from __future__ import annotations

import base64
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as aws
from botocore.config import Config as ClientConfig
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set
from urllib3.exceptions import HTTPError

from transformer.config import Config
from transformer.errors import UserError
from transformer.files import atomic_path
from transformer.pace import Pace
from transformer.storage import etags
from transformer.storage.errors import (
    NO_CREDENTIALS,
    BrokenTransferError,
    Place,
    code_of,
    credentials_remedy,
    status_of,
)
from transformer.storage.probe import StoreFeatures, probe
from transformer.waiting import FIRST_PAUSE_S, patiently, reporting_silence

log = logging.getLogger(__name__)
_BLOCK = 1 << 20  # bytes read at once
MB = 1e6
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class TransferSettings:
    """Timeouts, repetitions and parallelism of S3 requests."""

    threads: int = 8  # files at a time
    wait_s: float = 120.0  # to wait for a server that does not answer
    attempts: int = 5  # per file that is damaged or changes during its download
    first_pause_s: float = FIRST_PAUSE_S  # before a request is repeated
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    log_every_s: float = 5.0


@dataclass(frozen=True)
class StoredObject:
    """One object in the bucket's listing."""

    key: str
    size: int  # bytes
    etag: str


@dataclass(frozen=True)
class StoredText:
    """A small object with its content."""

    text: str
    etag: str
    age_s: float  # time since it was written, by the clock of the service, in whole seconds


@dataclass(frozen=True)
class Arrived:
    """A downloaded file: the version that it is a copy of, and the time of writing (ns since the epoch)."""

    path: Path
    etag: str
    modified_ns: int


class Bucket:
    """The part of an S3 bucket under `prefix`.

    Every method waits for a store that does not answer, see `waiting.patiently`.

    Every method raises UserError for refused or missing credentials, and for a bucket or object that does not exist.
    The error names bucket or key and the remedy. UnansweredError means that the store did not answer all that time.
    """

    def __init__(self, client: Any, name: str, prefix: str, settings: TransferSettings) -> None:
        self._client = client
        self.name = name
        self.prefix = prefix
        self._settings = settings
        url = urlsplit(client.meta.endpoint_url)
        self._place = Place(name, f"{url.scheme}://{url.netloc.rpartition('@')[2]}")
        self._asked = (self._place, prefix)
        self._contents: dict[str, str] = {}  # MD5 of downloads with an ETag that fits no usual size of parts, by key

    @classmethod
    def from_config(cls, config: Config, settings: TransferSettings | None = None) -> Bucket:
        """The bucket of `data.bucket_name`, `data.bucket_prefix` and `data.endpoint_url`; nothing is sent yet.

        Args:
            settings: None = the usual ones, with `compute.service_wait_s`.

        Raises:
            UserError: one of the three values is wrong, or the profile of the credentials cannot be read.
        """
        data = config.data
        settings = settings or TransferSettings(wait_s=config.compute.service_wait_s)
        if not data.bucket_name:
            raise UserError("data.bucket_name is empty; set it, or switch off the transfers from and to S3")
        prefix = data.bucket_prefix.strip("/")
        if prefix and not is_plain(prefix):
            raise UserError(f"data.bucket_prefix={data.bucket_prefix!r} is not a plain path; write it like trains/2024")
        options = ClientConfig(
            connect_timeout=settings.connect_timeout_s,
            read_timeout=settings.read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": 1},  # `patiently` repeats requests, and says so
            max_pool_connections=settings.threads,
            # Content-MD5 guards the uploads instead: some S3-compatible services refuse the newer checksum trailers.
            request_checksum_calculation="when_required",
        )
        _check_endpoint(data.endpoint_url)
        try:
            client = boto3.session.Session().client("s3", endpoint_url=data.endpoint_url, config=options)
        except NO_CREDENTIALS as error:
            raise Place(data.bucket_name, "").no_credentials(error) from None
        except (ValueError, aws.BotoCoreError) as error:
            raise UserError(
                f"s3://{data.bucket_name}: S3 cannot be used ({type(error).__name__}); "
                "check data.endpoint_url and AWS_REGION"
            ) from None
        return cls(client, data.bucket_name, prefix, settings)

    @property
    def wait_s(self) -> float:
        """Time for which each method waits for a store that does not answer."""
        return self._settings.wait_s

    def address(self, name: str = "") -> str:
        """Address of the object `name` in messages; "" = the part of the bucket under `prefix`."""
        return self._address(self._key(name) if name else "")

    def objects(self, start: str) -> dict[str, StoredObject]:
        """The objects whose name begins with `start`, by name."""
        return {key.removeprefix(self._key("")): item for key, item in self._list(self._key(start)).items()}

    def names(self, start: str) -> list[str]:
        """Names of the objects that begin with `start`, sorted."""
        return sorted(self.objects(start))

    def find(self, name: str) -> StoredObject | None:
        """The object `name`; None if it does not exist."""
        key = self._key(name)
        return self._list(key).get(key)

    def download_file(self, item: StoredObject, path: Path) -> str:
        """Download the current version of one object to `path`, and verify it.

        Returns:
            ETag of that version.
        """
        files: list[Arrived] = []
        self.download({path: item}, files.append)
        return files[0].etag

    def put_file(self, path: Path, name: str) -> str:
        """Upload one file as `name`. It replaces an existing object.

        Returns:
            ETag of the object.
        """
        return self._put(self._key(name), path)

    @cached_property
    def features(self) -> StoreFeatures:
        """The answers of the store to conditions under this prefix. The first use in a process finds out, and logs it.

        Raises:
            UserError: the credentials may not write there.
        """
        with _probing:
            if self._asked not in _probed:
                # An answer that was lost would make the repeated request fail its condition: try all of them again.
                _probed[self._asked] = self._patiently(partial(probe, self._client, self._place, self._key("")))
                log.info("S3: %s at %s: %s", self.address(), self._place.endpoint, _probed[self._asked])
            return _probed[self._asked]

    def read_text(self, name: str) -> StoredText | None:
        """The object `name` with its content; None if it does not exist."""
        key = self._key(name)

        def read() -> tuple[dict[str, Any], str] | None:
            try:
                response = self._client.get_object(Bucket=self.name, Key=key)
            except self._client.exceptions.NoSuchKey:
                return None
            return response, response["Body"].read().decode("utf-8", errors="replace")

        if (found := self._answer(key, read)) is None:
            return None
        response, text = found
        now = parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
        return StoredText(text, etags.unquoted(response["ETag"]), (now - response["LastModified"]).total_seconds())

    def write_text(self, name: str, text: str, replaces: str, within_s: float | None = None) -> bool:
        """Write a small object only if its current ETag is `replaces` ("" = only if it does not exist).

        Args:
            within_s: the longest time to wait for the store; None = the usual one.

        Returns:
            False if the bucket holds another version. A store without this condition writes in any case, see
            `features`: a caller that must be the only writer reads the object back. A repeated request, after a lost
            answer, finds its own version and returns False.
        """
        works = self.features.if_match if replaces else self.features.creates
        condition = self.features.must_replace(replaces) if works else {}
        put = partial(self._client.put_object, Body=text.encode())
        return self._write_if(put, condition, self._key(name), within_s) is not None

    def copy(self, source: str, target: str, replaces: str) -> str | None:
        """Copy an object inside the bucket. Readers of `target` see one step. `replaces` is as in `write_text`.

        Returns:
            ETag of the copy; None if the bucket holds another version of `target`, or no `source`.
        """
        condition = self._condition(self.features.copies, target, replaces)
        if condition is None:
            return None
        origin = {"Bucket": self.name, "Key": self._key(source)}
        copy = partial(self._client.copy_object, CopySource=origin)
        answer = self._write_if(copy, condition, self._key(target))
        return None if answer is None else etags.unquoted(answer["CopyObjectResult"]["ETag"])

    def delete(self, name: str, etag: str = "") -> None:
        """Delete an object if it exists; with `etag`, only that version of the object."""
        condition = self._condition(self.features.deletes, name, etag) if etag else {}
        if condition is not None:
            self._write_if(self._client.delete_object, condition, self._key(name))

    def _condition(self, works: bool, name: str, etag: str) -> dict[str, str] | None:
        """The condition that `name` has this ETag. A store without it is asked before: None = it has another."""
        if works:
            return self.features.must_replace(etag)
        found = self.find(name)
        return {} if (found.etag if found else "") == etag else None

    def _write_if(
        self, request: Callable[..., dict[str, Any]], condition: dict[str, str], key: str, within_s: float | None = None
    ) -> dict[str, Any] | None:
        """The answer to a request that changes an object on a condition; None if the condition is not met."""

        def write() -> dict[str, Any] | None:
            try:
                return request(Bucket=self.name, Key=key, **condition)
            except aws.ClientError as error:
                # 409: another request is changing the object. NoSuchKey: the object was deleted.
                unmet = condition and status_of(error) in {409, 412, *self.features.refusals}
                if unmet or code_of(error) == "NoSuchKey":
                    return None
                raise

        return self._answer(key, write, within_s)

    def download(
        self, wanted: Mapping[Path, StoredObject], arrived: Callable[[Arrived], None] = lambda _: None
    ) -> None:
        """Download in parallel, and log progress every few seconds. The first failure stops the rest."""
        progress = _Progress(len(wanted), sum(item.size for item in wanted.values()), self._settings.log_every_s)
        stop = threading.Event()
        pool = ThreadPoolExecutor(self._settings.threads, thread_name_prefix="s3")
        try:
            pending = {pool.submit(self._fetch, item, path, progress, stop) for path, item in wanted.items()}
            while pending:
                done, pending = wait(pending, timeout=self._settings.log_every_s, return_when=FIRST_COMPLETED)
                for future in done:
                    arrived(future.result())
                    progress.files += 1
                progress.report()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        if progress.unverified:
            log.info(
                "S3: %d of %d files have the size of their objects, but their content could not be compared: the ETags "
                "are not formed from MD5, or from parts of an unusual size",
                progress.unverified,
                len(wanted),
            )

    def _fetch(self, item: StoredObject, path: Path, progress: _Progress, stop: threading.Event) -> Arrived:
        """Download one object to `path`. If it is damaged or changes, download its current version again."""
        for attempt in Retrying(
            retry=retry_if_exception_type(BrokenTransferError),
            stop=stop_after_attempt(self._settings.attempts) | stop_when_event_set(stop),
            wait=wait_random_exponential(multiplier=self._settings.first_pause_s, max=20),
            sleep=sleep_using_event(stop),
            reraise=True,
        ):
            with attempt, atomic_path(path) as temporary:
                again = attempt.retry_state.attempt_number > 1
                if again:
                    item = self._current(item.key)
                self._patiently(partial(self._stream, item, temporary, progress, stop), stop)
                self._verify(item, temporary, progress, again)
                arrival = Arrived(path, item.etag, temporary.stat().st_mtime_ns)
        return arrival

    def _stream(self, item: StoredObject, path: Path, progress: _Progress, stop: threading.Event) -> None:
        """Write the content of exactly this version of an object to `path`.

        If the object has an additional checksum of S3, botocore checks it while reading.
        """
        with self._place.errors_of(item.key):
            # If-Match is enough for S3; the comparison below is for stores that ignore it.
            response = self._client.get_object(Bucket=self.name, Key=item.key, IfMatch=f'"{item.etag}"')
        if etags.unquoted(response["ETag"]) != item.etag:
            raise BrokenTransferError(
                f"{self._place.address(item.key)} changed while it was being downloaded; run the stage again"
            )
        read = 0
        try:
            with path.open("wb") as file:
                for block in response["Body"].iter_chunks(_BLOCK):
                    if stop.is_set():
                        raise CancelledError
                    file.write(block)
                    read += len(block)
                    progress.add(len(block))
        except BaseException as error:
            progress.add(-read)
            if isinstance(error, (aws.BotoCoreError, HTTPError)):
                reason = f"the download of {item.key} broke off, {type(error).__name__}"
                raise self._place.unanswered(reason) from None
            raise
        finally:
            response["Body"].close()
        progress.encrypted[item.key] = bool(response.get("SSECustomerAlgorithm")) or (
            response.get("ServerSideEncryption", "AES256") != "AES256"  # then the ETag is no MD5
        )

    def _verify(self, item: StoredObject, path: Path, progress: _Progress, again: bool) -> None:
        """Compare a downloaded file with the object's size and ETag.

        Args:
            again: the object has been downloaded before, and differed from its ETag or changed.

        Raises:
            BrokenTransferError: they differ.
        """
        whole = path.stat().st_size == item.size
        same = None if progress.encrypted[item.key] else whole and self._has_etag(path, item)
        if not whole or (same is False and not self._has_opaque_etags(again)):
            raise BrokenTransferError(
                f"{self._place.address(item.key)} differs from its size and ETag; upload it again"
            )
        if not same:
            progress.unverified += 1

    def _has_etag(self, path: Path, item: StoredObject) -> bool | None:
        """Whether the object's ETag was formed from the content of this file; None = unknown."""
        parts = etags.parts_of(item.etag)
        if parts is None:
            return None
        if parts == 0:
            return etags.md5(path).hexdigest() == item.etag
        if size := self._part_size(item, parts):
            return etags.multipart_etag(path, size) == item.etag
        usual = etags.possible_part_sizes(item.size, parts)
        return any(etags.multipart_etag(path, size) == item.etag for size in usual) or self._came_before(path, item)

    def _came_before(self, path: Path, item: StoredObject) -> bool | None:
        """None if an earlier download of this object had the same content, so that the ETag is what cannot be known."""
        digest = etags.md5(path).hexdigest()
        before, self._contents[item.key] = self._contents.get(item.key), digest
        return None if before == digest else False

    def _has_opaque_etags(self, find_out: bool) -> bool:
        """Whether the ETags of this store are known not to be formed from MD5. Only a write can find out."""
        try:
            return (find_out or self._asked in _probed) and not self.features.md5_etags
        except UserError:
            return False

    def _part_size(self, item: StoredObject, parts: int) -> int | None:
        """Bytes per part of a multipart upload; None where the store does not say, or they differ."""

        def head() -> dict[str, Any]:
            try:
                return dict(self._client.head_object(Bucket=self.name, Key=item.key, PartNumber=1))
            except aws.ClientError as error:
                if status_of(error) in (400, 405, 501):  # the store has no numbers of parts
                    return {}
                raise

        first = self._answer(item.key, head)
        size = int(first.get("ContentLength", 0))
        return size if size and first.get("PartsCount") == parts == -(-item.size // size) else None

    def _current(self, key: str) -> StoredObject:
        found = self._answer(key, partial(self._client.head_object, Bucket=self.name, Key=key))
        return StoredObject(key, found["ContentLength"], etags.unquoted(found["ETag"]))

    def _list(self, start: str) -> dict[str, StoredObject]:
        """Every object whose key begins with `start`, by key."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start)

        def listed() -> dict[str, StoredObject]:
            return {
                entry["Key"]: StoredObject(entry["Key"], entry["Size"], etags.unquoted(entry["ETag"]))
                for page in pages
                for entry in page.get("Contents", ())
            }

        return self._answer("", listed)

    def _put(self, key: str, path: Path) -> str:
        digest = base64.b64encode(etags.md5(path).digest()).decode()

        def put() -> dict[str, Any]:
            with path.open("rb") as file:
                return dict(self._client.put_object(Bucket=self.name, Key=key, Body=file, ContentMD5=digest))

        return etags.unquoted(self._answer(key, put)["ETag"])

    def _answer(self, key: str, request: Callable[[], Answer], within_s: float | None = None) -> Answer:
        """The answer to a request about the object `key`, "" = about the bucket."""

        def once() -> Answer:
            with self._place.errors_of(key), reporting_silence(self._place.endpoint):
                return request()

        return self._patiently(once, within_s=within_s)

    def _patiently(
        self, request: Callable[[], Answer], stop: threading.Event | None = None, within_s: float | None = None
    ) -> Answer:
        wait_s = self._settings.wait_s if within_s is None else min(within_s, self._settings.wait_s)
        return patiently(request, wait_s, first_pause_s=self._settings.first_pause_s, stop=stop)

    def _key(self, *parts: str) -> str:
        return "/".join([*([self.prefix] if self.prefix else []), *parts])

    def _address(self, key: str) -> str:
        return self._place.address(key or self.prefix)


_probed: dict[tuple[Place, str], StoreFeatures] = {}  # of this process, by place and prefix
_probing = threading.Lock()


class _Progress:
    """Counts the bytes and files that all threads have downloaded, and logs them every few seconds."""

    def __init__(self, total_files: int, total_bytes: int, log_every_s: float) -> None:
        self.files = 0
        self.unverified = 0
        self.encrypted: dict[str, bool] = {}  # by key, as the answer to the download says
        self._total_files = total_files
        self._total_bytes = total_bytes
        self._pace = Pace(log_every_s)
        self._bytes = 0
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count

    def report(self) -> None:
        if not self._pace.due():
            return
        log.info(
            "S3: %d of %d files, %.1f of %.1f MB, %.1f MB/s",
            self.files,
            self._total_files,
            self._bytes / MB,
            self._total_bytes / MB,
            self._bytes / MB / (time.monotonic() - self._began),
        )


def _check_endpoint(url: str | None) -> None:
    if url is None:
        return
    if "@" in url:
        raise UserError(f"data.endpoint_url holds a user name or password; {credentials_remedy()}")
    if not re.fullmatch(r"https?://[\w.:\[\]-]+(/.*)?", url):
        raise UserError(f"data.endpoint_url={url!r} is not an address; write it like https://s3.example.org")


def is_plain(name: str) -> bool:
    """Whether a path made of a folder and `name` stays inside that folder, in a bucket and on every file system."""
    parts = name.split("/")
    return not set(parts) & {"", ".", ".."} and not re.search(r"[\\:\x00-\x1f]", name)
