"""A bucket on a real S3 server, and the proxy in front of the server."""

from tests.support.object_store import credentials, owner, proxy, server, store

__all__ = ["credentials", "owner", "proxy", "server", "store"]
