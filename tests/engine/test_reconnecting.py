"""A client that stays connected, whatever the network does: by way of the fault proxy."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from forebay.engine import Connection, TCPServer
from forebay.engine.certificates import Certificate
from forebay.engine.outbox import Outbox
from forebay.engine.reconnecting import ClientState, Reconnecting
from forebay.engine.settings import Heartbeat
from forebay.engine.tls_settings import TLS, ClientTLS
from forebay.errors import (
    ConnectFailed,
    ConnectionClosed,
    DeadlineExceeded,
    ForebayError,
    Overloaded,
)
from forebay.policy.backoff import Backoff
from forebay.service import Service
from forebay.testing import FaultProxy
from forebay.wire.framing import Lines
from tests.engine.support import open_sockets
from tests.support import eventually, free_port, running

pytestmark = pytest.mark.both_loops

FAST = Backoff(initial=0.02, factor=2, cap=0.1)


class Client(Reconnecting):
    """Speaks lines, tries again soon, and remembers each change of its state."""

    def __init__(self, address: Any, **options: Any) -> None:
        self.history: list[tuple[ClientState, float]] = []
        self.reasons: list[ForebayError] = []
        options = {"framing": Lines(), "backoff": FAST, "good_life": 0.0, **options}
        super().__init__(address, **options)

    def _enter(self, state: ClientState, reason: ForebayError | None) -> None:
        super()._enter(state, reason)
        self.history.append((state, asyncio.get_running_loop().time()))
        if state is ClientState.WAITING and reason is not None:
            self.reasons.append(reason)

    @property
    def states(self) -> list[ClientState]:
        """Those it went through, in order."""
        return [state for state, _ in self.history]


class Server:
    """Notes every line it gets, by connection; answers ``ack`` to each if it is told to."""

    def __init__(self, *, acknowledge: bool = False) -> None:
        self.acknowledge = acknowledge
        self.connections: list[list[str]] = []
        self.tcp = TCPServer(self.serve, bind="tcp://127.0.0.1:0", framing=Lines())

    async def serve(self, conn: Connection) -> None:
        """One connection."""
        lines: list[str] = []
        self.connections.append(lines)
        async for line in conn:
            if line.startswith("?"):
                await conn.send("!" + line[1:])
                continue
            lines.append(line)
            if self.acknowledge:
                await conn.send("ack")

    @property
    def numbers(self) -> list[int]:
        """The numbers it got, over all connections."""
        return [int(line) for lines in self.connections for line in lines if line.isdigit()]


def acknowledges(message: str) -> int:
    """What the server's answers mean."""
    return 1 if message == "ack" else 0


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """No test leaves sockets or tasks behind."""
    sockets, tasks = open_sockets(), len(asyncio.all_tasks())
    yield
    await eventually(lambda: open_sockets() <= sockets)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server."""
    found = Server()
    async with running(found.tcp):
        yield found


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[FaultProxy]:
    """A proxy before it."""
    async with FaultProxy(server.tcp.addresses[0]) as found:
        yield found


async def test_messages_both_ways(server: Server) -> None:
    """What is sent before it is connected arrives, answers are received, and closing ends the loop over them."""
    client = Client(server.tcp.addresses[0])
    assert isinstance(client, Service)
    assert client.state is ClientState.CLOSED
    with pytest.raises(ConnectionClosed):
        await client.send("too early")
    async with client:
        await client.send("?a")
        client.send_nowait("?b")
        assert await client.receive(5) == "!a"
        answers = []
        async for message in client:
            answers.append(message)
            if message == "!b":
                await client.close()
        assert answers == ["!b"]
        with pytest.raises(ConnectionClosed):
            await client.receive(5)
        with pytest.raises(ConnectionClosed):
            await client.send("too late")
    assert client.states == [ClientState.CONNECTING, ClientState.CONNECTED, ClientState.CLOSED]
    assert "closed" in repr(client)
    await client.close()
    with pytest.raises(RuntimeError, match="before"):
        await client.start()


async def test_bytes_without_framing() -> None:
    """Without framing, messages are bytes."""

    async def repeat(conn: Connection) -> None:
        async for data in conn:
            await conn.send(data)

    async with (
        running(TCPServer(repeat, bind="tcp://127.0.0.1:0")) as server,
        Client(server.addresses[0], framing=None) as client,
    ):
        await client.send(b"hello")
        assert await client.receive(5) == b"hello"


async def test_the_server_is_not_there_at_the_start() -> None:
    """It says why, goes on trying, and is connected as soon as there is one; what was sent meanwhile arrives."""
    server = Server()
    port = free_port()
    async with Client(f"tcp://127.0.0.1:{port}") as client:
        with pytest.raises(DeadlineExceeded, match=r"was not connected within 0\.2 s: .*connection refused"):
            await client.wait_connected(0.2)
        assert isinstance(client.reason, ConnectFailed)
        assert "connection refused" in repr(client)
        assert client.attempts >= 2
        await client.send("1")
        server.tcp.bind = [server.tcp.bind[0].with_port(port)]
        async with running(server.tcp):
            await client.wait_connected(5)
            assert f"{port} connected outbox=" in repr(client)  # without a reason
            assert client.attempts == 0
            await eventually(lambda: server.numbers == [1])
            await client.close()


async def test_latency(proxy: FaultProxy, server: Server) -> None:
    """A slow network is no reason to reconnect."""
    proxy.latency, proxy.jitter = 0.05, 0.02
    async with Client(proxy.address, heartbeat=Heartbeat(5.0)) as client:
        for number in range(100):
            await client.send(str(number))
        await eventually(lambda: server.numbers == list(range(100)))
        assert (client.connects, client.failures) == (1, 0)


async def test_reset(proxy: FaultProxy, server: Server) -> None:
    """A connection that breaks is made anew, and its reason can be seen meanwhile."""
    async with Client(proxy.address) as client:
        await client.send("1")
        await eventually(lambda: server.numbers == [1])
        proxy.refuse()
        await proxy.reset()
        await eventually(lambda: client.state is not ClientState.CONNECTED)
        await client.send("2")
        assert isinstance(client.reason, ConnectionClosed | ConnectFailed)
        proxy.accept()
        await eventually(lambda: server.numbers == [1, 2])
        assert client.connects == 2


async def test_it_keeps_to_its_schedule() -> None:
    """The waits between tries are those that chance and the backoff gave: never shorter, and hardly longer."""
    backoff = Backoff(initial=0.05, factor=2, cap=0.2)
    client = Client(f"tcp://127.0.0.1:{free_port()}", backoff=backoff, good_life=5.0, source=random.Random(3))
    chance = random.Random(3)
    expected = [backoff.delay(n) * chance.random() for n in range(8)]
    async with client:
        await eventually(lambda: client.states.count(ClientState.WAITING) > len(expected))
    waits = [
        after - at
        for (state, at), (_, after) in zip(client.history, client.history[1:], strict=False)
        if state is ClientState.WAITING
    ]
    for wait, planned in zip(waits, expected, strict=False):
        assert planned - 0.005 <= wait <= planned + 0.1


async def test_black_hole(proxy: FaultProxy, server: Server) -> None:
    """A server that is gone without a word is found out by the heartbeat; nothing acknowledged is missing."""
    server.acknowledge = True
    heartbeat = Heartbeat(0.1, misses=1, ping="?", is_pong="!".__eq__)
    async with Client(proxy.address, heartbeat=heartbeat, acknowledges=acknowledges, inbound_limit=0) as client:
        await client.wait_connected(5)
        proxy.black_hole = True
        await client.send("1")
        await eventually(lambda: client.state is not ClientState.CONNECTED)
        assert "heartbeat" in str(client.reason)
        await proxy.reset()
        proxy.black_hole = False
        await eventually(lambda: server.numbers == [1])
        await client.close()
        assert client.statistics()["repeated"] >= 1


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_ten_flaps(proxy: FaultProxy, server: Server, acknowledged: bool) -> None:
    """With acknowledgements everything arrives, in order, though some of it twice; without, nothing is missing that the
    kernel had not taken, and nothing changes its place."""
    server.acknowledge = acknowledged
    options: dict[str, Any] = {"acknowledges": acknowledges} if acknowledged else {}
    async with Client(proxy.address, inbound_limit=0, outbox=Outbox(messages=50), **options) as client:

        async def produce() -> int:
            number = 0
            while not flapping.done():
                await client.send(str(number))
                number += 1
                if number % 10 == 0:
                    await asyncio.sleep(0.002)
            return number

        await client.wait_connected(5)
        flapping = asyncio.create_task(proxy.flap(10, up=0.1, down=0.05))
        count = await asyncio.wait_for(produce(), 30)
        await client.close(10)
        counts = client.statistics()
        assert counts["outbox_messages"] == 0
        assert counts["settled"] == counts["accepted"] == count
        assert counts["connects"] >= 5
    await eventually(lambda: server.tcp.connections == 0)
    got = server.numbers
    if acknowledged:
        assert sorted(set(got)) == list(range(count))
        assert len(got) <= count + counts["repeated"]
    else:
        assert got[-1] == count - 1
    for lines in server.connections:
        numbers = [int(line) for line in lines if line.isdigit()]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True


async def test_what_the_kernel_has_not_taken_is_kept(proxy: FaultProxy, server: Server) -> None:
    """A batch that was taken in part only is sent again whole, with all that came after it."""
    async with Client(proxy.address, outbox=Outbox(messages=10_000, size=64 << 20)) as client:
        await client.wait_connected(5)
        proxy.black_hole = True
        for number in range(600):
            await client.send(f"{number} {'x' * 20_000}")
        await asyncio.sleep(0.05)
        kept = client.statistics()["outbox_messages"]
        assert kept > 100  # the kernels' buffers are full
        assert client.statistics()["settled"] == 600 - kept
        await proxy.reset()
        proxy.black_hole = False
        await eventually(lambda: client.statistics()["outbox_messages"] == 0)
        await eventually(lambda: server.connections[-1] and server.connections[-1][-1].startswith("599 "))
        numbers = [int(line.split()[0]) for line in server.connections[-1]]
        assert numbers == list(range(600 - kept, 600))


async def test_on_connect_comes_first(proxy: FaultProxy, server: Server) -> None:
    """It runs on each connection before anything else is sent; it can receive, and what it leaves is for the client."""

    async def subscribe(conn: Connection) -> None:
        await conn.send("subscribe")
        await conn.send("?token")
        await conn.send("?left over")
        assert await conn.receive(5) == "!token"

    async with Client(proxy.address, on_connect=subscribe) as client:
        await client.send("1")
        await eventually(lambda: server.numbers == [1])
        await proxy.reset()
        await client.send("2")
        await eventually(lambda: server.numbers == [1, 2])
        assert server.connections == [["subscribe", "1"], ["subscribe", "2"]]
        assert await client.receive(5) == "!left over"
        assert await client.receive(5) == "!left over"


async def test_on_connect_fails(server: Server) -> None:
    """That is a failed connection: nothing was sent on it, and it is tried again."""
    calls = 0

    async def picky(conn: Connection) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyError("not logged in")
        if calls == 2:
            await asyncio.sleep(60)
        if calls == 3:
            conn.close()
        if calls == 4:
            await conn.receive(0.01)

    async with Client(server.tcp.addresses[0], on_connect=picky, setup_timeout=0.1) as client:
        await client.send("1")
        await eventually(lambda: server.numbers == [1])
        kinds = [type(reason).__name__ for reason in client.reasons]
        assert kinds == ["ConnectFailed", "ConnectTimeout", "ConnectionClosed", "DeadlineExceeded"]
        assert "not logged in" in str(client.reasons[0])
        assert (calls, client.failures, client.connects) == (5, 4, 1)


async def test_the_outbox_waits() -> None:
    """``send`` waits for room, first come, first served; a wait that is cancelled leaves nothing behind."""
    server = Server()
    port = free_port()
    server.tcp.bind = [server.tcp.bind[0].with_port(port)]
    async with Client(f"tcp://127.0.0.1:{port}", outbox=Outbox(messages=2)) as client:
        await client.send("0")
        await client.send("1")
        with pytest.raises(Overloaded):
            client.send_nowait("no room")
        assert client.statistics()["refused"] == 1
        senders = [asyncio.create_task(client.send(str(number))) for number in (2, 3, 99, 4, 5)]
        await asyncio.sleep(0.01)
        assert not any(sender.done() for sender in senders)
        senders[2].cancel()
        async with running(server.tcp):
            await asyncio.wait(senders, timeout=5)
            await eventually(lambda: server.numbers == [0, 1, 2, 3, 4, 5])
            await client.close()


async def test_the_outbox_drops_the_oldest() -> None:
    """The newest are kept, and the others counted."""
    server = Server()
    port = free_port()
    server.tcp.bind = [server.tcp.bind[0].with_port(port)]
    async with Client(f"tcp://127.0.0.1:{port}", outbox=Outbox(messages=3, policy="drop-oldest")) as client:
        for number in range(10):
            await client.send(str(number))
        assert client.statistics()["dropped"] == 7
        async with running(server.tcp):
            await eventually(lambda: server.numbers == [7, 8, 9])
            await client.close()


async def test_the_outbox_refuses() -> None:
    """There is no room for one more, by number or by bytes; what can never fit is the caller's mistake."""
    async with Client(f"tcp://127.0.0.1:{free_port()}", outbox=Outbox(messages=2, size=10, policy="refuse")) as client:
        await client.send("12345")
        with pytest.raises(Overloaded) as caught:
            await client.send("67890")
        assert caught.value.limit == "outbox"
        await client.send("6")
        with pytest.raises(Overloaded):
            client.send_nowait("7")
        with pytest.raises(ValueError, match="does not fit"):
            await client.send("12345678901")
        with pytest.raises(ValueError, match="line"):
            await client.send("two\nlines")
        assert client.statistics()["refused"] == 2
        assert client.statistics()["outbox_bytes"] == 8
        await client.close(0)


async def test_more_acknowledged_than_sent(server: Server) -> None:
    """Nothing that was not sent is taken for acknowledged; it is counted. A negative number breaks the connection."""
    async with Client(
        server.tcp.addresses[0], acknowledges=lambda message: -1 if message == "!bad" else 3, inbound_limit=0
    ) as client:
        await client.send("?x")
        await eventually(lambda: client.unexpected_acknowledgements == 2)
        await client.send("?bad")
        await eventually(lambda: client.connects >= 2)
        await client.stop()


async def test_nobody_receives(server: Server) -> None:
    """Reading from the network pauses when the inbox is full, and nothing is lost."""
    async with Client(server.tcp.addresses[0], inbound_limit=4) as client:
        for number in range(200):
            await client.send(f"?{number}")
        await eventually(lambda: client.statistics()["outbox_messages"] == 0)
        assert [await client.receive(5) for _ in range(200)] == [f"!{number}" for number in range(200)]


async def test_acknowledgements_are_read_while_it_drains(server: Server) -> None:
    """Also when nobody receives: what does not fit into the inbox is thrown away, and counted."""
    server.acknowledge = True
    async with Client(server.tcp.addresses[0], inbound_limit=2, acknowledges=acknowledges) as client:
        for number in range(100):
            await client.send(str(number))
        await client.close(5)
        counts = client.statistics()
        assert counts["outbox_messages"] == 0
        assert counts["unread"] > 0


async def test_close_sends_what_is_left(proxy: FaultProxy, server: Server) -> None:
    """It waits for a connection, within its time; the server sees an orderly end."""
    proxy.refuse()
    async with Client(proxy.address) as client:
        await client.send("1")
        closing = asyncio.create_task(client.close(10))
        await asyncio.sleep(0.02)
        with pytest.raises(ConnectionClosed):
            await client.send("2")
        proxy.accept()
        await closing
    await eventually(lambda: server.tcp.connections == 0)
    assert server.numbers == [1]
    assert server.tcp.statistics()["closed"] == {"peer": 1}


async def test_close_while_disconnected() -> None:
    """With nothing to send it is done at once; else when its time is over."""
    address = f"tcp://127.0.0.1:{free_port()}"
    loop = asyncio.get_running_loop()
    async with Client(address, backoff=Backoff(60, 1, 60)) as client:
        await eventually(lambda: client.state is ClientState.WAITING)
        began = loop.time()
        await client.close(5)
        assert loop.time() - began < 1
    async with Client(address) as client:
        await client.send("1")
        began = loop.time()
        await client.close(0.2)
        assert 0.19 <= loop.time() - began < 2
        assert client.state is ClientState.CLOSED
        assert client.statistics()["outbox_messages"] == 1
    with pytest.raises(ConnectionClosed):
        await client.wait_connected(1)


async def test_stopped_at_any_moment(proxy: FaultProxy) -> None:
    """Whatever it is doing: nothing is left of it, and whoever waits for it is told."""

    async def slow(conn: Connection) -> None:
        await asyncio.sleep(60)

    for moment in range(12):
        client = Client(proxy.address, on_connect=slow if moment % 2 else None)
        await client.start()
        for _ in range(moment):
            await asyncio.sleep(0)
        waiting = asyncio.create_task(client.receive())
        sending = asyncio.create_task(client.wait_connected())
        await asyncio.sleep(0)
        await client.stop()
        await client.stop()
        assert client.state is ClientState.CLOSED
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(waiting, 5)
        await asyncio.wait([sending], timeout=5)
        assert isinstance(sending.exception(), ConnectionClosed | None)
    await eventually(lambda: proxy.connections == 0)


async def test_close_is_cancelled(proxy: FaultProxy) -> None:
    """Then it closes at once, with whatever is left unsent."""
    proxy.black_hole = True
    client = Client(proxy.address, acknowledges=acknowledges)
    await client.start()
    await client.wait_connected(5)
    await client.send("1")
    closing = asyncio.create_task(client.close(30))
    await asyncio.sleep(0.02)
    assert not closing.done()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert client.state is ClientState.CLOSED
    await proxy.reset()


async def test_a_sender_that_waits_is_told_of_the_end() -> None:
    """It is not left waiting for room that never comes."""
    client = Client(f"tcp://127.0.0.1:{free_port()}", outbox=Outbox(messages=1))
    await client.start()
    await client.send("1")
    senders = [asyncio.create_task(client.send("2")) for _ in range(3)]
    await asyncio.sleep(0)
    await client.stop()
    for sender in senders:
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(sender, 5)


async def test_a_client_that_only_sends_does_not_receive(server: Server) -> None:
    """That is a mistake in the program, and options that make no sense are one, too."""
    async with Client(server.tcp.addresses[0], inbound_limit=0) as client:
        with pytest.raises(RuntimeError, match="inbound_limit=0"):
            await client.receive()
    for address, options in (
        ("udp://127.0.0.1:1", {}),
        ("tcp://127.0.0.1:1", {"inbound_limit": -1}),
        ("tcp://127.0.0.1:1", {"good_life": -1}),
    ):
        with pytest.raises(ValueError, match=r"udp|inbound_limit|good_life"):
            Client(address, **options)


async def test_over_tls(tmp_path: Path) -> None:
    """All of it is the same over TLS: nothing acknowledged is lost, nothing taken is written twice without need."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    server = Server(acknowledge=True)
    server.tcp = TCPServer(
        server.serve, bind="tls://127.0.0.1:0", framing=Lines(), tls=TLS(Certificate(tmp_path / "server.pem"))
    )
    async with running(server.tcp), FaultProxy(server.tcp.addresses[0]) as proxy:
        address = f"tls://127.0.0.1:{proxy.address.port}"
        tls = ClientTLS(ca=tmp_path / "ca.pem")
        async with Client(address, tls=tls, acknowledges=acknowledges, inbound_limit=0) as client:
            for number in range(100):
                await client.send(str(number))
                if number in (30, 60):
                    await eventually(lambda: client.connects > proxy.resets)
                    await proxy.reset()
            await client.close(10)
            assert client.statistics()["outbox_messages"] == 0
        assert sorted(set(server.numbers)) == list(range(100))
        async with Client(address, tls=tls, inbound_limit=0, outbox=Outbox(messages=10_000, size=64 << 20)) as client:
            await client.wait_connected(5)
            proxy.black_hole = True
            for number in range(1000, 1600):
                await client.send(f"{number} {'x' * 20_000}")
            await asyncio.sleep(0.05)
            kept = client.statistics()["outbox_messages"]
            assert kept > 100
            await proxy.reset()
            proxy.black_hole = False
            await eventually(lambda: client.statistics()["outbox_messages"] == 0)
            await eventually(lambda: server.connections[-1] and server.connections[-1][-1].startswith("1599 "))
            assert len(server.connections[-1]) == kept
