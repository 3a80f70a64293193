"""Hostile data folders with one wrong file: `fetch-files` succeeds, or prints one line and exits with 2."""

import shutil
import tempfile
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import hostile
from tests.fuzz.conftest import FUZZ
from transformer.cli import main
from transformer.data.events import EVENT_SCHEMA
from transformer.data.tables import events_path, journeys_path, op_nodes_path

pytestmark = pytest.mark.slow

DAY = date(2025, 3, 28)  # the clock changes on the 30th
DAYS = [DAY + timedelta(days=n) for n in range(4)]
TIMES = [
    datetime(2025, 3, 30, 2, 30),  # skipped
    datetime(2025, 10, 26, 2, 30),  # repeated
    datetime(2025, 3, 29, 23, 59, 59),
    datetime(2025, 3, 30, 0, 0),
    datetime(1, 1, 1),
    datetime(9999, 12, 31, 23, 59),
    datetime(1970, 1, 1),
]
COLUMNS = [*EVENT_SCHEMA, "train_number", "train_type", "op_name", "lat", "lon"]
hostile_columns = (
    st.lists(st.none() | st.sampled_from(TIMES) | st.datetimes(), min_size=1, max_size=4)
    | st.lists(st.none() | st.floats() | st.sampled_from([0.5, 1e300]), min_size=1, max_size=4)
    | st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4)
    | st.lists(st.none() | hostile.texts, min_size=1, max_size=4)
    | st.lists(st.none() | st.booleans(), min_size=1, max_size=4)
    | st.lists(st.lists(st.integers(0, 9), max_size=2), min_size=1, max_size=4)
)


@st.composite
def changes(draw):
    """Draw a change to one file of a sound folder: a function that gets the path and changes the file."""
    kind = draw(
        st.sampled_from(["bytes", "cut", "column", "column", "column", "rows", "drop", "gone", "folder", "text"])
    )
    if kind == "bytes":
        flips = draw(
            st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8)
        )
        return lambda path: _flip(path, flips)
    if kind == "cut":
        share = draw(st.floats(0, 1, exclude_max=True))
        return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    if kind == "text":
        text = draw(hostile.texts | st.just("train_id,op_id\n1,2\n"))
        return lambda path: path.write_bytes(text.encode("utf-8", "surrogatepass"))
    if kind == "gone":
        return Path.unlink
    if kind == "folder":
        return lambda path: (path.unlink(), path.mkdir())
    if kind == "drop":
        names = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=3))
        return lambda path: _rewrite(path, lambda frame: frame.drop([name for name in names if name in frame.columns]))
    if kind == "rows":
        rows = draw(st.sampled_from(["none", "one", "twice", "reversed", "shuffled"]))
        return lambda path: _rewrite(path, lambda frame: _rows(frame, rows))
    name, values = draw(st.sampled_from(COLUMNS)), draw(hostile_columns)
    everywhere = draw(st.booleans())
    return lambda path: _rewrite(path, lambda frame: _column(frame, name, values, everywhere))


def _flip(path, flips):
    content = bytearray(path.read_bytes())
    for place, mask in flips:
        content[int(place * len(content))] ^= mask
    path.write_bytes(content)


def _rewrite(path, change):
    change(pl.read_parquet(path)).write_parquet(path)


def _rows(frame, rows):
    return {
        "none": frame.clear,
        "one": lambda: frame.head(1),
        "twice": lambda: pl.concat([frame, frame]),
        "reversed": frame.reverse,
        "shuffled": lambda: frame.sample(fraction=1, shuffle=True, seed=0),
    }[rows]()


def _column(frame, name, values, everywhere):
    """Return a column of repeated `values` or, if its type can hold them, with `values` in its first rows."""
    if frame.is_empty():
        return frame
    column = pl.Series(name, (values * frame.height)[: frame.height], strict=False)
    if not everywhere and name in frame.columns:
        first = pl.int_range(pl.len()) < len(values)
        try:
            return frame.with_columns(pl.when(first).then(column.cast(frame.schema[name])).otherwise(name).alias(name))
        except pl.exceptions.PolarsError:
            pass
    return frame.with_columns(column)


@pytest.fixture(scope="module")
def sound():
    """A small simulated folder."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "sound"
        small = f"--start-date {DAY} --service-dates {len(DAYS)} --lines 1 --points 6 --journeys-per-day 8"
        assert main(["simulate", "--to", str(folder), *small.split()]) == 0
        yield folder


def beside(folder, parent):
    return {
        path: path.stat().st_mtime_ns for path in parent.rglob("*") if folder not in path.parents and path != folder
    }


def test_a_folder_is_read_or_refused_in_one_line(sound, capsys):
    files = [*(events_path(Path(), day) for day in DAYS[:2]), op_nodes_path(Path()), journeys_path(Path())]
    ended = {0: 0, 2: 0}

    @FUZZ
    @given(st.sampled_from(files), changes())
    def check(name, change):
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "data"
            shutil.copytree(sound, folder)
            change(folder / name)
            before = beside(folder, Path(parent))
            capsys.readouterr()
            status = main(["fetch-files", "--env", "local", "--set", f"data.local_folder={folder}"])
            lines = capsys.readouterr().err.splitlines()
            assert status in ended, lines
            assert sum(line.startswith("error: ") for line in lines) == (status == 2), lines
            assert not any(line.startswith("Traceback") for line in lines), lines
            assert beside(folder, Path(parent)) == before
            assert not [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".old"))]
            ended[status] += 1

    check()
    assert min(ended.values()) > 50
