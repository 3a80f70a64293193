"""The optional inputs of the model. Each is off by default, and one class (`docs/extend.md`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Self

import numpy as np
import polars as pl

from transformer.config import DataConfig, UseInputsConfig
from transformer.data.event_table import LoadedTable, Vocabulary
from transformer.data.input_tables import TABLES, read_input_table, refuse_absent_columns
from transformer.features.inputs.base import Cells, Columns, Feature, FloatArray, Input
from transformer.features.inputs.cancellations import Cancellations
from transformer.features.inputs.links import Links
from transformer.features.inputs.platform import Platform
from transformer.features.inputs.rotation import Rotation
from transformer.features.inputs.weather import Weather

log = logging.getLogger(__name__)

INPUTS: Mapping[str, type[Input]] = MappingProxyType(
    {kind.name: kind for kind in (Weather, Rotation, Links, Cancellations, Platform)}
)


@dataclass(frozen=True)
class Inputs:
    """The optional inputs that are on, with the rows of their tables."""

    used: tuple[Input, ...] = ()

    @classmethod
    def read(cls, use: UseInputsConfig, data: DataConfig, days: Sequence[date], vocabulary: Vocabulary) -> Self:
        """Read the tables of the inputs that are on, for the trains of `days`.

        Raises:
            UserError: a table or a column is missing or not valid, see `read_input_table`.
        """
        refuse_absent_columns(use, data, days)
        used = []
        for name, kind in INPUTS.items():
            if not getattr(use, name):
                continue
            rows = pl.DataFrame()
            if name in TABLES:
                found = read_input_table(name, data, days)
                rows = found.rows
                for line in found.lines:
                    log.info(line)
            used.append(kind(rows, vocabulary))
        return cls(tuple(used))

    def on(self, loaded: LoadedTable) -> Columns | None:
        """The function that gives the columns [C, X] of next events of an event table; None = no input is on.

        Each input gives its features, 0 where unknown, and then 1 where any of them is known.
        """
        if not self.used:
            return None
        parts = [given.on(loaded) for given in self.used]

        def columns(cells: Cells) -> FloatArray:
            blocks = []
            for part in parts:
                values = part(cells)
                missing = np.isnan(values)
                known = ~missing.all(axis=1, keepdims=True)
                blocks += [np.where(missing, np.float32(0), values), known.astype(np.float32)]
            return np.concatenate(blocks, axis=1, dtype=np.float32)

        return columns


NO_INPUTS = Inputs()


def input_columns(use: UseInputsConfig) -> list[Feature]:
    """The X columns of the inputs that are on, in the order of `SnapshotBatch.next_inputs`."""
    columns: list[Feature] = []
    for name, kind in INPUTS.items():
        if getattr(use, name):
            columns += [*kind.features, Feature(f"{name}_known", 1.0, "1 = any of the values before is known")]
    return columns
