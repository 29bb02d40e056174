"""Server-sent events: as the standard writes them, from sources of all kinds, to clients that leave and come back."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from forebay.http import App, HTTPServer, Receiver, Request
from forebay.http.event_hub import MISSED, Events
from forebay.http.sse import Event, EventStream, last_event_id
from tests.support import RawClient, eventually, raw_client, running

AT_ONCE = 0.1
"""Seconds within which a source is closed when its client has gone."""
BUSY = 0.4  # for a machine that has other things to do


def parse(data: bytes) -> list[dict[str, str]]:
    """What an ``EventSource`` makes of a stream (section 9.2.6), written down anew: type, data and last id of each."""
    events = []
    lines: list[str] = []
    kind = last = ""
    text = data.decode()
    *complete, _ = re.split("\r\n|\r|\n", text)
    for line in complete:
        if not line:
            if lines:
                events.append({"type": kind or "message", "data": "\n".join(lines), "id": last})
            kind, lines = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            lines.append(value)
        elif name == "id" and "\0" not in value:
            last = value
    return events


@pytest.mark.parametrize(
    ("event", "encoded"),
    [
        (Event("hello"), "data: hello\n\n"),
        (Event(""), "data: \n\n"),
        (Event("a\nb\r\nc\rd\n"), "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
        (Event("\u2028\x0b\x0c\x85"), "data: \u2028\x0b\x0c\x85\n\n"),
        (Event({"a": [1, None]}), 'data: {"a":[1,null]}\n\n'),
        (Event(0), "data: 0\n\n"),
        (Event(False), "data: false\n\n"),
        (Event(" spaced"), "data:  spaced\n\n"),
        (Event("x", "tick", "7", 2.5, "note"), ": note\nevent: tick\nid: 7\nretry: 2500\ndata: x\n\n"),
        (Event(id=""), "id: \n\n"),
        (Event(comment="a\nevent: forged"), ": a\n: event: forged\n\n"),
        (Event(), "\n"),
    ],
    ids=repr,
)
def test_events_are_written_as_the_standard_says(event: Event, encoded: str) -> None:
    """Each line of the data by itself; nothing can end a line that should not."""
    assert event.encoded == encoded.encode()


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\r\nb", "\n", "a\0b"])
@pytest.mark.parametrize("field", ["event", "id"])
def test_nobody_writes_lines_of_their_own(field: str, bad: str) -> None:
    """An id of a user's making must not become another user's event."""
    with pytest.raises(ValueError, match=f"Event {field} .*: must be without CR, LF and NUL"):
        Event("x", **{field: bad})  # type: ignore[arg-type]  # it is event or id
    with pytest.raises(ValueError, match="must be without CR, LF and NUL"):
        Events().publish("x", **{field: bad})


@pytest.mark.parametrize("retry", [-1, float("inf"), float("nan")])
def test_the_time_to_come_back_is_checked(retry: float) -> None:
    """Wherever it is said."""
    with pytest.raises(ValueError, match="must be 0 seconds or more"):
        Event(retry=retry)
    with pytest.raises(ValueError, match="must be 0 seconds or more"):
        EventStream(nothing(), retry=retry)


@pytest.mark.parametrize("heartbeat", [0, -1, float("inf"), float("nan")])
def test_the_heartbeat_is_checked(heartbeat: float) -> None:
    """With what would be right."""
    with pytest.raises(ValueError, match="must be more than 0 seconds, or None"):
        EventStream(nothing(), heartbeat=heartbeat)


async def nothing() -> AsyncIterator[str]:
    """A source without events."""
    for event in list[str]():
        yield event


_text = st.text(st.characters(exclude_categories=["Cs"]))
_line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"))


@given(st.lists(st.tuples(_text, _line, _line)))
def test_a_client_reads_what_was_written(events: list[tuple[str, str, str]]) -> None:
    """Whatever is in it, but that the ends of its lines are all alike, as the standard has it."""
    data = b"".join(Event(*event).encoded for event in events)
    expected = [
        {"type": kind or "message", "data": re.sub("\r\n|\r", "\n", data), "id": last} for data, kind, last in events
    ]
    assert parse(data) == expected


# -- over real sockets


@asynccontextmanager
async def serving(make: Callable[[Request], Any]) -> AsyncIterator[HTTPServer]:
    """A server whose ``/events`` is what ``make`` makes."""
    app = App()

    @app.get("/events")
    async def events(request: Request) -> Any:
        return make(request)

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        yield server


@asynccontextmanager
async def listening(server: HTTPServer, last: str = "", method: str = "GET") -> AsyncIterator[Listener]:
    """A client of the events, behind the head of the answer."""
    async with raw_client(server.addresses[0].port) as client:
        line = f"Last-Event-ID: {last}\r\n" if last else ""
        await client.send(f"{method} /events HTTP/1.1\r\nHost: a\r\n{line}\r\n".encode())
        yield Listener(client, await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 5))


class Listener:
    """Reads pieces of a stream, each of which comes in a chunk."""

    def __init__(self, client: RawClient, head: bytes) -> None:
        self.client = client
        self.head = head

    async def piece(self) -> bytes:
        """The next one; empty at the end of the answer."""
        size = int(await self.client.line(), 16)
        data = await self.client.exactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def rest(self) -> bytes:
        """All up to the end of the answer."""
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)


class Source:
    """Events that are handed out one by one; and what becomes of their iterator."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.state = "new"
        self.closed_at = 0.0
        self.asked = 0

    def is_asked(self, times: int) -> bool:
        """Whether it was asked so often."""
        return self.asked == times

    async def events(self) -> AsyncIterator[Any]:
        """The iterator."""
        self.state = "open"
        try:
            while True:
                self.asked += 1
                item = await self.queue.get()
                if isinstance(item, Exception):
                    raise item
                if item is StopAsyncIteration:
                    return
                yield item
        finally:
            await asyncio.sleep(0)  # it may take a wait to clean up
            self.state = "closed"
            self.closed_at = time.monotonic()


@pytest.mark.both_loops
async def test_a_stream_from_its_head_to_its_end() -> None:
    """Text, values and events; the headers that keep everybody on the way from holding them back."""

    class Point(msgspec.Struct):
        x: int

    async def events() -> AsyncIterator[Any]:
        yield "text"
        yield {"a": 1}
        yield Point(3)
        yield Event("late", id="9")

    async with serving(lambda _: EventStream(events(), retry=1.5)) as server, listening(server) as client:
        head = client.head.lower()
        for line in (b"content-type: text/event-stream", b"cache-control: no-store", b"x-accel-buffering: no"):
            assert b"\r\n" + line + b"\r\n" in head
        assert b"content-length" not in head
        rest = await client.rest()
        assert rest == b'retry: 1500\n\ndata: text\n\ndata: {"a":1}\n\ndata: {"x":3}\n\nid: 9\ndata: late\n\n'


async def test_events_leave_when_they_are_there_and_the_source_is_not_run_ahead() -> None:
    """It is asked for the next one when the one before was sent."""
    source = Source()
    async with serving(lambda _: EventStream(source.events())) as server, listening(server) as client:
        for number in range(3):
            await eventually(partial(source.is_asked, number + 1))
            source.queue.put_nowait(str(number))
            assert await client.piece() == b"data: %d\n\n" % number


async def test_all_steps_of_a_source_are_of_one_task() -> None:
    """So it can hold on to what belongs to a Task, such as a timeout, from one event to the next."""
    tasks = set()

    async def events() -> AsyncIterator[str]:
        async with asyncio.timeout(30):
            for number in range(3):
                tasks.add(asyncio.current_task())
                yield str(number)

    async with serving(lambda _: EventStream(events())) as server, listening(server) as client:
        assert len(parse(await client.rest())) == 3
        assert len(tasks) == 1


@pytest.mark.both_loops
async def test_heartbeats_keep_a_silent_stream_alive() -> None:
    """And do not disturb the source, which waits on."""
    source = Source()
    stream = lambda _: EventStream(source.events(), heartbeat=0.05)  # noqa: E731
    async with serving(stream) as server, listening(server) as client:
        assert await client.piece() == b":\n\n"
        assert await client.piece() == b":\n\n"
        source.queue.put_nowait("now")
        while (piece := await client.piece()) == b":\n\n":
            pass
        assert piece == b"data: now\n\n"
        assert await client.piece() == b":\n\n"
        assert source.asked == 2


async def test_without_a_heartbeat_nothing_is_sent() -> None:
    """Nor where there are events."""
    source = Source()
    stream = lambda _: EventStream(source.events(), heartbeat=None)  # noqa: E731
    async with serving(stream) as server, listening(server) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.client.line(), 0.4)


@pytest.mark.both_loops
@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("waits", [True, False])
async def test_the_source_is_closed_at_once_when_the_client_leaves(leave: str, waits: bool) -> None:
    """While it waits for its next event, and while it is waited for the client."""
    source = Source()
    async with serving(lambda _: EventStream(source.events())) as server, listening(server) as client:
        if waits:
            await eventually(lambda: source.asked == 1)
        else:
            client.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(200):
                source.queue.put_nowait("x" * 100_000)
            asked = -1
            while asked != source.asked:
                asked = source.asked
                await asyncio.sleep(0.1)
            assert source.asked < 200
        left = time.monotonic()
        if leave == "reset":
            client.client.abort()
        else:
            client.client.writer.transport.abort()
        await eventually(lambda: source.state == "closed")
        assert source.closed_at - left < AT_ONCE + BUSY
        await eventually(lambda: not server.in_flight)


async def test_a_source_that_was_not_begun_is_closed() -> None:
    """HEAD is answered with the head alone."""
    source = Source()
    closed = asyncio.Event()

    class Iterable:
        def __aiter__(self) -> AsyncIterator[Any]:
            return source.events()

        async def aclose(self) -> None:
            closed.set()

    async with serving(lambda _: EventStream(Iterable())) as server, listening(server, method="HEAD") as client:
        assert b"text/event-stream" in client.head
        await asyncio.wait_for(closed.wait(), 5)
        assert source.state == "new"


async def test_a_source_that_fails_breaks_the_answer_off() -> None:
    """So that the client notices, and comes back. The error is logged."""
    source = Source()
    with capture_logs() as logs:
        async with serving(lambda _: EventStream(source.events())) as server, listening(server) as client:
            source.queue.put_nowait("one")
            assert await client.piece() == b"data: one\n\n"
            source.queue.put_nowait(ValueError("broken"))
            assert await client.client.rest() == b""
    assert any(repr(entry.get("exc_info")) == "ValueError('broken')" for entry in logs)


async def test_a_source_that_fails_when_it_is_closed_is_told() -> None:
    """Nobody else would hear of it."""
    begun = asyncio.Event()

    async def events() -> AsyncIterator[str]:
        try:
            begun.set()
            await asyncio.Event().wait()
            yield "never"
        finally:
            raise ValueError("not closed")

    with capture_logs() as logs:
        async with serving(lambda _: EventStream(events())) as server:
            async with listening(server):
                await asyncio.wait_for(begun.wait(), 5)
            await eventually(lambda: any("when it was closed" in entry["event"] for entry in logs))


async def test_a_source_that_answers_its_cancellation_with_an_event_ends_all_the_same() -> None:
    """That event is not sent to anybody."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def events() -> AsyncIterator[str]:
        try:
            while True:
                try:
                    begun.set()
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    yield "stubborn"
        finally:
            ended.set()

    async with serving(lambda _: EventStream(events())) as server:
        async with listening(server):
            await asyncio.wait_for(begun.wait(), 5)
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_stream_ends_between_events_when_it_is_drained() -> None:
    """The event that is there is still sent; the source is closed."""
    source = Source()
    streams: list[EventStream] = []

    def make(_: Request) -> EventStream:
        streams.append(EventStream(source.events()))
        return streams[0]

    async with serving(make) as server, listening(server) as client:
        source.queue.put_nowait("one")
        assert await client.piece() == b"data: one\n\n"
        await eventually(lambda: source.asked == 2)
        streams[0].drain()
        assert await client.rest() == b""
        await eventually(lambda: source.state == "closed")


async def test_a_stream_that_has_an_end_of_its_own_is_not_ended_by_a_drain() -> None:
    """It has the rest of the time."""
    source = Source()
    stream = EventStream(source.events(), ends_at_drain=False)
    async with serving(lambda _: stream) as server, listening(server) as client:
        await eventually(lambda: source.asked == 1)
        stream.drain()
        source.queue.put_nowait("one")
        source.queue.put_nowait(StopAsyncIteration)
        assert await client.rest() == b"data: one\n\n"


@pytest.mark.skipif(not hasattr(Receiver, "on_drain"), reason="the core does not tell of a drain yet")
@pytest.mark.both_loops
async def test_a_server_that_drains_ends_its_streams() -> None:
    """Orderly, for a client to come back elsewhere; also one that begins only then."""
    source, hub = Source(), Events()
    late = asyncio.Event()
    app = App()

    @app.get("/events")
    async def events() -> EventStream:
        return EventStream(source.events())

    @app.get("/hub")
    async def from_hub() -> EventStream:
        return EventStream(hub.subscribe())

    @app.get("/late")
    async def later() -> EventStream:
        await late.wait()
        return EventStream(Source().events())

    server = HTTPServer(app, bind="http://127.0.0.1:0")
    await server.start()
    clients = [await RawClient.connect(server.addresses[0].port) for _ in range(3)]
    try:
        for client, path in zip(clients, ("/events", "/hub", "/late"), strict=True):
            await client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await eventually(lambda: source.asked == 1 and len(hub) == 1 and server.in_flight == 3)
        draining = asyncio.create_task(server.drain())
        for client in clients[:2]:
            status, _, body = await client.response()
            assert (status, body) == (200, b"")
        late.set()
        assert (await clients[2].response())[2] == b""
        await asyncio.wait_for(draining, 5)
    finally:
        for client in clients:
            await client.close()
        await server.stop()


# -- many clients


def made(hub: Events) -> Callable[[Request], EventStream]:
    """Streams of a hub, as a handler makes them."""
    return lambda request: EventStream(hub.subscribe(last_event_id(request)))


@pytest.mark.both_loops
async def test_all_clients_get_what_is_published() -> None:
    """In order, each with an id; and nothing is left of those that have gone."""
    hub = Events()
    async with serving(made(hub)) as server:
        async with listening(server) as one, listening(server) as two:
            await eventually(lambda: hub.statistics()["waiting"] == 2)
            assert hub.publish({"n": 1}, event="tick") == 2
            hub.publish(Event("two", event="tick"))
            for client in (one, two):
                first, second = await client.piece(), await client.piece()
                (event,) = parse(first)
                assert (event["type"], event["data"]) == ("tick", '{"n":1}')
                assert event["id"].endswith("-1")
                assert parse(second)[0]["id"].endswith("-2")
        await eventually(lambda: hub.statistics() == {"clients": 0, "waiting": 0, "published": 2})
        assert "to 0, 2 published" in repr(hub)
        assert len(hub) == 0


async def test_who_comes_back_gets_what_it_missed() -> None:
    """And then what is new, without a gap."""
    hub = Events(history=3)
    async with serving(made(hub)) as server:
        async with listening(server) as client:
            await eventually(lambda: hub.statistics()["waiting"] == 1)
            hub.publish("1")
            last = parse(await client.piece())[0]["id"]
        for number in (2, 3, 4):
            hub.publish(str(number))
        async with listening(server, last) as client:
            assert [parse(await client.piece())[0]["data"] for _ in range(3)] == ["2", "3", "4"]
            hub.publish("5")
            assert parse(await client.piece())[0]["data"] == "5"


async def test_who_missed_too_much_is_told() -> None:
    """By an event of its own, how much; then what is new. When it comes back again, it has missed nothing more."""
    hub = Events(history=3, queue=1)
    subscription = hub.subscribe()
    hub.publish("1")
    first = await anext(subscription)
    for number in range(2, 6):
        hub.publish(str(number))
    again = hub.subscribe(first.id)
    missed = await anext(again)
    assert (missed.event, missed.data, again.missed) == (MISSED, {"missed": 4}, 4)
    resumed = hub.subscribe(missed.id)
    hub.publish("6")
    assert (await anext(again)).data == (await anext(resumed)).data == "6"


@pytest.mark.parametrize(
    "last", ["", "nonsense", "0000-1", "{epoch}-99", "{epoch}--1", "{epoch}-", "{epoch}-" + "9" * 99]
)
async def test_an_id_of_another_life_is_not_taken_for_one_of_this(last: str) -> None:
    """Nobody knows how much was missed then."""
    hub = Events()
    hub.publish("1")
    subscription = hub.subscribe(last.format(epoch=hub._epoch))
    missed = await anext(subscription)
    assert (missed.event, missed.data) == (MISSED, {"missed": None})
    hub.publish("2")
    assert (await anext(subscription)).data == "2"


async def test_ids_of_ones_own() -> None:
    """Are kept, and found again as long as their events are."""
    hub = Events(history=2, queue=1)
    for name in "abcd":
        hub.publish(name, id=f"own {name}")
    assert (await anext(hub.subscribe("own b"))).id == "own c"
    assert (await anext(hub.subscribe("own a"))).event == MISSED
    for number in range(100):
        hub.publish(str(number), id=f"n{number}")
    assert len(hub._ids) == len(hub._kept) == 3


async def test_a_slow_client_goes_on_with_the_newest() -> None:
    """And is told how many it will not get."""
    hub = Events(queue=3, history=1, when_slow="drop-oldest")
    subscription = hub.subscribe()
    for number in range(10):
        hub.publish(str(number))
    events = [await anext(subscription) for _ in range(4)]
    assert [event.data for event in events] == [{"missed": 7}, "7", "8", "9"]
    resumed = hub.subscribe(events[0].id)
    assert (await anext(resumed)).data == {"missed": 3}  # its history is shorter than that
    assert subscription.missed == 7


async def test_a_slow_client_is_closed_where_that_is_said() -> None:
    """It comes back, and has what the history has."""
    hub = Events(queue=2, history=10)
    subscription = hub.subscribe()
    hub.publish("0")
    first = await anext(subscription)
    for number in range(1, 4):
        hub.publish(str(number))
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)
    assert len(hub) == 0
    again = hub.subscribe(first.id)
    assert [(await anext(again)).data for _ in range(3)] == ["1", "2", "3"]


async def test_a_client_that_reads_nothing_keeps_nothing_waiting() -> None:
    """What waits for it waits once for all, and the others do not notice."""
    hub = Events(queue=100)
    async with serving(made(hub)) as server, listening(server) as slow, listening(server) as quick:
        await eventually(lambda: hub.statistics()["waiting"] == 2)
        slow.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(300):
            hub.publish("x" * 100_000, event=str(number))
            assert parse(await quick.piece())[0]["type"] == str(number)
        assert len(hub) == 2
        slow.client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert 0 < len(parse(await slow.rest())) < 300  # the end: it was too slow
        assert len(hub) == 1


@pytest.mark.both_loops
async def test_a_hub_that_closes_ends_its_streams() -> None:
    """Behind what was published; nothing more is."""
    hub = Events()
    async with serving(made(hub)) as server, listening(server) as client:
        await eventually(lambda: hub.statistics()["waiting"] == 1)
        hub.publish("last")
        hub.close()
        assert [event["data"] for event in parse(await client.rest())] == ["last"]
        with pytest.raises(RuntimeError, match="is closed"):
            hub.publish("more")


async def test_a_subscription_that_is_drained_gives_what_there_is() -> None:
    """And no more, whatever is published meanwhile."""
    hub = Events()
    subscription = hub.subscribe()
    hub.publish("1")
    hub.publish("2")
    subscription.drain()
    hub.publish("3")
    assert [event.data async for event in subscription] == ["1", "2"]


async def test_events_of_a_hub_can_be_chosen_for_a_client() -> None:
    """By a generator of one's own."""
    hub = Events()

    async def even() -> AsyncIterator[Event]:
        async for event in hub.subscribe():
            if event.data % 2 == 0:
                yield event

    async with serving(lambda _: EventStream(even())) as server:
        async with listening(server) as client:
            await eventually(lambda: hub.statistics()["waiting"] == 1)
            for number in range(4):
                hub.publish(number)
            assert [parse(await client.piece())[0]["data"] for _ in range(2)] == ["0", "2"]
        await eventually(lambda: hub.statistics() == {"clients": 0, "waiting": 0, "published": 4})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"history": 0}, "history 0: must be at least 1"),
        ({"queue": 0}, "queue 0: must be at least 1"),
        ({"when_slow": "wait"}, "when_slow 'wait': must be one of drop-oldest, close"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    """Each with what would be right."""
    with pytest.raises(ValueError, match=message):
        Events(**arguments)


@pytest.mark.parametrize(("sent", "seen"), [("", None), ("abc-7", "abc-7"), ("é", "é")])
async def test_the_last_id_is_read_as_it_was_written(sent: str, seen: str | None) -> None:
    """In UTF-8, which other header fields are not."""
    line = f"last-event-id: {sent}\r\n" if sent else ""
    async with (
        serving(lambda request: [last_event_id(request)]) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        await client.send(f"GET /events HTTP/1.1\r\nhost: a\r\n{line}\r\n".encode())
        assert msgspec.json.decode((await client.response())[2]) == [seen]
