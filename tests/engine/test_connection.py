"""Connections, seen from both ends: what handlers are told, and what peers can and cannot do to us."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine import CloseReason, Connection, ConnectionHandler, TCPServer
from forebay.engine.settings import Outbound
from forebay.errors import ConnectionClosed, DeadlineExceeded, FramingError
from forebay.wire.framing import Lines
from tests.engine.support import open_sockets
from tests.support import eventually, raw_client, running

pytestmark = pytest.mark.both_loops

ANY = "tcp://127.0.0.1:0"


class Recorder(ConnectionHandler):
    """Notes all calls; what it does on a message can be given."""

    def __init__(self, on_message: Callable[[Connection, Any], None] | None = None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.conn: Connection | None = None
        self.message = on_message or (lambda conn, data: conn.write(data))

    def on_open(self, conn: Connection) -> None:
        self.conn = conn
        self.calls.append(("open", conn.peer_host))

    def on_message(self, conn: Connection, data: Any) -> None:
        self.calls.append(("message", data))
        self.message(conn, data)

    def on_writable(self, conn: Connection) -> None:
        self.calls.append(("writable", None))

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.calls.append(("close", reason))

    @property
    def opened(self) -> Connection:
        assert self.conn is not None
        return self.conn

    @property
    def reason(self) -> CloseReason | None:
        """Why it was closed; exactly once, and last."""
        closes = [value for call, value in self.calls if call == "close"]
        assert len(closes) <= 1
        assert not closes or self.calls[-1][0] == "close"
        return closes[0] if closes else None


def serving(handler: Any, **options: Any) -> TCPServer:
    """A server of one handler, on any port."""
    make = (lambda: handler) if isinstance(handler, ConnectionHandler) else handler
    return TCPServer(make, bind=ANY, **options)


def flood(conn: Connection, data: Any) -> None:
    """Write far more than the kernel's buffers take."""
    for _ in range(200):
        conn.write(b"x" * 100_000)


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError()])
async def test_a_handler_that_fails_in_on_close_is_logged_and_forgotten(error: BaseException) -> None:
    """The connection is gone all the same: it is counted off, and a drain does not wait for it."""

    class Failing(Recorder):
        def on_close(self, conn: Connection, reason: CloseReason) -> None:
            raise error

    async with running(serving(Failing())) as server:
        with capture_logs() as logs:
            async with raw_client(server.addresses[0].port) as client:
                await client.send(b"hello")
                await client.exactly(5)
            await eventually(lambda: server.connections == 0)
        assert [(entry["event"], entry["handler"]) for entry in logs] == [("handler failed", "Failing")]
        await asyncio.wait_for(server.drain(), 5)


async def test_event_style() -> None:
    """Messages come and go, counters count, and the end is told once."""
    handler = Recorder()
    async with running(serving(handler)) as server:
        async with raw_client(server.addresses[0].port) as client:
            await client.send(b"hello")
            assert await client.exactly(5) == b"hello"
            conn = handler.opened
            own = client.writer.get_extra_info("sockname")
            assert conn.peer == f"127.0.0.1:{own[1]}"
            assert conn.local == str(server.addresses[0]).removeprefix("tcp://")
            assert (conn.bytes_in, conn.bytes_out, conn.messages_in, conn.messages_out) == (5, 5, 1, 1)
            assert f"{conn.id} 127.0.0.1" in repr(conn)
        assert await eventually(lambda: handler.reason) is CloseReason.PEER
        assert handler.calls[0] == ("open", "127.0.0.1")
        conn.write(b"too late")
        conn.close()
        conn.abort()
        assert conn.writes_dropped == 1
        assert conn.bytes_out == 5
        assert server.statistics()["closed"] == {"peer": 1}


async def test_close_flushes_what_was_written() -> None:
    """Everything written before a close arrives, also when it is far more than the buffers hold."""

    def answer(conn: Connection, data: bytes) -> None:
        flood(conn, data)
        conn.close()
        conn.write(b"never")

    handler = Recorder(answer)
    async with running(serving(handler)) as server, raw_client(server.addresses[0].port) as client:
        await client.send(b"go")
        assert len(await client.rest()) == 200 * 100_000
        assert await eventually(lambda: handler.reason) is CloseReason.APP


async def test_abort_resets() -> None:
    """An abort loses what was not sent, and the peer sees it is no orderly end."""
    handler = Recorder(lambda conn, data: conn.abort(CloseReason.LIMIT))
    async with running(serving(handler)) as server, raw_client(server.addresses[0].port) as client:
        await client.send(b"go")
        with pytest.raises(ConnectionResetError):
            await client.exactly(1)
        assert await eventually(lambda: handler.reason) is CloseReason.LIMIT


@pytest.mark.parametrize("closing", [False, True])
async def test_a_peer_that_does_not_read_is_cut(closing: bool) -> None:
    """Neither an open connection nor one that is closing waits for it longer than the write timeout."""

    def answer(conn: Connection, data: bytes) -> None:
        flood(conn, data)
        if closing:
            conn.close()

    handler = Recorder(answer)
    async with running(serving(handler, outbound=Outbound(timeout=0.3, limit=None))) as server:
        with socket.create_connection(("127.0.0.1", server.addresses[0].port)) as peer:
            peer.sendall(b"go")
            assert await eventually(lambda: handler.reason) is CloseReason.WRITE_STALL
            assert ("writable", None) not in handler.calls


async def test_a_slow_reader_is_not_cut() -> None:
    """One that reads, however slowly, is served to the end, past many write timeouts."""

    def answer(conn: Connection, data: bytes) -> None:
        flood(conn, data)
        conn.close()

    handler = Recorder(answer)
    async with running(serving(handler, outbound=Outbound(timeout=0.3, limit=None))) as server:
        async with raw_client(server.addresses[0].port) as client:
            await client.send(b"go")
            received = 0
            while received < 12_000_000:
                received += len(await client.exactly(1_500_000))
                await asyncio.sleep(0.12)
            received += len(await client.rest())
        assert received == 200 * 100_000
        assert handler.reason is CloseReason.APP


async def test_watermarks() -> None:
    """Above the high one a connection is not writable; it is told when it is again."""
    handler = Recorder(flood)
    async with running(serving(handler, outbound=Outbound(high=100_000, limit=None))) as server:
        async with raw_client(server.addresses[0].port) as client:
            await client.send(b"go")
            await eventually(lambda: handler.conn and not handler.conn.writable)
            assert handler.opened.write_buffer_size() > 100_000
            await client.exactly(200 * 100_000)
            await eventually(lambda: handler.opened.writable)
        assert ("writable", None) in handler.calls


async def test_send_waits_for_a_slow_peer() -> None:
    """A coroutine that sends is held back, so memory stays bounded; a peer that goes away ends the wait."""
    sent = 0
    errors = []

    async def produce(conn: Connection) -> None:
        nonlocal sent
        try:
            while True:
                await conn.send(b"x" * 50_000)
                sent += 50_000
        except ConnectionClosed as error:
            errors.append(error)
            raise

    async with running(serving(produce)) as server:
        async with raw_client(server.addresses[0].port) as client:
            (conn,) = await eventually(lambda: list(server._connections))
            await eventually(lambda: not conn.writable)
            before = sent
            assert conn.write_buffer_size() < 200_000
            await client.exactly(before + 5_000_000)
            await eventually(lambda: sent >= before + 5_000_000 - 200_000)
            client.abort()
            await eventually(lambda: errors)
        await eventually(lambda: not server.connections and not len(server._tasks))


async def test_reading_can_pause() -> None:
    """While it is paused nothing is read; both calls may be repeated; pausing works from the first call on."""

    class Paused(Recorder):
        def on_open(self, conn: Connection) -> None:
            super().on_open(conn)
            conn.pause_reading()
            conn.pause_reading()

    handler = Paused()
    async with running(serving(handler)) as server, raw_client(server.addresses[0].port) as client:
        await eventually(lambda: handler.conn)
        await asyncio.sleep(0.02)
        await client.send(b"hello")
        await asyncio.sleep(0.05)
        assert handler.opened.messages_in == 0
        handler.opened.resume_reading()
        handler.opened.resume_reading()
        assert await client.exactly(5) == b"hello"


async def test_half_close() -> None:
    """A handler may keep its side open after the peer has ended its own."""

    class Late(Recorder):
        def on_eof(self, conn: Connection) -> bool:
            asyncio.get_running_loop().call_later(0.05, conn.write, b"late")
            asyncio.get_running_loop().call_later(0.06, conn.close)
            conn.resume_reading()
            return True

    handler = Late()
    async with running(serving(handler)) as server, raw_client(server.addresses[0].port) as client:
        client.send_eof()
        assert await client.rest() == b"late"
        assert await eventually(lambda: handler.reason) is CloseReason.APP


async def test_reset_in_the_middle_of_a_message() -> None:
    """It ends the connection as a reset, in both styles, and leaves nothing behind."""
    handler = Recorder()
    ended = []

    async def lines(conn: Connection) -> None:
        async for _ in conn:
            raise AssertionError("half a line is no message")
        ended.append(conn)

    async def check(style: Any) -> None:
        async with running(serving(style, framing=Lines())) as server:
            before = open_sockets()
            async with raw_client(server.addresses[0].port) as client:
                await client.send(b"half a li")
                await eventually(lambda: server.statistics()["bytes_in"] == 9)
                client.abort()
                await eventually(lambda: server.statistics()["closed"])
            assert server.statistics()["closed"] == {"reset": 1}
            await eventually(lambda: open_sockets() == before)

    await check(handler)
    await check(lines)
    assert handler.reason is CloseReason.RESET
    assert len(ended) == 1


async def test_idle_timeout() -> None:
    """A peer that says nothing is closed; messages keep it, and bytes that make no message do not."""
    handler = Recorder()
    async with running(serving(handler, idle_timeout=0.4, framing=Lines())) as server:
        async with raw_client(server.addresses[0].port) as client:
            for _ in range(4):
                await asyncio.sleep(0.2)
                await client.send(b"line\n")
                assert await client.line() == b"line\n"
            begin = asyncio.get_running_loop().time()
            while handler.reason is None:
                await client.send(b".")
                await asyncio.sleep(0.05)
                assert asyncio.get_running_loop().time() - begin < 3
            assert handler.reason is CloseReason.IDLE
            assert await client.rest() == b""
        assert not server.ticker


async def test_idle_timeout_does_not_blame_the_peer_for_our_pause() -> None:
    """While we do not read, nobody is idle; once we do, the time starts anew."""
    handler = Recorder(lambda conn, data: conn.pause_reading())
    async with running(serving(handler, idle_timeout=0.2)) as server, raw_client(server.addresses[0].port) as client:
        await client.send(b"x")
        await asyncio.sleep(0.7)
        assert handler.reason is None
        handler.opened.resume_reading()
        assert await eventually(lambda: handler.reason) is CloseReason.IDLE


async def test_expire_in() -> None:
    """The deadline can be set, moved either way and taken off, and replaces the idle timeout."""

    class Timed(Recorder):
        def on_timeout(self, conn: Connection) -> None:
            self.calls.append(("timeout", None))

    handler = Timed(lambda conn, data: conn.expire_in(float(data) if data != b"never" else None))
    async with running(serving(handler, idle_timeout=0.3)) as server, raw_client(server.addresses[0].port) as client:
        await client.send(b"60")
        await eventually(lambda: handler.conn and handler.conn.messages_in == 1)
        await asyncio.sleep(0.6)
        assert ("timeout", None) not in handler.calls
        handler.opened.expire_in(0.05)
        await eventually(lambda: ("timeout", None) in handler.calls)
        handler.calls.remove(("timeout", None))
        handler.opened.expire_in(0.1)
        handler.opened.expire_in(None)
        await asyncio.sleep(0.5)
        assert ("timeout", None) not in handler.calls
        assert handler.reason is None


async def test_closed_connections_are_not_held_by_timers() -> None:
    """At the close the wheel lets go of a connection, whatever deadlines it had."""
    handler = Recorder(flood)
    async with running(serving(handler)) as server:
        async with raw_client(server.addresses[0].port) as client:
            await client.send(b"go")
            await eventually(lambda: handler.conn and not handler.conn.writable)
            assert len(server.ticker) == 2
            client.abort()
            await eventually(lambda: handler.reason)
        assert len(server.ticker) == 0
        handler.opened.expire_in(5)
        assert len(server.ticker) == 0


async def test_over_long_lines_event_style() -> None:
    """The lines before are handled; then it is closed, named as framing, and what was said still arrives."""
    handler = Recorder()
    async with running(serving(handler, framing=Lines(100))) as server:
        async with raw_client(server.addresses[0].port) as client:
            await client.send(b"good\n" + b"x" * 100_000)
            assert await client.line() == b"good\n"
            assert await client.line() == b""
            assert await client.rest() == b""
        assert await eventually(lambda: handler.reason) is CloseReason.FRAMING


async def test_over_long_lines_coroutine_style() -> None:
    """A coroutine handler gets the error, after the messages before it, and can still answer."""
    seen: list[Any] = []

    async def lines(conn: Connection) -> None:
        try:
            async for line in conn:
                seen.append(line)
        except FramingError as error:
            await conn.send(f"error: {error}")
            raise

    async with running(serving(lines, framing=Lines(100))) as server:
        async with raw_client(server.addresses[0].port) as client:
            with capture_logs() as logs:
                await client.send(b"one\ntwo\n" + b"x" * 100_000)
                assert await client.line() == b"error: a line is longer than 100 bytes\n"
                assert await client.rest() == b""
        await eventually(lambda: server.statistics()["closed"])
        assert server.statistics()["closed"] == {"framing": 1}
        assert not [entry for entry in logs if entry["log_level"] == "error"]
    assert seen == ["one", "two"]


async def test_a_peer_that_writes_on_and_on_is_not_lingered_with() -> None:
    """Reading on after our last words has an end, for one that never stops sending, and for one that never closes."""
    handler = Recorder(lambda conn, data: conn.close(CloseReason.LIMIT, linger=0.3))
    async with running(serving(handler)) as server, raw_client(server.addresses[0].port) as client:
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                await client.send(b"x" * 1000)
                await asyncio.sleep(0.01)
        assert await eventually(lambda: handler.reason) is CloseReason.LIMIT
        assert not server.connections


async def test_half_a_line_at_the_end() -> None:
    """It is no message, in either style."""
    handler = Recorder()
    errors = []

    async def lines(conn: Connection) -> None:
        try:
            async for _ in conn:
                raise AssertionError("half a line is no message")
        except FramingError as error:
            errors.append(str(error))

    async def check(style: Any) -> None:
        async with running(serving(style, framing=Lines())) as server:
            async with raw_client(server.addresses[0].port) as client:
                await client.send(b"DELETE /a")
                client.send_eof()
                assert await client.rest() == b""
            await eventually(lambda: server.statistics()["closed"])
            assert server.statistics()["closed"] == {"framing": 1}

    await check(handler)
    await check(lines)
    assert handler.calls[1:] == [("close", CloseReason.FRAMING)]
    assert "middle of a line" in errors[0]


async def test_several_messages_leave_as_one_write() -> None:
    """What is written while one chunk's messages are handled is one write, in order, also before a close."""

    def answer(conn: Connection, line: str) -> None:
        conn.write(line.upper())
        if line == "quit":
            conn.close()

    handler = Recorder(answer)
    async with running(serving(handler, framing=Lines())) as server, raw_client(server.addresses[0].port) as client:
        await client.send(b"a\nb\r\nquit\nignored\n")
        assert await client.rest() == b"A\nB\nQUIT\n"
        assert await eventually(lambda: handler.reason) is CloseReason.APP
        assert ("message", "ignored") not in handler.calls


async def test_receive() -> None:
    """One message at a time, with a timeout, and an error that says the end."""
    outcomes: list[Any] = []

    async def handle(conn: Connection) -> None:
        outcomes.append(await conn.receive())
        with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
            await conn.receive(timeout=0.05)
        await conn.send("more")
        outcomes.append(await conn.receive(timeout=5))
        with pytest.raises(ConnectionClosed, match="peer"):
            await conn.receive()
        outcomes.append("end")

    async with running(serving(handle, framing=Lines())) as server, raw_client(server.addresses[0].port) as client:
        await client.send(b"one\n")
        assert await client.line() == b"more\n"
        await client.send(b"two\n")
        client.send_eof()
        assert await client.rest() == b""
        assert outcomes == ["one", "two", "end"]


async def test_event_handlers_do_not_receive() -> None:
    """Receiving in event style is an error that says what to do, not a wait for ever."""
    handler = Recorder()
    async with running(serving(handler)) as server, raw_client(server.addresses[0].port):
        await eventually(lambda: handler.conn)
        with pytest.raises(RuntimeError, match="on_message"):
            await handler.opened.receive()


async def test_a_coroutine_that_does_not_receive_holds_the_peer_back() -> None:
    """Past the inbound limit nothing more is read; when it receives again, all of it arrives in order."""
    go = asyncio.Event()
    received = []

    async def slow(conn: Connection) -> None:
        await go.wait()
        async for line in conn:
            received.append(line)

    lines = [f"{n:0100}" for n in range(200_000)]
    server = serving(slow, framing=Lines(), inbound_limit=10)
    async with running(server), raw_client(server.addresses[0].port) as client:
        sending = asyncio.create_task(client.send("".join(line + "\n" for line in lines).encode()))
        await eventually(lambda: server.statistics()["messages_in"] >= 10)
        await asyncio.sleep(0.1)
        assert server.statistics()["messages_in"] < 10_000
        go.set()
        await sending
        await eventually(lambda: len(received) == len(lines))
    assert received == lines


@pytest.mark.parametrize("framing", [None, Lines()])
async def test_a_failing_handler(framing: Lines | None) -> None:
    """What an event handler raises is logged with the peer, and closes that connection only."""

    def fail(conn: Connection, data: Any) -> None:
        raise ValueError("broken")

    handler = Recorder(fail)
    async with running(serving(handler, framing=framing)) as server:
        async with raw_client(server.addresses[0].port) as client:
            with capture_logs() as logs:
                await client.send(b"x\n")
                assert await client.rest() == b""
            assert [(entry["event"], entry["peer"]) for entry in logs] == [("handler failed", handler.opened.peer)]
        assert await eventually(lambda: handler.reason) is CloseReason.ERROR


@pytest.mark.parametrize("end", [Connection.close, Connection.abort])
async def test_ending_in_on_writable(end: Callable[[Connection], None]) -> None:
    """A handler may close or cut its connection when it hears that all was written."""
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))

    class Ending(Recorder):
        def on_writable(self, conn: Connection) -> None:
            super().on_writable(conn)
            end(conn)

    handler = Ending(flood)
    async with running(serving(handler, outbound=Outbound(high=1000, low=0, limit=None))) as server:
        async with raw_client(server.addresses[0].port) as client:
            await client.send(b"go")
            received = await client.rest(20)
            assert end is Connection.abort or len(received) == 200 * 100_000
        assert await eventually(lambda: handler.reason) is CloseReason.APP
        assert handler.calls.count(("writable", None)) == 1
    assert problems == []


async def test_a_closing_peer_that_stops_below_the_low_watermark_is_cut() -> None:
    """Taking most of the last words is not enough: a peer that takes no more of them is cut, however little is left."""

    def answer(conn: Connection, data: bytes) -> None:
        conn.write(b"x" * 1_000_000)
        conn.close()

    handler = Recorder(answer)
    outbound = Outbound(high=500_000, low=450_000, timeout=0.3, limit=None)
    async with running(serving(handler, outbound=outbound)) as server:
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect(("127.0.0.1", server.addresses[0].port))
            conn = await eventually(lambda: handler.conn)
            conn.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            peer.sendall(b"go")
            peer.setblocking(False)
            await eventually(lambda: conn.closing)
            async with asyncio.timeout(10):
                while conn.write_buffer_size() > 400_000:
                    await asyncio.get_running_loop().sock_recv(peer, 2000)
            assert await eventually(lambda: handler.reason) is CloseReason.WRITE_STALL


@pytest.mark.parametrize(
    "where", ["on_open", "on_message", "on_eof", "on_writable", "on_tick", "on_drain", "on_timeout"]
)
async def test_a_handler_that_fails(where: str) -> None:
    """Wherever it does: it is logged once, the connection is closed for it, and on_close still called."""

    def fail(self: Any, conn: Connection) -> None:
        raise ValueError(where)

    def failing_message(self: Any, conn: Connection, data: Any) -> None:
        flood(conn, data) if where == "on_writable" else fail(self, conn)

    methods = {where: fail, "on_message": failing_message}
    handler = type("Failing", (Recorder,), methods)()
    options = {"tick": 0.05} if where == "on_tick" else {"idle_timeout": 0.1} if where == "on_timeout" else {}
    with capture_logs() as logs:
        async with running(serving(handler, **options)) as server, raw_client(server.addresses[0].port) as client:
            await eventually(lambda: server._counts.accepted)
            match where:
                case "on_message":
                    await client.send(b"go")
                case "on_writable":
                    await client.send(b"go")
                case "on_eof":
                    client.send_eof()
                case "on_drain":
                    await asyncio.wait_for(server.drain(), 5)
            await client.rest(20)
            assert await eventually(lambda: handler.reason) is CloseReason.ERROR
    failures = [str(entry["exc_info"]) for entry in logs if entry["event"] == "handler failed"]
    assert failures == [where]
