"""One request and the answering of it: what the server hands to an application.

An *application* is anything with :meth:`Application.on_request`: the web framework's ``App``, the ASGI host and the
gateway's proxy are three. It is called on the loop, when the head of a request is complete, one request at a time per
connection, and answers then or later: with one :meth:`Exchange.respond` or :meth:`Exchange.respond_file`; with
:meth:`Exchange.start`, any number of :meth:`Exchange.write`, and :meth:`Exchange.finish`; or by taking the connection
for another protocol, with :meth:`Exchange.upgrade`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from forebay.engine.connection import CloseReason, Connection, ConnectionHandler
from forebay.engine.loop import now
from forebay.engine.open_file import OpenFile
from forebay.engine.settings import Outbound
from forebay.http.application import Application, Receiver
from forebay.http.content import BODY_BUFFER, Content
from forebay.http.problems import problem
from forebay.http.switching import switch_protocols
from forebay.wire import http1

if TYPE_CHECKING:
    from forebay.http.connection import HTTPConnection
    from forebay.http.request_hook import Hooks

__all__ = ["Application", "Exchange", "Receiver"]

_NO_BODY = frozenset((*range(100, 200), 204, 304))  # RFC 9110 section 6.4.1
_CLOSE = b"connection: close\r\n"
_KEEP = b"connection: keep-alive\r\n"  # only HTTP/1.0 needs to be told
_CHUNKED = b"transfer-encoding: chunked\r\n"
_LENGTHS = [http1.content_length(size) for size in range(4096)]
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NOBODY = Receiver()


class Exchange(msgspec.Struct, eq=False, gc=True):  # a Struct is made by C, and that once a request
    """One request and the answering of it.

    The request: ``method``; ``target`` and its parts ``raw_path`` and ``query`` (bytes, as received); ``headers``
    (pairs of bytes, as received); ``host`` (checked; empty only for HTTP/1.0); ``http11``; ``keep_alive`` (the client
    wants the connection to go on); ``content_length`` (None without one) and ``chunked``; ``upgrade_to`` (the protocol
    the client would rather speak, in lower case; empty without); ``received_at`` (loop time, seconds).

    The content: pieces wait in the exchange, up to 64 KiB and whatever came in the same read, until a receiver is
    attached; then reading goes on at the receiver's pace. ``body_complete`` is True from the start where the whole
    content came with the head.

    The answer: ``status`` (0 before it), ``started`` (its head is under way), ``finished``, and ``body_sent``, the
    bytes of content that were given to the connection. ``notes`` are the application's, for the access log.
    """

    link: HTTPConnection
    method: str
    target: bytes
    raw_path: bytes
    query: bytes
    fields: http1.Fields
    keep_alive: bool
    received_at: float
    content: Content | None = None
    status: int = 0
    finished: bool = False
    body_sent: int = 0
    deadline: float = inf
    """Loop time."""
    notes: dict[str, Any] | None = None
    hooks: Hooks | None = None
    """Those that add ``hook_lines`` to the answer's headers."""
    hook_lines: Sequence[bytes] = ()
    _receiver: Receiver = _NOBODY
    _left: int | None = None
    _chunked_out: bool = False

    def __repr__(self) -> str:
        state = "finished" if self.finished else "answering" if self.started else "waiting"
        return f"<Exchange {self.method} {self.target[:80]!r} {self.status or ''} {state}>"

    # -- the request

    @property
    def headers(self) -> http1.HeaderPairs:
        """Names and values as received."""
        return self.fields.headers

    @property
    def host(self) -> bytes:
        """What the client calls this server; empty only for HTTP/1.0."""
        return self.fields.host

    @property
    def http11(self) -> bool:
        """False for HTTP/1.0."""
        return self.fields.http11

    @property
    def content_length(self) -> int | None:
        """As announced; None when it was not."""
        return self.fields.content_length

    @property
    def chunked(self) -> bool:
        """Whether the content came, or comes, in chunks."""
        return self.fields.chunked

    @property
    def upgrade_to(self) -> bytes:
        """The value of ``Upgrade``, in lower case; empty where the request has none or cannot be upgraded: it must be
        a GET of HTTP/1.1 without content whose ``Connection`` lists ``upgrade``."""
        return self.fields.upgrade if self.method == "GET" else b""

    @property
    def path(self) -> str:
        """The path, percent-decoded; free of dot segments and NUL.

        :raises ProtocolError: it is not UTF-8.
        """
        return http1.decode_path(self.raw_path)

    @property
    def conn(self) -> Connection:
        """The connection the request came on: who is at its ends, and how it is encrypted."""
        return self.link.conn

    @property
    def client(self) -> str:
        """The IP address at the other end of the connection; ``unix`` for a UNIX socket."""
        return self.link.conn.peer_host

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return self.link.scheme

    @property
    def root_path(self) -> str:
        """Where the application is mounted, for links to itself: ``raw_path`` begins behind it. Empty on our server."""
        return ""

    @property
    def has_body(self) -> bool:
        """Whether content follows the head."""
        return self.content is not None

    def header(self, name: bytes) -> bytes | None:
        """The first value of ``name``, which is given in lower case; None without one."""
        first = self.fields.first
        return http1.find_header(self.fields.headers, name) if first is None else first.get(name)

    # -- the content of the request

    @property
    def body_complete(self) -> bool:
        """Whether all of the content has come."""
        return self.content is None or self.content.complete

    @property
    def body_received(self) -> int:
        """Bytes of content that have come."""
        return 0 if self.content is None else self.content.received

    @property
    def trailers(self) -> http1.HeaderPairs:
        """Trailer fields, once ``body_complete``. Those that RFC 9110 section 6.5.1 forbids are left out."""
        return () if self.content is None else self.content.trailers

    def take_body(self) -> bytes:
        """The whole content, once; only when ``body_complete``."""
        content = self.content
        if content is None or not content.chunks:
            return b""
        chunks, content.chunks = content.chunks, None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def attach(self, receiver: Receiver, *, content: bool = True) -> None:
        """Give the content to ``receiver``, what waits already at once, and tell it of the client.

        Asks for the content, where the client waits to be asked (``Expect: 100-continue``).

        :param content: False: only tell it of the client for now; the content waits until it is attached once more.
        """
        if self.finished:
            return
        self._receiver = receiver
        if not content:
            return
        body = self.content
        if body is None:
            receiver.on_body_end()
            return
        body.wanted = True
        if body.expects and not self.status:
            body.expects = False
            if not body.received and not body.complete:
                self.link.send(_CONTINUE)
                self.link.flush()
        chunks, body.chunks = body.chunks, None
        if chunks:
            self.link.resume_body()  # before the receiver gets them: it may pause
            for chunk in chunks:
                receiver.on_body(chunk)
        if body.complete:
            receiver.on_body_end()

    def pause_body(self) -> None:
        """Stop reading from the client until :meth:`resume_body`; a few pieces may still come."""
        if not self.body_complete:
            self.link.pause_body()

    def resume_body(self) -> None:
        """Read on."""
        if not self.body_complete:
            self.link.resume_body()

    # -- the answer

    @property
    def started(self) -> bool:
        """Whether an answer was begun."""
        return self.status != 0

    def respond(self, status: int, headers: bytes, body: bytes, *, date: bool = True) -> None:
        """The whole answer at once.

        :param headers: encoded lines (:func:`forebay.wire.http1.encode_headers`), without those the server sets:
            ``content-length``, ``transfer-encoding``, ``connection``, ``date``, ``server``.
        :param body: left out where the method or status forbids one (RFC 9110 section 6.4.1).
        :param date: add ``date`` and ``server``; False when ``headers`` has them.
        :raises RuntimeError: an answer was begun already.
        :raises KeyError: a status that is none (100 to 599). Nothing is sent then.
        """
        if self.status:
            raise RuntimeError(f"{self!r} is answered already")
        link = self.link
        if self.hooks is not None:
            headers = self.hooks.add_to(headers, self.hook_lines)
        size = len(body)
        if status in _NO_BODY:
            length = body = b""
        elif status == 205:  # RFC 9110 section 15.3.6
            length, body = http1.content_length(0), b""
        else:
            length = _LENGTHS[size] if size < 4096 else http1.content_length(size)
            if self.method == "HEAD":
                body = b""
        lines = link.server.date_lines if date else b""
        if self.content is None and self.keep_alive and not link.last and self.fields.http11:
            data = b"".join((http1.STATUS_LINES[status], headers, length, lines, b"\r\n", body))
        else:
            data = b"".join((http1.STATUS_LINES[status], headers, length, lines, self._going_on(), b"\r\n", body))
        self.status = status  # from here on nothing fails
        self.body_sent = len(body)
        self._receiver = _NOBODY  # it knows us, and a cycle would wait for the collector
        link.finished(self, data)

    def respond_file(
        self, status: int, headers: bytes, file: OpenFile, offset: int, count: int, *, date: bool = True
    ) -> None:
        """The whole answer at once, with a part of a file for its content, which goes from the page cache to the socket
        at the pace of the client. The file is held until then; one that becomes shorter breaks the answer off.

        :param headers: and ``date``: as for :meth:`respond`.
        :param offset: bytes to leave out at the file's start.
        :param count: bytes to send.
        :raises RuntimeError: an answer was begun already.
        """
        self.start(status, headers, count, date=date)
        if self._left:
            self._left = 0
            self._receiver = _NOBODY
            self.link.send_file(self, file, offset, count)
        else:
            self.finish()

    def start(self, status: int, headers: bytes, length: int | None, *, date: bool = True) -> None:
        """Begin an answer whose content follows in :meth:`write`. The head leaves with the first piece, or with
        :meth:`flush`.

        :param headers: as for :meth:`respond`.
        :param length: bytes of content to come; None when unknown: chunked then, or ended by closing (HTTP/1.0).
        :param date: add ``date`` and ``server``; False when ``headers`` has them.
        :raises RuntimeError: an answer was begun already.
        """
        if self.status:
            raise RuntimeError(f"{self!r} is answered already")
        link = self.link
        if self.hooks is not None:
            headers = self.hooks.add_to(headers, self.hook_lines)
        self._left = None
        self._chunked_out = False
        if status == 205:
            length = 0
        if status in _NO_BODY:
            framing = http1.content_length(length) if status == 304 and length is not None else b""
            self._left = 0
        elif length is not None:
            framing = http1.content_length(length)
            self._left = length
        elif self.fields.http11:
            framing = _CHUNKED
            self._chunked_out = True
        else:
            framing = b""
            self.keep_alive = False
        if self.method == "HEAD":
            self._left = 0
            self._chunked_out = False
        plain = self.keep_alive and self.content is None and self.fields.http11 and not link.last
        connection = b"" if plain else self._going_on()
        lines = link.server.date_lines if date else b""
        data = b"".join((http1.STATUS_LINES[status], headers, framing, lines, connection, b"\r\n"))
        self.status = status
        link.send(data)

    def interim(self, status: int, headers: bytes) -> None:
        """An interim answer, such as 103 (RFC 9110 section 15.2). Left out for HTTP/1.0, and after the final one.

        :raises ValueError: the status is not 100 to 199, or is 101, which is :meth:`upgrade`'s.
        """
        if not 100 <= status <= 199 or status == 101:
            raise ValueError(f"interim status {status}: must be 100 to 199, and not 101")
        if self.fields.http11 and not self.status and not self.finished:
            self.link.send(b"".join((http1.STATUS_LINES[status], headers, b"\r\n")))
            self.link.flush()

    def write(self, data: bytes) -> bool:
        """The next piece of the content. It is left out where the answer must have none.

        :returns: False when the client is slow: the rest should wait for :meth:`Receiver.on_writable`. What is written
            anyway is kept, so whoever does not wait has no bound on memory.
        :raises ValueError: more than the announced length.
        """
        if self.finished:
            return False
        self._check_begun()
        link = self.link
        left = self._left
        if left is not None:
            if not left and (self.method == "HEAD" or self.status in _NO_BODY or self.status == 205):
                return True
            if len(data) > left:
                raise ValueError(f"{self!r}: {len(data) - left} bytes more than the announced length")
            self._left = left - len(data)
            link.send(data)
        elif self._chunked_out:
            link.send(http1.encode_chunk(data))
        else:
            link.send(data)
        self.body_sent += len(data)
        return link.flush()

    def flush(self) -> None:
        """Send what :meth:`start` has prepared, before there is any content."""
        self.link.flush()

    def finish(self, trailers: bytes = b"") -> None:
        """The answer is complete. One that is shorter than announced is cut, so that the client notices.

        :param trailers: encoded lines, sent behind chunked content and dropped behind any other.
        """
        if self.finished:
            return
        self._check_begun()
        if self._left:
            self.abort(f"the content ended {self._left} bytes before its announced length")
            return
        if self._chunked_out:
            self.link.send(b"0\r\n%b\r\n" % trailers if trailers else http1.LAST_CHUNK)
        self._receiver = _NOBODY
        self.link.finished(self)

    def _check_begun(self) -> None:
        if not self.status:
            raise RuntimeError(f"{self!r}: no answer was begun")

    def abort(self, reason: str) -> None:
        """The answer cannot be completed: cut the connection, so that the client notices. Logged."""
        if not self.finished:
            self.link.cut(self, reason)

    def fail(self, reason: str) -> None:
        """The application has failed: answer 500, or cut what was begun."""
        if self.finished:
            return
        if self.status:
            self.abort(reason)
        else:
            self.respond(*problem(500))

    def upgrade(self, headers: bytes, handler: ConnectionHandler, *, outbound: Outbound | None = None) -> Connection:
        """Answer ``101 Switching Protocols`` and give the connection to ``handler`` (RFC 9110 section 7.8).

        Its ``on_open`` is called, and ``on_message`` with what came behind the request; then it has the connection to
        itself, timeouts included.

        :param headers: encoded lines, ``connection`` and ``upgrade`` among them.
        :param outbound: how much may wait to be sent from now on, instead of what the server says.
        :return: the connection.
        :raises RuntimeError: an answer was begun already, or :attr:`upgrade_to` is empty.
        """
        if self.status or self.finished:
            raise RuntimeError(f"{self!r} is answered already")
        if not self.upgrade_to:
            raise RuntimeError(f"{self!r} did not ask for an upgrade")
        self.status = 101
        self._receiver = _NOBODY
        return switch_protocols(self.link, self, headers, handler, outbound)

    def expire_in(self, seconds: float | None) -> None:
        """Set the deadline of the answer, at most 200 ms late; None: none. See :meth:`Receiver.on_deadline`."""
        self.deadline = inf if seconds is None else now() + seconds
        if seconds is not None and not self.finished:
            self.link.expire(self)

    def _going_on(self) -> bytes:
        """The ``connection`` line, where one is needed: will there be another request after this one?"""
        if self.keep_alive and not self.link.last and (self.body_complete or self._rest_is_small()):
            return b"" if self.fields.http11 else _KEEP
        self.keep_alive = False
        return _CLOSE

    def _rest_is_small(self) -> bool:
        """Whether reading an unwanted content to its end costs less than a new connection."""
        content, length = self.content, self.fields.content_length
        if content is None or content.expects:
            return False  # it may never come, now that it was answered without being asked for
        return length is not None and length - content.received <= BODY_BUFFER

    # -- what the server calls

    def body_arrived(self, data: bytes) -> bool:
        """Take a piece of the content. False: that is enough for now."""
        content = self.content
        if content is None:
            return True
        content.received += len(data)
        if self.finished:
            return True  # thrown away
        if content.wanted:
            self._receiver.on_body(data)
            return True
        if content.chunks is None:
            content.chunks = [data]
        else:
            content.chunks.append(data)
        return content.received < BODY_BUFFER

    def body_ended(self, trailers: http1.HeaderPairs) -> None:
        """The content is complete."""
        content = self.content
        if content is None:
            return
        content.complete = True
        content.trailers = trailers
        if content.wanted and not self.finished:
            self._receiver.on_body_end()

    def writable_again(self) -> None:
        """The client reads again."""
        self._receiver.on_writable()

    def expired(self) -> None:
        """The deadline is over."""
        self.deadline = inf
        receiver = self._receiver
        receiver.on_deadline()
        if self.finished:
            return
        if self.status:
            self.abort("its deadline is over")
        else:
            self.respond(*problem(504))
        receiver.on_disconnect(CloseReason.TIMEOUT)

    def drained(self) -> None:
        """The server drains, and this is the last answer on its connection."""
        self._receiver.on_drain()

    def awaits_chunk(self) -> bool:
        """Whether the client waits for the beginning of the next chunk."""
        return self.status != 0 and self._chunked_out

    def disconnected(self, reason: CloseReason) -> None:
        """Nothing can be answered any more."""
        self.finished = True
        if self.content is not None:
            self.content.chunks = None
        receiver, self._receiver = self._receiver, _NOBODY
        receiver.on_disconnect(reason)
