"""WebSockets (RFC 6455, with permessage-deflate of RFC 7692), on either side of a connection.

A server makes one of a request with :func:`accept`, a client with :func:`~forebay.http.websocket_client.connect`. What
happens on it is handled in event style (:class:`WebSocketHandler`), or by a coroutine that receives and sends::

    async def echo(ws: WebSocket) -> None:
        async for message in ws:          # ends when either side closes
            await ws.send(message)        # waits while the peer is slow
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from os import urandom
from types import coroutine
from typing import TYPE_CHECKING, Any, Literal

import structlog

from forebay.engine.connection import CloseReason, Connection
from forebay.engine.inbox import EAGER, MESSAGE, Inbox
from forebay.engine.loop import Cancelled
from forebay.engine.loop import timeout as within
from forebay.engine.settings import SlowConsumer
from forebay.engine.tasks import Gate, Tasks
from forebay.errors import ConnectionClosed, DeadlineExceeded, WebSocketError
from forebay.http.encoding import parse_query
from forebay.http.exchange import Exchange
from forebay.http.headers import Headers
from forebay.http.websocket_handler import CoroutineStyle, WebSocketFunction, WebSocketHandler
from forebay.http.websocket_handshake import Opening, accept_lines, opening_of, upgrade_refusal
from forebay.http.websocket_link import Link, Phase, SlicingLink
from forebay.http.websocket_settings import WebSocketSettings
from forebay.wire.deflate import DeflateParameters, Deflater, Inflater
from forebay.wire.http1 import decode_path
from forebay.wire.websocket import MessageReader, Opcode, encode_close, encode_frame, encode_message

if TYPE_CHECKING:
    from forebay.http.broadcaster import Broadcaster

__all__ = ["WebSocket", "WebSocketHandler", "WebSocketSettings", "accept", "upgrade_refusal"]

log = structlog.get_logger("forebay.http")

ABNORMAL = 1006  # there was no close frame; never sent (RFC 6455 section 7.4.1)
FAILED = 1011
_NO_CODE = 1005
_LONGEST_PING = 125  # bytes (RFC 6455 section 5.5)
_SETTINGS = WebSocketSettings()


class WebSocket:
    """One WebSocket. :func:`accept` and ``connect`` make them; used on the loop's thread only.

    ``conn`` is the engine's connection; ``subprotocol`` what was agreed on, or None; ``deflate`` how messages are
    compressed, or None; ``state`` is free for the handler's own use. ``close_code`` and ``close_reason`` are None and
    empty while it is open; see :meth:`WebSocketHandler.on_close`.
    """

    __slots__ = (
        "_deflater", "_gone", "_groups", "_handler", "_inbox", "_link", "_opening", "_pong", "close_code",
        "close_reason", "conn", "deflate", "is_client", "paused", "phase", "sending", "settings", "state",
        "subprotocol", "told",
    )  # fmt: skip

    conn: Connection

    def __init__(
        self,
        side: Literal["server", "client"],
        handler: WebSocketHandler,
        inbox: Inbox | None,
        settings: WebSocketSettings,
        opening: Opening,
        subprotocol: str | None,
        deflate: DeflateParameters | None,
    ) -> None:
        self.state: Any = None
        self.subprotocol = subprotocol
        self.deflate = deflate
        self.settings = settings
        self.close_code: int | None = None
        self.close_reason = ""
        self.phase: int = Phase.OPEN
        self.paused = False  # we read nothing
        self.told = False  # a coroutine handler knows of the end
        self.sending = False  # it waits to send, and will hear of it there
        self.is_client = side == "client"
        self._handler = handler
        self._inbox = inbox
        self._opening = opening
        self._pong: bytes | None = None  # the last one that the peer was too slow for
        self._gone: Gate | None = None
        self._groups: list[Broadcaster] | None = None
        self._deflater = None if deflate is None else Deflater.of(deflate, side)
        inflater = None if deflate is None else Inflater.of(deflate, side, settings.max_message)
        reader = MessageReader(self, masked=not self.is_client, max_message=settings.max_message, inflater=inflater)
        self._link: Link | None = (Link if inflater is None else SlicingLink)(self, reader)

    def __repr__(self) -> str:
        return f"<WebSocket {self.path} {Phase(self.phase).name.lower()} {self.conn!r}>"

    # The request it began with

    @property
    def path(self) -> str:
        """The request's path, percent-decoded."""
        return decode_path(self._opening.raw_path)

    @property
    def query(self) -> list[tuple[str, str]]:
        """The fields of the request's query, decoded, in order."""
        return parse_query(self._opening.query)

    @property
    def headers(self) -> Headers:
        """The request's headers, on a client the answer's, without the handshake's key. Split anew each time."""
        return self._opening.headers

    @property
    def host(self) -> str:
        """What the client calls the server: host and maybe port."""
        return self._opening.host.decode("latin-1")

    @property
    def client(self) -> str:
        """The IP address at the other end of the connection."""
        return self.conn.peer_host

    # Sending

    @property
    def open(self) -> bool:
        """Whether messages can be sent: no side has closed."""
        return not self.phase and not self.conn.closing

    @property
    def compressed(self) -> bool:
        """Whether compression was agreed on."""
        return self.deflate is not None

    @property
    def writable(self) -> bool:
        """What waits to be sent is below the high watermark of the settings' ``outbound``."""
        return self.conn.writable

    def write(self, message: str | bytes) -> None:
        """Send ``message`` without waiting: ``str`` as text, ``bytes`` as binary. After the close it is dropped, and
        counted in ``conn.writes_dropped``.

        What the network does not take is kept in memory, up to the limit of ``settings.outbound``, which also says what
        happens past it: writers of much look at :attr:`writable`, or use :meth:`send`.

        :raises UnicodeEncodeError: the text has lone surrogates.
        """
        if self.phase:
            self.conn.writes_dropped += 1
            return
        self.conn.write(encode_message(message, self._deflater, urandom(4) if self.is_client else None))

    def send(self, message: str | bytes) -> Awaitable[None]:
        """Send ``message`` now, and wait, by ``await``, while the peer is too slow to take what was sent.

        Under another policy for slow consumers than ``wait`` there is nothing to wait for.

        :raises ConnectionClosed: either side has closed, or did while waiting.
        :raises UnicodeEncodeError: the text has lone surrogates.
        """
        conn = self.conn
        if self.phase or conn.closing:
            raise self._closed_error()
        conn.write(data := encode_message(message, self._deflater, urandom(4) if self.is_client else None))
        ticker = conn.owner.ticker
        ticker.credit -= len(data)
        return ticker.done if conn.writable and ticker.credit >= 0 else self._room()

    async def _room(self) -> None:
        conn = self.conn
        by_handler = self._in_handler()
        self.sending = self.sending or by_handler
        try:
            await conn.turn()
            if conn.owner.outbound.policy is SlowConsumer.WAIT:
                while not (conn.writable or self.phase or conn.closing):
                    await conn.outgoing().wait()
        finally:
            self.sending = self.sending and not by_handler
        if self.phase or conn.closing:
            raise self._closed_error()

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping; see :meth:`WebSocketHandler.on_pong`. Pings are also sent by themselves to a silent peer.

        :raises ValueError: ``payload`` is longer than 125 bytes.
        """
        if len(payload) > _LONGEST_PING:
            raise ValueError(f"ping of {len(payload)} bytes: the most is {_LONGEST_PING} (RFC 6455 section 5.5)")
        if self.phase:
            self.conn.writes_dropped += 1
            return
        self.conn.write(encode_frame(Opcode.PING, payload, mask=self._mask()))

    def _mask(self) -> bytes | None:
        return urandom(4) if self.is_client else None

    # Receiving

    async def receive(self, timeout: float | None = None) -> str | bytes:
        """The next message. For coroutine handlers and clients.

        :param timeout: seconds to wait for it; ``None``: as long as the connection lives.
        :raises ConnectionClosed: none will come. Code and reason are in its text, and in :attr:`close_code` and
            :attr:`close_reason` once they are known.
        :raises DeadlineExceeded: it did not come in time.
        """
        try:
            if timeout is None:
                return await self.__anext__()
            async with within(timeout):
                return await self.__anext__()
        except TimeoutError:
            raise DeadlineExceeded(f"{self.conn.peer} sent no message within {timeout} s") from None
        except StopAsyncIteration:
            raise self._closed_error() from None

    def __aiter__(self) -> WebSocket:
        return self

    @coroutine
    def __anext__(self) -> Generator[Any, Any, str | bytes]:
        inbox = self._inbox or self._no_inbox()
        if inbox.stepping and not inbox.queued and not inbox.ended and (not EAGER or inbox.is_stepped()):
            message: str | bytes = yield MESSAGE
            return message
        if inbox.messages or (not inbox.ended and (yield from inbox.wait().__await__())):
            return self.take(inbox)
        self.told = True
        raise StopAsyncIteration

    def _no_inbox(self) -> Inbox:
        raise RuntimeError("only coroutine handlers and clients receive; an event-style handler gets on_message")

    def take(self, inbox: Inbox) -> str | bytes:
        """The oldest message of the inbox. Called where a coroutine receives."""
        message: str | bytes = inbox.take()
        if self.paused and inbox.low and not inbox.ended:
            self.resume_reading()
        return message

    def pause_reading(self) -> None:
        """Take nothing more from the peer, until :meth:`resume_reading`; a few messages may still come. Idempotent."""
        self.paused = True
        self.conn.pause_reading()

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`. Idempotent."""
        self.paused = False
        if self._link is not None:
            self._link.resume()

    # Closing

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, and return when the connection has ended: at most twice the settings' ``close_timeout`` later.

        :param code: 1000 to 1003, 1007 to 1014 or 3000 to 4999 (RFC 6455 section 7.4).
        :param reason: cut to 123 bytes of UTF-8.
        :raises ValueError: no such code may be sent.
        """
        self.close_nowait(code, reason)
        if self.phase == Phase.GONE:
            return
        if self._gone is None:
            self._gone = Gate()
        try:
            async with within(2 * self.settings.close_timeout):
                await self._gone.wait()
        except TimeoutError:
            self.conn.abort(CloseReason.TIMEOUT)

    def close_nowait(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close, as :meth:`close` does. Messages that still come are dropped. Nothing happens after a close.

        :raises ValueError: no such code may be sent.
        """
        self.begin_close(code, reason)
        self.told = self.told or self._in_handler()

    def begin_close(self, code: int, reason: str) -> None:
        """The same, of which a coroutine handler is still to be told."""
        frame = encode_close(code, reason, self._mask())
        if self.phase:
            return
        self.conn.write(frame)
        self._leave(Phase.CLOSING)
        self.conn.expire_in(self.settings.close_timeout)
        if self.paused:  # the peer's close frame is behind what was not read
            self.resume_reading()

    async def __aenter__(self) -> WebSocket:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _in_handler(self) -> bool:
        """Whether it is the coroutine handler itself that calls: others may send and close as well."""
        return self._inbox is not None and self._inbox.is_reader()

    def _closed_error(self) -> ConnectionClosed:
        self.told = self.told or self._in_handler()
        if self.close_code is None:
            return ConnectionClosed(f"the WebSocket with {self.conn.peer} is closed by this side")
        why = f": {self.close_reason}" if self.close_reason else ""
        return ConnectionClosed(f"the WebSocket with {self.conn.peer} is closed ({self.close_code}{why})")

    def _leave(self, phase: Phase) -> None:
        """Go on to ``phase``. The first time, everybody who uses the WebSocket is told."""
        before, self.phase = self.phase, phase
        if before:
            return
        self._deflater = self._pong = None
        inbox = self._inbox
        if inbox is not None:
            self.told = self.told or inbox.awaited
            inbox.end()
        if not self.conn.writable:
            self.conn.outgoing().wake()
        if self._groups is not None:
            for group in tuple(self._groups):
                group.discard(self)

    def _fail(self, code: int, reason: str, why: CloseReason) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): say why, and close without waiting for an answer."""
        if self.phase >= Phase.CLOSED:
            return
        if not self.phase:
            self.conn.write(encode_close(code, reason, self._mask()))
        self.close_code = code
        self.close_reason = reason
        self._leave(Phase.CLOSED)
        self.conn.close(why, linger=self.settings.close_timeout)

    def failed(self, error: BaseException) -> None:
        """The handler raised ``error``: log it, and close with 1011."""
        log.error("handler failed", peer=self.conn.peer, handler=type(self._handler).__name__, exc_info=error)
        self._fail(FAILED, "internal error", CloseReason.ERROR)

    # Broadcasters

    def joined(self, group: Broadcaster) -> None:
        """Tell ``group`` when this closes."""
        if self._groups is None:
            self._groups = []
        self._groups.append(group)

    def left(self, group: Broadcaster) -> None:
        """Undo :meth:`joined`."""
        if self._groups is not None and group in self._groups:
            self._groups.remove(group)

    def new_context(self) -> None:
        """Compress on without referring to what was sent before; see :meth:`Deflater.forget`."""
        if self._deflater is not None:
            self._deflater.forget()

    # What the reader calls (wire.websocket.MessageSink)

    def on_message(self, message: str | bytes) -> None:
        """See :class:`MessageSink`."""
        if not self.phase:
            self._handler.on_message(self, message)

    def on_ping(self, payload: bytes) -> None:
        """See :class:`MessageSink`. Who does not read what it is sent gets one pong later, for its last ping."""
        if self.phase:
            return
        if self.conn.writable:
            self.conn.write(encode_frame(Opcode.PONG, payload, mask=self._mask()))
        else:
            self._pong = payload

    def on_pong(self, payload: bytes) -> None:
        """See :class:`MessageSink`."""
        if not self.phase:
            self._handler.on_pong(self, payload)

    def on_close_frame(self, code: int, reason: str) -> None:
        """See :class:`MessageSink`. Answered with the same code; then the server ends the TCP connection, and the
        client waits for that (RFC 6455 section 7.1.1)."""
        if self.phase >= Phase.CLOSED:
            return
        conn = self.conn
        first = not self.phase
        self.close_code = code
        self.close_reason = reason
        if first:
            mask = self._mask()
            conn.write(encode_frame(Opcode.CLOSE, b"", mask=mask) if code == _NO_CODE else encode_close(code, "", mask))
        self._leave(Phase.CLOSED)
        if not self.is_client:
            conn.close(CloseReason.PEER if first else CloseReason.APP)
            return
        conn.expire_in(self.settings.close_timeout)
        if self.paused:
            self.resume_reading()

    # What the link calls

    def opened(self, conn: Connection) -> None:
        """The connection is ours."""
        self.conn = conn
        conn.expire_in(self.settings.ping_interval)
        self._tell(self._handler.on_open)

    def writable_again(self) -> None:
        """The peer takes what it is sent again."""
        pong, self._pong = self._pong, None
        if self.phase:
            return
        if pong is not None:
            self.conn.write(encode_frame(Opcode.PONG, pong, mask=self._mask()))
        self._tell(self._handler.on_writable)

    def drain(self) -> None:
        """The server drains."""
        if self.phase:
            return
        self._tell(self._handler.on_drain)

    def _tell(self, event: Callable[[WebSocket], None]) -> None:
        try:
            event(self)
        except (Exception, Cancelled) as error:
            self.failed(error)

    def refuse(self, error: WebSocketError) -> None:
        """The peer sent what cannot be accepted."""
        log.debug("websocket broken", peer=self.conn.peer, code=error.code, reason=str(error))
        self._fail(error.code, str(error), CloseReason.FRAMING)

    def ended(self) -> None:
        """The peer sends nothing more, without a close frame."""
        if self.phase < Phase.CLOSED:
            self.close_code = ABNORMAL
            self.close_reason = str(CloseReason.PEER)
            self._leave(Phase.CLOSED)

    def lost(self, reason: CloseReason) -> None:
        """The connection is gone."""
        if self.close_code is None:
            self.close_code = ABNORMAL
            self.close_reason = str(reason)
        self._leave(Phase.GONE)
        self._link = None
        if self._gone is not None:
            self._gone.open()
        try:
            self._handler.on_close(self, self.close_code, self.close_reason)
        except (Exception, Cancelled) as error:
            self.failed(error)

    @property
    def link(self) -> Link:
        """What the engine's connection is given to call."""
        if self._link is None:
            raise RuntimeError(f"{self!r} is gone")
        return self._link


def accept(
    exchange: Exchange,
    handler: WebSocketHandler | WebSocketFunction,
    settings: WebSocketSettings = _SETTINGS,
    *,
    subprotocol: str | None = None,
    headers: bytes = b"",
    tasks: Tasks,
) -> WebSocket:
    """Make a WebSocket of a request that :func:`upgrade_refusal` has nothing against: RFC 6455 section 4.2.2.

    :param handler: event style, or a coroutine function that is called with the WebSocket. That is run as one Task; its
        return closes with 1000, an exception is logged and closes with 1011. It is cancelled when the connection is
        gone, unless it waits for a message or has been told already.
    :param subprotocol: what to agree on; ``None``: the first of the settings' that the client offers.
    :param headers: further header lines of the answer (:func:`forebay.wire.http1.encode_headers`).
    :param tasks: owns the Task.
    :raises ValueError: the request is no handshake, or ``subprotocol`` is no token.
    :raises RuntimeError: the request is answered already, or did not ask for an upgrade.
    """
    inbox = None
    if not isinstance(handler, WebSocketHandler):
        inbox = Inbox(settings.queue)
        handler = CoroutineStyle(handler, inbox, tasks)
    request = exchange.headers
    lines, subprotocol, deflate = accept_lines(request, settings, subprotocol)
    opening = opening_of(exchange.raw_path, exchange.query, exchange.host, request)
    ws = WebSocket("server", handler, inbox, settings, opening, subprotocol, deflate)
    exchange.upgrade(lines + headers, ws.link, outbound=settings.outbound)
    return ws
