"""One WebSocket in the hands of an ASGI application, from the handshake, which it may deny, to the close."""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import structlog

from forebay.engine.connection import CloseReason
from forebay.engine.loop import Cancelled
from forebay.engine.tasks import Gate, Task, start_task
from forebay.errors import ConnectionClosed
from forebay.http.asgi_headers import encode_head
from forebay.http.asgi_http import MESSAGE, Phase, Sender, as_bytes
from forebay.http.asgi_scope import ClientDisconnected, Message, Scope, left_with_client, scope_of
from forebay.http.exchange import Exchange
from forebay.http.problems import problem
from forebay.http.websocket import WebSocket, WebSocketHandler, accept
from forebay.http.websocket_handshake import upgrade_refusal

if TYPE_CHECKING:
    from forebay.http.asgi import ASGIApplication

__all__ = ["WebSocketCall", "is_websocket"]

log = structlog.get_logger("forebay.http")

_QUEUE_BYTES = 262_144  # of messages that wait for the application; past it reading pauses
_NO_FRAME = 1006  # there was no close frame (RFC 6455 section 7.4.1)
_FAILED = 1011


def is_websocket(exchange: Exchange) -> bool:
    """Whether a request asks to become a WebSocket."""
    return b"websocket" in [option.strip(b" \t") for option in exchange.upgrade_to.split(b",")]


class _Step(StrEnum):
    """CONNECTING -> OPEN by ``websocket.accept``, or -> DENYING by ``websocket.http.response.start``. CLOSED by the
    application's ``websocket.close``, or the end of its denial; LOST by the client or the server."""

    CONNECTING = "not accepted yet"
    DENYING = "being denied"
    OPEN = "open"
    CLOSED = "closed by the application"
    LOST = "closed by the client"


_OVER = (_Step.CLOSED, _Step.LOST)


class _Answer(Sender):
    """The answer to the handshake, if it is not to be a WebSocket; until then, who hears that the client is gone."""

    __slots__ = ("_call",)

    def __init__(self, exchange: Exchange, call: WebSocketCall) -> None:
        super().__init__(exchange)
        self._call = call

    def on_disconnect(self, reason: CloseReason) -> None:
        super().on_disconnect(reason)
        self._call.lost(_NO_FRAME, str(reason))


class WebSocketCall(WebSocketHandler):
    """One WebSocket in the hands of an application. The application's Task may outlive it; when the Task ends, so does
    the WebSocket."""

    __slots__ = (
        "_answer",
        "_code",
        "_connected",
        "_exchange",
        "_host",
        "_messages",
        "_news",
        "_paused",
        "_reason",
        "_size",
        "_step",
        "_told",
        "_ws",
        "task",
    )

    def __init__(self, host: ASGIApplication, exchange: Exchange) -> None:
        self._host = host
        self._exchange = exchange
        self._answer: _Answer | None = None
        self._step = _Step.CONNECTING
        self._connected = False  # the application was given websocket.connect
        self._told = False  # ... and websocket.disconnect
        self._ws: WebSocket | None = None
        self._messages: deque[str | bytes] = deque()
        self._size = 0
        self._paused = False
        self._code = _NO_FRAME
        self._reason = ""
        self._news: Gate | None = None  # made when somebody waits
        self.task: Task[None] | None = None

    def begin(self) -> None:
        """Start the application's Task. A request that is no proper handshake is refused without it."""
        host = self._host
        exchange = self._exchange
        refusal = upgrade_refusal(exchange, host.websocket)
        if refusal is not None:
            exchange.respond(*refusal)
            return
        host.calls.add(self)
        self._answer = _Answer(exchange, self)
        exchange.attach(self._answer, content=False)
        self.task = start_task(self._run(scope_of(host, exchange, "websocket")), host.task_name)

    async def _run(self, scope: Scope) -> None:
        try:
            result: Any = await self._host.app(scope, self.receive, self.send)
            if self._step in (_Step.CONNECTING, _Step.DENYING):
                self._log(log.error, "application did not answer", returned=repr(result)[:80])
            self._settle(1000)
        except BaseException as error:
            self._failed(error)
            self._settle(_FAILED)
            if isinstance(error, Cancelled | KeyboardInterrupt):
                raise
        finally:
            self._host.calls.discard(self)
            self._answer = None  # it knows us, and a cycle would wait for the collector

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, Cancelled):
            if self._step not in _OVER:
                self._log(log.warning, "application was cancelled")
        elif left_with_client(error):
            self._log(log.debug, "application left with its client")
        else:
            self._log(log.error, "application failed", exc_info=error)

    def _settle(self, code: int) -> None:
        """The application is done, and so is its WebSocket."""
        step, self._step = self._step, _Step.CLOSED
        self._messages.clear()
        if step not in _OVER:
            self._code = code
        self._tell()  # it may have left Tasks behind
        if step is _Step.OPEN and self._ws is not None:
            self._ws.close_nowait(code)
        elif step not in _OVER and self._answer is not None:
            self._answer.settle("the application did not complete its denial")

    def _log(self, write: Any, event: str, **fields: Any) -> None:
        path = self._exchange.raw_path.decode("latin-1")
        write(event, app=self._host.name, method="websocket", path=path, **fields)

    # -- what the application receives

    async def receive(self) -> Message:
        """``websocket.connect`` first, then messages, ``websocket.disconnect`` last.

        :raises RuntimeError: the application knows already that it was disconnected.
        """
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        messages = self._messages
        while not messages:
            if self._step in _OVER:
                if self._told:
                    raise RuntimeError("there is no message after websocket.disconnect")
                self._told = True
                return {"type": "websocket.disconnect", "code": self._code, "reason": self._reason}
            if self._news is None:
                self._news = Gate()
            else:
                self._news.close()
            await self._news.wait()
        message = messages.popleft()
        self._size -= len(message)
        if self._paused and self._ws is not None and self._low():
            self._paused = False
            self._ws.resume_reading()
        return {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}

    def _low(self) -> bool:
        return len(self._messages) <= self._host.websocket.queue // 2 and self._size <= _QUEUE_BYTES // 2

    # -- what the application sends

    async def send(self, message: Message) -> None:
        """Take one message of the application's.

        :raises ClientDisconnected: nothing can be sent any more.
        :raises RuntimeError: this message has no place here, and why.
        :raises TypeError, ValueError: what it holds cannot be sent.
        """
        kind = message["type"]
        step = self._step
        if step is _Step.OPEN and self._ws is not None:
            if kind == "websocket.send":
                await self._send(self._ws, message)
                return
            if kind == "websocket.close":
                self._close(self._ws, message)
                return
        elif step is _Step.LOST:
            raise ClientDisconnected(f"{kind} cannot be sent: the client is gone")
        elif self._answer is not None:
            if kind == "websocket.accept" and step is _Step.CONNECTING:
                self._accept(message)
                return
            if kind == "websocket.close" and step is _Step.CONNECTING:
                self._end(_NO_FRAME, "")
                self._exchange.respond(*problem(403))
                return
            if kind in ("websocket.http.response.start", "websocket.http.response.body") and step is not _Step.CLOSED:
                await self._deny(self._answer, message)
                return
        raise RuntimeError(f"{kind} was sent, but the WebSocket is {step}")

    async def _send(self, ws: WebSocket, message: Message) -> None:
        data: Any = message.get("text")
        if data is None:
            data = message.get("bytes")
            if data is None:
                raise RuntimeError("websocket.send has neither text nor bytes")
            if type(data) is not bytes:
                data = as_bytes("websocket.send", data)
        elif not isinstance(data, str):
            raise TypeError(f"websocket.send has a {type(data).__name__} for its text: must be a str")
        ws.conn.owner.ticker.credit -= MESSAGE
        try:
            await ws.send(data)
        except ConnectionClosed as error:
            raise ClientDisconnected(f"websocket.send cannot be sent: {error}") from None

    def _close(self, ws: WebSocket, message: Message) -> None:
        code = message.get("code") or 1000
        reason = message.get("reason") or ""
        ws.close_nowait(code, reason)
        self._end(code, reason)

    def _end(self, code: int, reason: str) -> None:
        """The application has closed."""
        self._step = _Step.CLOSED
        self._code, self._reason = code, reason
        self._messages.clear()
        self._tell()

    def _accept(self, message: Message) -> None:
        pairs = list(message.get("headers") or ())
        for name, _ in pairs:
            if name.lower().startswith(b"sec-websocket-") or name.lower() == b"upgrade":
                raise RuntimeError(f"websocket.accept has the header {name.decode('latin-1')!r}, which is the server's")
        lines = encode_head(pairs).lines
        accept(
            self._exchange,
            self,
            self._host.websocket,
            subprotocol=message.get("subprotocol"),
            headers=lines,
            tasks=self._host.tasks,
        )

    async def _deny(self, answer: _Answer, message: Message) -> None:
        self._step = _Step.DENYING
        await answer.send({**message, "type": message["type"].removeprefix("websocket.")})
        if answer.phase is Phase.COMPLETE:
            self._end(_NO_FRAME, "")

    # -- from the client

    def on_open(self, ws: WebSocket) -> None:
        self._ws = ws
        self._step = _Step.OPEN
        self._answer = None  # it was this

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        if self._step is not _Step.OPEN:
            return
        self._messages.append(message)
        self._size += len(message)
        if not self._paused and (len(self._messages) >= self._host.websocket.queue or self._size >= _QUEUE_BYTES):
            self._paused = True
            ws.pause_reading()
        self._tell()

    def on_close(self, ws: WebSocket, code: int, reason: str) -> None:
        self.lost(code, reason if code != _NO_FRAME else "")

    def lost(self, code: int, reason: str) -> None:
        """The client is gone. What it sent before is still received."""
        if self._step not in _OVER:
            self._step = _Step.LOST
            self._code, self._reason = code, reason
            self._tell()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.open()
