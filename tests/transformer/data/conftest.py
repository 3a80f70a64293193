"""A bucket on a real S3 server, the proxy in front of the server, and a data folder of given events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import pytest

from tests.support.events import DAY
from tests.support.object_store import credentials, owner, proxy, store
from tests.support.servers import s3_server
from transformer.data.tables import events_path

__all__ = ["credentials", "owner", "proxy", "store"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Host and port of moto: these tests change signed requests on their way, and use keys of KMS and checksums.

    `tests/transformer/storage` fetches event tables from a real store.
    """
    with s3_server() as url:
        yield urlsplit(url).netloc


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write a data folder with these frames as the events of consecutive dates from `DAY` on."""

    def write(*frames: pl.DataFrame) -> Path:
        (tmp_path / "events").mkdir(exist_ok=True)
        for offset, frame in enumerate(frames):
            frame.write_parquet(events_path(tmp_path, DAY + timedelta(days=offset)))
        return tmp_path

    return write
