"""Datagrams without sessions."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from forebay.engine.datagram import UDPServer
from forebay.engine.datagram_stateless import Datagram
from tests.engine.datagrams import ANY, peer_of
from tests.engine.support import open_sockets
from tests.support import eventually, running

pytestmark = pytest.mark.both_loops


def answer(datagram: Datagram) -> None:
    """Sends back what it gets."""
    datagram.reply(datagram.data)


async def answer_later(datagram: Datagram) -> None:
    """The same, after a while."""
    await asyncio.sleep(0)
    datagram.reply(datagram.data)


@pytest.mark.parametrize("handler", [answer, answer_later])
async def test_answers(handler: object) -> None:
    """Each datagram is handed over for itself and can be answered, empty ones too; no session is kept."""
    async with running(UDPServer(handler, bind=[ANY, "udp://[::1]:0"], stateless=True)) as server:  # type: ignore[arg-type]
        for address in server.addresses:
            with peer_of(address) as one, peer_of(address) as two:
                assert await one.ask(b"1") == b"1"
                assert await two.ask(b"") == b""
                assert await one.ask(b"x" * 60_000) == b"x" * 60_000
        statistics = server.statistics()
        assert (statistics["opened"], statistics["messages_in"], statistics["messages_out"]) == (0, 6, 6)
        assert statistics["bytes_in"] == statistics["bytes_out"] == 120_002
        await eventually(lambda: server.sessions == 0 and server.statistics()["queued_bytes"] == 0)


async def test_what_a_datagram_knows() -> None:
    """Its bytes, and both ends."""
    seen: list[Datagram] = []
    async with running(UDPServer(seen.append, bind=ANY, stateless=True)) as server:
        with peer_of(server.addresses[0]) as peer:
            peer.send(b"abc")
            await eventually(lambda: seen)
            assert seen[0].peer == peer.name
            assert seen[0].peer_host == "127.0.0.1"
            assert seen[0].local == f"127.0.0.1:{server.addresses[0].port}"
            assert peer.name in repr(seen[0])
    seen[0].reply(b"too late")
    assert server.statistics()["unsent"] == {"closed": 1}


@pytest.mark.parametrize("style", ["plain", "coroutine"])
async def test_failures(style: str) -> None:
    """What a handler raises is counted, logged at most once a second, and the server serves on."""

    def fails(datagram: Datagram) -> None:
        if datagram.data == b"bad":
            raise ValueError("broken")
        datagram.reply(datagram.data)

    async def fails_later(datagram: Datagram) -> None:
        await asyncio.sleep(0)
        fails(datagram)

    with capture_logs() as logs:
        handler = fails if style == "plain" else fails_later
        async with running(UDPServer(handler, bind=ANY, stateless=True)) as server:
            with peer_of(server.addresses[0]) as peer:
                for _ in range(10):
                    peer.send(b"bad")
                assert await peer.ask(b"good") == b"good"
                await eventually(lambda: server.statistics()["failed"] == 10)
    assert len([entry for entry in logs if entry["event"] == "handler failed"]) == 1


async def test_coroutines_are_bounded() -> None:
    """At most ``max_sessions`` run at once, on at most ``buffer_memory`` bytes; what is more is dropped and counted."""
    gate = asyncio.Event()

    async def slow(datagram: Datagram) -> None:
        await gate.wait()
        datagram.reply(datagram.data)

    server = UDPServer(slow, bind=ANY, stateless=True, max_sessions=3, buffer_memory=2000, datagram_maximum=1500)
    async with running(server):
        with peer_of(server.addresses[0]) as peer:
            peer.send(b"x" * 1501)
            peer.send(b"x" * 1500)
            peer.send(b"x" * 1500)
            for number in range(5):
                peer.send(b"%d" % number)
            dropped = {"length": 1, "max-sessions": 3, "memory": 1}
            await eventually(lambda: server.statistics()["dropped"] == dropped)
            assert server.sessions == 3
            gate.set()
            assert [len(await peer.receive()) for _ in range(3)] == [1500, 1, 1]


async def test_a_coroutine_that_takes_too_long_is_cancelled() -> None:
    """``session_timeout`` is what it has for its datagram."""
    cancelled = asyncio.Event()

    async def never(datagram: Datagram) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with running(UDPServer(never, bind=ANY, stateless=True, session_timeout=0.05)) as server:
        with peer_of(server.addresses[0]) as peer:
            peer.send(b"x")
            await asyncio.wait_for(cancelled.wait(), 5)
            await eventually(lambda: not server.sessions)
            assert server.statistics()["failed"] == 1


async def test_drain_waits_for_coroutines() -> None:
    """What is in flight is answered, what comes meanwhile is dropped; without anything in flight it is over at once."""
    gate = asyncio.Event()

    async def slow(datagram: Datagram) -> None:
        await gate.wait()
        datagram.reply(datagram.data)

    before = open_sockets()
    async with running(UDPServer(slow, bind=ANY, stateless=True)) as server:
        with peer_of(server.addresses[0]) as peer:
            peer.send(b"1")
            await eventually(lambda: server.sessions == 1)
            drain = asyncio.create_task(server.drain())
            await asyncio.sleep(0)
            peer.send(b"2")
            await eventually(lambda: server.statistics()["dropped"] == {"drain": 1})
            gate.set()
            assert await peer.receive() == b"1"
            await asyncio.wait_for(drain, 5)
    async with running(UDPServer(answer, bind=ANY, stateless=True)) as server:
        await asyncio.wait_for(server.drain(), 5)
    await eventually(lambda: open_sockets() == before)


async def test_stop_cancels_coroutines() -> None:
    """They end with the server, whether they had begun or not."""

    async def never(datagram: Datagram) -> None:
        await asyncio.Event().wait()

    async with running(UDPServer(never, bind=ANY, stateless=True)) as server:
        with peer_of(server.addresses[0]) as peer:
            for _ in range(10):
                peer.send(b"x")
            await eventually(lambda: server.sessions)
    assert server.sessions == 0
    await eventually(lambda: server.statistics()["queued_bytes"] == 0)
