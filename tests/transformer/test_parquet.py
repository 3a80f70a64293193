"""Parquet files are written whole, and a damaged file is refused in one line."""

from __future__ import annotations

import ast
import errno
import io
import os
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest

from tests.support.messages import assert_names
from transformer import parquet
from transformer.errors import UserError
from transformer.files import file_digest, read_json
from transformer.parquet import read_parquet, write_parquet

REPOSITORY = Path(__file__).resolve().parents[2]


def test_parquet_round_trip(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, None], "b": ["x", "y"]})
    write_parquet(tmp_path / "a[1].parquet", frame)  # the brackets are part of the name
    assert read_parquet(tmp_path / "a[1].parquet", "make it").equals(frame)


@pytest.mark.parametrize(("asked", "read"), [(["b"], ["b"]), (["c", "a"], ["c", "a"]), (["b", "d"], ["a", "b", "c"])])
def test_only_the_columns_that_are_asked_for_are_read(tmp_path: Path, asked: list[str], read: list[str]) -> None:
    """Without one of them, all columns are read, so that the message can list them."""
    frame = pl.DataFrame({"a": [1], "b": ["x"], "c": [None]})
    write_parquet(tmp_path / "a.parquet", frame)
    assert read_parquet(tmp_path / "a.parquet", "make it", asked).equals(frame.select(read))


def test_no_path_is_taken_for_a_pattern() -> None:
    """A folder may have brackets in its name. Polars reads them as a pattern unless `glob=False`."""
    calls = [
        (path.name, node.lineno, node)
        for folder in ("transformer", "benchmarks", "scripts")
        for path in (REPOSITORY / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and re.fullmatch(r"(read|scan)_(parquet|csv|ipc|ndjson)", node.func.attr)
        and ast.unparse(node.func.value) == "pl"
    ]
    assert len(calls) > 5
    assert [(name, line) for name, line, node in calls if "glob" not in {word.arg for word in node.keywords}] == []


@pytest.mark.parametrize("damage", ["empty", "truncated", "not Parquet", "middle lost"])
def test_damaged_parquet_is_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, pl.DataFrame({"a": range(10_000)}))
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "truncated": whole[: len(whole) // 2],
            "not Parquet": b"train_id,seq\n1,2\n",
            "middle lost": whole[:100] + bytes(len(whole) - 600) + whole[-500:],
        }[damage]
    )
    with pytest.raises(UserError, match=r"a\.parquet.*not Parquet \(.*\).*make it again$") as caught:
        read_parquet(path, "make it again")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_polars_panics_at_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flipped bits can make Polars panic. A panic is no Exception."""

    def panic(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("called `Option::unwrap()` on a `None` value")

    write_parquet(tmp_path / "a.parquet", pl.DataFrame({"a": [1]}))
    monkeypatch.setattr(pl, "read_parquet", panic)
    with pytest.raises(UserError, match=r"a\.parquet.*not Parquet \(called .*\).*make it again$"):
        read_parquet(tmp_path / "a.parquet", "make it again")


def test_a_file_that_changes_while_it_is_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes into the same file, instead of renaming a whole file."""
    path = tmp_path / "a.parquet"
    write_parquet(path, pl.DataFrame({"a": [1]}))
    whole = parquet._Content

    def content(read: bytes) -> BytesIO:
        with path.open("ab") as file:
            file.write(b"more")
        return whole(read)

    monkeypatch.setattr(parquet, "_Content", content)
    with pytest.raises(UserError) as caught:
        read_parquet(path, "make it")
    assert_names(caught.value, str(path), "changed while it was read", "run again")


def test_a_file_that_another_one_replaces_is_read_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_parquet(path, pl.DataFrame({"a": [1]}))
    write_parquet(other, pl.DataFrame({"a": [2, 3]}))
    whole = parquet._Content
    monkeypatch.setattr(parquet, "_Content", lambda read: (other.rename(path), whole(read))[1])
    assert read_parquet(path, "make it")["a"].to_list() == [1]


@pytest.mark.parametrize("read", [lambda path: read_parquet(path, "make it"), file_digest, read_json])
@pytest.mark.parametrize(
    ("number", "parts"),
    [
        (errno.EACCES, ["cannot be read (Permission denied)", "let the user of this process read"]),
        (errno.ENOENT, ["went away while it was read", "run again"]),
        (errno.ESTALE, ["went away while it was read", "run again"]),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], number: int, parts: list[str]
) -> None:
    """Permissions do not bind root, so the fault is in the call that opens the file."""
    path = tmp_path / "a.parquet"
    path.touch()

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))  # some errors name no file

    with monkeypatch.context() as patched:
        patched.setattr(io, "open", refused)
        with pytest.raises(UserError) as caught:
            read(path)
        assert_names(caught.value, str(path), *parts)
        number = errno.EIO
        with pytest.raises(OSError, match=f"Input/output error: '{path}'"):
            read(path)


def test_missing_parquet_is_one_line(tmp_path: Path) -> None:
    for path, fault in ((tmp_path / "none.parquet", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(UserError) as caught:
            read_parquet(path, "make it")
        assert_names(caught.value, str(path), fault, "make it")
