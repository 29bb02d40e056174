"""A WebSocket that is opened again whenever it is lost."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Self

import structlog

from forebay.engine.loop import timeout as within
from forebay.errors import (
    ConnectFailed,
    ConnectionClosed,
    ConnectTimeout,
    DeadlineExceeded,
    ForebayError,
    Overloaded,
    UpstreamProtocolError,
    UpstreamStatus,
    WebSocketError,
)
from forebay.http.client.reconnects import OnState, Reconnects, shown
from forebay.http.client.upgrade import switched_connection
from forebay.http.websocket import WebSocket, WebSocketSettings
from forebay.http.websocket_client import Offer, begin
from forebay.policy.backoff import Backoff

if TYPE_CHECKING:
    from forebay.http.client.client import Client
    from forebay.http.client.url import URL

__all__ = ["FINAL_CODES", "ReconnectingWebSocket", "open_websocket"]

log = structlog.get_logger("forebay.http")

FINAL_CODES = frozenset((1000, 1008, *range(4000, 5000)))
"""Close codes after which it is not opened again (RFC 6455 section 7.4): the server is done, refuses what we do, or
says something of its own. Others are of the moment: it restarts, goes away, has failed, or is lost."""

_BACKOFF = Backoff()
_SETTINGS = WebSocketSettings()
_SCHEMES = {"ws://": "http://", "wss://": "https://"}


class ReconnectingWebSocket(Reconnects):
    """One WebSocket after the other, as if they were one. ``client.websocket(...)`` makes them; used once::

        async def subscribe(ws: WebSocket) -> None:
            await ws.send("subscribe prices")

        async with client.websocket("/feed", on_connect=subscribe) as ws:
            async for message in ws:
                await ws.send("got it")

    **What is received** comes in order, first the rest of the old connection. What the server said in between is not
    known: ``on_connect`` is the place to ask for it. **What is sent** waits for a connection, and goes out on one,
    once: what a connection took just before it broke may not have arrived.

    A server that is gone without a word is noticed by the pings of ``WebSocketSettings``. The first connection is begun
    on entering, which does not wait for it; see :meth:`wait_connected`.

    ``ws`` is the present WebSocket, or None; ``close_code`` and ``close_reason`` are those of the last that was closed.

    :param open: a coroutine function that opens a WebSocket whose messages are received, such as ``lambda:
        connect("ws://...")``.
    :param name: in logs and errors.
    :param on_connect: a coroutine function that is given each fresh WebSocket before anything else is sent on it. It
        may send and receive. When it raises, the connection has failed.
    :param setup_timeout: seconds above 0 that ``on_connect`` has.
    :param backoff: waited before each next try. It begins anew after a connection that lived for ``good_life`` seconds.
    :param attempts: tries in a row that brought no such connection, at least 1, after which the error of the last is
        raised; None: there is no end to them.
    :param final_codes: the server's close codes that end the iteration. With others it is opened again.
    :param queue: messages that wait to be received, past which nothing more is read, nor the end noticed; 0 for one
        that only sends: what comes is thrown away, and counted in ``unread``.
    :param senders: tasks that may wait in :meth:`send` for a connection, at least 0.
    :param send_timeout: seconds above 0 that they wait.
    :param on_state: called with each state, and why it is not connected; it must not block.
    :param source: of randomness for the waits.
    :raises ValueError: a parameter is out of range.

    Receiving raises what ended it, once: an :class:`~forebay.errors.UpstreamError` after which it is of no use to try
    again, such as a refusal by a status below 500, or the last one when ``attempts`` are over.
    """

    __slots__ = (
        "_final", "_limit", "_on_connect", "_open", "_send_timeout", "_senders", "_setup_timeout", "_waiting",
        "close_code", "close_reason", "unread", "ws",
    )  # fmt: skip

    def __init__(
        self,
        open: Callable[[], Awaitable[WebSocket]],  # noqa: A002 - the word for it
        *,
        name: str = "websocket",
        on_connect: Callable[[WebSocket], Awaitable[None]] | None = None,
        setup_timeout: float = 10.0,
        backoff: Backoff = _BACKOFF,
        good_life: float = 5.0,
        attempts: int | None = None,
        final_codes: Container[int] = FINAL_CODES,
        queue: int = 64,
        senders: int = 64,
        send_timeout: float = 10.0,
        on_state: OnState | None = None,
        source: random.Random | None = None,
    ) -> None:
        for label, count in (("queue", queue), ("senders", senders)):
            if count < 0:
                raise ValueError(f"{label} {count}: must be at least 0")
        for label, seconds in (("setup_timeout", setup_timeout), ("send_timeout", send_timeout)):
            if not 0 < seconds < inf:
                raise ValueError(f"{label} {seconds}: must be above 0 seconds, and finite")
        super().__init__(
            name,
            backoff=backoff,
            attempts=attempts,
            good_life=good_life,
            limit=queue or 1,
            on_state=on_state,
            source=source,
        )
        self.ws: WebSocket | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self.unread = 0
        self._open = open
        self._on_connect = on_connect
        self._setup_timeout = setup_timeout
        self._final = final_codes
        self._limit = queue
        self._senders = senders
        self._send_timeout = send_timeout
        self._waiting = 0  # to send

    @classmethod
    def over(
        cls,
        client: Client,
        url: str | URL,
        *,
        params: Any = None,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        settings: WebSocketSettings = _SETTINGS,
        subprotocols: Sequence[str] = (),
        **options: Any,
    ) -> Self:
        """WebSockets that ``client`` opens: see :func:`open_websocket`.

        :param options: those of :class:`ReconnectingWebSocket`.
        :raises ValueError: a parameter is out of range, or not well-formed.
        """
        request: dict[str, Any] = {"params": params, "headers": headers, "subprotocols": subprotocols}
        options.setdefault("name", f"websocket {shown(url)}")
        return cls(lambda: open_websocket(client, url, settings=settings, **request), **options)

    # Messages

    async def send(self, message: str | bytes, timeout: float | None = None) -> None:
        """Send ``message`` on the present connection, or the next; wait while the server is too slow for it.

        :param timeout: seconds to wait for a connection; ``None``: ``send_timeout``.
        :raises DeadlineExceeded: there was none in time. Nothing was sent.
        :raises Overloaded: too many wait already. Nothing was sent.
        :raises ConnectionClosed: it is closed for good; or the connection was lost while the message was on its way.
        :raises UnicodeEncodeError: the text has lone surrogates.
        """
        ws = self.ws
        if ws is None or not ws.open:
            ws = await self._next_open(self._send_timeout if timeout is None else timeout)
        await ws.send(message)

    async def _next_open(self, seconds: float) -> WebSocket:
        if self._over:
            raise self._closed_error()
        if self._waiting >= self._senders:
            raise Overloaded("senders", f"{self.name} is not connected, and {self._waiting} wait to send already")
        self._waiting += 1
        try:
            async with within(seconds):
                while True:
                    if self._over:
                        raise self._closed_error()
                    ws = self.ws
                    if ws is not None and ws.open:
                        return ws
                    if ws is not None:
                        self._decided.close()  # it is closed, of which our task has yet to hear
                    await self._decided.wait()
        except TimeoutError:
            raise self._too_late(seconds) from None
        finally:
            self._waiting -= 1

    async def receive(self, timeout: float | None = None) -> str | bytes:
        """The next message, from whichever connection it came.

        :param timeout: seconds to wait for it; ``None``: as long as it takes.
        :raises ConnectionClosed: none will come.
        :raises DeadlineExceeded: it did not come in time.
        """
        try:
            async with within(timeout):
                return await self.__anext__()
        except TimeoutError:
            raise DeadlineExceeded(f"{self.name} sent no message within {timeout} s") from None
        except StopAsyncIteration:
            raise self._closed_error() from None

    def __aiter__(self) -> ReconnectingWebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        if not self._limit:
            raise RuntimeError("a WebSocket with queue=0 does not receive")
        await self._next()
        message: str | bytes = self._take()
        return message

    # Life

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close for good, and return when the connection has ended: at most twice the settings' ``close_timeout``
        later. What was not received is gone. Idempotent.

        :raises ValueError: no such code may be sent; see :meth:`WebSocket.close`.
        """
        ws = self.ws
        try:
            if ws is not None:
                ws.close_nowait(code, reason)
                self._finish()
                await ws.close(code, reason)
                self._closed(ws)
        finally:  # also when whoever waits for the end is cancelled
            await super().aclose()

    async def aclose(self) -> None:
        """:meth:`close`."""
        await self.close()

    async def _live(self) -> None:
        ws = await self._open()
        try:
            await self._set_up(ws)
            self.ws = ws
            self._connected()
            async for message in ws:
                if self._limit:
                    await self._put(message)
                else:
                    self.unread += 1
            await ws.close()  # it is closed: this waits for the connection to be gone
        except ForebayError:
            if ws.close_code not in self._final:  # else on_connect failed because the server has closed
                raise
        finally:
            self.ws = None
            self._closed(ws)
            ws.conn.abort()  # nothing happens where it is gone
        if self.close_code not in self._final:
            why = f": {self.close_reason}" if self.close_reason else ""
            raise ConnectionClosed(f"{self.name} was closed ({self.close_code}{why})")

    def _closed_error(self) -> ConnectionClosed:
        if self.close_code is None or self.reason is not None:
            return super()._closed_error()
        why = f": {self.close_reason}" if self.close_reason else ""
        return ConnectionClosed(f"{self.name} is closed ({self.close_code}{why})")

    def _closed(self, ws: WebSocket) -> None:
        if ws.close_code is not None:
            self.close_code = ws.close_code
            self.close_reason = ws.close_reason

    async def _set_up(self, ws: WebSocket) -> None:
        if self._on_connect is None:
            return
        try:
            async with within(self._setup_timeout):
                await self._on_connect(ws)
        except ForebayError:
            raise
        except TimeoutError:
            text = f"on_connect was not done with {self.name} within {self._setup_timeout:g} s"
            raise ConnectTimeout(text) from None
        except Exception as error:  # the program's own: it is told in the log, and tried again
            log.error("on_connect failed", client=self.name, exc_info=error)
            raise ConnectFailed(f"on_connect failed: {error!r}") from error


async def open_websocket(
    client: Client,
    url: str | URL,
    *,
    params: Any = None,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    settings: WebSocketSettings = _SETTINGS,
    subprotocols: Sequence[str] = (),
) -> WebSocket:
    """Open one WebSocket by a request of ``client``: with its headers, cookies, authentication, TLS, targets, policies
    and timeouts. It takes a connection of its own, which is none of the pool from then on.

    :param url: as for ``client.get``; ``ws://`` and ``wss://`` stand for ``http://`` and ``https://``.
    :param settings: ``origins`` and ``outbound`` do not count here.
    :param subprotocols: what is offered, the dearest first; default those of the settings.
    :raises ValueError: the URL, a header or a subprotocol is not well-formed.
    :raises UpstreamStatus: the answer is another than 101.
    :raises UpstreamProtocolError: the answer is 101, and opens no WebSocket all the same (RFC 6455 section 4.1).
    :raises UpstreamError: there is no answer; see ``client.request``.
    """
    given = list(headers.items() if isinstance(headers, Mapping) else headers)
    offer = Offer(settings, given, subprotocols)
    response = await client.get(_http(url), params=params, headers=offer.fields)
    where = response.request.url
    try:
        if response.status != 101:
            message = f"{shown(where)} opens no WebSocket, but answers {response.status} {response.reason}".rstrip()
            raise UpstreamStatus(message, answered=response.status, response=response, target=where.origin)
        try:
            ws = offer.make(WebSocket, None, where.target.encode(), where.authority.encode(), 101, response.fields)
        except WebSocketError as error:
            message = f"the answer of {shown(where)} opens no WebSocket: {error}"
            raise UpstreamProtocolError(message, target=where.origin) from None
        conn, rest = switched_connection(response)
        begin(ws, conn, rest)
    finally:
        await response.close()
    return ws


def _http(url: str | URL) -> str | URL:
    if isinstance(url, str):
        for scheme, stands_for in _SCHEMES.items():
            if url[: len(scheme)].lower() == scheme:
                return stands_for + url[len(scheme) :]
    return url
