"""Servers that mean harm: each is a clear error, within bounds of memory and time, and nothing is left of it."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from forebay.errors import (
    ReadTimeout,
    TLSFailed,
    TooManyRedirects,
    UpstreamClosed,
    UpstreamProtocolError,
    WriteTimeout,
)
from forebay.http.client.client import Client
from forebay.http.client.redirects import Redirects
from forebay.http.client.settings import Timeouts
from tests.http.client import hostile_servers
from tests.http.client.hostile_servers import CHUNKED, LIMITS, MIB, OK, TIMEOUTS, Case
from tests.http.client.kit import (
    LATE,
    Peer,
    Play,
    RawServer,
    answering,
    at_rest,
    in_memory,
    in_time,
    nothing_left,
    playing,
    pool_of,
    trusting,
)

SLOWEST = 2.5
"""Seconds that the worst of them may hold a caller: the total timeout, and a machine with other things to do."""

CASES = [pytest.param(case, id=case.name) for table in hostile_servers.ALL for case in table()]


@asynccontextmanager
async def against(play: Play, *, secure: bool = False, **options: Any) -> AsyncIterator[tuple[RawServer, Client]]:
    """A client beside such a server; nothing is left of both at the end."""
    options.setdefault("limits", LIMITS)
    options.setdefault("timeouts", TIMEOUTS)
    if secure:
        options["tls"] = trusting()
    async with nothing_left(), playing(play, secure=secure) as server, Client(server.url, **options) as client:
        yield server, client
        await at_rest(client)


def switched(play: Play) -> tuple[Play, Callable[[], None]]:
    """A server that plays like that until it is told to behave, for connections that it has already as well."""
    good = asyncio.Event()

    async def both(peer: Peer) -> None:
        if good.is_set():
            await answering(OK)(peer)
            return
        bad = asyncio.ensure_future(play(peer))
        better = asyncio.ensure_future(good.wait())
        try:
            await asyncio.wait({bad, better}, return_when=asyncio.FIRST_COMPLETED)
            if not bad.done():
                bad.cancel()
                await asyncio.wait({bad})
                await answering(OK)(peer)
            else:
                bad.result()
        finally:
            for task in (bad, better):
                task.cancel()
            await asyncio.wait({bad, better})

    return both, good.set


@pytest.mark.parametrize("case", CASES)
async def test_a_hostile_server(case: Case) -> None:
    """The right error, which says what is wrong, or the right answer; and the next request has nothing of it."""
    play, behave = switched(case.play)
    async with against(play) as (server, client):
        with in_memory(case.memory) if case.memory else nullcontext(), in_time(SLOWEST):
            if case.error is None:
                async with client.request(case.method, "/") as response:
                    got = await case.use(response)
                    assert got in (b"ok", b"hello", b"", None)
            else:
                with pytest.raises(case.error) as caught:
                    async with client.request(case.method, "/") as response:
                        await case.use(response)
                message = str(caught.value)
                assert re.search(case.says, message), message
                assert "127.0.0.1" in message, message
                assert len(message) < 500
        await at_rest(client)
        before = server.connections
        behave()
        for _ in range(10):
            await asyncio.sleep(0)
        response = await client.get("/next")
        assert (response.status, await response.read()) == (200, b"ok")
        if case.reused is not None:
            assert (server.connections == before) == case.reused


async def test_redirects_between_schemes() -> None:
    """To https and back, for ever."""
    places: list[str] = []

    async def play(peer: Peer) -> None:
        while await peer.asked() is not None:
            port = peer.writer.get_extra_info("sockname")[1]
            other = next(place for place in places if not place.endswith(str(port)))
            await peer.answer(b"", 302, f"Location: {other}/\r\n")

    async with nothing_left(), playing(play) as plain, playing(play, secure=True) as secure:
        places += [plain.url, secure.url]
        options: dict[str, Any] = {"limits": LIMITS, "timeouts": TIMEOUTS, "tls": trusting()}
        async with Client(plain.url, redirects=Redirects(allow_downgrade=True), **options) as client:
            with in_time(SLOWEST), pytest.raises(TooManyRedirects):
                await client.get("/")
            await at_rest(client)
        async with Client(plain.url, **options) as client:
            with pytest.raises(UpstreamProtocolError, match="from https to http"):
                await client.get("/")
            await at_rest(client)


async def test_redirects_are_counted_over_all_of_a_request() -> None:
    """As many are followed as was said, and not one more."""
    asked = []

    async def play(peer: Peer) -> None:
        while (one := await peer.asked()) is not None:
            asked.append(one.target)
            await peer.answer(b"", 302, f"Location: {one.target}x\r\n")

    async with against(play, redirects=3) as (_, client):
        with pytest.raises(TooManyRedirects, match="3"):
            await client.get("/")
        assert asked == ["/", "/x", "/xx", "/xxx"]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_what_is_not_spoken(secure: bool) -> None:
    """TLS asked of a server that speaks none, and the other way round."""

    async def play(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.say(b"HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n")

    async with nothing_left(), playing(play, secure=secure) as server:
        url = server.url.replace("https", "http") if secure else server.url.replace("http", "https")
        async with Client(url, limits=LIMITS, timeouts=TIMEOUTS, tls=trusting()) as client:
            with in_time(SLOWEST), pytest.raises((UpstreamClosed, UpstreamProtocolError) if secure else TLSFailed):
                await client.get("/")
            await at_rest(client)


async def test_a_server_that_takes_nothing() -> None:
    """Of an upload: it ends when nothing of it was taken for as long as is allowed."""

    async def play(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of asyncio can
        await asyncio.sleep(10)

    async with against(play) as (_, client):
        with in_time(TIMEOUTS.write + 0.6 if TIMEOUTS.write else 0), pytest.raises(WriteTimeout, match=r"0\.5"):
            await client.post("/", content=bytes(32 * MIB))


async def test_a_server_that_answers_and_takes_nothing() -> None:
    """The answer counts, though what was to be sent was not sent; the connection is not used again."""

    async def play(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 X\r\nContent-Length: 3\r\n\r\nbig")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of asyncio can
        await asyncio.sleep(10)

    async with against(play) as (server, client):
        for number in (1, 2):
            response = await client.post("/", content=bytes(32 * MIB))
            assert (response.status, await response.read()) == (413, b"big")
            assert server.connections == number


# -- early ends

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-A: b\r\n\r\nhello world"
PIECES = CHUNKED + b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
INTERIM = b"HTTP/1.1 103 X\r\nLink: </a>\r\n\r\n" + SIZED


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("whole", [SIZED, PIECES, INTERIM], ids=["sized", "chunked", "interim"])
async def test_an_end_at_every_byte(whole: bytes, reset: bool) -> None:
    """Of an answer on a new connection: nothing but all of it is an answer."""
    cut = [0]

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(whole[: cut[0]])
        if reset:
            await asyncio.sleep(0.002)  # else it overtakes what was said
            peer.abort()

    async with against(play) as (server, client):
        for cut[0] in range(len(whole)):
            with in_time(1), pytest.raises(UpstreamClosed) as caught:
                async with client.get("/") as response:
                    await response.read()
            assert caught.value.target
            assert server.connections == cut[0] + 1
            assert pool_of(client)["idle"] == 0
        cut[0] = len(whole)
        async with client.get("/") as response:
            assert await response.read() == b"hello world"


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_end_at_every_byte_of_a_connection_in_use(method: str, reset: bool) -> None:
    """Where a request on a used connection dies before its answer has begun, GET is asked again and POST never is."""
    cut, asked = [0], [0]

    async def play(peer: Peer) -> None:
        used = False
        while (one := await peer.asked()) is not None:
            asked[0] += 1
            if used and one.target == "/cut":
                await peer.say(SIZED[: cut[0]])
                if reset:
                    await asyncio.sleep(0.002)  # else it overtakes what was said
                    peer.abort()
                return
            await peer.say(SIZED)
            used = True

    async with against(play) as (_, client):
        for cut[0] in range(len(SIZED)):
            await (await client.get("/warm")).read()
            asked[0] = 0
            if method == "GET" and cut[0] == 0:
                assert await (await client.get("/cut")).read() == b"hello world"
                assert asked[0] == 2
                continue
            with in_time(1), pytest.raises(UpstreamClosed):
                async with client.request(method, "/cut") as response:
                    await response.read()
            assert asked[0] == 1


# -- answers that nobody has asked for


@asynccontextmanager
async def in_a_thread(answers: Callable[[socket.socket, int], None]) -> AsyncIterator[tuple[str, list[int]]]:
    """A server in a thread, that can send while the loop of the client stands still. Its URL, and how often it was
    connected to."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    connections: list[int] = []
    over = threading.Event()
    threads: list[threading.Thread] = []

    def one(sock: socket.socket, number: int) -> None:
        with sock:
            sock.settimeout(10)
            try:
                answers(sock, number)
                over.wait(10)
            except OSError:
                pass  # the client is gone

    def accept() -> None:
        while not over.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            connections.append(1)
            threads.append(threading.Thread(target=one, args=(sock, len(connections))))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            await asyncio.to_thread(thread.join, 10)


def split_after(seconds: float) -> Callable[[socket.socket, int], None]:
    """The first connection answers one request twice, the second time ``seconds`` later; all others are good."""

    def answers(sock: socket.socket, number: int) -> None:
        while b"\r\n\r\n" in sock.recv(65536):
            more = OK.replace(b"ok", b"no") if number == 1 else b""
            if seconds:
                sock.sendall(OK)
                time.sleep(seconds)
                sock.sendall(more)
            else:
                sock.sendall(OK + more)

    return answers


@pytest.mark.parametrize("when", ["at once", "while idle", "while the loop stands still"])
async def test_an_answer_too_many(when: str) -> None:
    """What a server sends beyond its answer is never taken for the answer to the next request."""
    answers = split_after(0.0 if when == "at once" else 0.05)
    async with (
        nothing_left(),
        in_a_thread(answers) as (url, connections),
        Client(url, limits=LIMITS, timeouts=TIMEOUTS) as client,
    ):
        assert await (await client.get("/1")).read() == b"ok"
        if when == "while idle":
            await asyncio.sleep(0.15)
            assert pool_of(client)["total"] == 0, "a connection that says what nobody asked for is closed"
        elif when == "while the loop stands still":
            time.sleep(0.15)  # it is in the socket's buffer, and the loop knows nothing
        for _ in range(3):
            assert await (await client.get("/2")).read() == b"ok"
        assert len(connections) == 2
        await at_rest(client)


async def test_an_answer_before_the_request() -> None:
    """A connection that talks first is not one to ask anything on; whatever it said is not the second answer."""

    async def play(peer: Peer) -> None:
        await peer.say(OK.replace(b"ok", b"no"))
        await answering(OK)(peer)

    async with against(play) as (_, client):
        for _ in range(5):
            try:
                said = await (await client.get("/")).read()
            except (UpstreamProtocolError, UpstreamClosed):
                continue
            assert said == b"no", "it may be taken for an answer only as the first one of its connection"
            await asyncio.sleep(0.01)  # the other one comes, which nobody has asked for


async def test_silence_after_an_answer() -> None:
    """The second request on a connection waits no longer than the first."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.answer()
        await peer.reader.read()

    async with against(play) as (_, client):
        await (await client.get("/")).read()
        with in_time((TIMEOUTS.read or 0) + LATE + 0.2), pytest.raises(ReadTimeout):
            await client.get("/")


# -- users that mean harm

SPLIT = "a\r\nX-Evil: 1"
BREAKS = ["\r\nX-Evil: 1", "\nX-Evil: 1", "\rX-Evil: 1", "\0", "\r\n\r\nGET /evil HTTP/1.1"]

Injection = Callable[[Client, str], Awaitable[Any]]


def _named(**injections: Injection) -> list[Any]:
    return [pytest.param(one, id=name.replace("_", " ")) for name, one in injections.items()]


@pytest.mark.parametrize("evil", BREAKS, ids=repr)
@pytest.mark.parametrize(
    "inject",
    _named(
        method=lambda client, evil: client.request(f"GET {evil}", "/"),
        method_and_line=lambda client, evil: client.request(f"GET / HTTP/1.1{evil}", "/"),
        path=lambda client, evil: client.get(f"/a{evil}"),
        path_with_blank=lambda client, evil: client.get(f"/a HTTP/1.1{evil}"),
        query=lambda client, evil: client.get(f"/?a={evil}"),
        host=lambda client, evil: client.get(f"http://127.0.0.1{evil}/"),
        header_name=lambda client, evil: client.get("/", headers={f"x{evil}": "b"}),
        header_value=lambda client, evil: client.get("/", headers={"x": f"b{evil}"}),
        host_header=lambda client, evil: client.get("/", headers={"host": f"b{evil}"}),
        user_agent=lambda client, evil: client.get("/", headers={"user-agent": f"b{evil}"}),
        content_type=lambda client, evil: client.post("/", content=b"a", headers={"content-type": f"b{evil}"}),
        cookie_name=lambda client, evil: client.get("/", cookies={f"a{evil}": "b"}),
        cookie_value=lambda client, evil: client.get("/", cookies={"a": f"b{evil}"}),
    ),
)
async def test_injection_is_refused(inject: Injection, evil: str) -> None:
    """Line ends and NUL in what users say are a ``ValueError``, before anything was sent."""
    async with against(answering(OK)) as (server, client):
        with pytest.raises(ValueError, match=r"\w") as caught:
            await inject(client, evil)
        assert "\n" not in str(caught.value).replace("\\n", ""), "errors go to logs, line by line"
        assert server.connections == 0


@pytest.mark.parametrize("evil", BREAKS, ids=repr)
@pytest.mark.parametrize(
    "inject",
    _named(
        params=lambda client, evil: client.get("/", params={f"a{evil}": f"b{evil}"}),
        form=lambda client, evil: client.post("/", form={f"a{evil}": f"b{evil}"}),
        json=lambda client, evil: client.post("/", json={f"a{evil}": f"b{evil}"}),
        file_name=lambda client, evil: client.post("/", files={"f": (f"a{evil}", b"b")}),
        field_name=lambda client, evil: client.post("/", files={f"f{evil}": ("a", b"b")}),
        basic_auth=lambda client, evil: client.get("/", auth=(f"u{evil}", f"p{evil}")),
    ),
)
async def test_injection_is_encoded_or_refused(inject: Injection, evil: str) -> None:
    """Where any text may be said, it is either encoded, or refused; never is it a line of its own."""
    asked = []

    async def play(peer: Peer) -> None:
        while (one := await peer.asked()) is not None:
            asked.append(one)
            await peer.answer()

    async with against(play) as (_, client):
        try:
            await inject(client, evil)
        except ValueError:
            assert not asked
            return
        (one,) = asked
        assert "x-evil" not in one.headers
        assert b"\r\nX-Evil" not in one.body
        assert b"\nX-Evil" not in one.body.replace(b"\r\n", b"")
        assert one.target.startswith("/")
        assert "evil HTTP" not in one.target


@pytest.mark.parametrize(
    "cookie", [{"a": "b; admin=1"}, {"a; admin": "1"}, {"a": "b, admin=1;"}, {"": "a"}, {"a=b": "c"}]
)
async def test_a_cookie_is_one_cookie(cookie: dict[str, str]) -> None:
    """What would be taken for two is refused (RFC 6265 section 4.1.1)."""
    async with against(answering(OK)) as (server, client):
        with pytest.raises(ValueError, match="cookie"):
            await client.get("/", cookies=cookie)
        assert server.connections == 0


async def test_a_file_name_is_one_parameter() -> None:
    """A quotation mark in it does not end it."""
    asked = []

    async def play(peer: Peer) -> None:
        while (one := await peer.asked()) is not None:
            asked.append(one)
            await peer.answer()

    async with against(play) as (_, client):
        await client.post("/", files={'f"; evil="1': ('a"; name="admin', b"b")})
        (line,) = [line for line in asked[0].body.split(b"\r\n") if line.lower().startswith(b"content-disposition")]
        assert line.count(b'"') == 4, line


@pytest.mark.parametrize("field", ["content-length", "transfer-encoding", "connection"])
async def test_framing_is_not_for_users(field: str) -> None:
    """A field that says where the request ends cannot contradict where it does."""
    asked = []

    async def play(peer: Peer) -> None:
        while (one := await peer.asked()) is not None:
            asked.append(one)
            await peer.answer()

    value = {"content-length": "3", "transfer-encoding": "chunked", "connection": "close, x-secret"}[field]
    async with against(play) as (_, client):
        try:
            await (await client.post("/", content=b"hello", headers={field: value})).read()
        except ValueError:
            assert not asked
        else:
            assert [one.body for one in asked] == [b"hello"]


async def test_many_at_once() -> None:
    """Hundreds of requests at once, to a server that is bad in four ways: each has its own end, and none another's."""

    async def play(peer: Peer) -> None:
        while (asked := await peer.asked()) is not None:
            which = int(asked.target[-1])
            if which == 0:
                await peer.say(CHUNKED + b"zz\r\n")
            elif which == 1:
                return
            elif which == 2:
                await peer.answer(b"", 302, f"Location: {asked.target}\r\n")
            else:
                await peer.answer(asked.target.encode())

    async def one(client: Client, number: int) -> None:
        target = f"/{number}/{number % 4}"
        if number % 4 == 3:
            assert await (await client.get(target)).text() == target
            return
        with pytest.raises((UpstreamProtocolError, UpstreamClosed, TooManyRedirects)[number % 4]):
            await (await client.post(target) if number % 4 == 1 else await client.get(target)).read()

    async with against(play, timeouts=Timeouts(read=5, pool=5, total=10)) as (_, client), asyncio.TaskGroup() as group:
        for number in range(400):
            group.create_task(one(client, number))
