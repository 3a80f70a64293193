"""A request to a server that a test has started."""

from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener


def answers(url: str) -> bytes | None:
    """Body of the answer to a GET without a proxy; None = no good answer."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=60) as answer:
            return bytes(answer.read())
    except (URLError, OSError):
        return None
