"""Dialling: what comes about, and what is said when nothing does."""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from forebay.engine import Address, CloseReason, Connection, ConnectionHandler, TCPServer, dial, open_socket
from forebay.engine.certificates import Certificate
from forebay.engine.dns_cache import DNSCache
from forebay.engine.happy_eyeballs import AddressInfo
from forebay.engine.loop import now
from forebay.engine.settings import Heartbeat, Keepalive, Outbound
from forebay.engine.tls_settings import TLS, ClientTLS
from forebay.errors import (
    ConnectFailed,
    ConnectionClosed,
    ConnectTimeout,
    FramingError,
    RetryClass,
    TLSFailed,
    TLSTimeout,
)
from forebay.testing import FaultProxy
from forebay.wire.framing import Lines
from tests.engine.support import open_sockets
from tests.support import eventually, free_port, running

pytestmark = pytest.mark.both_loops


class Client(ConnectionHandler):
    """Collects what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_open(self, conn: Connection) -> None:
        self.heard.append("open")

    def on_message(self, conn: Connection, data: Any) -> None:
        self.heard.append(data)

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.heard.append(reason)


async def echo(conn: Connection) -> None:
    """Answer one line, then end."""
    await conn.send(await conn.receive())


async def test_dial() -> None:
    """The connection is open when it returns, unbuffered, and has the timers and counters of any other."""
    async with running(TCPServer(echo, bind="tcp://127.0.0.1:0", framing=Lines())) as server:
        client = Client()
        conn = await dial(server.addresses[0], client, framing=Lines())
        assert client.heard == ["open"]
        assert f"tcp://{conn.peer}" == str(server.addresses[0])
        sock = conn.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        conn.write("hello")
        await eventually(lambda: len(client.heard) == 3)
        assert client.heard == ["open", "hello", CloseReason.PEER]


async def test_expire_in_on_a_dialled_connection() -> None:
    """A server that does not answer is given up by the deadline."""
    async with running(TCPServer(echo, bind="tcp://127.0.0.1:0")) as server:
        client = Client()
        conn = await dial(server.addresses[0], client)
        conn.expire_in(0.1)
        await eventually(lambda: client.heard[-1] is CloseReason.IDLE)


async def test_refused() -> None:
    """The error names the address and the reason, and says that it is safe to try again."""
    address = Address("tcp", "127.0.0.1", free_port())
    before = open_sockets()
    with pytest.raises(ConnectFailed, match=f"^cannot connect to {address}: connection refused$") as caught:
        await dial(address, Client())
    assert caught.value.target == str(address)
    assert caught.value.retry is RetryClass.SAFE
    assert open_sockets() == before


async def test_unknown_name() -> None:
    """So does that of a name nobody knows."""
    with pytest.raises(ConnectFailed, match="its host name is not known"):
        await dial(Address("tcp", "name.invalid", 1), Client())


async def test_a_lookup_that_fails_is_no_unknown_name() -> None:
    """What a name server could not say now is not said to be so for good."""

    async def resolve(host: str, port: int) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with pytest.raises(ConnectFailed, match=r"could not be looked up: temporary failure in name resolution$"):
        await dial("tcp://a.example:1", resolve=resolve)


async def test_timeout_and_cancellation() -> None:
    """A server whose queue is full is given up in time; nothing is left, neither then nor when we are cancelled."""
    with open_socket(Address("tcp", "127.0.0.1", 0), backlog=0) as sock:
        port = sock.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        before = open_sockets()
        address = Address("tcp", "127.0.0.1", port)
        client = Client()
        with pytest.raises(ConnectTimeout, match=re.escape(f"cannot connect to {address} within 0.1 s")):
            await dial(address, client, timeout=0.1)
        task = asyncio.create_task(dial(address, client, timeout=5))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: open_sockets() == before)
        assert client.heard == []
        for filler in fillers:
            filler.close()


async def repeat(conn: Connection) -> None:
    """Answer every line."""
    async for line in conn:
        await conn.send(line)


async def test_coroutine_style() -> None:
    """Without a handler, messages are received and sent with await; a closed server ends the loop over them."""
    async with running(TCPServer(repeat, bind="tcp://127.0.0.1:0", framing=Lines())) as server:
        conn = await dial(str(server.addresses[0]), framing=Lines())
        await conn.send("one")
        assert await conn.receive(5) == "one"
        await conn.send("two")
        await conn.send("three")
        messages = []
        async for message in conn:
            messages.append(message)
            if message == "three":
                await server.drain()
        assert messages == ["two", "three"]
        with pytest.raises(ConnectionClosed):
            await conn.receive(5)
        await eventually(lambda: conn.close_reason is CloseReason.PEER)


async def test_what_came_before_the_end_can_be_received() -> None:
    """More messages than the inbox holds wait in the network meanwhile; none is lost."""

    async def talk(conn: Connection) -> None:
        for number in range(500):
            await conn.send(f"{number} {'x' * 1000}")

    async with running(TCPServer(talk, bind="tcp://127.0.0.1:0", framing=Lines())) as server:
        before = open_sockets()
        conn = await dial(server.addresses[0], framing=Lines(), inbound_limit=4)
        await eventually(lambda: server.connections == 0 or (conn._inbox and len(conn._inbox.messages) >= 4))
        assert [int(message.split()[0]) async for message in conn] == list(range(500))
        await eventually(lambda: open_sockets() == before)


async def test_bytes_that_are_no_message() -> None:
    """The receiver is told, and the connection closed."""

    async def nonsense(conn: Connection) -> None:
        await conn.send(b"\xff\xfe\n")
        await conn.receive()

    async with running(TCPServer(nonsense, bind="tcp://127.0.0.1:0")) as server:
        conn = await dial(server.addresses[0], framing=Lines())
        with pytest.raises(FramingError):
            await conn.receive(5)
        await eventually(lambda: conn.close_reason is CloseReason.FRAMING)
        await eventually(lambda: server.connections == 0)


async def test_a_name() -> None:
    """A name is looked up, and its addresses are tried until one answers."""
    async with running(TCPServer(repeat, bind="tcp://127.0.0.1:0", framing=Lines())) as server:
        conn = await dial(f"tcp://localhost:{server.addresses[0].port}", framing=Lines())
        assert conn.peer == f"127.0.0.1:{server.addresses[0].port}"
        await conn.send("hello")
        assert await conn.receive(5) == "hello"
        conn.close()
    address = f"tcp://localhost:{free_port()}"
    with pytest.raises(ConnectFailed, match=f"^cannot connect to {address}: connection refused"):
        await dial(address)


async def test_unix(tmp_path: Path) -> None:
    """A UNIX socket is dialled by its path, or by its name that is no file; what is not there is refused."""
    for address in (f"unix://{tmp_path}/socket", f"unix://@forebay-test-{os.getpid()}-{id(tmp_path)}"):
        async with running(TCPServer(repeat, bind=address, framing=Lines())):
            conn = await dial(address, framing=Lines(), keepalive=Keepalive())
            await conn.send("hello")
            assert await conn.receive(5) == "hello"
            conn.close()
    before = open_sockets()
    with pytest.raises(ConnectFailed, match="no such file or directory"):
        await dial(f"unix://{tmp_path}/nothing")
    assert open_sockets() == before


async def test_a_unix_socket_whose_queue_is_full(tmp_path: Path) -> None:
    """It is waited for: in vain, until the timeout; else until there is room."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as filler:
        listener.bind(path)
        listener.listen(0)
        filler.connect(path)
        before = open_sockets()
        with pytest.raises(ConnectTimeout):
            await dial(f"unix://{path}", timeout=0.1)
        assert open_sockets() == before
        task = asyncio.create_task(dial(f"unix://{path}"))
        await asyncio.sleep(0.05)
        assert not task.done()
        listener.accept()[0].close()
        (await task).close()
        await eventually(lambda: open_sockets() == before)


async def test_what_cannot_be_dialled() -> None:
    """Datagrams have their own function, and a descriptor is nobody to call."""
    for address in ("udp://127.0.0.1:1", Address("udp", "127.0.0.1", 1)):
        with pytest.raises(ValueError, match="dial_datagram"):
            await dial(address)
    with pytest.raises(ValueError, match="cannot be dialled"):
        await dial(Address("fd", "3", 0))
    with pytest.raises(ValueError, match="expected tcp or"):
        await dial("fd://3")
    with pytest.raises(ValueError, match="inbound_limit"):
        await dial("tcp://127.0.0.1:1", inbound_limit=0)


async def test_keepalive() -> None:
    """The kernel is told when to probe."""
    async with running(TCPServer(repeat, bind="tcp://127.0.0.1:0")) as server:
        conn = await dial(server.addresses[0], keepalive=Keepalive(idle=7, interval=3, probes=2))
        sock = conn.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 3
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 2
        conn.abort()


async def test_idle_timeout_heartbeat_and_limits() -> None:
    """A dialled connection has the timeouts, the heartbeat and the bounds that a server's has."""
    async with running(TCPServer(repeat, bind="tcp://127.0.0.1:0", framing=Lines())) as server:
        idle = await dial(server.addresses[0], framing=Lines(), idle_timeout=0.1)
        beating = await dial(
            server.addresses[0], framing=Lines(), heartbeat=Heartbeat(0.1, misses=1, ping="?", is_pong="?".__eq__)
        )
        limited = await dial(server.addresses[0], framing=Lines(), outbound=Outbound(high=10, low=5, limit=20))
        assert limited.transport.get_write_buffer_limits() == (5, 10)
        await eventually(lambda: idle.close_reason is CloseReason.IDLE)
        await eventually(lambda: beating.messages_in >= 3)
        assert not beating.closing
        beating.abort()
        limited.abort()
        async with FaultProxy(server.addresses[0]) as proxy:
            proxy.black_hole = True
            lonely = await dial(proxy.address, framing=Lines(), heartbeat=Heartbeat(0.1, misses=1, ping="?"))
            await eventually(lambda: lonely.close_reason is CloseReason.HEARTBEAT)


class Authority:
    """A CA, in files, and a certificate of it for 127.0.0.1 and localhost."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(directory / "ca.pem"))
        leaf = ca.issue_cert("127.0.0.1", "localhost")
        leaf.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
        self.server = TLS(Certificate(directory / "server.pem"))
        self.client = ClientTLS(ca=directory / "ca.pem", handshake_timeout=0.3)


async def test_tls(tmp_path: Path) -> None:
    """A server with the right certificate is spoken to; the connection tells what was agreed on."""
    ours = Authority(tmp_path / "ours")
    bind = "tls://127.0.0.1:0"
    async with running(TCPServer(repeat, bind=bind, framing=Lines(), tls=ours.server)) as server:
        for host in ("127.0.0.1", "localhost"):
            conn = await dial(
                f"tls://{host}:{server.addresses[0].port}", framing=Lines(), tls=ours.client, keepalive=Keepalive()
            )
            assert conn.tls is not None
            assert conn.tls.version == "TLSv1.3"
            await conn.send("hello")
            assert await conn.receive(5) == "hello"
            conn.close()
            await eventually(lambda: server.connections == 0)


async def test_tls_that_does_not_come_about(tmp_path: Path) -> None:
    """A certificate of a foreign CA, an end in mid handshake and silence each have their error; nothing is left."""
    ours, foreign = Authority(tmp_path / "ours"), Authority(tmp_path / "foreign")
    before = open_sockets()
    client = Client()
    async with running(TCPServer(repeat, bind="tls://127.0.0.1:0", tls=foreign.server)) as server:
        with pytest.raises(TLSFailed, match="certificate is not signed by a CA we trust") as caught:
            await dial(server.addresses[0], client, tls=ours.client)
        assert caught.value.retry is RetryClass.NEVER
        assert caught.value.target == str(server.addresses[0])

    async def leave(conn: Connection) -> None:
        await conn.receive()

    async with running(TCPServer(leave, bind="tcp://127.0.0.1:0")) as server:
        with pytest.raises(ConnectFailed, match="TLS handshake"):
            await dial(f"tls://127.0.0.1:{server.addresses[0].port}", client, tls=ours.client)
    with open_socket(Address("tcp", "127.0.0.1", 0)) as silent:
        address = Address("tls", "127.0.0.1", silent.getsockname()[1])
        with pytest.raises(TLSTimeout, match=r"within 0\.3 s"):
            await dial(address, client, tls=ours.client)
        for moment in range(12):
            task = asyncio.create_task(dial(address, client, tls=ours.client))
            for _ in range(moment):
                await asyncio.sleep(0)
            if moment == 11:
                await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    await eventually(lambda: open_sockets() <= before)
    assert client.heard == []


async def test_cancelled_at_any_moment() -> None:
    """Nothing is left open; a handler that heard of the connection hears of its end."""
    async with running(TCPServer(repeat, bind="tcp://127.0.0.1:0")) as server:
        before = open_sockets()
        for moment in range(12):
            for host in ("127.0.0.1", "localhost"):
                client = Client()
                task = asyncio.create_task(dial(f"tcp://{host}:{server.addresses[0].port}", client))
                for _ in range(moment):
                    await asyncio.sleep(0)
                if task.done():
                    task.result().abort()
                else:
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                await eventually(lambda client=client: len(client.heard) in (0, 2))  # type: ignore[misc]  # its default
        await eventually(lambda: server.connections == 0)
        await eventually(lambda: open_sockets() <= before)


class Steps:
    """Notes what ``watch`` is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, dict[str, Any]]] = []
        self.times: list[float] = []

    def __call__(self, step: str, at: float, detail: dict[str, Any]) -> None:
        self.steps.append((step, dict(detail)))
        self.times.append(at)

    @property
    def words(self) -> list[str]:
        """The steps alone."""
        return [step for step, _ in self.steps]


async def some_addresses(host: str, port: int) -> Sequence[AddressInfo]:
    """Finds several addresses, of which only the last one leads anywhere."""
    assert host == "some.example"
    kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
    return [(*kind, (address, port)) for address in ("127.0.0.2", "127.0.0.3", "127.0.0.1")]


async def test_watching(tmp_path: Path) -> None:
    """Each step is told as it happens, with its details: for names, addresses and UNIX sockets."""
    async with running(TCPServer(repeat, bind=["tcp://127.0.0.1:0", f"unix://{tmp_path}/socket"])) as server:
        port = server.addresses[0].port
        began = now()
        steps = Steps()
        (await dial(f"tcp://some.example:{port}", watch=steps, resolve=some_addresses)).abort()
        assert steps.steps == [
            ("dns-start", {"host": "some.example"}),
            ("dns-done", {"addresses": 3, "cached": False}),
            ("connect-start", {"address": f"127.0.0.2:{port}"}),
            ("connect-done", {"address": f"127.0.0.2:{port}", "error": "connection refused"}),
            ("connect-start", {"address": f"127.0.0.3:{port}"}),
            ("connect-done", {"address": f"127.0.0.3:{port}", "error": "connection refused"}),
            ("connect-start", {"address": f"127.0.0.1:{port}"}),
            ("connect-done", {"address": f"127.0.0.1:{port}"}),
        ]
        times = [began, *steps.times, now()]
        assert times == sorted(times)
        for address, text in (
            (f"tcp://127.0.0.1:{port}", f"127.0.0.1:{port}"),
            (f"unix://{tmp_path}/socket", f"unix://{tmp_path}/socket"),
        ):
            steps = Steps()
            (await dial(address, watch=steps)).abort()
            assert steps.steps == [("connect-start", {"address": text}), ("connect-done", {"address": text})]
        steps = Steps()
        (await dial(f"tcp://localhost:{port}", watch=steps)).abort()
        assert steps.words[:2] == ["dns-start", "dns-done"]
        assert steps.steps[1][1]["addresses"] >= 1


async def test_watching_what_does_not_come_about(tmp_path: Path) -> None:
    """Every step that begins has an end, with the reason; also when it is given up."""
    port = free_port()
    steps = Steps()
    with pytest.raises(ConnectFailed, match="connection refused"):
        await dial(f"tcp://127.0.0.1:{port}", watch=steps)
    assert steps.steps[-1] == ("connect-done", {"address": f"127.0.0.1:{port}", "error": "connection refused"})
    steps = Steps()
    with pytest.raises(ConnectFailed):
        await dial(f"unix://{tmp_path}/nothing", watch=steps)
    nothing = f"unix://{tmp_path}/nothing"
    assert steps.steps[-1] == ("connect-done", {"address": nothing, "error": "no such file or directory"})
    steps = Steps()
    with pytest.raises(ConnectFailed, match="its host name is not known"):
        await dial("tcp://name.invalid:1", watch=steps)
    assert steps.words == ["dns-start", "dns-done"]
    assert steps.steps[-1][1]["error"] == "its host name is not known"
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):
            steps = Steps()
            with pytest.raises(ConnectTimeout):
                await dial(f"tcp://127.0.0.1:{full.getsockname()[1]}", watch=steps, timeout=0.1)
            assert steps.words == ["connect-start", "connect-done"]
            assert steps.steps[-1][1]["error"] == "given up"
            assert 0.09 < steps.times[1] - steps.times[0] < 2


async def test_watching_tls(tmp_path: Path) -> None:
    """What was agreed on; the next handshake resumes the session; a failed one says why."""
    ours, foreign = Authority(tmp_path / "ours"), Authority(tmp_path / "foreign")
    async with running(TCPServer(repeat, bind="tls://127.0.0.1:0", framing=Lines(), tls=ours.server)) as server:
        address = f"tls://localhost:{server.addresses[0].port}"
        for resumed in (False, True):
            steps = Steps()
            conn = await dial(address, framing=Lines(), tls=ours.client, watch=steps)
            await conn.send("hello")
            assert await conn.receive(5) == "hello"
            conn.abort()
            assert steps.words[-3:] == ["connect-done", "tls-start", "tls-done"]
            assert steps.steps[-2][1] == {"host": "localhost"}
            assert steps.steps[-1][1].pop("cipher").startswith("TLS_")
            assert steps.steps[-1][1] == {"version": "TLSv1.3", "alpn": None, "resumed": resumed}
        steps = Steps()
        with pytest.raises(TLSFailed):
            await dial(address, tls=foreign.client, watch=steps)
        assert steps.words[-2:] == ["tls-start", "tls-done"]
        assert "not signed by a CA we trust" in steps.steps[-1][1]["error"]


async def test_a_watcher_that_fails() -> None:
    """It is logged, and is nobody else's problem."""

    def fail(step: str, at: float, detail: dict[str, Any]) -> None:
        raise LookupError(step)

    async with running(TCPServer(echo, bind="tcp://127.0.0.1:0", framing=Lines())) as server:
        with capture_logs() as logs:
            address = f"tcp://some.example:{server.addresses[0].port}"
            conn = await dial(address, framing=Lines(), watch=fail, resolve=some_addresses)
        await conn.send("hello")
        assert await conn.receive(5) == "hello"
        assert [log["event"] for log in logs] == ["watching a dial failed"] * 8


async def test_a_resolver() -> None:
    """It is asked for names alone; without addresses there is an error of its own."""

    async def nothing(host: str, port: int) -> Sequence[AddressInfo]:
        assert host == "none.example"
        return []

    for watch in (None, Steps()):
        with pytest.raises(ConnectFailed, match=r"^cannot connect to tcp://none\.example:1: .*no address") as caught:
            await dial("tcp://none.example:1", resolve=nothing, watch=watch)
        assert not isinstance(caught.value, ConnectTimeout)
    async with running(TCPServer(echo, bind="tcp://127.0.0.1:0", framing=Lines())) as server:
        (await dial(server.addresses[0], resolve=nothing)).abort()
        (await dial(f"tcp://some.example:{server.addresses[0].port}", resolve=some_addresses)).abort()


async def test_cancelled_at_any_moment_with_everything(tmp_path: Path) -> None:
    """Names from a cache, TLS and a watcher: 200 cancellations leave no socket, and what began on one has ended."""
    rng = random.Random(11)
    ours = Authority(tmp_path / "ours")
    ends = {"cancelled": 0, "done": 0}
    async with (
        running(TCPServer(repeat, bind="tls://127.0.0.1:0", framing=Lines(), tls=ours.server)) as server,
        DNSCache() as cache,
    ):
        before = open_sockets()
        for _ in range(200):
            steps = Steps()
            if rng.random() < 0.5:
                cache.clear()
            address = f"tls://localhost:{server.addresses[0].port}"
            task = asyncio.create_task(dial(address, framing=Lines(), tls=ours.client, resolve=cache, watch=steps))
            if rng.random() < 0.5:
                for _ in range(rng.randrange(40)):
                    await asyncio.sleep(0)
            else:
                await asyncio.sleep(rng.random() * 0.006)
            task.cancel()
            try:
                (await task).abort()
                ends["done"] += 1
            except asyncio.CancelledError:
                ends["cancelled"] += 1
            for step in ("connect", "tls"):
                assert steps.words.count(f"{step}-start") == steps.words.count(f"{step}-done")
        await eventually(lambda: server.connections == 0)
        await eventually(lambda: open_sockets() <= before)
    assert min(ends.values()) > 10
