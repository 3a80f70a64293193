"""Import the files of a public source into a data folder: download, read, check, and write date by date.

The memory that this takes depends on the number of rows of a service date, and not on the size or number of files. A
file is read once into typed rows on disk. The dates of a file are written when the next file has been read, because the
last trains of a date may be in the next file.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, cast

import polars as pl

from transformer.data.dates import format_dates
from transformer.data.reasons import Reason
from transformer.data.sources.attribution import imported_dates, note_import
from transformer.data.sources.download import Progress
from transformer.data.sources.numbering import Numbering
from transformer.data.sources.reasons import CHANGED, LEFT_OUT
from transformer.data.sources.source import POINT_SCHEMA, VISIT_SCHEMA, Options, RawFile, Source, Unreadable
from transformer.data.sources.visits import VISIT_KEY, events_of, journeys_of
from transformer.data.tables import (
    JOURNEY_SCHEMA,
    events_path,
    journeys_path,
    op_nodes_path,
    write_events,
    write_journeys,
    write_op_nodes,
)
from transformer.errors import UserError
from transformer.parquet import UNREADABLE, read_parquet
from transformer.text import one_line

RAW = "raw"  # folder of downloaded files, in the data folder
ROWS_AT_ONCE = 2_000_000  # dates are read together up to so many rows
JOURNEYS_AT_ONCE = 300_000  # `journeys.parquet` is written whole, so not for each date
_AGAIN = "remove it and import again"
_WORDS = {"op_nodes": "points in op_nodes", "positions": "points with a position"}
_TOTALS = ("rows", "events", "observed", "cancelled", "journeys", "service_dates", "op_nodes", "positions")


def import_source(
    source: Source,
    target: Path,
    days: Sequence[date] = (),
    folder: Path | None = None,
    *,
    points: Path | None = None,
    missing: bool = False,
    options: Options | None = None,
    progress: Progress,
) -> dict[str, int]:
    """Write the event tables of service dates into the data folder `target`. They replace its earlier tables of these.

    Other dates in `target` do not change, also in `journeys.parquet` and `op_nodes.parquet`. Importing again gives the
    same tables.

    Args:
        days: service dates; empty = all that the files of `folder` hold.
        folder: raw files; None = download them into `target/raw`, and keep them there.
        missing: leave out the dates that `target` has already.
        points: file of the source with names and positions of points; None = those next to the raw files.
        options: what the user decides about the rows of the source.

    Returns:
        Counts: `rows` read; `events`, `journeys`, `service_dates` and `op_nodes` written; `observed` and `cancelled`
        events; points with `positions`; rows `dropped_<reason>`; and visits that the source changed,
        `changed_<reason>`.

    Raises:
        UserError: a file is missing or not of this source, the source lacks an option, or no row is usable. `target`
            keeps what it had of the dates that were not yet written.
        ServiceError: the download failed in every attempt; the same command continues it.
    """
    source = source.with_options(options or Options())
    kept = set(imported_dates(target, source.about.name)) if missing else set()
    if days and not (days := [day for day in days if day not in kept]):
        progress(f"{target} has these dates of {source.about.name} already")
        return {}
    files = [file for file in _files(source, target, days, folder, progress) if not _span(file) <= kept]
    if not files:
        progress(f"{target} has all dates of {folder} already")
        return {}
    for file in files:
        source.check(file)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".import-") as scratch:
        wanted = (set(days) or set().union(*map(_span, files))) - kept
        run = _Import(source, target, points or folder or target / RAW, wanted, Path(scratch), progress)
        try:
            for number, file in enumerate(files, start=1):
                run.stage(file)
                progress(f"{file.name}: read, file {number} of {len(files)}")
                run.write(before=file.first if number < len(files) else None)
        finally:
            run.write_journeys()  # also of the dates that were written before a file that is refused
    counts = run.counts
    if not counts["events"]:
        raise UserError(
            f"{files[0].paths[0].parent}: no usable row of {source.about.name}; "
            f"{'; '.join(line.strip() for line in account(counts))}; download the files again, or name other dates"
        )
    source.keep(folder or target / RAW, target)
    op_nodes = read_parquet(op_nodes_path(target), _AGAIN)
    counts.update(op_nodes=op_nodes.height, positions=op_nodes["lat"].count())
    note_import(target, source.about_files(folder or target / RAW), sorted(run.written))
    return {name: count for name, count in counts.items() if count or name in _TOTALS}


def account(counts: Mapping[str, int]) -> Iterator[str]:
    """The counts of an import as lines for people, with the reason of each row that was left out."""
    width = max((len(f"{count:,}") for count in counts.values()), default=0)
    for name, count in counts.items():
        kind, _, reason = name.partition("_")
        table = {"dropped": LEFT_OUT, "changed": CHANGED}.get(kind, {})
        words = f"{kind}: {table[reason].meaning}" if reason in table else _WORDS.get(name, name.replace("_", " "))
        if name == "observed" and counts.get("events"):
            words += f", {count / counts['events']:.1%} of the events"
        yield f"{count:>{width},}  {words}"


class _Import:
    """The state of one import: the rows that were read and not yet written, and the counts."""

    def __init__(
        self, source: Source, target: Path, points: Path, wanted: set[date], scratch: Path, progress: Progress
    ) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(_TOTALS, 0))
        self._source, self._target, self._scratch, self._progress = source, target, scratch, progress
        known = _known_points(target)
        self._numbering = Numbering(known)
        self._points = self._numbering.apply(pl.concat([_conformed(source.points(points), POINT_SCHEMA), known]))
        self._visited = set(known["op_id"])
        self._journeys: list[pl.DataFrame] = []
        self._replaced: list[date] = []  # dates whose journeys they replace
        self._wanted = wanted
        self._numbers = itertools.count()  # of files of typed rows
        self._staged: dict[Path, dict[date, int]] = {}  # usable rows of each date in a file of typed rows
        self._due: set[date] = set()  # dates whose raw file was read
        self.written: set[date] = set()

    def stage(self, file: RawFile) -> None:
        """Write the rows of a raw file to disk, typed, and count what is left out."""
        usable, failures = 0, list[str]()
        for frame in self._source.scan(file, self.counts):
            path = self._scratch / f"{next(self._numbers)}.parquet"
            if isinstance(frame, Unreadable):
                failures.append(frame.fault)
                continue
            try:
                _conformed(frame, self._source.row_schema).sink_parquet(path)
            except UNREADABLE as error:
                failures.append(one_line(str(error))[:160])
                continue
            self._staged[path] = self._usable(path)
            usable += sum(self._staged[path].values())
        if failures and not usable:
            raise UserError(f"{file.paths[0]} cannot be read ({failures[0]}); remove it and download it again")
        for failure in failures:
            self.counts["dropped_unreadable_file"] += 1
            self._progress(f"{file.name}: a part of it cannot be read ({failure}), and is left out")
        span = _span(file)
        if usable:
            self._due |= (span & self._wanted) - self.written
        elif len(span) > 1:
            raise UserError(f"{file.paths[0]}: no row of it is usable; download it again")
        else:
            self._progress(f"{file.name}: no row of it is usable; the tables of its date stay as they were")

    def _usable(self, path: Path) -> dict[date, int]:
        """Count the rows of typed rows by problem, and return the number of usable ones per date that is imported."""
        rows = pl.scan_parquet(path, glob=False)
        found = rows.group_by("service_date", "problem").len().collect(engine="streaming")
        self.counts["rows"] += int(found["len"].sum())
        self._count("dropped", LEFT_OUT, found.group_by("problem").agg(pl.col("len").sum()))
        usable = dict(found.filter(pl.col("problem").is_null()).select("service_date", "len").iter_rows())
        outside = [day for day in usable if day not in self._wanted or day in self.written]
        for day in outside:
            self.counts["dropped_outside_dates"] += usable.pop(day)
        return usable

    def _count(self, kind: str, reasons: Mapping[str, Reason], rows: pl.DataFrame) -> None:
        """Add the rows of each reason, in the order of their names; null is no reason."""
        for reason, count in rows.sort(rows.columns[0]).iter_rows():
            if reason is not None and reason not in reasons:
                raise ValueError(f"{reason!r} is no reason of rows that are {kind}")
            if reason is not None:
                self.counts[f"{kind}_{reason}"] += count

    def write(self, before: date | None) -> None:
        """Write the due dates before a date, or all of them. Their rows are then forgotten."""
        due = sorted(day for day in self._due if before is None or day < before)
        if not due:
            return
        for days in self._at_once(due):
            rows = (
                pl.scan_parquet(list(self._staged), glob=False)
                .filter(pl.col("service_date").is_in(days), pl.col("problem").is_null())
                .collect(engine="streaming")
            )
            of_days = rows.partition_by("service_date", as_dict=True, maintain_order=True)
            for day in days:
                if (day,) not in of_days or not self._write_date(day, of_days.pop((day,))):
                    events_path(self._target, day).unlink(missing_ok=True)  # of an earlier import
        self._replaced += due
        if sum(map(len, self._journeys)) > JOURNEYS_AT_ONCE:
            self.write_journeys()
        for path, staged in list(self._staged.items()):
            if not set(staged) - self.written - set(due):
                path.unlink()
                del self._staged[path]
        self.written |= set(due)
        self._due -= set(due)
        self._progress(
            f"{', '.join(format_dates(due))}: written; {self.counts['events']:,} events of "
            f"{self.counts['journeys']:,} journeys so far"
        )

    def write_journeys(self) -> None:
        """Put the journeys of the written dates into the place of those that `target` has of them."""
        if self._replaced:
            path = journeys_path(self._target)
            new = pl.concat([pl.DataFrame(schema=JOURNEY_SCHEMA), *self._journeys])
            if path.exists():
                others = _earlier(path, JOURNEY_SCHEMA).filter(~pl.col("service_date").is_in(self._replaced))
                new = pl.concat([others, new])
            write_journeys(self._target, new)
            self._journeys, self._replaced = [], []

    def _at_once(self, due: Sequence[date]) -> Iterator[list[date]]:
        """Group dates so that the rows of a group fit in memory."""
        size: Counter[date] = Counter()
        for days in self._staged.values():
            size.update(days)
        group: list[date] = []
        for day in due:
            if group and sum(size[other] for other in group) + size[day] > ROWS_AT_ONCE:
                yield group
                group = []
            group.append(day)
        yield group

    def _write_date(self, day: date, rows: pl.DataFrame) -> bool:
        """Write the events of a service date and its points. Return false if no event is left."""
        found = _conformed(self._source.visits(rows, self.counts), VISIT_SCHEMA)
        self._count("dropped", LEFT_OUT, found["problem"].value_counts())
        found = self._numbering.apply(found.filter(pl.col("problem").is_null()))
        visits = found.unique(VISIT_KEY, keep="first", maintain_order=True)
        self.counts["dropped_duplicate"] += found.height - visits.height
        self._count("changed", CHANGED, visits["changed"].value_counts())
        events = events_of(visits)
        if events.is_empty():
            return False
        self._merge_points(visits)
        write_events(self._target, day, _without_nulls(events, "cancelled"))
        journeys = journeys_of(events, visits)
        self.counts.update(
            events=events.height,
            journeys=journeys.height,
            service_dates=1,
            observed=events["observed_ts"].count(),
            cancelled=int(events["cancelled"].sum()),
        )
        self._journeys.append(journeys)
        return True

    def _merge_points(self, visits: pl.DataFrame) -> None:
        """Write the points of earlier dates and imports, and those of visits that are new or were without a value."""
        seen = visits.group_by("op_id", maintain_order=True).agg(
            pl.col("source_id").first(), pl.col("op_name").drop_nulls().last()
        )
        self._points = (
            pl.concat([self._points, seen], how="diagonal")
            .group_by("op_id", maintain_order=True)
            .agg(pl.exclude("op_id").drop_nulls().first())
        )
        self._visited |= set(seen["op_id"])
        visited = self._points.filter(pl.col("op_id").is_in(self._visited))
        write_op_nodes(self._target, _without_nulls(visited, "source_id"))


def _files(
    source: Source, target: Path, days: Sequence[date], folder: Path | None, progress: Progress
) -> list[RawFile]:
    """The raw files of service dates, downloaded if no folder is given."""
    if folder is None:
        source.fetch(days, target / RAW, progress)
        folder = target / RAW
    elif not folder.is_dir():
        raise UserError(f"{folder} does not exist or is no folder; name the folder of the files with --from")
    found = source.find(folder)
    if not found:
        raise UserError(f"{folder} holds no file of {source.about.name}: {source.layout}; name another folder")
    wanted = set(days)
    files = [file for file in found if not wanted or _reach(source, file) & wanted]
    missing = sorted(wanted - {day for file in files for day in _span(file)})
    if missing and (len(missing) == len(wanted) or any(len(_span(file)) > 1 for file in found)):
        raise UserError(
            f"{folder} holds no {source.layout} of {', '.join(format_dates(missing))}, but of {found[0].first} to "
            f"{found[-1].last}; name another folder or other dates"
        )
    if missing:
        progress(f"{folder} holds no file of {', '.join(format_dates(missing))}; these dates are left out")
    return files


def _span(file: RawFile) -> set[date]:
    return {file.first + timedelta(days=number) for number in range((file.last - file.first).days + 1)}


def _reach(source: Source, file: RawFile) -> set[date]:
    """The service dates of a file, and those before of which it may have the last trains."""
    return _span(RawFile(file.paths, file.first - timedelta(days=source.late_days), file.last))


def _conformed(frame: Any, schema: Mapping[str, pl.DataType]) -> Any:
    """Add the columns of the schema that a frame leaves out, and return all in its types and order."""
    names = frame.collect_schema().names()
    missing = [pl.lit(None).alias(name) for name in schema if name not in names]
    return frame.with_columns(missing).select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def _without_nulls(frame: pl.DataFrame, optional: str) -> pl.DataFrame:
    """Leave out an optional column that says nothing."""
    return frame if frame[optional].count() else frame.drop(optional)


def _known_points(target: Path) -> pl.DataFrame:
    """The points of earlier imports."""
    path = op_nodes_path(target)
    return _earlier(path, POINT_SCHEMA) if path.exists() else pl.DataFrame(schema=POINT_SCHEMA)


def _earlier(path: Path, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Read a table of an earlier import."""
    found = read_parquet(path, _AGAIN)
    required = [name for name in schema if name != "source_id"]
    if missing := [name for name in required if name not in found.columns]:
        raise UserError(f"{path} does not come from an import (it lacks {missing[0]!r}); {_AGAIN}")
    try:
        return cast(pl.DataFrame, _conformed(found, schema))
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path} does not come from an import ({one_line(str(error))[:160]}); {_AGAIN}") from None
