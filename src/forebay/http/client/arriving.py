"""Where the content of an answer comes from."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Callable
from functools import partial
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

import structlog

from forebay.engine.holders import Taken, line_taken, outside
from forebay.engine.tasks import Future
from forebay.errors import ConnectionClosed, Source
from forebay.http.messages import BodySource
from forebay.wire.heads import HeaderPairs

if TYPE_CHECKING:
    from forebay.http.client.connection import ClientConnection

__all__ = ["Arriving", "Given", "Whole"]

log = structlog.get_logger("forebay.client")

_CLIENT = str(Path(__file__).with_name("client.py"))  # what programs call
_WORTH_READING = 64 * 1024
"""Bytes of unwanted content that are read to keep a connection; a new one costs about as much."""


class Arriving(BodySource):
    """Content that comes over ``link``. Up to ``limit`` bytes are received before they are asked for. Made within the
    call of the program, whose line it notes.

    :ivar received: bytes so far.
    :ivar held: nobody has forgotten it, however long it is not asked for: ``Limits.unread`` does not count.
    :ivar on_failed: is told when the rest will not come, and why.
    """

    __slots__ = (
        "_error",
        "_made",
        "_pieces",
        "_size",
        "_waiter",
        "_wanted",
        "complete",
        "held",
        "limit",
        "link",
        "on_failed",
        "received",
        "trailers",
    )

    def __init__(self, link: ClientConnection, pieces: list[bytes], limit: int) -> None:
        self.link: ClientConnection | None = link
        self.on_failed: Callable[[BaseException], None] | None = None
        self.limit = limit
        self._pieces = pieces
        self._size = self.received = sum(map(len, pieces))
        self._made: Taken = (*_line_of_program(), None)
        self._waiter: Future[None] | None = None
        self._wanted = 1  # bytes for which the waiter is woken
        self._error: BaseException | None = None
        self.complete = self.held = False
        self.trailers: HeaderPairs = ()

    @property
    def made_at(self) -> str:
        """``FILE:LINE in FUNCTION``."""
        return line_taken(self._made)

    # Who takes it

    async def next_piece(self) -> bytes:
        """The next piece; empty at the end.

        :raises UpstreamError: the end will not come.
        :raises DeadlineExceeded: not in time.
        """
        if not self._pieces:
            await self._more()
        if not self._pieces:
            if self._error is not None:
                raise self._taken_error()
            return b""
        return self._take()

    async def rest(self, most: int) -> bytes:
        """All that is still to come, or a little more than ``most`` bytes of it. Errors as for :meth:`next_piece`."""
        self.limit = self._wanted = most + 1
        if self._size <= most:
            await self._more()
        if self._error is not None and self._size <= most:
            self._pieces.clear()
            raise self._taken_error()
        return self._take()

    def _take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        self._size = 0
        if self.link is not None:
            self.link.taken()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _taken_error(self) -> BaseException:
        assert self._error is not None, "who asks has looked"
        error, self._error = self._error, _gone(self._error)
        return error

    async def _more(self) -> None:
        """Wait until there is what is wanted, or nothing will come any more."""
        if self.link is None:
            return
        self._waiter = Future()
        self.link.awaited()
        try:
            await self._waiter
        except BaseException:  # cancelled, or thrown away
            if self.link is not None:
                self.link.unawaited()
            raise
        finally:
            self._waiter = None

    def forget(self, what: str, request: str) -> None:
        """Nobody has it any more, which is told. To be called from anywhere: it is done by the loop, later."""
        if self.link is not None:
            self.link.soon.call(partial(self._forgotten, what, request))

    def _forgotten(self, what: str, request: str) -> None:
        self.tell(what, request)
        self.leave()

    def tell(self, what: str, request: str) -> None:
        """Tell in the log that it still holds a connection, though it should not."""
        if self.link is not None:
            log.warning(what, request=request, at=self.made_at, received=self.received)

    def leave(self) -> None:
        """Nobody wants more of it."""
        link, self.link = self.link, None
        self._pieces.clear()
        if link is not None and not link.soon.over:
            if self.awaited:
                message = f"the response was closed while its content was awaited; made at {self.made_at}"
                self._error = ConnectionClosed(message, source=Source.INTERNAL)
            link.leave(_WORTH_READING)
        self._wake()

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for more of it."""
        return self._waiter is not None

    # What the connection calls

    def put(self, data: bytes) -> bool:
        """A piece came. False: that is enough for now."""
        self._pieces.append(data)
        self._size += len(data)
        self.received += len(data)
        if self._size >= self._wanted:
            self._wake()
        return self._size < self.limit

    def end(self, trailers: HeaderPairs) -> None:
        """That was all of it."""
        self.link = None
        self.complete = True
        self.trailers = trailers
        self._wake()

    def fail(self, error: BaseException) -> None:
        """The rest will not come."""
        self.link = None
        self._error = error
        if self.on_failed is not None:
            self.on_failed(error)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _gone(error: BaseException) -> BaseException:
    """The same error for who asks again: the first one would lead by its traceback to what it is kept by."""
    again = type(error).__new__(type(error), *error.args)
    again.args = error.args
    again.__dict__.update(error.__dict__)
    return again


class Whole(BodySource):
    """Content that is there, but compressed, or more than is taken at once."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def next_piece(self) -> bytes:
        content, self._content = self._content, b""
        return content


class Given(BodySource):
    """Content of an answer without a server."""

    __slots__ = ("_given", "_pieces")

    def __init__(self, content: AsyncIterable[bytes]) -> None:
        self._given = content
        self._pieces = aiter(content)

    async def next_piece(self) -> bytes:
        async for piece in self._pieces:
            if piece:
                return piece
        return b""

    async def close(self) -> None:
        """Nobody wants more of it."""
        close = getattr(self._given, "aclose", None)
        if close is not None:
            await close()


def _line_of_program() -> tuple[CodeType, int]:
    """The code and the offset of who asked the client, whatever middleware is in between."""
    frame = found = sys._getframe(1)
    while found.f_code.co_filename != _CLIENT:
        if found.f_back is None:
            return outside(frame)
        found = found.f_back
    return outside(found)
