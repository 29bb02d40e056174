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

# Seconds. Most answers are there before the first probe. A client may also leave later, so there are more of them, but
# ever fewer: some clients count interim answers, and give up at a handful.
_PROBE_AFTER = 0.01
_LOOKS = (0.01, 0.02, 0.04, 0.2)  # between one look and the next, after a probe
_AGAIN_AFTER = 2.0
_SLOWER = 5


def watch_half_closed(link: HTTPConnection) -> None:
    """Cut ``link`` as soon as it turns out that its client has gone."""
    again_after = _AGAIN_AFTER
    looks = iter(_LOOKS)

    def probe() -> None:
        nonlocal looks
        exchange = link.current
        if exchange is not None and exchange.http11 and link.is_quiet():
            if not exchange.started:
                exchange.interim(100, b"")
            elif exchange.awaits_chunk():
                link.conn.write(b"0")
        looks = iter(_LOOKS)
        look()

    def look() -> None:
        nonlocal again_after
        if not link.waits_for_answer():
            return
        if was_reset(link.conn.transport):
            link.conn.abort(CloseReason.RESET)
            return
        wait = next(looks, None)
        if wait is not None:
            call_later(wait, look)
        else:
            call_later(again_after, probe)
            again_after *= _SLOWER

    call_later(_PROBE_AFTER, probe)
