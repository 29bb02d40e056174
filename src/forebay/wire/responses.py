"""Reading HTTP/1.1 responses (RFC 9110, RFC 9112)."""

from __future__ import annotations

import httptools

from forebay.wire.heads import find_header
from forebay.wire.reader import CODING, LENGTH, Reader, Sink, learn, meanings

__all__ = ["ResponseReader"]


class ResponseReader(Reader):
    """Reads the responses of one connection, one :meth:`expect` before each.

    :param max_head: bytes of status line and headers together.
    :param max_count: header fields of one response.

    Attributes, valid during ``on_head``: ``status``, ``headers`` (the caller may keep the list), ``keep_alive``,
    ``content_length``, ``chunked``. Interim (1xx) responses call ``on_head`` only. ``idle`` is True between responses.
    """

    __slots__ = ("_head_only", "chunked", "content_length", "idle", "in_message", "keep_alive", "status")

    def __init__(self, sink: Sink, *, max_head: int = 65536, max_count: int = 200) -> None:
        super().__init__(sink, max_head, max_count)
        self._parser = httptools.HttpResponseParser(self)
        self.idle = True
        self.in_message = False  # something of the response has come, but not its end
        self._head_only = False
        self.keep_alive = True
        self.status = 0
        self.content_length: int | None = None
        self.chunked = False

    def expect(self, method: str) -> None:
        """The next response answers ``method``: one to HEAD has no body, whatever its headers say."""
        self.idle = False
        self._head_only = method == "HEAD"

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection.

        :raises ProtocolError: they are not acceptable.
        """
        self._feed(data)

    def eof(self) -> None:
        """The peer sends no more. Ends a body that is delimited by the end of the connection.

        :raises ProtocolError: the response is not complete.
        """
        if self.idle:
            return
        if self.status < 200 or self.chunked or self.content_length is not None:
            raise self._refuse("connection ended before the response did")
        self._finish()

    # -- what the parser calls

    def on_message_begin(self) -> None:
        if self.idle:
            raise self._refuse("bytes that no request asked for")
        self.in_message = True
        self.status = 0

    def on_headers_complete(self) -> None:
        self._progress += 1
        if len(self.headers) > self.max_count or self._stalled + self._fed > self.max_head:
            self._check_head(0)
        self.status = status = self._parser.get_status_code()
        if not 100 <= status <= 599:
            raise self._refuse(f"status {status} is none (RFC 9110 section 15)")
        self.content_length = None
        self.chunked = False
        for name, value in self.headers:
            meaning = meanings.get(name)
            if meaning is None:
                meaning = learn(name)
            if meaning == LENGTH:
                self.content_length = int(value)
            elif meaning == CODING:
                if value.strip(b" \t").lower() != b"chunked":
                    raise self._refuse("transfer coding other than chunked")
                self.chunked = True
        self.keep_alive = self._parser.should_keep_alive()
        if self._head_only and not self.keep_alive and self._parser.get_http_version() == "1.1":
            # llhttp takes a head without a length for one whose body ends with the connection
            self.keep_alive = b"close" not in (find_header(self.headers, b"connection") or b"").lower()
        self._sink.on_head()
        self.headers = []
        if self._head_only and status >= 200:
            self._finish()

    def on_body(self, data: bytes) -> None:
        if self.idle:
            raise self._refuse("a body where there must be none")
        self._progress += 1
        self._sink.on_body(data)

    def on_message_complete(self) -> None:
        self._progress += 1
        if self.headers:
            self.headers = []
        if self.status >= 200 and not self.idle:
            self._finish()

    def _finish(self) -> None:
        self.in_message = False
        self.idle = True
        if self._head_only:
            self._parser = httptools.HttpResponseParser(self)  # the old one waits for a body
        self._sink.on_end()
