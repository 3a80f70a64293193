"""A proxy between clients and a server, which cuts the server off at one moment, or slows it to a crawl.

It counts the pieces that clients send. A piece is what one read of a connection returns: a request or a part of one.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from tests.support.forwarding import PIECE, Forwarder

CRAWL_S = 0.02  # pause of a slowed proxy before each piece, in both directions
CRAWL_BYTES = 8_192  # of a piece then
CARRIED_OUT_S = 0.3  # the server has carried out a request by then, if the piece was its last


@dataclass(frozen=True)
class Cut:
    """The moment and the length of an outage.

    Attributes:
        piece: number of the piece at which the outage begins, counted from `Line.begin`.
        seconds: length of the outage.
        answered: the piece still reaches the server, and the answer is lost. Otherwise the piece is lost.
    """

    piece: int
    seconds: float
    answered: bool


class Line(Forwarder):
    """The proxy. Clients connect to `port`."""

    def __init__(self, server: int) -> None:
        self.pieces = 0
        self.crawls = False
        self._cut: Cut | None = None
        self._back = 0.0  # when an outage ends
        super().__init__(server)

    def begin(self, cut: Cut | None = None) -> None:
        """Count from 0 again, and cut the line off at that moment."""
        with self._lock:
            self.pieces, self._cut = 0, cut

    @property
    def was_cut(self) -> bool:
        return self._cut is None

    def _admits(self) -> bool:
        return time.monotonic() >= self._back

    def _directions(self, client: socket.socket, service: socket.socket) -> Iterable[Callable[[], None]]:
        return partial(self._forward, client, service, counts=True), partial(
            self._forward, service, client, counts=False
        )

    def _forward(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CRAWL_BYTES if self.crawls else PIECE):
                if self.crawls:
                    time.sleep(CRAWL_S)
                if counts and (cut := self._due()) is not None:
                    if cut.answered:
                        source.shutdown(socket.SHUT_RDWR)
                        target.sendall(data)
                        time.sleep(CARRIED_OUT_S)
                    self.hang_up()
                    return
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, target}

    def _due(self) -> Cut | None:
        """The cut, if this piece is the one at which it begins."""
        with self._lock:
            self.pieces += 1
            cut = self._cut
            if cut is None or self.pieces < cut.piece:
                return None
            self._cut, self._back = None, time.monotonic() + cut.seconds
            return cut


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    line = Line(port)
    try:
        yield line
    finally:
        line.stop()
