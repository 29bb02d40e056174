"""An open TLS connection: clear text above, records below, and OpenSSL on memory between them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, cast

import structlog

from forebay.engine.certificates import TLSInfo
from forebay.engine.tls_failures import explain
from forebay.engine.tls_sides import Side

__all__ = ["TLSStream"]

log = structlog.get_logger("forebay.engine")

FEED = 32 * 1024
"""Bytes OpenSSL is given at once: its buffers never shrink."""

_RECORD = 16 * 1024  # bytes of clear text in a record, at most
_CORK = 64 * 1024  # bytes written while messages are delivered, past which they are not kept until the end of it
_FORCED = 64 * 1024  # bytes that a peer who reads nothing may make OpenSSL answer with

_NOTHING = ssl.MemoryBIO()  # stands where no handshake has begun, and where all is over: always empty


class TLSStream(asyncio.Protocol, asyncio.Transport):
    """What :class:`~forebay.engine.tls.TLSLayer` is once its handshake is done: the transport of the protocol above."""

    __slots__ = (
        "_closing",
        "_deliver",
        "_eof_sent",
        "_eof_told",
        "_error",
        "_forced",
        "_held",
        "_incoming",
        "_outgoing",
        "_paused",
        "_peer_done",
        "_pumping",
        "_raw",
        "_raw_eof",
        "_raw_full",
        "_raw_paused",
        "_raw_write",
        "_resuming",
        "_side",
        "_sslobj",
        "_trouble",
        "_unfed",
        "_unkept",
        "info",
        "peer",
        "upper",
    )

    _raw: asyncio.Transport
    _raw_write: Callable[[bytes], None]
    _sslobj: ssl.SSLObject

    def __init__(self, upper: asyncio.Protocol, side: Side) -> None:
        self.upper: asyncio.Protocol | None = upper
        self.peer = "unknown"
        self.info: TLSInfo | None = None
        self._side = side
        self._incoming = self._outgoing = _NOTHING
        self._deliver = upper.data_received
        self._unfed: bytes | memoryview = b""  # received, and not yet given to OpenSSL
        self._held = b""  # decrypted, and not yet delivered
        self._trouble: OSError | None = None  # what is to be dealt with once _held is delivered
        self._error: Exception | None = None  # what upper is told that the end was
        self._unkept = 3  # attempts to keep the session that are left
        self._forced = 0
        self._closing = False  # nothing can be written any more, nothing is delivered
        self._eof_sent = self._eof_told = self._peer_done = False
        self._raw_eof = self._raw_full = self._raw_paused = False
        self._paused = self._resuming = self._pumping = False

    def _say_farewell(self) -> None:
        """Let the peer see our alert, then close."""
        raise NotImplementedError

    def _release(self) -> None:
        """Drop what refers back to us, and what is large: nothing of it is to wait for the garbage collector."""
        self._unfed = self._held = b""
        self._error = self._trouble = self.upper = None
        self._deliver = _nowhere
        self._incoming = self._outgoing = _NOTHING
        if hasattr(self, "_sslobj"):
            del self._sslobj

    # The bytes

    def _feed(self) -> None:
        """Give OpenSSL some of what was received."""
        if self._unfed:
            rest = memoryview(self._unfed)
            self._incoming.write(rest[:FEED])
            self._unfed = rest[FEED:] if len(rest) > FEED else b""

    def _pump(self) -> None:
        """Deliver what was received, until nothing is left or it is not wanted. What is written meanwhile is joined."""
        if self._pumping:
            return
        incoming = self._incoming
        self._pumping = True
        try:
            while not (self._paused or self._closing):
                if incoming.pending and not self._held:
                    if data := self._decrypt():
                        self._deliver(data)
                elif self._held:
                    data, self._held = self._held, b""
                    self._deliver(data)
                elif self._trouble is not None:
                    self._broken(self._trouble)
                elif self._unfed and not self._peer_done:
                    self._feed()
                else:
                    break
        finally:
            self._pumping = False
        if self._closing:
            return
        if self._outgoing.pending:
            self._raw_write(self._outgoing.read())
        if self._unkept:
            self._unkept = 0 if self._side.keep(self._sslobj) else self._unkept - 1
        if self._paused:
            return
        if self._peer_done:
            self._end()
        elif self._raw_eof:
            self._side.counts.truncated += 1
            self._lose(ConnectionResetError("the peer closed without the end that TLS has"))

    def _end(self) -> None:
        if self._eof_told or self.upper is None:
            return
        self._eof_told = True
        if not self.upper.eof_received():
            self.close()

    def _decrypt(self) -> bytes:
        """All the clear text of what OpenSSL was given, as one piece. Nothing that it could decrypt is left there."""
        incoming, sslobj = self._incoming, self._sslobj
        pieces: list[bytes] = []
        forced = self._outgoing.pending
        try:
            while True:
                size = incoming.pending or _RECORD  # clear text is never longer
                data = sslobj.read(size)
                if len(data) < size and not incoming.pending and not pieces and data:  # the most frequent case
                    return data
                pieces.append(data)
                if not data:
                    self._peer_ended()
                    break
                if not (incoming.pending or sslobj.pending()):
                    break
        except ssl.SSLWantReadError:
            self._bound_answers(forced)
        except ssl.SSLZeroReturnError:
            self._peer_ended()
        except OSError as error:
            self._trouble = error.with_traceback(None)  # the traceback refers to us
            incoming.read()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _peer_ended(self) -> None:
        """The peer's close_notify was read; what follows it is to be ignored (RFC 8446 section 6.1)."""
        self._peer_done = True
        self._incoming.read()

    def _bound_answers(self, before: int) -> None:
        """A peer can ask for new keys again and again, and not read our answers (RFC 8446 section 4.6.3)."""
        if self._raw_full:
            self._forced += self._outgoing.pending - before
            if self._forced > _FORCED:
                self._side.counts.broken += 1
                self._lose(ConnectionResetError("the peer makes us answer, and reads nothing"))

    def _broken(self, error: OSError) -> None:
        """The peer sent an alert, or something that is not TLS."""
        if self._closing:
            return
        detail = explain(error, server_side=self._side.server_side)[1]
        log.debug("tls broken", peer=self.peer, reason=detail)
        self._side.counts.broken += 1
        if self._outgoing.pending:
            self._error = ConnectionResetError(detail)
            self._say_farewell()
        else:
            self._lose(ConnectionResetError(detail))

    def _lose(self, error: Exception) -> None:
        self._error = error
        self._closing = True
        self._raw.abort()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw_write(self._outgoing.read())

    # What the protocol above calls, as of its transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt ``data`` and send it."""
        if self._closing or self._eof_sent or not data:
            return
        try:
            if len(data) > _RECORD:
                self._write_large(memoryview(data).cast("B"))
                return
            self._sslobj.write(data)
        except OSError as error:
            self._broken(error)
            return
        if not self._pumping or self._outgoing.pending >= _CORK:
            self._raw_write(self._outgoing.read())

    def _write_large(self, data: memoryview) -> None:
        """Record by record, so that OpenSSL's buffer stays small; in pieces, so that memory does not triple."""
        pieces = []
        for position in range(0, len(data), _RECORD):
            self._sslobj.write(data[position : position + _RECORD])
            pieces.append(self._outgoing.read())
            if len(pieces) == 16:
                self._raw_write(b"".join(pieces))
                pieces.clear()
        if pieces:
            self._raw_write(b"".join(pieces))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Write all of them as one."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """TLS has its own end of one direction."""
        return True

    def write_eof(self) -> None:
        """Send TLS's end, then TCP's, and go on reading."""
        if self._closing or self._eof_sent:
            return
        if self._incoming.pending or self._sslobj.pending():  # OpenSSL loses what is unread when it says goodbye
            self._held += self._decrypt()
        self._say_goodbye()
        if self._raw.can_write_eof() and not self._raw.is_closing():
            self._raw.write_eof()

    def _say_goodbye(self) -> None:
        """Send close_notify, and do not wait for the peer's."""
        if not self._eof_sent:
            self._eof_sent = True
            with suppress(OSError):  # the peer's has not come; ours is written all the same
                self._sslobj.unwrap()
        self._flush()

    def close(self) -> None:
        """Send what was written and TLS's end, then close. What the peer still sends is not delivered."""
        if self._closing:
            return
        self._closing = True
        self._unfed = self._held = b""
        self._say_goodbye()
        self._raw.close()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing or self._raw.is_closing()

    def is_reading(self) -> bool:
        """Whether what is received is delivered."""
        return not (self._paused or self._closing)

    def pause_reading(self) -> None:
        """Deliver nothing more, until :meth:`resume_reading`. Idempotent."""
        if not (self._paused or self._closing):
            self._paused = True
            self._pause_raw()

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`. Nothing is delivered before this returns. Idempotent."""
        if self._paused and not self._closing:
            self._paused = False
            if not self._resuming:
                self._resuming = True
                asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        self._pump()
        if not (self._paused or self._closing):
            self._resume_raw()

    def _pause_raw(self) -> None:
        if not (self._raw_paused or self._raw.is_closing()):
            self._raw_paused = True
            self._raw.pause_reading()

    def _resume_raw(self) -> None:
        if self._raw_paused and not self._raw.is_closing():
            self._raw_paused = False
            self._raw.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the kernel has not taken yet. Who asks may wait for them to be written."""
        if self._outgoing.pending and not self.is_closing():
            self._flush()
        return self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Of the transport below."""
        return self._raw.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Of the transport below."""
        self._raw.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``forebay_tls``: the :class:`~forebay.engine.certificates.TLSInfo`; all else is of the transport below."""
        if name == "forebay_tls":
            return self.info
        return self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to ``protocol`` from now on."""
        self.upper = cast("asyncio.Protocol", protocol)
        self._deliver = self.upper.data_received

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol above."""
        assert self.upper is not None, "it is dropped in the end only"
        return self.upper


def _nowhere(data: bytes) -> None:
    """Who clear text is delivered to when nobody is there any more."""
