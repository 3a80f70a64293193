"""Evaluation rows in Parquet files, so that an evaluation of any number of dates fits into memory.

All rows of a service date are a *part*. A journey and its events belong to one part, and so do the rows that two models
predict for the same event. An evaluation reads one part at a time, and keeps sums and counts of it, or single columns.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from transformer.memory import give_back_free_memory
from transformer.pace import Pace
from transformer.parquet import write_parquet
from transformer.prediction.columns import ROW_KEY

log = logging.getLogger(__name__)

ROWS_AT_A_TIME = 250_000  # rows that are held until they are written: some 60 MB


@dataclass(frozen=True)
class RowFiles:
    """Evaluation rows in files. Each file holds rows of one service date, in the order in which they were written."""

    folder: Path
    files: dict[date, tuple[Path, ...]]  # in the order of the dates
    schema: pl.Schema
    height: int

    @property
    def columns(self) -> list[str]:
        return self.schema.names()


EvaluationRows = pl.DataFrame | RowFiles  # see `columns.ROW_SCHEMA`; with or without quantiles


def write_rows(frames: Iterable[pl.DataFrame], folder: Path) -> RowFiles:
    """Write evaluation rows into `folder`, while they are made.

    Args:
        frames: at least one; the rows of a date may be in several of them.

    Raises:
        DiskError: the disk is full or must not be written.
    """
    files: dict[date, tuple[Path, ...]] = {}
    height = 0
    for number, rows in enumerate(_joined(frames)):
        schema, height = rows.schema, height + rows.height
        for day, part in _by_date(rows).items():
            path = folder / f"{day}" / f"{number:06}.parquet"
            write_parquet(path, part)
            files[day] = (*files.get(day, ()), path)
        give_back_free_memory()
    return RowFiles(folder, dict(sorted(files.items())), schema, height)


def parts_of(rows: EvaluationRows) -> dict[date, pl.LazyFrame]:
    """The rows of each service date, in the order of the dates. Files are read when a part is collected."""
    if isinstance(rows, pl.DataFrame):
        return {day: part.lazy() for day, part in sorted(_by_date(rows).items())}
    return {day: pl.scan_parquet(list(paths), glob=False) for day, paths in rows.files.items()}


def collect_parts(rows: EvaluationRows, plan: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
    """The results of `plan` on every part, one below the other. Only one part is in memory at a time."""
    if isinstance(rows, pl.DataFrame):
        return plan(rows.lazy()).collect()
    parts = parts_of(rows).values() or [pl.LazyFrame(schema=rows.schema)]
    pace, results = Pace(), []
    for number, part in enumerate(parts, start=1):
        results.append(plan(part).collect())
        if pace.due():
            log.info("evaluation: a measure has read %d of %d service dates", number, len(parts))
    return pl.concat(results)


def in_common(rows: EvaluationRows, others: EvaluationRows) -> EvaluationRows:
    """Those of `rows` that `others` has too. Files are written, in the folder of `rows`, only if there are fewer."""
    theirs = parts_of(others)
    common = [
        part.join(theirs[day].select(ROW_KEY), on=ROW_KEY, how="semi")
        for day, part in parts_of(rows).items()
        if day in theirs
    ]
    if sum(part.select(pl.len()).collect().item() for part in common) == rows.height:
        return rows
    frames = itertools.chain([pl.DataFrame(schema=rows.schema)], (part.collect() for part in common))
    return pl.concat(frames) if isinstance(rows, pl.DataFrame) else write_rows(frames, rows.folder / "in_common")


def _joined(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows in frames of at least ROWS_AT_A_TIME rows, and one frame of the rest."""
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(waiting.height for waiting in held) >= ROWS_AT_A_TIME:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)


def _by_date(rows: pl.DataFrame) -> dict[date, pl.DataFrame]:
    parts = rows.partition_by("service_date", as_dict=True, maintain_order=True)
    return {day: part for (day,), part in parts.items()}
