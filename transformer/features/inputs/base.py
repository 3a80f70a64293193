"""The base of an optional input: a class that reads one table, and gives numbers for the next events of trains.

Legend of dimensions: C cells (next events that exist), n features of an input, X columns of all inputs that are on,
E events and J journeys of an event table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from transformer.data.event_table import Int64Array, LoadedTable, Vocabulary

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

HEADWAY_SCALE_S = 300.0  # of times between trains
FAR_S = 7_200  # times between two trains are cut off there: one of them does not matter to the other


class Feature(NamedTuple):
    """A number that an input gives for a next event."""

    name: str
    scale: float | Literal["delay"]  # the network divides by it; "delay" = standard deviation of the known delays
    meaning: str


@dataclass(frozen=True)
class Cells:
    """The C next events whose inputs are asked for. Times are seconds since the Unix epoch."""

    event: Int64Array  # [C] row of the event table
    journey: Int64Array  # [C] row of its journeys
    instant: Int64Array  # [C] the instant t; use only values that are known by then
    translation: Int64Array  # [C] seconds, of the train
    departed: BoolArray  # [C] some event of the train is known


Columns = Callable[[Cells], FloatArray]  # returns [C, n]


class Input(ABC):
    """An optional input of the model. A subclass gives its features, and how their values are found.

    It is made once, from the rows of its table. It keeps NumPy arrays only, since Polars does not survive the fork of a
    process that builds batches.
    """

    name: ClassVar[str]  # its switch in `model.use_inputs`, and its table in `data.input_tables.TABLES`
    features: ClassVar[tuple[Feature, ...]]

    @abstractmethod
    def __init__(self, rows: pl.DataFrame, vocabulary: Vocabulary) -> None:
        """
        Args:
            rows: the valid rows of its table, sorted as in the file. Without a table, there are no rows.
        """

    @abstractmethod
    def on(self, loaded: LoadedTable) -> Columns:
        """Return the function that gives the features [C, n] for next events of an event table; NaN = unknown.

        It depends on no other loaded date, and loops over no trains.
        """
