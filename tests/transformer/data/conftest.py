"""A bucket on a real S3 server, the proxy in front of the server, and a data folder of given events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from tests.support.events import DAY
from tests.support.object_store import credentials, owner, proxy, server, store
from transformer.data.tables import events_path

__all__ = ["credentials", "owner", "proxy", "server", "store"]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write a data folder with these frames as the events of consecutive dates from `DAY` on."""

    def write(*frames: pl.DataFrame) -> Path:
        (tmp_path / "events").mkdir(exist_ok=True)
        for offset, frame in enumerate(frames):
            frame.write_parquet(events_path(tmp_path, DAY + timedelta(days=offset)))
        return tmp_path

    return write
