"""What a test client is answered."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from forebay.errors import ForebayError
from forebay.http.client.event_reader import EventReader, ServerSentEvent
from forebay.http.client.url import URL
from forebay.http.cookies import Cookies
from forebay.http.headers import Headers
from forebay.testing.client_connection import ClientConnection, waiting

__all__ = ["ClientResponse"]

_CHARSET = re.compile(r"""charset=["']?([^\s"';]+)""", re.IGNORECASE)


class ClientResponse:
    """A response. ``status``; ``headers``; ``method`` and ``url`` of its request; ``interim``, the answers before it
    (1xx) as status and headers; ``history``, the redirects that led to it.

    The content is as it was sent: nothing is decompressed. Under :meth:`TestClient.stream` it is taken piece by piece,
    or by :meth:`read`.
    """

    __slots__ = (
        "_body", "_link", "_max_body", "_number", "_raises", "_taken", "_timeout", "headers", "history", "interim",
        "method", "status", "url",
    )  # fmt: skip

    def __init__(
        self,
        link: ClientConnection,
        method: str,
        url: URL,
        history: list[ClientResponse],
        timeout: float,
        max_body: int,
        raise_errors: bool,
    ) -> None:
        self._link = link
        self._number = link.number
        self._timeout = timeout
        self._max_body = max_body
        self._raises = raise_errors
        self._body: bytes | None = None
        self._taken = False
        self.method = method
        self.url = str(url)
        self.status = link.status
        self.headers = Headers(link.headers)
        self.interim = link.interim
        self.history = history

    def __repr__(self) -> str:
        return f"<ClientResponse {self.status} {self.method} {self.url}>"

    @property
    def cookies(self) -> Cookies:
        """The cookies that this response sets, by name; those it deletes have the value ""."""
        pairs = (line.partition(";")[0].partition("=") for line in self.headers.get_all("set-cookie"))
        return {name.strip(" \t"): value.strip(" \t") for name, _, value in pairs}

    # The whole content

    @property
    def body(self) -> bytes:
        """The content.

        :raises RuntimeError: it was not read to its end.
        """
        if self._body is None:
            raise RuntimeError(f"{self!r}: its content was not read; await response.read()")
        return self._body

    @property
    def text(self) -> str:
        """The content in the charset it says, else UTF-8.

        :raises UnicodeDecodeError: it is not.
        :raises LookupError: there is no such charset.
        """
        found = _CHARSET.search(self.headers.get("content-type", ""))
        return self.body.decode(found[1] if found else "utf-8")

    def json(self, kind: Any = Any) -> Any:
        """The content as JSON of type ``kind``.

        :raises msgspec.DecodeError: it is not.
        """
        return msgspec.json.decode(self.body, type=kind)

    def msgpack(self, kind: Any = Any) -> Any:
        """The content as MessagePack of type ``kind``.

        :raises msgspec.DecodeError: it is not.
        """
        return msgspec.msgpack.decode(self.body, type=kind)

    async def read(self, timeout: float | None = None) -> bytes:
        """The whole content. It may be asked for again.

        :param timeout: seconds for all of it; ``None``: the request's.
        :raises DeadlineExceeded: it took longer.
        :raises UpstreamClosed: the connection ended before it did.
        :raises RuntimeError: pieces of it were taken.
        """
        return await self.read_rest(self._timeout if timeout is None else timeout)

    async def read_rest(self, timeout: float, of: float | None = None) -> bytes:
        """The same, in the ``timeout`` seconds that are left of ``of``."""
        if self._body is None:
            link = self._begin()
            async with self._within(timeout, "its content was not complete", of):
                pieces = []
                size = 0
                while piece := await self._piece(link):
                    pieces.append(piece)
                    size += len(piece)
                    if size > self._max_body:
                        raise ForebayError(f"{link.name}: the content is longer than max_body, {self._max_body} bytes")
            self._body = b"".join(pieces)
        return self._body

    # Piece by piece

    async def stream(self, timeout: float | None = None) -> AsyncIterator[bytes]:
        """The content, piece by piece as it comes; once. The server waits while nobody asks.

        :param timeout: seconds for each piece; ``None``: the request's.
        :raises DeadlineExceeded: one took longer.
        :raises UpstreamClosed: the connection ended before the content did.
        """
        link = self._begin()
        while True:
            async with self._within(timeout, "no more of its content came"):
                piece = await self._piece(link)
            if not piece:
                return
            yield piece

    async def events(self, timeout: float | None = None) -> AsyncIterator[ServerSentEvent]:
        """The server-sent events in the content, as they come; once.

        :param timeout: seconds for each event, however many heartbeats come meanwhile; ``None``: the request's.
        :raises DeadlineExceeded: one took longer.
        :raises UpstreamClosed: the connection ended before the content did.
        :raises ValueError: the content is no ``text/event-stream``, or an event is longer than 1 Mi characters.
        """
        kind = self.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "text/event-stream":
            raise ValueError(f"{self!r}: its content-type is {kind!r}, not text/event-stream")
        link = self._begin()
        reader = EventReader()
        while True:
            events: list[ServerSentEvent] = []
            async with self._within(timeout, "no event came"):
                while not events:
                    piece = await self._piece(link)
                    if not piece:
                        return
                    events = reader.feed(piece)
            for event in events:
                yield event

    def _begin(self) -> ClientConnection:
        link = self._link
        if self._taken or not link.serves(self._number):
            raise RuntimeError(f"{self!r}: its content was taken, or left, already")
        self._taken = True
        return link

    def _within(self, timeout: float | None, what: str, of: float | None = None) -> AbstractAsyncContextManager[None]:
        link = self._link
        return waiting(
            self._timeout if timeout is None else timeout,
            lambda: f"{self.method} {self.url}: {what} ({link.received} bytes so far)",
            of=of,
        )

    async def _piece(self, link: ClientConnection) -> bytes:
        try:
            piece = await link.piece()
        except ForebayError as error:
            self._check(link, error)
            raise
        if not piece:
            self._check(link)
        return piece

    def _check(self, link: ClientConnection, error: ForebayError | None = None) -> None:
        """Raise what the application has raised, in place of ``error``."""
        if self._raises and link.failure is not None and link.failure is not error:
            raise link.failure from None
