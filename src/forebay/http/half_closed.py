"""Clients that have sent all they want to: have they gone, or do they only say that no request will follow?

Both look alike: the connection ends on the client's side. Who only half-closed must still be answered (RFC 9112 section
9.6), while for who has gone the work is to be given up. The difference shows when something is sent: the system of a
client that has gone answers with a reset. So a byte or two are sent that every client must take: an interim answer
before the answer (RFC 9110 section 15.2), or a leading zero of the next chunk's size (RFC 9112 section 7.1). Over TLS,
and from clients that speak HTTP/1.0, the end is taken for one on both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forebay.engine.connection import CloseReason
from forebay.engine.ending import was_reset
from forebay.engine.loop import call_later

if TYPE_CHECKING:
    from forebay.http.connection import HTTPConnection

__all__ = ["watch_half_closed"]

# Seconds between one look and the next. The probe is sent after the first: most answers are there before it.
_PROBE_AFTER = 0.01
_WAITS = (0.01, 0.02, 0.04, 0.2)
_LAST_WAIT = 1.0


def watch_half_closed(link: HTTPConnection) -> None:
    """Cut ``link`` as soon as it turns out that its client has gone."""
    waits = iter(_WAITS)

    def probe() -> None:
        exchange = link.current
        if exchange is not None and exchange.http11 and link.is_quiet():
            if not exchange.started:
                exchange.interim(100, b"")
            elif exchange.awaits_chunk():
                link.conn.write(b"0")
        look()

    def look() -> None:
        if not link.waits_for_answer():
            return
        if was_reset(link.conn.transport):
            link.conn.abort(CloseReason.RESET)
        else:
            call_later(next(waits, _LAST_WAIT), look)

    call_later(_PROBE_AFTER, probe)
