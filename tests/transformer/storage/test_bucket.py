"""Single objects of a bucket, and how refusals of the service are explained."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests

from tests.support.object_store import DAYS, QUICK, SECRET, Reply, refuse
from transformer.config import DataConfig
from transformer.data.fetch import bucket_dates, sync_data
from transformer.errors import ServiceError, UserError
from transformer.storage.bucket import Bucket, TransferSettings
from transformer.storage.shared_folder import upload_folder

pytestmark = pytest.mark.usefixtures("credentials")


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
