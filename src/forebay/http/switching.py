"""Giving a connection to another protocol (RFC 9110 section 7.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forebay.engine.connection import CloseReason, Connection, ConnectionHandler
from forebay.engine.settings import Outbound

if TYPE_CHECKING:
    from forebay.http.connection import HTTPConnection
    from forebay.http.exchange import Exchange

__all__ = ["switch_protocols"]

_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n"


def switch_protocols(
    link: HTTPConnection, exchange: Exchange, headers: bytes, handler: ConnectionHandler, outbound: Outbound | None
) -> Connection:
    """See :meth:`forebay.http.exchange.Exchange.upgrade`."""
    server, conn = link.server, link.conn
    rest = link.leave(exchange, b"".join((_SWITCHING, headers, b"\r\n")))
    server.upgrades += 1
    conn.expire_in(None)
    conn.hand_over(handler, server.owner_for(outbound) if outbound is not None else None)
    conn.resume_reading()
    handler.on_open(conn)
    if rest and not conn.closing:
        handler.on_message(conn, rest)
    if link.last:  # the server drains, and has told only us
        conn.start_drain()
    if conn.half_closed and not conn.closing and not handler.on_eof(conn):  # the same goes for the client's end
        conn.close(CloseReason.PEER)
    return conn
