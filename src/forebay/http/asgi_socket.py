"""WebSockets that an ASGI server carries: handlers get the :class:`~forebay.http.websocket.WebSocket` they always get.

What changes is what it stands on. The server has taken off the frames; :class:`Carrier` stands where the engine has its
connection, takes the frames a WebSocket writes as the messages they are, and gives it what is received as frames. So
limits, close codes, the inbox, slow consumers and broadcasters are the same code as on our own server.

What an ASGI server keeps to itself: pings and pongs, compression, and (some of them) how a connection ended that had no
close frame: 1005 stands for 1006 then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, cast

from forebay.engine.connection import CloseReason, Connection, ConnectionHandler
from forebay.engine.settings import Outbound, SlowConsumer
from forebay.engine.tasks import Gate, unfinished
from forebay.http.asgi_exchange import ASGIConnection, ASGIExchange, read_head
from forebay.http.asgi_link import ASGILink, header_pairs
from forebay.http.asgi_scope import Message, Scope
from forebay.wire.http1 import Fields, RequestLine
from forebay.wire.websocket import Opcode, encode_close, encode_frame, may_close_with

if TYPE_CHECKING:
    from forebay.http.application import Application

__all__ = ["SocketLink"]

_MASK = bytes(4)  # our reader wants clients to mask; this one changes nothing
_NO_CODE = 1005
_KEY = b"AAAAAAAAAAAAAAAAAAAAAA=="  # for servers that keep the client's to themselves
_OF_THE_HANDSHAKE = (b"connection", b"upgrade", b"content-length", b"transfer-encoding", b"sec-websocket-extensions")
_OF_THE_ANSWER = (b"connection", b"upgrade", b"sec-websocket-accept", b"sec-websocket-protocol")
_PATIENCE = 1.0  # seconds for a receive that was cancelled to end


class SocketLink(ASGILink):
    """Between the server and a request for a WebSocket: denied as a response, or accepted and carried."""

    __slots__ = ("_carrier",)

    upgrades_to = b"websocket"
    _ANSWER = "websocket.http.response."

    def __init__(self, application: Application, scope: Scope, receive: Any, send: Any) -> None:
        super().__init__(application, scope, receive, send)
        self._carrier: Carrier | None = None

    def _read_head(self) -> tuple[RequestLine, Fields]:
        """As a handshake of HTTP/1.1, whatever it was: RFC 8441 has others."""
        scope = self.scope
        headers = [pair for pair in scope["headers"] if pair[0].lower() not in _OF_THE_HANDSHAKE]
        headers += [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
        names = {name.lower() for name, _ in headers}
        offered = ", ".join(scope.get("subprotocols") or ())
        for name, value in (
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-key", _KEY),
            (b"sec-websocket-protocol", offered.encode("latin-1", "replace")),
        ):
            if value and name not in names:
                headers.append((name, value))
        return read_head({**scope, "http_version": "1.1"}, "GET", headers, self.root_path)

    def upgrade(
        self, exchange: ASGIExchange, headers: bytes, handler: ConnectionHandler, outbound: Outbound
    ) -> Connection:
        """Accept it, and let ``handler`` have it."""
        pairs = header_pairs(headers)
        chosen = next((value.decode("latin-1") for name, value in pairs if name == b"sec-websocket-protocol"), None)
        accepted = {
            "type": "websocket.accept",
            "subprotocol": chosen,
            "headers": [pair for pair in pairs if pair[0] not in _OF_THE_ANSWER],
        }
        exchange.finished = True
        self._carrier = carrier = Carrier(self, self.scope, handler, outbound, accepted)
        self._may_read.open()
        self._news.open()
        conn = cast("Connection", carrier)
        handler.on_open(conn)
        return conn

    def wake(self) -> None:
        """There is something to send."""
        self._news.open()

    def cut_off(self) -> None:
        """Send nothing more, and do not wait for what is being sent."""
        self._interrupt()

    # -- what is received

    def _listens(self) -> bool:
        if self._carrier is not None:
            return not self._carrier.gone
        return super()._listens()

    def _heard(self, message: Message) -> bool:
        carrier, kind = self._carrier, message["type"]
        if carrier is None or kind not in ("websocket.receive", "websocket.disconnect"):
            self._lost(CloseReason.PEER)
            return False
        if kind == "websocket.receive":
            text = message.get("text")
            if text is None:
                carrier.received(encode_frame(Opcode.BINARY, message.get("bytes") or b"", mask=_MASK))
            else:
                carrier.received(encode_frame(Opcode.TEXT, text.encode(), mask=_MASK))
            return True
        carrier.peer_left(message.get("code") or _NO_CODE, message.get("reason") or "")
        return False

    def _lost(self, reason: CloseReason) -> None:
        super()._lost(reason)
        if self._carrier is not None:
            self._carrier.lost(reason)

    # -- what is sent

    async def _write(self) -> None:
        while self._carrier is None:
            if await (self._write_out() if self._may_deny() else self._close_instead()):
                return
            self._news.close()
            await self._news.wait()
        await self._carry(self._carrier)

    def _may_deny(self) -> bool:
        return "websocket.http.response" in self._extensions

    async def _close_instead(self) -> bool:
        """Deny it where the server answers by itself: with 403."""
        if self._gone or self._cut is not None:
            return True
        if self._head is None:
            return False
        if self._ended or self._push or self._file is not None:
            await self._send({"type": "websocket.close", "code": 1000})
            if self.exchange is not None and not self.exchange.finished:
                self.exchange.disconnected(CloseReason.APP)
            return True
        return False

    async def _carry(self, carrier: Carrier) -> None:
        await self._send(carrier.accepted)
        while True:
            while (frame := carrier.take()) is not None:
                message = _message_of(frame)
                if message["type"] == "websocket.close":
                    await self._say_goodbye(carrier, message)
                else:
                    await self._send(message)
                    await self._turn(len(frame))
                carrier.taken(len(frame))
            if carrier.closing:
                carrier.end()
                return
            self._news.close()
            await self._news.wait()

    async def _say_goodbye(self, carrier: Carrier, message: Message) -> None:
        """Close. There are servers (granian 2) that lose the close frame while a receive is waiting."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await unfinished([reader], _PATIENCE)
        if carrier.peer_has_left:
            return
        await self._send(message)
        self._may_read.open()
        if self._listens():
            self._listen()  # to hear that it is over


def _message_of(frame: bytes) -> Message:
    """A frame that was written to a client, as the message it holds: whole, not compressed, not masked."""
    opcode, length = frame[0] & 0x0F, frame[1]
    payload = frame[2 if length < 126 else 4 if length == 126 else 10 :]
    if opcode == Opcode.TEXT:
        return {"type": "websocket.send", "text": payload.decode()}
    if opcode == Opcode.BINARY:
        return {"type": "websocket.send", "bytes": payload}
    code = int.from_bytes(payload[:2], "big") or 1000
    return {"type": "websocket.close", "code": code, "reason": payload[2:].decode(errors="replace")}


class _Timer:
    """An entry of the timer wheel."""

    __slots__ = ("_call", "due_at", "expires_at")

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.expires_at = self.due_at = inf

    def on_expired(self) -> None:
        """Called by the wheel."""
        self._call()


class _Waiting:
    """Those who wait for room."""

    __slots__ = ("_carrier", "_gate")

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._gate = Gate()

    async def wait(self) -> None:
        """Return when there may be room, or the connection is closed."""
        self._gate.close()
        await self._gate.wait()

    def wake(self) -> None:
        """Let them look."""
        self._gate.open()


class Carrier(ASGIConnection):
    """What a WebSocket uses of a :class:`~forebay.engine.connection.Connection`, made of messages of an ASGI server."""

    __slots__ = (
        "_deadline", "_handler", "_link", "_queue", "_said", "_sent", "_size", "_stall", "_taken", "_waiting",
        "accepted", "bytes_out", "close_reason", "gone", "heard_at", "messages_dropped", "peer_has_left",
        "writes_dropped",
    )  # fmt: skip

    half_closed = False

    def __init__(
        self, link: SocketLink, scope: Scope, handler: ConnectionHandler, outbound: Outbound, accepted: Message
    ) -> None:
        super().__init__(scope, outbound)
        self.accepted = accepted
        self.close_reason: CloseReason | None = None
        self.gone = False
        self.heard_at = self.owner.ticker.read()
        self.bytes_out = self.messages_dropped = self.writes_dropped = 0
        self._link = link
        self._handler = handler
        self._queue: deque[bytes] = deque()
        self._size = 0  # bytes that wait, or are being sent
        self._sent = self._taken = 0
        self._said = 0  # the code of our close frame
        self.peer_has_left = False
        self._waiting = _Waiting(self)
        self._deadline = _Timer(self._timed_out)
        self._stall = _Timer(self._stalled)

    @property
    def _conn(self) -> Connection:
        return cast("Connection", self)

    # -- what a WebSocket calls

    def write(self, frame: bytes) -> None:
        """Send a frame; past the limit of the outbound settings, as their policy says."""
        if self.closing:
            self.writes_dropped += 1
            return
        opcode = frame[0] & 0x0F
        if opcode in (Opcode.PING, Opcode.PONG):
            self.heard_at = self.owner.ticker.now  # the server asks by itself whether the client is there
            return
        if opcode == Opcode.CLOSE:
            if self.peer_has_left:
                return  # it was answered by the server
            self._said = int.from_bytes(frame[2:4], "big") or _NO_CODE
        size = len(frame)
        rules = self.owner.outbound
        limit = inf if rules.limit is None else rules.limit
        dropping = rules.policy is SlowConsumer.DROP_OLDEST
        if not dropping and self._size >= limit:
            self.abort(CloseReason.SLOW_CONSUMER)
            return
        self._queue.append(frame)
        self._size += size
        self.bytes_out += size
        while dropping and self._size > limit and len(self._queue) > 1:
            self._size -= len(self._queue.popleft())
            self.messages_dropped += 1
        if self.writable and self._size > rules.high:
            self.writable = False
            self._watch()
        self._link.wake()

    async def turn(self) -> None:
        """Let the loop have its turn, where it is due."""
        await self.owner.ticker.turn()

    def outgoing(self) -> _Waiting:
        """Where to wait for room."""
        return self._waiting

    def write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""
        return self._size

    def pause_reading(self) -> None:
        """Receive nothing more."""
        self._link.pause_body()

    def resume_reading(self) -> None:
        """Receive on."""
        self._link.resume_body()

    def expire_in(self, seconds: float | None) -> None:
        """Call ``on_timeout`` then."""
        if seconds is None:
            self._deadline.expires_at = inf
        elif not self.gone:
            self.owner.ticker.arm(self._deadline, seconds)

    def close(self, reason: CloseReason = CloseReason.APP, *, linger: float = 0.0) -> None:
        """Send what was written, then end."""
        if not self.closing:
            self.closing = True
            self.close_reason = reason
            self._waiting.wake()
            self._link.wake()

    def abort(self, reason: CloseReason = CloseReason.APP) -> None:
        """End now. Who waits to send hears of it when the WebSocket has."""
        if not self.gone:
            self._queue.clear()
            self.closing = True
            if self.close_reason is None:
                self.close_reason = reason
            self._link.cut_off()

    # -- what the link calls

    def received(self, frame: bytes) -> None:
        """The client has sent a frame."""
        if not self.closing:
            self.heard_at = self.owner.ticker.now
            self._handler.on_message(self._conn, frame)

    def peer_left(self, code: int, reason: str) -> None:
        """The server says that it is over."""
        self.peer_has_left = True
        self._queue.clear()
        if code == _NO_CODE and self._said:
            code = self._said  # servers that do not tell what the client answered; mostly it is the same
        if may_close_with(code):
            self.received(encode_close(code, reason, _MASK))
        elif code == _NO_CODE:
            self.received(encode_frame(Opcode.CLOSE, b"", mask=_MASK))
        self.close(CloseReason.PEER)

    def take(self) -> bytes | None:
        """The next frame to send."""
        return self._queue.popleft() if self._queue else None

    def taken(self, size: int) -> None:
        """It was sent."""
        self._size -= size
        self._taken += size
        if not self.writable and self._size <= self.owner.outbound.resume_at and not self.closing:
            self.writable = True
            self._stall.expires_at = inf
            self._waiting.wake()
            self._handler.on_writable(self._conn)

    def end(self) -> None:
        """All was sent."""
        self.lost(self.close_reason or CloseReason.APP)

    def lost(self, reason: CloseReason) -> None:
        """It is gone. The handler is told, once."""
        if self.gone:
            return
        self.gone = self.closing = True
        if self.close_reason is None:
            self.close_reason = reason
        self._queue.clear()
        for timer in (self._deadline, self._stall):
            self.owner.ticker.discard(timer)
        self._waiting.wake()
        self._handler.on_close(self._conn, self.close_reason)

    # -- time

    def _timed_out(self) -> None:
        if not self.closing:
            self._handler.on_timeout(self._conn)

    def _watch(self) -> None:
        seconds = self.owner.outbound.timeout
        if seconds is not None:
            self._sent = self._taken
            self.owner.ticker.arm(self._stall, seconds)

    def _stalled(self) -> None:
        if self.writable or self.closing:
            return
        if self._taken > self._sent:
            self._watch()
        else:
            self.abort(CloseReason.WRITE_STALL)
