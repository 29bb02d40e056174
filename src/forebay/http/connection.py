"""One client's connection to the HTTP server: requests in, answers out, in order (RFC 9112)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import structlog

from forebay.engine.connection import CloseReason, Connection, ConnectionHandler
from forebay.engine.loop import now
from forebay.errors import ProtocolError
from forebay.http.exchange import Exchange
from forebay.http.problems import problem, problem_of
from forebay.wire import http1

if TYPE_CHECKING:
    from forebay.http.server import HTTPServer

__all__ = ["HTTPConnection"]

log = structlog.get_logger("forebay.http")

_COALESCE = 32  # answers to pipelined requests that leave in one write, as long as
_LARGE = 16384  # none of them has more bytes than this


class HTTPConnection(ConnectionHandler):
    """One client's connection: reads its requests, hands them on one at a time, writes the answers in order."""

    __slots__ = (
        "_advancing",
        "_body_base",
        "_body_since",
        "_closing",
        "_current",
        "_eof",
        "_head_since",
        "_idle_since",
        "_last_body",
        "_out",
        "_paused",
        "_pending",
        "_queue",
        "_queue_full",
        "_reader",
        "_receiving",
        "_refusal",
        "_unsettled",
        "conn",
        "last",
        "scheme",
        "server",
    )

    conn: Connection

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        limits = server.limits
        self._reader = http1.RequestReader(self, max_head=limits.head, max_line=limits.line, max_count=limits.headers)
        self.scheme = "http"
        self.last = False  # the answer under way is the last one on this connection
        self._queue: deque[Exchange] = deque()  # read, not yet handed to the application
        self._current: Exchange | None = None  # handed to the application, not yet answered
        self._receiving: Exchange | None = None  # its content is still being read
        self._refusal: ProtocolError | None = None  # what to answer after all that went before
        self._pending = False  # the server counts it among those in flight
        self._out: list[bytes] = []
        self._advancing = False
        self._unsettled = False  # when the answer under way is complete, there is more to do than to wait
        self._closing = False  # answered for the last time: input is thrown away
        self._eof = False
        self._queue_full = False
        self._head_since = 0.0  # when the first piece of an incomplete head came; 0 without one
        self._idle_since = 0.0  # when the last answer was given; 0 before it
        self._last_body = 0.0  # when a piece of the content came last
        self._body_since = 0.0  # its average rate is taken from here on; 0 while nobody waits for it
        self._body_base = 0  # and from this count of bytes
        self._paused = False  # whoever takes the content does not want more of it now

    # -- from the engine

    def on_open(self, conn: Connection) -> None:
        self.conn = conn
        conn.expire_in(self.server.timeouts.head)

    def on_message(self, conn: Connection, data: bytes) -> None:
        if self._closing:
            return
        self._advancing = True  # answers given on the way are sent together
        try:
            between = self._reader.feed(data)
        except ProtocolError as error:
            self._refusal = error
            between = False
        if between and not (self._queue or self.last or self._closing):
            self._advancing = self._unsettled = False  # all that came is answered, or in the application's hands
            if self._out:
                self._write_out()
        else:
            self._advance()

    def on_eof(self, conn: Connection) -> bool:
        """The client has sent all it wants to. What it asked for is still answered (RFC 9112 section 9.6)."""
        if self._closing or (self._current is None and not self._queue):
            return False
        if self._receiving is not None:
            return False  # the content of a request will never be complete
        self._eof = self._unsettled = True
        return True

    def on_writable(self, conn: Connection) -> None:
        if self._current is not None:
            self._current.writable_again()
        elif self._queue and not self._closing:
            self._advancing = True
            self._advance()

    def on_drain(self, conn: Connection) -> None:
        self.last = True
        if self._current is None and not self._queue and not self._reader.in_message and not self._closing:
            self._closing = True
            conn.close(CloseReason.DRAIN)

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self._closing = True
        self._queue.clear()
        self._out.clear()
        self._receiving = None
        exchange, self._current = self._current, None
        if exchange is not None:
            self._not_pending()
            self.server.disconnects += 1
            if reason is CloseReason.STOPPED:
                log.warning(
                    "request cut: the server stops",
                    server=self.server.name,
                    method=exchange.method,
                    path=exchange.raw_path.decode("latin-1"),
                    seconds=round(now() - exchange.received_at, 3),
                )
            exchange.disconnected(reason)

    def on_timeout(self, conn: Connection) -> None:
        """The deadline armed last has come. On the hot path deadlines are neither armed nor disarmed, so look what we
        wait for, and since when; there is always one armed while we wait for the client."""
        timeouts = self.server.timeouts
        if self._receiving is not None:
            self._check_body(conn, self._receiving)
        elif self._current is not None:
            conn.expire_in(timeouts.idle)  # our turn; a client that does not read its answer is the engine's to notice
        elif self._head_since:
            self._refuse(ProtocolError(f"the head did not come within {timeouts.head:g} s", status=408))
        else:
            left = timeouts.idle - (now() - self._idle_since)
            if self._idle_since and left > 0:
                conn.expire_in(left)
            else:
                self._closing = True
                conn.close(CloseReason.IDLE)

    # -- from the reader

    def on_head(self) -> None:
        if self._closing:
            return
        reader = self._reader
        server = self.server
        at = now()
        if at >= server.date_until:
            server.renew_date(at)
        self._head_since = 0.0
        exchange = Exchange(self, reader, at)
        if reader.chunked or reader.content_length:
            limit = server.application.body_limit
            if limit is not None and (reader.content_length or 0) > limit:
                raise ProtocolError(f"content is longer than {limit} bytes", status=413)
            self._receiving = exchange
            self._body_since = 0.0
        else:
            exchange.body_complete = True
            if self._current is None and not self._queue and self.conn.writable:
                self._hand_on(exchange)
                return
        self._queue.append(exchange)
        if len(self._queue) > server.limits.pipelined:
            self._queue_full = True
            self.conn.pause_reading()

    def on_body(self, data: bytes) -> None:
        exchange = self._receiving
        if exchange is None:
            return
        limit = self.server.application.body_limit
        if limit is not None and exchange.body_received + len(data) > limit:
            raise ProtocolError(f"content is longer than {limit} bytes", status=413)
        self._last_body = now()
        if not exchange.body_arrived(data):
            self.pause_body()

    def on_end(self) -> None:
        exchange, self._receiving = self._receiving, None
        if self._paused:  # for the sake of the content, which is complete; its taker need not resume
            self._paused = False
            self.conn.resume_reading()
        if exchange is not None:
            exchange.body_ended()

    # -- from the exchange

    def send(self, data: bytes) -> None:
        """Add bytes to the answer; they leave with the next flush."""
        out = self._out
        out.append(data)
        if len(data) > _LARGE or len(out) >= _COALESCE:
            self._write_out()

    def flush(self) -> bool:
        """Write what was added, unless more is about to come. False: the client is slow."""
        if self._out and not self._advancing:
            self._write_out()
        return self.conn.writable

    def _write_out(self) -> None:
        out = self._out
        self.conn.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()

    def pause_body(self) -> None:
        """Stop reading."""
        self._paused = True
        self.conn.pause_reading()

    def resume_body(self) -> None:
        """Read on; the client's time for the content starts anew."""
        if self._paused and not self._closing:
            self._paused = False
            if self._receiving is not None:
                self._await_body(self._receiving)
            self.conn.resume_reading()

    def finished(self, exchange: Exchange) -> None:
        """The answer is complete: count it, and go on to the next request."""
        exchange.finished = True
        server = self.server
        server.requests[exchange.method][exchange.status] += 1
        at = self._idle_since = now()
        server.durations.observe(at - exchange.received_at)
        self._current = None
        if self._pending:
            self._not_pending()
        if self._receiving is not None and exchange.keep_alive:
            self._throw_away(exchange)
        if not exchange.keep_alive or self.last:
            self._close_after(exchange)
        elif not self._advancing:
            if self._unsettled:
                self._advancing = True
                self._advance()
            elif self._out:
                self._write_out()

    def cut(self, exchange: Exchange, reason: str) -> None:
        """The answer cannot be completed."""
        log.warning(
            "answer cut",
            server=self.server.name,
            method=exchange.method,
            path=exchange.raw_path.decode("latin-1"),
            status=exchange.status,
            reason=reason,
        )
        exchange.finished = True
        server = self.server
        server.requests[exchange.method][exchange.status] += 1
        server.aborts += 1
        self._current = None
        self._not_pending()
        self._closing = True
        self._out.clear()
        self.conn.abort(CloseReason.ERROR)

    # -- what follows what

    def _advance(self) -> None:
        """Hand requests on as long as they are answered at once; then arm the deadline of what we wait for."""
        queue = self._queue
        while queue and self._current is None and not self._closing and self.conn.writable:
            self._hand_on(queue.popleft())
        if self._refusal is not None and not self._closing:
            self._settle_refusal(self._refusal)
        elif self._receiving is not None:
            if not self._body_since:
                self._await_body(self._receiving)
        elif self._current is None and not queue:
            if self._eof or (self.last and not self._reader.in_message):
                self._closing = True
            elif self._reader.in_message and not self._head_since:
                self._head_since = now()
                self.conn.expire_in(self.server.timeouts.head)
        if self._queue_full and len(queue) <= self.server.limits.pipelined // 2:
            self._queue_full = False
            self.conn.resume_reading()
        self._advancing = False
        self._unsettled = bool(queue) or self._eof or self._refusal is not None or self._reader.in_message
        if self._closing:
            self._say_goodbye()
        else:
            self.flush()

    def _hand_on(self, exchange: Exchange) -> None:
        self._current = exchange
        try:
            self.server.application.on_request(exchange)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a stray CancelledError included: the client waits for an answer
            self._application_failed(exchange)
        if self._current is exchange:
            self._pending = True
            self.server.in_flight += 1

    def _not_pending(self) -> None:
        if self._pending:
            self._pending = False
            self.server.in_flight -= 1

    def _application_failed(self, exchange: Exchange) -> None:
        log.exception("application failed", server=self.server.name, method=exchange.method)
        if exchange.finished:
            return
        if not exchange.started:
            exchange.respond(*problem(500))
        else:
            exchange.abort("application failed")

    def _throw_away(self, exchange: Exchange) -> None:
        """The answer came before the end of the content: read the rest, which nobody wants, in the usual time."""
        if self._paused:
            self._paused = False
            self.conn.resume_reading()
        self._await_body(exchange)

    def _await_body(self, exchange: Exchange) -> None:
        self._body_since = self._last_body = now()
        self._body_base = exchange.body_received
        self.conn.expire_in(self.server.timeouts.body)

    def _check_body(self, conn: Connection, exchange: Exchange) -> None:
        timeouts = self.server.timeouts
        if self._paused:
            conn.expire_in(timeouts.body)
            return  # the client waits for us, not we for it
        at = now()
        elapsed = at - self._body_since
        left = timeouts.body - (at - self._last_body)
        if left <= 0 and exchange.finished:
            self._closing = True
            conn.close(CloseReason.TIMEOUT)  # it has its answer: another one would be taken for the next request's
        elif left <= 0:
            self._refuse(ProtocolError(f"no content came for {timeouts.body:g} s", status=408))
        elif elapsed >= timeouts.body and exchange.body_received - self._body_base < timeouts.body_rate * elapsed:
            self._refuse(ProtocolError(f"content comes slower than {timeouts.body_rate} bytes a second", status=408))
        else:
            conn.expire_in(left)

    # -- the ends of a connection

    def _refuse(self, error: ProtocolError) -> None:
        self._refusal = error
        self._advancing = True
        self._advance()

    def _settle_refusal(self, error: ProtocolError) -> None:
        """Answer bytes that cannot be accepted, after the answers to all that came before them."""
        victim, self._receiving = self._receiving, None
        if victim is not None:  # it is the content of this request that is wrong
            if victim.finished:
                self._closing = True
                return
            if self._queue:
                self._queue.pop()
            elif victim is self._current:
                if victim.started:
                    self.cut(victim, str(error))
                    return
                self._current = None
                self._not_pending()
                victim.disconnected(CloseReason.ERROR)
        if self._current is not None or self._queue:
            return
        server = self.server
        server.refused[error.status] += 1
        server.log_refusal(self.conn, error)
        status, lines, body = problem_of(error)
        self.send(
            b"".join(
                (
                    http1.STATUS_LINES[status],
                    lines,
                    http1.content_length(len(body)),
                    server.date_lines,
                    b"connection: close\r\n\r\n",
                    body,
                )
            )
        )
        self._closing = True

    def _close_after(self, exchange: Exchange) -> None:
        self._closing = True
        if not self._advancing:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        """Send what is left and close. Where the client may still be sending, wait for it to read our answer first:
        closing at once would reset the connection, and the answer with it (RFC 9112 section 9.6)."""
        conn = self.conn
        self.flush()
        self._queue.clear()
        unread = self._receiving is not None or self._refusal is not None
        self._receiving = None
        linger = self.server.timeouts.linger if unread else 0.0
        conn.close(CloseReason.DRAIN if self.last else CloseReason.APP, linger=linger)
