"""Download of the event tables that a stage needs to `data.local_folder`, since each pod has its own disk."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from transformer.config import Config, SplitConfig, from_dict
from transformer.data.dates import Split, available_dates, configured_split, resolve_split
from transformer.data.input_tables import switch, used_tables
from transformer.data.sources import attribution
from transformer.data.survey import Survey
from transformer.data.tables import events_path, journeys_path, op_nodes_path
from transformer.errors import UserError
from transformer.files import read_json, write_json

if TYPE_CHECKING:
    from transformer.storage.bucket import Arrived, Bucket, StoredObject  # imports boto3, which many runs do not need

log = logging.getLogger(__name__)

DATA = "data"  # folder of the bucket
SYNC_RECORD = ".s3.json"
_EVENTS_NAME = re.compile(r"events_(\d{4}-\d{2}-\d{2})\.parquet")


@dataclass(frozen=True)
class SyncResult:
    """Numbers of downloaded and skipped files, and the downloaded bytes."""

    transferred: int
    skipped: int
    bytes: int


def fetch_split(config: Config, pinned: Mapping[str, list[str]], survey: Survey) -> Split:
    """Return the service dates of each split, and download their event tables if the data are in a bucket.

    Args:
        pinned: the split with which the run began, in the form of `data.split`; empty for a new run. The split of a run
            stays the same, so dates that arrive later do not move its test dates into its training.
        survey: counts the planned events per hour if partial dates are left out.

    A rolling split downloads no more dates than it takes to find the last whole ones.
    """
    data, folder = config.data, Path(config.data.local_folder)
    keeps = pinned and not configured_split(data.split).all
    chosen = from_dict(SplitConfig, pinned, "split of the run") if keeps else data.split
    return resolve_split(
        chosen,
        folder,
        data.validation.skip_partial_dates,
        data.timezone,
        list_dates(config),
        survey.hours,
        fetch=lambda days: fetch_dates(config, days),
    )


def list_dates(config: Config) -> list[date]:
    """Service dates that have data, sorted: those of the bucket if data are downloaded, else of the local folder."""
    if config.data.download_data_from_s3:
        from transformer.storage.bucket import Bucket

        return bucket_dates(Bucket.from_config(config))
    return local_dates(Path(config.data.local_folder))


def local_dates(folder: Path) -> list[date]:
    """Service dates that have an events file in `folder`, sorted.

    Raises:
        UserError: see `available_dates`. If the folder has the files of a public source, the message says how to import
            them.
    """
    try:
        return available_dates(folder)
    except UserError:
        from transformer.data.sources.catalogue import recognised  # knows every source, and few folders need it

        if (source := recognised(folder)) is None:
            raise
        name = source.about.name
        raise UserError(
            f"data.local_folder={folder} holds files of the source {name}, which are not event tables yet; run "
            f"`python -m transformer import {name} --from {folder} --to data/{name}` and name data/{name}"
        ) from None


def fetch_dates(config: Config, days: Sequence[date]) -> None:
    """Download the event tables of `days` to `data.local_folder` if the data are in a bucket."""
    if config.data.download_data_from_s3:
        from transformer.storage.bucket import Bucket

        tables = used_tables(config.model.use_inputs)
        also = {table.file: switch(name) for name, table in tables.items()}
        sync_data(Bucket.from_config(config), days, Path(config.data.local_folder), also)


def bucket_dates(bucket: Bucket) -> list[date]:
    """Service dates that have an events object, sorted.

    Raises:
        UserError: there is none, or the name of one is no date.
    """
    folder = f"{DATA}/events/"
    days = []
    for name in bucket.objects(f"{folder}events_"):
        file_name = name.removeprefix(folder)
        if "/" in file_name:  # Spark writes a table as a folder of parts
            table = f"{folder}{file_name.partition('/')[0]}"
            raise UserError(
                f"{bucket.address(table)} is a folder; write the events of a date into one file of that name"
            )
        if not file_name.endswith(".parquet"):
            continue
        try:
            match = _EVENTS_NAME.fullmatch(file_name)
            days.append(date.fromisoformat(match[1] if match else ""))
        except ValueError:
            raise UserError(
                f"{bucket.address(name)}: the name is not events_YYYY-MM-DD.parquet; rename or remove the object"
            ) from None
    if not days:
        raise UserError(
            f"{bucket.address(folder)} holds no events_YYYY-MM-DD.parquet; "
            "upload the event tables or correct data.bucket_name and data.bucket_prefix"
        )
    return sorted(days)


def sync_data(
    bucket: Bucket, days: Sequence[date], folder: Path, also: Mapping[str, str] = MappingProxyType({})
) -> SyncResult:
    """Download the events of `days`, the points and the journeys to the data folder `folder`.

    Only files that are new, or changed in the bucket or on disk, are downloaded. They replace the files in the folder.
    A file appears when it is complete and verified. Several processes may sync one folder at the same time.

    Args:
        also: further tables, and the key of the configuration that needs each of them.

    Raises:
        UserError: a table is not in the bucket.
    """
    from transformer.storage.bucket import MB

    tables = [*(events_path(folder, day) for day in days), op_nodes_path(folder), journeys_path(folder)]
    tables += [folder / name for name in also]
    stored = bucket.objects(f"{DATA}/")
    if f"{DATA}/{attribution.NAME}" in stored:
        tables.append(attribution.attribution_path(folder))
    wanted: dict[Path, StoredObject] = {}
    for path in tables:
        name = f"{DATA}/{path.relative_to(folder).as_posix()}"
        if name not in stored:
            remedy = f"set {also[path.name]}=false" if path.name in also else "correct data.bucket_prefix or data.split"
            raise UserError(f"{bucket.address(name)} does not exist; upload it, or {remedy}")
        wanted[path] = stored[name]
    record = _SyncRecord(folder)
    stale = {path: item for path, item in wanted.items() if not record.holds(path, item)}
    began = time.monotonic()
    try:
        if stale:
            log.info("S3: %d of %d files to download from %s", len(stale), len(wanted), bucket.address())
        bucket.download(stale, record.add)
    finally:
        record.save()
    result = SyncResult(len(stale), len(wanted) - len(stale), sum(item.size for item in stale.values()))
    log.info(
        "S3: %d files downloaded (%.1f MB in %.1f s), %d already here",
        result.transferred,
        result.bytes / MB,
        time.monotonic() - began,
        result.skipped,
    )
    return result


class _SyncRecord:
    """`.s3.json` of a synced folder: the ETag of each downloaded file, and the time at which it was written.

    The record only saves time: a file that is not in it, or was modified since, is compared by content.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / SYNC_RECORD
        self._known = self._read()
        self._new: dict[str, Any] = {}

    def holds(self, path: Path, item: StoredObject) -> bool:
        """Whether `path` is an exact copy of this version of the object."""
        from transformer.storage.bucket import Arrived
        from transformer.storage.etags import md5

        if not path.is_file() or path.stat().st_size != item.size:
            return False
        copy = Arrived(path, item.etag, path.stat().st_mtime_ns)
        if self._known.get(self._name(path)) == self._entry(copy):
            return True
        if md5(path).hexdigest() != item.etag:
            return False
        self.add(copy)
        return True

    def add(self, arrived: Arrived) -> None:
        self._new[self._name(arrived.path)] = self._entry(arrived)

    def save(self) -> None:
        """Write the new entries, and keep those that another process recorded meanwhile."""
        if self._new:
            write_json(self._path, {**self._read(), **self._new})

    def _read(self) -> dict[str, Any]:
        try:
            entries = read_json(self._path)
        except UserError:
            return {}
        return entries if isinstance(entries, dict) else {}

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    @staticmethod
    def _entry(arrived: Arrived) -> dict[str, Any]:
        return {"etag": arrived.etag, "modified_ns": arrived.modified_ns}
