"""Files appear whole under their final name, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from transformer.errors import UserError
from transformer.files import atomic_folder, atomic_path, content_hash, file_digest, read_json, write_json, write_text
from transformer.parquet import write_parquet


class InterruptionError(Exception):
    """Ends a block early."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def failing_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(os, "rename", fail)


# --- files -----------------------------------------------------------------------------------------------------------
def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "délai\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "délai\n".encode()
    assert names(tmp_path / "a") == ["b.txt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(InterruptionError), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        raise InterruptionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.usefixtures("failing_rename")
def test_a_failing_rename_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space"):
        write_text(tmp_path / "file", "new")
    with pytest.raises(OSError, match="no space"):
        write_parquet(tmp_path / "table.parquet", pl.DataFrame({"a": [1]}))
    assert names(tmp_path) == []


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        pass
    assert names(tmp_path) == []


def test_the_temporary_file_is_hidden_and_unique(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "file") as one, atomic_path(tmp_path / "file") as other:
        assert one != other
        assert one.parent == tmp_path
        assert one.name.startswith(".file.")
        one.write_text("1")
        other.write_text("2")
    assert (tmp_path / "file").read_text() == "1"  # the outer block ends last
    assert names(tmp_path) == ["file"]


def test_json_round_trip(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "a": date(2024, 12, 13), "p": Path("x/y")})
    assert read_json(tmp_path / "a.json") == {"a": "2024-12-13", "b": [1, 2.5, None], "p": "x/y"}
    assert (tmp_path / "a.json").read_text().startswith('{\n  "a"')


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"skill": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe"])
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json .*JSON \(.*\).*remove it"):
        read_json(tmp_path / "a.json")


def test_missing_json_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json does not exist"):
        read_json(tmp_path / "a.json")


def test_digest_is_sha_256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"trains" * 100_000)
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"trains" * 100_000).hexdigest()


# --- folders ---------------------------------------------------------------------------------------------------------
def fill(folder: Path, content: str) -> None:
    write_json(folder / "content.json", content)


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "0123"
    with atomic_folder(target) as temporary:
        fill(temporary, "new")
        assert not target.exists()
    assert json.loads((target / "content.json").read_text()) == "new"
    assert names(tmp_path / "cache") == ["0123"]


@pytest.mark.parametrize("replace", [False, True])
def test_an_interrupted_folder_leaves_the_old_one(tmp_path: Path, replace: bool) -> None:
    target = tmp_path / "0123"
    target.mkdir()
    fill(target, "old")
    with pytest.raises(InterruptionError), atomic_folder(target, replace) as temporary:
        fill(temporary, "new")
        raise InterruptionError
    assert read_json(target / "content.json") == "old"
    assert names(tmp_path) == ["0123"]


@pytest.mark.usefixtures("failing_rename")
def test_a_failing_rename_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space"), atomic_folder(tmp_path / "0123") as temporary:
        (temporary / "content").write_text("new")
    assert names(tmp_path) == []


def test_a_failing_replacement_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "0123"
    target.mkdir()
    fill(target, "old")
    rename = os.rename

    def fail_for_the_new(source: Path, destination: Path) -> None:
        if Path(source).suffix == ".tmp":
            raise OSError("no space left on device")
        rename(source, destination)

    with pytest.raises(OSError, match="no space"), atomic_folder(target, replace=True) as temporary:
        fill(temporary, "new")
        monkeypatch.setattr(os, "rename", fail_for_the_new)
    assert read_json(target / "content.json") == "old"
    assert names(tmp_path) == ["0123"]


@pytest.mark.parametrize(("replace", "expected"), [(False, "old"), (True, "new")])
def test_replacing_a_folder(tmp_path: Path, replace: bool, expected: str) -> None:
    target = tmp_path / "0123"
    for content in ("old", "new"):
        with atomic_folder(target, replace) as temporary:
            fill(temporary, content)
    assert read_json(target / "content.json") == expected
    assert names(tmp_path) == ["0123"]


@pytest.mark.parametrize("replace", [False, True])
def test_two_processes_may_make_the_same_folder(tmp_path: Path, replace: bool) -> None:
    target = tmp_path / "0123"
    with atomic_folder(target, replace) as one:
        fill(one, "same")
        with atomic_folder(target, replace) as other:
            fill(other, "same")
        assert read_json(target / "content.json") == "same"
    assert read_json(target / "content.json") == "same"
    assert names(tmp_path) == ["0123"]


def test_a_file_in_the_way_of_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "0123").write_text("mine")
    with pytest.raises(OSError), atomic_folder(tmp_path / "0123") as temporary:
        fill(temporary, "new")
    assert (tmp_path / "0123").read_text() == "mine"
    assert names(tmp_path) == ["0123"]


def test_content_hash_depends_on_content_alone() -> None:
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert content_hash("a", "b") != content_hash("ab")
    assert len(content_hash()) == 16
