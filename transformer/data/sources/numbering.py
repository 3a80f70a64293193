"""Numbers for points whose ids are text. They are the same in every import, and differ from those of all others.

Numbers below FIRST are those that a source itself gives, for example Infrabel's PTCAR or the UIC code of a station.
From FIRST on, a number is a hash of the point's `source_id`. `op_nodes.parquet` keeps both. If two ids of a folder have
the same hash, the later one takes the next free number, which the table keeps, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import polars as pl

FIRST = 1 << 30
_END = 1 << 31


class Numbering:
    """The numbers of a data folder."""

    def __init__(self, known: pl.DataFrame) -> None:
        """
        Args:
            known: `op_id` and `source_id` of the folder's points; rows without a `source_id` have a number of a source.
        """
        self._numbers = dict(known.drop_nulls("source_id").select("source_id", "op_id").iter_rows())
        self._taken = set(self._numbers.values())

    def number(self, source_ids: Iterable[str]) -> None:
        """Give new ids a number. Their order has no influence unless two have the same hash."""
        for source_id in sorted(set(source_ids) - self._numbers.keys()):
            digest = hashlib.blake2b(source_id.encode(), digest_size=4).digest()
            number = FIRST + int.from_bytes(digest) % (_END - FIRST)
            while number in self._taken:
                number = number + 1 if number + 1 < _END else FIRST
            self._numbers[source_id] = number
            self._taken.add(number)

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Fill the missing `op_id` of rows from their `source_id`."""
        source_ids = frame.filter(pl.col("op_id").is_null())["source_id"].drop_nulls().unique()
        self.number(source_ids)
        found = [(source_id, self._numbers[source_id]) for source_id in source_ids]
        numbers = pl.DataFrame(found, schema={"source_id": pl.String, "number": pl.Int32}, orient="row")
        return (
            frame.join(numbers, on="source_id", how="left", maintain_order="left")
            .with_columns(pl.coalesce("op_id", "number").alias("op_id"))
            .drop("number")
        )
