"""One client's connection to the HTTP server: requests in, answers out, in order (RFC 9112)."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from forebay.engine.connection import CloseReason, Connection, ConnectionHandler
from forebay.engine.ending import was_reset
from forebay.engine.loop import now
from forebay.engine.open_file import OpenFile
from forebay.errors import ProtocolError
from forebay.http.content import Content
from forebay.http.exchange import Exchange
from forebay.http.half_closed import watch_half_closed
from forebay.http.problems import timed_out
from forebay.policy.pace import Pace
from forebay.wire import http1

if TYPE_CHECKING:
    from forebay.http.server import HTTPServer

__all__ = ["HTTPConnection"]

_COALESCE = 32  # answers to pipelined requests that leave in one write, as long as
_LARGE = 16384  # none of them has more bytes than this
_LOOK_EVERY = 1.0  # seconds, for a client that is not read from
_HELD_AT_MOST = 65536  # bytes that came behind a request for an upgrade; past it, reading pauses


class HTTPConnection(ConnectionHandler):
    """One client's connection: reads its requests, hands them on one at a time, writes the answers in order.

    A server may have many thousands of these that only wait, so what few of them need is made when it is needed.
    """

    __slots__ = (
        "_advancing", "_closing", "_eof", "_handed_over", "_head_since", "_idle_since", "_lingers", "_out", "_pace",
        "_paused", "_pending", "_queue", "_queue_full", "_reader", "_receiving", "_refusal", "_served", "_unsettled",
        "conn", "current", "last", "scheme", "server",
    )  # fmt: skip

    conn: Connection
    scheme: str

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self._reader = http1.RequestReader(self, server.rules)
        self.last = False  # the answer under way is the last one on this connection
        self._queue: deque[Exchange] | None = None  # read, not yet handed to the application
        self.current: Exchange | None = None  # handed to the application, not yet answered
        self._receiving: Exchange | None = None  # its content is still being read
        self._refusal: ProtocolError | None = None  # what to answer after all that went before
        self._pending = False  # the server counts it among those in flight
        self._out: list[bytes] | None = None  # to be written
        self._advancing = False
        self._unsettled = False  # when the answer under way is complete, there is more to do than to wait
        self._closing = False  # answered for the last time: input is thrown away
        self._eof = False
        self._lingers = False  # the client does not know yet that we close, and may be sending
        self._handed_over = False  # the connection is another protocol's
        self._queue_full = False
        self._head_since = 0.0  # when the first piece of an incomplete head came; 0 without one
        self._idle_since = 0.0  # when the last answer was given; 0 before it
        self._pace: Pace | None = None  # of the content, while we wait for it
        self._paused = False  # whoever takes the content does not want more of it now
        self._served = 0  # requests, where their number is limited

    # -- from the engine

    def on_open(self, conn: Connection) -> None:
        self.conn = conn
        self.scheme = "http" if conn.tls is None else "https"
        timeouts = self.server.timeouts
        conn.expire_in(min(timeouts.head, timeouts.idle))

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
            out = self._out
            if out is not None:
                self._out = None
                conn.write_soon(out[0] if len(out) == 1 else b"".join(out))
        else:
            if self._reader.held and self._reader.kept > _HELD_AT_MOST:
                conn.pause_reading()
            self._advance()

    def on_eof(self, conn: Connection) -> bool:
        """The client has sent all it wants to. What it asked for is still answered, unless it has gone altogether."""
        current = self.current
        if self._closing or (current is None and not self._queue):
            return False
        if self._receiving is not None:
            return False  # the content of a request will never be complete
        if conn.tls is not None or (current is not None and not current.http11):
            return False  # TLS ends on both sides at once; and who speaks HTTP/1.0, as proxies do, ends it by closing
        if current is not None and current.started and current.method == "HEAD" and not self._queue:
            return False  # it has all that is to come, whatever the application still makes
        self._eof = self._unsettled = True
        watch_half_closed(self)
        return True

    def on_writable(self, conn: Connection) -> None:
        if self.current is not None:
            self.current.writable_again()
        elif self._queue and not self._closing:
            self._advance()

    def on_drain(self, conn: Connection) -> None:
        self.last = True
        if self.current is not None:
            self.current.drained()
        elif not (self._queue or self._reader.in_message or self._closing):
            self._closing = True
            conn.close(CloseReason.DRAIN)

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self._closing = True
        self._queue = self._out = self._receiving = None
        self._reader.close()
        exchange, self.current = self.current, None
        if exchange is not None:
            server = self.server
            self._not_pending()
            server.disconnects += 1
            if reason is CloseReason.STOPPED:
                server.log_cut(exchange, "the server stops")
            if server.access_log is not None:
                server.access_log.record(exchange, now())
            exchange.disconnected(reason)

    def on_timeout(self, conn: Connection) -> None:
        """The deadline armed last has come: look what we wait for, and since when. There is one while we wait."""
        timeouts = self.server.timeouts
        exchange = self.current
        if exchange is not None and now() >= exchange.deadline:
            self.server.deadlines += 1
            exchange.expired()
            if self._closing:
                return
            exchange = self.current
        if self._receiving is not None:
            self._check_body(self._receiving)
        elif exchange is not None:
            # our turn; a client that does not read its answer is the engine's to notice
            self._wake_in(timeouts.idle)
        elif self._head_since and self._reader.in_message:
            left = timeouts.head - (now() - self._head_since)
            if left > 0:
                conn.expire_in(left)
            else:
                self._refuse(timed_out(f"the head did not come within {timeouts.head:g} s", "head-timeout"))
        else:
            since, seconds, reason = self._idle_since, timeouts.idle, CloseReason.IDLE
            if not since:
                since, seconds, reason = conn.opened_at, timeouts.head, CloseReason.FIRST_BYTE
            left = seconds - (now() - since)
            if left > 0:
                conn.expire_in(left)
            else:
                self._closing = True
                conn.close(reason)

    # -- from the reader

    def on_head(self, line: http1.RequestLine, fields: http1.Fields) -> None:
        if self._closing:
            return
        server = self.server
        at = now()
        if at >= server.date_until:
            server.renew_date(at)
        self._head_since = 0.0
        method, target, raw_path, query = line
        exchange = Exchange(self, method, target, raw_path, query, fields, fields.keep_alive, at)
        if fields.simple and self.current is None and not self._queue and not server.measures and self.conn.writable:
            self._hand_on(exchange)  # which is how nearly all go
            return
        if server.limits.requests is not None:
            self._served += 1
            if self._served >= server.limits.requests:
                exchange.keep_alive = False
        if fields.chunked or fields.content_length:
            limit = server.application.body_limit
            if limit is not None and (fields.content_length or 0) > limit:
                raise ProtocolError(f"content is longer than {limit} bytes", status=413, reason="long-content")
            self._receiving = exchange
            exchange.content = Content(fields.expects)
            self._pace = None
        elif exchange.upgrade_to:
            self._reader.held = True  # what follows may be of another protocol
        elif self.current is None and not self._queue and self.conn.writable:
            self._hand_on(exchange)
            if not exchange.keep_alive:
                self._reader.stop()
            return
        elif not exchange.keep_alive:
            self._reader.stop()
        if self._queue is None:
            self._queue = deque()
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
            raise ProtocolError(f"content is longer than {limit} bytes", status=413, reason="long-content")
        if self._pace is not None:
            self._pace.last = now()
        if not exchange.body_arrived(data):
            self.pause_body()

    def on_end(self, trailers: http1.HeaderPairs) -> None:
        exchange, self._receiving = self._receiving, None
        if self._paused:  # for the sake of the content, which is complete; its taker need not resume
            self._paused = False
            self.conn.resume_reading()
        if exchange is not None:
            if not exchange.keep_alive:
                self._reader.stop()
            exchange.body_ended(trailers)

    # -- from the exchange

    def send(self, data: bytes) -> None:
        """Add bytes to the answer; they leave with the next flush."""
        out = self._out
        if out is None:
            self._out = out = [data]
        else:
            out.append(data)
        if len(data) > _LARGE or len(out) >= _COALESCE:
            self._write_out()

    def flush(self) -> bool:
        """Write what was added, unless more is about to come. False: the client is slow."""
        if self._out is not None and not self._advancing:
            self._write_out()
        return self.conn.writable

    def _write_out(self) -> None:
        out, self._out = self._out, None
        if out is not None:
            self.conn.write(out[0] if len(out) == 1 else b"".join(out))

    def send_file(self, exchange: Exchange, file: OpenFile, offset: int, count: int) -> None:
        """Send a part of a file behind what was added. The answer is complete with it."""

        def sent(error: Exception | None) -> None:
            if error is None:
                exchange.body_sent += count
                self.finished(exchange)
            else:
                exchange.abort(str(error))

        self._write_out()
        self.conn.start_file(file, offset, count, sent)

    def leave(self, exchange: Exchange, data: bytes) -> bytes:
        """Send ``data`` as the answer, and have nothing to do with the connection from then on.

        :return: what came behind the request.
        """
        rest = self._reader.take_rest()
        exchange.keep_alive = True
        self._advancing = self._closing = self._handed_over = True
        self.finished(exchange, data)
        self._write_out()
        return rest

    def expire(self, exchange: Exchange) -> None:
        """Look at ``exchange`` when its deadline is over."""
        if exchange is self.current and exchange.deadline < self.conn.expires_at:
            self.conn.expire_in(max(0.0, exchange.deadline - now()))

    def pause_body(self) -> None:
        """Stop reading."""
        self._paused = True
        self.conn.pause_reading()
        self._wake_in(_LOOK_EVERY)

    def resume_body(self) -> None:
        """Read on; the client's time for the content starts anew."""
        if self._paused and not self._closing:
            self._paused = False
            if self._receiving is not None:
                self._await_body(self._receiving)
            self.conn.resume_reading()

    def finished(self, exchange: Exchange, data: bytes = b"") -> None:
        """The answer is complete with ``data``: count it, and go on to the next request."""
        if data:
            if self._out is None and len(data) <= _LARGE:
                self._out = [data]
            else:
                self.send(data)
        exchange.finished = True
        server = self.server
        at = self._idle_since = now()
        try:
            server.requests[exchange.method][exchange.status] += 1
        except KeyError:
            server.requests["other"][exchange.status] += 1
        server.durations.observe(at - exchange.received_at)
        if server.access_log is not None:
            server.access_log.record(exchange, at)
        self.current = None
        if self._pending:
            self._not_pending()
        if self._receiving is not None and exchange.keep_alive:
            self._throw_away(exchange)
        if self._handed_over:
            return
        if not exchange.keep_alive or self.last:
            self._lingers = exchange.fields.keep_alive
            self._closing = True
            if not self._advancing:
                self._say_goodbye()
        elif not self._advancing:
            if self._unsettled or self._reader.held:
                server.context.copy().run(self._advance)  # the next request has nothing to do with this one
            elif self._out is not None:
                self._write_out()

    def cut(self, exchange: Exchange, reason: str) -> None:
        """The answer cannot be completed."""
        server = self.server
        server.log_cut(exchange, reason)
        exchange.finished = True
        server.requests[exchange.method if exchange.method in server.requests else "other"][exchange.status] += 1
        server.aborts += 1
        if server.access_log is not None:
            server.access_log.record(exchange, now())
        self.current = None
        self._not_pending()
        self._closing = True
        self._out = None
        self.conn.abort(CloseReason.ERROR)

    def waits_for_answer(self) -> bool:
        """Whether there is still somebody to answer, maybe."""
        return not self._closing and (self.current is not None or bool(self._queue))

    def is_quiet(self) -> bool:
        """Whether all that was added has been written, and taken."""
        return self._out is None and self.conn.writable

    # -- what follows what

    def _advance(self) -> None:
        """Hand requests on as long as they are answered at once; then arm the deadline of what we wait for."""
        self._advancing = True
        reader = self._reader
        self._hand_on_queued()
        while reader.held and self.current is None and not self._queue and not self._closing:
            self.conn.resume_reading()
            try:
                reader.release()  # nobody took up the upgrade: what follows is HTTP as well
            except ProtocolError as error:
                self._refusal = error
            self._hand_on_queued()
        if self._handed_over:
            return
        queue = self._queue
        if self._refusal is not None and not self._closing:
            self._settle_refusal(self._refusal)
        elif self._receiving is not None:
            if self._pace is None and not self._paused:
                self._await_body(self._receiving)
        elif self.current is None and not queue:
            if self._eof or (self.last and not reader.in_message):
                self._closing = True
            elif reader.in_message and not self._head_since:
                self._head_since = now()
                self.conn.expire_in(self.server.timeouts.head)
        if self._queue_full and (not queue or len(queue) <= self.server.limits.pipelined // 2):
            self._queue_full = False
            self.conn.resume_reading()
        self._advancing = False
        self._unsettled = bool(queue) or self._eof or self._refusal is not None or reader.in_message
        if self._closing:
            self._say_goodbye()
        else:
            self.flush()

    def _hand_on_queued(self) -> None:
        queue = self._queue
        while queue and self.current is None and not self._closing and self.conn.writable:
            self._hand_on(queue.popleft())
        if queue is not None and not queue:
            self._queue = None

    def _hand_on(self, exchange: Exchange) -> None:
        self.current = exchange
        server = self.server
        if server.measures and server.timeouts.request is not None:
            exchange.expire_in(server.timeouts.request)
        try:
            server.application.on_request(exchange)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a stray CancelledError included: the client waits for an answer
            server.log_failure(exchange)
            exchange.fail("application failed")
        if self.current is exchange:
            self._pending = True
            server.in_flight += 1

    def _not_pending(self) -> None:
        if self._pending:
            self._pending = False
            self.server.in_flight -= 1

    def _throw_away(self, exchange: Exchange) -> None:
        """The answer came before the end of the content: read the rest, which nobody wants, in the usual time."""
        if self._paused:
            self._paused = False
            self.conn.resume_reading()
        self._await_body(exchange)

    def _await_body(self, exchange: Exchange) -> None:
        timeouts = self.server.timeouts
        self._pace = Pace(timeouts.body, timeouts.body_rate, now(), exchange.body_received)
        self._wake_in(timeouts.body)

    def _wake_in(self, seconds: float) -> None:
        """Come back in ``seconds``, or when the deadline of the answer under way is over."""
        exchange = self.current
        if exchange is not None and exchange.deadline != inf:
            seconds = min(seconds, max(0.0, exchange.deadline - now()))
        self.conn.expire_in(seconds)

    def _check_body(self, exchange: Exchange) -> None:
        pace, at = self._pace, now()
        if self._paused or pace is None:  # the client waits for us, not we for it
            if was_reset(self.conn.transport):  # which the loop does not look for while we do not read
                self.conn.abort(CloseReason.RESET)
            else:
                self._wake_in(_LOOK_EVERY)
        elif (left := pace.left(at)) <= 0:
            if exchange.finished:
                self._closing = True
                self.conn.close(CloseReason.TIMEOUT)  # it has its answer: another one would be the next request's
            else:
                self._refuse(timed_out(f"no content came for {pace.timeout:g} s", "body-timeout"))
        elif pace.too_slow(at, exchange.body_received):
            self._refuse(timed_out(f"content comes slower than {pace.rate} bytes a second", "body-rate"))
        else:
            self._wake_in(left)

    # -- the ends of a connection

    def _refuse(self, error: ProtocolError) -> None:
        self._refusal = error
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
            elif victim is self.current:
                if victim.started:
                    self.cut(victim, str(error))
                self.current = None
                self._not_pending()
                victim.disconnected(CloseReason.ERROR)  # its taker waits for more
        if self.current is not None or self._queue or self._closing:
            return
        self.send(self.server.refuse(self, victim, error))
        self._closing = True

    def _say_goodbye(self) -> None:
        """Send what is left and close. Where the client may still be sending, wait for it to read our answer first:
        closing at once would reset the connection, and the answer with it (RFC 9112 section 9.6)."""
        self.flush()
        self._queue = None
        lingers = self._lingers or self._receiving is not None or self._refusal is not None
        self._receiving = None
        reason = CloseReason.DRAIN if self.last else CloseReason.APP
        self.conn.close(reason, linger=self.server.timeouts.linger if lingers else 0.0)
