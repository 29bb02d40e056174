"""A client's side of an HTTP connection: one request after the other (RFC 9112)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol

import structlog

from forebay.engine import CloseReason, Connection, ConnectionHandler, now
from forebay.engine.soon import Soon
from forebay.engine.tasks import Future, Tasks
from forebay.engine.unread import Unread, read_rest
from forebay.errors import ConnectionClosed, ProtocolError, RetryClass, Source, UpstreamClosed, UpstreamProtocolError
from forebay.http.client.arriving import Arriving
from forebay.http.client.endpoint import Endpoint
from forebay.http.client.phases import Phase, Watch
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.sending import Sending
from forebay.http.client.settings import Limits
from forebay.http.client.trace import GIVEN_UP, Step, Trace
from forebay.http.headers import Headers
from forebay.policy.deadline import CURRENT
from forebay.wire.heads import HeaderPairs
from forebay.wire.responses import ResponseReader

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ClientConnection", "ConnectionUser"]

log = structlog.get_logger("forebay.client")

_AT_ONCE = 64 * 1024  # bytes of content that are written with the head
_DISCARD_WAIT = 1.0  # seconds for content that nobody wants, before its connection is closed instead


class ConnectionUser(Protocol):
    """Whose connections they are."""

    limits: Limits
    tasks: Tasks

    def gave_back(self, link: ClientConnection, *, reusable: bool) -> None:
        """The exchange on ``link`` is over."""

    def lost(self, link: ClientConnection) -> None:
        """``link`` is closed, and nobody uses it."""


class ClientConnection(ConnectionHandler):
    """One connection to ``endpoint``. It is the engine's handler and the reader's sink, and has one exchange at a time:
    from :meth:`ask` until the answer's content is complete, or left.

    :ivar exchanges: how many there have been, the one under way included.
    :ivar stale: the exchange failed before a byte came back, on a connection that had been kept: most likely the server
        had closed it before we wrote.
    """

    __slots__ = (
        "_arriving",
        "_complete",
        "_detached",
        "_error",
        "_headers",
        "_heard",
        "_held",
        "_interim",
        "_last",
        "_pieces",
        "_reader",
        "_request",
        "_sending",
        "_size",
        "_status",
        "_trace",
        "_trailers",
        "_unread",
        "_user",
        "_waiter",
        "conn",
        "endpoint",
        "events",
        "exchanges",
        "soon",
        "used_at",
        "watch",
    )

    conn: Connection
    soon: Soon
    _request: ClientRequest

    def __init__(self, endpoint: Endpoint, user: ConnectionUser) -> None:
        limits = user.limits
        self.endpoint = endpoint
        self.events: Sequence[tuple[str, float, dict[str, object]]] = ()  # of the dial
        self.exchanges = 0
        self.used_at = 0.0
        self._user = user
        self._reader = ResponseReader(self, max_head=limits.head, max_count=limits.fields, max_interim=limits.interim)
        self.watch = Watch(self._late)
        self._held = self._detached = False
        self._waiter: Future[None] | None = None
        self._arriving: Arriving | None = None
        self._sending: Sending | None = None
        self._trace: Trace | None = None
        self._error: BaseException | None = None
        self._interim: list[tuple[int, Headers]] = []
        self._pieces: list[bytes] = []
        self._size = self._status = 0
        self._headers: HeaderPairs = ()
        self._trailers: HeaderPairs = ()
        self._heard = self._complete = self._last = False  # _last: we have said that we close
        self._unread: Unread | None = None

    def __repr__(self) -> str:
        return f"<ClientConnection {self.endpoint} {self.watch.phase.value} exchanges={self.exchanges}>"

    @property
    def stale(self) -> bool:
        return self.exchanges > 1 and not self._heard

    def has_unread(self) -> bool:
        """Whether something came, or the connection ended, since it was last used, noticed by the loop or not."""
        if self.conn.closing:
            return True
        if self._unread is None:
            self._unread = Unread(self.conn)
        return self._unread.there()

    # The exchange

    async def ask(self, request: ClientRequest, head: bytes, at: float) -> ClientResponse:
        """Send ``request`` and return the answer, once its head is there. The connection is given back when the content
        is complete, or left, and is closed when that does not come to be.

        :param head: the request's, without the empty line.
        :param at: the time.
        :raises UpstreamError: there is no answer.
        :raises DeadlineExceeded: not in time.
        :raises Exception: whatever the content raised that was to be sent.
        """
        if self.conn.closing:
            self.drop()
            message = f"{request}: the server closed the connection before anything was sent"
            raise UpstreamClosed(message, target=self.endpoint.name, retry=RetryClass.SAFE)
        self._begin(request)
        waiter = self._waiter = Future()  # sending may fail at once
        content = request.content
        data = content.data
        if data is not None and len(data) <= _AT_ONCE and not (data and request.expect_continue):
            self.write(b"%b\r\n%b" % (head, data))
            if self._trace is not None:
                self._trace.mark(Step.WROTE_HEADERS)
            if data:
                if self._trace is not None:
                    self._trace.mark(Step.WROTE_BODY, bytes=len(data))
                self.watch.begin_answer(at)
            else:
                self.watch.begin(Phase.HEAD, request.timeouts.read, at)
        else:
            self._start_sending(request, head)
        try:
            await waiter
        except BaseException:
            if self._trace is not None and self._error is None:
                self._trace.mark(Step.FAILED, error=GIVEN_UP)
            self.give_up()
            raise
        finally:
            self._waiter = None
        return self._answer(request)

    def _begin(self, request: ClientRequest) -> None:
        self._held = True
        self.exchanges += 1
        self._request = request
        self._trace = request.trace
        self._error = None
        self._heard = self._complete = self._last = False
        self._status = self._size = 0
        if self._interim:
            self._interim = []
        self.watch.attend(request, CURRENT.get())
        headers = request.headers
        if headers.has_pairs:
            self._last = "close" in headers.get("connection", "").lower()
            self._reader.expect(request.method, upgrade=headers.get("upgrade") is not None)
        else:
            self._last = False
            self._reader.expect(request.method)

    def _answer(self, request: ClientRequest) -> ClientResponse:
        """What came, now that the head is there, or an error."""
        if self._error is not None and not self._status:
            error, self._error = self._error, None
            self.give_up()
            try:
                raise error
            finally:
                del error  # its traceback has this frame
        pieces, self._pieces = self._pieces, []
        head = self._reader.head
        response = ClientResponse(
            request, self._status, self._headers, self._user.limits, self._interim, head.reason, head.http11
        )
        if self._complete:
            response.got(pieces[0] if len(pieces) == 1 else b"".join(pieces), self._trailers)
            self._give_back()
        else:
            arriving = Arriving(self, pieces, self._user.limits.buffer)
            response.comes_from(arriving)
            if self._error is not None:
                error, self._error = self._error, None
                arriving.fail(error)
                del error
                self.give_up()
            else:
                self._arriving = arriving
                self.unawaited()
        return response

    # Its content: what Sending calls

    def _start_sending(self, request: ClientRequest, head: bytes) -> None:
        sending = self._sending = Sending(self, request)
        if request.expect_continue:
            head += b"expect: 100-continue\r\n"
        self.write(b"%b\r\n" % head)
        if self._trace is not None:
            self._trace.mark(Step.WROTE_HEADERS)
        self.watch.begin(Phase.PRODUCING, None)
        sending.start(self._user.tasks)

    def write(self, data: bytes | memoryview) -> None:
        """Send ``data``."""
        if self._trace is not None and self._trace.keep_bytes:
            self._trace.note_sent(data)
        self.conn.write(data)

    def sends(self, sending: Sending) -> bool:
        """Whether that is what is being sent."""
        return self._sending is sending

    def sent(self, sending: Sending) -> None:
        """All of the content was written."""
        if self._sending is not sending:
            return
        self._sending = None
        if self._arriving is None:
            self.watch.begin_answer()
        elif self._arriving.awaited:
            self.watch.begin(Phase.CONTENT, self._request.timeouts.read)
        else:
            self.unawaited()

    def sending_failed(self, sending: Sending, error: Exception) -> None:
        """There is no (more) content to send, though there should be."""
        if self._sending is sending:
            self._sending = None
            self._fail(error)

    # The content of the answer: what Arriving calls

    def taken(self) -> None:
        """There is room for more."""
        self.conn.resume_reading()
        self.unawaited()

    def awaited(self) -> None:
        """Somebody waits for more."""
        self.conn.resume_reading()
        if self._sending is None:
            self.watch.begin(Phase.CONTENT, self._request.timeouts.read)

    def unawaited(self) -> None:
        """Nobody does for now."""
        if self._arriving is not None and self._sending is None:
            self.watch.begin(Phase.UNASKED, None if self._arriving.held else self._user.limits.unread)

    def leave(self, worth: int) -> None:
        """Nobody wants what is still to come. Up to ``worth`` bytes are read to keep the connection."""
        self._arriving = None
        reader = self._reader
        length = reader.content_length
        left = inf if length is None else length - self._size
        if self._sending is not None or not reader.keep_alive or left > worth or self.conn.closing or reader.switched:
            self.give_up()
            return
        self.watch.begin(Phase.DISCARDING, _DISCARD_WAIT)
        self.conn.resume_reading()

    def detach(self) -> tuple[Connection, bytes]:
        """Let the connection go on as what it was upgraded to: it, and what came behind the head."""
        conn, rest = self.conn, self._reader.rest
        self._detached = True
        self.watch.close()
        self._release(reusable=False)
        return conn, rest

    def close(self) -> None:
        """Close it, unless it is something else by now; in the middle of an exchange when the client is stopped."""
        if self._detached:
            return
        if self._held:
            message = f"{self._request}: the client was stopped"
            self._fail(ConnectionClosed(message, source=Source.INTERNAL, retry=RetryClass.NEVER))
            self.conn.abort(CloseReason.APP)
        elif self.conn.closing or not self.conn.write_buffer_size():
            self.conn.close()
        else:  # of a request that was answered before all of it was taken: the server may never take the rest
            self.conn.abort(CloseReason.APP)

    def drop(self) -> None:
        """Give it back unused, to be closed."""
        self._held = True
        self.give_up()

    def give_up(self) -> None:
        """Close the connection in the middle of the exchange."""
        if self._held:
            self.conn.abort(CloseReason.APP)
            self._release(reusable=False)

    # Its end

    def _give_back(self) -> None:
        """The answer is complete."""
        reusable = self._reader.keep_alive and not self._last and self._sending is None and not self.conn.closing
        self._release(reusable=reusable)

    def _release(self, *, reusable: bool) -> None:
        if not self._held:
            return
        self._held = False
        self.watch.end()
        self._arriving = self._trace = None
        self._pieces = []
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.cancel()
        if reusable:
            self.conn.resume_reading()  # the last of the content may have been more than was asked for
        else:
            self.close()
        self._user.gave_back(self, reusable=reusable)

    def _fail(self, error: BaseException) -> None:
        """There is no (complete) answer."""
        if not self._held or self._complete or self._error is not None:
            return
        if self._trace is not None:
            self._trace.mark(Step.FAILED, error=str(error) or type(error).__name__)
        if self._arriving is not None:
            self._arriving.fail(error)
            self.give_up()
        elif self.watch.phase is Phase.DISCARDING:
            self.give_up()
        else:
            self._error = error
            self.conn.abort(CloseReason.APP)
            self._wake()  # ask() waits, and gives up

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _late(self, error: Exception | None) -> None:
        """Something took too long."""
        if error is not None:
            self._fail(error)
        elif self._arriving is not None:
            self._fail(self._forgotten(self._arriving))
        else:
            self.give_up()

    def _forgotten(self, arriving: Arriving) -> ConnectionClosed:
        """The program has forgotten it: somebody else can have the place."""
        seconds, made = self._user.limits.unread or 0.0, arriving.made_at
        log.warning(
            "response not read", request=str(self._request), at=made, seconds=seconds, received=arriving.received
        )
        message = f"{self._request}: nobody took its content for {seconds:g} s, so it was closed; made at {made}"
        return ConnectionClosed(message, source=Source.INTERNAL)

    # What the engine calls

    def on_open(self, conn: Connection) -> None:
        self.conn = self.watch.conn = conn
        self.soon = Soon()

    def on_message(self, conn: Connection, data: bytes) -> None:
        trace = self._trace
        if trace is not None:
            if trace.keep_bytes:
                trace.note_received(data)
            if not self._heard:
                trace.mark(Step.FIRST_BYTE)
        self._heard = True
        try:
            self._reader.feed(data)
        except ProtocolError as error:
            self._broken(error)
            return
        if self._status:
            self._wake()
        if self._held and not self._complete:
            self.watch.heard_at = now()

    def _broken(self, error: ProtocolError) -> None:
        if self._held and not self._complete:
            request = self._request
            self._fail(
                UpstreamProtocolError(f"{request}: the answer is not well-formed: {error}", target=self.endpoint.name)
            )
            return
        log.info("server sent more than was asked for", server=self.endpoint.name, error=str(error))
        self._reader.keep_alive = False  # what is complete is given; what follows makes the connection useless
        self.conn.abort(CloseReason.FRAMING)
        self._wake()

    def on_eof(self, conn: Connection) -> bool:
        if self._held and not self._complete:
            try:
                self._reader.eof()
            except ProtocolError:
                self._closed()
            else:
                self._reader.keep_alive = False
                self._wake()
        return False

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        if reason is CloseReason.RESET and self._held and not self._complete:
            # Loops end a connection when a write fails: what the server had said by then may still lie in the socket
            for data in read_rest(conn, self._user.limits.buffer):
                if self._held and not self._complete:
                    self.on_message(conn, data)
        self._closed()
        self.watch.close()
        self._reader.close()
        if not self._held:
            self._user.lost(self)

    def _closed(self) -> None:
        if not self._held or self._complete:
            return
        if self._arriving is not None:
            what = f"after {self._size} bytes of the content, which is not all of it"
        elif self._heard:
            what = "in the middle of the answer"
        else:
            what = "before it answered"
        if self.endpoint.secure and self.conn.close_detail:
            what += f": {self.conn.close_detail}"  # TLS 1.3 refuses a client's certificate when the handshake is over
        self._fail(
            UpstreamClosed(f"{self._request}: the server closed the connection {what}", target=self.endpoint.name)
        )

    # What the reader calls

    def on_head(self) -> None:
        reader = self._reader
        status = reader.status
        if status >= 200 or status == 101:
            self._status = status
            if status == 101:
                self.conn.pause_reading()  # what follows is for whoever takes the connection
            self._headers = reader.headers
            if self._trace is not None:
                self._trace.mark(Step.HEAD, status=status)
            return
        if status == 100 and self._sending is not None and self._sending.go_ahead is not None:
            self._sending.go_ahead.open()
        self._interim.append((status, Headers(reader.headers)))
        if self._trace is not None:
            self._trace.mark(Step.CONTINUE if status == 100 else Step.INTERIM, status=status)

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._arriving is not None:
            if not self._arriving.put(data):
                self.conn.pause_reading()
        elif self.watch.phase is not Phase.DISCARDING:
            self._pieces.append(data)
            if self._size >= self._user.limits.buffer:
                self.conn.pause_reading()

    def on_end(self) -> None:
        self._complete = True
        self._trailers = self._reader.trailers
        if self._trace is not None:
            self._trace.mark(Step.DONE, bytes=self._size)
        if self._arriving is not None:
            self._arriving.end(self._trailers)
            self._give_back()
        elif self.watch.phase is Phase.DISCARDING:
            self._give_back()
