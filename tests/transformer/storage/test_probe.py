"""Probes find out what stores can do, and conditions hold on each of them, as far as the store lets them.

Doubles answer like the stores that were tried, and a real Ceph shows that its double is right.
"""

import logging

import pytest

from tests.support.object_store import Proxy, Reply, Store
from tests.support.stores import REAL
from transformer.storage.bucket import Bucket

pytestmark = pytest.mark.usefixtures("credentials")

FOUND = {
    "S3": "create yes, replace yes, copy yes, delete yes; reads back what it wrote: yes; ETag is the MD5: yes",
    "Ceph": "create yes, replace yes (ETag without quotes), copy no, delete no",
    "Ceph, versioned": "create no, replace no, copy no, delete no; reads back what it wrote: yes",
    "Swift": "create no, replace no, copy no, delete no",
    "LocalStack": "create yes, replace yes, copy yes, delete no",
    "answers 304": "create yes, replace yes, copy yes, delete yes",
    "answers 400": "create no, replace no, copy no, delete no",
    "ETag no MD5": "create yes, replace yes, copy yes, delete yes; reads back what it wrote: yes; ETag is the MD5: no",
}


def test_what_a_store_can_do_is_found_out(kind: str, bucket: Bucket) -> None:
    assert FOUND[REAL.get(kind, kind)] in str(bucket.features)
    assert bucket.names("optuna/") == []


def test_a_store_is_asked_once_and_a_line_says_what_was_found(
    store: Store, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = store.bucket(proxy), store.bucket(proxy)
    before = set(store.listing())
    asked = first.features
    requests = len(proxy.requests)
    assert second.features == asked
    assert len(proxy.requests) == requests <= 25
    assert set(store.listing()) == before
    lines = [line for line in caplog.messages if line.startswith("S3: s3://")]
    assert lines == [f"S3: {first.address()} at {proxy.url}: {asked}"]


def test_a_text_is_written_only_over_the_version_that_was_read(bucket: Bucket) -> None:
    name = "optuna/studies.db.lock"
    assert bucket.read_text(name) is None
    assert bucket.write_text(name, "première", replaces="")
    first = bucket.read_text(name)
    assert first is not None and first.text == "première"
    assert bucket.write_text(name, "second", replaces=first.etag)
    if bucket.features.conditional:
        assert not bucket.write_text(name, "third", replaces=first.etag)
        assert not bucket.write_text(name, "third", replaces="")
        assert not bucket.write_text("optuna/absent", "third", replaces="0" * 32)
    second = bucket.read_text(name)
    assert second is not None and second.text == "second"


def test_only_the_version_that_was_read_is_deleted(bucket: Bucket) -> None:
    name = "optuna/studies.db.lock"
    bucket.write_text(name, "first", replaces="")
    first = bucket.find(name).etag
    bucket.write_text(name, "second", replaces=first)
    bucket.delete(name, first)
    assert bucket.read_text(name).text == "second"
    bucket.delete(name, bucket.find(name).etag)
    bucket.delete(name, first)
    bucket.delete(name)
    assert bucket.read_text(name) is None


def test_a_copy_replaces_only_what_it_should(bucket: Bucket) -> None:
    bucket.write_text("optuna/new", "new", replaces="")
    etag = bucket.find("optuna/new").etag
    assert bucket.copy("optuna/new", "optuna/current", replaces="") == etag
    assert bucket.copy("optuna/new", "optuna/current", replaces=etag) == etag
    assert bucket.copy("optuna/none", "optuna/current", replaces=etag) is None
    assert bucket.copy("optuna/new", "optuna/current", replaces="") is None
    assert bucket.copy("optuna/new", "optuna/current", replaces="0" * 32) is None


def test_a_probe_whose_answers_are_lost_begins_again(store: Store, proxy: Proxy) -> None:
    """The store carries out the first request, and its answer is lost. A mere repetition would be refused."""
    lost = [True]

    def lose(method: str, path: str, reply: Reply) -> None:
        if method == "PUT" and lost:
            lost.clear()
            raise ConnectionResetError

    proxy.after = lose
    assert store.bucket(proxy).features.creates
