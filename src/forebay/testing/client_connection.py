"""A test client's side of an HTTP connection: one request after the other, through the engine's own connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from forebay.engine.connection import CloseReason, Connection, ConnectionHandler
from forebay.engine.loop import timeout as within
from forebay.engine.tasks import Gate, Task, start_task, unfinished
from forebay.errors import (
    ConnectFailed,
    ConnectionClosed,
    DeadlineExceeded,
    ProtocolError,
    UpstreamClosed,
    UpstreamProtocolError,
)
from forebay.http.client.content import Content
from forebay.http.headers import Headers
from forebay.testing.memory_server import MemoryServer, ended, server_end
from forebay.wire.heads import LAST_CHUNK, HeaderPairs, encode_chunk
from forebay.wire.responses import ResponseReader

__all__ = ["ClientConnection", "Pool", "waiting"]

_HIGH = 64 * 1024  # bytes of content that wait to be taken, past which the server waits
_CANCEL_TIMEOUT = 1.0  # seconds for the source of a request's content to end
_INTERIM_AT_MOST = 100  # answers before the answer


@asynccontextmanager
async def waiting(seconds: float, what: Callable[[], str], *, of: float | None = None) -> AsyncIterator[None]:
    """Do what is inside in so many seconds.

    :param what: says what was waited for.
    :param of: the seconds of which these are the rest; the error names them.
    :raises DeadlineExceeded: it took longer.
    """
    try:
        async with within(seconds) as deadline:
            yield
    except TimeoutError:
        if not deadline.expired():
            raise  # somebody else's
        raise DeadlineExceeded(f"{what()} within {seconds if of is None else of:g} s") from None


class ClientConnection(ConnectionHandler):
    """One connection to the server. ``failure`` is what the application raised for the request under way."""

    conn: Connection

    def __init__(self, pool: Pool, *, secure: bool) -> None:
        self._pool = pool
        self._reader = ResponseReader(self)
        self._news = Gate()  # something has changed for whoever waits
        self._sending: Task[None] | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._error: BaseException | None = None
        self._complete = True
        self._used = False  # somebody waits for the response, or for its content
        self.number = 0  # of the request under way
        self.secure = secure
        self.failure: BaseException | None = None
        self.name = ""  # of the request
        self.status = 0
        self.headers: HeaderPairs = ()
        self.interim: list[tuple[int, Headers]] = []
        self.received = 0  # bytes of content

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        conn = self.conn
        if not (self._complete and self._reader.keep_alive) or conn.closing or conn.write_buffer_size():
            return False
        return not server_end(conn).is_closing()

    def serves(self, number: int) -> bool:
        """Whether the request of that number is still under way."""
        return self._used and number == self.number

    # What the client calls

    def begin(self, name: str, method: str, head: bytes, content: Content, *, chunked: bool) -> None:
        """Send a request.

        :param name: what it is called in errors.
        :param chunked: whether content that comes piece by piece is sent in chunks.
        """
        self.name = name
        self.number += 1
        self.status = self.received = 0
        self.headers = ()
        self.interim = []
        self.failure = self._error = None
        self._complete = False
        self._used = True
        self._reader.expect(method)
        data = content.data
        if data is not None:
            self.conn.write(head + data if len(data) < _HIGH else head)
            if len(data) >= _HIGH:
                self.conn.write(data)
        else:
            self.conn.write(head)
            self._sending = start_task(self._send(content, chunked), f"content of {name}")

    async def _send(self, content: Content, chunked: bool) -> None:
        pieces = content.pieces()
        try:
            async for data in pieces:
                await self.conn.send(encode_chunk(data) if chunked else data)
            if chunked:
                await self.conn.send(LAST_CHUNK)
        except ConnectionClosed as error:
            if not self.conn.closing:
                self._failed(error)  # it is another connection that is closed
        except Exception as error:
            self._failed(error)
        finally:
            await pieces.aclose()

    def _failed(self, error: BaseException) -> None:
        if self._error is None and not self._complete:
            self._error = error
        self.conn.abort()

    async def head(self) -> None:
        """Wait for the head of the answer.

        :raises UpstreamClosed: the connection ended before it.
        :raises UpstreamProtocolError: it is not well-formed.
        """
        while not self.status:
            await self._more()

    async def piece(self) -> bytes:
        """The next piece of the content; empty at its end.

        :raises UpstreamClosed: and UpstreamProtocolError: as for :meth:`head`.
        """
        while not self._pieces:
            if self._complete:
                return b""
            await self._more()
        pieces, self._pieces = self._pieces, []
        self._size = 0
        self.conn.resume_reading()
        return b"".join(pieces)

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._news.close()
        await self._news.wait()

    async def leave(self) -> None:
        """The request is over, for the client: let the connection be used again, or cut it. When this returns the
        server knows."""
        sending, self._sending = self._sending, None
        self._used = False
        if sending is not None and not sending.done():
            self._complete = False  # what follows would be taken for the rest
        self._pieces.clear()
        self._size = 0
        if self.usable:
            self.conn.resume_reading()
            self._pool.give(self)
        else:
            self.close()
        if sending is not None:
            sending.cancel()
            await unfinished([sending], _CANCEL_TIMEOUT)
        if self.conn.closing:
            await ended(self.conn)

    def close(self) -> None:
        """Close the connection; cut it where it is in use."""
        if self._complete and not self.conn.write_buffer_size():
            self.conn.close()
        else:
            self.conn.abort()

    # What the connection calls

    def on_open(self, conn: Connection) -> None:
        self.conn = conn
        conn.state = self

    def on_message(self, conn: Connection, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except ProtocolError as error:
            self._failed(UpstreamProtocolError(f"{self.name}: the response is not well-formed: {error}"))
            self._news.open()

    def on_eof(self, conn: Connection) -> bool:
        try:
            self._reader.eof()
        except ProtocolError:
            self._closed()
        return False

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        if not self._complete:
            self._closed()
        self._news.open()
        self._pool.lost(self)

    def _closed(self) -> None:
        if self._error is None:
            what = f"after {self.received} bytes of its content" if self.status else "before its head"
            self._error = UpstreamClosed(f"{self.name}: the server closed the connection {what}")
        self._news.open()

    # What the reader calls

    def on_head(self) -> None:
        reader = self._reader
        if reader.status >= 200:
            self.status = reader.status
            self.headers = reader.headers
            self._news.open()
        elif len(self.interim) < _INTERIM_AT_MOST:
            self.interim.append((reader.status, Headers(reader.headers)))

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        self.received += len(data)
        if self._size >= _HIGH:
            self.conn.pause_reading()
        self._news.open()

    def on_end(self) -> None:
        self._complete = True
        self._news.open()


class Pool:
    """The connections of one client.

    :param client: the address the server sees.
    :param most: open at once; who needs one more waits.
    """

    def __init__(self, server: MemoryServer, client: str, most: int) -> None:
        self._server = server
        self._client = client
        self._idle: list[ClientConnection] = []  # the one used last is last
        self._all: set[ClientConnection] = set()
        self._room = Gate()
        self._closed = False
        self.most = most

    def __len__(self) -> int:
        return len(self._all)

    async def take(self, port: int, *, secure: bool) -> ClientConnection:
        """A connection that nobody uses; waits while there are too many.

        :raises ConnectFailed: the server takes none.
        """
        while True:
            if self._closed:
                raise ConnectFailed("the TestClient is being left")
            for link in reversed(self._idle):
                if link.secure == secure and link.usable:
                    self._idle.remove(link)
                    return link
            if self._idle and len(self._all) >= self.most:
                link = self._idle.pop(0)  # it is of the other scheme, or about to close
                link.conn.abort()
                self._all.discard(link)
            if len(self._all) < self.most:
                link = ClientConnection(self, secure=secure)
                self._server.connect(link, client=self._client, port=port, secure=secure)
                self._all.add(link)
                return link
            self._room.close()
            await self._room.wait()

    def give(self, link: ClientConnection) -> None:
        """Nobody uses ``link`` any more."""
        if link in self._all and link.usable:
            self._idle.append(link)
            self._room.open()

    def lost(self, link: ClientConnection) -> None:
        """``link`` is gone."""
        self._all.discard(link)
        if link in self._idle:
            self._idle.remove(link)
        self._room.open()

    async def close(self) -> None:
        """Close what is idle and cut what is not; open no more."""
        self._closed = True
        self._room.open()
        links = list(self._all)
        for link in links:
            link.close()
        for link in links:
            await ended(link.conn)
