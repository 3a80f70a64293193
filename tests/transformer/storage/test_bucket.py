"""Syncing and sharing through S3, against a real S3 server over HTTP with a meddling proxy in front of it."""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import uuid4

import boto3
import botocore.loaders
import pytest
import requests
from moto.server import ThreadedMotoServer

from tests.support import commands
from transformer.config import DataConfig
from transformer.data.fetch import SyncResult, bucket_dates, sync_data
from transformer.errors import ServiceError, UserError
from transformer.storage.bucket import Bucket, TransferSettings
from transformer.storage.shared_folder import download_folder, upload_folder

LOADER = botocore.loaders.create_loader()
SECRET = "wJalrXUtnFEMI-planted-secret"
QUICK = TransferSettings(threads=4, attempts=3, backoff_s=0.01, connect_timeout_s=2, read_timeout_s=5)
DAYS = [date(2024, 12, day) for day in (13, 14, 16)]
SIZE = 40_000  # bytes of an event table
PART = 5 << 20  # bytes, the smallest part of a multipart upload
FIRST = "events/events_2024-12-13.parquet"
TABLES = [f"events/events_{day}.parquet" for day in DAYS] + ["op_nodes.parquet", "journeys.parquet"]


@dataclass
class Reply:
    """The reply that the proxy passes on; `cut` closes the connection after that many bytes of the body."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None


@dataclass
class Proxy:
    """Forwards to the S3 server. `before` may change the request's headers, `after` the reply."""

    upstream: str
    before: Callable[[str, str, dict[str, str]], None] = lambda method, path, headers: None
    after: Callable[[str, str, Reply], None] = lambda method, path, reply: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def objects_read(self) -> list[str]:
        return [path for method, path in self.requests if method == "GET" and "?" not in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def _forward(self) -> None:
        proxy, method, path = self.proxy, self.command, self.path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy.requests.append((method, path))
        headers = dict(self.headers)
        headers.pop("Expect", None)
        proxy.before(method, path, headers)
        connection = HTTPConnection(proxy.upstream, timeout=10)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        reply = Reply(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        proxy.after(method, path, reply)
        self.send_response_only(reply.status)
        reply.headers.pop("Transfer-Encoding", None)
        reply.headers["Connection"] = "close"
        if method != "HEAD":
            reply.headers["Content-Length"] = str(len(reply.body))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(reply.body[: reply.cut])
        self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_DELETE = _forward  # noqa: N815 (the names that http.server calls)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAPLANTED")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # To read the description of the API for each client would take longer than most of these tests.
    monkeypatch.setattr(botocore.loaders, "create_loader", lambda *_: LOADER)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"{host}:{port}"
    moto.stop()


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    meddler = Proxy(server)
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": meddler}))
    meddler.url = f"http://127.0.0.1:{http.server_port}"
    Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield meddler
    http.shutdown()
    http.server_close()


@dataclass
class Store:
    """A bucket with event tables under a prefix. Its owner does not go through the proxy."""

    client: object
    name: str
    prefix: str
    content: dict[str, bytes] = field(default_factory=dict)

    def put(self, name: str, body: bytes, **options: str) -> None:
        self.content[name] = body
        self.client.put_object(Bucket=self.name, Key=f"{self.prefix}/data/{name}", Body=body, **options)

    def listing(self) -> list[str]:
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [entry["Key"].removeprefix(f"{self.prefix}/") for entry in listed]

    def bucket(self, proxy: Proxy, settings: TransferSettings = QUICK) -> Bucket:
        data = DataConfig(bucket_name=self.name, bucket_prefix=f"/{self.prefix}/", endpoint_url=proxy.url)
        return Bucket.from_config(data, settings)

    def assert_whole(self, folder: Path) -> None:
        assert {name: (folder / name).read_bytes() for name in self.content} == self.content
        assert files_in(folder) == {*self.content, ".s3.json"}


@pytest.fixture(scope="module")
def owner(server: str) -> object:
    keys = {"aws_access_key_id": "owner", "aws_secret_access_key": "owner", "region_name": "us-east-1"}
    return boto3.session.Session(**keys).client("s3", endpoint_url=f"http://{server}")


@pytest.fixture
def store(owner: object) -> Store:
    made = Store(owner, f"trains-{uuid4().hex[:12]}", "team/delays")
    owner.create_bucket(Bucket=made.name)
    for name in TABLES:
        made.put(name, os.urandom(SIZE))
    return made


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def times(count: int, meddle: Callable[[Reply], None], name: str = "") -> Callable[[str, str, Reply], None]:
    """Meddle with the first `count` replies that carry an object whose path ends with `name`."""
    left = [count]

    def after(method: str, path: str, reply: Reply) -> None:
        if method == "GET" and "?" not in path and path.endswith(name) and left[0] > 0:
            left[0] -= 1
            meddle(reply)

    return after


def cut(reply: Reply) -> None:
    reply.cut = SIZE // 3


def damage(reply: Reply) -> None:
    """Change a byte in the middle, and remove every checksum except the ETag."""
    middle = len(reply.body) // 2
    reply.body = reply.body[:middle] + bytes([reply.body[middle] ^ 1]) + reply.body[middle + 1 :]
    reply.headers = {name: value for name, value in reply.headers.items() if "checksum" not in name.lower()}


def refuse(code: str, status: int) -> Callable[[str, str, Reply], None]:
    def after(method: str, path: str, reply: Reply) -> None:
        reply.status, reply.headers = status, {"Content-Type": "application/xml"}
        reply.body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()

    return after


# --- event tables ----------------------------------------------------------------------------------------------------
def test_first_sync_brings_everything_and_the_second_transfers_nothing(store, proxy, tmp_path):
    bucket = store.bucket(proxy)
    assert bucket_dates(bucket) == DAYS
    assert sync_data(bucket, DAYS, tmp_path) == SyncResult(transferred=5, skipped=0, bytes=5 * SIZE)
    store.assert_whole(tmp_path)
    proxy.requests.clear()
    assert sync_data(store.bucket(proxy), DAYS, tmp_path) == SyncResult(transferred=0, skipped=5, bytes=0)
    assert proxy.objects_read() == []


def test_only_the_dates_asked_for_are_downloaded(store, proxy, tmp_path):
    assert sync_data(store.bucket(proxy), DAYS[1:2], tmp_path).transferred == 3
    assert files_in(tmp_path) == {TABLES[1], "op_nodes.parquet", "journeys.parquet", ".s3.json"}
    assert sync_data(store.bucket(proxy), DAYS, tmp_path) == SyncResult(transferred=2, skipped=3, bytes=2 * SIZE)


def test_a_bucket_without_prefix(store, proxy, tmp_path):
    for name, body in store.content.items():
        store.client.put_object(Bucket=store.name, Key=f"data/{name}", Body=body)
    bucket = Bucket.from_config(DataConfig(bucket_name=store.name, endpoint_url=proxy.url), QUICK)
    assert bucket_dates(bucket) == DAYS
    sync_data(bucket, DAYS, tmp_path)
    store.assert_whole(tmp_path)


def test_a_changed_object_is_downloaded_again(store, proxy, tmp_path):
    bucket = store.bucket(proxy)
    sync_data(bucket, DAYS, tmp_path)
    store.put(FIRST, os.urandom(SIZE))
    assert sync_data(bucket, DAYS, tmp_path) == SyncResult(transferred=1, skipped=4, bytes=SIZE)
    store.assert_whole(tmp_path)


def test_files_harmed_on_disk_are_downloaded_again(store, proxy, tmp_path):
    bucket = store.bucket(proxy)
    sync_data(bucket, DAYS, tmp_path)
    truncated, altered, removed = (tmp_path / name for name in TABLES[:3])
    os.truncate(truncated, 100)
    altered.write_bytes(b"x" * altered.stat().st_size)
    removed.unlink()
    assert sync_data(bucket, DAYS, tmp_path) == SyncResult(transferred=3, skipped=2, bytes=3 * SIZE)
    store.assert_whole(tmp_path)


def test_whole_files_without_a_usable_record_are_kept(store, proxy, tmp_path):
    bucket, record = store.bucket(proxy), tmp_path / ".s3.json"
    sync_data(bucket, DAYS, tmp_path)
    for text in (None, "{", "[]", '{"op_nodes.parquet": 3}'):
        record.unlink()
        if text is not None:
            record.write_text(text)
        assert sync_data(bucket, DAYS, tmp_path) == SyncResult(transferred=0, skipped=5, bytes=0)
        assert set(json.loads(record.read_text())) == set(TABLES)


def test_a_missing_object_is_named_before_anything_is_downloaded(store, proxy, tmp_path):
    bucket = store.bucket(proxy)
    for name in ("journeys.parquet", "op_nodes.parquet", FIRST):
        store.client.delete_object(Bucket=store.name, Key=f"team/delays/data/{name}")
        with pytest.raises(UserError, match=rf"^s3://{store.name}/team/delays/data/{name} .*not exist"):
            sync_data(bucket, DAYS, tmp_path)
    assert files_in(tmp_path) == set()


def test_an_object_deleted_under_way_is_named(store, proxy, tmp_path):
    def delete(method: str, path: str, headers: dict[str, str]) -> None:
        if path.endswith(FIRST):
            store.client.delete_object(Bucket=store.name, Key=f"team/delays/data/{FIRST}")

    proxy.before = delete
    with pytest.raises(UserError, match=rf"/team/delays/data/{FIRST} .*exists; upload it again"):
        sync_data(store.bucket(proxy), DAYS, tmp_path)
    assert FIRST not in files_in(tmp_path)
    assert not any(name.endswith(".tmp") for name in files_in(tmp_path))


@pytest.mark.parametrize("knows_if_match", [True, False])
def test_an_object_that_changes_after_listing_arrives_in_its_new_version(store, proxy, tmp_path, knows_if_match):
    """The object is encrypted, so its ETag is no checksum and cannot find the change."""
    versions = [os.urandom(SIZE)]

    def replace(method: str, path: str, headers: dict[str, str]) -> None:
        if not knows_if_match:
            headers.pop("If-Match", None)
        if method == "GET" and path.endswith(FIRST) and versions:
            store.put(FIRST, versions.pop(), ServerSideEncryption="aws:kms")

    proxy.before = replace
    sync_data(store.bucket(proxy), DAYS, tmp_path)
    store.assert_whole(tmp_path)
    assert len(proxy.objects_read()) == 6
    assert sync_data(store.bucket(proxy), DAYS, tmp_path).transferred == 0


@pytest.mark.parametrize("knows_if_match", [True, False])
def test_an_object_that_changes_while_it_breaks_off_is_never_mixed(store, proxy, tmp_path, knows_if_match):
    def cut_then_replace(reply: Reply) -> None:
        reply.cut = SIZE // 3
        store.put(FIRST, os.urandom(SIZE))

    proxy.before = lambda method, path, headers: None if knows_if_match else headers.pop("If-Match", None)
    proxy.after = times(2, cut_then_replace, FIRST)
    sync_data(store.bucket(proxy), DAYS, tmp_path)
    store.assert_whole(tmp_path)


def test_an_object_that_never_stays_the_same_is_an_error(store, proxy, tmp_path):
    def replace(method: str, path: str, headers: dict[str, str]) -> None:
        if method == "GET" and path.endswith(FIRST):
            store.put(FIRST, os.urandom(SIZE))

    proxy.before = replace
    with pytest.raises(ServiceError, match=rf"{FIRST} changed .*run the stage again"):
        sync_data(store.bucket(proxy), DAYS, tmp_path)
    assert FIRST not in files_in(tmp_path)


def test_a_connection_cut_mid_file_is_tried_again(store, proxy, tmp_path):
    proxy.after = times(2, cut)
    sync_data(store.bucket(proxy), DAYS, tmp_path)
    store.assert_whole(tmp_path)
    assert len(proxy.objects_read()) == 7


def test_a_connection_cut_for_ever_leaves_nothing_half_written(store, proxy, tmp_path):
    proxy.after = times(10**6, cut, FIRST)
    with pytest.raises(ServiceError, match=rf"^s3://\S+/{FIRST} .*3 times \(\w+\); run the stage again$"):
        sync_data(store.bucket(proxy), DAYS, tmp_path)
    assert FIRST not in files_in(tmp_path)
    assert not any(name.endswith(".tmp") for name in files_in(tmp_path))
    # The files that did arrive are complete, and are not downloaded again.
    arrived = len(files_in(tmp_path) & set(TABLES))
    proxy.after = times(0, cut)
    assert sync_data(store.bucket(proxy), DAYS, tmp_path).skipped == arrived
    store.assert_whole(tmp_path)


def multipart(store: Store) -> None:
    body = os.urandom(2 * PART + 12_345)
    key = {"Bucket": store.name, "Key": f"team/delays/data/{FIRST}"}
    upload = store.client.create_multipart_upload(**key)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(body), PART), start=1):
        chunk = {"PartNumber": number, "Body": body[start : start + PART]}
        parts.append({"PartNumber": number, "ETag": store.client.upload_part(**key, UploadId=upload, **chunk)["ETag"]})
    store.client.complete_multipart_upload(**key, UploadId=upload, MultipartUpload={"Parts": parts})
    store.content[FIRST] = body


@pytest.mark.parametrize("parts", [1, 3])
def test_content_damaged_on_the_way_is_found_by_the_etag(store, proxy, tmp_path, parts):
    if parts > 1:
        multipart(store)
    proxy.after = times(1, damage, FIRST)
    sync_data(store.bucket(proxy), DAYS, tmp_path)
    store.assert_whole(tmp_path)
    assert len(proxy.objects_read()) == 6
    assert sync_data(store.bucket(proxy), DAYS, tmp_path).transferred == 0
    (tmp_path / FIRST).unlink()
    proxy.after = times(10**6, damage, FIRST)
    with pytest.raises(ServiceError, match=rf"{FIRST} .*size and ETag.*upload it again"):
        sync_data(store.bucket(proxy), DAYS, tmp_path)
    assert FIRST not in files_in(tmp_path)


def test_content_under_a_checksum_of_its_parts_is_found_by_the_etag(store, proxy, tmp_path):
    """botocore leaves a checksum of checksums, `…-3`, unchecked: only the MD5 of the parts in the ETag remains."""
    multipart(store)

    def damage_body(reply: Reply) -> None:
        damage(reply)
        reply.headers["x-amz-checksum-sha256"] = "c3VtIG9mIHN1bXM=-3"

    proxy.after = times(1, damage_body, FIRST)
    sync_data(store.bucket(proxy), DAYS, tmp_path)
    store.assert_whole(tmp_path)
    assert len(proxy.objects_read()) == 6


def test_content_damaged_on_the_way_is_found_by_an_additional_checksum(store, proxy, tmp_path):
    """With KMS encryption the ETag is no checksum, but the object's SHA-256 is."""
    store.put(FIRST, os.urandom(SIZE), ServerSideEncryption="aws:kms", ChecksumAlgorithm="SHA256")

    def damage_body(reply: Reply) -> None:
        assert "x-amz-checksum-sha256" in {name.lower() for name in reply.headers}
        reply.body = reply.body[:-1] + bytes([reply.body[-1] ^ 1])

    proxy.after = times(1, damage_body, FIRST)
    sync_data(store.bucket(proxy), DAYS, tmp_path)
    store.assert_whole(tmp_path)
    assert len(proxy.objects_read()) == 6


def test_an_etag_that_is_no_md5_does_not_stop_an_encrypted_object(store, proxy, tmp_path):
    store.put(FIRST, os.urandom(SIZE), ServerSideEncryption="aws:kms")
    etag = store.client.head_object(Bucket=store.name, Key=f"team/delays/data/{FIRST}")["ETag"].strip('"')
    other = "0123456789abcdef" * 2

    def rename_etag(method: str, path: str, reply: Reply) -> None:
        reply.body = reply.body if path.endswith(FIRST) else reply.body.replace(etag.encode(), other.encode())
        reply.headers = {name: value.replace(etag, other) for name, value in reply.headers.items()}

    proxy.before = lambda method, path, headers: headers.pop("If-Match", None)
    proxy.after = rename_etag
    sync_data(store.bucket(proxy), DAYS, tmp_path)
    store.assert_whole(tmp_path)
    assert sync_data(store.bucket(proxy), DAYS, tmp_path).transferred == 0


def test_two_processes_sync_one_folder_at_once(store, proxy, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(  # prose: allow length – a program
        "import sys; from datetime import date; from pathlib import Path; from transformer.config import DataConfig;"
        "from transformer.data.fetch import bucket_dates, sync_data; from transformer.storage.bucket import Bucket;"
        "url, name, folder = sys.argv[1:];"
        "data = DataConfig(bucket_name=name, bucket_prefix='team/delays', endpoint_url=url);"
        "bucket = Bucket.from_config(data); sync_data(bucket, bucket_dates(bucket), Path(folder))"
    )
    folder = tmp_path / "data"
    both = [commands.start(str(program), proxy.url, store.name, str(folder)) for _ in range(2)]
    assert [(process.communicate()[1], process.wait()) for process in both] == [("", 0)] * 2
    store.assert_whole(folder)
    assert sync_data(store.bucket(proxy), DAYS, folder).transferred == 0


def test_progress_is_logged_while_files_arrive(store, proxy, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    proxy.after = times(5, lambda reply: time.sleep(0.1))
    sync_data(store.bucket(proxy, TransferSettings(threads=1, log_every_s=0.05)), DAYS, tmp_path)
    lines = [line for line in caplog.messages if line.startswith("S3: ")]
    assert lines[0] == f"S3: 5 of 5 files to download from s3://{store.name}/team/delays"
    assert re.fullmatch(r"S3: 2 of 5 files, 0\.1 of 0\.2 MB, \d+\.\d MB/s", next(x for x in lines if "S3: 2 of" in x))
    assert re.fullmatch(r"S3: 5 files downloaded \(0\.2 MB in \d+\.\d s\), 0 already here", lines[-1])
    assert SECRET not in caplog.text


# --- names -----------------------------------------------------------------------------------------------------------
def test_keys_with_odd_names_stay_where_they_are(store, proxy, tmp_path):
    for name in ("events/../../escaped.parquet", "events/old/events_2024-12-13.parquet", "events/_SUCCESS", "events/"):
        store.client.put_object(Bucket=store.name, Key=f"team/delays/data/{name}", Body=b"odd")
    folder = tmp_path / "a" / "b"
    bucket = store.bucket(proxy)
    assert bucket_dates(bucket) == DAYS
    sync_data(bucket, DAYS, folder)
    store.assert_whole(folder)
    assert files_in(tmp_path) == {f"a/b/{name}" for name in (*TABLES, ".s3.json")}


def test_an_events_object_without_a_date_is_refused(store, proxy):
    bucket = store.bucket(proxy)
    for name in ("events_2024-13-40.parquet", "events_20241213.parquet", "events_today.parquet"):
        store.put(f"events/{name}", b"odd")
        with pytest.raises(UserError, match=rf"/team/delays/data/events/{name}.*events_YYYY-MM-DD"):
            bucket_dates(bucket)
        store.client.delete_object(Bucket=store.name, Key=f"team/delays/data/events/{name}")


def test_a_bucket_without_events_is_refused(store, proxy):
    data = DataConfig(bucket_name=store.name, bucket_prefix="elsewhere", endpoint_url=proxy.url)
    with pytest.raises(UserError, match=rf"^s3://{store.name}/elsewhere/data/events/ .*events_YYYY-MM-DD\.parquet"):
        bucket_dates(Bucket.from_config(data, QUICK))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bucket_name": ""}, r"data\.bucket_name is empty; set it"),
        ({"bucket_prefix": "a/../b"}, r"data\.bucket_prefix='a/\.\./b' .*trains/2024"),
        ({"bucket_prefix": "a//b"}, r"data\.bucket_prefix='a//b' .*trains/2024"),
        ({"endpoint_url": "s3.example.org"}, r"data\.endpoint_url='s3\.example\.org' .*https://s3\.example\.org"),
        ({"endpoint_url": "http://[1"}, r"s3://trains: .*\(ValueError\); check data\.endpoint_url and AWS_REGION"),
        ({"endpoint_url": f"http://me:{SECRET}@s3.example.org"}, r"data\.endpoint_url .*user name or password"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        Bucket.from_config(DataConfig(**{"bucket_name": "trains", **settings}))
    assert SECRET not in str(caught.value)


# --- refusals of the service -----------------------------------------------------------------------------------------
def one_line(error: Exception) -> str:
    text = str(error)
    assert "\n" not in text
    assert SECRET not in text
    assert "AKIAPLANTED" not in text
    return text


@contextmanager
def access_control(server: str) -> Iterator[None]:
    """The server begins to check credentials."""

    def switch(actions_without_check: str) -> None:
        requests.post(f"http://{server}/moto-api/reset-auth", actions_without_check.encode()).raise_for_status()

    switch("0")
    try:
        yield
    finally:
        switch("inf")


def test_unknown_credentials_name_bucket_and_remedy(server, store, proxy, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with access_control(server), pytest.raises(UserError, match="access refused") as caught:
        sync_data(store.bucket(proxy), DAYS, tmp_path)
    text = one_line(caught.value)
    assert text.startswith(f"s3://{store.name}: access refused (InvalidAccessKeyId); check the credentials")
    assert SECRET not in caplog.text


@pytest.mark.parametrize(("code", "status"), [("AccessDenied", 403), ("ExpiredToken", 400)])
def test_refused_access_is_the_users_to_mend(store, proxy, tmp_path, code, status):
    proxy.after = refuse(code, status)
    with pytest.raises(UserError, match=rf"^s3://{store.name}: access refused \({code}\)") as caught:
        sync_data(store.bucket(proxy), DAYS, tmp_path)
    one_line(caught.value)
    with pytest.raises(UserError, match="access refused"):
        upload_folder(store.bucket(proxy), tmp_path, "statistics/ab")


def test_no_credentials_at_all(store, proxy, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match=rf"^s3://{store.name}: NoCredentialsError; check the credentials"):
        bucket_dates(store.bucket(proxy))


def test_an_unknown_profile(store, proxy, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UserError, match=rf"^s3://{store.name}: ProfileNotFound; check the credentials"):
        store.bucket(proxy)


def test_a_bucket_that_does_not_exist(proxy):
    bucket = Bucket.from_config(DataConfig(bucket_name="no-such-trains", endpoint_url=proxy.url), QUICK)
    with pytest.raises(UserError, match=rf"^data\.bucket_name='no-such-trains' .*exist.* {proxy.url}"):
        bucket_dates(bucket)


def test_an_address_that_is_no_s3_service(proxy):
    proxy.after = refuse("", 404)
    bucket = Bucket.from_config(DataConfig(bucket_name="trains", endpoint_url=proxy.url), QUICK)
    with pytest.raises(UserError, match=rf"^data\.bucket_name='trains' .*exist.* {proxy.url}"):
        bucket_dates(bucket)


def test_a_name_that_no_bucket_can_have(proxy):
    bucket = Bucket.from_config(DataConfig(bucket_name="not a bucket", endpoint_url=proxy.url), QUICK)
    with pytest.raises(UserError, match=r"^data\.bucket_name='not a bucket' .*name"):
        bucket_dates(bucket)


def test_nobody_listening():
    settings = TransferSettings(attempts=1, connect_timeout_s=1)
    bucket = Bucket.from_config(DataConfig(bucket_name="trains", endpoint_url="http://127.0.0.1:9"), settings)
    with pytest.raises(ServiceError, match=r"^s3://trains: http://127\.0\.0\.1:9 .*1 attempts") as caught:
        bucket_dates(bucket)
    one_line(caught.value)


def test_a_service_in_trouble_is_tried_again(store, proxy, tmp_path):
    refused = refuse("SlowDown", 503)
    left = [1]

    def after(method: str, path: str, reply: Reply) -> None:
        if left:
            left.pop()
            refused(method, path, reply)

    proxy.after = after
    assert bucket_dates(store.bucket(proxy)) == DAYS
    proxy.after = refused
    with pytest.raises(ServiceError, match="S3 answered 503 SlowDown"):
        bucket_dates(store.bucket(proxy, TransferSettings(attempts=1)))


# --- shared folders --------------------------------------------------------------------------------------------------
@pytest.fixture
def statistics(tmp_path: Path) -> Path:
    folder = tmp_path / "statistics"
    (folder / "deeper").mkdir(parents=True)
    (folder / "sections.parquet").write_bytes(os.urandom(50_000))
    (folder / "inputs.json").write_text("{}")
    (folder / "deeper" / "empty.parquet").touch()
    return folder


def same(left: Path, right: Path) -> bool:
    return files_in(left) == files_in(right) and all(
        (left / name).read_bytes() == (right / name).read_bytes() for name in files_in(left)
    )


def test_a_shared_folder_comes_back_as_it_was(store, proxy, statistics, tmp_path):
    bucket, copy = store.bucket(proxy), tmp_path / "cache" / "ab12"
    assert not download_folder(bucket, "statistics/ab12", copy)
    assert not copy.exists()
    assert upload_folder(bucket, statistics, "statistics/ab12")
    assert "statistics/ab12/_COMPLETE" in store.listing()
    assert download_folder(bucket, "statistics/ab12", copy)
    assert same(copy, statistics)
    assert files_in(tmp_path / "cache") == {f"ab12/{name}" for name in files_in(statistics)}
    assert not download_folder(bucket, "statistics/ab", tmp_path / "cache" / "ab")


def test_a_complete_folder_is_not_uploaded_again_unless_replaced(store, proxy, statistics, tmp_path):
    bucket = store.bucket(proxy)
    upload_folder(bucket, statistics, "statistics/ab12")
    (statistics / "inputs.json").write_text('{"other": 1}')
    proxy.requests.clear()
    assert not upload_folder(bucket, statistics, "statistics/ab12")
    assert not [path for method, path in proxy.requests if method == "PUT"]
    assert upload_folder(bucket, statistics, "statistics/ab12", replace=True)
    assert download_folder(bucket, "statistics/ab12", tmp_path / "copy")
    assert same(tmp_path / "copy", statistics)


@pytest.mark.parametrize("uploaded", [0, 1, 3])
def test_an_interrupted_upload_is_not_trusted(store, proxy, statistics, tmp_path, uploaded):
    left = [uploaded]

    def break_down(method: str, path: str, headers: dict[str, str]) -> None:
        if method == "PUT":
            left[0] -= 1
            if left[0] < 0:
                raise ConnectionResetError

    proxy.before = break_down
    bucket = store.bucket(proxy, TransferSettings(attempts=1))
    with pytest.raises(ServiceError, match="did not answer"):
        upload_folder(bucket, statistics, "statistics/ab12")
    assert len([key for key in store.listing() if key.startswith("statistics/")]) == uploaded
    assert not download_folder(bucket, "statistics/ab12", tmp_path / "copy")
    proxy.before = lambda method, path, headers: None
    assert upload_folder(bucket, statistics, "statistics/ab12")
    assert len([key for key in store.listing() if key.startswith("statistics/")]) == 4
    assert download_folder(bucket, "statistics/ab12", tmp_path / "copy")
    assert same(tmp_path / "copy", statistics)


def test_uploads_that_cross_never_mix(store, proxy, statistics, tmp_path):
    """Another process uploads its own result under the same hash during our upload."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("sections.parquet", "inputs.json"):
        (other / name).write_bytes(os.urandom(100))
    crossing = [True]

    def cross(method: str, path: str, headers: dict[str, str]) -> None:
        if method == "PUT" and path.endswith("sections.parquet") and crossing:
            crossing.clear()
            upload_folder(store.bucket(proxy), other, "statistics/ab12")

    proxy.before = cross
    upload_folder(store.bucket(proxy), statistics, "statistics/ab12")
    assert download_folder(store.bucket(proxy), "statistics/ab12", tmp_path / "copy")
    assert same(tmp_path / "copy", statistics)


@pytest.mark.parametrize("harm", ["altered", "shorter", "lost"])
def test_a_harmed_folder_is_not_used_and_is_replaced(store, proxy, statistics, tmp_path, harm):
    bucket = store.bucket(proxy)
    upload_folder(bucket, statistics, "statistics/ab12")
    key = next(key for key in store.listing() if key.endswith("/sections.parquet"))
    place = {"Bucket": store.name, "Key": f"team/delays/{key}"}
    store.client.delete_object(**place)
    if harm != "lost":
        store.client.put_object(**place, Body=os.urandom(50_000 if harm == "altered" else 5))
    assert not download_folder(bucket, "statistics/ab12", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert upload_folder(bucket, statistics, "statistics/ab12", replace=harm == "altered")
    assert download_folder(bucket, "statistics/ab12", tmp_path / "copy")


@pytest.mark.parametrize("place", ["file", "content"])
def test_a_folder_that_would_write_outside_itself_is_refused(store, proxy, tmp_path, place):
    bucket = store.bucket(proxy)
    for name in ("../../escaped", "/escaped", "a/../../escaped", "..\\escaped", "a//b", "C:escaped", ""):
        file, content = (name, "00") if place == "file" else ("x.parquet", name)
        entry = {"content": content, "files": {file: {"size": 3, "sha256": "00"}}}
        for key, body in ((f"{content}/{file}", b"odd"), ("_COMPLETE", json.dumps(entry).encode())):
            store.client.put_object(Bucket=store.name, Key=f"team/delays/statistics/ab12/{key}", Body=body)
        with pytest.raises(UserError, match=r"/statistics/ab12/_COMPLETE .*outside .*remove it"):
            download_folder(bucket, "statistics/ab12", tmp_path / "cache" / "ab12")
    assert files_in(tmp_path) == set()


def test_an_unreadable_mark_is_refused(store, proxy, tmp_path):
    bucket, key = store.bucket(proxy), "team/delays/statistics/ab12/_COMPLETE"
    for body in (b"", b"{", b"[]", b"{}", b'{"content": "a", "files": {"x": 3}}', b"\xff"):
        store.client.put_object(Bucket=store.name, Key=key, Body=body)
        with pytest.raises(UserError, match=rf"/{key} .*remove it"):
            download_folder(bucket, "statistics/ab12", tmp_path / "copy")


def test_a_folder_cut_off_for_ever_leaves_nothing(store, proxy, statistics, tmp_path):
    bucket, cache = store.bucket(proxy), tmp_path / "cache"
    upload_folder(bucket, statistics, "statistics/ab12")
    proxy.after = times(10**6, lambda reply: setattr(reply, "cut", 7_000), "sections.parquet")
    with pytest.raises(ServiceError, match=r"sections\.parquet .*3 times"):
        download_folder(bucket, "statistics/ab12", cache / "ab12")
    assert list(cache.iterdir()) == []


# --- single objects --------------------------------------------------------------------------------------------------
def test_a_file_goes_there_and_comes_back(store, proxy, tmp_path):
    bucket, path = store.bucket(proxy), tmp_path / "studies.db"
    path.write_bytes(os.urandom(50_000))
    assert bucket.find("optuna/studies.db") is None
    etag = bucket.put_file(path, "optuna/studies.db")
    bucket.put_file(path, "optuna/studies.db.tmp")
    item = bucket.find("optuna/studies.db")
    assert (item.etag, item.size) == (etag, 50_000)
    assert bucket.names("optuna/studies.db") == ["optuna/studies.db", "optuna/studies.db.tmp"]
    assert bucket.address("optuna/studies.db") == f"s3://{store.name}/team/delays/optuna/studies.db"
    assert bucket.download_file(item, tmp_path / "copy" / "studies.db") == etag
    assert (tmp_path / "copy" / "studies.db").read_bytes() == path.read_bytes()


def test_a_file_that_changes_while_it_comes_arrives_in_its_new_version(store, proxy, tmp_path):
    bucket, path = store.bucket(proxy), tmp_path / "studies.db"
    path.write_text("old")
    bucket.put_file(path, "optuna/studies.db")
    item = bucket.find("optuna/studies.db")
    path.write_text("new")
    etag = bucket.put_file(path, "optuna/studies.db")
    assert bucket.download_file(item, tmp_path / "copy") == etag != item.etag
    assert (tmp_path / "copy").read_text() == "new"


def test_a_text_is_written_only_over_the_version_that_was_read(store, proxy):
    bucket, name = store.bucket(proxy), "optuna/studies.db.lock"
    assert bucket.read_text(name) is None
    assert not bucket.write_text(name, "x", replaces="0" * 32)
    assert bucket.write_text(name, "première", replaces="")
    assert not bucket.write_text(name, "second", replaces="")
    first = bucket.read_text(name)
    assert first.text == "première"
    assert bucket.write_text(name, "third", replaces=first.etag)
    assert not bucket.write_text(name, "fourth", replaces=first.etag)
    bucket.delete(name, first.etag)
    assert bucket.read_text(name).text == "third"
    bucket.delete(name, bucket.read_text(name).etag)
    bucket.delete(name, first.etag)
    bucket.delete(name)
    assert bucket.read_text(name) is None


def test_a_copy_replaces_only_what_it_should(store, proxy):
    """moto ignores the condition of a copy, so the proxy answers as S3 does."""
    bucket = store.bucket(proxy)
    bucket.write_text("optuna/new", "new", replaces="")
    etag = bucket.read_text("optuna/new").etag
    assert bucket.copy("optuna/new", "optuna/current", replaces="") == etag
    sent = []
    proxy.before = lambda method, path, headers: sent.append((headers.get("If-Match"), headers.get("If-None-Match")))
    assert bucket.copy("optuna/new", "optuna/current", replaces=etag) == etag
    assert bucket.copy("optuna/none", "optuna/current", replaces=etag) is None
    proxy.after = refuse("PreconditionFailed", 412)
    assert bucket.copy("optuna/new", "optuna/current", replaces="") is None
    assert sent == [(f'"{etag}"', None)] * 2 + [(None, "*")]


@pytest.mark.parametrize(("code", "status"), [("ConditionalRequestConflict", 409), ("PreconditionFailed", 412)])
def test_a_write_that_crosses_another_is_none(store, proxy, code, status):
    proxy.after = refuse(code, status)
    assert not store.bucket(proxy).write_text("optuna/x.lock", "x", replaces="")


def test_a_service_that_has_no_conditions_writes_without(store, proxy):
    def after(method: str, path: str, reply: Reply) -> None:
        if conditions.pop():
            refuse("NotImplemented", 501)(method, path, reply)

    conditions: list[bool] = []
    proxy.before = lambda method, path, headers: conditions.append("If-None-Match" in headers)
    proxy.after = after
    settings = TransferSettings(attempts=1)
    assert store.bucket(proxy, settings).write_text("optuna/x.lock", "x", replaces="")
    assert "optuna/x.lock" in store.listing()


def test_the_age_of_a_text_is_by_the_services_clock(store, proxy):
    """The clock of the service is ten years ahead of ours; by it the object was written 90 s ago."""
    bucket = store.bucket(proxy)
    bucket.write_text("optuna/x.lock", "x", replaces="")
    now = datetime.now(UTC) + timedelta(days=3650)

    def after(method: str, path: str, reply: Reply) -> None:
        dates = {"date": now, "last-modified": now - timedelta(seconds=90)}
        reply.headers = {name: value for name, value in reply.headers.items() if name.lower() not in dates}
        reply.headers |= {name: format_datetime(value, usegmt=True) for name, value in dates.items()}

    proxy.after = after
    assert bucket.read_text("optuna/x.lock").age_s == 90


def test_refused_access_to_single_objects_is_one_line(store, proxy, tmp_path):
    (tmp_path / "file").touch()
    bucket = store.bucket(proxy)
    proxy.after = refuse("AccessDenied", 403)
    for request in (
        lambda: bucket.find("optuna/x"),
        lambda: bucket.names("optuna/x"),
        lambda: bucket.put_file(tmp_path / "file", "optuna/x"),
        lambda: bucket.read_text("optuna/x"),
        lambda: bucket.write_text("optuna/x", "x", replaces=""),
        lambda: bucket.copy("optuna/x", "optuna/y", replaces=""),
        lambda: bucket.delete("optuna/x"),
    ):
        with pytest.raises(UserError, match="access refused") as caught:
            request()
        one_line(caught.value)
