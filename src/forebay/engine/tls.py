"""TLS between a transport and a protocol: one layer, the same on every event loop.

The loops have their own, which keep 256 KiB per connection, cannot be fed bytes that were read before, say little about
failed handshakes, and differ. Here OpenSSL works on memory (:class:`ssl.MemoryBIO`), and the layer moves the bytes.
"""

from __future__ import annotations

import asyncio
import ssl
from enum import Enum, auto
from math import inf
from typing import Any, Protocol, cast

from forebay.engine.address import join_host_port
from forebay.engine.certificates import TLSInfo, peer_certificate
from forebay.engine.handler import CloseReason
from forebay.engine.loop import Ticker
from forebay.engine.tls_failures import HELLO_AT_MOST, explain, not_tls
from forebay.engine.tls_sides import Side
from forebay.engine.tls_stream import FEED, TLSStream

__all__ = ["LayerOwner", "TLSLayer"]

FAREWELL = 1.0
"""Seconds a peer has to read our alert. Closing with bytes unread would reset the connection, and the alert be lost."""


class LayerOwner(Protocol):
    """What a layer needs of whoever accepted or dialled its connection."""

    ticker: Ticker

    def arrived(self, layer: Any) -> bool:
        """Whether the connection may go on; else it is closed at once, and nothing more is heard of it."""

    def left(self, layer: Any, reason: CloseReason, detail: str) -> None:
        """It ended before its upper protocol was connected. ``detail`` is a sentence."""


class _State(Enum):
    NEW = auto()  # not connected
    HELLO = auto()  # server: waiting for the client's first message
    QUEUED = auto()  # waiting for a turn at the gate
    HANDSHAKE = auto()
    OPEN = auto()  # the upper protocol is connected
    FAREWELL = auto()  # an alert was sent: read on, throw it away, until the peer has seen it
    LOST = auto()


_NEW, _HELLO, _QUEUED, _HANDSHAKE, _OPEN, _FAREWELL, _LOST = _State

_WHERE = {
    _HELLO: "the client's first message did not come",
    _QUEUED: "it was not its turn",
    _HANDSHAKE: "the peer did not go on with the handshake",
}


class TLSLayer(TLSStream):
    """One end of a TLS connection: below it is a transport, for which it is the protocol; above it is a protocol, for
    which it is the transport.

    Once the handshake is done ``upper.connection_made`` is called with the layer. The peer's end of TLS (close_notify)
    is ``eof_received``; the end of TCP without it is a reset, because anybody on the way could have cut what was sent
    (RFC 8446 section 6.1). When the handshake fails, ``upper`` is never called, and ``owner.left`` is.

    ``peer`` and ``peer_host`` say who it is; ``info`` what was agreed on, ``None`` before the end of the handshake.

    :param upper: the protocol above.
    :param side: :class:`~forebay.engine.tls_settings.ServerSide`, or what
        :meth:`~forebay.engine.tls_settings.ClientSide.target` gives.
    :param outermost: whether no layer is below that the owner has been told of: it is asked, by ``arrived``.
    """

    __slots__ = ("_offered", "_outermost", "_owner", "_state", "_why", "due_at", "expires_at", "peer_host")

    def __init__(self, upper: asyncio.Protocol, side: Side, owner: LayerOwner, *, outermost: bool = True) -> None:
        super().__init__(upper, side)
        self.peer_host = "unknown"
        self.expires_at = self.due_at = inf  # see policy.timers.Timed
        self._owner = owner
        self._outermost = outermost
        self._state = _NEW
        self._offered = b""  # the version field of the client's first message
        self._why: tuple[CloseReason, str] | None = None  # why it ended before it was open

    def __repr__(self) -> str:
        return f"<TLSLayer {self.peer} {self._state.name.lower()} {self.upper!r}>"

    # What the transport below calls: before it is open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport below."""
        self._raw = cast("asyncio.Transport", transport)
        self._raw_write = self._raw.write
        peername = transport.get_extra_info("peername")
        if peername and isinstance(peername, tuple):
            self.peer_host = peername[0]
            self.peer = join_host_port(peername[0], peername[1])
        if self._outermost and not self._owner.arrived(self):
            self._state = _LOST
            self._raw.abort()
            self._release()
            return
        self._owner.ticker.arm(self, self._side.handshake_timeout)
        if self._side.server_side:
            self._state = _HELLO
        else:
            self._enter()

    def _hello_received(self) -> None:
        """Wait for the first record to be whole: until then a client costs no more than its bytes, and no turn."""
        hello = bytes(self._unfed[: 5 + HELLO_AT_MOST])
        problem = not_tls(hello)
        if problem is not None:
            self._fail("not-tls", problem)
        elif len(hello) >= 5 and len(hello) >= 5 + int.from_bytes(hello[3:5], "big"):
            self._offered = hello[9:11]
            self._enter()

    def _enter(self) -> None:
        if self._side.gate.enter(self):
            self._start_handshake()
        else:
            self._state = _QUEUED
            self._pause_raw()

    def admitted(self) -> None:
        """Called by the gate: it is our turn."""
        if self._state is _QUEUED:
            self._resume_raw()
            self._start_handshake()

    def _start_handshake(self) -> None:
        self._state = _HANDSHAKE
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._sslobj = self._side.wrap(self._incoming, self._outgoing)
        self._handshake()

    def _handshake(self) -> None:
        while True:
            self._feed()
            try:
                self._sslobj.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._unfed:
                    return
            except OSError as error:
                self._fail(*explain(error, server_side=self._side.server_side, offered=self._offered))
                return
            else:
                break
        self._flush()
        self._opened()

    def _opened(self) -> None:
        self._owner.ticker.discard(self)
        side, sslobj = self._side, self._sslobj
        side.gate.leave(self)
        cipher = sslobj.cipher()
        self.info = info = TLSInfo(
            version=sslobj.version() or "",
            cipher=cipher[0] if cipher else "",
            alpn=sslobj.selected_alpn_protocol(),
            server_name=getattr(sslobj, "server_name", None) if side.server_side else sslobj.server_hostname,
            resumed=bool(sslobj.session_reused),
            certificate=peer_certificate(sslobj),
        )
        side.counts.handshakes += 1
        side.counts.resumed += info.resumed
        if side.keep(sslobj):
            self._unkept = 0
        self._state = _OPEN
        assert self.upper is not None, "it is dropped in the end only"
        self.upper.connection_made(self)
        self._pump()

    def _fail(self, kind: str, detail: str) -> None:
        self._why = (CloseReason.HANDSHAKE, detail)
        self._side.counts.failed[kind] += 1
        self._side.failed()
        self._side.gate.leave(self)
        self._say_farewell()

    def _say_farewell(self) -> None:
        """Let the peer see why, then close."""
        if self._state in (_HANDSHAKE, _OPEN):
            self._flush()
        self._state = _FAREWELL
        self._closing = True
        self._unfed = self._held = b""
        if self._raw.is_closing():
            return
        self._owner.ticker.arm(self, FAREWELL)
        self._resume_raw()
        if self._raw.can_write_eof():
            self._raw.write_eof()

    def on_expired(self) -> None:
        """Called by the timer wheel: the handshake took too long, or the farewell did."""
        if self._state in _WHERE:
            self._side.counts.timed_out += 1
            seconds = self._side.handshake_timeout
            self._why = (CloseReason.HANDSHAKE_TIMEOUT, f"{_WHERE[self._state]} within {seconds:g} s")
        self.abort()

    # What the transport below calls: always

    def data_received(self, data: bytes) -> None:
        """Called by the transport below."""
        state = self._state
        if state is _OPEN:
            if self._peer_done:  # nothing may follow; RFC 8446 section 6.1 says to ignore it
                return
            if self._unfed or self._paused or len(data) > FEED:
                self._unfed = data if not self._unfed else bytes(self._unfed) + data
            else:
                self._incoming.write(data)
            self._pump()
        elif state is _HELLO or state is _HANDSHAKE or state is _QUEUED:
            self._unfed = data if not self._unfed else bytes(self._unfed) + data
            if state is _HELLO:
                self._hello_received()
            elif state is _HANDSHAKE:
                self._handshake()

    def eof_received(self) -> bool:
        """Called by the transport below."""
        state = self._state
        if state is _OPEN:
            if not self._peer_done:
                self._raw_eof = True
                self._pump()
        elif state is _HELLO and not self._unfed:
            self._why = (CloseReason.PEER, "the client closed without a word")
            self._raw.close()
        elif state is _FAREWELL:
            self._raw.close()
        elif state in _WHERE:
            self._fail("closed", "the peer closed in the middle of the handshake")
            self._raw.close()
        return True  # it is closed above, if at all

    def pause_writing(self) -> None:
        """Called by the transport below: above the high watermark."""
        self._raw_full = True
        if self._state is _OPEN and self.upper is not None:
            self.upper.pause_writing()

    def resume_writing(self) -> None:
        """Called by the transport below: below the low watermark again."""
        self._raw_full = False
        self._forced = 0
        if self._state is _OPEN and self.upper is not None:
            self.upper.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport below."""
        if self._state is _LOST:
            return
        self._state = _LOST
        self._closing = True
        self._owner.ticker.discard(self)
        self._side.gate.leave(self)
        upper, error = self.upper, self._error or exc
        self._release()
        if self.info is None and self._why is None:
            self._side.counts.failed["reset"] += 1
            self._why = (CloseReason.HANDSHAKE, "the connection was reset in the middle of the handshake")
        if self.info is not None and upper is not None:
            upper.connection_lost(error)
        elif self._why is not None:
            self._owner.left(self, *self._why)

    def abort(self, reason: CloseReason = CloseReason.APP) -> None:
        """Close now. What was not sent is lost.

        :param reason: what the owner is told when the layer was not open yet.
        """
        if self._state is _NEW or self._state is _LOST:
            return
        self._closing = True
        if self._why is None:
            self._why = (reason, "closed before the handshake was done")
        self._raw.abort()
