"""Find out what an object store does with conditions, by trying them on an object of our own.

S3 has conditional writes, copies and deletes. Stores that speak S3 ignore some conditions, refuse others, or expect
another form of the ETag. A store that ignores a condition writes in any case, which no single answer shows.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import botocore.exceptions as aws

from transformer.errors import ServiceError, UserError
from transformer.storage.errors import LATER_STATUSES, Place, status_of
from transformer.storage.etags import new_md5, unquoted

# Folder of the objects under the prefix. It is inside the folder of the studies, the only one in which the guide lets
# the stages delete objects. The objects are deleted at the end of the probe.
FOLDER = "optuna/.probe"
_WRONG = "0" * 32  # an ETag that no version has
_ANY = {"IfNoneMatch": "*"}  # the object must not exist
_QUOTED, _BARE = '"{}"', "{}"


@dataclass(frozen=True)
class StoreFeatures:
    """The answers of a store to conditions of requests under one prefix.

    Attributes:
        creates: a PUT on the condition that the object does not exist is refused if it exists.
        if_match: the form of an ETag in the condition that a PUT replaces exactly this version; "" = no form works.
        copies: both conditions work for the target of a COPY.
        deletes: a DELETE on the condition of a version is refused for another version.
        reads_back: a read returns what was written last.
        md5_etags: the ETag of an object is the MD5 of its content.
        refusals: statuses of the answers to requests whose condition was not met.
    """

    creates: bool
    if_match: str
    copies: bool
    deletes: bool
    reads_back: bool
    md5_etags: bool
    refusals: frozenset[int]

    @property
    def conditional(self) -> bool:
        """Whether one of several writers of an object can be the only one that succeeds."""
        return self.creates and bool(self.if_match)

    def must_replace(self, etag: str) -> dict[str, str]:
        """The condition that the object's current ETag is `etag` ("" = that it does not exist)."""
        return {"IfMatch": self.if_match.format(etag)} if etag else dict(_ANY)

    def __str__(self) -> str:
        replaces = {"": "no", _BARE: "yes (ETag without quotes)"}.get(self.if_match, "yes")
        return (
            f"conditional create {_yes(self.creates)}, replace {replaces}, copy {_yes(self.copies)}, "
            f"delete {_yes(self.deletes)}; reads back what it wrote: {_yes(self.reads_back)}; "
            f"ETag is the MD5: {_yes(self.md5_etags)}"
        )


def probe(client: Any, place: Place, folder: str) -> StoreFeatures:
    """Try each condition on two objects under `folder`, and delete them.

    Raises:
        UserError: the credentials may not write there.
        UnansweredError: the store does not answer. The answers before that may be those of repeated requests.
    """
    trial = _Trial(client, place, f"{folder}{FOLDER}/{uuid.uuid4().hex}")
    try:
        return trial.run()
    finally:
        trial.clean()


class _Trial:
    def __init__(self, client: Any, place: Place, key: str) -> None:
        self._client = client
        self._place = place
        self._key = key
        self._other = f"{key}-copy"
        self._refusals: set[int] = set()
        self._status = 0  # of the last refusal

    def run(self) -> StoreFeatures:
        created = self._put(b"first", _ANY)
        if not created:
            self._put(b"first", {})
        creates = bool(created) and self._refused(self._put(b"second", _ANY))
        etag = self._put(b"third", {})
        reads_back = self._body() == b"third"
        md5_etags = etag == new_md5(b"third").hexdigest()
        if_match = next((form for form in (_QUOTED, _BARE) if self._replaces(form)), "")
        return StoreFeatures(
            creates=creates,
            if_match=if_match,
            copies=bool(if_match) and self._copies(if_match),
            deletes=bool(if_match) and self._deletes(if_match),
            reads_back=reads_back,
            md5_etags=md5_etags,
            refusals=frozenset(self._refusals),
        )

    def clean(self) -> None:
        for key in (self._key, self._other):
            with suppress(UserError, ServiceError):  # an earlier error says more
                self._send(self._client.delete_object, {}, Key=key)

    def _replaces(self, form: str) -> bool:
        etag = self._put(b"before", {})
        if not self._put(b"after", {"IfMatch": form.format(etag)}):
            return False
        return self._refused(self._put(b"never", {"IfMatch": form.format(_WRONG)}))

    def _copies(self, form: str) -> bool:
        created = self._copy(_ANY)
        if not created or not self._refused(self._copy(_ANY)):
            return False
        replaced = self._copy({"IfMatch": form.format(created)})
        return bool(replaced) and self._refused(self._copy({"IfMatch": form.format(_WRONG)}))

    def _deletes(self, form: str) -> bool:
        etag = self._put(b"to delete", {})
        if not self._refused(self._delete({"IfMatch": form.format(_WRONG)})):
            return False
        return bool(self._delete({"IfMatch": form.format(etag)})) and self._body() is None

    def _refused(self, etag: str) -> bool:
        if not etag:
            self._refusals.add(self._status)
        return not etag

    def _put(self, body: bytes, condition: Mapping[str, str]) -> str:
        """ETag of the new version; "" = refused."""
        answer = self._send(self._client.put_object, condition, Key=self._key, Body=body)
        return unquoted(answer["ETag"]) if answer else ""

    def _copy(self, condition: Mapping[str, str]) -> str:
        source = {"Bucket": self._place.bucket, "Key": self._key}
        answer = self._send(self._client.copy_object, condition, Key=self._other, CopySource=source)
        return unquoted(answer["CopyObjectResult"]["ETag"]) if answer else ""

    def _delete(self, condition: Mapping[str, str]) -> str:
        return "deleted" if self._send(self._client.delete_object, condition, Key=self._key) is not None else ""

    def _body(self) -> bytes | None:
        answer = self._send(self._client.get_object, {}, Key=self._key)
        if answer is None:
            return None
        with self._place.errors_of(self._key):
            content: bytes = answer["Body"].read()
        return content

    def _send(
        self, request: Callable[..., dict[str, Any]], condition: Mapping[str, str], **arguments: Any
    ) -> dict[str, Any] | None:
        """The answer; None if the store refused a request that has a condition, or there is no such object."""
        with self._place.errors_of(arguments["Key"]):
            try:
                return request(Bucket=self._place.bucket, **arguments, **condition)
            except aws.ClientError as error:
                self._status = status_of(error)
                absent = self._status == 404
                refused = bool(condition) and self._status not in {401, 403, *LATER_STATUSES}
                if not (absent or refused):
                    raise
                return None


def _yes(found: bool) -> str:
    return "yes" if found else "no"
