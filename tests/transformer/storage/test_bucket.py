"""Single objects of a bucket, and how refusals of the service are explained."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests

from tests.support.object_store import DAYS, IMPATIENT, SECRET, Reply, open_bucket, refuse
from transformer.data.fetch import bucket_dates, sync_data
from transformer.errors import UnansweredError, UserError
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
        open_bucket(**{"bucket_name": "trains", **settings})
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
    """Moto begins to check credentials. Ceph always does, and has no such address."""

    def switch(actions_without_check: str) -> None:
        answer = requests.post(f"http://{server}/moto-api/reset-auth", actions_without_check.encode())
        assert answer.status_code in (200, 404, 405)

    switch("0")
    try:
        yield
    finally:
        switch("inf")


def test_unknown_credentials_name_bucket_and_remedy(server, store, proxy, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAPLANTEDBUTUNKNOWN")
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
    bucket = open_bucket(bucket_name="no-such-trains", endpoint_url=proxy.url)
    with pytest.raises(UserError, match=rf"^data\.bucket_name='no-such-trains' .*exist.* {proxy.url}"):
        bucket_dates(bucket)


def test_an_address_that_is_no_s3_service(proxy):
    proxy.after = refuse("", 404)
    bucket = open_bucket(bucket_name="trains", endpoint_url=proxy.url)
    with pytest.raises(UserError, match=rf"^data\.bucket_name='trains' .*exist.* {proxy.url}"):
        bucket_dates(bucket)


def test_a_name_that_no_bucket_can_have(proxy):
    bucket = open_bucket(bucket_name="not a bucket", endpoint_url=proxy.url)
    with pytest.raises(UserError, match=r"^data\.bucket_name='not a bucket' .*name"):
        bucket_dates(bucket)


def test_nobody_listening():
    bucket = open_bucket(IMPATIENT, bucket_name="trains", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(UnansweredError, match=r"^s3://trains: http://127\.0\.0\.1:9 did not answer \(End") as caught:
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
    with pytest.raises(UnansweredError, match=r"did not answer \(it answered 503 SlowDown\)"):
        bucket_dates(store.bucket(proxy, IMPATIENT))


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


@pytest.mark.parametrize(("code", "status"), [("ConditionalRequestConflict", 409), ("PreconditionFailed", 412)])
def test_a_write_that_crosses_another_is_none(store, proxy, code, status):
    bucket = store.bucket(proxy)
    assert bucket.features.conditional
    proxy.after = refuse(code, status)
    assert not bucket.write_text("optuna/x.lock", "x", replaces="")


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


# --- what only the user can mend, and where ------------------------------------------------------------------------
@pytest.mark.parametrize("pod", [False, True])
def test_the_remedy_for_credentials_fits_the_place(store, proxy, monkeypatch, pod):
    if pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    proxy.after = refuse("AccessDenied", 403)
    with pytest.raises(UserError) as caught:
        bucket_dates(store.bucket(proxy))
    assert ("the secret that compute.kubernetes.secret names" in one_line(caught.value)) == pod
    assert ("AWS_PROFILE" in str(caught.value)) != pod


def test_a_wrong_clock_is_no_wrong_key(store, proxy):
    refused = refuse("RequestTimeTooSkewed", 403)

    def after(method: str, path: str, reply: Reply) -> None:
        refused(method, path, reply)
        reply.headers["Date"] = format_datetime(datetime.now(UTC) - timedelta(hours=2), usegmt=True)

    proxy.after = after
    with pytest.raises(
        UserError, match=r"the clock here differs .* by 7,20\d s \(ahead\).*; set the clock of this"
    ) as e:
        bucket_dates(store.bucket(proxy))
    one_line(e.value)


def test_a_bucket_of_another_account_may_exist(proxy):
    bucket = open_bucket(bucket_name="no-such-trains", endpoint_url=proxy.url)
    with pytest.raises(
        UserError, match=r"does not exist at .*, or belongs to an account that these credentials cannot"
    ):
        bucket_dates(bucket)


def test_a_store_with_tls_at_an_address_without_is_the_users_to_mend(store, proxy):
    bucket = open_bucket(bucket_name="trains", endpoint_url=proxy.url.replace("http://", "https://"))
    with pytest.raises(UserError, match=r"no secure connection .*http:// and https://.* AWS_CA_BUNDLE"):
        bucket_dates(bucket)
