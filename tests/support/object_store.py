"""A real S3 server over HTTP, a proxy in front of it that changes replies, and a bucket with event tables."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
import botocore.loaders
import pytest

from tests.support.servers import EVERY_SERVER, every_server
from transformer.config import Config, DataConfig
from transformer.storage.bucket import Bucket, TransferSettings

LOADER = botocore.loaders.create_loader()
ACCESS_KEY, SECRET = "AKIAPLANTED", "wJalrXUtnFEMI-planted-secret"
QUICK = TransferSettings(threads=4, attempts=3, wait_s=1.0, first_pause_s=0.01, connect_timeout_s=2, read_timeout_s=5)
IMPATIENT = replace(QUICK, wait_s=0.0, attempts=1)
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
    """Forwards to the S3 server.

    `before` may change the request's headers, `instead` may answer in place of the server, and `after` may change the
    server's reply.
    """

    upstream: str
    before: Callable[[str, str, dict[str, str]], None] = lambda method, path, headers: None
    instead: Callable[[str, str, dict[str, str]], Reply | None] = lambda method, path, headers: None
    after: Callable[[str, str, Reply], None] = lambda method, path, reply: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def objects_read(self) -> list[str]:
        return [path for method, path in self.requests if method == "GET" and "?" not in path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def _forward(self) -> None:
        proxy, method, path = self.proxy, self.command, self.path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy.requests.append((method, path))
        headers = dict(self.headers)
        headers.pop("Expect", None)
        proxy.before(method, path, headers)
        reply = proxy.instead(method, path, headers)
        if reply is None:
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


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # To read the description of the API for each client would take longer than most of these tests.
    monkeypatch.setattr(botocore.loaders, "create_loader", lambda *_: LOADER)


@pytest.fixture(scope="module", params=EVERY_SERVER)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Host and port of an S3 server: moto's or Ceph's."""
    with every_server(request.param, ACCESS_KEY, SECRET) as url:
        yield urlsplit(url).netloc


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    with proxy_to(server) as made:
        yield made


@contextmanager
def proxy_to(server: str) -> Iterator[Proxy]:
    """A proxy in front of the S3 server at this host and port."""
    meddler = Proxy(server)
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"proxy": meddler}))
    meddler.url = f"http://127.0.0.1:{http.server_port}"
    Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield meddler
    http.shutdown()
    http.server_close()


def open_bucket(settings: TransferSettings = QUICK, **data: str) -> Bucket:
    """The bucket of these values of `data`."""
    return Bucket.from_config(Config(data=DataConfig(**data)), settings)


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
        return open_bucket(settings, bucket_name=self.name, bucket_prefix=f"/{self.prefix}/", endpoint_url=proxy.url)

    def assert_whole(self, folder: Path) -> None:
        assert {name: (folder / name).read_bytes() for name in self.content} == self.content
        assert files_in(folder) == {*self.content, ".s3.json"}


@pytest.fixture(scope="module")
def owner(server: str) -> object:
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
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
