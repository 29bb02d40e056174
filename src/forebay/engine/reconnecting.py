"""A client that stays connected."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Self

import structlog

from forebay.engine.address import Address
from forebay.engine.connection import Connection
from forebay.engine.dial import Mailbox, dial, dialled
from forebay.engine.handler import CloseReason
from forebay.engine.inbox import Inbox
from forebay.engine.loop import now
from forebay.engine.outbox import Outbox, Sender, WithBatches
from forebay.engine.settings import Heartbeat, Keepalive, Outbound
from forebay.engine.tasks import Future, Gate, Tasks
from forebay.engine.tls_settings import ClientTLS
from forebay.errors import ConnectFailed, ConnectionClosed, ConnectTimeout, DeadlineExceeded, ForebayError
from forebay.policy.backoff import Backoff
from forebay.policy.reconnect import ReconnectSchedule
from forebay.wire.framing import Framing

__all__ = ["ClientState", "Reconnecting"]

log = structlog.get_logger("forebay.engine")

_OUTBOX = Outbox()
_BACKOFF = Backoff()
_SETUP_INBOX = 64  # messages that wait for on_connect to receive them
_LAST_WORDS = 1.0  # seconds the server has, in close(), to read what was sent and end its side


class ClientState(StrEnum):
    """What a :class:`Reconnecting` client is doing."""

    CONNECTING = "connecting"  # the connection is being made, or made ready by on_connect
    CONNECTED = "connected"
    WAITING = "waiting"  # for the next try
    CLOSED = "closed"  # not started yet, or closed for good


_NEXT = {
    ClientState.CLOSED: {ClientState.CONNECTING},
    ClientState.CONNECTING: {ClientState.CONNECTED, ClientState.WAITING, ClientState.CLOSED},
    ClientState.CONNECTED: {ClientState.WAITING, ClientState.CLOSED},
    ClientState.WAITING: {ClientState.CONNECTING, ClientState.CLOSED},
}


class Reconnecting:
    """Keeps one connection to ``address``, and makes it anew whenever it ends. A :class:`~forebay.service.Service`.

    ::

        async with Reconnecting("tcp://127.0.0.1:7000", framing=Lines(), on_connect=subscribe) as client:
            await client.send("hello")
            async for message in client:
                ...

    **What is sent** goes through a bounded outbox, in order, connected or not. A message leaves the outbox when the
    kernel has taken all of it, and of what was written together with it; so what the kernel had taken when the
    connection broke may be lost, and what was just being written is sent again on the next one. Given ``acknowledges``,
    a message leaves when the server has acknowledged it, and all that were not are sent again, in order: nothing is
    lost, and the server may see a message twice.

    **What is received** can be taken across connections, as if they were one; what the server said in between is not
    known. Between tries it waits ever longer, at random: see :class:`~forebay.policy.reconnect.ReconnectSchedule`.

    :param address: see :func:`~forebay.engine.dial`.
    :param framing: how bytes become messages; ``None``: messages are bytes, cut as they arrive.
    :param timeout: seconds for connecting, each time.
    :param setup_timeout: seconds ``on_connect`` has.
    :param on_connect: a coroutine function that is given each fresh connection before anything from the outbox is sent
        on it: to log in, to subscribe. It may ``send`` and ``receive``. When it raises, the connection has failed.
    :param acknowledges: told each message, how many of the oldest messages sent it acknowledges; it must not block.
        Messages sent by ``on_connect`` are none of them.
    :param outbox: what may wait to be sent.
    :param backoff: the most that is waited before each try.
    :param good_life: seconds a connection has to live for the backoff to begin anew after it.
    :param write_timeout: seconds after which a server that takes nothing of what is sent is given up; ``None``: never.
    :param inbound_limit: messages that wait to be received, past which nothing more is read from the network; 0 for a
        client that only sends: what arrives is shown to ``acknowledges``, counted and thrown away.
    :param source: of randomness for the waits.

    The other parameters are those of :func:`~forebay.engine.dial`. Without a heartbeat, a server that is gone without a
    word is not noticed until something is sent.

    :raises ValueError: a parameter makes no sense.
    """

    def __init__(
        self,
        address: str | Address,
        *,
        framing: Framing | None = None,
        name: str | None = None,
        timeout: float = 3.0,
        tls: ClientTLS | None = None,
        setup_timeout: float = 10.0,
        on_connect: Callable[[Connection], Awaitable[None]] | None = None,
        acknowledges: Callable[[Any], int] | None = None,
        outbox: Outbox = _OUTBOX,
        backoff: Backoff = _BACKOFF,
        good_life: float = 5.0,
        idle_timeout: float | None = None,
        heartbeat: float | Heartbeat | None = None,
        write_timeout: float | None = 30.0,
        inbound_limit: int = 64,
        keepalive: Keepalive | None = None,
        source: random.Random | None = None,
    ) -> None:
        if inbound_limit < 0:
            raise ValueError(f"inbound_limit {inbound_limit}: must be at least 0")
        self.address = dialled(address)
        self.name = name or str(self.address)
        self.state = ClientState.CLOSED
        self.reason: ForebayError | None = None  # why it is not connected
        self.attempts = 0  # tries since it was last connected
        self.connects = self.failures = self.messages_in = self.unread = self.unexpected_acknowledgements = 0
        self._dial: dict[str, Any] = {
            "timeout": timeout,
            "tls": tls,
            "framing": None if framing is None else WithBatches(framing),
            "idle_timeout": idle_timeout,
            "heartbeat": heartbeat,
            "keepalive": keepalive,
            "outbound": Outbound(high=0, low=0, limit=None, timeout=write_timeout),  # see Sender
        }
        self._encode: Callable[[Any], bytes] = bytes if framing is None else framing.encode
        self._setup_timeout = setup_timeout
        self._on_connect = on_connect
        self._acknowledges = acknowledges
        self._sender = Sender(outbox, acknowledged=acknowledges is not None)
        self._schedule = ReconnectSchedule(backoff, good_life, source)
        self._inbound_limit = inbound_limit
        self._inbox: Inbox | None = None  # from the start on, unless nobody receives
        self._link: _Link | None = None  # the present connection, once it is ready
        self._decided = Gate()  # it is connected, or closed for good
        self._started = self._draining = self._ended = False
        self._tasks = Tasks()

    def __repr__(self) -> str:
        why = f" ({self.reason})" if self.reason is not None else ""
        return f"<Reconnecting {self.name} {self.state}{why} outbox={len(self._sender.unsent)}>"

    # Life

    async def start(self) -> None:
        """Begin to connect; this does not wait for it, see :meth:`wait_connected`.

        :raises RuntimeError: it was started or stopped before.
        """
        if self._started or self._ended:
            raise RuntimeError(f"{self!r} was started or stopped before")
        self._started = True
        if self._inbound_limit:
            self._inbox = Inbox(self._inbound_limit)
        self._sender.closed = False
        self._tasks.spawn(self._run(), name=f"client {self.name}")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Return when it is connected and made ready by ``on_connect``, at once when it is already.

        :param timeout: seconds; ``None``: as long as it takes.
        :raises DeadlineExceeded: it was not in time; the message says why.
        :raises ConnectionClosed: the client is closed.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.state is not ClientState.CONNECTED:
                    if self._ended or not self._started:
                        raise self._closed_error()
                    await self._decided.wait()
        except TimeoutError:
            why = f": {self.reason}" if self.reason is not None else ""
            raise DeadlineExceeded(f"{self.name} was not connected within {timeout} s{why}") from None

    async def drain(self) -> None:
        """Take nothing more to send, and return when the outbox is empty: there may have to be a connection first.

        Acknowledgements are read meanwhile even when nobody receives: messages past ``inbound_limit`` are thrown away.
        """
        self._draining = True
        self._sender.close()
        if self._link is not None:
            self._link.conn.resume_reading()
        await self._sender.settled.wait()

    async def stop(self) -> None:
        """Close the connection, now. What is still in the outbox is not sent."""
        self._finish()
        await self._tasks.cancel()

    async def close(self, timeout: float = 5.0) -> None:
        """:meth:`drain` for at most ``timeout`` seconds, then close the connection for good. Idempotent.

        The server has up to a second of them to read what was sent to it, and to end its side. Messages that are still
        in the outbox in the end are lost; they are logged, and :meth:`statistics` has their number.
        """
        try:
            if self._started and not self._ended:
                async with asyncio.timeout(timeout):
                    await self.drain()
                    await self._say_goodbye()
        except TimeoutError:
            log.debug("client not drained in time", client=self.name, seconds=timeout)
        finally:
            first = not self._ended
            await self.stop()
        if first and (left := len(self._sender.unsent)):
            log.warning("messages not sent", client=self.name, messages=left, reason=str(self.reason or ""))

    async def _say_goodbye(self) -> None:
        """Close in order: what was sent is not overtaken by the reset that unread messages would bring about."""
        link = self._link
        if link is not None:
            self._finish()
            link.conn.close(CloseReason.APP, linger=_LAST_WORDS)
            await link.wait()

    # Messages

    async def send(self, message: Any) -> None:
        """Put ``message`` into the outbox; under the policy ``wait``, wait for room first.

        :raises ConnectionClosed: the client is closed or drains, or is not started.
        :raises Overloaded: there is no room, and the policy is ``refuse``.
        :raises ValueError: the framing cannot express the message, or the outbox could never hold it.
        """
        await self._sender.send(self._encode(message))

    def send_nowait(self, message: Any) -> None:
        """As :meth:`send`, without ever waiting.

        :raises Overloaded: there is no room, and the policy is not ``drop-oldest``.
        """
        self._sender.send_nowait(self._encode(message))

    async def receive(self, timeout: float | None = None) -> Any:
        """The next message, from whichever connection it came.

        :param timeout: seconds to wait for it; ``None``: as long as it takes.
        :raises ConnectionClosed: the client is closed, so none will come.
        :raises DeadlineExceeded: none came in time.
        """
        inbox = self._inbox or self._no_inbox()
        if not inbox.messages:
            try:
                async with asyncio.timeout(timeout):
                    found = await inbox.wait()
            except TimeoutError:
                raise DeadlineExceeded(f"{self.name} sent no message within {timeout} s") from None
            if not found:
                raise self._closed_error()
        return self._take(inbox)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        inbox = self._inbox or self._no_inbox()
        if not inbox.messages and not await inbox.wait():
            raise StopAsyncIteration
        return self._take(inbox)

    def _take(self, inbox: Inbox) -> Any:
        message = inbox.take()
        if self._link is not None and inbox.low:
            self._link.conn.resume_reading()
        return message

    def _no_inbox(self) -> Inbox:
        if self._inbound_limit:
            raise self._closed_error()
        raise RuntimeError("a client with inbound_limit=0 does not receive")

    def _closed_error(self) -> ConnectionClosed:
        return ConnectionClosed(f"the client of {self.name} is closed")

    def statistics(self) -> dict[str, Any]:
        """Counts since the start, and what waits now."""
        unsent = self._sender.unsent
        return {
            "state": str(self.state),
            "connects": self.connects,
            "failures": self.failures,
            "outbox_messages": len(unsent),
            "outbox_bytes": unsent.size,
            "accepted": unsent.accepted,
            "settled": unsent.settled,
            "repeated": unsent.repeated,
            "dropped": unsent.dropped,
            "refused": self._sender.refused,
            "messages_in": self.messages_in,
            "unread": self.unread,
            "unexpected_acknowledgements": self.unexpected_acknowledgements,
        }

    # Staying connected

    async def _run(self) -> None:
        try:
            while True:
                self._enter(ClientState.CONNECTING, self.reason)
                error = await self._live()
                if self._ended:
                    return
                delay = self._schedule.ended(now())
                self._enter(ClientState.WAITING, error)
                tell = log.warning if self._schedule.in_a_row == 1 else log.debug
                tell("not connected", client=self.name, reason=str(error), retry_in=round(delay, 3))
                await asyncio.sleep(delay)
        finally:
            self._finish()
            self._enter(ClientState.CLOSED, self.reason)

    async def _live(self) -> ForebayError:
        """One connection, from the first try to its end: why it ended, or did not come about."""
        self.attempts += 1
        link = _Link(self)
        try:
            await self._set_up(link)
            self._connected(link)
            return await link.wait()
        except ForebayError as error:
            self.failures += 1
            return error
        finally:
            if link.opened and not link.ended.done():
                link.conn.abort(CloseReason.STOPPED if self._ended else CloseReason.APP)
                await link.wait()

    async def _set_up(self, link: _Link) -> None:
        await dial(self.address, link, **self._dial)
        if self._on_connect is not None:
            try:
                async with asyncio.timeout(self._setup_timeout):
                    await self._on_connect(link.conn)
            except ForebayError:
                raise
            except TimeoutError:
                text = f"on_connect was not done with {self.name} within {self._setup_timeout:g} s"
                raise ConnectTimeout(text, target=str(self.address)) from None
            except Exception as error:
                log.error("on_connect failed", client=self.name, exc_info=error)
                raise ConnectFailed(f"on_connect failed: {error!r}", target=str(self.address)) from error
        if link.conn.closing:
            raise await link.wait()

    def _connected(self, link: _Link) -> None:
        self._schedule.connected(now())
        self._link = link
        self.connects += 1
        log.info("connected", client=self.name, attempts=self.attempts)
        self.attempts = 0
        self._enter(ClientState.CONNECTED, None)
        link.hand_over()
        self._sender.attach(link.conn)

    def lost(self, link: _Link) -> None:
        """The connection is gone. Called by it."""
        if self._link is link:
            self._link = None
            self._sender.detach()

    def arrived(self, conn: Connection, message: Any) -> None:
        """A message came. Called by the connection."""
        self.messages_in += 1
        if self._acknowledges is not None and (count := self._acknowledges(message)):
            self.unexpected_acknowledgements += self._sender.acknowledge(count)
        inbox = self._inbox
        if inbox is None or (self._draining and not inbox.low):
            self.unread += 1
        elif inbox.put(message) and not self._draining:
            conn.pause_reading()

    def writable(self) -> None:
        """The kernel has taken what was written. Called by the connection."""
        self._sender.pump()

    def _finish(self) -> None:
        """No connection is made any more, nothing is accepted, and nothing more comes."""
        self._ended = True
        self._sender.close()
        if self._inbox is not None:
            self._inbox.end()
        self._decided.open()

    def _enter(self, state: ClientState, reason: ForebayError | None) -> None:
        """The one place where the state changes."""
        assert state in _NEXT[self.state], f"from {self.state} to {state}"
        self.state = state
        self.reason = reason
        if state is ClientState.CONNECTED or self._ended:
            self._decided.open()
        else:
            self._decided.close()


class _Link(Mailbox):
    """One connection of a client. What comes before it is ready is for ``on_connect`` to receive."""

    def __init__(self, client: Reconnecting) -> None:
        super().__init__(_SETUP_INBOX)
        self.client = client
        self.ended: Future[ForebayError] = asyncio.get_running_loop().create_future()
        self.opened = self.ready = False
        self.conn: Connection

    def on_open(self, conn: Connection) -> None:
        super().on_open(conn)
        self.conn = conn
        self.opened = True

    def on_message(self, conn: Connection, data: Any) -> None:
        if self.ready:
            self.client.arrived(conn, data)
        else:
            super().on_message(conn, data)

    def hand_over(self) -> None:
        """The client gets the messages from now on, first those that ``on_connect`` has left."""
        self.ready = True
        self.conn.resume_reading()
        try:
            while self.inbox.messages:
                self.client.arrived(self.conn, self.inbox.take())
        except Exception as error:  # by acknowledges
            self.conn.failed(error)

    def on_writable(self, conn: Connection) -> None:
        if self.ready:
            self.client.writable()

    async def wait(self) -> ForebayError:
        """Why it has ended, once it has."""
        await asyncio.wait([self.ended])  # who waits for a future itself and is cancelled, cancels it
        return self.ended.result()

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        super().on_close(conn, reason)
        self.client.lost(self)
        self.ended.set_result(ConnectionClosed(f"the connection with {conn.peer} ended ({reason})"))
