"""Shared folders of a bucket: finished statistics and embeddings that one machine stores for the others.

Layout under `<key prefix>/`, for example `statistics/<hash>/`:

    _COMPLETE           written last; it names the current content, its files, sizes and SHA-256
    <content>/<file>    never rewritten with other bytes, so readers cannot see a mixture
"""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

from transformer.errors import UserError
from transformer.files import atomic_folder, content_hash, file_digest
from transformer.storage.bucket import Bucket, StoredObject, is_plain

log = logging.getLogger(__name__)

COMPLETE = "_COMPLETE"


class _DamagedFolderError(Exception):
    """A file of a shared folder differs from its entry in `_COMPLETE`."""


def download_folder(bucket: Bucket, key_prefix: str, target: Path) -> bool:
    """Download the whole shared folder `key_prefix`, such as `statistics/<hash>`, to `target`.

    Returns:
        False if the bucket has no complete and undamaged one. Then `target` is not created.
    """
    shared = _current(bucket, key_prefix)
    if shared is None:
        return False
    objects, digests = shared
    try:
        with atomic_folder(target) as temporary:
            bucket.download({temporary / name: item for name, item in objects.items()})
            for name in objects:
                if file_digest(temporary / name) != digests[name]:
                    raise _DamagedFolderError(bucket.address(f"{key_prefix}/{name}"))
    except _DamagedFolderError as damaged:
        log.warning("S3: %s differs from its entry in %s, so the shared folder is not used", damaged, COMPLETE)
        return False
    log.info("S3: %s downloaded to %s", bucket.address(key_prefix), target)
    return True


def upload_folder(bucket: Bucket, folder: Path, key_prefix: str, replace: bool = False) -> bool:
    """Share `folder` as `key_prefix`. A complete shared folder stays, unless `replace`.

    Returns:
        Whether `folder` was uploaded. `download_folder` ignores an interrupted upload.
    """
    where = bucket.address(key_prefix)
    marker_name = f"{key_prefix}/{COMPLETE}"
    if not replace and _current(bucket, key_prefix) is not None:
        log.info("S3: %s exists already", where)
        return False
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_digest(path)}
        for path in paths
    }
    content = content_hash(files)
    for name in files:
        bucket.put_file(folder / name, f"{key_prefix}/{content}/{name}")
    text = json.dumps({"content": content, "files": files}, indent=2)
    before = bucket.find(marker_name)
    bucket.write_text(marker_name, text, replaces=before.etag if before else "")
    # Another machine may have been faster. A store without conditions lets the last one win, so read it back.
    after = bucket.read_text(marker_name)
    if after is None or after.text != text:
        log.info("S3: %s was uploaded by another machine at the same time", where)
        return False
    log.info("S3: %s uploaded, %d files", where, len(files))
    return True


def _current(bucket: Bucket, key_prefix: str) -> tuple[dict[str, StoredObject], dict[str, str]] | None:
    """Objects and SHA-256 of a complete shared folder, by file name; None if there is none."""
    listed = bucket.objects(f"{key_prefix}/")
    marker_name = f"{key_prefix}/{COMPLETE}"
    marker = listed.get(marker_name)
    if marker is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        bucket.download({Path(scratch) / COMPLETE: marker})
        text = (Path(scratch) / COMPLETE).read_text(encoding="utf-8", errors="replace")
    try:
        entries = json.loads(text)
        content = str(entries["content"])
        files = {str(name): (int(file["size"]), str(file["sha256"])) for name, file in entries["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{bucket.address(marker_name)} is not readable; remove it from the bucket") from None
    for name in (content, *files):
        # The names become local paths. A bucket must not make us write outside the folder.
        if not is_plain(name):
            raise UserError(f"{bucket.address(marker_name)} names {name!r}, outside its folder; remove it")
    objects = {}
    for name, (size, _) in files.items():
        item = listed.get(f"{key_prefix}/{content}/{name}")
        if item is None or item.size != size:
            log.warning("S3: %s lacks %s, so the shared folder is not used", bucket.address(key_prefix), name)
            return None
        objects[name] = item
    return objects, {name: digest for name, (_, digest) in files.items()}
