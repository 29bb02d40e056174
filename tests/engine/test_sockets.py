"""The sockets a supervisor holds: which workers share one, which have their own, and when they go."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import cast

import pytest

from forebay.engine.address import Address
from forebay.engine.process import Process
from forebay.engine.sockets import HeldSockets
from forebay.engine.supervisor import WorkerSpec
from forebay.errors import StartError
from tests.engine.supervision import SLOW, supervised
from tests.support import eventually, free_port, open_descriptors

pytestmark = pytest.mark.usefixtures("workers_environment")

ANY_TCP, ANY_UDP = Address("tcp", "127.0.0.1", 0), Address("udp", "127.0.0.1", 0)


def process(name: str) -> Process:
    """A process that was never started."""

    def listen(process: Process, address: Address) -> socket.socket:
        raise AssertionError("not called")

    return Process(name, WorkerSpec(name.partition("#")[0], "m:f"), drain_timeout=1, listen=listen)


def give(held: HeldSockets, process: Process, address: Address) -> socket.socket:
    """The socket, opened if need be."""
    sock = held.give(process, address, may_open=True)
    assert sock is not None
    return sock


async def test_one_socket_for_connections_and_one_each_for_datagrams() -> None:
    """On the same port; a restarted worker is given the ones of the worker before."""
    held = HeldSockets()
    first, second, again, other = process("a#0"), process("a#1"), process("a#1"), process("b#0")
    for address, shared in ((ANY_TCP, True), (ANY_UDP, False)):
        one, two = give(held, first, address), give(held, second, address)
        assert one.getsockname() == two.getsockname()
        assert (one is two) is shared
        assert give(held, again, address) is two
        assert give(held, other, address).getsockname() != one.getsockname()
    assert list(first.listens.values()) == list(second.listens.values())
    assert len(held) == 2 + 3
    held.close(but_for=set(first.listens))
    assert len(held) == 2
    held.close()
    assert (len(held), one.fileno(), two.fileno()) == (0, -1, -1)


async def test_kinds_of_sockets_on_one_port_do_not_get_mixed_up() -> None:
    """TCP and UDP on one port are two sockets; TCP and TLS are one."""
    held, worker, port = HeldSockets(), process("a#0"), free_port()
    tcp, tls, udp = (give(held, worker, Address(scheme, "127.0.0.1", port)) for scheme in ("tcp", "tls", "udp"))
    assert tcp is tls
    assert (tcp.type, udp.type) == (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    held.close()


async def test_several_ports_of_one_worker_differ() -> None:
    """Port 0 twice is two ports, the same two for each worker."""
    held = HeldSockets()
    ports = []
    for name in ("a#0", "a#1"):
        worker = process(name)
        ports.append([give(held, worker, ANY_UDP).getsockname()[1] for _ in range(2)])
    assert ports[0] == ports[1]
    assert ports[0][0] != ports[0][1]
    held.close()


async def test_nothing_is_opened_when_it_may_not(tmp_path: Path) -> None:
    """What is held is still given; what cannot be opened is told, and leaves nothing."""
    before = open_descriptors()
    held, worker = HeldSockets(), process("a#0")
    assert held.give(worker, ANY_TCP, may_open=False) is None
    assert worker.listens == {}
    with pytest.raises(StartError, match="cannot listen on unix://"):
        held.give(worker, Address("unix", str(tmp_path / "no" / "such"), 0), may_open=True)
    assert (worker.listens, len(held)) == ({}, 0)
    assert open_descriptors() == before


async def test_the_file_of_a_unix_socket_goes_with_it(tmp_path: Path) -> None:
    """Not before nobody needs it any more."""
    held, path = HeldSockets(), tmp_path / "s"
    first, second = process("a#0"), process("b#0")
    address = Address("unix", str(path), 0)
    assert give(held, first, address) is give(held, second, address)
    held.close(but_for=set(second.listens))
    assert path.is_socket()
    held.close()
    assert not path.exists()


class Peer(asyncio.DatagramProtocol):
    """Sends datagrams, and keeps the pids it is answered with."""

    def __init__(self) -> None:
        self.answers: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first one."""
        self.transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is not registered as one
        self.transport.sendto(b"x")

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Keep it."""
        self.answers.append(int(data))

    @classmethod
    async def of(cls, port: int) -> Peer:
        """One that was answered already."""
        loop = asyncio.get_running_loop()
        _, peer = await loop.create_datagram_endpoint(cls, remote_addr=("127.0.0.1", port))
        await eventually(lambda: peer.answers, timeout=SLOW)
        return peer


async def test_a_restarted_worker_answers_the_datagrams_that_waited() -> None:
    """Those sent to the killed worker's socket wait there for the next one; others are not concerned."""
    spec = WorkerSpec("u", "tests.engine.entries:datagrams", count=2)
    async with supervised(spec) as supervisor:
        first, second = supervisor.workers
        assert first.addresses == second.addresses
        peers = [await Peer.of(first.addresses[0].port) for _ in range(40)]
        assert {peer.answers[0] for peer in peers} == {first.pid, second.pid}
        os.kill(first.pid, signal.SIGKILL)
        for peer in peers:
            peer.transport.sendto(b"x")
        await eventually(lambda: all(len(peer.answers) == 2 for peer in peers), timeout=SLOW)
        await eventually(lambda: supervisor.workers[0].pid not in (0, first.pid), timeout=SLOW)
        now_there = {first.pid: supervisor.workers[0].pid, second.pid: second.pid}
        assert all(peer.answers[1] == now_there[peer.answers[0]] for peer in peers)
        for peer in peers:
            peer.transport.close()
