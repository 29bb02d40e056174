"""EventSource: events over lost connections, what ends it, and what it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from forebay.engine.reconnecting import ClientState
from forebay.errors import (
    ConnectFailed,
    ContentTooLarge,
    DeadlineExceeded,
    ForebayError,
    ReadTimeout,
    UpstreamClosed,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamStatus,
)
from forebay.http import App, Event, EventStream, HTTPServer, Request
from forebay.http.client import Client
from forebay.http.client.event_reader import EventReader, ServerSentEvent
from forebay.http.client.events import EventSource
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.sse import last_event_id
from forebay.policy.backoff import Backoff
from forebay.testing import FaultProxy, VirtualClock
from tests.http.client.kit import Peer, at_rest, nothing_left, playing
from tests.support import eventually, free_port, running

FAST = Backoff(initial=0.01, factor=1.0, cap=0.01, jitter="none")
STREAM = [("content-type", "text/event-stream")]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"


# -- servers


def counting(each: int, *, heartbeat: float = 15.0, pace: float = 0.0) -> App[Any]:
    """Events 1, 2, 3 ... which go on behind the last one that the client had; each connection gets so many."""
    app: App[Any] = App()

    @app.get("/updates")
    async def updates(request: Request) -> EventStream:
        first = int(last_event_id(request) or "0") + 1

        async def events() -> AsyncIterator[Event]:
            for number in range(first, first + each):
                yield Event(f"event {number}", id=str(number))
                await asyncio.sleep(pace)

        return EventStream(events(), heartbeat=heartbeat)

    return app


@asynccontextmanager
async def serving(app: App[Any], port: int = 0) -> AsyncIterator[str]:
    """A server, which has served before, and its URL."""
    server = HTTPServer(app, bind=f"http://127.0.0.1:{port}")
    async with running(server):
        url = f"http://127.0.0.1:{server.addresses[0].port}"
        async with Client(url) as client, client.get("/updates"):
            pass
        yield url


async def take(events: EventSource, count: int) -> list[str]:
    """The ids of the next ``count`` events."""
    async with asyncio.timeout(10):
        return [(await anext(events)).id for _ in range(count)]


def numbers(count: int, first: int = 1) -> list[str]:
    """The ids of events in order."""
    return [str(number) for number in range(first, first + count)]


class Answers:
    """A transport that answers with what it is given, one after the other, the last one again and again. ``asked`` are
    the requests and when they came."""

    def __init__(self, clock: VirtualClock, *answers: Callable[[ClientRequest], ClientResponse]) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.asked: list[tuple[float, ClientRequest]] = []

    async def start(self) -> None:
        """See Transport."""

    drain = stop = start

    async def send(self, request: ClientRequest) -> ClientResponse:
        """See Transport."""
        self.asked.append((self.clock.now(), request))
        return (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(request)

    @property
    def waits(self) -> list[float]:
        """Seconds between requests."""
        times = [at for at, _ in self.asked]
        return [round(after - before, 6) for before, after in pairwise(times)]


def status(code: int, **fields: str) -> Callable[[ClientRequest], ClientResponse]:
    """An answer without content."""
    pairs = [(name.replace("_", "-"), value) for name, value in fields.items()]
    return lambda request: ClientResponse.made(request, code, pairs)


def stream(*pieces: bytes) -> Callable[[ClientRequest], ClientResponse]:
    """An event stream that ends."""

    async def content() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return lambda request: ClientResponse.made(request, 200, STREAM, content())


def failing(error: ForebayError) -> Callable[[ClientRequest], ClientResponse]:
    """No answer."""

    def fail(request: ClientRequest) -> ClientResponse:
        raise error

    return fail


def virtually(
    test: Callable[[EventSource, Answers], Awaitable[None]],
    *answers: Callable[[ClientRequest], ClientResponse],
    **options: Any,
) -> None:
    """Run ``test`` in virtual time."""
    with VirtualClock() as clock:
        transport = Answers(clock, *answers)

        async def main() -> None:
            async with Client("http://events.test", transport=transport) as client:
                await test(EventSource(client, "/updates?key=secret", **options), transport)

        clock.run(main())


# -- what comes


@pytest.mark.both_loops
async def test_events_go_on_over_connections() -> None:
    """In order, none twice, each connection behind the last event of the one before."""
    async with (
        serving(counting(3)) as url,
        nothing_left(),
        Client(url) as client,
    ):
        async with EventSource(client, "/updates", backoff=FAST) as events:
            assert await take(events, 10) == numbers(10)
            assert events.last_event_id == "10"
            assert events.reconnects >= 3
            assert events.failures == 0
        assert events.state is ClientState.CLOSED
        await at_rest(client)


async def test_a_beginning_in_the_middle() -> None:
    """``last_event_id`` is what the first request begins behind."""
    async with (
        serving(counting(3)) as url,
        Client(url) as client,
        EventSource(client, "/updates", last_event_id="41", backoff=FAST) as events,
    ):
        assert events.last_event_id == "41"
        assert await take(events, 4) == numbers(4, first=42)


async def test_a_server_that_is_killed_and_comes_back() -> None:
    """The client finds it again, and goes on where it was."""
    port = free_port()
    async with Client(f"http://127.0.0.1:{port}") as client:
        states: list[ClientState] = []
        source = EventSource(client, "/updates", backoff=FAST, on_state=lambda state, _: states.append(state))
        async with source as events:
            await eventually(lambda: events.failures >= 2)  # nobody is there yet
            assert isinstance(events.reason, ConnectFailed)
            for first in (1, 101):
                async with serving(counting(100), port):
                    assert await take(events, 100) == numbers(100, first=first)
            await eventually(lambda: not events.connected)
        assert states[:3] == [ClientState.CONNECTING, ClientState.WAITING, ClientState.CONNECTING]
        assert states.count(ClientState.CONNECTED) == events.connects >= 2
        assert states[-1] is ClientState.CLOSED
        await at_rest(client)


async def test_resets_lose_nothing_and_repeat_nothing() -> None:
    """Connections that are reset in the middle of events, again and again."""
    async with (
        serving(counting(10_000)) as url,
        FaultProxy(url.replace("http", "tcp"), slice=7) as proxy,
        nothing_left(),
        Client(f"http://127.0.0.1:{proxy.address.port}") as client,
    ):
        proxy.down.reset_after_bytes = 4001
        async with EventSource(client, "/updates", backoff=FAST) as events:
            assert await take(events, 500) == numbers(500)
            assert events.reconnects >= 3


async def test_a_black_hole_is_noticed_by_its_silence() -> None:
    """No byte for ``heartbeat`` seconds, and it is tried again."""
    async with (
        serving(counting(10_000, pace=0.01)) as url,
        FaultProxy(url.replace("http", "tcp")) as proxy,
        nothing_left(),
        Client(f"http://127.0.0.1:{proxy.address.port}") as client,
        EventSource(client, "/updates", backoff=FAST, heartbeat=0.3) as events,
    ):
        ids = await take(events, 5)
        proxy.black_hole = True
        await eventually(lambda: not events.connected)
        assert isinstance(events.reason, ReadTimeout)
        await proxy.reset()
        proxy.black_hole = False
        while len(ids) < 300:
            ids += await take(events, 1)
        assert ids == numbers(300)
        assert events.reconnects >= 1


async def test_comments_keep_a_connection() -> None:
    """They are bytes: a silent stream with them is not given up."""
    app: App[Any] = App()

    @app.get("/updates")
    async def updates() -> EventStream:
        async def events() -> AsyncIterator[Event]:
            for _ in range(6):
                await asyncio.sleep(0.1)
                yield Event(comment="still here")
            yield Event("at last")
            await asyncio.Event().wait()

        return EventStream(events(), heartbeat=None)

    async with (
        serving(app) as url,
        Client(url) as client,
        EventSource(client, "/updates", backoff=FAST, heartbeat=0.4) as events,
    ):
        assert (await anext(events)).data == "at last"
        assert events.connects == 1
        await eventually(lambda: events.connects == 2)  # and without them it is


async def test_a_slow_program_holds_the_server_back() -> None:
    """What waits is bounded, and all of it comes in the end."""
    sent = 0

    async def flood(peer: Peer) -> None:
        nonlocal sent
        await peer.asked()
        await peer.say(HEAD)
        while sent < 3000:
            sent += 1
            await peer.say(b"id: %d\ndata: %b\n\n" % (sent, b"x" * 5000))

    async with playing(flood) as server, Client(server.url) as client, EventSource(client, "/") as events:
        last = -1
        while last != sent:  # until nothing moves
            last = sent
            await asyncio.sleep(0.2)
        assert 0 < sent < 2900
        assert await take(events, 3000) == numbers(3000)
        assert events.connects == 1


async def test_leaving_a_flood_is_nothing_to_tell() -> None:
    """Whoever has enough of it leaves, and no log says that something was forgotten."""

    async def flood(peer: Peer) -> None:
        await peer.asked()
        await peer.say(HEAD)
        with suppress(OSError):
            while True:
                await peer.say(b"data: %b\n\n" % (b"x" * 50_000))

    async with playing(flood) as server, nothing_left(), Client(server.url) as client:
        with capture_logs() as told:
            async with EventSource(client, "/") as events:
                assert len(await take(events, 20)) == 20
        assert {entry["event"] for entry in told} == {"connected"}
        await at_rest(client)


# -- what ends it


def test_204_ends_it() -> None:
    """The server wants no more connections."""

    async def test(source: EventSource, transport: Answers) -> None:
        async with source as events:
            assert [event.data async for event in events] == ["a"]
            assert [event async for event in events] == []
        assert len(transport.asked) == 2

    virtually(test, stream(b"data: a\n\n"), status(204))


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (status(404), UpstreamStatus, "http|/updates: 404 Not Found"),
        (status(401), UpstreamStatus, "401"),
        (status(200), UpstreamProtocolError, "content-type is '', not text/event-stream"),
        (status(200, content_type="text/html"), UpstreamProtocolError, "content-type is 'text/html'"),
        (status(206, content_type="text/event-stream"), UpstreamProtocolError, "neither 200 nor 204"),
        (stream(b"data: " + b"x" * (1 << 20) + b"\n"), ContentTooLarge, "longer than 1048576"),
        (failing(UpstreamProtocolError("nonsense")), UpstreamProtocolError, "nonsense"),
    ],
)
def test_what_is_of_no_use_to_try_again(answer: Any, error: type[ForebayError], text: str) -> None:
    """It fails at once, with one request; the error is raised once and has no secrets."""

    async def test(source: EventSource, transport: Answers) -> None:
        async with source as events:
            with pytest.raises(error, match=text) as caught:
                await anext(events)
            assert "secret" not in str(caught.value)
            assert [event async for event in events] == []
            assert events.reason is caught.value
            assert len(transport.asked) == 1

    virtually(test, answer)


@pytest.mark.parametrize("head", ["200 OK\r\nContent-Type: text/html", "404 Not Found"])
async def test_what_is_no_stream_is_left(head: str) -> None:
    """However long it goes on; nobody finds it forgotten."""

    async def endless(peer: Peer) -> None:
        await peer.asked()
        await peer.say(f"HTTP/1.1 {head}\r\n\r\n".encode())
        await peer.say_for_ever(b"x" * 1000)

    async with playing(endless) as server, nothing_left(), Client(server.url) as client:
        with structlog.testing.capture_logs() as lines:
            async with EventSource(client, "/") as events:
                with pytest.raises(UpstreamError):
                    await anext(events)
                await eventually(lambda: server.open == 0)
                await at_rest(client)
        assert [line for line in lines if "response" in line["event"]] == []


def test_what_came_before_the_end_comes_first() -> None:
    """Then the error."""

    async def test(source: EventSource, transport: Answers) -> None:
        got: list[str] = []
        async with source as events:
            with pytest.raises(UpstreamStatus, match="410"):
                async for event in events:
                    got.append(event.data)
        assert got == ["a", "b"]

    virtually(test, stream(b"data: a\n\ndata: b\n\ndata: c\n"), status(410))


# -- when it is tried again


def test_waits_grow_and_are_bounded() -> None:
    """By the backoff, until ``attempts`` are over; the last error is raised."""

    async def test(source: EventSource, transport: Answers) -> None:
        async with source as events:
            with pytest.raises(ConnectFailed, match="nobody there"):
                await anext(events)
        assert transport.waits == [1, 2, 4, 5, 5]
        assert events.failures == 6

    backoff = Backoff(initial=1, cap=5, jitter="none")
    virtually(test, failing(ConnectFailed("nobody there")), backoff=backoff, attempts=6)


def test_an_event_makes_a_connection_good() -> None:
    """The backoff begins anew after it; one that ends without is as good as none."""

    async def test(source: EventSource, transport: Answers) -> None:
        async with source as events:
            assert (await anext(events)).data == "a"
            with pytest.raises(UpstreamClosed, match="ended"):
                await anext(events)
        assert transport.waits == [1, 2, 1, 2, 4]

    backoff = Backoff(initial=1, jitter="none")
    virtually(test, stream(b":\n"), status(500), stream(b"data: a\n\n"), stream(), backoff=backoff, attempts=3)


def test_how_long_servers_want_us_to_wait() -> None:
    """``retry`` and ``Retry-After`` come on top of the backoff, up to ten minutes."""

    async def test(source: EventSource, transport: Answers) -> None:
        async with source as events:
            assert [event.data async for event in events] == ["a"]
        assert transport.waits == [1 + 7, 2, 4 + 600, 8 + 2.5, 1 + 600, 2 + 600, 4 + 600]

    virtually(
        test,
        status(503, retry_after="7"),
        status(429),  # nothing is asked for
        status(503, retry_after="100000"),
        stream(b"retry: 2500\n"),  # without an event, too
        stream(b"data: a\n\nretry: 999999999999\n"),
        status(502),
        status(500),
        status(204),
        backoff=Backoff(initial=1, jitter="none"),
    )


def test_waits_are_spread() -> None:
    """By the backoff's jitter: two clients do not come back together."""
    found: list[list[float]] = []

    async def test(source: EventSource, transport: Answers) -> None:
        async with source as events:
            with pytest.raises(ConnectFailed):
                await anext(events)
        found.append(transport.waits)

    for _ in range(2):
        virtually(test, failing(ConnectFailed("nobody there")), attempts=5)
    assert found[0] != found[1]
    for waits in found:
        assert all(low <= wait <= 2 * low for wait, low in zip(waits, (0.5, 1, 2, 4), strict=True))


def test_what_is_asked() -> None:
    """The headers of an ``EventSource``, the program's own, ids as UTF-8, and ``heartbeat`` for the timeouts."""

    async def test(source: EventSource, transport: Answers) -> None:
        async with source as events:
            assert [event.id async for event in events] == ["grün 1"]
        (_, first), (_, second), (_, third) = transport.asked
        assert first.headers["accept"] == "text/event-stream"
        assert first.headers["cache-control"] == "no-store"
        assert first.headers["x-own"] == "1"
        assert "last-event-id" not in first.headers
        assert second.headers["last-event-id"].encode("latin-1").decode() == "grün 1"
        assert third.headers["last-event-id"] == "2"  # a block without data counts, though it is no event
        assert first.timeouts.read == 7
        assert first.timeouts.total is None
        assert str(first.url) == "http://events.test/updates?key=secret&a=1"

    answers = stream("id: grün 1\ndata: a\n\nid: lost".encode()), stream(b"id: 2\n\nid: 3\n"), status(204)
    virtually(test, *answers, heartbeat=7, headers={"x-own": "1"}, params={"a": 1})


def test_an_id_that_cannot_be_sent() -> None:
    """A hostile one ends it with an error that says so, instead of splitting a header."""

    async def test(source: EventSource, transport: Answers) -> None:
        async with source as events:
            assert (await anext(events)).id == "a\x01b"
            with pytest.raises(UpstreamProtocolError, match=r"id 'a\\x01b' cannot be sent"):
                await anext(events)

    virtually(test, stream(b"id: a\x01b\ndata: a\n\n"))


# -- its life


async def test_closing_from_elsewhere_ends_the_iteration() -> None:
    """While it waits for an event, and while it waits to connect; nothing is left."""

    async def silent(peer: Peer) -> None:
        await peer.asked()
        await peer.say(HEAD)
        await peer.rest(30)

    async with playing(silent) as server, nothing_left(), Client(server.url) as client:
        for path in (server.url, f"http://127.0.0.1:{free_port()}/"):
            async with EventSource(client, path) as events:
                waiting = asyncio.create_task(anext(events, None))
                await eventually(lambda: events.connected or events.failures)
                await events.aclose()
                assert await waiting is None
                await events.aclose()
            await eventually(lambda: server.open == 0)
            await at_rest(client)


async def test_cancelling_at_any_moment_leaves_nothing() -> None:
    """Of the task that iterates: before there is a connection, in the middle of events, and between tries."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await asyncio.sleep(0.002)
        await peer.say(HEAD)
        for number in range(20):
            await peer.say(b"id: %d\nda" % number)
            await asyncio.sleep(0.001)
            await peer.say(b"ta: x\n\n")

    async with playing(play) as server, nothing_left(), Client(server.url) as client:

        async def use() -> None:
            async with EventSource(client, "/", backoff=FAST) as events:
                async for _ in events:
                    pass

        for round_ in range(60):
            task = asyncio.create_task(use())
            await asyncio.sleep(round_ * 0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await at_rest(client)
        await eventually(lambda: server.open == 0)


async def test_a_wait_that_is_given_up_loses_nothing() -> None:
    """A timeout around one event is no end of the connection."""
    async with (
        serving(counting(100, pace=0.03)) as url,
        Client(url) as client,
    ):
        ids: list[str] = []
        async with EventSource(client, "/updates") as events:
            while len(ids) < 20:
                try:
                    async with asyncio.timeout(0.01):
                        ids.append((await anext(events)).id)
                except TimeoutError:
                    continue
            assert ids == numbers(20)
            assert events.connects == 1


def test_waiting_for_the_connection() -> None:
    """It may be waited for, for so long; the error says why there is none."""

    def lasting(request: ClientRequest) -> ClientResponse:
        async def content() -> AsyncIterator[bytes]:
            await asyncio.sleep(60)
            yield b""

        return ClientResponse.made(request, 200, STREAM, content())

    async def test(source: EventSource, transport: Answers) -> None:
        async with source as events:
            with pytest.raises(DeadlineExceeded, match=r"not connected within 3 s: .*nobody there"):
                await events.wait_connected(3)
            transport.answers = [lasting, status(204)]
            await events.wait_connected(100)
            await events.wait_connected()
        with pytest.raises(ForebayError, match="is closed"):
            await events.wait_connected()

    virtually(test, failing(ConnectFailed("nobody there")))


def test_a_callback_that_fails_changes_nothing() -> None:
    """It is told in the log."""

    async def test(source: EventSource, transport: Answers) -> None:
        async with source as events:
            assert [event.data async for event in events] == ["a"]

    def bad(state: ClientState, reason: Exception | None) -> None:
        raise RuntimeError("callback")

    virtually(test, stream(b"data: a\n\n"), status(204), on_state=bad)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"heartbeat": 0}, "heartbeat 0: must be above 0"),
        ({"attempts": 0}, "attempts 0: must be at least 1"),
        ({"last_event_id": "a\nb"}, "without control characters"),
    ],
)
async def test_parameters_out_of_range(options: dict[str, Any], text: str) -> None:
    """They are refused at once."""
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=text):
            EventSource(client, "/", **options)


async def test_each_is_used_once_and_within_its_block() -> None:
    """Otherwise it says so."""
    async with Client("http://127.0.0.1:1") as client:
        source = EventSource(client, "/")
        with pytest.raises(RuntimeError, match="async with"):
            await anext(source)
        async with source:
            with pytest.raises(RuntimeError, match="used once"):
                await source.__aenter__()


async def test_a_mistake_of_the_program_is_raised() -> None:
    """Such as a URL that is none: it is not tried again and again."""
    async with Client("http://127.0.0.1:1") as client, EventSource(client, "ftp://x/") as events:
        with pytest.raises(ValueError, match="ftp"):
            await anext(events)


# -- the reader

LINES = st.lists(
    st.one_of(
        st.just(""),
        st.builds(
            "{}{}{}".format,
            st.sampled_from(["data", "id", "event", "retry", "", "other", "dat"]),
            st.sampled_from([":", ": ", ":  ", ""]),
            st.text(alphabet="a1\0ü\u2028😀 :", max_size=4),
        ),
    ),
    max_size=12,
)
ENDS = st.sampled_from(["\n", "\r", "\r\n"])


def reference(text: str) -> tuple[list[ServerSentEvent], str, int | None]:
    """The standard's algorithm, said in another way: blocks of lines."""
    events: list[ServerSentEvent] = []
    last, latest = "", None
    data: list[str] = []
    kind, new_id, retry = "", "", None
    *lines, _ = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for line in lines:
        if not line:
            last = new_id
            if data:
                events.append(ServerSentEvent("\n".join(data), kind or "message", last, retry))
            data, kind, retry = [], "", None
            continue
        name, _, value = line.partition(":")
        value = value[1:] if value[:1] == " " else value
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            new_id = value
        elif name == "retry" and value and set(value) <= set("0123456789"):
            retry = latest = int(value)
    return events, last, latest


@given(LINES, st.data())
def test_the_reader_agrees_with_the_standard(lines: list[str], data: st.DataObject) -> None:
    """However the bytes are cut, with line ends of any kind."""
    text = "".join(line + data.draw(ENDS) for line in lines) + data.draw(st.sampled_from(["", "data: rest"]))
    raw = data.draw(st.sampled_from(["", "\ufeff"])).encode() + text.encode()
    reader = EventReader()
    found: list[ServerSentEvent] = []
    at = 0
    while at < len(raw):
        size = data.draw(st.integers(1, 7))
        found += reader.feed(raw[at : at + size])
        at += size
    events, last, retry = reference(text)
    assert found == events
    assert reader.last_event_id == last
    assert reader.retry == retry


@given(st.binary(max_size=200))
def test_the_reader_takes_any_bytes(raw: bytes) -> None:
    """Nothing but events comes of them."""
    reader = EventReader("before")
    assert all(isinstance(event, ServerSentEvent) for event in reader.feed(raw) + reader.feed(b"\n\n"))


def test_an_event_is_given_as_soon_as_it_is_complete() -> None:
    """Also where its lines end with CR alone: an LF that may follow is not waited for."""
    reader = EventReader("1")
    assert reader.feed(b"data: a\r\r") == [ServerSentEvent("a", id="1")]
    assert reader.feed(b"\ndata: b\r") == []
    assert reader.feed(b"\n\r") == [ServerSentEvent("b", id="1")]


def test_a_line_in_small_pieces_takes_time_by_its_length_only() -> None:
    """A megabyte of single bytes is not searched again with each of them."""
    reader = EventReader()
    for _ in range(300_000):
        assert reader.feed(b"d") == []
    assert reader.feed(b"\ndata: x\n\n") == [ServerSentEvent("x")]
