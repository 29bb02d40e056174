"""What a peer has sent, or that it has gone, before the loop has noticed."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

from forebay.engine.connection import Connection

__all__ = ["Unread", "read_rest"]

_PIECE = 64 * 1024


class Unread:
    """Asks the kernel whether something waits to be read from ``conn``: bytes, an end, or an error. A microsecond.

    A connection that was idle may be over, or have brought what nobody asked for, while the loop was busy; who sends on
    it then takes what lies there for the answer. Connections without a socket have nothing unread.
    """

    __slots__ = ("_poll",)

    def __init__(self, conn: Connection) -> None:
        self._poll: select.poll | None = None
        sock = conn.transport.get_extra_info("socket")
        if sock is not None and (number := sock.fileno()) >= 0:
            self._poll = select.poll()
            self._poll.register(number, select.POLLIN)

    def there(self) -> bool:
        """Whether something is. Only while the connection is open: its descriptor may be another's later."""
        return self._poll is not None and bool(self._poll.poll(0))


def read_rest(conn: Connection, most: int) -> Iterator[bytes]:
    """What a peer had sent before ``conn`` broke, and the loop has not read; up to about ``most`` bytes of it. To be
    used within ``on_close`` only, while the socket is still there. Nothing under TLS, where it cannot be decrypted."""
    sock = conn.transport.get_extra_info("socket")
    if sock is None or conn.tls is not None or (number := sock.fileno()) < 0:
        return
    while most > 0:
        try:
            data = os.read(number, _PIECE)
        except OSError:  # there is nothing more, or it is lost
            return
        if not data:
            return
        yield data
        most -= len(data)
