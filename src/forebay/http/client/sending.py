"""The content of a request on its way out, where it does not go with the head."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from forebay.engine.loop import Cancelled, timeout
from forebay.engine.tasks import Gate, Task, Tasks
from forebay.errors import ConnectionClosed, Source
from forebay.http.client.phases import Phase
from forebay.http.client.request import ClientRequest
from forebay.http.client.trace import Step
from forebay.wire.heads import LAST_CHUNK, encode_chunk

if TYPE_CHECKING:
    from forebay.http.client.connection import ClientConnection

__all__ = ["Sending"]

_SLICE = 256 * 1024  # bytes of content that are written before we look whether they are taken
_CONTINUE_WAIT = 1.0  # seconds for a 100 before the content is sent without (RFC 9110 section 10.1.1)


class Sending:
    """Sends the content of ``request`` over ``link``, piece by piece, as fast as it is taken, in a task of its own: the
    answer may come before all of it was sent.

    :ivar go_ahead: opens when the server says that it wants the content (100); None: it was not asked.
    """

    __slots__ = ("_link", "_request", "_task", "go_ahead")

    def __init__(self, link: ClientConnection, request: ClientRequest) -> None:
        self._link = link
        self._request = request
        self._task: Task[None] | None = None
        self.go_ahead = Gate() if request.expect_continue else None

    def start(self, tasks: Tasks) -> None:
        """Begin; ``tasks`` own the task."""
        self._task = tasks.spawn(self._send(), name=f"content of {self._request.method} {self._link.endpoint}")

    def cancel(self) -> None:
        """Nobody wants (more of) it."""
        if self._task is not None:
            self._task.cancel()

    async def _send(self) -> None:
        link = self._link
        try:
            if self.go_ahead is not None:
                await self._wait_for_go_ahead(self.go_ahead)
            await self._send_pieces()
        except Cancelled:
            if link.sends(self):  # not by us, who let go of it first: something that the content waited for was
                message = f"{self._request}: the content to send was cancelled"
                link.sending_failed(self, ConnectionClosed(message, source=Source.INTERNAL))
            raise
        except ConnectionClosed as error:
            if not link.conn.closing:
                link.sending_failed(self, error)  # it is another connection that is closed, and the content's affair
        except Exception as error:  # the content is the program's: what it raises is for who made the request
            link.sending_failed(self, error)

    async def _send_pieces(self) -> None:
        link, content = self._link, self._request.content
        conn = link.conn
        length = content.length
        total = 0
        self._producing()
        async with aclosing(content.pieces()) as pieces:
            async for piece in pieces:
                whole = memoryview(piece)
                if length is not None and total + len(piece) > length:  # it would be taken for the next request
                    raise ValueError(f"{content!r}: it gives more than that")
                for start in range(0, len(piece), _SLICE):
                    part = whole[start : start + _SLICE] if len(piece) > _SLICE else piece
                    total += len(part)
                    link.write(part if length is not None else encode_chunk(bytes(part)))
                    if conn.transport.is_closing():
                        return  # it broke, which on_close is about to tell
                    if total == length:
                        self._done(total)  # now: the answer may come before this task has its next turn
                    elif not conn.writable:
                        self._taking()
                        await conn.drained()
                        self._producing()
                    await conn.turn()
        if length is None:
            link.write(LAST_CHUNK)
        elif total < length:
            raise ValueError(f"{content!r}: it ended after {total}")
        self._done(total)

    def _done(self, total: int) -> None:
        """All of it was written."""
        if self._link.sends(self):
            if self._request.trace is not None:
                self._request.trace.mark(Step.WROTE_BODY, bytes=total)
            self._link.sent(self)

    def _taking(self) -> None:
        if self._link.sends(self):
            self._link.watch.begin_writing()

    def _producing(self) -> None:
        if self._link.sends(self):
            self._link.watch.begin(Phase.PRODUCING, None)

    async def _wait_for_go_ahead(self, gate: Gate) -> None:
        try:
            async with timeout(_CONTINUE_WAIT):
                await gate.wait()
        except TimeoutError:
            pass  # servers may not know of it: RFC 9110 section 10.1.1 has us go on
