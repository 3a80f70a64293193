"""List, download and verify objects of an S3 bucket, and write them on a condition.

Layout under `s3://<data.bucket_name>/<data.bucket_prefix>/`:

    data/events/events_YYYY-MM-DD.parquet, data/op_nodes.parquet, data/journeys.parquet     see `data.fetch`
    statistics/<hash>/, embeddings/<hash>/      shared folders, see `storage.shared_folder`
    optuna/<file>                               study database; <file>.lock names the process that may write it

Credentials come only from the standard chain (environment, profile, web identity of the pod, instance), never from the
configuration. Any S3-compatible endpoint works.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import mmap
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as aws
from botocore.config import Config as ClientConfig
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set
from urllib3.exceptions import HTTPError

from transformer.config import DataConfig
from transformer.errors import ServiceError, UserError
from transformer.files import atomic_path

log = logging.getLogger(__name__)
_BLOCK = 1 << 20  # bytes read at once
MB = 1e6
_ETAG = re.compile(r"[0-9a-f]{32}(-(?P<parts>\d+))?")
_REFUSED_CODES = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidIdentityToken"}  # answered with 400
_ELSEWHERE_CODES = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IncorrectEndpoint"}
_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.UnknownCredentialError,
    aws.NoAuthTokenError,
    aws.TokenRetrievalError,
    aws.SSOError,
    aws.ProfileNotFound,
    aws.ConfigParseError,
    aws.ConfigNotFound,
)
_CREDENTIALS_REMEDY = (
    "check the credentials of the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE) or of the pod's service account, "
    "and that they may list, read and, to save results, write this bucket"
)


@dataclass(frozen=True)
class TransferSettings:
    """Timeouts, retries and parallelism of S3 requests."""

    threads: int = 8  # files at a time
    attempts: int = 5  # per request, and per file whose download breaks off
    backoff_s: float = 1.0  # longest pause before a file is tried again, doubled each time up to 20 s
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


class _BrokenTransferError(ServiceError):
    """The download of one object broke off, or the object was damaged or changed during the download."""


class Bucket:
    """The part of an S3 bucket under `prefix`.

    Every method raises UserError for refused or missing credentials, and for a bucket or object that does not exist.
    The error names bucket or key and the remedy. ServiceError means that the service did not answer in all attempts.
    """

    def __init__(self, client: Any, name: str, prefix: str, settings: TransferSettings) -> None:
        self._client = client
        self.name = name
        self.prefix = prefix
        self._settings = settings

    @classmethod
    def from_config(cls, data: DataConfig, settings: TransferSettings | None = None) -> Bucket:
        """The bucket of `data.bucket_name`, `data.bucket_prefix` and `data.endpoint_url`; nothing is sent yet.

        Raises:
            UserError: one of the three values is wrong, or the profile of the credentials cannot be read.
        """
        settings = settings or TransferSettings()
        if not data.bucket_name:
            raise UserError("data.bucket_name is empty; set it, or switch off the transfers from and to S3")
        prefix = data.bucket_prefix.strip("/")
        if prefix and not is_plain(prefix):
            raise UserError(f"data.bucket_prefix={data.bucket_prefix!r} is not a plain path; write it like trains/2024")
        options = ClientConfig(
            connect_timeout=settings.connect_timeout_s,
            read_timeout=settings.read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": settings.attempts},
            max_pool_connections=settings.threads,
            # Content-MD5 guards the uploads instead: some S3-compatible services refuse the newer checksum trailers.
            request_checksum_calculation="when_required",
        )
        _check_endpoint(data.endpoint_url)
        try:
            client = boto3.session.Session().client("s3", endpoint_url=data.endpoint_url, config=options)
        except _NO_CREDENTIALS as error:
            raise UserError(f"s3://{data.bucket_name}: {type(error).__name__}; {_CREDENTIALS_REMEDY}") from None
        except (ValueError, aws.BotoCoreError) as error:
            raise UserError(
                f"s3://{data.bucket_name}: S3 cannot be used ({type(error).__name__}); "
                "check data.endpoint_url and AWS_REGION"
            ) from None
        return cls(client, data.bucket_name, prefix, settings)

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
        etags: list[str] = []
        self.download({path: item}, lambda arrived: etags.append(arrived.etag))
        return etags[0]

    def put_file(self, path: Path, name: str) -> str:
        """Upload one file as `name`. It replaces an existing object.

        Returns:
            ETag of the object.
        """
        return self._put(self._key(name), path)

    def read_text(self, name: str) -> StoredText | None:
        """The object `name` with its content; None if it does not exist."""
        key = self._key(name)
        with self._one_line(key):
            try:
                response = self._client.get_object(Bucket=self.name, Key=key)
            except self._client.exceptions.NoSuchKey:
                return None
            text = response["Body"].read().decode("utf-8", errors="replace")
        now = parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
        return StoredText(text, _unquoted(response["ETag"]), (now - response["LastModified"]).total_seconds())

    def write_text(self, name: str, text: str, replaces: str) -> bool:
        """Write a small object only if its current ETag is `replaces` ("" = only if it does not exist).

        Returns:
            False if the bucket holds another version. A service without conditions writes in any case: a caller that
            must be the only writer reads the object back.
        """
        condition = {"IfMatch": f'"{replaces}"'} if replaces else {"IfNoneMatch": "*"}
        body = text.encode()
        return self._write_if(self._client.put_object, condition, Key=self._key(name), Body=body) is not None

    def copy(self, source: str, target: str, replaces: str) -> str | None:
        """Copy an object inside the bucket. Readers of `target` see one step. `replaces` is as in `write_text`.

        Returns:
            ETag of the copy; None if the bucket holds another version of `target`, or no `source`.
        """
        condition = {"IfMatch": f'"{replaces}"'} if replaces else {"IfNoneMatch": "*"}
        origin = {"Bucket": self.name, "Key": self._key(source)}
        answer = self._write_if(self._client.copy_object, condition, Key=self._key(target), CopySource=origin)
        return None if answer is None else _unquoted(answer["CopyObjectResult"]["ETag"])

    def delete(self, name: str, etag: str = "") -> None:
        """Delete an object if it exists; with `etag`, only that version of the object."""
        condition = {"IfMatch": f'"{etag}"'} if etag else {}
        self._write_if(self._client.delete_object, condition, Key=self._key(name))

    def _write_if(
        self, request: Callable[..., dict[str, Any]], condition: dict[str, str], **arguments: Any
    ) -> dict[str, Any] | None:
        """The answer to a request that changes an object on a condition; None if the condition is not met."""
        with self._one_line(arguments["Key"]):
            try:
                try:
                    return request(Bucket=self.name, **arguments, **condition)
                except aws.ClientError as error:
                    if _status(error) != 501:  # some S3-compatible services have not implemented the condition
                        raise
                    return request(Bucket=self.name, **arguments)
            except aws.ClientError as error:
                # 409: another request is changing the object. NoSuchKey: the object was deleted.
                if _status(error) in (409, 412) or error.response.get("Error", {}).get("Code") == "NoSuchKey":
                    return None
                raise

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

    def _fetch(self, item: StoredObject, path: Path, progress: _Progress, stop: threading.Event) -> Arrived:
        """Download one object to `path`. If it breaks off or changes, download its current version again."""
        for attempt in Retrying(
            retry=retry_if_exception_type(_BrokenTransferError),
            stop=stop_after_attempt(self._settings.attempts) | stop_when_event_set(stop),
            wait=wait_random_exponential(multiplier=self._settings.backoff_s, max=20),
            sleep=sleep_using_event(stop),
            reraise=True,
        ):
            with attempt, atomic_path(path) as temporary:
                if attempt.retry_state.attempt_number > 1:
                    item = self._current(item.key)
                self._stream(item, temporary, progress, stop)
                arrival = Arrived(path, item.etag, temporary.stat().st_mtime_ns)
        return arrival

    def _stream(self, item: StoredObject, path: Path, progress: _Progress, stop: threading.Event) -> None:
        """Write the content of exactly this version of an object to `path`, and verify it.

        If the object has an additional checksum of S3, botocore checks it while reading. Size and ETag are checked
        here.
        """
        where = self._address(item.key)
        with self._one_line(item.key):
            # If-Match is enough for S3; the comparison below is for services that ignore it.
            response = self._client.get_object(Bucket=self.name, Key=item.key, IfMatch=f'"{item.etag}"')
        if _unquoted(response["ETag"]) != item.etag:
            raise _BrokenTransferError(f"{where} changed while it was being downloaded; run the stage again")
        try:
            with path.open("wb") as file:
                for block in response["Body"].iter_chunks(_BLOCK):
                    if stop.is_set():
                        raise CancelledError
                    file.write(block)
                    progress.add(len(block))
        except (aws.BotoCoreError, HTTPError) as error:
            raise _BrokenTransferError(
                f"{where} broke off {self._settings.attempts} times ({type(error).__name__}); run the stage again"
            ) from None
        finally:
            response["Body"].close()
        encrypted = response.get("SSECustomerAlgorithm") or response.get("ServerSideEncryption", "AES256") != "AES256"
        if path.stat().st_size != item.size or not (encrypted or self._matches_etag(path, item)):
            raise _BrokenTransferError(f"{where} differs from its size and ETag; upload it again")

    def _matches_etag(self, path: Path, item: StoredObject) -> bool:
        """Whether the file is the one the ETag was made of; true where the ETag cannot tell."""
        form = _ETAG.fullmatch(item.etag)
        if form is None:
            return True
        if form["parts"] is None:
            return md5(path).hexdigest() == item.etag
        part_size = self._part_size(item, int(form["parts"]))
        return part_size is None or _multipart_etag(path, part_size) == item.etag

    def _part_size(self, item: StoredObject, parts: int) -> int | None:
        """Bytes per part of a multipart upload; None where the service does not say, or they differ."""
        with self._one_line(item.key):
            try:
                first = self._client.head_object(Bucket=self.name, Key=item.key, PartNumber=1)
            except aws.ClientError:
                return None
        size = int(first["ContentLength"])
        return size if size and first.get("PartsCount") == parts == -(-item.size // size) else None

    def _current(self, key: str) -> StoredObject:
        with self._one_line(key):
            found = self._client.head_object(Bucket=self.name, Key=key)
        return StoredObject(key, found["ContentLength"], _unquoted(found["ETag"]))

    def _list(self, start: str) -> dict[str, StoredObject]:
        """Every object whose key begins with `start`, by key."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start)
        with self._one_line():
            return {
                entry["Key"]: StoredObject(entry["Key"], entry["Size"], _unquoted(entry["ETag"]))
                for page in pages
                for entry in page.get("Contents", ())
            }

    def _put(self, key: str, path: Path) -> str:
        digest = base64.b64encode(md5(path).digest()).decode()
        with self._one_line(key), path.open("rb") as file:
            response = self._client.put_object(Bucket=self.name, Key=key, Body=file, ContentMD5=digest)
        return _unquoted(response["ETag"])

    def _key(self, *parts: str) -> str:
        return "/".join([*([self.prefix] if self.prefix else []), *parts])

    def _address(self, key: str) -> str:
        return f"s3://{self.name}/{key or self.prefix}"

    @contextmanager
    def _one_line(self, key: str = "") -> Iterator[None]:
        """Turn an error of botocore into one line, without botocore's text, which may quote the request."""
        try:
            yield
        except aws.ClientError as error:
            raise self._explained(error, key) from None
        except _NO_CREDENTIALS as error:
            raise UserError(f"s3://{self.name}: {type(error).__name__}; {_CREDENTIALS_REMEDY}") from None
        except aws.ParamValidationError:
            raise UserError(f"data.bucket_name={self.name!r} is not a valid name of a bucket; correct it") from None
        except (aws.BotoCoreError, HTTPError) as error:
            raise ServiceError(
                f"s3://{self.name}: {self._endpoint()} did not answer in {self._settings.attempts} attempts "
                f"({type(error).__name__}); check data.endpoint_url and the network, then run the stage again"
            ) from None

    def _explained(self, error: aws.ClientError, key: str) -> UserError | ServiceError:
        code = " ".join(str(error.response.get("Error", {}).get("Code", "")).split())[:80]
        status = _status(error)
        if code == "NoSuchBucket" or (status == 404 and not key):
            return UserError(f"data.bucket_name={self.name!r} does not exist at {self._endpoint()}; correct it")
        if status in (401, 403) or code in _REFUSED_CODES:
            return UserError(f"s3://{self.name}: access refused ({code}); {_CREDENTIALS_REMEDY}")
        if status == 404:
            return UserError(f"{self._address(key)} no longer exists; upload it again or leave it out")
        if code in _ELSEWHERE_CODES:
            return UserError(
                f"s3://{self.name} is not in the region of {self._endpoint()}; set AWS_REGION to the bucket's region"
            )
        if status == 412:
            return _BrokenTransferError(
                f"{self._address(key)} changed while it was being downloaded; run the stage again"
            )
        return ServiceError(f"{self._address(key)}: S3 answered {status} {code}; run the stage again")

    def _endpoint(self) -> str:
        url = urlsplit(self._client.meta.endpoint_url)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


class _Progress:
    """Counts the bytes and files that all threads have downloaded, and logs them every few seconds."""

    def __init__(self, total_files: int, total_bytes: int, log_every_s: float) -> None:
        self.files = 0
        self._total_files = total_files
        self._total_bytes = total_bytes
        self._log_every_s = log_every_s
        self._bytes = 0
        self._lock = threading.Lock()
        self._began = self._told = time.monotonic()

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count

    def report(self) -> None:
        now = time.monotonic()
        if now - self._told < self._log_every_s:
            return
        self._told = now
        log.info(
            "S3: %d of %d files, %.1f of %.1f MB, %.1f MB/s",
            self.files,
            self._total_files,
            self._bytes / MB,
            self._total_bytes / MB,
            self._bytes / MB / (now - self._began),
        )


def _check_endpoint(url: str | None) -> None:
    if url is None:
        return
    if "@" in url:
        raise UserError(f"data.endpoint_url holds a user name or password; {_CREDENTIALS_REMEDY}")
    if not re.fullmatch(r"https?://[\w.:\[\]-]+(/.*)?", url):
        raise UserError(f"data.endpoint_url={url!r} is not an address; write it like https://s3.example.org")


def is_plain(name: str) -> bool:
    """Whether a path made of a folder and `name` stays inside that folder, in a bucket and on every file system."""
    parts = name.split("/")
    return not set(parts) & {"", ".", ".."} and not re.search(r"[\\:\x00-\x1f]", name)


def _status(error: aws.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _unquoted(etag: str) -> str:
    return etag.strip('"')


_new_md5 = partial(hashlib.md5, usedforsecurity=False)  # S3's checksum; it does not protect against forgery


def md5(path: Path) -> hashlib._Hash:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _new_md5)


def _multipart_etag(path: Path, part_size: int) -> str:
    """The ETag of a multipart upload: the MD5 over the MD5s of its parts, and their number."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        digests = [_new_md5(view[start : start + part_size]).digest() for start in range(0, len(view), part_size)]
    return f"{_new_md5(b''.join(digests)).hexdigest()}-{len(digests)}"
