"""An echo over UDP with sessions: each peer's datagrams are counted, until it has been silent for too long.

Run it, and talk to it::

    forebay run examples.echo_udp:server
    nc -u 127.0.0.1 7400

Each datagram comes back with its number before it. A peer that is silent for ``SESSION_TIMEOUT`` is forgotten, and
counted from 1 when it comes back. The sender's address of a datagram can be forged, which decides three things here:
answers are hardly longer than what they answer, so this cannot be used to flood others; sessions are bounded, and so is
how fast they are opened; and a session of one datagram, which proves nothing, is not worth a line in the log.
"""

from __future__ import annotations

import structlog

from forebay import UDPServer
from forebay.engine import Admission, CloseReason, DatagramHandler, DatagramSession

LONGEST = 1400  # bytes: what passes every network in one piece
MOST_SESSIONS = 10_000
MOST_OF_ONE_ADDRESS = 100
SESSION_TIMEOUT = 30.0  # seconds

log = structlog.get_logger("examples.echo")


class Echo(DatagramHandler):
    """One peer's session. The session itself counts; its handler has nothing to remember."""

    __slots__ = ()

    def on_message(self, session: DatagramSession, data: bytes) -> None:
        session.write(b"%d %b" % (session.messages_in, data))

    def on_close(self, session: DatagramSession, reason: CloseReason) -> None:
        if session.messages_in > 1:
            counts = {"datagrams": session.messages_in, "bytes": session.bytes_in, "unsent": session.writes_dropped}
            log.info("session over", peer=session.peer, reason=str(reason), **counts)


def make_server(bind: str = "udp://127.0.0.1:7400", *, session_timeout: float = SESSION_TIMEOUT) -> UDPServer:
    """An echo of its own."""
    return UDPServer(
        Echo,
        bind=bind,
        name="echo",
        session_timeout=session_timeout,
        max_sessions=MOST_SESSIONS,
        datagram_maximum=LONGEST,
        admission=Admission(per_peer=MOST_OF_ONE_ADDRESS, rate=1000),
    )


server = make_server()
