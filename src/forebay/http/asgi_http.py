"""One HTTP request in the hands of an ASGI application: its Task, what it receives, what it sends."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

import structlog

from forebay.engine.connection import CloseReason
from forebay.engine.loop import Cancelled, now, sleep
from forebay.engine.open_file import OpenFile
from forebay.engine.tasks import Gate, Task, start_task
from forebay.http.asgi_headers import ResponseHead, encode_head, encode_trailers
from forebay.http.asgi_scope import ClientDisconnected, Message, Scope, left_with_client, scope_of
from forebay.http.exchange import Exchange, Receiver
from forebay.http.problems import problem
from forebay.wire.http1 import encode_headers

if TYPE_CHECKING:
    from forebay.http.asgi import ASGIApplication

__all__ = ["MESSAGE", "HTTPCall", "Phase", "Sender", "as_bytes"]

log = structlog.get_logger("forebay.http")

_HIGH = 65536  # bytes of content that wait for the application; past it the client waits
_ENDS = 16  # times that an application is told of the end without ever waiting, after which others have their turn

MESSAGE = 4096
"""Bytes that each message counts, beside its own, of those that may be sent before others have their turn (see
:data:`forebay.engine.loop.TURN`): small ones take time as well."""


class Phase(IntEnum):
    """How far an answer is.

    =========  =============================================================================
    NEW        -> HELD by ``http.response.start``
    HELD       -> STREAMING by ``body`` with ``more_body``, else COMPLETE; nothing is sent yet
    STREAMING  -> COMPLETE by ``body`` without ``more_body``; -> TRAILERS where they are to come
    TRAILERS   -> COMPLETE by ``trailers`` without ``more_trailers``
    COMPLETE   everything further is an error of the application
    =========  =============================================================================

    ``http.response.pathsend`` goes from HELD to COMPLETE; ``http.response.early_hint`` changes nothing.
    """

    NEW = 0
    HELD = 1
    STREAMING = 2
    TRAILERS = 3
    COMPLETE = 4


_NEW, _HELD, _STREAMING, _TRAILERS, _COMPLETE = Phase

_FINAL = frozenset(range(200, 600))

_EXPECTED = {
    _NEW: "http.response.start comes first",
    _HELD: "http.response.body is to follow",
    _STREAMING: "more http.response.body is to follow",
    _TRAILERS: "http.response.trailers are to follow",
    _COMPLETE: "the response is complete",
}


class Sender(Receiver):
    """What an application sends as its answer to one exchange."""

    __slots__ = ("_attached", "_exchange", "_head", "_status", "_trailers", "_writable", "phase")

    _head: ResponseHead
    _status: int

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._attached = False
        self._trailers: list[bytes] | None = None  # None: there will be none
        self._writable: Gate | None = None  # made when somebody waits
        self.phase: Phase = _NEW

    async def send(self, message: Message) -> None:
        """Take one message of the application's.

        :raises ClientDisconnected: nothing can be sent any more.
        :raises RuntimeError: this message has no place here, and why.
        :raises TypeError, ValueError: what it holds cannot be sent.
        """
        kind = message["type"]
        phase = self.phase
        exchange = self._exchange
        if exchange.finished and phase is not _COMPLETE:
            raise ClientDisconnected(f"{kind} cannot be sent: the client is gone")
        if phase is _NEW and kind == "http.response.start":
            status = message["status"]
            if status not in _FINAL:
                raise RuntimeError(f"http.response.start has status {status!r}: must be 200 to 599")
            self._head = head = encode_head(message.get("headers", ()))
            self._status = status
            if head.close:
                exchange.keep_alive = False
            if message.get("trailers", False):
                self._trailers = []
            self.phase = _HELD
        elif kind == "http.response.body" and (phase is _HELD or phase is _STREAMING):
            body = message.get("body", b"")
            if body.__class__ is not bytes:
                body = as_bytes(kind, body)
            more = message.get("more_body", False)
            if phase is _HELD and not more and self._trailers is None:
                self._answer(exchange, body)
                return
            self._check_length(body)
            if phase is _HELD:
                exchange.start(self._status, self._head.lines, self._head.length, date=self._head.date)
                self.phase = _STREAMING
            writable = self._write(body)
            if not more:
                self._end()
            elif not writable:
                await self._room()
            else:
                ticker = exchange.conn.owner.ticker
                ticker.credit -= len(body) + MESSAGE
                if ticker.credit < 0:
                    await ticker.turn()
        elif kind == "http.response.trailers" and phase is _TRAILERS:
            self._add_trailers(message)
        elif kind == "http.response.pathsend" and phase is _HELD:
            self._send_path(message["path"])
        elif kind == "http.response.early_hint" and phase is not _COMPLETE:
            exchange.interim(103, encode_headers((b"link", as_bytes(kind, link)) for link in message.get("links", ())))
            if not exchange.conn.writable:
                await self._room()
        else:
            raise RuntimeError(f"{kind} was sent, but {_EXPECTED[phase]}")

    def _answer(self, exchange: Exchange, body: bytes) -> None:
        """Send head and content as one."""
        head = self._head
        length = head.length
        status = self._status
        if (length is None or length == len(body)) and (body or exchange.method != "HEAD") and status != 304:
            exchange.respond(status, head.lines, body, date=head.date)
        elif not self._has_content():  # it speaks of content that is not sent
            exchange.start(status, head.lines, length, date=head.date)
            exchange.finish()
        else:
            raise RuntimeError(f"http.response.body has {len(body)} bytes, but content-length is {length}")
        self._completed()

    def _check_length(self, body: bytes) -> None:
        length = self._head.length
        so_far = self._exchange.body_sent + len(body)
        if length is not None and so_far > length and self._has_content():
            raise RuntimeError(f"http.response.body: {so_far} bytes so far, but content-length is {length}")

    def _write(self, body: bytes) -> bool:
        exchange = self._exchange
        if body and self._has_content():
            return exchange.write(body)
        exchange.flush()  # the head, where this is the first piece
        return True

    def _has_content(self) -> bool:
        return self._exchange.method != "HEAD" and self._status not in (204, 205, 304)

    def _end(self) -> None:
        exchange = self._exchange
        length = self._head.length
        if length is not None and exchange.body_sent < length and self._has_content():
            sent = exchange.body_sent
            raise RuntimeError(f"http.response.body ended after {sent} bytes, but content-length is {length}")
        if self._trailers is not None:
            self.phase = _TRAILERS
        else:
            exchange.finish()
            self._completed()

    def _add_trailers(self, message: Message) -> None:
        trailers = self._trailers
        if trailers is None:
            raise RuntimeError("http.response.trailers were sent, but http.response.start did not say so")
        trailers.append(encode_trailers(message.get("headers", ())))
        if not message.get("more_trailers", False):
            self._exchange.finish(b"".join(trailers))
            self._completed()

    def _send_path(self, path: str) -> None:
        head = self._head
        file = OpenFile(path)
        try:
            if head.length is not None and head.length != file.size:
                raise RuntimeError(
                    f"http.response.pathsend: {path} has {file.size} bytes, but content-length is {head.length}"
                )
            self._exchange.respond_file(self._status, head.lines, file, 0, file.size, date=head.date)
        finally:
            file.release()
        self._completed()

    def _completed(self) -> None:
        self.phase = _COMPLETE

    async def _room(self) -> None:
        """Wait while the client is slow."""
        if self._writable is None:
            self._writable = Gate()
        else:
            self._writable.close()
        self._attach()
        exchange = self._exchange
        if not exchange.finished:
            await self._writable.wait()
        if exchange.finished and self.phase is not _COMPLETE:
            raise ClientDisconnected("http.response.body was cut: the client is gone")

    def _attach(self) -> None:
        """Take the content as it comes, if only to hear of the client."""
        if not self._attached and not self._exchange.finished:
            self._attached = True
            self._exchange.attach(self)

    def on_writable(self) -> None:
        if self._writable is not None:
            self._writable.open()

    def on_disconnect(self, reason: CloseReason) -> None:
        self._wake()

    def _wake(self) -> None:
        """Nobody has anything more to wait for."""
        if self._writable is not None:
            self._writable.open()

    def settle(self, failure: str) -> None:
        """The application is done. An answer it did not complete is a 500, or cut where it was begun."""
        exchange = self._exchange
        if exchange.finished or self.phase is _COMPLETE:
            return
        if exchange.started:
            exchange.abort(failure)
        else:
            self.phase = _COMPLETE
            exchange.respond(*problem(500))
        self._wake()  # it may have left Tasks behind


def as_bytes(kind: str, value: Any) -> bytes:
    """What a message of ``kind`` has in place of bytes. Its own length need not be one of bytes.

    :raises TypeError: it is nothing of the sort.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"{kind} has a {type(value).__name__} where bytes must be: {value!r:.40}")


class HTTPCall(Sender):
    """One request in the hands of an application."""

    __slots__ = ("_ended", "_ends", "_given", "_gone_at", "_host", "_pieces", "_readable", "_size", "task")

    def __init__(self, host: ASGIApplication, exchange: Exchange) -> None:
        self._exchange = exchange  # what Sender does, without its call
        self._attached = False
        self._trailers = None
        self._writable = None
        self.phase = _NEW
        self._host = host
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False  # the client has sent the last piece
        self._given = False  # and the application has it
        self._ends = 0  # times that it was told of the end
        self._gone_at = 0.0
        self._readable: Gate | None = None  # made when somebody waits
        self.task: Task[None] | None = None

    def begin(self) -> None:
        """Start the application's Task."""
        host = self._host
        exchange = self._exchange
        host.calls.add(self)
        exchange.attach(self, content=False)
        self.task = start_task(self._run(scope_of(host, exchange, "http")), host.task_name)

    async def _run(self, scope: Scope) -> None:
        try:
            result: Any = await self._host.app(scope, self.receive, self.send)
            if self.phase is not _COMPLETE:
                self._returned(result)
        except BaseException as error:
            self._failed(error)
            if isinstance(error, Cancelled | KeyboardInterrupt):
                raise
        finally:
            self._host.calls.discard(self)
            if self._gone_at:
                self._log(log.debug, "application went on without its client", seconds=round(now() - self._gone_at, 3))

    def _returned(self, result: Any) -> None:
        if self._exchange.finished:
            return  # nobody was left to answer
        failure = f"the application returned, but {_EXPECTED[self.phase]}"
        self._log(log.error, "application did not answer", reason=failure, returned=repr(result)[:80])
        self.settle(failure)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, Cancelled):
            if not self._exchange.finished:
                self._log(log.warning, "application was cancelled")
        elif self.phase is _COMPLETE:
            self._log(log.error, "application failed after its answer", exc_info=error)
        elif not self._exchange.finished:
            self._log(log.error, "application failed", exc_info=error)
        elif left_with_client(error):
            self._log(log.debug, "application left with its client")
        else:
            self._log(log.info, "application failed after its client left", error=f"{type(error).__name__}: {error}")
        self.settle("the application failed")

    def _log(self, write: Any, event: str, **fields: Any) -> None:
        exchange = self._exchange
        path = exchange.raw_path.decode("latin-1")
        write(event, app=self._host.name, method=exchange.method, path=path, **fields)

    # -- what the application receives

    async def receive(self) -> Message:
        """The next piece of the request's content; after it ``http.disconnect``, once the client is gone or the answer
        is complete."""
        exchange = self._exchange
        if not self._given and not exchange.finished:
            if not self._attached and exchange.body_complete:
                self._given = True
                return {"type": "http.request", "body": exchange.take_body(), "more_body": False}
            self._attach()
            while not (self._pieces or self._ended or exchange.finished):
                await self._news()
            if not (exchange.finished or self._given):  # another Task of the application's may have been faster
                return self._next()
        while not exchange.finished and self.phase is not _COMPLETE:
            self._attach()
            await self._news()
        self._ends += 1
        if not self._ends % _ENDS:  # it does not listen
            await sleep(0)
        return {"type": "http.disconnect"}

    def _next(self) -> Message:
        pieces, self._pieces = self._pieces, []
        if self._size >= _HIGH:
            self._exchange.resume_body()
        self._size = 0
        self._given = self._ended
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": not self._ended}

    async def _news(self) -> None:
        if self._readable is None:
            self._readable = Gate()
        else:
            self._readable.close()
        await self._readable.wait()

    def _tell(self) -> None:
        if self._readable is not None:
            self._readable.open()

    def _completed(self) -> None:
        self.phase = _COMPLETE
        if self._readable is not None:
            self._readable.open()

    # -- from the exchange

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _HIGH:
            self._exchange.pause_body()  # each time: attaching resumes after the pieces that waited
        self._tell()

    def on_body_end(self) -> None:
        self._ended = True
        self._tell()

    def on_disconnect(self, reason: CloseReason) -> None:
        self._gone_at = now()
        self._pieces.clear()
        self._wake()

    def _wake(self) -> None:
        super()._wake()
        self._tell()
