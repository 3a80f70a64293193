"""Parquet files are written whole, and a damaged file is refused in one line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import polars as pl
import pytest

from tests.support.messages import assert_names
from transformer.errors import UserError
from transformer.parquet import read_parquet, write_parquet

REPOSITORY = Path(__file__).resolve().parents[2]


def test_parquet_round_trip(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, None], "b": ["x", "y"]})
    write_parquet(tmp_path / "a[1].parquet", frame)  # the brackets are part of the name
    assert read_parquet(tmp_path / "a[1].parquet", "make it").equals(frame)


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


def test_missing_parquet_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.parquet", tmp_path):
        with pytest.raises(UserError) as caught:
            read_parquet(path, "make it")
        assert_names(caught.value, str(path), "does not exist", "make it")
