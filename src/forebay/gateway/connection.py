"""A connection to a target: one request and its answer at a time, kept when it can be used again."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import structlog

from forebay.engine import CloseReason, Connection, ConnectionHandler, now
from forebay.errors import ProtocolError, RetryClass, UpstreamClosed, UpstreamError, UpstreamProtocolError
from forebay.gateway.heads import encode_response_headers
from forebay.gateway.upstream import Target
from forebay.wire.http1 import ResponseReader

__all__ = ["UpstreamConnection", "User"]

log = structlog.get_logger("forebay.gateway")

_MOST_INTERIM = 16  # 1xx answers before the one that counts: they are passed on without waiting for the client


class Head(NamedTuple):
    """What of an answer's head matters to the gateway."""

    status: int
    lines: bytes  # encoded, for the client
    length: int | None  # of the content; None: it ends by itself, or there is none


# Targets repeat themselves: the same headers, the same length, within the same second. Heads that came twice in a row
# are remembered with what they mean; an answer that begins with one and is there whole costs a look-up, not a parse.
_known_heads: dict[bytes, Head] = {}
_HEADS_KEPT = 512
_KNOWN_SIZE = 8192  # bytes of an answer that is looked up


class User(Protocol):
    """Who waits for the answer. Called on the loop, and never again after ``on_failed`` or a complete answer."""

    def on_interim(self, status: int, lines: bytes) -> None:
        """A 1xx answer came, with encoded header ``lines``; the one that counts will follow."""

    def on_answer(self, up: UpstreamConnection, head: Head, content: bytes) -> None:
        """The whole answer came at once. The connection is free for the next request."""

    def on_received(self, up: UpstreamConnection) -> None:
        """Something of the answer is there: look at ``head``, :meth:`UpstreamConnection.take` and ``complete``."""

    def on_failed(self, error: UpstreamError, stale: bool) -> None:
        """There is no (complete) answer. ``stale``: the connection had been kept, and died before a byte came back,
        which happens to the best of targets."""

    def on_upstream_writable(self) -> None:
        """The target reads again."""

    def on_upstream_timeout(self) -> None:
        """The time armed with ``up.conn.expire_in`` is over."""


class UpstreamConnection(ConnectionHandler):
    """One connection to ``target``; the engine's handler and the reader's sink in one.

    Of an answer: ``head`` (None until it is there) and ``complete``.
    """

    __slots__ = (
        "_idle_until",
        "_interim",
        "_last_head",
        "_method",
        "_pieces",
        "_reader",
        "_reused",
        "_user",
        "complete",
        "conn",
        "head",
        "target",
    )

    conn: Connection

    def __init__(self, target: Target) -> None:
        self.target = target
        self._reader = ResponseReader(self)
        self._user: User | None = None
        self._pieces: list[bytes] = []
        self._reused = False
        self._method = ""  # of the request, until something of its answer comes
        self._last_head = 0  # hash of the head before
        self._idle_until = 0.0
        self._interim = 0
        self.head: Head | None = None
        self.complete = False

    # -- what its user does

    def send(self, user: User, method: str, data: bytes) -> None:
        """Begin a request for ``user`` with ``data``, its head and maybe more of it. The rest goes to ``conn``."""
        self._user = user
        self._interim = 0
        self.head = None
        self.complete = False
        self._method = method
        self.conn.write(data)

    def take(self) -> bytes:
        """What has come of the content since the last time."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    def release(self, at: float, *, reusable: bool = True) -> None:
        """The user has no use for it any more: keep it for another, or close it."""
        self._user = None
        target = self.target
        conn = self.conn
        if conn.closing:
            return
        if not reusable or not self._reader.keep_alive or target.retired or len(target.idle) >= target.keepalive:
            conn.close()
            return
        self._reused = True
        self._method = ""
        conn.resume_reading()
        # The deadline of the request stays armed, if it comes first: going back and forth is what costs.
        until = self._idle_until = at + target.keepalive_timeout
        if conn.expires_at > until:
            conn.expire_in(target.keepalive_timeout)
        target.idle.append(self)

    def abandon(self) -> None:
        """The user has gone in the middle of it: what may still come is for nobody."""
        self._user = None
        self._pieces.clear()
        self.conn.abort(CloseReason.APP)

    def close(self) -> None:
        """Close it while it is idle."""
        self.conn.close()

    # -- from the engine

    def on_open(self, conn: Connection) -> None:
        self.conn = conn
        self.target.connections += 1

    def on_message(self, conn: Connection, data: bytes) -> None:
        user = self._user
        block = body = b""
        method = self._method
        if method:
            self._method = ""
            if len(data) <= _KNOWN_SIZE and method != "HEAD":
                block, _, body = data.partition(b"\r\n\r\n")
                known = _known_heads.get(block)
                if known is not None and known.length == len(body) and user is not None:
                    user.on_answer(self, known, body)  # the reader never sees it
                    return
            self._reader.expect(method)
        try:
            self._reader.feed(data)
        except ProtocolError as error:
            if user is not None and not self.complete:
                self._fail(UpstreamProtocolError(str(error), target=self.target.name))
                conn.abort(CloseReason.FRAMING)
                return
            # the answer, if there was a question, is complete; what follows it makes the connection useless
            log.info("target sent more than was asked for", target=self.target.name, error=str(error))
            self._reader.keep_alive = False
            if user is None:
                self._leave_idle()
                conn.abort(CloseReason.FRAMING)
        if user is not None:
            head = self.head
            if block and self.complete and head is not None and head.length == len(body) and self._reader.keep_alive:
                self._remember(block, head)  # nothing but this head and its content was in data
            user.on_received(self)

    def _remember(self, block: bytes, head: Head) -> None:
        """Keep what a head means, when it came twice in a row."""
        seen = hash(block)
        if seen != self._last_head:
            self._last_head = seen
            return
        if len(_known_heads) >= _HEADS_KEPT:
            del _known_heads[next(iter(_known_heads))]
        _known_heads[block] = head

    def on_eof(self, conn: Connection) -> bool:
        self._leave_idle()
        user = self._user
        if user is not None:
            if self._method:
                self._reader.expect(self._method)
            try:
                self._reader.eof()
            except ProtocolError as error:
                self._fail(UpstreamClosed(str(error), target=self.target.name))
                conn.abort(CloseReason.PEER)  # what of the request is still to be sent is in vain
            else:
                self._reader.keep_alive = False
                user.on_received(self)
        return False

    def on_writable(self, conn: Connection) -> None:
        if self._user is not None:
            self._user.on_upstream_writable()

    def on_timeout(self, conn: Connection) -> None:
        if self._user is not None:
            self._user.on_upstream_timeout()
            return
        left = self._idle_until - now()
        if left > 0:
            conn.expire_in(left)
        else:
            self._leave_idle()
            conn.close(CloseReason.IDLE)

    def on_drain(self, conn: Connection) -> None:
        """Not served by anybody, so nobody drains it."""

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.target.connections -= 1
        self._leave_idle()
        if self._user is not None:
            self._fail(UpstreamClosed(f"connection ended: {reason}", target=self.target.name))

    # -- from the reader

    def on_head(self) -> None:
        reader = self._reader
        lines = encode_response_headers(reader.headers)
        if reader.status == 101:
            raise ProtocolError("an upgrade that was not asked for")
        if reader.status >= 200:
            self.head = Head(reader.status, lines, reader.content_length)
        elif self._user is not None:
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise ProtocolError(f"more than {_MOST_INTERIM} interim answers")
            self._user.on_interim(reader.status, lines)

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_end(self) -> None:
        self.complete = True

    def _fail(self, error: UpstreamError) -> None:
        """Tell the user, once, that no (more) answer will come."""
        user, self._user = self._user, None
        self._pieces.clear()
        if user is not None:
            # nothing came back on a connection that had been kept: it was probably closed before we wrote
            stale = self._reused and self.head is None and not self._reader.in_message
            user.on_failed(error, stale and error.retry is RetryClass.MAYBE)

    def _leave_idle(self) -> None:
        if self._user is None and self in self.target.idle:
            self.target.idle.remove(self)
