"""The contract of a public source: what people must know about it, and how it lists, fetches and reads its files.

A source reads visits. A visit is one row for a train and a point where it stops or that it passes, with the columns of
VISIT_SCHEMA. `importing` turns the visits of a service date into the tables that every stage reads. `docs/extend.md`
shows a new source on one page. `tests/transformer/data/sources/test_conformance.py` is its proof.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import ClassVar, Self

import polars as pl

from transformer.data.sources.download import Progress, PublishedFile, download
from transformer.data.tables import TIMESTAMP
from transformer.errors import UserError

# A source may leave out columns about which it knows nothing.
VISIT_SCHEMA: dict[str, pl.DataType] = {
    "service_date": pl.Date(),
    "train_id": pl.String(),
    "op_id": pl.Int32(),  # for points whose number at the source is unique among all sources
    "source_id": pl.String(),  # for all other points: the id at the source with a prefix, such as `fi:1000`
    "op_name": pl.String(),
    "order": pl.Int64(),  # of the visits of a journey; null = by planned time
    "planned_arr": TIMESTAMP,
    "planned_dep": TIMESTAMP,
    "observed_arr": TIMESTAMP,  # null = not observed
    "observed_dep": TIMESTAMP,
    "passes": pl.Boolean(),  # true = one event P, at the time of the departure
    "cancelled_arr": pl.Boolean(),
    "cancelled_dep": pl.Boolean(),
    "train_number": pl.String(),  # null = train_id
    "train_type": pl.String(),
    "train_relation": pl.String(),
    "operator": pl.String(),
    "problem": pl.String(),  # a key of `reasons.LEFT_OUT`; null = the visit is used
    "changed": pl.String(),  # a key of `reasons.CHANGED`; null = the visit is as the source has it
}
POINT_SCHEMA: dict[str, pl.DataType] = {
    "op_id": pl.Int32(),
    "source_id": pl.String(),
    "op_name": pl.String(),
    "lat": pl.Float64(),
    "lon": pl.Float64(),
}


@dataclass(frozen=True)
class About:
    """The facts that people need before they import. `import --list` shows them."""

    name: str  # word on the command line
    title: str
    country: str
    timezone: str  # of the railway, for `data.timezone`
    depth: str  # the service dates that can be had
    size: str  # of a month
    licence: str  # with the attribution that it asks for; kept next to the data, and repeated in cards and reports
    unobserved: str  # how "not observed" differs from "on time", or why it does not
    pass_throughs: bool  # whether the source has points that a train passes
    page: str  # where the source describes itself


@dataclass(frozen=True)
class Options:
    """The choices of the user about the rows of a source. Each source names the options that it has."""

    keep_zeros: bool = False  # keep delays of zero that may mean "never reported"
    route_types: str = ""  # GTFS route types to import, such as `2,100-199`; empty = metro and rail


@dataclass(frozen=True)
class RawFile:
    """A file of the source on this disk, or several small ones that belong together."""

    paths: tuple[Path, ...]
    first: date
    last: date

    @property
    def name(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{self.paths[0].name}{more}"


@dataclass(frozen=True)
class Unreadable:
    """A part of a raw file that cannot be read, while other parts may be sound."""

    fault: str  # its name and what is wrong, in one line


class Source(ABC):
    """A public source of train-running data.

    The visits of a service date may lie in its own raw file, and in the one before and the one after.
    """

    about: ClassVar[About]
    layout: ClassVar[str]  # the names of its raw files, for messages
    row_schema: ClassVar[Mapping[str, pl.DataType]] = VISIT_SCHEMA  # of `scan`; at least `service_date` and `problem`
    late_days: ClassVar[int] = 0  # a file may have the last trains of so many dates before its own
    has_options: ClassVar[frozenset[str]] = frozenset()  # fields of Options that concern it
    options = Options()

    def with_options(self, options: Options) -> Self:
        """This source with the user's options.

        Raises:
            UserError: an option is set that the source does not have.
        """
        for option in fields(Options):
            if getattr(options, option.name) != option.default and option.name not in self.has_options:
                flag = "--" + option.name.replace("_", "-")
                raise UserError(f"{self.about.name} has no option {flag}; leave it out")
        configured = copy.copy(self)
        configured.options = options
        return configured

    @abstractmethod
    def published(self, days: Sequence[date]) -> list[PublishedFile]:
        """The files that hold these service dates, sorted. Nothing is asked over the network.

        Raises:
            UserError: such files cannot be downloaded; the message says how to get them.
        """

    def fetch(self, days: Sequence[date], raw: Path, progress: Progress) -> None:
        """Download the files of service dates into the folder `raw`. Files that are there stay as they are.

        Raises:
            UserError: the source has no such file, or its files cannot be downloaded.
            ServiceError: a download failed in every attempt; the next call continues it.
        """
        for file in self.published(days):
            download(file, raw / file.name, progress)

    def about_files(self, folder: Path) -> About:
        """`about`, with the facts that depend on the files of a folder."""
        return self.about

    @abstractmethod
    def find(self, folder: Path) -> list[RawFile]:
        """The raw files of this source in a folder and in its subfolders, sorted by their first service date.

        Names decide, or the columns of a table. A folder of other data has none.
        """

    @abstractmethod
    def scan(self, file: RawFile, counts: Counter[str]) -> Iterable[pl.LazyFrame | Unreadable]:
        """Read a raw file as frames of rows that are never in memory at once.

        A frame is written before the next one is asked for, so it may read a temporary file.

        Args:
            counts: the source adds what it left out before there were visits, and what it changed.

        Raises:
            UserError: the file is not of this source, or it is damaged as a whole.
        """

    def check(self, file: RawFile) -> None:
        """Refuse a file by its first bytes, before any file is read.

        Raises:
            UserError: the file is not of this source.
        """

    def visits(self, rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
        """Combine what `scan` read about one service date. By default, each row is a visit."""
        return rows

    def keep(self, folder: Path, target: Path) -> None:
        """Copy further tables of the source into the data folder, such as those of optional inputs."""

    def points(self, folder: Path) -> pl.DataFrame:
        """Names and positions of the points, from files next to the raw ones. By default, none."""
        return pl.DataFrame(schema=POINT_SCHEMA)
