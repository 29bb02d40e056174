"""Silent and slow peers: when they are asked whether they are there, and when and why they are given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from forebay.engine import CloseReason, Connection, Heartbeat, TCPServer
from forebay.engine.loop import RESOLUTION
from forebay.engine.settings import Outbound
from forebay.engine.timing import UNTIMED, Pulse, Screen, Timing
from forebay.wire.framing import LengthPrefixed, Lines
from tests.engine.connecting import (
    ANY_TLS,
    Recorder,
    Style,
    client_of,
    closed,
    coroutine_style,
    event_style,
    port_of,
    server_tls,
    serving,
)
from tests.support import RawClient, eventually, running

pytestmark = pytest.mark.both_loops

STYLES = pytest.mark.parametrize("style", [event_style, coroutine_style])
QUIET: dict[str, Any] = {"idle_timeout": None, "first_byte_timeout": None, "message_timeout": None}
PING, PONG = "ping", "pong"
BEATS = Heartbeat(
    interval=0.2, misses=2, ping=PING, is_pong=lambda m: m == PONG, is_ping=lambda m: m == PING, pong=PONG
)


def now() -> float:
    return asyncio.get_running_loop().time()


# Decisions, with the time given


class Peer:
    """What Timing looks at of a connection."""

    def __init__(self, opened_at: float = 1000.0) -> None:
        self.heard_at = opened_at
        self.messages_in = self.bytes_in = 0
        self.pulse: Pulse | None = None
        self.partial: float | None = None
        self.written: list[Any] = []

    def write(self, message: Any) -> None:
        self.written.append(message)

    def partial_since(self) -> float | None:
        return self.partial

    def heard(self, at: float) -> None:
        self.heard_at = at
        self.messages_in += 1
        self.bytes_in += 1


def ends(timing: Timing, peer: Any, until: float = 5000.0) -> Any:
    """Look at ``peer`` whenever that is due; why it is closed, and when, in seconds of the wheel's clock."""
    while (at := timing.deadline(peer)) <= until:
        reason = timing.overdue(peer, at + 1e-6)
        if reason is not None:
            return reason, at - RESOLUTION
        assert timing.deadline(peer) > at, "it would be looked at for ever"
    return None


def test_nothing_is_timed_unless_it_is_said() -> None:
    """Then a connection is in no slot of the wheel."""
    assert ends(UNTIMED, Peer(), until=1e300) is None


def test_first_byte() -> None:
    """Who says nothing at all is given up; one byte is enough to be judged by the other timeouts."""
    timing = Timing(first_byte=5, idle=90)
    peer = Peer()
    assert ends(timing, peer) == (CloseReason.FIRST_BYTE, pytest.approx(1005))
    peer.bytes_in = 1
    assert ends(timing, peer) == (CloseReason.IDLE, pytest.approx(1090))


def test_idle() -> None:
    """It is counted from the last message."""
    timing = Timing(first_byte=5, idle=90)
    peer = Peer()
    peer.heard(1004.0)
    peer.heard(1060.0)
    assert ends(timing, peer) == (CloseReason.IDLE, pytest.approx(1150))


def test_a_message_that_does_not_end() -> None:
    """It is counted from its first byte, and named before everything else that is due."""
    timing = Timing(first_byte=30, idle=90, message=30)
    peer = Peer()
    peer.bytes_in = 1
    peer.partial = 1000.0
    assert ends(timing, peer) == (CloseReason.SLOW_MESSAGE, pytest.approx(1030))


@pytest.mark.parametrize("ping", [None, b"?"])
def test_heartbeat_of_a_peer_that_is_gone(ping: bytes | None) -> None:
    """It is closed after the misses; with pings, after as many of them stayed unanswered for an interval each."""
    timing = Timing(heartbeat=Heartbeat(interval=10, misses=3, ping=ping))
    peer = Peer()
    assert ends(timing, peer) == (CloseReason.HEARTBEAT, pytest.approx(1030 if ping is None else 1040, abs=1))
    assert peer.written == ([] if ping is None else [b"?"] * 3)


def test_heartbeats_begin_anew_with_every_message() -> None:
    """Misses count in a row only."""
    timing = Timing(heartbeat=Heartbeat(interval=10, misses=2, ping=b"?"))
    peer = Peer()
    for _ in range(20):
        at = timing.deadline(cast(Any, peer)) + 0.01
        assert timing.overdue(cast(Any, peer), at) is None
        at = timing.deadline(cast(Any, peer)) + 0.01
        assert timing.overdue(cast(Any, peer), at) is None
        peer.heard(at + 1)
    assert len(peer.written) == 40


@pytest.mark.parametrize("after", [0.0, 0.1, 3.0])
def test_prompt_answers_keep_a_peer(after: float) -> None:
    """However soon they come: the clock has the same time for a ping and for an answer within the same tick."""
    timing = Timing(heartbeat=Heartbeat(interval=10, misses=1, ping=b"?"))
    peer = Peer()
    for _ in range(50):
        at = timing.deadline(cast(Any, peer)) + 0.01
        assert timing.overdue(cast(Any, peer), at) is None
        peer.heard(at + after)
    assert len(peer.written) == 50


def test_heartbeats_do_not_keep_from_being_idle() -> None:
    """What a Screen keeps from the handler counts as a sign of life, and not as use."""
    timing = Timing(idle=90, heartbeat=Heartbeat(interval=10, ping=b"?", is_pong=lambda m: True))
    peer = Peer()
    peer.pulse = Pulse()
    peer.pulse.used_at = 1000.0
    reason: Any
    while True:
        at = timing.deadline(cast(Any, peer)) + 0.01
        reason = timing.overdue(cast(Any, peer), at)
        if reason is not None:
            break
        peer.heard(at + 0.5)
    assert reason is CloseReason.IDLE
    assert at == pytest.approx(1090, abs=0.2)
    assert len(peer.written) >= 8


def test_the_nearest_timeout_counts() -> None:
    """Whatever is combined: the deadline is never after the first one that would end the connection."""
    for idle in (None, 3.0, 50.0):
        for first_byte in (None, 2.0, 60.0):
            for interval in (None, 1.0, 40.0):
                heartbeat = Heartbeat(interval=interval, misses=2) if interval else None
                found = ends(Timing(idle, first_byte, 30.0, heartbeat), Peer())
                due = {CloseReason.IDLE: idle, CloseReason.FIRST_BYTE: first_byte}
                if interval:
                    due[CloseReason.HEARTBEAT] = 2 * interval
                known = {reason: seconds for reason, seconds in due.items() if seconds is not None}
                if not known:
                    assert found is None
                    continue
                assert found is not None
                assert found[1] - 1000 == pytest.approx(min(known.values()), abs=0.4)
                assert known[found[0]] == min(known.values())


# The same, over sockets


async def ended(server: TCPServer, reason: str) -> None:
    """Wait until one connection has, and for this reason."""
    await eventually(lambda: closed(server))
    assert closed(server) == {reason: 1}


async def closed_after(recorder: Recorder, client: RawClient, begin: float) -> float:
    """Seconds from ``begin`` until the connection was closed, as its client sees it."""
    await client.rest()
    await eventually(lambda: recorder.conn and recorder.conn.close_reason)
    return now() - begin


@STYLES
@pytest.mark.parametrize("framing", [None, Lines()])
async def test_who_says_nothing(style: Style, framing: Lines | None) -> None:
    """It is closed after the first-byte timeout, which no other timeout has to help with."""
    recorder = Recorder()
    server = serving(recorder, style, framing=framing, **{**QUIET, "first_byte_timeout": 0.2})
    async with running(server), client_of(port_of(server)) as client:
        assert 0.2 <= await closed_after(recorder, client, now()) < 1.2
        assert closed(server) == {"first-byte": 1}
        assert not len(server.ticker)


@STYLES
@pytest.mark.parametrize("framing", [Lines(encoding=None), LengthPrefixed(width=1)])
async def test_slow_loris(style: Style, framing: Any) -> None:
    """A byte from time to time keeps nobody: the message has to end in time, whatever else is set."""
    recorder = Recorder()
    server = serving(recorder, style, framing=framing, **{**QUIET, "message_timeout": 0.3})
    async with running(server), client_of(port_of(server)) as client:
        begin = now()
        while not closed(server):
            assert now() < begin + 3
            try:
                await client.send(b"\xff")
            except ConnectionError:
                break
            await asyncio.sleep(0.02)
        assert 0.3 <= now() - begin < 1.3
        await eventually(lambda: closed(server))
        assert closed(server) == {"slow-message": 1}
        assert not len(server.ticker)


async def test_slow_loris_by_default() -> None:
    """With the first-byte timeout as long as the message's, as they are by default, it is named by what it did."""
    recorder = Recorder()
    server = serving(recorder, framing=Lines(), idle_timeout=90, first_byte_timeout=0.5, message_timeout=0.5)
    async with running(server), client_of(port_of(server)) as client:
        await eventually(lambda: recorder.conn)
        await asyncio.sleep(0.25)  # past the tick it was opened in
        await client.send(b"x")
        await client.rest()
        await eventually(lambda: closed(server))
        assert closed(server) == {"slow-message": 1}


@STYLES
async def test_a_message_that_begins_behind_another(style: Style) -> None:
    """Its time begins with its first byte, though that came in one chunk with whole messages."""
    for head, count in ((b"one\n", 1), (b"one\ntwo\n", 2)):
        recorder = Recorder()
        server = serving(recorder, style, framing=Lines(), **{**QUIET, "message_timeout": 0.3})
        async with running(server), client_of(port_of(server)) as client:
            begin = now()
            await client.send(head + b"thr")
            assert await client.exactly(len(head)) == head
            assert 0.3 <= await closed_after(recorder, client, begin) < 1.3
            assert len(recorder.messages) == count
            await ended(server, "slow-message")


@STYLES
async def test_messages_in_pieces(style: Style) -> None:
    """Each message has its own time, though each begins in the very moment in which the one before ends."""
    recorder = Recorder()
    server = serving(recorder, style, framing=Lines(), **{**QUIET, "message_timeout": 0.5})
    async with running(server), client_of(port_of(server)) as client:
        begin = now()
        await client.send(b"be")
        while now() < begin + 1.5:
            await asyncio.sleep(0.15)
            await client.send(b"gin\nbe")
        assert not closed(server)
        assert await closed_after(recorder, client, now()) < 1.5
        assert closed(server) == {"slow-message": 1}


async def test_a_message_in_two_pieces_says_nothing_of_the_next() -> None:
    """The next one, much later, has its whole time."""
    recorder = Recorder()
    server = serving(recorder, framing=Lines(), **{**QUIET, "message_timeout": 0.6})
    async with running(server), client_of(port_of(server)) as client:
        for _ in range(3):
            await client.send(b"o")
            await eventually(lambda: recorder.opened.bytes_in % 4 == 1 if recorder.conn else False)
            await client.send(b"ne\n")
            assert await client.line() == b"one\n"
            await asyncio.sleep(0.45)
            await client.send(b"t")
            await asyncio.sleep(0.4)
            await client.send(b"wo\n")
            assert await client.line() == b"two\n"
            await client.send(b"")
        assert not closed(server)


async def test_a_long_message_that_is_not_read_is_not_slow() -> None:
    """While we do not read, its time stands still."""
    recorder = Recorder(lambda conn, data: conn.pause_reading())
    server = serving(recorder, framing=Lines(), **{**QUIET, "message_timeout": 0.2})
    async with running(server), client_of(port_of(server)) as client:
        await client.send(b"one\ntw")
        await asyncio.sleep(0.7)
        assert not closed(server)
        await client.send(b"o\n")
        recorder.opened.resume_reading()
        await eventually(lambda: recorder.messages == ["one", "two"])
        assert not closed(server)


@STYLES
@pytest.mark.parametrize("tls", [False, True])
async def test_heartbeat_of_a_peer_that_answers(style: Style, tls: bool) -> None:
    """It is asked again and again, the handler hears nothing of it, and it stays; once it is silent it is cut."""
    recorder = Recorder()
    options: dict[str, Any] = {"bind": ANY_TLS, "tls": server_tls()} if tls else {}
    server = serving(recorder, style, framing=Lines(), heartbeat=BEATS, **QUIET, **options)
    async with running(server), client_of(port_of(server), tls=tls) as client:
        begin = now()
        pings = 0
        while now() < begin + 1.2:
            assert await client.line() == b"ping\n"
            pings += 1
            await client.send(b"pong\n")
        assert pings >= 3
        assert not closed(server)
        assert recorder.messages == []
        begin = now()
        rest = await client.rest()
        assert rest.count(b"ping\n") in (1, 2)
        assert 0.4 <= now() - begin < 2
        await eventually(lambda: closed(server))
        assert closed(server) == {"heartbeat": 1}
        assert not len(server.ticker)


@STYLES
async def test_heartbeat_without_pings(style: Style) -> None:
    """The peer has to speak of its own accord: whatever it says keeps it."""
    recorder = Recorder()
    server = serving(recorder, style, framing=Lines(), heartbeat=Heartbeat(interval=0.2, misses=2), **QUIET)
    async with running(server), client_of(port_of(server)) as client:
        for _ in range(5):
            await client.send(b"x\n")
            assert await client.line() == b"x\n"
            await asyncio.sleep(0.25)
        assert recorder.messages == ["x"] * 5
        begin = now()
        assert await client.rest() == b""
        assert now() - begin < 1.5
        await eventually(lambda: closed(server))
        assert closed(server) == {"heartbeat": 1}


async def test_any_message_is_a_sign_of_life() -> None:
    """A peer that does not know our pings, but talks, is kept; its messages go to the handler."""
    recorder = Recorder(lambda conn, data: None)
    server = serving(recorder, framing=Lines(), heartbeat=Heartbeat(interval=0.2, misses=1, ping=PING), **QUIET)
    async with running(server), client_of(port_of(server)) as client:
        begin = now()
        while now() < begin + 1.5:
            await client.send(b"x\n")
            await asyncio.sleep(0.3)
        assert not closed(server)
        assert set(recorder.messages) == {"x"}


@STYLES
async def test_the_peers_pings_are_answered(style: Style) -> None:
    """Out of the handler's sight, and in order with what it answers."""
    recorder = Recorder()
    server = serving(recorder, style, framing=Lines(), heartbeat=BEATS, **QUIET)
    async with running(server), client_of(port_of(server)) as client:
        await client.send(b"ping\nhello\nping\npong\n")
        assert await client.exactly(16) == b"pong\nhello\npong\n"
        assert recorder.messages == ["hello"]


async def test_heartbeats_do_not_keep_a_connection_that_is_not_used() -> None:
    """Pings and pongs are no messages to the idle timeout."""
    recorder = Recorder()
    server = serving(recorder, framing=Lines(), heartbeat=BEATS, **{**QUIET, "idle_timeout": 0.6})
    async with running(server), client_of(port_of(server)) as client:
        begin = now()
        await client.send(b"hello\n")
        assert await client.line() == b"hello\n"
        with pytest.raises((ConnectionError, AssertionError)):
            while now() < begin + 3:
                await client.send(b"ping\n")
                assert await client.line()
                await asyncio.sleep(0.02)
            return
        assert 0.6 <= now() - begin < 1.6
        await eventually(lambda: closed(server))
        assert closed(server) == {"idle": 1}


async def test_a_ping_that_cannot_be_sent_closes() -> None:
    """It is the handler's author's mistake: it is logged, and the connection closed as an error, not kept unasked."""
    recorder = Recorder()
    server = serving(recorder, framing=Lines(), heartbeat=Heartbeat(interval=0.1, ping="two\nlines"), **QUIET)
    async with running(server), client_of(port_of(server)) as client:
        assert await client.rest() == b""
        await eventually(lambda: closed(server))
        assert closed(server) == {"error": 1}


async def test_a_recogniser_that_fails() -> None:
    """So does what is raised about the peer's message."""

    def recognise(message: Any) -> bool:
        raise KeyError("no such field")

    recorder = Recorder()
    server = serving(recorder, framing=Lines(), heartbeat=Heartbeat(is_pong=recognise))
    async with running(server), client_of(port_of(server)) as client:
        await client.send(b"x\n")
        assert await client.rest() == b""
        await eventually(lambda: closed(server))
        assert closed(server) == {"error": 1}
        assert recorder.messages == []


async def test_pings_to_a_peer_that_reads_nothing() -> None:
    """Who sends pings and reads no pongs does not have them pile up."""
    recorder = Recorder()
    outbound = Outbound(high=1024, limit=2048, timeout=None)
    beats = Heartbeat(interval=30, is_ping=lambda m: m == PING, pong="x" * 500)
    server = serving(recorder, framing=Lines(), heartbeat=beats, outbound=outbound, **QUIET)
    async with running(server), client_of(port_of(server)) as client:
        await client.send(b"hello\n")
        assert await client.line() == b"hello\n"
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it can
        for _ in range(20):
            await client.send(b"ping\n" * 1000)
            await asyncio.sleep(0.002)
        await eventually(lambda: recorder.opened.messages_in == 20_001)
        assert not closed(server)
        assert recorder.opened.write_buffer_size() < 100_000


async def test_timeouts_are_the_handlers_to_decide() -> None:
    """One that keeps an idle connection is asked again after another idle time, and not more often."""

    class Keeping(Recorder):
        def on_timeout(self, conn: Connection) -> None:
            self.timeouts += 1
            if self.timeouts == 3:
                conn.close(CloseReason.LIMIT)

    recorder = Keeping()
    server = serving(recorder, **{**QUIET, "idle_timeout": 0.2})
    async with running(server), client_of(port_of(server)) as client:
        begin = now()
        await client.rest()
        assert 0.6 <= now() - begin < 2
        await eventually(lambda: closed(server))
        assert closed(server) == {"limit": 1}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"idle_timeout": 0.2}, "idle"),
        ({"first_byte_timeout": 0.2}, "first-byte"),
        ({"heartbeat": Heartbeat(interval=0.1, misses=1)}, "heartbeat"),
    ],
)
async def test_a_coroutine_that_waits_for_something_else(options: dict[str, Any], reason: str) -> None:
    """It is cancelled when its silent peer is given up: no task outlives its connection."""
    outcome: list[str] = []

    async def handle(conn: Connection) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outcome.append(str(conn.close_reason))
            raise

    server = serving(Recorder(), lambda recorder: handle, **{**QUIET, **options})
    async with running(server), client_of(port_of(server)) as client:
        await client.rest()
        await eventually(lambda: outcome)
        assert outcome == [reason]
        await eventually(lambda: not len(server._tasks))


async def test_a_slow_message_ends_a_coroutine_that_waits_for_something_else() -> None:
    """The same, for a peer that got its handler going before."""
    outcome: list[str] = []

    async def handle(conn: Connection) -> None:
        await conn.receive()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outcome.append(str(conn.close_reason))
            raise

    server = serving(Recorder(), lambda recorder: handle, framing=Lines(), **{**QUIET, "message_timeout": 0.2})
    async with running(server), client_of(port_of(server)) as client:
        await client.send(b"go\nand")
        await client.rest()
        await eventually(lambda: outcome)
        assert outcome == ["slow-message"]


async def test_the_screen_hands_everything_on() -> None:
    """A handler behind it is called as without it."""
    calls: list[str] = []

    class Every(Recorder):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_"):
                calls.append(name)
            return super().__getattribute__(name)

    recorder = Every()
    options: dict[str, Any] = {**QUIET, "idle_timeout": 0.3, "tick": 0.05, "heartbeat": BEATS}
    server = serving(recorder, framing=Lines(), **options)
    async with running(server), client_of(port_of(server)) as client:
        await client.send(b"hello\n")
        assert await client.line() == b"hello\n"
        await client.rest()
        await eventually(lambda: recorder.reason)
    assert {"on_open", "on_message", "on_tick", "on_timeout", "on_close"} <= set(calls)
    screened: Callable[[Connection], Any]
    for name in ("on_eof", "on_writable", "on_drain"):
        calls.clear()
        screened = getattr(Screen(recorder, BEATS), name)
        screened(recorder.opened)
        assert calls[0] == name
