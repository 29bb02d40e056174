"""The content of an answer while it comes."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING

from forebay.engine.holders import Taken, line_taken
from forebay.engine.tasks import Future
from forebay.http.messages import BodySource
from forebay.wire.heads import HeaderPairs

if TYPE_CHECKING:
    from forebay.http.client.connection import ClientConnection

__all__ = ["Arriving"]

_WORTH_READING = 64 * 1024
"""Bytes of unwanted content that are read to keep a connection; a new one costs about as much."""


class Arriving(BodySource):
    """Content that comes over ``link``. Up to ``limit`` bytes are received before they are asked for.

    :ivar received: bytes so far.
    :ivar on_failed: is told when the rest will not come, and why.
    """

    __slots__ = (
        "_error",
        "_made",
        "_pieces",
        "_size",
        "_waiter",
        "complete",
        "limit",
        "link",
        "on_failed",
        "received",
        "trailers",
    )

    def __init__(self, link: ClientConnection, pieces: list[bytes], limit: int, made: tuple[CodeType, int]) -> None:
        self.link: ClientConnection | None = link
        self.on_failed: Callable[[BaseException], None] | None = None
        self.limit = limit
        self._pieces = pieces
        self._size = self.received = sum(map(len, pieces))
        self._made: Taken = (*made, None)
        self._waiter: Future[None] | None = None
        self._error: BaseException | None = None
        self.complete = False
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
        while True:
            if self._pieces:
                pieces, self._pieces = self._pieces, []
                self._size = 0
                if self.link is not None:
                    self.link.taken()
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self._error is not None:
                error, self._error = self._error, _gone(self._error)
                raise error
            if self.complete:
                return b""
            waiter: Future[None] = Future()
            self._waiter = waiter
            if self.link is not None:
                self.link.awaited()
            try:
                await waiter
            finally:
                self._waiter = None
                if self.link is not None:
                    self.link.unawaited()

    def leave(self) -> None:
        """Nobody wants more of it."""
        link, self.link = self.link, None
        self._pieces.clear()
        if link is not None:
            link.leave(_WORTH_READING)
        self._end()

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for more of it."""
        return self._waiter is not None

    @property
    def pending(self) -> bool:
        """Whether some of it is still to come, and holds a connection."""
        return self.link is not None

    # What the connection calls

    def put(self, data: bytes) -> bool:
        """A piece came. False: that is enough for now."""
        self._pieces.append(data)
        self._size += len(data)
        self.received += len(data)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return self._size < self.limit

    def end(self, trailers: HeaderPairs) -> None:
        """That was all of it."""
        self.link = None
        self.complete = True
        self.trailers = trailers
        self._end()

    def fail(self, error: BaseException) -> None:
        """The rest will not come."""
        self.link = None
        self._error = error
        if self.on_failed is not None:
            self.on_failed(error)
        self._end()

    def _end(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _gone(error: BaseException) -> BaseException:
    """The same error for who asks again: the first one would lead by its traceback to what it is kept by."""
    again = type(error).__new__(type(error), *error.args)
    again.args = error.args
    again.__dict__.update(error.__dict__)
    return again
