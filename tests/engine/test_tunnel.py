"""Connecting through an HTTP proxy: what comes about, and what is said when nothing does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine import TCPServer, dial
from forebay.engine.address import Address
from forebay.engine.connection import Connection
from forebay.engine.dns_cache import DNSCache
from forebay.engine.loop import now
from forebay.engine.tls_settings import ClientTLS
from forebay.engine.tunnel import Tunnel, TunnelRequest
from forebay.errors import (
    ConnectFailed,
    ConnectionClosed,
    ConnectTimeout,
    ProxyFailed,
    RetryClass,
    TLSFailed,
    TLSTimeout,
)
from forebay.wire.framing import Lines
from tests.engine.connecting import server_tls, tls_files
from tests.engine.support import open_sockets
from tests.support import eventually, free_port, running

pytestmark = pytest.mark.both_loops

ANY, ANY_TLS = "tcp://127.0.0.1:0", "tls://127.0.0.1:0"
OK = b"HTTP/1.1 200 Connection established\r\n\r\n"


def trusting(**options: Any) -> ClientTLS:
    """TLS that trusts the tests' certificates."""
    return ClientTLS(ca=tls_files()[1], **options)


async def repeat(conn: Connection) -> None:
    """Answer every line."""
    async for line in conn:
        await conn.send(line)


class Proxy:
    """A proxy: answers what it is told to, and relays when that is a 200."""

    def __init__(self, bind: str = ANY) -> None:
        self.answer: bytes | None = OK  # None: nothing
        self.pieces = 0  # bytes of the answer that are sent at once; 0: all
        self.connected: asyncio.Event | None = None  # waited for before the answer
        self.heads: list[bytes] = []
        self.server = TCPServer(self._serve, bind=bind, tls=server_tls() if bind.startswith("tls") else None)

    @property
    def address(self) -> str:
        """Where it listens."""
        return str(self.server.addresses[0])

    async def _serve(self, conn: Connection) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await conn.receive()
        self.heads.append(head)
        if self.connected is not None:
            await self.connected.wait()
        if self.answer is None:
            await conn.receive()
            return
        for at in range(0, len(self.answer), self.pieces or len(self.answer)):
            await conn.send(self.answer[at : at + (self.pieces or len(self.answer))])
            await asyncio.sleep(0)
        if not self.answer.rpartition(b"HTTP/1.")[2].startswith((b"0 200", b"1 200")):
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            return
        back = asyncio.create_task(self._relay_back(reader, conn))
        try:
            async for data in conn:
                writer.write(data)
                await writer.drain()
        finally:
            back.cancel()
            writer.transport.abort()
            await asyncio.gather(back, return_exceptions=True)

    async def _relay_back(self, reader: asyncio.StreamReader, conn: Connection) -> None:
        while data := await reader.read(65536):
            await conn.send(data)
        conn.close()


@asynccontextmanager
async def through(proxy: Proxy, *, bind: str = ANY_TLS) -> AsyncIterator[TCPServer]:
    """A proxy that runs, and a target."""
    tls = server_tls() if bind.startswith("tls") else None
    async with running(proxy.server), running(TCPServer(repeat, bind=bind, framing=Lines(), tls=tls)) as target:
        yield target


async def say_hello(conn: Connection) -> None:
    """Something goes there and back."""
    await conn.send("hello")
    assert await conn.receive(5) == "hello"


@pytest.mark.parametrize("outer", [ANY, ANY_TLS])
@pytest.mark.parametrize("inner", [ANY, ANY_TLS])
@pytest.mark.parametrize("pieces", [0, 1])
async def test_a_tunnel(outer: str, inner: str, pieces: int) -> None:
    """With and without TLS, to the proxy and to the target: TLS is with the target, whose certificate it is."""
    proxy = Proxy(outer)
    proxy.pieces = pieces
    before = open_sockets()
    async with through(proxy, bind=inner) as target:
        tunnel = Tunnel(proxy.address, "Basic dTpw", tls=trusting() if outer == ANY_TLS else None)
        port = target.addresses[0].port
        scheme = inner.partition(":")[0]
        tls = trusting() if inner == ANY_TLS else None
        conn = await dial(f"{scheme}://localhost:{port}", framing=Lines(), tunnel=tunnel, tls=tls)
        await say_hello(conn)
        assert proxy.heads == [
            b"CONNECT localhost:%d HTTP/1.1\r\nHost: localhost:%d\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
            % (port, port)
        ]
        if inner == ANY_TLS:
            assert conn.tls is not None
            assert conn.tls.server_name == "localhost"
        large = "x" * 60_000
        await conn.send(large)
        assert await conn.receive(5) == large
        conn.close()
        await eventually(lambda: target.connections == 0 and proxy.server.connections == 0)
    await eventually(lambda: open_sockets() <= before)


async def test_a_proxy_by_name_and_an_ipv6_target() -> None:
    """Only the proxy's name is looked up; an IPv6 address is written in brackets."""
    proxy = Proxy()
    looked_up: list[str] = []

    async def resolve(host: str, port: int) -> Any:
        looked_up.append(host)
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", port, type=1)

    async with through(proxy, bind="tcp://[::1]:0") as target:
        where = f"tcp://proxy.example:{proxy.server.addresses[0].port}"
        port = target.addresses[0].port
        conn = await dial(f"tcp://[::1]:{port}", framing=Lines(), tunnel=Tunnel(where), resolve=resolve)
        await say_hello(conn)
        conn.abort()
        assert proxy.heads == [f"CONNECT [::1]:{port} HTTP/1.1\r\nHost: [::1]:{port}\r\n\r\n".encode()]
        assert looked_up == ["proxy.example"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 \r\n\r\n",
        b"HTTP/1.1 299 Fine\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",  # to be ignored (RFC 9110 section 9.3.6)
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
@pytest.mark.parametrize("pieces", [0, 1, 7])
async def test_answers_that_are_a_tunnel(answer: bytes, pieces: int) -> None:
    """Any 2xx, however the network cuts it; what it says of content means nothing."""
    proxy = Proxy()
    proxy.answer, proxy.pieces = answer, pieces
    async with through(proxy) as target:
        if b" 299" in answer:
            with pytest.raises(ConnectFailed, match="TLS handshake"):  # the tests' proxy relays after a 200 only
                await dial(f"tls://localhost:{target.addresses[0].port}", tls=trusting(), tunnel=Tunnel(proxy.address))
            return
        address = f"tls://localhost:{target.addresses[0].port}"
        conn = await dial(address, framing=Lines(), tls=trusting(), tunnel=Tunnel(proxy.address))
        await say_hello(conn)
        conn.abort()


@pytest.mark.parametrize(
    ("answer", "status", "retry", "message"),
    [
        (b"HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 9\r\n\r\n<secret/>", 407,
         RetryClass.NEVER, r"it wants credentials: 407 \(Basic\)"),
        (b"HTTP/1.1 407 Auth\r\n\r\n", 407, RetryClass.NEVER, "it wants credentials: 407$"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", 403, RetryClass.NEVER, "it answered 403$"),
        (b"HTTP/1.1 429 Slow\r\n\r\n", 429, RetryClass.SAFE, "it answered 429$"),
        (b"HTTP/1.1 502 Bad\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 502, RetryClass.SAFE,
         "it answered 502$"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\n\r\n", 302, RetryClass.SAFE, "it answered 302$"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 0, RetryClass.SAFE,
         "not HTTP: (an upgrade|status 101)"),
        (b"HTTP/1.1 200 OK\r\n\r\nsurprise", 200, RetryClass.SAFE, "8 bytes came behind its answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, RetryClass.SAFE, "5 bytes came"),
        (b"HTTP/1.1 700 What\r\n\r\n", 0, RetryClass.SAFE, "not HTTP: .*700"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", 0, RetryClass.SAFE, "not HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", 0, RetryClass.SAFE, "not HTTP"),
        (b"HTTP/2 200\r\n\r\n", 0, RetryClass.SAFE, "not HTTP"),
        (b"HTTP/1.1 200 OK\nX: y\n\n", 0, RetryClass.SAFE, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX y\r\n\r\n", 0, RetryClass.SAFE, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000, 0, RetryClass.SAFE, "longer than 16384 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 0, RetryClass.SAFE, "longer than 16384 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n", 0, RetryClass.SAFE, "more than 100 header fields"),
        (b"HTTP/1.1 100 Go\r\n\r\n" * 20, 0, RetryClass.SAFE, "more than 16 interim"),
        (b"HTTP/1.1 200 O", 0, RetryClass.SAFE, "closed the connection before it answered"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pieces", [0, 1000])
async def test_answers_that_are_none(answer: bytes, status: int, retry: RetryClass, message: str, pieces: int) -> None:
    """A clear error, that names both and the status; nothing is left, and nothing of it was taken for the target's."""
    proxy = Proxy()
    proxy.answer, proxy.pieces = answer, pieces
    async with running(proxy.server):
        before = open_sockets()
        address = f"tls://localhost:{free_port()}"
        with pytest.raises(ProxyFailed, match=message) as caught:
            await dial(address, tls=trusting(), tunnel=Tunnel(proxy.address))
        assert str(caught.value).startswith(f"cannot connect to {address} through the proxy {proxy.address}: ")
        assert (caught.value.answered, caught.value.retry) == (status, retry)
        assert caught.value.target == address
        assert "secret" not in str(caught.value)
        await eventually(lambda: proxy.server.connections == 0)
        await eventually(lambda: open_sockets() <= before)


async def test_credentials_that_are_refused() -> None:
    """The error says so, and does not show them."""
    proxy = Proxy()
    proxy.answer = b"HTTP/1.1 407 Auth\r\n\r\n"
    async with running(proxy.server):
        with pytest.raises(ProxyFailed, match="it does not accept our credentials: 407") as caught:
            await dial("tls://localhost:1", tls=trusting(), tunnel=Tunnel(proxy.address, "Basic dTpw"))
        assert "dTpw" not in str(caught.value)


async def test_a_proxy_that_is_not_there() -> None:
    """The error names both; it is the proxy that could not be connected to."""
    proxy = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectFailed, match=f"^cannot connect to tls://a.example:443 through the proxy {proxy}: conn"):
        await dial("tls://a.example:443", tunnel=Tunnel(proxy))


async def test_timeouts() -> None:
    """A proxy that does not answer is given up with the connection; TLS has its own timeout, on both levels."""
    before = open_sockets()
    proxy = Proxy()
    proxy.answer = None
    async with running(proxy.server):
        address = "tls://localhost:1"
        began = now()
        with pytest.raises(ConnectTimeout, match=f"{address} through the proxy {proxy.address} within 0.1 s") as caught:
            await dial(address, tls=trusting(), tunnel=Tunnel(proxy.address), timeout=0.1)
        assert not isinstance(caught.value, TLSTimeout)
        assert 0.09 < now() - began < 2

    async def silent(conn: Connection) -> None:
        async for _ in conn:
            pass

    async with running(TCPServer(silent, bind=ANY)) as mute:
        impatient = trusting(handshake_timeout=0.1)
        with pytest.raises(TLSTimeout, match=r"through the proxy .* handshake with it failed"):
            await dial(address, tunnel=Tunnel(f"tls://127.0.0.1:{mute.addresses[0].port}", tls=impatient))
        proxy = Proxy()
        async with running(proxy.server):
            target = f"tls://localhost:{mute.addresses[0].port}"
            with pytest.raises(TLSTimeout, match=f"cannot connect to {target}: the TLS handshake failed"):
                await dial(target, tls=impatient, tunnel=Tunnel(proxy.address))
    await eventually(lambda: open_sockets() <= before)


async def test_certificates() -> None:
    """Neither proxy nor target is believed without one that we trust."""
    proxy = Proxy(ANY_TLS)
    async with through(proxy) as target:
        address = f"tls://localhost:{target.addresses[0].port}"
        with pytest.raises(TLSFailed, match=r"through the proxy .* handshake with it failed: the server's cert"):
            await dial(address, tls=trusting(), tunnel=Tunnel(proxy.address))
        assert proxy.heads == []
        with pytest.raises(TLSFailed, match=f"cannot connect to {address}: the TLS handshake failed"):
            await dial(address, tunnel=Tunnel(proxy.address, tls=trusting()))
        other = trusting(server_hostname="other.example")
        with pytest.raises(TLSFailed, match="another host name"):
            await dial(address, tls=other, tunnel=Tunnel(proxy.address, tls=trusting()))


@pytest.mark.parametrize("outer", [ANY, ANY_TLS])
async def test_the_steps(outer: str) -> None:
    """Those to the proxy come first, then the tunnel's, then TLS with the target; a refusal has its status."""
    proxy = Proxy(outer)
    steps: list[tuple[str, dict[str, Any]]] = []
    times: list[float] = []

    def watch(step: str, at: float, detail: dict[str, Any]) -> None:
        steps.append((step, detail))
        times.append(at)

    async with through(proxy) as target:
        tunnel = Tunnel(proxy.address, tls=trusting() if outer == ANY_TLS else None)
        address = target.addresses[0]
        conn = await dial(
            f"tls://localhost:{address.port}", framing=Lines(), tls=trusting(), tunnel=tunnel, watch=watch
        )
        conn.abort()
        words = [step for step, _ in steps]
        secure = ["tls-start", "tls-done"]
        expected = ["connect-start", "connect-done", *(secure if outer == ANY_TLS else []), "tunnel-start"]
        assert words == [*expected, "tunnel-done", *secure]
        assert steps[-4:-2] == [
            ("tunnel-start", {"host": f"localhost:{address.port}", "proxy": proxy.address}),
            ("tunnel-done", {"status": 200}),
        ]
        assert steps[-2] == ("tls-start", {"host": "localhost"})
        assert steps[-1][1]["version"] == "TLSv1.3"
        assert times == sorted(times)
        steps.clear()
        proxy.answer = b"HTTP/1.1 503 Busy\r\n\r\n"
        with pytest.raises(ProxyFailed):
            await dial("tls://localhost:1", tunnel=tunnel, watch=watch)
        assert steps[-1] == ("tunnel-done", {"status": 503, "error": "it answered 503"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tunnel("udp://127.0.0.1:1"), "expected tcp or tls or unix"),
        (lambda: Tunnel(Address("udp", "127.0.0.1", 1)), "must be a tcp, tls or unix address"),
        (lambda: Tunnel("tcp://127.0.0.1:1", "Basic x\r\nEvil: y"), "visible ASCII"),
        (lambda: Tunnel("tcp://127.0.0.1:1", "Bäsic x"), "visible ASCII"),
        (lambda: Tunnel("tcp://127.0.0.1:1", tls=ClientTLS()), "must be tls://"),
        (lambda: Tunnel("tcp://127.0.0.1:1", max_head=10), "at least 128"),
        (lambda: Tunnel("tcp://127.0.0.1:1").request(Address("unix", "/x", 0)), "takes a host and a port"),
    ],
)
async def test_what_makes_no_sense(make: Callable[[], Any], message: str) -> None:
    """It is a ValueError, which never shows credentials."""
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "Evil" not in str(caught.value)
    assert "dTpw" not in repr(Tunnel("tcp://127.0.0.1:1", "Basic dTpw"))


async def test_a_unix_target_is_not_reached_through_a_proxy() -> None:
    """Nothing is connected to."""
    with pytest.raises(ValueError, match="takes a host and a port"):
        await dial("unix:///x", tunnel=Tunnel("tcp://127.0.0.1:1"))


async def test_a_proxy_that_goes_away_later() -> None:
    """The connection ends, as any other."""
    proxy = Proxy(ANY_TLS)
    async with through(proxy) as target:
        tunnel = Tunnel(proxy.address, tls=trusting())
        address = f"tls://localhost:{target.addresses[0].port}"
        conn = await dial(address, framing=Lines(), tls=trusting(), tunnel=tunnel)
        await say_hello(conn)
        await proxy.server.stop()
        with pytest.raises(ConnectionClosed):
            await conn.receive(5)
        await eventually(lambda: conn.closing)


@pytest.mark.parametrize("outer", [ANY, ANY_TLS])
async def test_cancelled_at_any_moment(outer: str) -> None:
    """A hundred times, after any number of turns of the loop; nothing is left open on either side."""
    rng = random.Random(7)
    proxy = Proxy(outer)
    before = open_sockets()
    ends = {"cancelled": 0, "done": 0}
    async with through(proxy) as target:
        tunnel = Tunnel(f"{outer.partition(':')[0]}://localhost:{proxy.server.addresses[0].port}",
                        tls=trusting() if outer == ANY_TLS else None)  # fmt: skip
        address = f"tls://localhost:{target.addresses[0].port}"
        async with DNSCache() as cache:
            for _ in range(100):
                resolve = cache if rng.random() < 0.7 else None
                cache.clear()
                steps: list[str] = []

                def watch(step: str, at: float, detail: dict[str, Any], steps: list[str] = steps) -> None:
                    steps.append(step)

                dialling = dial(address, framing=Lines(), tls=trusting(), tunnel=tunnel, resolve=resolve, watch=watch)
                task = asyncio.create_task(dialling)
                if rng.random() < 0.5:
                    for _ in range(rng.randrange(60)):
                        await asyncio.sleep(0)
                else:
                    await asyncio.sleep(rng.random() * 0.012)
                task.cancel()
                try:
                    (await task).abort()
                    ends["done"] += 1
                except asyncio.CancelledError:
                    ends["cancelled"] += 1
                for step in ("connect", "tunnel", "tls"):
                    assert steps.count(f"{step}-start") == steps.count(f"{step}-done")
        await eventually(lambda: target.connections == 0 and proxy.server.connections == 0)
    await eventually(lambda: open_sockets() <= before)
    assert ends["cancelled"] > 20


@given(st.lists(st.binary(max_size=40), max_size=8), st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n"]))
def test_any_bytes(pieces: list[bytes], beginning: bytes) -> None:
    """Whatever a proxy sends: a tunnel, one error, or more is waited for; never more is kept than the bound."""

    class Wire(asyncio.Transport):
        aborted = False

        def write(self, data: bytes | bytearray | memoryview) -> None:
            """Sent."""

        def abort(self) -> None:
            self.aborted = True

        def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
            """Another has it."""

    async def main() -> None:
        above = asyncio.Protocol()
        address = Address("tls", "a.example", 443)
        tunnel = Tunnel("tcp://127.0.0.1:1", max_head=128)
        request = TunnelRequest(tunnel, address, above, lambda protocol: None, None)
        wire = Wire()
        request.connection_made(wire)
        for piece in [beginning, *pieces]:
            if request.done.done():
                break
            request.data_received(piece)
            assert len(request._reader._kept) <= 128 or request.done.done()
        if request.done.done():
            error = request.done.exception()
            assert (error is None and not wire.aborted) or (isinstance(error, ProxyFailed) and wire.aborted)
        request.give_up()

    asyncio.run(main())
