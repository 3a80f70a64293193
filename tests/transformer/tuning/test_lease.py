"""The lease of a study where the store has no conditional writes: written, read back, and never renewed too late."""

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
import pytest

from tests.support.object_store import ACCESS_KEY, SECRET, credentials, open_bucket, proxy_to
from tests.support.servers import s3_server
from tests.support.stores import STORES, answer_like
from transformer.errors import ServiceError, UserError
from transformer.storage.bucket import Bucket, StoredText
from transformer.tuning.lease import Lease, LeaseSettings, OccupiedError

__all__ = ["credentials"]
NAME = "optuna/studies.db.lock"
SETTINGS = LeaseSettings(expires_after_s=180.0, settles_s=0.0)


@pytest.fixture
def bucket(credentials: None) -> Iterator[Bucket]:
    """A bucket of a store that refuses every condition."""
    with s3_server() as url, proxy_to(urlsplit(url).netloc) as proxy:
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        client = boto3.session.Session(**keys).client("s3", endpoint_url=url)
        name = f"trains-{uuid4().hex[:12]}"
        client.create_bucket(Bucket=name)
        answer_like(proxy, STORES["Swift"], client)
        made = open_bucket(bucket_name=name, endpoint_url=proxy.url)
        assert not made.features.conditional
        yield made


def lease(bucket: Bucket, holder: str, settings: LeaseSettings = SETTINGS) -> Lease:
    return Lease(bucket, NAME, holder, settings)


@pytest.fixture
def aged(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    """Makes every object as old as that."""
    read_text = Bucket.read_text

    def make(age_s: float) -> None:
        def read(self: Bucket, name: str) -> StoredText | None:
            found = read_text(self, name)
            return None if found is None else replace(found, age_s=age_s)

        monkeypatch.setattr(Bucket, "read_text", read)

    return make


def test_a_lease_near_its_end_is_not_renewed(bucket: Bucket, aged) -> None:
    """Another process may be about to take it, and a write without a condition would overwrite that process."""
    mine = lease(bucket, "run-1")
    mine.acquire()
    aged(119.0)
    mine.renew()
    aged(121.0)
    written = bucket.find(NAME)
    for _ in range(2):
        with pytest.raises(ServiceError, match=r"was not renewed for 121 s; this process saves nothing any more$"):
            mine.renew()
    assert bucket.find(NAME) == written


def test_an_expired_lease_is_taken_and_stays_taken(bucket: Bucket, aged) -> None:
    lost, next_one = lease(bucket, "run-1"), lease(bucket, "run-2")
    lost.acquire()
    with pytest.raises(OccupiedError):
        next_one.acquire()
    aged(181.0)
    next_one.acquire()
    aged(0.0)
    with pytest.raises(ServiceError, match="was taken over by MLflow run run-2"):
        lost.renew()
    next_one.renew()


def test_a_retry_whose_predecessor_renews_at_the_same_time_tries_again(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predecessor has looked before the retry wrote, and writes after it."""
    first, retry = lease(bucket, "run-1"), lease(bucket, "run-1")
    first.acquire()
    monkeypatch.setattr("transformer.tuning.lease.time.sleep", lambda _: overwrite.pop()() if overwrite else None)
    overwrite = [lambda: bucket.write_text(NAME, first._writer.to_text(), "")]
    retry.acquire()
    assert not overwrite
    with pytest.raises(ServiceError, match="was taken over"):
        first.renew()


def test_a_predecessor_that_never_stops_is_no_mistake_of_the_user(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, retry = lease(bucket, "run-1"), lease(bucket, "run-1")
    first.acquire()
    text = first._writer.to_text()
    monkeypatch.setattr("transformer.tuning.lease.time.sleep", lambda _: bucket.write_text(NAME, text, ""))
    with pytest.raises(
        ServiceError, match=r"an earlier process of the same study: MLflow run run-1.*; stop it"
    ) as caught:
        retry.acquire()
    assert not isinstance(caught.value, UserError)


def test_a_store_that_forgets_its_writes_keeps_no_study(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(bucket), "features", replace(bucket.features, reads_back=False))
    with pytest.raises(UserError, match=r"no conditional writes .*search\.storage_url.*save_results_to_s3=false"):
        lease(bucket, "run-1").acquire()
