"""A bucket on a real S3 server, the proxy in front of the server, and a bucket of every kind of store."""

from tests.support.object_store import credentials, owner, proxy, server, store
from tests.support.stores import bucket, kind, place

__all__ = ["bucket", "credentials", "kind", "owner", "place", "proxy", "server", "store"]
