"""Folders that machines share through a bucket arrive whole, or not at all."""

import json
import os
from pathlib import Path

import pytest

from tests.support.object_store import IMPATIENT, files_in, times
from transformer.errors import ServiceError, UnansweredError, UserError
from transformer.storage.shared_folder import download_folder, upload_folder

pytestmark = pytest.mark.usefixtures("credentials")


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
        if method == "PUT" and "/statistics/" in path:
            left[0] -= 1
            if left[0] < 0:
                raise ConnectionResetError

    proxy.before = break_down
    bucket = store.bucket(proxy, IMPATIENT)
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
    with pytest.raises(UnansweredError, match=r"the download of \S+sections\.parquet broke off"):
        download_folder(bucket, "statistics/ab12", cache / "ab12")
    assert list(cache.iterdir()) == []
