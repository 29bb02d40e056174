"""Files over real sockets: whole, in parts, not at all; slow clients, clients that leave, files that change."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from forebay.engine.loop import now
from forebay.http import App, Exchange, HTTPServer, Request, Response, ServerTimeouts
from forebay.http.files import FileCache, FileResponse, respond_with_file
from tests.support import RawClient, eventually, open_descriptors, raw_client, running

MIB = 1024 * 1024
LARGE = b"".join(b"%07d\n" % number for number in range(MIB // 8))
SMALL = LARGE[:1000]
CHANGED = 784111777  # 6 November 1994
SIZES = pytest.mark.parametrize("name", ["small.txt", "large.txt"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with a file that is kept in memory, and one that is not."""
    for name, content in (("small.txt", SMALL), ("large.txt", LARGE), ("empty.bin", b"")):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (CHANGED, CHANGED))
    return tmp_path


class Files:
    """An application that serves the files of a directory, without the framework."""

    name = "files"
    body_limit: int | None = None

    def __init__(self, root: Path, cache: FileCache) -> None:
        self.root = root
        self.cache = cache

    def on_request(self, exchange: Exchange) -> None:
        respond_with_file(exchange, self.root / exchange.path[1:], self.cache, headers=b"x-own: 1\r\n")


@asynccontextmanager
async def serving(application: Any) -> AsyncIterator[int]:
    """The port of a server with ``application``."""
    async with running(HTTPServer(application, bind="http://127.0.0.1:0")) as server:
        yield server.addresses[0].port


@asynccontextmanager
async def client_of(root: Path) -> AsyncIterator[RawClient]:
    """A client of a server of :class:`Files`."""
    cache = FileCache()
    async with serving(Files(root, cache)) as port, raw_client(port) as client:
        yield client
    cache.close()


def content_of(name: str) -> bytes:
    return SMALL if name == "small.txt" else LARGE


@SIZES
async def test_whole(root: Path, name: str) -> None:
    """With its type, validators and length; HEAD says the same (RFC 9110 section 9.3.2)."""
    async with client_of(root) as client:
        status, headers, body = await client.get(f"/{name}")
        assert (status, body) == (200, content_of(name))
        del headers["date"]
        assert headers == {
            "content-type": "text/plain; charset=utf-8",
            "etag": f'"{CHANGED * 10**9:x}-{len(body):x}"',
            "last-modified": "Sun, 06 Nov 1994 08:49:37 GMT",
            "accept-ranges": "bytes",
            "content-length": str(len(body)),
            "x-own": "1",
            "server": "forebay",
        }
        await client.send(f"HEAD /{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status, again, _ = await client.response(head_only=True)
        del again["date"]
        assert (status, again) == (200, headers)
        assert (await client.get(f"/{name}"))[0] == 200


async def test_an_empty_file(root: Path) -> None:
    """Is sent like any other; no range of it can be satisfied but its last bytes."""
    async with client_of(root) as client:
        assert (await client.get("/empty.bin"))[::2] == (200, b"")
        assert (await client.get("/empty.bin", Range="bytes=-5"))[::2] == (200, b"")
        status, headers, _ = await client.get("/empty.bin", Range="bytes=0-")
        assert (status, headers["content-range"]) == (416, "bytes */0")


@SIZES
@pytest.mark.parametrize(
    ("value", "offset", "count"), [("bytes=8-15", 8, 8), ("bytes=-8", -8, 8), ("bytes=0-7,4-9", 0, 10)]
)
async def test_one_range(root: Path, name: str, value: str, offset: int, count: int) -> None:
    """RFC 9110 section 15.3.7.1; never a multipart for one part (section 15.3.7.2)."""
    content = content_of(name)
    offset %= len(content)
    async with client_of(root) as client:
        status, headers, body = await client.get(f"/{name}", Range=value)
        assert (status, body) == (206, content[offset : offset + count])
        assert headers["content-range"] == f"bytes {offset}-{offset + count - 1}/{len(content)}"
        assert headers["content-type"] == "text/plain; charset=utf-8"
        assert headers["content-length"] == str(count)
        assert {"etag", "last-modified", "date"} <= headers.keys()
        assert (await client.get(f"/{name}"))[2] == content


def parts_of(headers: dict[str, str], body: bytes) -> list[tuple[str, bytes]]:
    """The content-range and the content of every part."""
    kind, _, boundary = headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    pieces = body.split(f"--{boundary}".encode())
    assert (pieces[0], pieces[-1]) == (b"", b"--\r\n")
    found = []
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        _, kind_line, range_line = head.split(b"\r\n")
        assert kind_line == b"content-type: text/plain; charset=utf-8"
        assert content.endswith(b"\r\n")
        found.append((range_line.decode().removeprefix("content-range: "), content[:-2]))
    return found


@SIZES
async def test_several_ranges(root: Path, name: str) -> None:
    """RFC 9110 section 15.3.7.2: one part each, in the client's order; the connection goes on."""
    content = content_of(name)
    size = len(content)
    async with client_of(root) as client:
        for _ in range(2):
            status, headers, body = await client.get(f"/{name}", Range="bytes=-10,0-7,300-400")
            assert status == 206
            assert "content-range" not in headers
            assert parts_of(headers, body) == [
                (f"bytes {size - 10}-{size - 1}/{size}", content[-10:]),
                (f"bytes 0-7/{size}", content[:8]),
                (f"bytes 300-400/{size}", content[300:401]),
            ]


async def test_large_parts_to_a_slow_client(root: Path) -> None:
    """More than the kernel takes at once: they come complete, and what was asked for next comes after them."""
    async with client_of(root) as client:
        half = MIB // 2
        (root / "large.txt").write_bytes(LARGE * 20)
        await client.send(
            b"GET /large.txt HTTP/1.1\r\nHost: x\r\nRange: bytes=0-%d,%d-\r\n\r\n" % (half - 1, 2 * MIB)
            + b"GET /small.txt HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        status, headers, body = await client.response(timeout=20)
        assert status == 206
        assert [content for _, content in parts_of(headers, body)] == [LARGE[:half], LARGE * 18]
        assert (await client.response())[::2] == (200, SMALL)


@SIZES
async def test_a_range_that_is_not_there(root: Path, name: str) -> None:
    """RFC 9110 section 15.5.17: 416 with the size."""
    async with client_of(root) as client:
        status, headers, _ = await client.get(f"/{name}", Range="bytes=9000000-")
        assert (status, headers["content-range"]) == (416, f"bytes */{len(content_of(name))}")
        assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("value", ["bytes=5-4", "lines=1-2", "bytes=" + ",".join(f"{n}000-{n}000" for n in range(17))])
async def test_ranges_that_are_ignored(root: Path, value: str) -> None:
    """RFC 9110 section 14.2: malformed, another unit, too many."""
    async with client_of(root) as client:
        assert (await client.get("/large.txt", Range=value))[::2] == (200, LARGE)


async def test_only_get_has_ranges(root: Path) -> None:
    """RFC 9110 section 14.2."""
    async with client_of(root) as client:
        for method in ("HEAD", "POST"):
            await client.send(f"{method} /large.txt HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n".encode())
            status, headers, _ = await client.response(head_only=method == "HEAD")
            assert (status, headers["content-length"]) == (200, str(MIB))


@SIZES
async def test_conditions(root: Path, name: str) -> None:
    """RFC 9110 section 13: 304 with the validators and no content, 412, and If-Range."""
    content = content_of(name)
    async with client_of(root) as client:
        _, first, _ = await client.get(f"/{name}")
        etag, date = first["etag"], first["last-modified"]
        for fields in ({"If_None_Match": etag}, {"If_Modified_Since": date}, {"If_None_Match": f'"x", W/{etag}'}):
            status, headers, body = await client.get(f"/{name}", **fields)
            assert (status, body) == (304, b"")
            assert (headers["etag"], headers["last-modified"], headers["x-own"]) == (etag, date, "1")
            assert not {"content-type", "content-length", "content-range"} & headers.keys()
        assert (await client.get(f"/{name}", If_None_Match='"x"', If_Modified_Since=date))[0] == 200
        assert (await client.get(f"/{name}", If_Match='"x"'))[0] == 412
        assert (await client.get(f"/{name}", If_Match=etag))[2] == content
        assert (await client.get(f"/{name}", If_Unmodified_Since=formatdate(0, usegmt=True)))[0] == 412
        for validator in (etag, date):
            status, _, body = await client.get(f"/{name}", Range="bytes=0-7", If_Range=validator)
            assert (status, body) == (206, content[:8])
        for validator in ('"x"', f"W/{etag}", formatdate(0, usegmt=True)):
            assert (await client.get(f"/{name}", Range="bytes=0-7", If_Range=validator))[::2] == (200, content)
        assert (await client.get(f"/{name}", Range="bytes=0-7", If_None_Match=etag))[0] == 304


async def test_pipelined(root: Path) -> None:
    """Files and errors are answered in order, and each is complete."""
    names = ["large.txt", "small.txt", "large.txt", "missing", "large.txt", "small.txt"]
    app = App()

    @app.get("/{name}")
    def serve(name: str) -> FileResponse:
        return FileResponse(root / name)

    async with serving(app) as port, raw_client(port) as client:
        await client.send(b"".join(b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % name.encode() for name in names))
        for name in names:
            status, _, body = await client.response(timeout=20)
            assert status == (404 if name == "missing" else 200)
            assert name == "missing" or body == content_of(name)


def framework(root: Path, *, middleware: bool) -> App:
    """An application whose handlers return files."""
    app = App()

    @app.get("/plain/{name}")
    def plain(name: str) -> FileResponse:
        return FileResponse(root / name)

    @app.get("/coroutine/{name}")
    async def coroutine(name: str) -> Response:
        await asyncio.sleep(0)
        return FileResponse(root / name)

    @app.get("/dressed")
    async def dressed() -> Any:
        return FileResponse(
            str(root / "large.txt"),
            content_type="text/x-log",
            filename="naïve €.txt",
            headers={"cache-control": "no-store", "etag": '"mine"', "content-length": "1"},
        )

    @app.get("/status")
    def status() -> FileResponse:
        return FileResponse(root / "small.txt", status=503)

    @app.get("/split")
    def split() -> FileResponse:
        return FileResponse(root / "small.txt", headers={"x": "a\r\nb: c"})

    if middleware:

        @app.middleware
        async def mark(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            response = await call_next(request)
            response.headers["x-marked"] = "yes"
            return response

    return app


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("style", ["plain", "coroutine"])
async def test_handlers_return_files(root: Path, style: str, middleware: bool) -> None:
    """Plain and coroutine handlers, with middleware, which may add headers, and without."""
    app = framework(root, middleware=middleware)
    async with serving(app) as port, raw_client(port) as client:
        for name in ("small.txt", "large.txt"):
            status, headers, body = await client.get(f"/{style}/{name}")
            assert (status, body) == (200, content_of(name))
            assert headers.get("x-marked") == ("yes" if middleware else None)
            assert (await client.get(f"/{style}/{name}", If_None_Match=headers["etag"]))[0] == 304
            assert (await client.get(f"/{style}/{name}", Range="bytes=0-7"))[::2] == (206, LARGE[:8])
            status, headers, body = await client.get(f"/{style}/{name}", Range="bytes=0-7,400-499")
            assert [content for _, content in parts_of(headers, body)] == [LARGE[:8], LARGE[400:500]]
            assert headers.get("x-marked") == ("yes" if middleware else None)
            await client.send(f"HEAD /{style}/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await client.response(head_only=True))[0] == 200
        assert (await client.get(f"/{style}/missing"))[0] == 404
        assert len(app.files) == 2
    assert len(app.files) == 0


@pytest.mark.parametrize("middleware", [False, True])
async def test_what_a_handler_says_of_its_file(root: Path, middleware: bool) -> None:
    """Its own type, name and headers; not what frames or validates the content; other statuses have no conditions."""
    async with serving(framework(root, middleware=middleware)) as port, raw_client(port) as client:
        _, headers, body = await client.get("/dressed")
        assert body == LARGE
        assert headers["content-type"] == "text/x-log"
        disposition = "attachment; filename=\"na_ve _.txt\"; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.txt"
        assert headers["content-disposition"] == disposition
        assert headers["cache-control"] == "no-store"
        assert headers["etag"] != '"mine"'
        assert (await client.get("/status", Range="bytes=0-1", If_None_Match="*"))[::2] == (503, SMALL)
        with capture_logs() as logs:
            assert (await client.get("/split"))[0] == 500
        assert [entry["event"] for entry in logs] == ["handler failed"]


async def test_one_response_for_many_requests(root: Path) -> None:
    """It stays as it was made, whatever the return annotation of its handler says."""
    response = FileResponse(root / "small.txt", content_type="text/x-log", headers={"x-own": "1", "etag": '"mine"'})
    app = App()

    @app.get("/a")
    def annotated() -> dict[str, Any]:
        return cast("dict[str, Any]", response)

    @app.get("/b")
    async def plain() -> Any:
        return response

    async with serving(app) as port, raw_client(port) as client:
        for path in ("/a", "/b", "/a", "/b"):
            status, headers, body = await client.get(path)
            assert (status, body) == (200, SMALL)
            assert (headers["content-type"], headers["x-own"]) == ("text/x-log", "1")
            assert headers["etag"] != '"mine"'
    assert response.headers["etag"] == '"mine"'


def test_names_to_save_as() -> None:
    """RFC 6266: quoted; nothing in it can end the string, or the line, or lead to another directory."""
    for name in ('a"b', "a\\b", "a\r\nb", "../a", "a%41"):
        disposition = FileResponse("x", filename=name).headers["content-disposition"]
        assert not set('"\\\r\n/%') & set(disposition.split('"')[1])
    assert FileResponse("x", filename="a b.txt").headers["content-disposition"] == 'attachment; filename="a b.txt"'
    with pytest.raises(ValueError, match="must be 200 to 599"):
        FileResponse("x", status=100)


async def test_what_is_no_file(root: Path) -> None:
    """A directory, a FIFO, a missing one: 404, at once; nothing is left open."""
    os.mkfifo(root / "fifo")
    (root / "loop").symlink_to(root / "loop")
    async with client_of(root) as client:
        before = open_descriptors()
        for path in ("/", "/fifo", "/missing", "/small.txt/x", "/" + "x" * 5000, "/loop"):
            assert (await client.get(path))[0] == 404
        assert open_descriptors() == before


async def test_a_fifo_is_not_even_opened(root: Path) -> None:
    """Whoever waits to write into it would go on, into nothing."""
    os.mkfifo(root / "fifo")
    opening = threading.Event()

    def write() -> None:
        opening.set()
        os.close(os.open(root / "fifo", os.O_WRONLY))

    writer = threading.Thread(target=write)
    writer.start()
    opening.wait(5)
    await eventually(lambda: Path(f"/proc/self/task/{writer.native_id}/stat").read_text().split()[2] == "S")
    try:
        async with client_of(root) as client:
            for _ in range(3):
                assert (await client.get("/fifo"))[0] == 404
        await asyncio.to_thread(writer.join, 0.2)
        assert writer.is_alive()
    finally:
        os.close(os.open(root / "fifo", os.O_RDONLY | os.O_NONBLOCK))
        writer.join(5)


async def test_a_replaced_file(root: Path) -> None:
    """It is served as it was until the cache looks again, then as it is; its descriptor is closed."""
    cache = FileCache(valid_for=10)
    at = now()
    for name in ("small.txt", "large.txt"):
        path = str(root / name)
        old = cache.get(path, at)
        (root / "new").write_bytes(b"new")
        os.replace(root / "new", path)
        assert cache.get(path, at + 9.9) is old
        new = cache.get(path, at + 10)
        assert new.content == b"new"
        assert new.etag != old.etag
        assert old.file.fd == -1
        assert cache.get(path, at + 25) is new, "it was looked at and is the same"
        os.utime(path, (CHANGED + 1, CHANGED + 1))
        assert cache.get(path, at + 40).modified == CHANGED + 1
        os.unlink(path)
        with pytest.raises(FileNotFoundError):
            cache.get(path, at + 51)
    assert len(cache) == 0


async def test_replaced_while_it_is_sent(root: Path) -> None:
    """Who has begun with the old one gets all of it, though the cache has closed it."""
    (root / "large.txt").write_bytes(LARGE * 20)
    cache = FileCache(valid_for=0)
    async with serving(Files(root, cache)) as port, raw_client(port) as slow, raw_client(port) as other:
        await slow.send(b"GET /large.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await slow.line() == b"HTTP/1.1 200 OK\r\n"
        (root / "new").write_bytes(b"new")
        os.replace(root / "new", root / "large.txt")
        assert (await other.get("/large.txt"))[2] == b"new"
        while await slow.line() != b"\r\n":
            pass
        assert await slow.exactly(20 * MIB, timeout=20) == LARGE * 20
    cache.close()


@pytest.mark.parametrize("field", [b"", b"Range: bytes=0-1,1000-\r\n"], ids=["whole", "parts"])
async def test_truncated_while_it_is_sent(root: Path, field: bytes) -> None:
    """The client notices by the end of the connection; it is logged; others go on."""
    os.truncate(root / "large.txt", 100 * MIB)
    cache = FileCache()
    with capture_logs() as logs:
        async with serving(Files(root, cache)) as port, raw_client(port) as client, raw_client(port) as other:
            await client.send(b"GET /large.txt HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n")
            assert (await client.line()).startswith(b"HTTP/1.1 20")
            os.truncate(root / "large.txt", 1)
            assert len(await client.rest(20)) < 100 * MIB
            assert (await other.get("/small.txt"))[2] == SMALL
    assert any("became shorter" in entry.get("reason", "") for entry in logs)
    cache.close()


@pytest.mark.parametrize("field", [b"", b"Range: bytes=0-1,1000-\r\n"], ids=["whole", "parts"])
async def test_clients_that_leave_in_the_middle(root: Path, field: bytes) -> None:
    """Nothing stays open for them, and the server counts them."""
    os.truncate(root / "large.txt", 100 * MIB)
    cache = FileCache()
    server = HTTPServer(Files(root, cache), bind="http://127.0.0.1:0")
    async with running(server):
        before = open_descriptors()
        clients = [await RawClient.connect(server.addresses[0].port) for _ in range(20)]
        for client in clients:
            await client.send(b"GET /large.txt HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n")
            assert (await client.line()).startswith(b"HTTP/1.1 20")
        for client in clients:
            client.abort()
        await eventually(lambda: open_descriptors() <= before + 1)  # the cache's own
        await eventually(lambda: server.statistics()["disconnects"] == 20)
        assert server.in_flight == 0
        await eventually(lambda: len(cache.senders) == 0)
        cache.close()
        assert open_descriptors() <= before


async def test_many_at_once(root: Path) -> None:
    """100 clients, whole files and parts in turn, each on one connection."""

    async def one(port: int, number: int) -> None:
        async with raw_client(port) as client:
            for turn in range(4):
                if (number + turn) % 2:
                    assert (await client.get("/large.txt"))[2] == LARGE
                else:
                    first = number * 1000
                    got = await client.get("/large.txt", Range=f"bytes={first}-{first + 99_999}")
                    assert got[2] == LARGE[first : first + 100_000]

    async with serving(Files(root, FileCache())) as port:
        await asyncio.wait_for(asyncio.gather(*(one(port, number) for number in range(100))), 40)


async def test_a_client_that_reads_nothing_is_cut(root: Path) -> None:
    """By the server's write timeout; nothing stays open."""
    os.truncate(root / "large.txt", 100 * MIB)
    cache = FileCache()
    server = HTTPServer(Files(root, cache), bind="http://127.0.0.1:0", timeouts=ServerTimeouts(write=0.3))
    async with running(server):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", server.addresses[0].port))
            await loop.sock_sendall(sock, b"GET /large.txt HTTP/1.1\r\nHost: x\r\n\r\n")
            await eventually(lambda: server.in_flight == 1)
            await eventually(lambda: server.connections == 0)
    cache.close()
