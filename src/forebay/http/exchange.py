"""One request and the answering of it: what the server hands to an application.

An *application* is anything with :meth:`Application.on_request`: the web framework's ``App`` and the gateway's proxy
are two. It is called on the loop, when the head of a request is complete, one request at a time per connection, and
answers then or later: with one :meth:`Exchange.respond`, or with :meth:`Exchange.start`, any number of
:meth:`Exchange.write`, and :meth:`Exchange.finish`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from forebay.engine.connection import CloseReason
from forebay.wire import http1

if TYPE_CHECKING:
    from forebay.http.connection import HTTPConnection

__all__ = ["Application", "Exchange", "Receiver"]

BODY_BUFFER = 65536
"""Bytes of a request body that wait for a receiver, or are read to be thrown away; past it, reading pauses."""

_NO_BODY = frozenset((*range(100, 200), 204, 304))  # RFC 9110 section 6.4.1
_CLOSE = b"connection: close\r\n"
_KEEP = b"connection: keep-alive\r\n"  # only HTTP/1.0 needs to be told
_CHUNKED = b"transfer-encoding: chunked\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Receiver:
    """Consumes a request's body and hears about its client. Every method may be left as it is.

    All are called on the loop, and none after the exchange is finished.
    """

    __slots__ = ()

    def on_body(self, data: bytes) -> None:
        """The next piece of the content."""

    def on_body_end(self) -> None:
        """The content is complete."""

    def on_writable(self) -> None:
        """The client reads again, after :meth:`Exchange.write` had returned False."""

    def on_disconnect(self, reason: CloseReason) -> None:
        """The client is gone, or broke the body's framing, or the server stops. Nothing can be answered any more."""


class Application(Protocol):
    """What an HTTP server serves."""

    name: str
    body_limit: int | None
    """Bytes of a request's content that are accepted (413 beyond it); None: any number."""

    def on_request(self, exchange: Exchange) -> None:
        """Answer ``exchange``, now or later. Must not block; an exception is logged and answered with 500."""


_NOBODY = Receiver()


class Exchange:
    """One request and the answering of it.

    The request: ``method``; ``target`` and its parts ``raw_path`` and ``query`` (bytes, as received); ``headers``
    (pairs of bytes, as received); ``host`` (checked; empty only for HTTP/1.0); ``http11``; ``keep_alive`` (the client
    wants the connection to go on); ``content_length`` (None without one) and ``chunked``; ``received_at`` (loop time,
    seconds).

    The content: pieces wait in the exchange, up to 64 KiB and whatever came in the same read, until a receiver is
    attached; then reading goes on at the receiver's pace. ``body_complete`` is True from the start where the whole
    content came with the head.

    The answer: ``status`` (0 before it), ``started`` (its head is under way) and ``finished``.
    """

    __slots__ = (
        "_chunked_out",
        "_chunks",
        "_expects",
        "_left",
        "_link",
        "_receiver",
        "body_complete",
        "body_received",
        "chunked",
        "content_length",
        "finished",
        "headers",
        "host",
        "http11",
        "keep_alive",
        "method",
        "query",
        "raw_path",
        "received_at",
        "started",
        "status",
        "target",
    )

    def __init__(self, link: HTTPConnection, head: http1.RequestReader, received_at: float) -> None:
        self._link = link
        self.method = head.method
        self.target = head.target
        self.raw_path = head.raw_path
        self.query = head.query
        self.headers = head.headers
        self.host = head.host
        self.http11 = head.http11
        self.keep_alive = head.keep_alive
        self.content_length = head.content_length
        self.chunked = head.chunked
        self._expects = head.expect_continue
        self.received_at = received_at
        self.body_complete = False
        self.body_received = 0
        self._chunks: list[bytes] | None = None
        self._receiver: Receiver = _NOBODY
        self.status = 0
        self.started = False
        self.finished = False
        self._chunked_out = False
        self._left: int | None = None

    def __repr__(self) -> str:
        state = "finished" if self.finished else "answering" if self.started else "waiting"
        return f"<Exchange {self.method} {self.target[:80]!r} {self.status or ''} {state}>"

    @property
    def path(self) -> str:
        """The path, percent-decoded; free of dot segments and NUL.

        :raises ProtocolError: it is not UTF-8.
        """
        return http1.decode_path(self.raw_path)

    @property
    def client(self) -> str:
        """The IP address at the other end of the connection."""
        return self._link.conn.peer_host

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return self._link.scheme

    @property
    def has_body(self) -> bool:
        """Whether content follows the head."""
        return self.chunked or bool(self.content_length)

    def header(self, name: bytes) -> bytes | None:
        """The first value of ``name``, which is given in lower case; None without one."""
        return http1.find_header(self.headers, name)

    # -- the content of the request

    def take_body(self) -> bytes:
        """The whole content, once; only when ``body_complete``."""
        chunks, self._chunks = self._chunks, None
        if not chunks:
            return b""
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def attach(self, receiver: Receiver) -> None:
        """Give the content to ``receiver``, what waits already at once, and tell it of the client.

        Asks for the content, where the client waits to be asked (``Expect: 100-continue``).
        """
        self._receiver = receiver
        if self._expects and not self.started:
            self._expects = False
            if not self.body_received and not self.body_complete:
                self._link.send(_CONTINUE)
                self._link.flush()
        chunks, self._chunks = self._chunks, None
        if chunks:
            self._link.resume_body()  # before the receiver gets them: it may pause
            for chunk in chunks:
                receiver.on_body(chunk)
        if self.body_complete:
            receiver.on_body_end()

    def pause_body(self) -> None:
        """Stop reading from the client until :meth:`resume_body`; a few pieces may still come."""
        if not self.body_complete:
            self._link.pause_body()

    def resume_body(self) -> None:
        """Read on."""
        if not self.body_complete:
            self._link.resume_body()

    # -- the answer

    def respond(self, status: int, headers: bytes, body: bytes, *, date: bool = True) -> None:
        """The whole answer at once.

        :param headers: encoded lines (:func:`forebay.wire.http1.encode_headers`), without those the server sets:
            ``content-length``, ``transfer-encoding``, ``connection``, ``date``, ``server``.
        :param body: left out where the method or status forbids one (RFC 9110 section 6.4.1).
        :param date: add ``date`` and ``server``; False when ``headers`` has them.
        :raises RuntimeError: an answer was begun already.
        :raises KeyError: a status that is none (100 to 599). Nothing is sent then.
        """
        if self.started:
            raise RuntimeError(f"{self!r} is answered already")
        link = self._link
        if status in _NO_BODY:
            length = body = b""
        else:
            length = http1.content_length(len(body))
            if self.method == "HEAD":
                body = b""
        plain = self.http11 and self.keep_alive and self.body_complete and not link.last
        connection = b"" if plain else self._going_on()
        lines = link.server.date_lines if date else b""
        data = b"".join((http1.STATUS_LINES[status], headers, length, lines, connection, b"\r\n", body))
        self.started = True  # from here on nothing fails
        self.status = status
        link.send(data)
        self._receiver = _NOBODY  # it knows us, and a cycle would wait for the collector
        link.finished(self)

    def start(self, status: int, headers: bytes, length: int | None, *, date: bool = True) -> None:
        """Begin an answer whose content follows in :meth:`write`. The head leaves with the first piece, or with
        :meth:`flush`.

        :param headers: as for :meth:`respond`.
        :param length: bytes of content to come; None when unknown: chunked then, or ended by closing (HTTP/1.0).
        :param date: add ``date`` and ``server``; False when ``headers`` has them.
        :raises RuntimeError: an answer was begun already.
        """
        if self.started:
            raise RuntimeError(f"{self!r} is answered already")
        link = self._link
        if status in _NO_BODY:
            framing = http1.content_length(length) if status == 304 and length is not None else b""
            self._left = 0
        elif length is not None:
            framing = http1.content_length(length)
            self._left = length
        elif self.http11:
            framing = _CHUNKED
            self._chunked_out = True
        else:
            framing = b""
            self.keep_alive = False
        if self.method == "HEAD":
            self._left = 0
            self._chunked_out = False
        plain = self.http11 and self.keep_alive and self.body_complete and not link.last
        connection = b"" if plain else self._going_on()
        lines = link.server.date_lines if date else b""
        data = b"".join((http1.STATUS_LINES[status], headers, framing, lines, connection, b"\r\n"))
        self.started = True
        self.status = status
        link.send(data)

    def interim(self, status: int, headers: bytes) -> None:
        """An interim answer, such as 103 (RFC 9110 section 15.2). Left out for HTTP/1.0."""
        if self.http11 and not self.started:
            self._link.send(b"".join((http1.STATUS_LINES[status], headers, b"\r\n")))
            self._link.flush()

    def write(self, data: bytes) -> bool:
        """The next piece of the content. It is left out where the answer must have none.

        :returns: False when the client is slow: the rest should wait for :meth:`Receiver.on_writable`. What is written
            anyway is kept, so whoever does not wait has no bound on memory.
        :raises ValueError: more than the announced length.
        """
        if self.finished:
            return False
        link = self._link
        left = self._left
        if left is not None:
            if not left and (self.method == "HEAD" or self.status in _NO_BODY):
                return True
            if len(data) > left:
                raise ValueError(f"{self!r}: {len(data) - left} bytes more than the announced length")
            self._left = left - len(data)
            link.send(data)
        elif self._chunked_out:
            link.send(http1.encode_chunk(data))
        elif self.method != "HEAD":
            link.send(data)
        return link.flush()

    def flush(self) -> None:
        """Send what :meth:`start` has prepared, before there is any content."""
        self._link.flush()

    def finish(self) -> None:
        """The answer is complete. One that is shorter than announced is cut, so that the client notices."""
        if self.finished:
            return
        if self._left:
            self.abort(f"the content ended {self._left} bytes before its announced length")
            return
        if self._chunked_out:
            self._link.send(http1.LAST_CHUNK)
        self._receiver = _NOBODY
        self._link.finished(self)

    def abort(self, reason: str) -> None:
        """The answer cannot be completed: cut the connection, so that the client notices. Logged."""
        if not self.finished:
            self._link.cut(self, reason)

    def _going_on(self) -> bytes:
        """The ``connection`` line, where one is needed: will there be another request after this one?"""
        if self.keep_alive and not self._link.last and (self.body_complete or self._rest_is_small()):
            return b"" if self.http11 else _KEEP
        self.keep_alive = False
        return _CLOSE

    def _rest_is_small(self) -> bool:
        """Whether reading an unwanted content to its end costs less than a new connection."""
        if self._expects:
            return False  # it may never come, now that it was answered without being asked for
        return self.content_length is not None and self.content_length - self.body_received <= BODY_BUFFER

    # -- what the server calls

    def body_arrived(self, data: bytes) -> bool:
        """Take a piece of the content. False: that is enough for now."""
        self.body_received += len(data)
        if self.finished:
            return True  # thrown away
        if self._receiver is not _NOBODY:
            self._receiver.on_body(data)
            return True
        if self._chunks is None:
            self._chunks = [data]
        else:
            self._chunks.append(data)
        return self.body_received < BODY_BUFFER

    def body_ended(self) -> None:
        """The content is complete."""
        self.body_complete = True
        if self._receiver is not _NOBODY and not self.finished:
            self._receiver.on_body_end()

    def writable_again(self) -> None:
        """The client reads again."""
        self._receiver.on_writable()

    def disconnected(self, reason: CloseReason) -> None:
        """Nothing can be answered any more."""
        self.finished = True
        self._chunks = None
        receiver, self._receiver = self._receiver, _NOBODY
        receiver.on_disconnect(reason)
