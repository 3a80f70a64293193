"""The event tables that a stage needs, brought to `data.local_folder`: each pod has a disk of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from transformer.config import Config, SplitConfig
from transformer.data.events import Split, available_dates, configured_split, format_dates, resolve_split
from transformer.storage import Bucket
from transformer.tracking import RunLog

SPLITS = ("train", "validation", "test")
SPLIT = "split"  # tag: the service dates of each split, as data.split takes them


def fetch_split(config: Config, run: RunLog) -> Split:
    """The service dates of each split, with their event tables in `data.local_folder`.

    A run keeps the split it began with: dates that arrive later do not move its test dates into its training.
    """
    data, folder = config.data, Path(config.data.local_folder)
    chosen = data.split
    if not configured_split(chosen).all and (pinned := run.tag(SPLIT)):
        chosen = SplitConfig(**json.loads(pinned))
    available = None
    if data.download_data_from_s3:
        bucket = Bucket.from_config(data)
        available = bucket.available_dates()
        wanted = configured_split(chosen).all or available  # telling partial dates apart needs them all
        bucket.sync_data([day for day in available if day in set(wanted)], folder)
    split = resolve_split(chosen, folder, data.validation.skip_partial_dates, available)
    run.tags({SPLIT: json.dumps({name: format_dates(getattr(split, name)) for name in SPLITS})})
    return split


def list_dates(config: Config) -> list[date]:
    """Service dates that have data, sorted: in the bucket where that is downloaded from, else in the local folder."""
    if config.data.download_data_from_s3:
        return Bucket.from_config(config.data).available_dates()
    return available_dates(Path(config.data.local_folder))


def fetch_dates(config: Config, days: Sequence[date]) -> None:
    """Bring the event tables of `days` to `data.local_folder` where it is filled from a bucket."""
    if config.data.download_data_from_s3:
        Bucket.from_config(config.data).sync_data(days, Path(config.data.local_folder))
