"""Predictions about which the training dates say nothing are counted."""

from types import SimpleNamespace

import numpy as np
import polars as pl

from transformer.data.event_table import Vocabulary
from transformer.prediction.unknown import UNKNOWN, unknown_counts, unknown_text

STATISTICS = SimpleNamespace(
    vocabulary=Vocabulary(np.array([10, 11], np.int32), ("regional",)),
    history=pl.DataFrame({"train_number": ["100", "100", "200"]}),
)


def rows(*lines: tuple[int, str | None, str]) -> pl.DataFrame:
    return pl.DataFrame(lines, schema=["op_id", "train_type", "train_number"], orient="row")


def test_each_kind_of_ignorance_is_counted() -> None:
    found = rows((10, "regional", "100"), (0, "regional", "100"), (11, None, "200"), (11, "freight", "300"))
    assert unknown_counts(found, STATISTICS) == dict(zip(UNKNOWN, (1, 2, 1), strict=True))  # type: ignore[arg-type]


def test_what_is_known_is_not_mentioned() -> None:
    found = rows((10, "regional", "100"))
    assert unknown_counts(found, STATISTICS) == {}  # type: ignore[arg-type]
    assert unknown_text(1_000, {}) == "1,000 predictions"
    assert unknown_text(1_000, {"of a train number without history": 7}).endswith(
        "; 7 of a train number without history"
    )
