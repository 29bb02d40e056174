"""The client through HTTP proxies: what it says to whom, and what is said when they fail; and its certificates."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trustme

from forebay.engine import Certificate, ClientTLS
from forebay.errors import ConnectFailed, ConnectTimeout, ProxyFailed, TLSFailed, UpstreamClosed
from forebay.http.client.client import Client
from forebay.http.client.proxies import Proxies
from forebay.http.client.settings import Timeouts
from forebay.http.client.trace import Step
from tests.engine.connecting import issue, tls_files
from tests.http.client.kit import Peer, at_rest, nothing_left, playing, trusting
from tests.support import RawClient, eventually, free_port

pytestmark = pytest.mark.both_loops

SECRET = "hunter2"
CREDENTIALS = "Basic " + b64encode(f"user:{SECRET}".encode()).decode()


# -- proxies


@dataclass
class Request:
    """What a proxy was asked."""

    line: str
    headers: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        """The values of every header of that name."""
        return [value for key, value in self.headers if key == name]


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Proxy:
    """A proxy: CONNECT makes a tunnel, anything else is sent on, over a connection of its own for each request.

    ``wants``: the credentials without which it answers 407. ``behave``: what it does to a CONNECT in place of that.
    """

    wants: str = ""
    behave: Answer | None = None
    context: ssl.SSLContext | None = None
    port: int = 0
    asked: list[Request] = field(default_factory=list)
    connections: int = 0
    open: int = 0

    @property
    def url(self) -> str:
        """Its URL, without credentials."""
        return f"http{'s' * (self.context is not None)}://localhost:{self.port}"

    @property
    def url_with_user(self) -> str:
        """The same with the credentials that it may want."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://user:{SECRET}@{rest}"

    @property
    def lines(self) -> list[str]:
        """The request lines."""
        return [request.line for request in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        while (request := await _read_request(reader)) is not None:
            self.asked.append(request)
            method, target, _ = request.line.split(" ")
            if self.wants and request.all("proxy-authorization") != [self.wants]:
                refusal = b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 3\r\n\r\nwho"
                writer.write(refusal)
                continue
            if method == "CONNECT":
                if self.behave is not None:
                    await self.behave(reader, writer)
                    return
                await _tunnel(target, reader, writer)
                return
            await self._send_on(request, reader, writer)

    async def _send_on(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = request.line.split(" ")
        authority, _, path = target.removeprefix("http://").partition("/")
        host, _, port = authority.rpartition(":")
        upstream = RawClient(*await asyncio.open_connection(host.strip("[]"), int(port)))
        lines = [f"{method} /{path} HTTP/1.1", f"host: {authority}"]
        lines += [f"{name}: {value}" for name, value in request.headers if name not in ("host", "proxy-authorization")]
        content = await reader.readexactly(int("".join(request.all("content-length")) or 0))
        await upstream.send("\r\n".join([*lines, "", ""]).encode() + content)
        status, headers, body = await upstream.response(head_only=method == "HEAD")
        upstream.abort()
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{fields}\r\n".encode() + body)


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    pairs = [line.partition(":") for line in lines]
    return Request(first, [(name.lower(), value.strip()) for name, _, value in pairs])


async def _tunnel(target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    host, _, port = target.rpartition(":")
    try:
        back, forth = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        return
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    tasks = [asyncio.ensure_future(_pump(reader, forth)), asyncio.ensure_future(_pump(back, writer))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        forth.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxying(proxy: Proxy) -> AsyncIterator[Proxy]:
    """Run it; all connections are cut at the end."""
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.connections += 1
        proxy.open += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await proxy.serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client is gone, as it may
        except asyncio.CancelledError:
            pass  # by the end of the proxy: asyncio's streams would log it
        finally:
            proxy.open -= 1
            tasks.discard(task)
            writer.close()
            with suppress(OSError):
                await asyncio.wait_for(writer.wait_closed(), 2)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=proxy.context)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(list(tasks), timeout=5)


# -- servers behind them


async def ok(peer: Peer) -> None:
    """Answer every request with what was asked."""
    while (asked := await peer.asked()) is not None:
        await peer.answer(f"{asked.method} {asked.target}".encode())


def noting(into: list[dict[str, str]]) -> Callable[[Peer], Awaitable[None]]:
    """The same, and keep the headers."""

    async def play(peer: Peer) -> None:
        while (asked := await peer.asked()) is not None:
            into.append(asked.headers)
            await peer.answer(asked.body or b"ok")

    return play


@cache
def authority() -> trustme.CA:
    """A CA that is not the one of the other tests."""
    return trustme.CA()


def context_of(
    *names: str, ca: trustme.CA | None = None, client_ca: str | None = None, **options: Any
) -> ssl.SSLContext:
    """A server's TLS, with a certificate for ``names``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (ca or authority()).issue_cert(*names, **options).configure_cert(context)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A server of that TLS, which answers "ok"; its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await _read_request(reader) is not None:
                shown = writer.get_extra_info("peercert")
                name = shown["subject"][-1][0][1] if shown else ""
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name) + 2, b"ok" + name.encode())
                )
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture
def ca_file(tmp_path: Path) -> str:
    """The file of :func:`authority`."""
    file = tmp_path / "other-ca.pem"
    authority().cert_pem.write_to_path(file)
    return str(file)


# -- plain requests


async def test_a_plain_request_is_asked_of_the_proxy_as_a_whole_url() -> None:
    """RFC 9112 section 3.2.2; the proxy's connection is kept, and content gets through both ways."""
    seen: list[dict[str, str]] = []
    async with nothing_left(), playing(noting(seen)) as server, proxying(Proxy()) as proxy:
        async with Client(server.url, proxy=proxy.url) as client:
            assert (await (await client.get("/a?b=c", params={"d": "e f"})).text()) == "ok"
            assert await (await client.post("/", content=b"x" * 100)).read() == b"x" * 100
            await (await client.head("/h")).read()
            await at_rest(client)
            assert client.statistics()["pool"]["total"] == 1
        assert proxy.connections == 1
        where = f"127.0.0.1:{server.port}"
        assert proxy.lines == [
            f"GET http://{where}/a?b=c&d=e+f HTTP/1.1",
            f"POST http://{where}/ HTTP/1.1",
            f"HEAD http://{where}/h HTTP/1.1",
        ]
        assert [request.all("host") for request in proxy.asked] == [[where]] * 3
        assert all(not request.all("proxy-authorization") for request in proxy.asked)
        assert [headers["host"] for headers in seen] == [where] * 3


@pytest.mark.parametrize("secure", [False, True])
async def test_credentials_are_the_proxys_alone(*, secure: bool) -> None:
    """They are in what the proxy is asked, and in nothing that the server gets, a log or an error would show."""
    seen: list[dict[str, str]] = []
    async with nothing_left(), playing(noting(seen), secure=secure) as server, proxying(Proxy(CREDENTIALS)) as proxy:
        async with Client(server.url, proxy=proxy.url_with_user, tls=trusting()) as client:
            response = await client.get("/", trace=True)
            assert await response.text() == "ok"
            assert response.trace is not None
            told = f"{client!r} {client.transport!r} {response.trace.events} {response.request!r} {response!r}"
        assert proxy.asked[0].all("proxy-authorization") == [CREDENTIALS]
        assert "proxy-authorization" not in seen[0]
        assert SECRET not in told
        assert CREDENTIALS.split()[1] not in told


async def test_a_proxy_that_wants_others_is_an_answer_to_a_plain_request() -> None:
    """A 407 is seen as any other status; on the way to an https server it is an error, as nothing was asked there."""
    async with nothing_left(), playing(ok) as server, proxying(Proxy(CREDENTIALS)) as proxy:
        async with Client(server.url, proxy=proxy.url) as client:
            response = await client.get("/")
            assert response.status == 407
            assert response.headers["proxy-authenticate"] == "Basic realm=x"
            assert await response.text() == "who"
            await at_rest(client)
        assert not server.connections


async def test_redirects_through_a_proxy() -> None:
    """Each hop is asked of the proxy; its credentials go along to other origins too, as it is still the same proxy,
    while those for the server stay behind."""
    seen: list[dict[str, str]] = []
    async with playing(noting(seen)) as other, playing(noting(seen), secure=True) as secure:

        async def away(peer: Peer) -> None:
            while (asked := await peer.asked()) is not None:
                where = secure.url if asked.target == "/secure" else other.url.replace("127.0.0.1", "localhost")
                await peer.answer(status=302, headers=f"Location: {where}/there\r\n")

        async with nothing_left(), playing(away) as server, proxying(Proxy(CREDENTIALS)) as proxy:
            async with Client(server.url, proxy=proxy.url_with_user, tls=trusting(), auth=("me", "mine")) as client:
                for target in ("/", "/secure"):
                    response = await client.get(target)
                    assert await response.text() == "ok"
            assert [line.split()[1] for line in proxy.lines] == [
                f"{server.url}/",
                f"http://localhost:{other.port}/there",
                f"{server.url}/secure",
                f"127.0.0.1:{secure.port}",
            ]
            assert all(request.all("proxy-authorization") == [CREDENTIALS] for request in proxy.asked)
            assert [len(request.all("authorization")) for request in proxy.asked] == [1, 0, 1, 0]
            assert all("authorization" not in headers for headers in seen)


async def test_targets_through_a_proxy() -> None:
    """The URL that the proxy is asked for is that of the target that was picked."""
    async with playing(ok) as one, playing(ok) as two, proxying(Proxy()) as proxy:
        async with Client([one.url, two.url], proxy=proxy.url) as client:
            for _ in range(6):
                await (await client.get("/x")).read()
        assert one.connections
        assert two.connections
        assert set(proxy.lines) == {f"GET {one.url}/x HTTP/1.1", f"GET {two.url}/x HTTP/1.1"}


async def test_a_proxy_that_is_not_there() -> None:
    """The error names the proxy, whether a tunnel was wanted or not."""
    port = free_port()
    async with Client(proxy=f"http://127.0.0.1:{port}") as client:
        for scheme in ("http", "https"):
            with pytest.raises(ConnectFailed, match=f"127.0.0.1:{port}.*connection refused"):
                await client.get(f"{scheme}://nowhere.example/")


# -- tunnels


async def test_a_tunnel_is_kept() -> None:
    """Requests to one server take one tunnel; the proxy sees none of them; the steps are told in order."""
    async with nothing_left(), playing(ok, secure=True) as server, proxying(Proxy()) as proxy:
        async with Client(server.url, proxy=proxy.url, tls=trusting()) as client:
            first = await client.get("/1", trace=True)
            assert await first.text() == "GET /1"
            assert await (await client.post("/2", content=b"x")).text() == "POST /2"
            assert client.statistics()["pool"]["total"] == 1
        assert proxy.lines == [f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"]
        assert server.connections == 1
        assert first.trace is not None
        steps = [event.step for event in first.trace.events]
        order = [
            "dns-start",
            "connect-done",
            "tunnel-start",
            "tunnel-done",
            "tls-start",
            "tls-done",
            Step.GOT_CONNECTION,
        ]
        assert [step for step in steps if step in order] == order


@pytest.mark.parametrize("outer", [False, True])
async def test_tls_in_tls(ca_file: str, *, outer: bool) -> None:
    """A proxy that is itself spoken to by TLS, with a certificate of another CA than the server's."""
    context = context_of("localhost")
    async with playing(ok, secure=outer) as server, proxying(Proxy(CREDENTIALS, context=context)) as proxy:
        proxies = Proxies(proxy.url_with_user, proxy.url_with_user, tls=ClientTLS(ca=ca_file))
        async with nothing_left(), Client(server.url, proxy=proxies, tls=trusting()) as client:
            large = "/" + "x" * 20_000
            for _ in range(2):
                assert await (await client.get(large)).text() == f"GET {large}"
        assert proxy.connections == 1
        async with Client(server.url, proxy=proxy.url, tls=trusting()) as client:
            with pytest.raises(TLSFailed, match=f"localhost:{proxy.port}.*not signed by a CA we trust"):
                await client.get("/")
        assert proxy.connections >= 1
        async with Client(server.url, proxy=proxies, tls=ClientTLS(ca=ca_file)) as client:
            if outer:
                with pytest.raises(TLSFailed, match=f"127.0.0.1:{server.port}.*not signed by a CA we trust"):
                    await client.get("/")


async def _say(data: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(data)
    await writer.drain()


def saying(data: bytes, *, hold: bool = False) -> Answer:
    """Say that, and close; ``hold``: when the client has."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _say(data, writer)
        if hold:
            await reader.read()

    return behave


def saying_for_ever(first: bytes, more: bytes) -> Answer:
    """Say ``first``, and then ``more`` until the client is gone."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _say(first, writer)
        while not reader.at_eof():
            await _say(more, writer)
            await asyncio.sleep(0)

    return behave


@pytest.mark.parametrize(
    ("behave", "status", "message"),
    [
        pytest.param(saying(b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Digest realm=x\r\n\r\n"), 407,
                     r"wants credentials: 407 \(Digest\)", id="407"),
        pytest.param(saying(b"HTTP/1.1 502 Bad\r\nContent-Length: 1000000\r\n\r\nab", hold=True), 502,
                     "it answered 502", id="502 whose content does not end"),
        pytest.param(saying_for_ever(b"HTTP/1.1 503 Busy\r\n\r\n", b"x" * 65536), 503, "it answered 503",
                     id="503 with endless content"),
        pytest.param(saying(b"HTTP/1.1 301 Away\r\nLocation: https://elsewhere/\r\n\r\n"), 301, "it answered 301",
                     id="a redirect is not followed"),
        pytest.param(saying(b""), 0, "closed the connection before it answered", id="dies"),
        pytest.param(saying(b"HTTP/1.1 200 OK\r\nX: "), 0, "closed the connection before it answered", id="dies later"),
        pytest.param(saying(b"SSH-2.0-OpenSSH_9\r\n", hold=True), 0, "what is not HTTP", id="is none"),
        pytest.param(saying(b"HTTP/1.1 200 OK\r\n\r\nHello, I am first", hold=True), 200, "17 bytes came behind",
                     id="talks first"),
        pytest.param(saying_for_ever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100), 0, "header fields", id="endless head"),
        pytest.param(saying_for_ever(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 8192), 0, "longer than", id="endless header"),
        pytest.param(saying_for_ever(b"", b"HTTP/1.1 100 Wait\r\n\r\n" * 10), 0, "interim", id="endless 1xx"),
    ],
)  # fmt: skip
async def test_a_proxy_that_makes_no_tunnel(behave: Answer, status: int, message: str) -> None:
    """An error which says so, soon; the server hears nothing, and nothing is left."""
    async with nothing_left(), playing(ok, secure=True) as server, proxying(Proxy(behave=behave)) as proxy:
        async with Client(server.url, proxy=proxy.url, tls=trusting(), timeouts=Timeouts(connect=10)) as client:
            async with asyncio.timeout(5):
                with pytest.raises(ProxyFailed, match=message) as caught:
                    await client.post("/", content=b"x")
            assert caught.value.answered == status
            assert str(server.port) in str(caught.value)
            assert str(proxy.port) in str(caught.value)
            await at_rest(client)
            await eventually(lambda: proxy.open == 0)
        assert server.connections == 0


async def test_a_proxy_that_says_nothing() -> None:
    """The timeout of connecting covers it."""
    async with nothing_left(), proxying(Proxy(behave=saying(b"", hold=True))) as proxy:
        async with Client(proxy=proxy.url, timeouts=Timeouts(connect=0.2)) as client:
            with pytest.raises(ConnectTimeout, match=rf"through the proxy .*:{proxy.port} within 0.2 s"):
                await client.get("https://nowhere.example/")
            await at_rest(client)
        await eventually(lambda: proxy.open == 0)


async def test_a_proxy_that_dies_later() -> None:
    """In the middle of an answer it is as if the server had; a kept tunnel that is dead is replaced."""
    cut = asyncio.Event()

    async def half(peer: Peer) -> None:
        while await peer.asked() is not None:
            if cut.is_set():
                await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
                return
            await peer.answer()

    async with (
        nothing_left(),
        playing(half, secure=True) as server,
        proxying(Proxy()) as proxy,
        Client(server.url, proxy=proxy.url, tls=trusting()) as client,
    ):
        assert await (await client.get("/")).text() == "ok"
        cut.set()
        response = await client.get("/")
        with pytest.raises(UpstreamClosed):
            await response.read()
        await at_rest(client)
        cut.clear()
        assert await (await client.get("/")).text() == "ok"
        assert proxy.connections == 2


async def test_cancelled_while_a_tunnel_is_made() -> None:
    """Nothing is left of it, at whatever moment it was."""
    async with nothing_left(), playing(ok, secure=True) as server, proxying(Proxy()) as proxy:
        async with Client(server.url, proxy=proxy.url, tls=trusting()) as client:
            for moment in range(40):
                task = asyncio.ensure_future(_text(client))
                for _ in range(moment):
                    await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    assert await task == "GET /"
                await at_rest(client)
        await eventually(lambda: proxy.open == 0)


async def _text(client: Client) -> str:
    response = await client.get("/")
    return await response.text()


# -- which proxy


async def test_the_environment_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its proxies are used, but for what ``no_proxy`` says, and where the program says otherwise."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with playing(ok) as server, playing(ok, secure=True) as secure, proxying(Proxy()) as proxy:
        local = secure.url.replace("127.0.0.1", "localhost")
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url.removeprefix("http://"))
        monkeypatch.setenv("NO_PROXY", f"localhost:{server.port}, 10.0.0.0/8,127.0.0.1:{secure.port}")

        async def counted(url: str, **options: Any) -> int:
            before = len(proxy.asked)
            async with Client(tls=trusting(), **options) as client:
                assert await (await client.get(f"{url}/")).text() == "GET /"
            return len(proxy.asked) - before

        assert await counted(server.url) == 1
        assert await counted(secure.url) == 0
        assert await counted(local) == 1
        assert await counted(server.url.replace("127.0.0.1", "localhost")) == 0
        assert await counted(server.url, proxy="") == 0
        assert await counted(server.url, proxy=Proxies()) == 0
        monkeypatch.setenv("no_proxy", "*")
        assert await counted(server.url) == 0


def test_an_environment_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, never the password, and how to do without it."""
    monkeypatch.setenv("http_proxy", f"http://user:{SECRET}")  # whose @host was forgotten
    with pytest.raises(ValueError, match="environment variable http_proxy") as caught:
        Client()
    assert SECRET not in str(caught.value)
    Client(proxy="")


async def test_a_unix_socket_needs_no_proxy(tmp_path: Path) -> None:
    """Whatever proxies there are."""
    path = str(tmp_path / "socket")

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await _say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", writer)
        writer.close()

    proxy = f"http://127.0.0.1:{free_port()}"
    async with await asyncio.start_unix_server(handle, path), Client(f"unix://{path}", proxy=proxy) as client:
        assert await (await client.get("/")).text() == "ok"


# -- certificates


async def test_a_client_certificate(tmp_path: Path, ca_file: str) -> None:
    """It is shown to a server that asks, directly and through a tunnel, and never to the proxy; without it the error
    says what is missing."""
    shown = Certificate(*issue(tmp_path, "client.example", common_name="me").files)
    mutual = context_of("localhost", client_ca=tls_files()[1])
    tls = ClientTLS(ca=ca_file, certificate=shown)
    curious = context_of("localhost")
    curious.verify_mode = ssl.CERT_OPTIONAL
    curious.load_verify_locations(tls_files()[1])
    got: list[Any] = []

    async def looking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(writer.get_extra_info("peercert"))
        await _tunnel(f"localhost:{port}", reader, writer)

    async with serving(mutual) as port, proxying(Proxy(behave=looking, context=curious)) as proxy:
        url = f"https://localhost:{port}/"
        for way in ("", proxy.url):
            async with Client(tls=tls, proxy=way) as client:
                assert await (await client.get(url)).text() == "okme"
        assert got == [None]
        async with Client(tls=ClientTLS(ca=ca_file), proxy="") as client:
            with pytest.raises((TLSFailed, UpstreamClosed)):  # TLS 1.3 refuses it behind the handshake
                await client.get(url)


def moment(days: float) -> datetime:
    """So many days from now."""
    return datetime.now(UTC) + timedelta(days=days)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        pytest.param(["localhost"], {"not_before": moment(-9), "not_after": moment(-1)}, "has expired", id="expired"),
        pytest.param(["localhost"], {"not_before": moment(2), "not_after": moment(9)}, "not valid yet", id="not yet"),
        pytest.param(["other.example"], {}, "for another host name.*'localhost'", id="of another host"),
        pytest.param(["*.localhost"], {}, "for another host name", id="wildcard of those below"),
        pytest.param(["127.0.0.1"], {}, "for another host name", id="of an address"),
    ],
)
@pytest.mark.parametrize("proxied", [False, True])
async def test_certificates_that_are_refused(
    ca_file: str, names: list[str], options: dict[str, Any], message: str, *, proxied: bool
) -> None:
    """TLSFailed, whose text says what is wrong with whose certificate; nothing was sent."""
    async with serving(context_of(*names, **options)) as port, proxying(Proxy()) as proxy:
        async with nothing_left(), Client(tls=ClientTLS(ca=ca_file), proxy=proxy.url if proxied else "") as client:
            with pytest.raises(TLSFailed, match=f"localhost:{port}.*the server's certificate .*{message}"):
                await client.post(f"https://localhost:{port}/", content=b"secret")
            await at_rest(client)
        async with Client(tls=ClientTLS(verify=False), proxy=proxy.url if proxied else "") as client:
            assert await (await client.get(f"https://localhost:{port}/")).text() == "ok"


async def test_another_name_is_verified(ca_file: str) -> None:
    """``server_hostname`` is asked for and verified in place of the host; the proxy's own name stays the proxy's."""
    context = context_of("service.internal")
    asked: list[str | None] = []
    context.sni_callback = lambda ssl_object, name, _: asked.append(name)
    async with serving(context) as port, proxying(Proxy(context=context_of("localhost"))) as proxy:
        for way in ("", proxy.url):
            tls = ClientTLS(ca=ca_file, server_hostname="service.internal")
            async with Client(tls=tls, proxy=way) as client:
                assert await (await client.get(f"https://localhost:{port}/")).text() == "ok"
        async with Client(tls=ClientTLS(ca=ca_file, server_hostname="wrong.internal"), proxy="") as client:
            with pytest.raises(TLSFailed, match="another host name"):
                await client.get(f"https://localhost:{port}/")
        assert asked == ["service.internal", "service.internal", "wrong.internal"]


async def test_the_dot_of_the_root_is_not_in_certificates(ca_file: str) -> None:
    """``localhost.`` is the same host as ``localhost``, whose certificate it shows (RFC 6066 section 3)."""
    context = context_of("localhost")
    asked: list[str | None] = []
    context.sni_callback = lambda ssl_object, name, _: asked.append(name)

    async def resolve(host: str, port: int) -> Any:
        assert host == "localhost."
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", port, type=1)

    async with serving(context) as port, Client(tls=ClientTLS(ca=ca_file), proxy="", resolve=resolve) as client:
        assert await (await client.get(f"https://localhost.:{port}/")).text() == "ok"
        assert asked == ["localhost"]


async def test_a_server_that_speaks_no_tls() -> None:
    """That is said; and the same for a proxy."""

    async def refusing(peer: Peer) -> None:
        await peer.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await peer.reader.read()

    async with nothing_left(), playing(refusing) as server:
        async with Client(proxy="") as client:
            with pytest.raises(TLSFailed, match=f"127.0.0.1:{server.port}.*not TLS at all"):
                await client.get(f"https://127.0.0.1:{server.port}/")
        async with Client(proxy=f"https://localhost:{server.port}") as client:
            for scheme in ("http", "https"):
                with pytest.raises(TLSFailed, match=f"localhost:{server.port}.*not TLS at all"):
                    await client.get(f"{scheme}://nowhere.example/")


# -- real ones


def _find(program: str) -> str:
    found = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin") or shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@asynccontextmanager
async def running_program(*command: str, port: int) -> AsyncIterator[None]:
    """A server that listens on ``port``."""
    process = subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr)

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        async with asyncio.timeout(10):
            while not await listens():
                assert process.poll() is None, f"{command[0]} ended"
                await asyncio.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(10)


async def test_nginx_as_a_proxy(tmp_path: Path) -> None:
    """nginx sends plain requests on, absolute URLs and all, and refuses CONNECT."""
    port = free_port()
    temporary = "".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port};\n"
        "location / { proxy_pass http://$http_host$request_uri; proxy_http_version 1.1; } } }\n"
    )
    seen: list[dict[str, str]] = []
    async with (
        running_program(_find("nginx"), "-c", str(config), "-p", str(tmp_path), port=port),
        playing(noting(seen)) as server,
        Client(proxy=f"http://user:{SECRET}@127.0.0.1:{port}") as client,
    ):
        for _ in range(3):
            assert await (await client.post(f"{server.url}/x", content=b"y" * 10_000)).read() == b"y" * 10_000
        assert client.statistics()["pool"]["total"] == 1
        with pytest.raises(ProxyFailed, match=r"it answered 40[05]"):
            await client.get(f"https://127.0.0.1:{server.port}/")
        assert len(seen) == 3


async def test_haproxy_before_a_proxy(tmp_path: Path) -> None:
    """HAProxy passes CONNECT and the tunnel on to a proxy behind it, and asks for credentials itself."""
    port = free_port()
    async with proxying(Proxy()) as proxy, playing(ok, secure=True) as server:
        config = tmp_path / "haproxy.cfg"
        config.write_text(
            "defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n"
            f"userlist people\n user user insecure-password {SECRET}\n"
            f"frontend f\n bind 127.0.0.1:{port}\n option http-use-proxy-header\n"
            " http-request auth realm proxy if !{ http_auth(people) }\n default_backend b\n"
            f"backend b\n server s 127.0.0.1:{proxy.port}\n"
        )
        async with running_program(_find("haproxy"), "-db", "-q", "-f", str(config), port=port):
            async with Client(server.url, proxy=f"http://user:{SECRET}@127.0.0.1:{port}", tls=trusting()) as client:
                for _ in range(3):
                    assert await (await client.get("/h")).text() == "GET /h"
            assert proxy.lines == [f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"]
            async with Client(server.url, proxy=f"http://user:wrong@127.0.0.1:{port}", tls=trusting()) as client:
                with pytest.raises(ProxyFailed, match=r"40[17]"):
                    await client.get("/")
