"""How stores that speak S3 answer requests with a condition. A proxy in front of moto answers like each of them.

The real answers were seen from Ceph's RADOS gateway 16.2.15, OpenStack Swift 2.30 with s3api and LocalStack 2026.3.
`tests/transformer/storage/test_probe.py` compares the first of them with the real gateway.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support.object_store import ACCESS_KEY, SECRET, Proxy, Reply, open_bucket, proxy_to
from tests.support.servers import every_server
from transformer.storage.bucket import Bucket

WORKS, IGNORED = "works", "ignored"
Answer = str | int  # WORKS, IGNORED, or the status of a refusal of every such request


@dataclass(frozen=True)
class Answers:
    """The answers of a store to each condition.

    Attributes:
        create: a PUT, if there is no such object.
        quoted, bare: a PUT, if the object has this ETag, in quotes or not.
        copy, delete: a COPY or a DELETE with either condition.
        unmet: status of the answer if a condition is not met.
        md5: whether the ETag is the MD5 of the content.
    """

    create: Answer = WORKS
    quoted: Answer = WORKS
    bare: Answer = WORKS
    copy: Answer = WORKS
    delete: Answer = WORKS
    unmet: int = 412
    md5: bool = True


STORES = {
    "S3": Answers(),
    "Ceph": Answers(quoted=412, copy=IGNORED, delete=IGNORED),
    "Ceph, versioned": Answers(create=IGNORED, quoted=412, bare=412, copy=IGNORED, delete=IGNORED),
    "Swift": Answers(create=501, quoted=501, bare=501, copy=501, delete=412),
    "LocalStack": Answers(delete=501),
    "answers 304": Answers(unmet=304),
    "answers 400": Answers(create=400, quoted=400, bare=400, copy=400, delete=400),
    "ETag no MD5": Answers(md5=False),
}

REAL = {"real Ceph": "Ceph", "real Ceph, versioned": "Ceph, versioned"}  # and the double that should be its like


@pytest.fixture(params=[*STORES, *(pytest.param(name, marks=pytest.mark.s3) for name in REAL)])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of store: the doubles, and the real ones."""
    return str(request.param)


@pytest.fixture
def place(kind: str, credentials: None) -> Iterator[dict[str, str]]:
    """Values of `data` that lead to an empty prefix of a store of this kind."""
    with every_server("ceph" if kind in REAL else "moto", ACCESS_KEY, SECRET) as url:
        name = f"trains-{uuid4().hex[:12]}"
        client = boto3.session.Session().client("s3", endpoint_url=url, region_name="us-east-1")
        client.create_bucket(Bucket=name)
        if kind not in REAL:
            with proxy_to(urlsplit(url).netloc) as proxy:
                answer_like(proxy, STORES[kind], client)
                yield {"bucket_name": name, "bucket_prefix": "team/delays", "endpoint_url": proxy.url}
            return
        if "versioned" in kind:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        yield {"bucket_name": name, "bucket_prefix": "team/delays", "endpoint_url": url}


@pytest.fixture
def bucket(place: dict[str, str]) -> Bucket:
    return open_bucket(**place)


def answer_like(proxy: Proxy, answers: Answers, client: Any) -> None:
    """Let the proxy answer like a store of this kind. Moto behind it, to which `client` speaks, sees no conditions."""

    def instead(method: str, path: str, headers: dict[str, str]) -> Reply | None:
        names = {name.lower(): name for name in headers}
        absent = "if-none-match" in names
        wanted = headers.get(names.get("if-match", ""), "")
        if method not in ("PUT", "DELETE") or not (absent or wanted):
            return None
        if method == "DELETE":
            answer = answers.delete
        elif "x-amz-copy-source" in names:
            answer = answers.copy
        elif absent:
            answer = answers.create
        else:
            answer = answers.quoted if wanted.startswith('"') else answers.bare
        for name in ("if-none-match", "if-match"):
            headers.pop(names.get(name, ""), None)
        if answer == IGNORED:
            return None
        if answer != WORKS:
            return _refusal(int(answer))
        current = _etag(client, path)
        # `before` has turned the ETag of the condition, if this store turns ETags
        met = current is None if absent else current == wanted.strip('"')
        return None if met else _refusal(answers.unmet)

    def before(method: str, path: str, headers: dict[str, str]) -> None:
        for name in ("If-Match", "if-match"):
            if not answers.md5 and name in headers:
                headers[name] = _turned(headers[name])

    def after(method: str, path: str, reply: Reply) -> None:
        if not answers.md5:
            reply.headers = {
                name: _turned(value) if name.lower() == "etag" else value for name, value in reply.headers.items()
            }
            reply.body = re.sub(rb"(?<=<ETag>)[^<]*", lambda found: _turned(found[0].decode()).encode(), reply.body)

    proxy.before, proxy.instead, proxy.after = before, instead, after


def _turned(etag: str) -> str:
    """The ETag with its digits in the opposite order, so that it is no MD5."""
    return re.sub("[0-9a-f]{32}", lambda found: found[0][::-1], etag)


def _etag(client: Any, path: str) -> str | None:
    """Current ETag of the object; None if it does not exist."""
    bucket, _, key = urlsplit(path).path.removeprefix("/").partition("/")
    try:
        return str(client.head_object(Bucket=bucket, Key=unquote(key))["ETag"]).strip('"')
    except ClientError:
        return None


def _refusal(status: int) -> Reply:
    code = {412: "PreconditionFailed", 501: "NotImplemented", 400: "InvalidRequest"}.get(status, "")
    body = b"" if status == 304 else f"<Error><Code>{code}</Code></Error>".encode()
    return Reply(status, {"Content-Type": "application/xml"}, body)
