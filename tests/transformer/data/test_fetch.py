"""Event tables come from a bucket: whole, verified, and only what is new."""

import json
import logging
import os
import re
import time
from datetime import timedelta

import pytest

from tests.support import commands
from tests.support.events import DAY, whole_date
from tests.support.object_store import (
    DAYS,
    FIRST,
    PART,
    SECRET,
    SIZE,
    TABLES,
    Reply,
    Store,
    cut,
    damage,
    files_in,
    open_bucket,
    times,
)
from tests.support.stores import STORES, answer_like
from transformer.config import Config, with_values
from transformer.data.fetch import SyncResult, bucket_dates, fetch_split, sync_data
from transformer.data.survey import Survey
from transformer.errors import ServiceError, UnansweredError, UserError
from transformer.storage.bucket import TransferSettings

pytestmark = pytest.mark.usefixtures("credentials")


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


def test_the_licences_come_with_the_data(store, proxy, tmp_path):
    store.put("sources.json", b"{}")
    sync_data(store.bucket(proxy), DAYS, tmp_path)
    assert (tmp_path / "sources.json").read_bytes() == b"{}"


def test_the_tables_of_optional_inputs_come_with_the_data(store, proxy, tmp_path):
    also = {"weather.parquet": "model.use_inputs.weather"}
    with pytest.raises(UserError, match=r"weather.parquet does not exist; upload it, or set .*weather=false"):
        sync_data(store.bucket(proxy), DAYS, tmp_path, also)
    store.put("weather.parquet", b"rain")
    sync_data(store.bucket(proxy), DAYS, tmp_path)
    assert not (tmp_path / "weather.parquet").exists()
    assert sync_data(store.bucket(proxy), DAYS, tmp_path, also).transferred == 1
    assert (tmp_path / "weather.parquet").read_bytes() == b"rain"


def test_a_bucket_without_prefix(store, proxy, tmp_path):
    for name, body in store.content.items():
        store.client.put_object(Bucket=store.name, Key=f"data/{name}", Body=body)
    bucket = open_bucket(bucket_name=store.name, endpoint_url=proxy.url)
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
    with pytest.raises(UnansweredError, match=rf"the download of \S+{FIRST} broke off, \w+\); .*run the stage again$"):
        sync_data(store.bucket(proxy), DAYS, tmp_path)
    assert FIRST not in files_in(tmp_path)
    assert not any(name.endswith(".tmp") for name in files_in(tmp_path))
    # The files that did arrive are complete, and are not downloaded again.
    arrived = len(files_in(tmp_path) & set(TABLES))
    proxy.after = times(0, cut)
    assert sync_data(store.bucket(proxy), DAYS, tmp_path).skipped == arrived
    store.assert_whole(tmp_path)


def multipart(store: Store, size: int = PART) -> None:
    body = os.urandom(2 * size + 12_345)
    key = {"Bucket": store.name, "Key": f"team/delays/data/{FIRST}"}
    upload = store.client.create_multipart_upload(**key)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(body), size), start=1):
        chunk = {"PartNumber": number, "Body": body[start : start + size]}
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
        "import sys; from datetime import date; from pathlib import Path; from transformer.config import Config;"
        "from transformer.data.fetch import bucket_dates, sync_data; from transformer.storage.bucket import Bucket;"
        "url, name, folder = sys.argv[1:];"
        "data = {'bucket_name': name, 'bucket_prefix': 'team/delays', 'endpoint_url': url};"
        "bucket = Bucket.from_config(Config(data=data)); sync_data(bucket, bucket_dates(bucket), Path(folder))"
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


def test_a_date_that_is_a_folder_of_parts_is_refused(store, proxy):
    store.put("events/events_2024-12-13.parquet/part-00000.parquet", b"odd")
    with pytest.raises(UserError, match=r"/events_2024-12-13\.parquet is a folder; .* one file"):
        bucket_dates(store.bucket(proxy))


def test_a_bucket_without_events_is_refused(store, proxy):
    with pytest.raises(UserError, match=rf"^s3://{store.name}/elsewhere/data/events/ .*events_YYYY-MM-DD\.parquet"):
        bucket_dates(open_bucket(bucket_name=store.name, bucket_prefix="elsewhere", endpoint_url=proxy.url))


@pytest.mark.parametrize(("size", "times_read", "unknown"), [(PART, 2, 0), (PART + 7, 3, 1)])
def test_a_multipart_upload_is_verified_without_the_number_of_its_parts(
    store, proxy, tmp_path, caplog, size, times_read, unknown
):
    """The store does not say how many parts an object had, so the usual sizes are tried."""
    caplog.set_level(logging.INFO)
    multipart(store, size)

    def forget(method: str, path: str, reply: Reply) -> None:
        if "partNumber=1" in path:
            reply.status, reply.headers, reply.body = 405, {}, b""

    damaged = times(1, damage, FIRST)
    proxy.after = lambda *request: (forget(*request), damaged(*request))
    sync_data(store.bucket(proxy), DAYS, tmp_path)
    store.assert_whole(tmp_path)
    # Parts of an unusual size: two equal downloads are taken for the content.
    assert sum(path.endswith(FIRST) for path in proxy.objects_read()) == times_read
    assert ("1 of 5 files have the size of their objects" in caplog.text) == unknown


def test_etags_that_are_no_md5_are_found_out_and_said(store, proxy, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    answer_like(proxy, STORES["ETag no MD5"], store.client)
    sync_data(store.bucket(proxy), DAYS, tmp_path)
    store.assert_whole(tmp_path)
    assert "5 of 5 files have the size of their objects, but their content could not be compared" in caplog.text
    assert sync_data(store.bucket(proxy), DAYS, tmp_path).transferred == 0


def test_a_run_keeps_its_rolling_split_when_dates_arrive(written, tmp_path):
    rolling = {"data.local_folder": str(tmp_path), "data.split.rolling": {"train": 2, "validation": 1, "test": 1}}
    config = with_values(Config(), rolling, "test")

    def split(dates, pinned):
        written(*map(whole_date, range(dates)))
        return fetch_split(config, pinned, Survey(config.data, tmp_path / "cache"))

    days = [DAY + timedelta(days=offset) for offset in range(7)]
    first = split(5, {})
    assert first.all == tuple(days[1:5])
    assert split(7, first.as_ranges()) == first
    assert split(7, {}).all == tuple(days[3:])
