"""The event tables that a stage needs, brought to `data.local_folder`: each pod has a disk of its own."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer.config import Config, SplitConfig
from transformer.data.dates import Split, available_dates, configured_split, resolve_split
from transformer.data.survey import Survey
from transformer.data.tables import events_path, journeys_path, op_nodes_path
from transformer.errors import UserError
from transformer.files import read_json, write_json

if TYPE_CHECKING:
    from transformer.storage.bucket import Arrived, Bucket, StoredObject  # imports boto3, which many runs never need

log = logging.getLogger(__name__)

DATA = "data"  # folder of the bucket
SYNC_RECORD = ".s3.json"
_EVENTS_NAME = re.compile(r"events_(\d{4}-\d{2}-\d{2})\.parquet")


@dataclass(frozen=True)
class SyncResult:
    """What a sync did, in files and bytes."""

    transferred: int
    skipped: int
    bytes: int


def fetch_split(config: Config, pinned: Mapping[str, list[str]], survey: Survey) -> Split:
    """The service dates of each split, with their event tables in `data.local_folder`.

    Args:
        pinned: the split that the run began with, as `data.split` takes it; empty for a run that begins. Dates that
            arrive later do not move the run's test dates into its training.
        survey: looks into the events files where partial dates are left out.
    """
    data, folder = config.data, Path(config.data.local_folder)
    chosen = SplitConfig(**pinned) if pinned and not configured_split(data.split).all else data.split
    available = None
    if data.download_data_from_s3:
        from transformer.storage.bucket import Bucket

        bucket = Bucket.from_config(data)
        available = bucket_dates(bucket)
        wanted = configured_split(chosen).all or available  # telling partial dates apart needs them all
        sync_data(bucket, [day for day in available if day in set(wanted)], folder)
    return resolve_split(chosen, folder, data.validation.skip_partial_dates, available, survey.hours)


def list_dates(config: Config) -> list[date]:
    """Service dates that have data, sorted: in the bucket where that is downloaded from, else in the local folder."""
    if config.data.download_data_from_s3:
        from transformer.storage.bucket import Bucket

        return bucket_dates(Bucket.from_config(config.data))
    return available_dates(Path(config.data.local_folder))


def fetch_dates(config: Config, days: Sequence[date]) -> None:
    """Bring the event tables of `days` to `data.local_folder` where it is filled from a bucket."""
    if config.data.download_data_from_s3:
        from transformer.storage.bucket import Bucket

        sync_data(Bucket.from_config(config.data), days, Path(config.data.local_folder))


def bucket_dates(bucket: Bucket) -> list[date]:
    """Service dates that have an events object, sorted.

    Raises:
        UserError: there is none, or one whose name is no date.
    """
    folder = f"{DATA}/events/"
    days = []
    for name in bucket.objects(f"{folder}events_"):
        file_name = name.removeprefix(folder)
        if "/" in file_name or not file_name.endswith(".parquet"):
            continue
        try:
            match = _EVENTS_NAME.fullmatch(file_name)
            days.append(date.fromisoformat(match[1] if match else ""))
        except ValueError:
            raise UserError(
                f"{bucket.address(name)}: not named events_YYYY-MM-DD.parquet; rename or remove it"
            ) from None
    if not days:
        raise UserError(
            f"{bucket.address(folder)} holds no events_YYYY-MM-DD.parquet; "
            "upload the event tables or correct data.bucket_name and data.bucket_prefix"
        )
    return sorted(days)


def sync_data(bucket: Bucket, days: Sequence[date], folder: Path) -> SyncResult:
    """Bring the events of `days`, the points and the journeys into the data folder `folder`.

    Only what is new, changed in the bucket or changed on disk is downloaded, and replaces what was there; each file
    appears when it is whole and verified. Several processes may sync one folder at the same time.
    """
    from transformer.storage.bucket import MB

    tables = [*(events_path(folder, day) for day in days), op_nodes_path(folder), journeys_path(folder)]
    stored = bucket.objects(f"{DATA}/")
    wanted: dict[Path, StoredObject] = {}
    for path in tables:
        name = f"{DATA}/{path.relative_to(folder).as_posix()}"
        if name not in stored:
            raise UserError(
                f"{bucket.address(name)} does not exist; upload it, or correct data.bucket_prefix or data.split"
            )
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
    """`.s3.json` of a synced folder: per file the ETag it was downloaded with and when it was written here.

    Only an aid: a file that it does not know, or that was touched since, is compared by content.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / SYNC_RECORD
        self._known = self._read()
        self._new: dict[str, Any] = {}

    def holds(self, path: Path, item: StoredObject) -> bool:
        """Whether `path` is an unharmed copy of this version of the object."""
        from transformer.storage.bucket import Arrived, md5

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
        """Write what is new, and keep what another process recorded meanwhile."""
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
