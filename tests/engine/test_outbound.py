"""Slow consumers: what is kept for them, what is dropped, in which order the rest comes, and when they are cut."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from forebay.engine import CloseReason, Connection, Outbound
from forebay.errors import ConnectionClosed
from forebay.wire.framing import LengthPrefixed, Lines
from tests.engine.connecting import (
    ANY_TLS,
    Recorder,
    client_of,
    closed,
    coroutine_style,
    deaf_client,
    port_of,
    read_all,
    server_tls,
    serving,
)
from tests.support import eventually, running

pytestmark = pytest.mark.both_loops

KIB = 1024
SMALL: dict[str, Any] = {"high": 16 * KIB, "limit": 256 * KIB, "timeout": None}


def numbered(number: int, size: int = 1000) -> bytes:
    """A message that says which one it is."""
    return b"%08d" % number + b"." * (size - 8)


def numbers(received: bytes, size: int = 1000) -> list[int]:
    """Which messages were received."""
    assert len(received) % size == 0
    return [int(received[at : at + 8]) for at in range(0, len(received), size)]


async def slow_server(sock: socket.socket, recorder: Recorder) -> Connection:
    """The connection of a client that reads nothing, with small buffers in the kernel."""
    await eventually(lambda: recorder.conn)
    conn = recorder.opened
    conn.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return conn


@pytest.mark.parametrize("policy", ["wait", "close"])
async def test_past_the_limit_the_connection_is_closed(policy: str) -> None:
    """Who writes on without waiting is stopped: nothing is kept past the limit, and the peer is reset, by name."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(policy=policy, **SMALL))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        written = 0
        while not conn.closing:
            conn.write(numbered(written))
            written += 1
            assert conn.closing or conn.write_buffer_size() <= 256 * KIB + 1000
        assert written >= 256
        conn.write(b"never")
        assert conn.writes_dropped == 1
        await eventually(lambda: recorder.reason)
        assert recorder.reason is CloseReason.SLOW_CONSUMER
        assert closed(server) == {"slow-consumer": 1}
        assert conn.write_buffer_size() == 0


async def test_one_message_may_be_larger_than_the_limit() -> None:
    """It is taken whole while less than the limit waits, and arrives."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(policy="close", **SMALL))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        conn.write(b"x" * 3_000_000)
        assert not conn.closing
        conn.close()
        assert len(await read_all(sock)) == 3_000_000


async def test_send_waits_under_the_policy_wait() -> None:
    """So what is kept stays at the high watermark and one message; the waiter goes on once there is room."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(**SMALL))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        sent = 0

        async def produce() -> None:
            nonlocal sent
            for number in range(2000):
                await conn.send(numbered(number))
                sent += 1
            conn.close()

        producing = asyncio.create_task(produce())
        await eventually(lambda: not conn.writable)
        before = sent
        await asyncio.sleep(0.05)
        assert sent == before
        assert conn.write_buffer_size() <= 16 * KIB + 1000
        assert numbers(await read_all(sock)) == list(range(2000))
        await asyncio.wait_for(producing, 5)
        assert conn.messages_dropped == 0


@pytest.mark.parametrize("policy", ["close", "drop-oldest"])
async def test_send_does_not_wait_under_other_policies(policy: str) -> None:
    """It returns at once, however slow the peer is, and says when the connection is closed."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(policy=policy, **SMALL))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        async with asyncio.timeout(5):
            if policy == "close":
                with pytest.raises(ConnectionClosed, match="slow-consumer"):
                    while True:
                        await conn.send(numbered(0))
            else:
                for number in range(1000):
                    await conn.send(numbered(number))
                assert not conn.closing


async def test_drop_oldest() -> None:
    """The newest are kept, in order, within the limit; the oldest of those that did not leave are dropped, counted."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(policy="drop-oldest", **SMALL))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        for number in range(5000):
            conn.write(numbered(number))
            assert conn.write_buffer_size() <= 256 * KIB + 1000
        assert not conn.closing
        assert server.statistics()["messages_dropped"] == conn.messages_dropped > 4000
        conn.close()
        received = numbers(await read_all(sock))
        assert received == sorted(received)
        assert received[-100:] == list(range(4900, 5000))
        assert received[:5] == list(range(5))
        assert len(received) + conn.messages_dropped == 5000
        await eventually(lambda: recorder.reason is CloseReason.APP)
        assert server.statistics()["messages_dropped"] == conn.messages_dropped


@pytest.mark.parametrize("framing", [LengthPrefixed(), Lines()])
async def test_dropping_keeps_messages_whole(framing: Any) -> None:
    """What was begun is finished, whatever is dropped after it: the peer's framing never breaks."""
    recorder = Recorder()
    outbound = Outbound(policy="drop-oldest", high=4 * KIB, limit=8 * KIB, timeout=None)
    async with (
        running(serving(recorder, framing=framing, outbound=outbound)) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        for number in range(1000):
            conn.write(numbered(number, 3000 + number))
        conn.close()
        decoder = framing.decoder()
        received = [bytes(m) if isinstance(m, bytes) else m.encode() for m in decoder.feed(await read_all(sock))]
        decoder.eof()
        assert all(message == numbered(int(message[:8]), len(message)) for message in received)
        assert len(received) + conn.messages_dropped == 1000


async def test_dropping_one_message_larger_than_the_limit() -> None:
    """The last one is kept whatever its size: dropping all would tell a slow peer nothing for ever."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(policy="drop-oldest", **SMALL))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        for _ in range(20):
            conn.write(b"x" * 300_000)
        assert conn.messages_dropped == 18
        conn.close()
        assert len(await read_all(sock)) == 600_000


async def test_a_peer_that_catches_up_gets_everything_from_then_on() -> None:
    """Dropping ends when the peer has read: what is written afterwards arrives, and the handler hears of it."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(policy="drop-oldest", **SMALL))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        for number in range(1000):
            conn.write(numbered(number))
        dropped = conn.messages_dropped
        assert dropped
        loop = asyncio.get_running_loop()
        received = b""
        while len(received) < (1000 - dropped) * 1000:
            received += await asyncio.wait_for(loop.sock_recv(sock, 1 << 16), 5)
        await eventually(lambda: conn.writable and recorder.writable)
        for number in range(1000, 1010):
            conn.write(numbered(number))
        conn.close()
        assert numbers(await read_all(sock)) == list(range(1000, 1010))
        assert conn.messages_dropped == dropped


@pytest.mark.parametrize("policy", ["wait", "close", "drop-oldest"])
@pytest.mark.parametrize("tls", [False, True])
async def test_order(policy: str, tls: bool, tmp_path: Path) -> None:
    """All that is written arrives in the order it was written in, with a file in between, whoever waits where."""
    file = tmp_path / "file"
    file.write_bytes(b"".join(numbered(number) for number in range(1000, 2000)))
    recorder = Recorder(lambda conn, data: None)
    outbound = Outbound(policy=policy, high=16 * KIB, limit=8 * KIB * KIB)
    options: dict[str, Any] = {"bind": ANY_TLS, "tls": server_tls()} if tls else {}
    async with (
        running(serving(recorder, outbound=outbound, **options)) as server,
        client_of(port_of(server), tls=tls) as client,
    ):
        await eventually(lambda: recorder.conn)
        conn = recorder.opened
        for number in range(1000):
            conn.write(numbered(number))
        sending = asyncio.create_task(conn.send_file(file))
        await asyncio.sleep(0)
        for number in range(2000, 3000):
            conn.write(numbered(number))

        async def more() -> None:
            await asyncio.wait_for(sending, 5)
            for number in range(3000, 5000):
                conn.write(numbered(number))
                if number % 100 == 0:
                    await asyncio.sleep(0.001)
            conn.close()

        writing = asyncio.create_task(more())
        received = await client.rest(20)
        await writing
        assert numbers(received) == list(range(5000))


@pytest.mark.parametrize("policy", ["wait", "close", "drop-oldest"])
async def test_what_was_written_during_a_file_is_not_overtaken(policy: str, tmp_path: Path) -> None:
    """Also when the file is sent, and what waits behind it is more than the transport takes at once."""
    file = tmp_path / "file"
    file.write_bytes(b"".join(numbered(number) for number in range(100)))
    recorder = Recorder()
    outbound = Outbound(policy=policy, high=16 * KIB, limit=8 * KIB * KIB)
    async with (
        running(serving(recorder, outbound=outbound)) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        sending = asyncio.create_task(conn.send_file(file))
        await asyncio.sleep(0)
        for number in range(100, 1100):
            conn.write(numbered(number))
        loop = asyncio.get_running_loop()
        received = b""
        while not sending.done():
            received += await asyncio.wait_for(loop.sock_recv(sock, 2000), 5)
            await asyncio.sleep(0)
        for number in range(1100, 1200):
            conn.write(numbered(number))
        assert conn.write_buffer_size() > 500_000
        conn.close()
        received += await read_all(sock)
        assert numbers(received) == list(range(1200))


async def test_no_limit() -> None:
    """For writers who look at ``writable``: everything is kept, and arrives."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(limit=None))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        for number in range(30_000):
            conn.write(numbered(number))
        assert conn.write_buffer_size() > 20_000_000
        conn.close()
        assert numbers(await read_all(sock)) == list(range(30_000))


async def test_watermarks() -> None:
    """Not writable above the high one; writable again at the low one, not before; told once."""
    recorder = Recorder()
    outbound = Outbound(high=100_000, low=20_000, timeout=None)
    async with (
        running(serving(recorder, outbound=outbound)) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        while conn.writable:
            before = conn.write_buffer_size()
            conn.write(numbered(0))
        assert before <= 100_000 < conn.write_buffer_size()
        loop = asyncio.get_running_loop()
        while not recorder.writable:
            await asyncio.wait_for(loop.sock_recv(sock, 8000), 5)
            await asyncio.sleep(0.001)
        assert conn.write_buffer_size() <= 20_000
        assert (recorder.writable, bool(conn.writable)) == (1, True)


async def test_watermarks_of_zero() -> None:
    """A connection is writable while nothing waits, and everything arrives."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(high=0))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)

        async def produce() -> None:
            for number in range(300):
                await conn.send(numbered(number))
            conn.close()

        producing = asyncio.create_task(produce())
        assert numbers(await read_all(sock)) == list(range(300))
        await producing


@pytest.mark.parametrize("policy", ["wait", "drop-oldest"])
async def test_a_write_stall(policy: str) -> None:
    """A peer that takes nothing for the timeout is cut, whatever the policy; who waits to send is told why."""
    recorder = Recorder()
    told: list[str] = []
    async with (
        running(serving(recorder, outbound=Outbound(policy=policy, high=16 * KIB, timeout=0.2))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        for number in range(100):
            conn.write(numbered(number))

        async def wait() -> None:
            try:
                await conn.drained()
            except ConnectionClosed as error:
                told.append(str(error))

        waiting = asyncio.create_task(wait())
        begin = asyncio.get_running_loop().time()
        await eventually(lambda: recorder.reason)
        took = asyncio.get_running_loop().time() - begin
        assert recorder.reason is CloseReason.WRITE_STALL
        assert 0.2 <= took < 1.5
        await waiting
        assert "write-stall" in told[0]
        await eventually(lambda: conn.write_buffer_size() == 0)  # uvloop takes a turn to let go of it
        assert not len(server.ticker)


async def test_what_is_dropped_was_not_taken() -> None:
    """A peer that takes nothing is cut at its timeout, though messages are written, and dropped, all the time."""
    recorder = Recorder()
    outbound = Outbound(policy="drop-oldest", high=4 * KIB, limit=16 * KIB, timeout=0.3)
    async with (
        running(serving(recorder, outbound=outbound)) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while recorder.reason is None:
            assert loop.time() < begin + 3
            for _ in range(10):
                conn.write(numbered(0))
            await asyncio.sleep(0.01)
        assert recorder.reason is CloseReason.WRITE_STALL
        assert conn.messages_dropped > 50


async def test_a_peer_that_takes_a_little_is_not_stalled() -> None:
    """As long as something leaves within each timeout; when nothing does any more, it is cut."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(high=16 * KIB, timeout=0.3))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        conn.write(b"x" * 4_000_000)
        loop = asyncio.get_running_loop()
        end = loop.time() + 1.2
        while loop.time() < end:
            await asyncio.wait_for(loop.sock_recv(sock, 30_000), 5)
            await asyncio.sleep(0.02)
        assert recorder.reason is None
        assert await eventually(lambda: recorder.reason) is CloseReason.WRITE_STALL


async def test_no_write_timeout() -> None:
    """Then a peer that takes nothing is kept; stopping the server ends it all the same."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(**SMALL), idle_timeout=None)) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        conn.write(b"x" * 200_000)
        conn.close()
        await asyncio.sleep(0.05)
        assert recorder.reason is None
        await asyncio.wait_for(server.stop(), 5)
        assert recorder.reason is CloseReason.APP  # as was decided first


async def test_many_senders_of_one_connection() -> None:
    """All that wait go on when there is room, and all are told when the connection closes."""
    recorder = Recorder()
    async with (
        running(serving(recorder, outbound=Outbound(**SMALL))) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        conn.write(b"x" * 200_000)
        senders = [asyncio.create_task(conn.drained()) for _ in range(50)]
        await asyncio.sleep(0)
        for sender in senders[:10]:
            sender.cancel()
        received = 0
        while received < 195_000:
            received += len(await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1 << 16), 5))
        await asyncio.wait_for(asyncio.gather(*senders[10:]), 5)
        conn.write(b"x" * 200_000)
        senders = [asyncio.create_task(conn.drained()) for _ in range(50)]
        await asyncio.sleep(0)
        conn.abort()
        outcomes = await asyncio.wait_for(asyncio.gather(*senders, return_exceptions=True), 5)
        assert all(isinstance(outcome, ConnectionClosed) for outcome in outcomes)


async def test_a_coroutine_that_waits_for_something_else_hears_of_the_cut() -> None:
    """A slow consumer's handler is cancelled, so that no task is left of a connection that is gone."""
    opened: list[Connection] = []
    outcome: list[str] = []

    async def handle(conn: Connection) -> None:
        opened.append(conn)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise

    server = serving(Recorder(), lambda recorder: handle, outbound=Outbound(**SMALL))
    async with running(server), deaf_client(port_of(server)):
        await eventually(lambda: opened)
        while not opened[0].closing:
            opened[0].write(b"x" * 10_000)
        await eventually(lambda: outcome)
        await eventually(lambda: not len(server._tasks))
        assert closed(server) == {"slow-consumer": 1}


async def test_what_waited_is_let_go_of() -> None:
    """A connection that is gone, and that somebody still holds, does not hold what it could not send."""
    recorder = Recorder()
    outbound = Outbound(policy="drop-oldest", high=16 * KIB, limit=8 * KIB * KIB)
    async with (
        running(serving(recorder, outbound=outbound)) as server,
        deaf_client(port_of(server)) as sock,
    ):
        conn = await slow_server(sock, recorder)
        for number in range(5000):
            conn.write(numbered(number))
        assert conn.buffer_size() > 4_000_000
        conn.abort()
        await eventually(lambda: recorder.reason)
        assert conn.buffer_size() == 0
        assert not conn.outgoing().queue


async def test_a_reader_that_never_reads_holds_up_nobody_else() -> None:
    """Its echo waits with it; everybody else's comes back."""
    recorder = Recorder()
    async with (
        running(serving(recorder, coroutine_style, outbound=Outbound(**SMALL))) as server,
        deaf_client(port_of(server)) as sock,
        client_of(port_of(server)) as client,
    ):
        await client.send(b"first")
        assert await client.exactly(5) == b"first"
        flooding = asyncio.create_task(asyncio.get_running_loop().sock_sendall(sock, b"x" * 20_000_000))
        await eventually(lambda: not all(conn.writable for conn in server._connections))
        for _ in range(100):
            await client.send(b"hello")
            assert await client.exactly(5) == b"hello"
        assert sum(conn.buffer_size() for conn in server._connections) < 2_000_000
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
