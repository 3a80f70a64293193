"""Compare a file with the ETag of an S3 object.

Most stores form the ETag of an object from MD5: that of its content, or, after a multipart upload, the MD5 over the
MD5s of its parts, followed by the number of parts. Nothing in S3 promises that, and the sizes of the parts are not part
of the ETag.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from functools import partial
from pathlib import Path

_FORM = re.compile(r"[0-9a-f]{32}(-(?P<parts>\d+))?")
_MB, _MIB = 10**6, 1 << 20
# Sizes of parts that upload programs use: those of the AWS and Google clients, s3cmd, rclone, Hadoop and Spark.
_USUAL_PART_SIZES = [number * unit for unit in (_MIB, _MB) for number in (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100)]
_USUAL_PART_SIZES += [number * _MIB for number in (128, 200, 256, 500, 512, 1_024, 5_120)]

new_md5 = partial(hashlib.md5, usedforsecurity=False)  # S3's checksum; it does not protect against forgery


def md5(path: Path) -> hashlib._Hash:
    with path.open("rb") as file:
        return hashlib.file_digest(file, new_md5)


def unquoted(etag: str) -> str:
    return etag.strip('"')


def parts_of(etag: str) -> int | None:
    """Number of parts of the multipart upload; 0 = it was none; None = the ETag is not formed from MD5."""
    form = _FORM.fullmatch(etag)
    return None if form is None else int(form["parts"] or 0)


def possible_part_sizes(size: int, parts: int) -> list[int]:
    """The usual sizes of a part, in bytes, that cut an object of `size` bytes into that many parts."""
    return [part for part in _USUAL_PART_SIZES if -(-size // part) == parts]


def multipart_etag(path: Path, part_size: int) -> str:
    """The ETag of a multipart upload: the MD5 over the MD5s of its parts, and their number."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        digests = [new_md5(view[start : start + part_size]).digest() for start in range(0, len(view), part_size)]
    return f"{new_md5(b''.join(digests)).hexdigest()}-{len(digests)}"
