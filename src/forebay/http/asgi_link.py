"""Between an exchange and the ASGI server that carries it: what is received, what is sent, and when it is over."""

from __future__ import annotations

import os
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import structlog

from forebay.engine.connection import CloseReason, Connection, ConnectionHandler
from forebay.engine.loop import Cancelled, now, timeout
from forebay.engine.open_file import OpenFile, identity_of
from forebay.engine.settings import Outbound
from forebay.engine.tasks import Gate, Task, start_task
from forebay.errors import ForebayError, ProtocolError
from forebay.http.asgi_exchange import ASGIConnection, ASGIExchange, read_head
from forebay.http.asgi_scope import Message, Scope
from forebay.http.content import Content
from forebay.http.problems import problem_of
from forebay.wire.http1 import STATUS_LINES, Fields, RequestLine

if TYPE_CHECKING:
    from forebay.http.application import Application
    from forebay.http.connection import HTTPConnection

__all__ = ["ASGILink", "ResponseCut", "header_pairs"]

log = structlog.get_logger("forebay.http")

_HIGH = 65536  # bytes that wait to be sent; past it the writer is asked to wait
_LOW = 16384
_PIECE = 65536  # bytes of a file that are read at once
_MESSAGE = 64  # what a message counts beside its bytes, of those after which others have their turn
_REMEMBERED = 1024  # bytes of header lines
_MAY_LACK_CONTENT = frozenset(("GET", "HEAD", "OPTIONS", "DELETE", "TRACE"))

Pairs = tuple[tuple[bytes, bytes], ...]


class ResponseCut(ForebayError):
    """An answer could not be completed. Raised out of the application, so that its server cuts the connection and the
    client notices."""


class ASGILink:
    """Between one exchange and the server: what :class:`~forebay.http.connection.HTTPConnection` is on ours.

    The server's call runs :meth:`run`, which sends what was written; a Task of its own receives. It is an entry of the
    timer wheel, for the deadline of the answer.
    """

    __slots__ = (
        "__weakref__", "_all_read", "_cut", "_ended", "_extensions", "_file", "_full", "_gone", "_head", "_hints",
        "_http1", "_interrupted", "_interruption", "_may_read", "_news", "_pieces", "_push", "_reader", "_receive",
        "_send", "_size", "application", "conn", "due_at", "exchange", "expires_at", "last", "root_path", "scheme",
        "scope",
    )  # fmt: skip

    upgrades_to = b""
    _ANSWER = "http.response."

    def __init__(self, application: Application, scope: Scope, receive: Any, send: Any) -> None:
        self.application = application
        self.scope = scope
        self.conn = ASGIConnection(scope)
        scheme = scope.get("scheme") or "http"
        self.scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
        self.root_path = str(scope.get("root_path") or "").rstrip("/")
        self.exchange: ASGIExchange | None = None
        self.last = False
        self.expires_at = self.due_at = inf
        self._http1 = str(scope.get("http_version", "1.1")).startswith("1")
        self._extensions = scope.get("extensions") or {}
        self._receive = receive
        self._send = send
        self._hints: list[Message] = []
        self._head: Message | None = None
        self._push = False  # the head is to leave without content
        self._pieces: list[bytes] = []
        self._size = 0  # bytes that wait, or are being sent
        self._full = False  # whoever writes was asked to wait
        self._file: tuple[OpenFile, int, int] | None = None  # with offset and count
        self._all_read = False
        self._ended = False  # nothing more is to be sent
        self._gone = False  # nobody takes anything any more
        self._cut: str | None = None
        self._news = Gate()
        self._may_read = Gate(is_open=True)
        self._reader: Task[None] | None = None
        self._interruption: Any = None
        self._interrupted = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.exchange!r}>"

    # -- the request

    def hand_on(self) -> None:
        """Have the application answer. A request that our own server would refuse is answered here."""
        application = self.application
        try:
            line, fields = self._read_head()
            method, target, raw_path, query = line
            exchange = ASGIExchange(
                cast("HTTPConnection", self), method, target, raw_path, query, fields, fields.keep_alive, now()
            )
            self.exchange = exchange
            if fields.has_content or self._may_have_content(method, fields):
                limit = application.body_limit
                if limit is not None and (fields.content_length or 0) > limit:
                    raise _too_long(limit)
                exchange.content = Content(expects=False)
                if fields.expects:
                    self._may_read.close()
        except ProtocolError as error:
            self._refuse(error)
            return
        try:
            application.on_request(exchange)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a stray cancellation included: the client waits for an answer
            log.exception("application failed", app=application.name, method=method)
            exchange.fail("application failed")

    def _read_head(self) -> tuple[RequestLine, Fields]:
        return read_head(self.scope, self.scope["method"], self.scope["headers"], self.root_path)

    def _may_have_content(self, method: str, fields: Fields) -> bool:
        """HTTP/2 and later need not announce it."""
        return not self._http1 and fields.content_length is None and method not in _MAY_LACK_CONTENT

    def _refuse(self, error: ProtocolError) -> None:
        """Answer what the application is not to see, or was seeing when it turned out to be unacceptable."""
        exchange = self.exchange
        status, lines, body = problem_of(error)
        log.info("request refused", peer=self.conn.peer, status=status, reason=error.reason, detail=str(error))
        if exchange is not None and exchange.started:
            exchange.abort(str(error))
            return
        if exchange is not None:
            exchange.disconnected(CloseReason.ERROR)  # its taker waits for more
        self.begin(exchange, status, lines, len(body))
        if exchange is None or exchange.method != "HEAD":
            self.send(body)
        self._ended = True
        self._news.open()

    # -- from the exchange

    def begin(self, exchange: ASGIExchange | None, status: int, headers: bytes, length: int | None) -> None:
        """Keep the head of the answer until there is content, or :meth:`flush`.

        :raises KeyError: a status that is none.
        """
        if status not in STATUS_LINES:
            raise KeyError(status)
        pairs = list(header_pairs(headers))
        if not self._http1:
            pairs = [pair for pair in pairs if pair[0] not in (b"connection", b"upgrade")]
        elif exchange is not None and exchange.fields.keep_alive and not exchange.keep_alive:
            pairs.append((b"connection", b"close"))
        if length is not None:
            pairs.append((b"content-length", b"%d" % length))
        self._head = {"type": f"{self._ANSWER}start", "status": status, "headers": pairs}

    def send(self, data: bytes) -> None:
        """Add bytes to the answer."""
        if data and not self._gone:
            self._pieces.append(data)
            self._size += len(data)

    def flush(self) -> bool:
        """Let what was added be sent. False: much is waiting already."""
        self._push = True
        self._news.open()
        self._full = self._full or self._size > _HIGH
        return not self._full

    def hint(self, headers: bytes) -> None:
        """Send an early hint, if the server takes it."""
        if f"{self._ANSWER}early_hint" in self._extensions:
            links = [value for name, value in header_pairs(headers) if name == b"link"]
            self._hints.append({"type": f"{self._ANSWER}early_hint", "links": links})
            self._news.open()

    def send_file(self, exchange: ASGIExchange, file: OpenFile, offset: int, count: int) -> None:
        """Send a part of a file behind what was added. The answer is complete with it."""
        file.acquire()
        self._file = (file, offset, count)
        self._news.open()

    def finished(self, exchange: ASGIExchange) -> None:
        """The answer is complete."""
        exchange.finished = True
        self._ended = True
        self._news.open()

    def cut(self, exchange: ASGIExchange, reason: str) -> None:
        """The answer cannot be completed."""
        log.warning(
            "request cut",
            app=self.application.name,
            method=exchange.method,
            path=exchange.raw_path.decode("latin-1"),
            status=exchange.status,
            seconds=round(now() - exchange.received_at, 3),
            reason=reason,
        )
        exchange.finished = True
        self._cut = reason
        self._interrupt()

    def upgrade(
        self, exchange: ASGIExchange, headers: bytes, handler: ConnectionHandler, outbound: Outbound
    ) -> Connection:
        """Accept a WebSocket."""
        raise RuntimeError(f"{exchange!r} cannot be upgraded")

    def pause_body(self) -> None:
        """Receive nothing more."""
        self._may_read.close()

    def resume_body(self) -> None:
        """Receive on."""
        self._may_read.open()

    def expire(self, exchange: ASGIExchange) -> None:
        """Look at ``exchange`` when its deadline is over."""
        if exchange.deadline < self.expires_at:
            self.conn.owner.ticker.arm(self, max(0.0, exchange.deadline - now()))

    def on_expired(self) -> None:
        """Called by the timer wheel."""
        self.expires_at = inf
        exchange = self.exchange
        if exchange is None or exchange.finished:
            return
        if exchange.deadline <= now():
            exchange.expired()
        elif exchange.deadline != inf:
            self.expire(exchange)

    # -- the server's call

    async def run(self) -> None:
        """Send what is written until the answer is complete, or nobody takes it any more.

        :raises ResponseCut: it could not be completed.
        """
        if self._listens():
            self._listen()
        try:
            async with timeout(None) as self._interruption:
                try:
                    await self._write()
                finally:
                    self._interruption = None  # which nobody may touch any more
        except TimeoutError:
            if not self._interrupted:
                raise  # it is the server's own
        except OSError:  # of a client that is gone, as the specification of ASGI has it
            self._lost(CloseReason.RESET)
        except Cancelled:
            self._lost(CloseReason.STOPPED)
            raise
        finally:
            self._close()
        if self._cut is not None:
            raise ResponseCut(f"{self.application.name}: the answer was cut: {self._cut}")

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        self.conn.owner.ticker.discard(self)
        self._lost(CloseReason.ERROR)
        if self._file is not None:
            self._file[0].release()
            self._file = None

    def _interrupt(self) -> None:
        """End the call now, even where it waits for the server."""
        self._interrupted = True
        self._news.open()
        interruption = self._interruption
        if interruption is not None:
            self._interruption = None
            interruption.reschedule(0.0)

    def _lost(self, reason: CloseReason) -> None:
        """Nobody takes anything any more."""
        if self._gone:
            return
        self._gone = True
        self._pieces.clear()
        if self.exchange is not None and not self.exchange.finished:
            self.exchange.disconnected(reason)
        self._interrupt()

    # -- what is received

    def _listens(self) -> bool:
        return self.exchange is not None and not self.exchange.finished

    def _listen(self) -> None:
        self._reader = start_task(self._read(), f"{self.application.name} receives")

    async def _read(self) -> None:
        try:
            while self._listens():
                await self._may_read.wait()
                message = await self._receive()
                if not self._listens() or not self._heard(message):
                    return
        except ProtocolError as error:
            self._refuse(error)
        except Exception as error:  # servers have their own ways to say that the client is gone
            log.debug("server cannot receive", app=self.application.name, error=repr(error))
            self._lost(CloseReason.RESET)

    def _heard(self, message: Message) -> bool:
        """Whether there may be more."""
        exchange = self.exchange
        if message["type"] != "http.request" or exchange is None:
            self._lost(CloseReason.PEER)
            return False
        data: bytes = message.get("body") or b""
        more: bool = message.get("more_body", False)
        if self._all_read:
            return False  # it would go on for ever: what is to come is the disconnect
        self._all_read = not more
        if exchange.body_complete:
            return True
        if data:
            limit = self.application.body_limit
            if limit is not None and exchange.body_received + len(data) > limit:
                raise _too_long(limit)
            if not exchange.body_arrived(bytes(data)):
                self.pause_body()
        if not more:
            exchange.body_ended(())
            self.resume_body()  # its taker need not, and the disconnect is behind it
        return True

    # -- what is sent

    async def _write(self) -> None:
        while not await self._write_out():
            self._news.close()
            await self._news.wait()

    async def _write_out(self) -> bool:
        """Send what there is. True: that was all."""
        while not self._gone and self._cut is None:
            if self._hints:
                await self._send(self._hints.pop(0))
            elif self._file is not None and not self._pieces:
                await self._write_head()
                await self._write_file(*self._file)
            elif self._pieces or self._ended or (self._push and self._head is not None):
                await self._write_head()
                data = b"".join(self._pieces)
                self._pieces.clear()
                last = self._ended
                await self._send({"type": f"{self._ANSWER}body", "body": data, "more_body": not last})
                self._sent(len(data))
                if last:
                    return True
                await self._turn(len(data))
            else:
                return False
        return True

    async def _write_head(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            await self._send(head)

    def _sent(self, size: int) -> None:
        self._size -= size
        if self._full and self._size <= _LOW:
            self._full = False
            if self.exchange is not None and not self.exchange.finished:
                self.exchange.writable_again()

    async def _turn(self, size: int) -> None:
        """Sending may never wait: others are to have their turn, and the client's end is to be heard."""
        own = self.conn.owner.ticker
        own.credit -= size + _MESSAGE
        if own.credit < 0:
            await own.turn()

    async def _write_file(self, file: OpenFile, offset: int, count: int) -> None:
        exchange = self.exchange
        if exchange is None:
            raise RuntimeError("a file without an exchange")
        whole = offset == 0 and count == file.size and "http.response.pathsend" in self._extensions
        path = _path_of(file) if whole else None
        if path is not None:
            await self._send({"type": "http.response.pathsend", "path": path})
            exchange.body_sent += count
        else:
            while count:
                try:
                    data = os.pread(file.fd, min(count, _PIECE), offset)
                except OSError as error:
                    exchange.abort(f"{file.path} cannot be read: {error.strerror}")
                    return
                if not data:
                    exchange.abort(f"{file.path} became shorter while it was being sent")
                    return
                offset += len(data)
                count -= len(data)
                await self._send({"type": f"{self._ANSWER}body", "body": data, "more_body": bool(count)})
                exchange.body_sent += len(data)
                await self._turn(len(data))
        exchange.finished = True
        self._gone = True  # there is no more to do


def _path_of(file: OpenFile) -> str | None:
    """Where the server finds this very file; None: somebody has put another one there."""
    try:
        same = identity_of(os.stat(file.path)) == file.identity
    except OSError:
        return None
    return str(Path(file.path).absolute()) if same else None


def _too_long(limit: int) -> ProtocolError:
    return ProtocolError(f"content is longer than {limit} bytes", status=413, reason="long-content")


def _split(lines: bytes) -> Pairs:
    split = [line.partition(b":") for line in lines.split(b"\r\n") if line]
    return tuple((name.lower(), value.strip(b" \t")) for name, _, value in split)


_split_before = lru_cache(512)(_split)


def header_pairs(lines: bytes) -> Pairs:
    """Encoded header lines as pairs, names in lower case."""
    return _split_before(lines) if len(lines) <= _REMEMBERED else _split(lines)
