"""The SQLite file of a study and its copy in the bucket, `optuna/<file name>`.

`<file>.s3.json`, in the folder of the file, records the version of the copy that was last downloaded or uploaded. While
the bucket holds that version, the local file is at least as new.
"""

from __future__ import annotations

import logging
import sqlite3
import tempfile
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from transformer.errors import ServiceError, UserError
from transformer.files import atomic_path, read_json, write_json
from transformer.storage.bucket import Bucket, StoredObject
from transformer.tuning.lease import Lease

log = logging.getLogger(__name__)

FOLDER = "optuna"
_COMPANIONS = ("", "-journal", "-wal", "-shm")  # the database, and the files that SQLite leaves after a crash


class BucketCopy:
    """The copy of `path` in `bucket`."""

    def __init__(self, path: Path, bucket: Bucket) -> None:
        self.name = f"{FOLDER}/{path.name}"
        self.lease_name = f"{self.name}.lock"
        self._path = path
        self._bucket = bucket
        self._record = path.with_name(f"{path.name}.s3.json")
        self._saved = False

    def fetch(self) -> None:
        """Download the copy, unless the local file descends from it or there is none. Another local file is renamed.

        Raises:
            UserError: the copy is not a sound study database.
        """
        item = self._bucket.find(self.name)
        if item is None:
            self._remember("")
        if item is None or self._descends_from(item):
            return
        with atomic_path(self._path) as temporary:
            etag = self._bucket.download_file(item, temporary)
            self._check(temporary)
            self._keep_aside()
        self._remember(etag)
        log.info("S3: %s downloaded to %s", self._bucket.address(self.name), self._path)

    def refuse_unknown(self) -> None:
        """Refuse if the local file does not descend from the copy: saving would lose the trials in the copy.

        Raises:
            UserError: it does not; the error names the remedy.
        """
        item = self._bucket.find(self.name)
        if item is None:
            self._remember("")
        elif not self._descends_from(item):
            raise UserError(
                f"{self._bucket.address(self.name)} holds trials that paths.optuna_db={self._path} may lack; set "
                "data.download_data_from_s3=true to continue with them, or name another paths.optuna_db"
            )

    def save(self, lease: Lease) -> None:
        """Replace the copy in the bucket by a consistent copy of the file, in one step. The file may be in use.

        Raises:
            ServiceError: another process has the lease or replaced the copy, or the bucket does not answer. Then the
                copy in the bucket is unchanged.
        """
        lease.renew()
        temporary = f"{self.name}.{lease.token}.tmp"
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / self._path.name
            self._back_up(copy)
            try:
                sent = self._bucket.put_file(copy, temporary)
                lease.renew()  # the upload may have taken long
                etag = self._swap(temporary, sent)
            finally:
                with suppress(UserError, ServiceError):  # `remove_leftovers` of the next writer deletes it
                    self._bucket.delete(temporary)
        self._remember(etag)
        if not self._saved:
            log.info("S3: the study database is saved to %s after every trial", self._bucket.address(self.name))
        self._saved = True

    def remove_leftovers(self) -> None:
        """Delete the temporary objects of writers that died. Only the holder of the lease may call it."""
        for name in self._bucket.names(f"{self.name}."):
            if name.endswith(".tmp"):
                self._bucket.delete(name)

    def _swap(self, temporary: str, sent: str) -> str:
        known = self._known()
        current = self._bucket.find(self.name)
        if (current.etag if current else "") == known:
            if (etag := self._bucket.copy(temporary, self.name, replaces=known)) is not None:
                return etag
            # The answer may have been lost, so that the repeated request found its own copy.
            current = self._bucket.find(self.name)
            if current is not None and current.etag == sent:
                return sent
        raise ServiceError(
            f"{self._bucket.address(self.name)} was replaced or removed by another process; "
            "run the stage again to continue from its current version"
        )

    def _back_up(self, copy: Path) -> None:
        try:
            with closing(sqlite3.connect(self._path)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        except sqlite3.Error as error:
            raise ServiceError(f"{self._path} cannot be copied ({error}); check the disk, then run again") from None

    def _check(self, path: Path) -> None:
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as database:
                (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
                database.execute("SELECT count(*) FROM studies")
        except sqlite3.Error as error:
            verdict = str(error)
        if verdict != "ok":
            reason = " ".join(verdict.split())[:160]
            raise UserError(
                f"{self._bucket.address(self.name)} is not a sound study database ({reason}); restore an earlier "
                "version of it, or remove it from the bucket"
            )

    def _keep_aside(self) -> None:
        """Rename the local file and SQLite's companion files, which SQLite would apply to the downloaded file."""
        stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        aside = self._path.with_name(f"{self._path.stem}.{stamp}{self._path.suffix}")
        if self._path.is_file():
            log.warning(
                "S3: %s does not descend from %s, which takes its place; the old file is now %s",
                self._path,
                self._bucket.address(self.name),
                aside,
            )
        for end in _COMPANIONS:
            with suppress(FileNotFoundError):
                Path(f"{self._path}{end}").rename(f"{aside}{end}")

    def _descends_from(self, item: StoredObject) -> bool:
        return self._path.is_file() and item.etag == self._known()

    def _known(self) -> str:
        """ETag of the version that the local file descends from; "" if it descends from none."""
        with suppress(UserError):
            entry = read_json(self._record)
            if isinstance(entry, dict) and entry.get("object") == self._bucket.address(self.name):
                return str(entry.get("etag", ""))
        return ""

    def _remember(self, etag: str) -> None:
        write_json(self._record, {"object": self._bucket.address(self.name), "etag": etag})
