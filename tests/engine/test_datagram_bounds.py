"""Datagrams past what a server can or will take: counted, and nothing grows."""

from __future__ import annotations

import asyncio
import tracemalloc
from contextlib import ExitStack

import pytest
from structlog.testing import capture_logs

from forebay.engine.datagram import UDPServer
from forebay.engine.datagram_dial import dial_datagram
from forebay.engine.datagram_handler import DatagramHandler
from forebay.engine.datagram_session import DatagramSession
from forebay.engine.datagram_socket import DatagramSocket
from forebay.errors import ConnectionClosed
from tests.engine.datagrams import ANY, Peer, peer_of
from tests.support import eventually, running

pytestmark = pytest.mark.both_loops


class Echo(DatagramHandler):
    """Sends back what it gets."""

    def on_message(self, session: DatagramSession, data: bytes) -> None:
        session.write(data)


def all_accounted(server: UDPServer) -> int:
    """Datagrams that were received, and those the kernel dropped before."""
    statistics = server.statistics()
    return int(statistics["messages_in"] + statistics["dropped"].get("kernel", 0))


async def test_forged_sources_do_not_disturb_who_is_there() -> None:
    """Past ``max_sessions`` new peers are dropped: live sessions are served on, and nothing grows."""
    with capture_logs() as logs:
        async with running(UDPServer(Echo, bind=ANY, max_sessions=20, receive_buffer=1 << 20)) as server:
            with peer_of(server.addresses[0]) as live:
                await live.ask(b"first")
                for number in range(3000):
                    with peer_of(server.addresses[0], f"127.1.{number // 250}.{number % 250 + 1}") as forged:
                        forged.send(b"x")
                    if number % 100 == 0:
                        assert await live.ask(b"%d" % number) == b"%d" % number
                await eventually(lambda: server.statistics()["dropped"].get("max-sessions") == 3000 - 19)
                assert server.sessions == 20
                assert await live.ask(b"last") == b"last"
    assert len([entry for entry in logs if entry["event"] == "datagram dropped"]) <= 10


async def test_a_slow_coroutine_loses_the_newest() -> None:
    """A session queues ``inbound_limit`` datagrams; what comes then is dropped, and counted here and there."""
    gate = asyncio.Event()
    sessions: list[DatagramSession] = []
    got: list[bytes] = []

    async def slow(session: DatagramSession) -> None:
        sessions.append(session)
        await gate.wait()
        async for data in session:
            got.append(data)

    async with running(UDPServer(slow, bind=ANY, inbound_limit=3)) as server:
        with peer_of(server.addresses[0]) as peer:
            for number in range(10):
                peer.send(b"%d" % number)
            await eventually(lambda: server.statistics()["dropped"] == {"inbox": 7})
            assert sessions[0].messages_dropped == 7
            assert server.statistics()["queued_bytes"] == 3
            gate.set()
            await eventually(lambda: got == [b"0", b"1", b"2"])
            assert server.statistics()["queued_bytes"] == 0
            peer.send(b"again")
            await eventually(lambda: got[-1] == b"again")


async def test_a_flood_stays_within_its_memory() -> None:
    """Whatever is sent to handlers that do not read, at most ``buffer_memory`` is kept."""

    async def never(session: DatagramSession) -> None:
        await asyncio.Event().wait()

    limit = 1 << 20
    server = UDPServer(never, bind=ANY, inbound_limit=1000, buffer_memory=limit, receive_buffer=1 << 20)
    async with running(server):
        with ExitStack() as stack:
            peers = [stack.enter_context(peer_of(server.addresses[0])) for _ in range(10)]
            peers[0].send(b"warm up")
            await eventually(lambda: server.sessions == 1)
            tracemalloc.start()
            try:
                for _ in range(500):
                    for peer in peers:
                        peer.send(b"x" * 1400)
                    await asyncio.sleep(0)
                await eventually(lambda: all_accounted(server) == 5001)
                kept = tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()
            assert server.statistics()["queued_bytes"] <= limit
            assert kept < 1.5 * limit
            assert server.statistics()["dropped"]["memory"] > 100
            for session in list(server._sessions):
                session.failed(RuntimeError("enough"))
    assert server.statistics()["queued_bytes"] == 0


async def test_new_sessions_wait_for_old_coroutines() -> None:
    """A coroutine that outlives its session still counts: peers that come and go do not pile up tasks."""
    gate = asyncio.Event()

    async def lingers(session: DatagramSession) -> None:
        session.close()
        await gate.wait()

    async with running(UDPServer(lingers, bind=ANY, max_sessions=3)) as server:
        with peer_of(server.addresses[0]) as peer:
            for _ in range(10):
                peer.send(b"x")
                await asyncio.sleep(0.005)
            await eventually(lambda: server.statistics()["dropped"] == {"max-sessions": 7})
            assert len(server.tasks) == 3
            gate.set()
            await eventually(lambda: not server.tasks)
            peer.send(b"x")
            await eventually(lambda: server.statistics()["opened"] == 4)


async def test_too_long_datagrams_are_counted() -> None:
    """Past ``datagram_maximum`` they open no session and reach no handler."""
    async with running(UDPServer(Echo, bind=ANY, datagram_maximum=100)) as server:
        with peer_of(server.addresses[0]) as peer:
            peer.send(b"x" * 101)
            await eventually(lambda: server.statistics()["dropped"] == {"length": 1})
            assert server.sessions == 0
            assert await peer.ask(b"x" * 100) == b"x" * 100


async def test_what_the_kernel_drops_is_counted() -> None:
    """A full receive buffer shows in the statistics and the metrics: nothing is lost without a number."""
    async with running(UDPServer(Echo, bind=ANY, receive_buffer=4096)) as server:
        with peer_of(server.addresses[0]) as peer:
            for _ in range(200):  # the loop does not run meanwhile
                peer.send(b"x" * 500)
            await eventually(lambda: all_accounted(server) == 200)
            lost = server.statistics()["dropped"]["kernel"]
            assert lost > 50
        (family,) = [family for family in server.collect() if family.name == "forebay_udp_dropped"]
        assert ("_total", lost) in [(s.suffix, s.value) for s in family.samples if ("reason", "kernel") in s.labels]
    assert server.statistics()["dropped"]["kernel"] == lost  # after the socket is gone, too


async def test_a_receive_buffer_the_kernel_does_not_grant() -> None:
    """It is said in the log when the kernel gives less than was asked for."""
    with capture_logs() as logs:
        async with running(UDPServer(Echo, bind=ANY, receive_buffer=1 << 30)):
            pass
    assert [entry["bytes"] < 1 << 30 for entry in logs if entry["event"].startswith("receive buffer")] == [True]


async def test_more_than_a_datagram_can_carry() -> None:
    """Writing it is the caller's error, told to it at once; the session and the server live on."""
    caught: list[str] = []

    async def handler(session: DatagramSession) -> None:
        async for data in session:
            try:
                session.write(b"x" * 65_508)
            except ValueError as error:
                caught.append(str(error))
            await session.send(data)

    async with running(UDPServer(handler, bind=ANY)) as server:
        with peer_of(server.addresses[0]) as peer:
            assert await peer.ask(b"1") == b"1"
            assert "65508 bytes" in caught[0]
            assert server.statistics()["messages_out"] == 1
            assert server.statistics()["errors"] == 0


async def test_peers_that_are_gone() -> None:
    """Answers to ports where nobody is any more (ICMP port unreachable) harm neither the server nor the others."""
    async with running(UDPServer(Echo, bind=ANY)) as server:
        for _ in range(200):
            with peer_of(server.addresses[0]) as gone:
                gone.send(b"x")
        with peer_of(server.addresses[0]) as peer:
            assert await peer.ask(b"here") == b"here"
        await eventually(lambda: server.statistics()["messages_in"] == 201)


def socket_of(server: UDPServer) -> DatagramSocket:
    return server._sockets[0]


async def test_errors_of_sending_are_counted() -> None:
    """What the system refuses to send is dropped and counted; it does not end the session."""

    def refuse(data: bytes, address: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    with capture_logs() as logs:
        async with running(UDPServer(Echo, bind=ANY)) as server:
            with peer_of(server.addresses[0]) as peer:
                await peer.ask(b"1")
                real, socket_of(server)._sendto = socket_of(server)._sendto, refuse
                for _ in range(5):
                    peer.send(b"2")
                await eventually(lambda: server.statistics()["unsent"] == {"error": 5})
                socket_of(server)._sendto = real
                assert await peer.ask(b"3") == b"3"
            statistics = server.statistics()
    assert (statistics["errors"], statistics["sessions"], statistics["messages_out"]) == (5, 1, 2)
    assert [entry["reason"] for entry in logs if entry["event"] == "datagram error"] == ["operation not permitted"]


class Full:
    """Stands for a kernel that takes nothing more, and a transport that therefore queues."""

    def __init__(self, made: DatagramSocket) -> None:
        self.made = made
        self.real = made._sendto
        self.transport = made.transport
        self.queue: list[tuple[bytes, object]] = []
        made._sendto = self.sendto_kernel
        made.transport = self  # type: ignore[assignment]

    def sendto_kernel(self, data: bytes, address: object) -> int:
        raise BlockingIOError

    def sendto(self, data: bytes, address: object) -> None:
        self.queue.append((data, address))
        self.made.pause_writing()

    def get_write_buffer_size(self) -> int:
        return sum(len(data) for data, _ in self.queue)

    def get_extra_info(self, name: str) -> None:
        return None

    def empty(self) -> None:
        """The kernel takes datagrams again."""
        self.made._sendto = self.real
        self.made.transport = self.transport
        for data, address in self.queue:
            self.real(data, address)
        self.made.resume_writing()


async def test_a_full_send_queue() -> None:
    """``write`` fills it up to its limit and drops what is more; the order is kept."""
    async with running(UDPServer(Echo, bind=ANY, send_limit=5)) as server:
        with peer_of(server.addresses[0]) as peer:
            await peer.ask(b"0")
            full = Full(socket_of(server))
            for number in range(1, 8):
                peer.send(b"%d" % number)
            await eventually(lambda: server.statistics()["unsent"] == {"send-queue": 2})
            (session,) = server._sessions
            assert not session.writable
            assert session.write_buffer_size() == 5
            assert session.writes_dropped == 2
            full.empty()
            assert session.writable
            assert [await peer.receive() for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]
            assert await peer.ask(b"8") == b"8"


async def test_the_transports_own_queue() -> None:
    """What the kernel does not take at first goes through the transport, from bound and from connected sockets."""

    def busy(data: bytes, address: object) -> int:
        raise BlockingIOError

    async with running(UDPServer(Echo, bind=ANY)) as server:
        session = await dial_datagram(server.addresses[0])
        endpoint = session._endpoint
        assert isinstance(endpoint, DatagramSocket)
        endpoint._sendto = socket_of(server)._sendto = busy
        buffer = bytearray(b"mine")
        session.write(buffer)
        buffer[:] = b"next"
        assert await session.receive(timeout=5) == b"mine"
        session.close()


@pytest.mark.parametrize("end", ["room", "close", "stop"])
async def test_send_waits_for_room(end: str) -> None:
    """``send`` waits while the queue is not empty; when the session ends instead, it is told."""
    sessions: list[DatagramSession] = []
    outcome: list[str] = []

    async def handler(session: DatagramSession) -> None:
        sessions.append(session)
        async for data in session:
            try:
                await session.send(data)
                outcome.append("sent")
            except (ConnectionClosed, asyncio.CancelledError):
                outcome.append("ended")
                raise

    server = UDPServer(handler, bind=ANY)
    async with running(server):
        with peer_of(server.addresses[0]) as peer:
            await peer.ask(b"0")
            full = Full(socket_of(server))
            sessions[0].write(b"1")
            peer.send(b"2")
            await eventually(lambda: sessions[0]._waiters)
            if end == "room":
                full.empty()
                assert [await peer.receive() for _ in range(2)] == [b"1", b"2"]
            elif end == "close":
                sessions[0].close()
                await eventually(lambda: not server.tasks)
            full.made.transport = full.transport
    assert outcome == ["sent", "sent" if end == "room" else "ended"]
    assert not server.tasks


async def test_two_wait_for_room_at_once() -> None:
    """Who waits behind another who fills the queue again waits on."""
    async with running(UDPServer(Echo, bind=ANY, send_limit=1)) as server, asyncio.TaskGroup() as group:
        with ExitStack() as stack:
            peers: list[Peer] = [stack.enter_context(peer_of(server.addresses[0])) for _ in range(2)]
            for peer in peers:
                await peer.ask(b"0")
            sessions = list(server._sessions)
            full = Full(socket_of(server))
            sessions[0].write(b"1")
            sends = [group.create_task(session.send(b"2")) for session in sessions]
            cancelled = group.create_task(sessions[0].send(b"never"))
            await eventually(lambda: all(session._waiters for session in sessions) and len(sessions[0]._waiters) == 2)
            cancelled.cancel()
            full.made.resume_writing()  # for a moment
            full.made.pause_writing()
            await eventually(lambda: all(len(session._waiters) == 1 for session in sessions))
            assert not any(send.done() for send in sends)
            full.empty()
            assert [await peers[0].receive() for _ in range(2)] == [b"1", b"2"]
            assert await peers[1].receive() == b"2"
