"""The TCP server: both styles, its limits, and its end."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine import (
    Address,
    CloseReason,
    Connection,
    ConnectionHandler,
    TCPServer,
    open_socket,
    set_socket_source,
)
from forebay.errors import ConnectionClosed, StartError
from forebay.service import Group, Service, State
from forebay.wire.framing import Lines
from tests.engine.support import open_sockets
from tests.support import RawClient, eventually, raw_client, running

pytestmark = pytest.mark.both_loops

ANY = "tcp://127.0.0.1:0"


class Echo(ConnectionHandler):
    """Sends back what it gets; stays open in a drain until it is told ``bye``."""

    def on_message(self, conn: Connection, data: Any) -> None:
        conn.write(data)
        if data == "bye":
            conn.close()


class Patient(Echo):
    """An echo that stays open in a drain until it is told ``bye``."""

    def on_drain(self, conn: Connection) -> None:
        conn.write("draining")


async def echo(conn: Connection) -> None:
    """The same in coroutine style."""
    async for line in conn:
        await conn.send(line)


def port_of(server: TCPServer) -> int:
    return server.addresses[0].port


async def test_coroutine_style_echo() -> None:
    """Lines come back, and the connection ends when the peer ends it."""
    async with running(TCPServer(echo, bind=ANY, framing=Lines())) as server:
        async with raw_client(port_of(server)) as client:
            await client.send(b"one\r\ntwo\nthree\n")
            client.send_eof()
            assert await client.rest() == b"one\ntwo\nthree\n"
        await eventually(lambda: not server.connections)
        assert server.statistics()["closed"] == {"peer": 1}


async def test_returning_closes() -> None:
    """A coroutine handler that returns has its connection flushed and closed."""

    async def greet(conn: Connection) -> None:
        await conn.send("x" * 5_000_000)

    async with running(TCPServer(greet, bind=ANY, framing=Lines())) as server, raw_client(port_of(server)) as client:
        assert len(await client.rest()) == 5_000_001
        await eventually(lambda: server.statistics()["closed"] == {"app": 1})


async def test_a_callable_object_is_coroutine_style_too() -> None:
    """What counts is whether the call gives a coroutine."""

    class Handler:
        async def __call__(self, conn: Connection) -> None:
            await conn.send(b"hello")

    async with running(TCPServer(Handler(), bind=ANY)) as server, raw_client(port_of(server)) as client:
        assert await client.rest() == b"hello"


async def test_a_failing_coroutine_is_logged_with_its_peer() -> None:
    """It closes its connection as an error, and the server serves on."""

    async def fail(conn: Connection) -> None:
        await conn.send(b"before")
        raise ValueError("broken")

    async with running(TCPServer(fail, bind=ANY)) as server:
        with capture_logs() as logs:
            for _ in range(2):
                async with raw_client(port_of(server)) as client:
                    assert await client.rest() == b"before"
        assert [entry["event"] for entry in logs] == ["handler failed"] * 2
        assert logs[0]["peer"].startswith("127.0.0.1:")
        assert str(logs[0]["exc_info"]) == "broken"
        assert server.statistics()["closed"] == {"error": 2}


async def test_another_connections_end_is_a_failure() -> None:
    """``ConnectionClosed`` of one's own connection is an end; that of another's is not passed over in silence."""
    first: list[Connection] = []

    async def forward(conn: Connection) -> None:
        if not first:
            first.append(conn)
            return
        await first[0].send(b"x")

    async with running(TCPServer(forward, bind=ANY)) as server:
        async with raw_client(port_of(server)) as client:
            await client.rest()
        with capture_logs() as logs:
            async with raw_client(port_of(server)) as client:
                assert await client.rest() == b""
        assert [entry["event"] for entry in logs] == ["handler failed"]
        assert isinstance(logs[0]["exc_info"], ConnectionClosed)


async def test_work_for_a_peer_that_is_gone_is_cancelled() -> None:
    """A handler that waits for something else is cancelled at a reset; no task is left."""
    outcome = []

    async def work(conn: Connection) -> None:
        try:
            await conn.receive()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise

    async with running(TCPServer(work, bind=ANY)) as server:
        async with raw_client(port_of(server)) as client:
            await client.send(b"go")
            await eventually(lambda: server.statistics()["messages_in"] == 1)
            client.abort()
            await eventually(lambda: outcome)
        await eventually(lambda: not len(server._tasks))


async def test_cleaning_up_is_not_cancelled() -> None:
    """A handler that learned of the end from its connection finishes at its own pace."""
    finished = []

    async def work(conn: Connection) -> None:
        async for _ in conn:
            pass
        await asyncio.sleep(0.05)
        finished.append(True)

    async with running(TCPServer(work, bind=ANY)) as server:
        async with raw_client(port_of(server)) as client:
            await eventually(lambda: server.connections)
            client.abort()
        await eventually(lambda: finished)


async def test_max_connections() -> None:
    """Those past the limit are closed at once, counted, and logged at most once per second; a free place is taken."""
    with capture_logs() as logs:
        async with running(TCPServer(Echo, bind=ANY, max_connections=2)) as server:
            clients = [await RawClient.connect(port_of(server)) for _ in range(2)]
            await eventually(lambda: server.connections == 2)
            before = open_sockets()
            for _ in range(50):
                async with raw_client(port_of(server)) as refused:
                    assert await refused.rest() == b""
            assert server.connections == 2
            assert server.statistics()["refused"] == 50
            assert open_sockets() == before
            await clients.pop().close()
            await eventually(lambda: server.connections == 1)
            async with raw_client(port_of(server)) as client:
                await client.send(b"x")
                assert await client.exactly(1) == b"x"
            await clients.pop().close()
    refusals = [entry for entry in logs if entry["event"] == "connection refused"]
    assert 1 <= len(refusals) <= 3
    assert refusals[0]["reason"] == "max-connections"


async def test_silent_peers_are_closed() -> None:
    """Connections that never say a word end by the idle timeout, and leave nothing behind."""
    async with running(TCPServer(echo, bind=ANY, framing=Lines(), idle_timeout=0.2)) as server:
        before = open_sockets()
        clients = [await RawClient.connect(port_of(server)) for _ in range(50)]
        for client in clients:
            assert await client.rest() == b""
            await client.close()
        await eventually(lambda: not server.connections and open_sockets() == before)
        assert server.statistics()["closed"] == {"idle": 50}
        assert not server.ticker


async def test_drain_coroutine_style() -> None:
    """Messages received before are handled, then iteration ends; new connections are refused at once."""
    gate = asyncio.Event()
    seen = []

    async def work(conn: Connection) -> None:
        async for line in conn:
            await gate.wait()
            seen.append(line)
            await conn.send(line)

    server = TCPServer(work, bind=ANY, framing=Lines())
    async with running(server), raw_client(port_of(server)) as client:
        await client.send(b"one\ntwo\n")
        await eventually(lambda: server.statistics()["messages_in"] == 2)
        draining = asyncio.create_task(server.drain())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert server.state is State.DRAINING
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(port_of(server))
        assert not draining.done()
        gate.set()
        assert await client.rest() == b"one\ntwo\n"
        await asyncio.wait_for(draining, 5)
        assert seen == ["one", "two"]
        assert server.statistics()["closed"] == {"drain": 1}


@pytest.mark.parametrize(("handler", "closed"), [(Echo, "drain"), (Patient, "app")])
async def test_drain_event_style(handler: type[ConnectionHandler], closed: str) -> None:
    """A handler decides itself when it is finished; by default it is at once."""
    async with running(TCPServer(handler, bind=ANY, framing=Lines())) as server:
        async with raw_client(port_of(server)) as client:
            await eventually(lambda: server.connections)
            draining = asyncio.create_task(server.drain())
            if handler is Patient:
                assert await client.line() == b"draining\n"
                await client.send(b"still here\nbye\n")
                assert await client.rest() == b"still here\nbye\n"
            else:
                assert await client.rest() == b""
            await asyncio.wait_for(draining, 5)
        assert server.statistics()["closed"] == {closed: 1}


async def test_a_connection_accepted_just_before_the_drain_is_drained_too() -> None:
    """One that shows up while the server drains is not forgotten."""
    async with running(TCPServer(Echo, bind=ANY)) as server:
        conns = [socket.create_connection(("127.0.0.1", port_of(server))) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.wait_for(server.drain(), 5)
        assert server.connections == 0
        for conn in conns:
            conn.close()


async def test_stop_leaves_nothing() -> None:
    """Stop cuts what is left: no descriptor, task or timer remains, whatever the connections were doing."""
    cancelled = []

    async def stubborn(conn: Connection) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(conn.closing)

    class Flood(ConnectionHandler):
        def on_open(self, conn: Connection) -> None:
            for _ in range(100):
                conn.write(b"x" * 100_000)

    async def check(style: Any) -> None:
        before = open_sockets()
        tasks = len(asyncio.all_tasks())
        server = TCPServer(style, bind=[ANY, ANY], tick=0.01)
        await server.start()
        assert len({address.port for address in server.addresses}) == 2
        peers = [socket.create_connection(("127.0.0.1", address.port)) for address in server.addresses * 10]
        await eventually(lambda: server.connections == 20)
        drain = asyncio.create_task(server.drain())
        await asyncio.sleep(0.02)
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)
        await asyncio.wait_for(server.stop(), 5)
        await server.stop()
        for peer in peers:
            peer.close()
        assert server.connections == 0
        assert len(asyncio.all_tasks()) == tasks
        await eventually(lambda: open_sockets() == before)
        assert not server.ticker

    for style in (stubborn, echo, Flood):
        await check(style)
    assert cancelled == [True] * 20


async def test_stop_before_start() -> None:
    """Stopping and draining are right in any state."""
    server = TCPServer(Echo, bind=ANY)
    assert isinstance(server, Service)
    await server.drain()
    await server.stop()
    assert repr(server) == f"<TCPServer {ANY} stopped {ANY} connections=0>"


async def test_a_start_that_fails_leaves_nothing() -> None:
    """When the second address is taken, the first is not listened on any more."""
    with open_socket(Address("tcp", "127.0.0.1", 0)) as taken:
        before = open_sockets()
        server = TCPServer(Echo, bind=[ANY, f"tcp://127.0.0.1:{taken.getsockname()[1]}"])
        with pytest.raises(StartError, match="already in use"):
            await Group("g", [server]).start()
        assert open_sockets() == before
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(port_of(server))


async def test_two_servers_share_a_listening_socket() -> None:
    """As workers do: both accept; when one drains the other takes all, and the owner's socket stays open."""
    with open_socket(Address("tcp", "127.0.0.1", 0)) as owned:

        async def source(address: Address) -> socket.socket:
            return owned.dup()

        set_socket_source(source)
        try:
            first, second = TCPServer(Echo, bind=ANY), TCPServer(Echo, bind=ANY)
            await first.start()
            await second.start()
        finally:
            set_socket_source(None)
        assert port_of(first) == port_of(second) == owned.getsockname()[1]

        async def ask() -> None:
            async with raw_client(port_of(first)) as client:
                await client.send(b"x")
                assert await client.exactly(1) == b"x"

        await asyncio.gather(*(ask() for _ in range(20)))
        await asyncio.wait_for(first.drain(), 5)
        await first.stop()
        await asyncio.gather(*(ask() for _ in range(20)))
        assert first.statistics()["accepted"] + second.statistics()["accepted"] == 40
        assert second.statistics()["accepted"] >= 20
        await second.stop()
        with socket.create_connection(owned.getsockname(), timeout=5):  # it is queued, for whoever comes next
            pass


async def test_tick() -> None:
    """Every open connection is called, again and again; one that fails is closed, and the others tick on."""

    class Ticking(ConnectionHandler):
        def on_open(self, conn: Connection) -> None:
            conn.state = 0

        def on_tick(self, conn: Connection) -> None:
            conn.state += 1
            if conn.bytes_in:
                raise ValueError("broken")
            conn.write(f"tick {conn.state}")

    server = TCPServer(Ticking, bind=ANY, framing=Lines(), tick=0.02)
    async with running(server), raw_client(port_of(server)) as one, raw_client(port_of(server)) as two:
        assert await one.line() == b"tick 1\n"
        with capture_logs() as logs:
            await two.send(b"x")
            await two.rest()
        assert [entry["event"] for entry in logs] == ["handler failed"]
        assert await one.line() == b"tick 2\n"
        assert await one.line() == b"tick 3\n"


async def test_counters_outlive_their_connections() -> None:
    """Statistics and metrics add up the connections that are open and those that are gone."""
    async with running(TCPServer(Echo, bind=ANY, name="echo")) as server:
        async with raw_client(port_of(server)) as gone:
            await gone.send(b"12345")
            await gone.exactly(5)
        await eventually(lambda: not server.connections)
        async with raw_client(port_of(server)) as client:
            await client.send(b"123")
            await client.exactly(3)
            statistics = server.statistics()
            assert (statistics["bytes_in"], statistics["bytes_out"]) == (8, 8)
            assert (statistics["messages_in"], statistics["messages_out"]) == (2, 2)
            assert (statistics["connections"], statistics["accepted"]) == (1, 2)
            samples = {
                family.name + sample.suffix: (dict(sample.labels), sample.value)
                for family in server.collect()
                for sample in family.samples
            }
    assert samples["forebay_tcp_connections"] == ({"server": "echo"}, 1)
    assert samples["forebay_tcp_received_bytes_total"] == ({"server": "echo"}, 8)
    assert samples["forebay_tcp_closed_total"] == ({"server": "echo", "reason": "peer"}, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bind": "http://127.0.0.1:1"}, "expected tcp"),
        ({"bind": []}, "bind must name an address"),
        ({"max_connections": 0}, "max_connections must be at least 1"),
        ({"inbound_limit": 0}, "inbound_limit must be at least 1"),
        ({"idle_timeout": 0}, "idle_timeout must be more than 0, or None"),
        ({"first_byte_timeout": -1}, "first_byte_timeout must be more than 0, or None"),
        ({"message_timeout": 0}, "message_timeout must be more than 0, or None"),
        ({"buffer_memory": 0}, "buffer_memory must be at least 1, or None"),
        ({"heartbeat": 0}, "Heartbeat interval 0: must be more than 0"),
        ({"bind": "tls://127.0.0.1:0"}, "tls://127.0.0.1:0 needs tls=TLS(certificates=...)"),
        ({"handler": 3}, "must be a coroutine function, or make a ConnectionHandler"),
    ],
)
async def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    """They are refused when the server is made, by name."""
    with pytest.raises(ValueError, match=re.escape(message)):
        TCPServer(**{"handler": Echo, "bind": ANY, **options})


async def test_close_reasons_have_stable_names() -> None:
    """They are label values of metrics."""
    assert [str(reason) for reason in CloseReason] == [
        "peer", "app", "idle", "first-byte", "slow-message", "heartbeat", "timeout", "write-stall", "slow-consumer",
        "memory", "limit", "proxy-header", "handshake", "handshake-timeout", "expired", "drain", "reset", "framing",
        "error", "stopped",
    ]  # fmt: skip
