"""A proxy between clients and a server, which cuts the server off at one moment, or slows it to a crawl.

It counts the pieces that clients send. A piece is what one read of a connection returns: a request or a part of one.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

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


class Line:
    """The proxy. Clients connect to `port`."""

    def __init__(self, server: int) -> None:
        self._server = ("127.0.0.1", server)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.pieces = 0
        self.crawls = False
        self._cut: Cut | None = None
        self._back = 0.0  # when an outage ends
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def begin(self, cut: Cut | None = None) -> None:
        """Count from 0 again, and cut the line off at that moment."""
        with self._lock:
            self.pieces, self._cut = 0, cut

    @property
    def was_cut(self) -> bool:
        return self._cut is None

    def close(self) -> None:
        self._listener.close()
        self._hang_up()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    if time.monotonic() < self._back:
                        raise OSError("cut off")
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open |= {client, server}
                threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CRAWL_BYTES if self.crawls else 1 << 16):
                if self.crawls:
                    time.sleep(CRAWL_S)
                if counts and (cut := self._due()) is not None:
                    if cut.answered:
                        source.shutdown(socket.SHUT_RDWR)
                        target.sendall(data)
                        time.sleep(CARRIED_OUT_S)
                    self._hang_up()
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

    def _hang_up(self) -> None:
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    line = Line(port)
    try:
        yield line
    finally:
        line.close()
