"""One connection: the protocol object that the event loop calls, and what handlers hold in their hands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from math import inf
from typing import Any, cast

import structlog

from forebay.engine.ending import Leaving, Lingering, reset
from forebay.engine.ends import Ends
from forebay.engine.handler import CloseReason, ConnectionHandler, ConnectionOwner
from forebay.engine.inbox import Inbox
from forebay.engine.loop import RESOLUTION, TURN
from forebay.engine.outbound import Outgoing
from forebay.engine.receiving import Receives
from forebay.engine.sendfile import SendsFiles
from forebay.engine.settings import SlowConsumer
from forebay.engine.timing import Pulse

__all__ = ["CloseReason", "Connection", "ConnectionHandler", "ConnectionOwner"]

log = structlog.get_logger("forebay.engine")

_CORKED_AT_MOST = 64  # messages: enough to save nearly all the system calls, few enough for writable to tell the truth


class Connection(Ends, Receives, SendsFiles, asyncio.Protocol):
    """One connection. Servers and :func:`~forebay.engine.dial` make them; handlers use them, on the loop's thread only.

    ``state`` is free for the handler's own use. Counters: ``bytes_in``, ``bytes_out``, ``messages_in``,
    ``messages_out``; ``messages_dropped`` under the policy for slow consumers, and ``writes_dropped`` after the close.

    A server may have 100,000 of these, so what few of them need is made when it is needed: ``_outgoing`` once the peer
    is slow, ``pulse`` once it is silent.
    """

    __slots__ = (
        "_corked",
        "_deadline",
        "_eof",
        "_gone",
        "_handler",
        "_inbox",
        "_outgoing",
        "_paused",
        "_ticker",
        "_told",
        "bytes_in",
        "bytes_out",
        "close_detail",
        "close_reason",
        "closing",
        "due_at",
        "heard_at",
        "messages_in",
        "messages_out",
        "opened_at",
        "owner",
        "pulse",
        "state",
        "writable",
        "writes_dropped",
    )

    def __init__(self, owner: ConnectionOwner, handler: ConnectionHandler, inbox: Inbox | None = None):
        super().__init__()
        self.state: Any = None
        self.opened_at = self.heard_at = 0.0  # when it was opened, and when the last message came; see Ticker.read
        self.bytes_in = self.bytes_out = self.messages_in = self.messages_out = self.writes_dropped = 0
        self.closing = False  # nothing can be written any more
        self.close_reason: CloseReason | None = None
        self.close_detail = ""  # what the system, or TLS, said of it, where the connection broke
        self.writable = True  # what waits to be sent is below the high watermark
        self.pulse: Pulse | None = None
        self.due_at = inf  # see policy.timers.Timed
        self.owner = owner
        self._ticker = owner.ticker
        self._handler = handler
        self._inbox = inbox
        self._deadline: float | None = None  # the handler's own, in place of the owner's timing
        self._paused = self._eof = self._gone = self._told = False
        self._outgoing: Outgoing | None = None
        self._corked: list[bytes] | None = None  # what is to leave together

    def __repr__(self) -> str:
        how = self.close_reason or ("closing" if self.closing else "open")
        return f"<Connection {self.id} {self.peer} {how} in={self.bytes_in} out={self.bytes_out}>"

    @property
    def messages_dropped(self) -> int:
        """Messages that were dropped because the peer was too slow for them."""
        return self._outgoing.dropped if self._outgoing is not None else 0

    @property
    def half_closed(self) -> bool:
        """The peer sends nothing more; it may still be written to."""
        return self._eof

    # What handlers call

    def write(self, message: Any) -> None:
        """Send ``message`` without waiting; after the close it is dropped, and counted.

        What the network does not take is kept in memory, up to the limit of the owner's :class:`Outbound`, which also
        says what happens past it: writers of much look at :attr:`writable`, or use :meth:`send`.

        :raises ValueError: the framing cannot express the message.
        """
        if self.closing:
            self.writes_dropped += 1
            return
        self.messages_out += 1
        self.bytes_out += len(message)
        self.put(message)

    def put(self, data: bytes) -> None:
        """Send ``data``, which is encoded, and counted."""
        corked = self._corked
        if corked is None:
            if self.writable:
                self.transport.write(data)
            else:
                self.outgoing().put(data)
        else:
            corked.append(data)
            if len(corked) >= _CORKED_AT_MOST or not self.writable:
                self.uncork()

    def write_soon(self, message: Any) -> None:
        """As :meth:`write`, but leave at the end of this turn of the loop, with what is written until then, behind
        the writes of other connections: see :mod:`forebay.engine.corks`. For answers that are made in ``on_message``.
        """
        if self.closing:
            self.writes_dropped += 1
            return
        self.messages_out += 1
        self.bytes_out += len(message)
        if self._corked is None:
            self._corked = [message]
            self._ticker.corks.add(self)
        else:
            self.put(message)

    def uncork(self) -> None:
        """Give the transport what is kept to leave as one write."""
        corked, self._corked = self._corked, None
        if corked:
            if self.writable:
                self.transport.write(corked[0] if len(corked) == 1 else b"".join(corked))
            else:
                for data in corked:  # each on its own: it may be dropped
                    self.outgoing().put(data)

    def send(self, message: Any) -> Awaitable[None]:
        """Send ``message`` now, and wait, by ``await``, while the peer is too slow to take what was sent.

        Under another policy for slow consumers than ``wait`` there is nothing to wait for.

        :raises ConnectionClosed: the connection is closed, or was while waiting.
        :raises ValueError: the framing cannot express the message.
        """
        if self.closing:
            raise self.closed_error()
        self.write(message)
        ticker = self._ticker
        ticker.credit -= len(message)
        return ticker.done if self.writable and ticker.credit >= 0 else self._room()

    async def turn(self) -> None:
        """Let the loop have its turn, where those who send without waiting have used up theirs (``loop.TURN``)."""
        if self._ticker.credit < 0:
            self._ticker.credit = TURN
            await self.outgoing().turn()

    async def _room(self) -> None:
        await self.turn()
        if self.owner.outbound.policy is SlowConsumer.WAIT:
            await self.drained()
        elif self.closing:
            raise self.closed_error()

    async def drained(self) -> None:
        """Wait until the connection is :attr:`writable`. A peer that takes nothing at all ends the wait by its stall.

        :raises ConnectionClosed: the connection is closed, or was while waiting.
        """
        while not self.closing:
            if self.writable:
                return
            await self.outgoing().wait()
        raise self.closed_error()

    def write_buffer_size(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return self._outgoing.waiting() if self._outgoing is not None else self.transport.get_write_buffer_size()

    def partial_since(self) -> float | None:
        """Since when a message has been incomplete, at the latest; ``None``: none is."""
        return None

    def buffer_size(self) -> int:
        """Bytes kept for this connection, in both directions."""
        return self.write_buffer_size() + (self._inbox.size if self._inbox is not None else 0)

    def pause_reading(self) -> None:
        """Take nothing more from the network, until :meth:`resume_reading`; the peer notices by and by. Idempotent."""
        if not self._paused:
            self._paused = True
            if not self._eof:
                self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`. Idempotent."""
        if self._paused:
            self._paused = False
            self._forgive()
            if not self._eof and not self.closing:
                self.transport.resume_reading()

    def expire_in(self, seconds: float | None) -> None:
        """Call ``on_timeout`` in ``seconds``, at most 200 ms later and never earlier; ``None``: never.

        A connection has one such deadline: each call replaces the one before, and the first one replaces the owner's
        idle, first-byte, message and heartbeat timeouts for this connection. Cheap enough for every request.
        """
        if seconds is None:
            self._deadline = inf
            return
        deadline = self._deadline = self._ticker.now + seconds + RESOLUTION
        if deadline < self.due_at and not self.closing:
            self._ticker.arm(self, seconds)

    def close(self, reason: CloseReason = CloseReason.APP, *, linger: float = 0.0) -> None:
        """Send what was written, then close. A peer that takes nothing of it for the write timeout is cut.

        :param linger: seconds to go on reading, and throwing away, what the peer still sends. Closing with bytes unread
            makes the kernel send a reset, which can overtake our last words.
        """
        if self.closing:
            return
        self.uncork()
        self.closing = True
        self.close_reason = reason
        outgoing = self._outgoing
        if outgoing is not None and outgoing.held:
            outgoing.linger = linger  # the file that is being sent was written before the close
            Leaving(self, self.transport)
        else:
            self.finish(linger)
        self._wake()

    def finish(self, linger: float) -> None:
        """Do what :meth:`close` has decided."""
        if self._outgoing is not None:
            self._outgoing.flush()
        if linger and not self._eof:
            Lingering(self, self.transport, self.owner.ticker, linger)
        else:
            self.transport.close()
        if self.transport.get_write_buffer_size():
            self.outgoing().watch()

    def abort(self, reason: CloseReason = CloseReason.APP) -> None:
        """Cut the connection now. What was not sent is lost, and the peer sees a reset instead of an orderly end."""
        if self._gone:
            return
        self.closing = True
        self._corked = None
        if self.close_reason is None:
            self.close_reason = reason
        reset(self.transport)
        self._wake()

    def hand_over(
        self, handler: ConnectionHandler, owner: ConnectionOwner | None = None, inbox: Inbox | None = None
    ) -> None:
        """Let ``handler`` have what happens from now on, under the rules of ``owner`` where one is given.

        :param inbox: that of ``handler``, where it makes the connection one of coroutine style.
        """
        self._handler = handler
        if inbox is not None:
            self._inbox = inbox
        if owner is not None:
            self.owner = owner
            self.transport.set_write_buffer_limits(owner.outbound.high, owner.outbound.resume_at)

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self.transport = cast("asyncio.Transport", transport)  # as it is for every stream protocol
        owner = self.owner
        self.name_peer()
        self.opened_at = self.heard_at = owner.ticker.read()
        if not owner.opened(self):
            self._gone = self.closing = True
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(owner.outbound.high, owner.outbound.resume_at)
        if self.expires_at != inf:
            owner.ticker.hold(self)
        try:
            self._handler.on_open(self)
        except Exception as error:
            self.failed(error)
        if self._paused:  # the loops start reading only after this call
            asyncio.get_running_loop().call_soon(self._pause_again)

    def _pause_again(self) -> None:
        if self._paused and not self._eof:
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self.messages_in += 1
        self.bytes_in += len(data)
        self.heard_at = self._ticker.now
        try:
            self._handler.on_message(self, data)
        except Exception as error:
            self.failed(error)

    def eof_received(self) -> bool:
        """Called by the event loop."""
        self._eof = True
        if self.closing:
            return True
        try:
            if not self._handler.on_eof(self):
                self.close(CloseReason.PEER)
        except Exception as error:
            self.failed(error)
        return True  # it is closed above, if at all

    def pause_writing(self) -> None:
        """Called by the event loop: above the high watermark."""
        self.writable = False
        self.outgoing().watch()
        # Not now: whoever is to be cut for it may be writing further down in the stack
        asyncio.get_running_loop().call_soon(self.owner.buffered, self.write_buffer_size())

    def resume_writing(self) -> None:
        """Called by the event loop: below the low watermark again."""
        outgoing = self.outgoing()
        if outgoing.held:
            outgoing.files[0].go_on()
            return
        self.writable = True
        if not self.closing:  # else the peer has to take the rest as well
            outgoing.unwatch()
        outgoing.fill()
        if outgoing.queue:  # there was more than the transport may hold
            self.writable = False
            outgoing.watch()
        if self.closing or not self.writable:
            return
        self._wake()
        # Not now: the standard loop's transports cannot be closed in the middle of this call
        asyncio.get_running_loop().call_soon(self._tell_writable)

    def _tell_writable(self) -> None:
        if self.writable and not self.closing:
            try:
                self._handler.on_writable(self)
            except Exception as error:
                self.failed(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self._gone:
            return
        self._gone = self.closing = True
        self._corked = None
        if self.close_reason is None:
            self.close_reason = CloseReason.PEER if exc is None else CloseReason.RESET
        if exc is not None:
            self.close_detail = str(exc)
        self._ticker.discard(self)
        if self._outgoing is not None:
            self._ticker.discard(self._outgoing)
            self._outgoing.lost()
        self._wake()
        try:
            self._handler.on_close(self, self.close_reason)
        except (Exception, asyncio.CancelledError):  # whatever it was, nobody is left to be told
            log.exception("handler failed", peer=self.peer, handler=type(self._handler).__name__)
        self.owner.closed(self)

    # What the timer wheel reads and calls (policy.timers.Timed)

    @property
    def expires_at(self) -> float:
        """When it is to be looked at: the handler's own deadline, else the nearest of the owner's timeouts."""
        return self.owner.timing.deadline(self) if self._deadline is None else self._deadline

    @expires_at.setter
    def expires_at(self, when: float) -> None:
        self._deadline = when

    def on_expired(self) -> None:
        """Called by the timer wheel."""
        if self.closing:
            return
        if self._deadline is not None:
            self._deadline = inf
            self._time_out()
            return
        reason = None
        if self._paused and not self._eof:  # we do not listen: the peer is not to blame
            self._forgive()
        else:
            try:
                reason = self.owner.timing.overdue(self, self._ticker.now)
            except Exception as error:  # a ping that the framing cannot express
                self.failed(error)
        if reason is CloseReason.IDLE:
            self._time_out()
            self._forgive()
        elif reason is CloseReason.HEARTBEAT:
            self.abort(reason)  # nobody is there to take leave of
        elif reason is not None:
            self.close(reason)
        if not self.closing and self._deadline is None:
            self._ticker.hold(self)

    def _time_out(self) -> None:
        if self.closing:  # by the ping that was sent just before
            return
        try:
            self._handler.on_timeout(self)
        except Exception as error:
            self.failed(error)

    def _forgive(self) -> None:
        """Start all timeouts anew."""
        self.heard_at = self._ticker.now
        if self.pulse is not None:
            self.pulse.forgive(self.heard_at)

    # What is behind them

    def outgoing(self) -> Outgoing:
        """The slow side of writing."""
        if self._outgoing is None:
            self._outgoing = Outgoing(self)
        return self._outgoing

    def failed(self, error: Exception) -> None:
        """The handler raised ``error``: log it, close the connection."""
        log.error("handler failed", peer=self.peer, handler=type(self._handler).__name__, exc_info=error)
        self.close(CloseReason.ERROR)

    def told(self) -> bool:
        """Whether a coroutine that waited for this connection was woken because it closed."""
        return self._told

    def gone(self) -> bool:
        """Whether the transport has ended, or is about to without sending anything more."""
        return self._gone or (self.closing and self.transport.is_closing())

    def start_tick(self) -> None:
        """Run the handler's ``on_tick``. Called by the server."""
        try:
            self._handler.on_tick(self)
        except Exception as error:
            self.failed(error)

    def start_drain(self) -> None:
        """Run the handler's ``on_drain``. Called by the server."""
        if self.closing:
            return
        try:
            self._handler.on_drain(self)
        except Exception as error:
            self.failed(error)

    def _wake(self) -> None:
        if self._outgoing is not None and self._outgoing.wake():
            self._told = self._told or self.closing
