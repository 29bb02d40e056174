"""Server-sent events: an answer that goes on, and that a browser's ``EventSource`` takes up again by itself (WHATWG
HTML standard, section 9.2).

::

    @app.get("/ticks")
    async def ticks() -> EventStream:
        async def events() -> AsyncIterator[Event]:
            while True:
                yield Event({"at": time.time()}, event="tick")
                await asyncio.sleep(1)

        return EventStream(events())

One source of events for many clients is :class:`forebay.http.event_hub.Events`.

A client reads lines, and joins them to events at empty ones. So what goes into a line must not end it: ``event`` and
``id`` with a line end in them are refused, and every line of ``data`` is sent as one of its own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from math import inf
from typing import Any

import msgspec
import structlog

from forebay.engine.loop import ticker
from forebay.engine.tasks import Gate, Task, place_of_task, start_task, unfinished
from forebay.http.messages import Request, Response

__all__ = ["Event", "EventStream", "Feed", "last_event_id"]

log = structlog.get_logger("forebay.http")

_LINE_END = re.compile(r"\r\n|\r|\n")  # section 9.2.5; others, such as U+2028, are characters like any other
_ENDS_LINE = re.compile(r"[\r\n\0]")
_BEAT = b":\n\n"
_LOOK_AGAIN = 60.0  # seconds between two looks at a source that does not end although it was cancelled

_encode_json = msgspec.json.Encoder().encode


class Event:
    """One event. It is encoded when it is made, so that one sent to many clients is encoded once: ``encoded``.

    :param data: a str is sent as it is; anything else as JSON; None: without data, which a page does not get to see
        (but its ``EventSource`` does: ``id`` and ``retry`` count). JSON's ``null`` is the str ``"null"``.
    :param event: its type, which the page listens for; None: ``message``.
    :param id: what the client says in ``Last-Event-ID`` when it comes back; "" makes it forget the last one.
    :param retry: seconds that the client is to wait before it comes back, from now on.
    :param comment: text that nobody sees, but whoever looks at the bytes.
    :raises ValueError: ``event`` or ``id`` has CR, LF or NUL; ``retry`` is negative; text has lone surrogates.
    :raises TypeError: msgspec cannot encode ``data``.
    """

    __slots__ = ("comment", "data", "encoded", "event", "id", "retry")

    def __init__(
        self,
        data: Any = None,
        event: str | None = None,
        id: str | None = None,  # noqa: A002  # the standard's name
        retry: float | None = None,
        comment: str | None = None,
    ) -> None:
        self.data = data
        self.event = event
        self.id = id
        self.retry = retry
        self.comment = comment
        lines = []
        if comment is not None:
            lines += [f": {line}\n" for line in _LINE_END.split(comment)]
        if event is not None:
            lines.append(f"event: {_checked('event', event)}\n")
        if id is not None:
            lines.append(f"id: {_checked('id', id)}\n")
        if retry is not None:
            lines.append(f"retry: {_milliseconds(retry)}\n")
        if data is not None:
            text = data if isinstance(data, str) else _encode_json(data).decode()
            if "\n" in text or "\r" in text:
                lines += [f"data: {line}\n" for line in _LINE_END.split(text)]
            else:
                lines.append(f"data: {text}\n")
        lines.append("\n")
        self.encoded = "".join(lines).encode()

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name in ("event", "id") if (value := getattr(self, name)) is not None]
        return f"<Event {' '.join([*shown, f'{len(self.encoded)} bytes'])}>"


def _checked(name: str, value: str) -> str:
    if _ENDS_LINE.search(value):
        raise ValueError(f"Event {name} {value[:80]!r}: must be without CR, LF and NUL")
    return value


def _milliseconds(seconds: float) -> int:
    if not 0 <= seconds < inf:
        raise ValueError(f"retry {seconds}: must be 0 seconds or more")
    return round(seconds * 1000)


def last_event_id(request: Request) -> str | None:
    """The id of the last event the client had, when it comes back after its connection was lost; None when it comes
    anew, or had none with an id (section 9.2.4)."""
    value = request.exchange.header(b"last-event-id")
    return value.decode("utf-8", "replace") if value else None


class Feed:
    """Where a stream takes its pieces from, without waiting for them. ``gate`` opens when it is worth to ask again."""

    __slots__ = ("gate",)

    def __init__(self) -> None:
        self.gate = Gate()

    def poll(self) -> bytes:
        """The next piece; empty: there is none yet.

        :raises StopAsyncIteration: there will be none any more.
        :raises Exception: whatever the source raised.
        """
        raise NotImplementedError

    def drain(self) -> None:
        """The server drains: come to the end."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nobody wants any more of it. It may be called again, and before the first :meth:`poll`."""
        raise NotImplementedError


class _Iterated(Feed):
    """The pieces of an async iterator. One Task takes all steps of it, in one context: what it entered in one step, a
    timeout or a task group, it leaves in the same Task."""

    __slots__ = ("_closed", "_drained", "_piece", "_source", "_task", "_told", "_wanted")

    def __init__(self, source: AsyncIterable[Any]) -> None:
        super().__init__()
        self._source = source
        self._task: Task[None] | None = None
        self._wanted = Gate(is_open=True)
        self._piece = b""
        self._drained = False
        self._closed = False
        self._told = False  # how it ended

    def poll(self) -> bytes:
        if self._task is None and not self._drained:
            self._task = start_task(self._iterate(), "events")
            self._task.add_done_callback(self._ended)
        piece, self._piece = self._piece, b""
        if piece:
            return piece
        if self._task is not None and self._task.done():
            self._told = True
            self._task.result()
            raise StopAsyncIteration
        if self._drained:
            raise StopAsyncIteration
        self._wanted.open()
        return b""

    async def _iterate(self) -> None:
        iterator = aiter(self._source)
        try:
            async for item in iterator:
                if self._closed:  # it made an event of its cancellation
                    break
                self._piece = (item if isinstance(item, Event) else Event(item)).encoded
                self._wanted.close()
                self.gate.open()
                await self._wanted.wait()  # it is not asked for more than is sent
        finally:
            await _close(iterator)
            if iterator is not self._source:
                await _close(self._source)

    def _ended(self, task: Task[None]) -> None:
        self.gate.open()

    def drain(self) -> None:
        self._drained = True
        self.gate.open()

    async def aclose(self) -> None:
        self._closed = self._drained = True
        task = self._task
        if task is None:
            await _close(self._source)
            return
        if not task.done():
            task.cancel()
        while await unfinished([task], _LOOK_AGAIN):
            log.warning("source of events ignores its cancellation", source=repr(self._source), at=place_of_task(task))
        if not (self._told or task.cancelled()) and (error := task.exception()) is not None:
            self._told = True
            log.error("source of events failed when it was closed", source=repr(self._source), exc_info=error)


async def _close(iterator: Any) -> None:
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()


class EventStream(Response):
    """An answer that goes on for as long as there are events, or the client is there.

    :param events: an async iterable of :class:`Event`, or of what is an event's data: a str, or what becomes JSON; or a
        :class:`Feed`, as :meth:`Events.subscribe` gives one. It is asked for the next event when the one before was
        sent, at the pace of the client. When the client leaves, it is cancelled where it waits, and closed
        (``aclose``), at once.
    :param heartbeat: seconds without an event after which a comment is sent, at most 0.2 late, so that nobody on the
        way takes the connection for dead; None: none is.
    :param retry: seconds that the client is to wait before it comes back; None: it decides, most wait 3.
    :param ends_at_drain: end the answer, between two events, when the server drains: the client then comes back, to
        another server or the one that follows this one, and says what it had last. False: for events that come to an
        end by themselves; they have the rest of the time the server has.
    :param headers: further ones.
    :raises ValueError: ``heartbeat`` or ``retry`` makes no sense.

    A browser comes back after any end of a stream. Answer 204 to one that is to stay away.
    """

    __slots__ = ("_ends_at_drain", "_pieces")

    def __init__(
        self,
        events: AsyncIterable[Any] | Feed,
        *,
        heartbeat: float | None = 15.0,
        retry: float | None = None,
        ends_at_drain: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if heartbeat is not None and not 0 < heartbeat < inf:
            raise ValueError(f"EventStream heartbeat {heartbeat}: must be more than 0 seconds, or None")
        first = b"" if retry is None else b"retry: %d\n\n" % _milliseconds(retry)
        feed = events if isinstance(events, Feed) else _Iterated(events)
        self._pieces = _Pieces(feed, heartbeat, first)
        super().__init__(self._pieces, headers=headers)
        self.headers["content-type"] = "text/event-stream"
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"  # nginx would keep events back until its buffer is full
        self._ends_at_drain = ends_at_drain

    def drain(self) -> None:
        """The server drains: end, unless the events are to come to their own end."""
        if self._ends_at_drain:
            self._pieces.feed.drain()


class _Pieces(AsyncIterator[bytes]):
    """What is sent of a feed, and what is when there is nothing to send. An entry of the loop's timer wheel: its
    deadline moves on with every piece, which costs next to nothing."""

    __slots__ = ("_closed", "_first", "_heartbeat", "_overdue", "_waits", "due_at", "expires_at", "feed")

    def __init__(self, feed: Feed, heartbeat: float | None, first: bytes) -> None:
        self.feed = feed
        self.due_at = self.expires_at = inf
        self._heartbeat = heartbeat
        self._first = first
        self._waits = False
        self._overdue = False
        self._closed = False

    async def __anext__(self) -> bytes:
        if self._closed:
            raise StopAsyncIteration
        feed, heartbeat = self.feed, self._heartbeat
        if self._first:
            piece, self._first = self._first, b""
            return piece
        self._overdue = False
        if heartbeat is not None:
            wheel = ticker()
            self.expires_at = wheel.read() + heartbeat + wheel.resolution
        while True:
            feed.gate.close()
            piece = feed.poll()
            if piece:
                return piece
            if self._overdue:
                return _BEAT
            if heartbeat is not None and self.due_at == inf:
                ticker().hold(self)
            self._waits = True
            try:
                await feed.gate.wait()
            finally:
                self._waits = False

    def on_expired(self) -> None:
        """Nothing was sent for too long."""
        if self._waits:
            self._overdue = True
            self.feed.gate.open()

    async def aclose(self) -> None:
        """Close the source."""
        self._closed = True
        if self.due_at != inf:
            ticker().discard(self)
        await self.feed.aclose()
