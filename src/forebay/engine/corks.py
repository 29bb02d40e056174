"""Writes of many connections that leave together, when the turn of the loop is over."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forebay.engine.connection import Connection

__all__ = ["Corks"]

_LONGEST = 0.001  # seconds the first write of a turn waits, beside what the handler at work then takes


class Corks:
    """The corked connections of one loop.

    The loop hands out what has come on many connections in one turn. The answer to each could be written as soon as it
    is made; writing those of a turn behind each other costs less: the code of the application and that of the kernel's
    network stack each stay in the processor's caches, and a peer with many connections is woken once.
    """

    __slots__ = ("_conns", "_since")

    def __init__(self) -> None:
        self._conns: list[Connection] = []
        self._since = 0.0

    def add(self, conn: Connection) -> None:
        """Uncork ``conn`` at the end of this turn, or within a millisecond and the time one handler takes."""
        at = time.monotonic()
        if not self._conns:
            self._since = at
            asyncio.get_running_loop().call_soon(self._pull)
        elif at - self._since > _LONGEST:
            self._pull()
        self._conns.append(conn)

    def _pull(self) -> None:
        conns, self._conns = self._conns, []
        for conn in conns:
            try:
                conn.uncork()
            except Exception as error:  # the others must have their turn
                conn.failed(error)
