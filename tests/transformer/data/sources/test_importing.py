"""All imports share missing dates, numbers of points, and attribution."""

from __future__ import annotations

import json
import logging
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tests.transformer.data.sources.layouts import Call, RideLayout, at
from transformer.data.sources.attribution import imported_dates, warn_of_other_zone
from transformer.data.sources.catalogue import SOURCES, described, source_named
from transformer.data.sources.importing import account, import_source
from transformer.data.sources.numbering import FIRST, Numbering
from transformer.data.sources.ride import Ride
from transformer.data.tables import events_path
from transformer.errors import UserError

DAYS = [date(2025, 1, 6), date(2025, 1, 7)]


def write(folder: Path) -> None:
    calls = [Call(day, 825, None, at(f"{day} 08:00")) for day in DAYS]
    RideLayout().write(folder, calls)


def run(folder: Path, target: Path, *days: date, missing: bool = False) -> tuple[dict[str, int], list[str]]:
    lines: list[str] = []
    counts = import_source(Ride(), target, days, folder, missing=missing, progress=lines.append)
    return counts, lines


def test_only_what_is_missing_is_imported(tmp_path: Path) -> None:
    write(tmp_path / "raw")
    run(tmp_path / "raw", tmp_path / "data", DAYS[0])
    assert imported_dates(tmp_path / "data", "ride") == (DAYS[0],)
    counts, _ = run(tmp_path / "raw", tmp_path / "data", *DAYS, missing=True)
    assert counts["service_dates"] == 1
    assert imported_dates(tmp_path / "data", "ride") == tuple(DAYS)
    counts, lines = run(tmp_path / "nowhere", tmp_path / "data", *DAYS, missing=True)
    assert counts == {} and "already" in lines[-1]


def test_what_is_there_is_not_imported_again(tmp_path: Path) -> None:
    """A month of which a date was imported before, without naming dates."""
    write(tmp_path / "raw")
    run(tmp_path / "raw", tmp_path / "data", DAYS[0])
    kept = events_path(tmp_path / "data", DAYS[0])
    kept.write_bytes(b"as it was")
    counts, _ = run(tmp_path / "raw", tmp_path / "data", missing=True)
    assert (counts["service_dates"], counts["dropped_outside_dates"]) == (1, 1)
    assert kept.read_bytes() == b"as it was"


def test_the_tables_agree_though_a_later_file_is_refused(tmp_path: Path) -> None:
    days = [date(2025, 1, 6), date(2025, 2, 3), date(2025, 3, 3)]
    RideLayout().write(tmp_path / "raw", [Call(day, 825, None, at(f"{day} 08:00")) for day in days])
    march = tmp_path / "raw" / "events" / "events_202503.parquet"
    pl.read_parquet(march).with_columns(pl.lit("no date").alias("service_date")).write_parquet(march)
    with pytest.raises(UserError, match=r"events_202503\.parquet: no row of it is usable"):
        run(tmp_path / "raw", tmp_path / "data")
    written = sorted((tmp_path / "data" / "events").iterdir())
    assert [path.name for path in written] == ["events_2025-01-06.parquet"]
    assert pl.read_parquet(tmp_path / "data" / "journeys.parquet")["service_date"].to_list() == [days[0]]


def test_dates_without_trains_are_not_missing(tmp_path: Path) -> None:
    """A month was imported whole, though no train ran on most of its dates."""
    write(tmp_path / "raw")
    run(tmp_path / "raw", tmp_path / "data")
    assert len(imported_dates(tmp_path / "data", "ride")) == 31


def test_a_folder_without_files_and_one_that_is_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        run(tmp_path / "nowhere", tmp_path / "data")
    with pytest.raises(UserError, match=r"holds no file of ride: events/events_YYYYMM\.parquet"):
        run(tmp_path, tmp_path / "data")


def test_a_damaged_attribution_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "raw")
    run(tmp_path / "raw", tmp_path / "data")
    (tmp_path / "data" / "sources.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match=r"sources\.json does not come from an import"):
        run(tmp_path / "raw", tmp_path / "data")


def test_another_time_zone_than_that_of_the_source_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "raw")
    run(tmp_path / "raw", tmp_path / "data")
    warn_of_other_zone(tmp_path / "data", "Europe/Brussels")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        warn_of_other_zone(tmp_path / "data", "Europe/Paris")
    assert "data.timezone=Europe/Paris" in caplog.text and "Europe/Brussels" in caplog.text


def test_the_account_gives_the_reason_of_each_row() -> None:
    counts = {"rows": 1_200, "events": 1_000, "observed": 250, "positions": 3, "dropped_no_planned_time": 200}
    lines = list(account(counts))
    assert lines[:3] == ["1,200  rows", "1,000  events", "  250  observed, 25.0% of the events"]
    assert lines[3] == "    3  points with a position"
    assert lines[4].startswith("  200  dropped: there is no planned time")


def test_every_source_describes_itself() -> None:
    for name, source in SOURCES.items():
        text = described(source.about)
        assert text.startswith(f"{name}: ")
        assert source.about.licence in text
    with pytest.raises(UserError, match=r"source 'rde' is unknown; choose one of ride, infrabel"):
        source_named("rde")


# --- numbers of points -----------------------------------------------------------------------------------------------
def numbered(known: pl.DataFrame, *source_ids: str) -> dict[str, int]:
    frame = pl.DataFrame(
        {"op_id": None, "source_id": list(source_ids)}, schema={"op_id": pl.Int32, "source_id": pl.String}
    )
    return dict(Numbering(known).apply(frame).select("source_id", "op_id").iter_rows())


NOTHING = pl.DataFrame(schema={"op_id": pl.Int32, "source_id": pl.String})


def test_a_point_has_the_same_number_whatever_else_is_imported() -> None:
    alone = numbered(NOTHING, "fi:FI:1000")
    among = numbered(NOTHING, "nl:AMF", "fi:RU:1000", "fi:FI:1000")
    assert alone["fi:FI:1000"] == among["fi:FI:1000"]
    assert len(set(among.values())) == 3
    assert min(among.values()) >= FIRST


def test_two_ids_with_the_same_hash_get_two_numbers_and_keep_them() -> None:
    [number] = numbered(NOTHING, "nl:AMF").values()
    taken = pl.DataFrame({"op_id": [number], "source_id": ["another:point"]}, schema=NOTHING.schema)
    moved = numbered(taken, "nl:AMF")
    assert moved == {"nl:AMF": number + 1}
    kept = pl.concat([taken, pl.DataFrame({"op_id": [number + 1], "source_id": ["nl:AMF"]}, schema=NOTHING.schema)])
    assert numbered(kept, "nl:AMF") == moved


def test_a_number_of_the_source_stays() -> None:
    frame = pl.DataFrame({"op_id": [825], "source_id": [None]}, schema=NOTHING.schema)
    assert Numbering(NOTHING).apply(frame)["op_id"].to_list() == [825]


def test_the_attribution_is_readable_by_people(tmp_path: Path) -> None:
    write(tmp_path / "raw")
    run(tmp_path / "raw", tmp_path / "data", *DAYS)
    found = json.loads((tmp_path / "data" / "sources.json").read_text(encoding="utf-8"))
    assert found["ride"]["dates"] == ["2025-01-06..2025-01-07"]
    assert found["ride"]["licence"].startswith("CC BY 4.0")
