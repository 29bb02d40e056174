"""What a peer has sent, or that it has gone, before the loop has noticed."""

from __future__ import annotations

import select

from forebay.engine.connection import Connection

__all__ = ["Unread"]


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
