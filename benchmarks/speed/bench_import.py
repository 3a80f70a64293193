"""Speed of `import`: time and memory for large files of public sources, which are generated in the exact layouts.

    .venv/bin/python benchmarks/speed/bench_import.py                   # all three files: some two minutes
    .venv/bin/python benchmarks/speed/bench_import.py istdaten          # one of them
    .venv/bin/python benchmarks/speed/bench_import.py --share 0.01      # small files, to try it out

    ride        a month of RIDE with 2.6 million events
    istdaten    a day of the Swiss Ist-Daten: 2.5 million rows of all modes of transport, 600 MB
    infrabel    a month of Infrabel with 2 million rows, 330 MB

Every file is generated and imported in separate processes. The memory is the peak resident memory of the process of the
import. It counts the pages of the file that are mapped into memory. The limits apply to whole files.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.processes import in_a_process_of_its_own, peak_gib  # the line above finds the package

MOST_GIB = 2.0  # limit of the peak memory
FIRST = date(2024, 6, 3)  # no clock changes in its month
POINTS = 1_100  # of the network


@dataclass(frozen=True)
class File:
    """A generated file, and the limit of its import in seconds on two cores."""

    write: Callable[[Path, float], None]
    what: str
    most_seconds: float


@dataclass(frozen=True)
class Measurement:
    counts: dict[str, int]
    megabytes: float  # of the raw files
    seconds: float
    peak_gib: float


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="time and memory of imports")
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help=f"any of {', '.join(FILES)}; default: all")
    parser.add_argument("--share", type=float, default=1.0, help="share of the trains of each file; default: 1")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.sources if name not in FILES]:
        parser.error(f"source {unknown[0]!r} is none of {', '.join(FILES)}")
    sound = True
    for name in chosen.sources or FILES:
        file = FILES[name]
        with TemporaryDirectory() as scratch:
            raw = Path(scratch) / "raw"
            in_a_process_of_its_own(file.write, raw, chosen.share)
            found = in_a_process_of_its_own(measure, name, raw, Path(scratch) / "data")
        most = file.most_seconds
        print(
            f"{name}: {file.what} with {found.counts['rows']:,} rows, {found.megabytes:,.0f} MB: "
            f"{found.seconds:.1f} s (below {most:g} s), peak memory {found.peak_gib:.2f} GiB (below {MOST_GIB:g} GiB), "
            f"{found.counts['events']:,} events of {found.counts['journeys']:,} journeys"
        )
        if chosen.share == 1:
            sound = sound and found.seconds < most and found.peak_gib < MOST_GIB
    return 0 if sound else 1


def measure(name: str, raw: Path, target: Path) -> Measurement:
    """Import the files of a folder."""
    from transformer.data.sources.catalogue import SOURCES
    from transformer.data.sources.importing import import_source

    start = time.perf_counter()
    counts = import_source(SOURCES[name], target, folder=raw, progress=lambda _: None)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in raw.rglob("*") if path.is_file())
    return Measurement(counts, size / 1e6, seconds, peak_gib())


# --- Generated files -------------------------------------------------------------------------------------------------
def timetable(days: int, journeys: int, visits: int) -> pl.DataFrame:
    """The visits of `journeys` trains a day with `visits` visits each, in their order.

    Returns:
        Columns day, train (number of the journey of the day), visit, point, and the naive local times `planned_arr`,
        `planned_dep`, `observed_arr` and `observed_dep`. A train has no arrival at its first point, and no departure
        from its last one.
    """
    train, visit = pl.col("train"), pl.col("visit")
    dates = pl.DataFrame({"day": [FIRST.replace(day=1) + timedelta(days=number) for number in range(days)]})
    start = pl.col("day").cast(pl.Datetime("us")) + pl.duration(minutes=240 + train * 1_140 // max(journeys, 1))
    arrival = start + pl.duration(minutes=visit * 4)
    delay = pl.duration(
        seconds=(train * 7_919 + visit * 104_729 + pl.col("day").dt.day().cast(pl.Int64) * 1_299_709) % 601 - 60
    )
    return (
        dates.join(pl.DataFrame({"train": range(journeys)}), how="cross")
        .join(pl.DataFrame({"visit": range(visits)}), how="cross")
        .with_columns(
            ((train * 7 + visit) % POINTS).alias("point"),
            pl.when(visit > 0).then(arrival).alias("planned_arr"),
            pl.when(visit < visits - 1).then(arrival + pl.duration(minutes=1)).alias("planned_dep"),
        )
        .with_columns((pl.col(f"planned_{side}") + delay).alias(f"observed_{side}") for side in ("arr", "dep"))
    )


def write_ride_month(folder: Path, share: float) -> None:
    table = timetable(30, _scaled(3_100, share), 15).with_row_index("row")
    day = pl.col("day").dt.strftime("%d%b%Y").str.to_uppercase().alias("service_date")
    events = pl.concat(
        table.drop_nulls(f"planned_{side}").select(
            pl.col("train").cast(pl.String).alias("train_id"),
            day,
            pl.col("point").cast(pl.Int64).alias("op_id"),
            pl.lit(kind).alias("event_type"),
            pl.lit("37").alias("arr_line_id"),
            pl.lit("37").alias("dep_line_id"),
            pl.col(f"planned_{side}").alias("planned_ts"),
            pl.col(f"observed_{side}").alias("observed_ts"),
            (pl.col(f"observed_{side}") - pl.col(f"planned_{side}")).dt.total_seconds().alias("delay_sec"),
            "row",
        )
        for side, kind in (("arr", "A"), ("dep", "D"))
    )
    journeys = (
        events.select("train_id", "service_date", pl.lit("IC 15").alias("train_relation"))
        .unique(maintain_order=True)
        .with_columns(pl.lit("SNCB/NMBS").alias("operator"), pl.lit("IC 15: A -> B").alias("relation_direction"))
    )
    for name, frame in (("events", events.sort("row", "event_type").drop("row")), ("journeys", journeys)):
        (folder / name).mkdir(parents=True)
        frame.write_parquet(folder / name / f"{name}_{FIRST:%Y%m}.parquet")


def write_istdaten_day(folder: Path, share: float) -> None:
    """16,000 runs of trains and 211,000 of other modes."""
    trains = _scaled(16_000, share)
    table = timetable(1, trains + _scaled(211_000, share), 11)
    is_train = pl.col("train") < trains
    mode = pl.when(is_train)
    number = pl.col("train").cast(pl.String)
    text = {"ANKUNFTSZEIT": "arr", "ABFAHRTSZEIT": "dep"}
    columns = {
        "BETRIEBSTAG": pl.col("day").dt.strftime("%d.%m.%Y"),
        "FAHRT_BEZEICHNER": mode.then(pl.format("85:11:{}:001", number)).otherwise(
            pl.format("85:849:429889-{}-1", number)
        ),
        "BETREIBER_ID": mode.then(pl.lit("85:11")).otherwise(pl.lit("85:849")),
        "BETREIBER_ABK": mode.then(pl.lit("SBB")).otherwise(pl.lit("VBZ")),
        "BETREIBER_NAME": mode.then(pl.lit("Schweizerische Bundesbahnen SBB")).otherwise(
            pl.lit("Verkehrsbetriebe Zürich")
        ),
        "PRODUKT_ID": mode.then(pl.lit("Zug")).otherwise(pl.lit("Bus")),
        "LINIEN_ID": number,
        "LINIEN_TEXT": mode.then(pl.lit("S16")).otherwise(pl.lit("63")),
        "UMLAUF_ID": pl.lit(""),
        "VERKEHRSMITTEL_TEXT": mode.then(pl.lit("S")).otherwise(pl.lit("B")),
        "ZUSATZFAHRT_TF": pl.lit("false"),
        "FAELLT_AUS_TF": pl.lit("false"),
        "BPUIC": (pl.col("point") + 8_503_000).cast(pl.String),
        "HALTESTELLEN_NAME": pl.format("Zürich, Haltestelle {}", "point"),
    }
    for planned, side in text.items():
        real = planned[:2] + "_PROGNOSE"
        columns[planned] = pl.col(f"planned_{side}").dt.strftime("%d.%m.%Y %H:%M")
        columns[real] = pl.col(f"observed_{side}").dt.strftime("%d.%m.%Y %H:%M:%S")
        columns[f"{real}_STATUS"] = mode.then(pl.lit("REAL")).otherwise(pl.lit("PROGNOSE"))
    columns["DURCHFAHRT_TF"] = pl.lit("false")
    columns["SLOID"] = pl.format("ch:1:sloid:{}:1:2", pl.col("point") + 3_000)
    folder.mkdir(parents=True)
    rows = table.lazy().select(expression.alias(name) for name, expression in columns.items())
    rows.sink_csv(folder / f"{FIRST.replace(day=1)}_istdaten.csv", separator=";", quote_style="never")


def write_infrabel_month(folder: Path, share: float) -> None:
    table = timetable(30, _scaled(3_500, share), 19)
    columns = {
        "DATDEP": pl.col("day").dt.strftime("%d%b%Y").str.to_uppercase(),
        "TRAIN_NO": pl.col("train").cast(pl.String),
        "RELATION": pl.lit("IC 15"),
        "TRAIN_SERV": pl.lit("SNCB/NMBS"),
        "PTCAR_NO": pl.col("point").cast(pl.String),
        "THOP1_COD": pl.lit("="),
        "LINE_NO_DEP": pl.lit("37"),
    }
    clocks = {
        f"{kind}_TIME_{side}": pl.col(f"{name}_{side}".lower()).dt.strftime("%-H:%M:%S")
        for kind, name in (("REAL", "observed"), ("PLANNED", "planned"))
        for side in ("ARR", "DEP")
    }
    columns |= clocks
    for side in ("arr", "dep"):
        seconds = (pl.col(f"observed_{side}") - pl.col(f"planned_{side}")).dt.total_seconds()
        columns[f"DELAY_{side.upper()}"] = seconds.cast(pl.String)
    columns |= {
        "CIRC_TYP": pl.lit("1"),
        "RELATION_DIRECTION": pl.lit("IC 15: ANTWERPEN-CENTRAAL -> BRUSSEL-ZUID"),
        "PTCAR_LG_NM_NL": pl.format("BRUSSEL-POINT {}", "point"),
        "LINE_NO_ARR": pl.lit("37"),
    }
    for kind, name in (("PLANNED", "planned"), ("REAL", "observed")):
        for side in ("arr", "dep"):
            day = pl.col(f"{name}_{side}").dt.strftime("%d%b%Y").str.to_uppercase()
            columns[f"{kind}_DATE_{side.upper()}"] = day
    folder.mkdir(parents=True)
    rows = table.lazy().select(expression.alias(name) for name, expression in columns.items())
    rows.sink_csv(folder / f"Data_raw_punctuality_{FIRST:%Y%m}.csv")


def _scaled(number: int, share: float) -> int:
    return max(1, round(number * share))


FILES = {
    "ride": File(write_ride_month, "a month", 50),  # 36 months in 30 minutes
    "istdaten": File(write_istdaten_day, "a day", 20),
    "infrabel": File(write_infrabel_month, "a month", 20),
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
