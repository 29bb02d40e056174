"""Events for many clients at once, and for those who come back what they missed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from math import inf
from secrets import token_hex
from typing import Any, Literal, get_args
from weakref import WeakSet

from forebay.http.sse import Event, Feed

__all__ = ["MISSED", "Events", "Subscription"]

MISSED = "missed"
"""The type of the event that tells a client that there were events which it will not get. Its data is
``{"missed": N}``, with null where nobody knows how many. The page should fetch anew what the events keep up to date."""

WhenSlow = Literal["drop-oldest", "close"]


class Events:
    """Publishes events to the clients of this process. To be used from one loop.

    ::

        prices = Events()

        @app.get("/prices")
        async def stream(request: Request) -> EventStream:
            return EventStream(prices.subscribe(last_event_id(request)))

        prices.publish({"at": 3.14}, event="price")

    The last events are kept once for all clients; a client is a place among them. So publishing costs what it takes to
    wake those who wait, and a client that is slow costs nothing.

    Every event gets an id, unless it has one: which life of the hub it is of, and its number. A client that comes back
    with ``Last-Event-ID`` gets what was published since; when that is not known any more, or the id is of another
    process or another life, it gets one :data:`MISSED` event instead, and then what is new.

    :param history: events kept for clients that come back.
    :param queue: events that may wait for one client.
    :param when_slow: what becomes of a client for which more of them wait, once it reads on: ``close`` ends its stream,
        upon which it comes back, and has what the history has; ``drop-oldest`` goes on with the newest ``queue`` events
        after a :data:`MISSED` event. One that does not read at all is the server's to close (``timeouts.write``).
    :raises ValueError: a number is less than 1, or ``when_slow`` is another word.
    """

    __slots__ = ("_closed", "_epoch", "_ids", "_kept", "_open", "_waiting", "history", "newest", "queue", "when_slow")

    def __init__(self, *, history: int = 100, queue: int = 100, when_slow: WhenSlow = "close") -> None:
        for name, value in (("history", history), ("queue", queue)):
            if value < 1:
                raise ValueError(f"Events {name} {value}: must be at least 1")
        if when_slow not in get_args(WhenSlow):
            raise ValueError(f"Events when_slow {when_slow!r}: must be one of {', '.join(get_args(WhenSlow))}")
        self.history = history
        self.queue = queue
        self.when_slow = when_slow
        self.newest = 0
        """How many events were published."""
        self._epoch = token_hex(4)
        self._kept: list[Event | None] = [None] * (max(history, queue) + 1)  # event n is at n % its length
        self._ids: dict[str, int] = {}  # of those that are kept
        self._open: WeakSet[Subscription] = WeakSet()
        self._waiting: dict[Subscription, None] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<Events to {len(self)}, {self.newest} published>"

    def __len__(self) -> int:
        """Clients that listen."""
        return len(self._open)

    def publish(
        self,
        data: Any = None,
        *,
        event: str | None = None,
        id: str | None = None,  # noqa: A002  # the standard's name
    ) -> int:
        """Send an event to all clients. It never waits.

        :param data: and ``event``, ``id``: as for :class:`Event`; or an :class:`Event`, alone. An id of one's own must
            be another one for each event.
        :return: how many listen.
        :raises ValueError: see :class:`Event`.
        :raises RuntimeError: the hub is closed.
        """
        if self._closed:
            raise RuntimeError(f"{self!r} is closed")
        number = self.newest + 1
        if not isinstance(data, Event):
            data = Event(data, event, f"{self._epoch}-{number}" if id is None else id)
        elif data.id is None:
            data = Event(data.data, data.event, f"{self._epoch}-{number}", data.retry, data.comment)
        place = number % len(self._kept)
        previous = self._kept[place]
        if previous is not None and previous.id is not None and self._ids.get(previous.id) == number - len(self._kept):
            del self._ids[previous.id]
        self._kept[place] = data
        if data.id is not None:
            self._ids[data.id] = number
        self.newest = number
        waiting, self._waiting = self._waiting, {}
        for one in waiting:
            one.gate.open()
        return len(self._open)

    def subscribe(self, last_event_id: str | None = None) -> Subscription:
        """What is published from now on, for an :class:`~forebay.http.sse.EventStream`, or to iterate over.

        :param last_event_id: what the client had last: it gets first what it missed.
        """
        if last_event_id is None:
            return Subscription(self, self.newest)
        place = self._place_of(last_event_id)
        if place is None:
            return Subscription(self, self.newest, unknown=True)
        behind = self.newest - place
        return Subscription(self, place) if behind <= self.history else Subscription(self, self.newest, missed=behind)

    def _place_of(self, last: str) -> int | None:
        """The number of the event with this id; None: nobody knows."""
        number = self._ids.get(last)
        if number is None:
            epoch, _, digits = last.rpartition("-")
            if epoch == self._epoch and digits.isascii() and digits.isdecimal() and len(digits) < 19:
                number = int(digits)
        return number if number is not None and number <= self.newest else None

    def _id_of(self, number: int) -> str:
        """The id of the event with this number, one of those that are kept; or what :meth:`_place_of` takes for it."""
        found = self._kept[number % len(self._kept)] if number else None
        return found.id if found is not None and found.id is not None else f"{self._epoch}-{number}"

    def close(self) -> None:
        """Publish no more: clients get what was, and then the end."""
        self._closed = True
        waiting, self._waiting = self._waiting, {}
        for one in waiting:
            one.gate.open()

    def statistics(self) -> dict[str, int]:
        """The state now."""
        return {"clients": len(self._open), "waiting": len(self._waiting), "published": self.newest}


class Subscription(Feed, AsyncIterator[Event]):
    """One client's place among the events of a hub, made by :meth:`Events.subscribe`.

    :ivar missed: how many events it did not get, as far as that is known.
    """

    __slots__ = ("__weakref__", "_begun", "_hub", "_last", "_limit", "_place", "_tells", "missed")

    def __init__(self, hub: Events, place: int, *, unknown: bool = False, missed: int = 0) -> None:
        super().__init__()
        self._hub = hub
        self._place = place  # the number of the last event it had
        self._last = inf  # the number of the last one it will get
        self._limit = hub.queue if place == hub.newest else max(hub.history, hub.queue)  # until it has caught up
        self._tells = unknown or missed > 0
        self._begun = False
        self.missed = missed

    def __repr__(self) -> str:
        return f"<Subscription of {self._hub!r} behind by {self._hub.newest - self._place}>"

    def take(self) -> Event | None:
        """The next event; None: there is none yet, and ``gate`` will open.

        :raises StopAsyncIteration: there will be none any more: the hub or this was closed, or the client was too slow.
        """
        hub = self._hub
        if not self._begun:
            self._begun = True
            hub._open.add(self)
        if self._tells:
            self._tells = False
            return self._missed(self.missed or None)
        if self._place >= self._last:
            self._leave()
            raise StopAsyncIteration
        behind = hub.newest - self._place
        if not behind:
            if hub._closed:
                self._leave()
                raise StopAsyncIteration
            hub._waiting[self] = None
            return None
        if behind > self._limit:
            if hub.when_slow == "close":
                self._leave()
                raise StopAsyncIteration
            lost = behind - hub.queue
            self.missed += lost
            self._place += lost
            self._limit = hub.queue
            return self._missed(lost)
        if behind == 1:
            self._limit = hub.queue
        self._place += 1
        return hub._kept[self._place % len(hub._kept)]

    def _missed(self, count: int | None) -> Event:
        return Event({"missed": count}, MISSED, self._hub._id_of(self._place))

    def _leave(self) -> None:
        self._last = 0
        self._hub._open.discard(self)
        self._hub._waiting.pop(self, None)

    def poll(self) -> bytes:
        """See :class:`Feed`."""
        event = self.take()
        return b"" if event is None else event.encoded

    async def __anext__(self) -> Event:
        try:
            while True:
                self.gate.close()
                event = self.take()
                if event is not None:
                    return event
                await self.gate.wait()
        except BaseException:  # nobody may come again, and who holds on to the error holds on to this
            self._begun = False
            self._hub._open.discard(self)
            self._hub._waiting.pop(self, None)
            raise

    def drain(self) -> None:
        """Come to the end, behind what was published until now."""
        self._last = min(self._last, self._hub.newest)
        self.gate.open()

    async def aclose(self) -> None:
        """Nothing more of it is wanted."""
        self._begun = True
        self._tells = False
        self._leave()
        self.gate.open()
