"""Answers made smaller, over a real server."""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard

from forebay.errors import MissingExtra
from forebay.http import App, Request, Response
from forebay.http.files import FileResponse
from forebay.http.middleware import Compression, ETag
from tests.http.middleware.served import serving

TEXT = "All work and no play makes Jack a dull boy. " * 100

KINDS = (
    "application/problem%2Bjson",
    "image/svg%2Bxml",
    "Text/CSS;charset=utf-8",
    "text/javascript",
    "application/x-mine",
)
DECODERS: dict[str, Callable[[], Callable[[bytes], bytes]]] = {
    "gzip": lambda: zlib.decompressobj(31).decompress,
    "br": lambda: brotli.Decompressor().process,
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj().decompress,
}


def undo(encoding: str, body: bytes) -> bytes:
    """What a client makes of it."""
    if encoding == "gzip":
        return zlib.decompress(body, 31)
    if encoding == "br":
        found: bytes = brotli.decompress(body)
        return found
    return zstandard.ZstdDecompressor().decompressobj().decompress(body)


def library(folder: Path | None = None, **options: Any) -> App[Any]:
    """An application with answers of all kinds."""
    app: App[Any] = App()
    app.middleware(Compression(**options))

    @app.get("/text")
    async def text() -> Response:
        return Response(TEXT, headers={"etag": '"1"', "accept-ranges": "bytes", "vary": "origin"})

    @app.get("/as")
    async def of_a_type(request: Request) -> Response:
        asked = dict(request.query)
        headers = {name: value for name, value in asked.items() if name not in ("type", "status", "size")}
        body = TEXT.encode()[: int(asked.get("size", "99999"))]
        return Response(
            body, content_type=asked.get("type", "text/plain"), headers=headers, status=int(asked.get("status", "200"))
        )

    @app.get("/file")
    async def file() -> Response:
        assert folder is not None
        return FileResponse(folder / "a.txt")

    return app


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("gzip;q=0, *;q=0.1, zstd;q=0", "br"),
        ("identity, gzip;q=0.5", None),
        ("deflate", None),
        ("*;q=0", None),
        ("GZIP", "gzip"),
        ("", None),
    ],
)
async def test_the_client_decides(accept: str, expected: str | None) -> None:
    """By its weights, of equals the best; and every answer says that it depends on them."""
    async with serving(library()) as asker:
        answer = await asker.ask("/text", ("accept-encoding", accept))
        assert answer.headers.get("content-encoding") == expected
        assert answer.headers["vary"] == "origin, accept-encoding"
        if expected is None:
            assert (answer.body.decode(), answer.headers["etag"]) == (TEXT, '"1"')
            assert answer.headers["accept-ranges"] == "bytes"
        else:
            assert undo(expected, answer.body).decode() == TEXT
            assert answer.headers["etag"] == 'W/"1"'
            assert "accept-ranges" not in answer.headers


async def test_who_says_nothing_gets_it_as_it_is() -> None:
    """No accept-encoding, no coding, but vary all the same; HEAD says what GET would."""
    async with serving(library()) as asker:
        plain = await asker.ask("/text")
        assert (plain.body.decode(), plain.headers["vary"]) == (TEXT, "origin, accept-encoding")
        got = await asker.ask("/text", ("accept-encoding", "gzip"))
        head = await asker.ask("/text", ("accept-encoding", "gzip"), method="HEAD")
        for name in ("content-encoding", "content-length", "etag", "vary"):
            assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    "query",
    [
        "type=image/png",
        "type=application/octet-stream",
        "size=1023",
        "content-encoding=br",
        "cache-control=max-age=1,%20No-Transform",
        "content-digest=x",
        "status=206&content-range=bytes%200-9/99",
        "status=204",
    ],
)
async def test_what_is_left_alone(query: str) -> None:
    """Types that do not gain, what is small, compressed already, a part, or not to be changed: no trace of us."""
    async with serving(library()) as asker:
        answer = await asker.ask(f"/as?{query}", ("accept-encoding", "gzip"))
        assert answer.headers.get("content-encoding") in (None, "br")
        assert "vary" not in answer.headers
        assert answer.body in (b"", TEXT.encode(), TEXT.encode()[:1023])


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_worth_it(kind: str) -> None:
    """Types that gain, and those that are named."""
    async with serving(library(types=["application/x-mine"])) as asker:
        answer = await asker.ask(f"/as?type={kind}&size=1024", ("accept-encoding", "gzip"))
        assert undo("gzip", answer.body) == TEXT.encode()[:1024]


async def test_what_becomes_no_smaller_is_sent_as_it_is() -> None:
    """Random text."""
    async with serving(library(encodings=["gzip"], levels={"gzip": 1}, min_size=10)) as asker:
        answer = await asker.ask("/as?size=12", ("accept-encoding", "gzip"))
        assert answer.body == TEXT.encode()[:12]
        assert "content-encoding" not in answer.headers
        assert answer.headers["vary"] == "accept-encoding"


async def test_files_are_left_alone(tmp_path: Path) -> None:
    """They go from the page cache to the socket."""
    (tmp_path / "a.txt").write_text(TEXT)
    async with serving(library(tmp_path)) as asker:
        answer = await asker.ask("/file", ("accept-encoding", "gzip"))
        assert (answer.body.decode(), answer.headers.get("content-encoding")) == (TEXT, None)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_large_content_gives_others_their_turn(encoding: str) -> None:
    """The loop goes round while 880 KB are compressed, at least once for each slice, and the content is right."""
    turns: list[int] = []

    async def count(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        turns.append(0)

        async def counts() -> None:
            while True:
                turns[0] += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(counts())
        try:
            return await call_next(request)
        finally:
            counting.cancel()

    outer: App[Any] = App(middleware=[count])
    outer.middleware(Compression(encodings=[encoding]))

    @outer.get("/large")
    async def large() -> str:
        return TEXT * 200

    async with serving(outer) as asker:
        answer = await asker.ask("/large", ("accept-encoding", encoding))
    assert undo(encoding, answer.body).decode() == TEXT * 200
    assert turns[0] >= len(TEXT) * 200 // 65536


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_events_arrive_when_they_are_sent(encoding: str) -> None:
    """Each event can be read before the next one is made; the announced length is gone; the end is clean."""
    app: App[Any] = App()
    app.middleware(Compression())
    go = asyncio.Event()

    @app.get("/events")
    async def events() -> Response:
        async def pieces() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            await go.wait()
            yield "data: 2\n\n"

        return Response(pieces(), content_type="text/event-stream")

    read = DECODERS[encoding]()
    async with serving(app) as asker:
        client = asker.client
        await client.send(f"GET /events HTTP/1.1\r\nhost: test\r\naccept-encoding: {encoding}\r\n\r\n".encode())
        head = b""
        while (line := await client.line()) != b"\r\n":
            head += line
        assert f"content-encoding: {encoding}\r\n".encode() in head
        assert await _until(client, read, b"data: 1\n\n")
        go.set()
        assert await _until(client, read, b"data: 2\n\n")


async def _until(client: Any, read: Any, wanted: bytes) -> bool:
    found = b""
    while wanted not in found:
        size = int(await client.line(), 16)
        found += read(await client.exactly(size))
        assert await client.line() == b"\r\n"
    return True


async def test_a_stream_is_closed_with_its_client_and_sent_whole() -> None:
    """A large stream with an announced length comes as it was; one that HEAD asks for is closed unread."""
    app: App[Any] = App()
    app.middleware(Compression())
    closed = []

    class Stream:
        """A resource that wants to be closed."""

        def __init__(self) -> None:
            self.left = 50

        def __aiter__(self) -> Stream:
            return self

        async def __anext__(self) -> bytes:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return TEXT.encode() * 30

        async def aclose(self) -> None:
            closed.append(self.left)

    @app.get("/stream")
    async def stream() -> Response:
        length = str(len(TEXT) * 30 * 50)
        return Response(Stream(), content_type="text/plain", headers={"content-length": length})

    async with serving(app) as asker:
        answer = await asker.ask("/stream", ("accept-encoding", "gzip"))
        assert undo("gzip", answer.body) == TEXT.encode() * 30 * 50
        assert "content-length" not in answer.headers
        await asker.ask("/stream", ("accept-encoding", "gzip"), method="HEAD")
    assert closed == [0, 50]


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out by default; asked for by name, the error names the extra."""
    monkeypatch.setitem(sys.modules, "brotli", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert repr(Compression()) == "Compression(encodings=['gzip'], min_size=1024)"
    with pytest.raises(MissingExtra, match=r"forebay\[compression\]"):
        Compression(encodings=["br", "gzip"])


@pytest.mark.parametrize(
    "options",
    [
        {"encodings": ["deflate"]},
        {"encodings": []},
        {"min_size": 0},
        {"levels": {"gzip": 10}},
        {"levels": {"x": 1}},
        {"types": "a/b"},
        {"types": ["json"]},
        {"types": ["image/*"]},
        {"types": ["a/b; charset=utf-8"]},
    ],
)
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    """Says what would be right."""
    with pytest.raises(ValueError, match="must be"):
        Compression(**options)


async def test_a_response_that_is_sent_again_and_again() -> None:
    """A handler may make one Response for all: who accepts no coding gets it as it was made."""
    app: App[Any] = App(middleware=[Compression()])
    made = Response(TEXT, headers={"etag": '"1"'})
    app.get("/text")(lambda: made)
    async with serving(app) as asker:
        for encoding in ("gzip", "br", "gzip"):
            answer = await asker.ask("/text", ("accept-encoding", encoding))
            assert (answer.headers["content-encoding"], answer.headers["etag"]) == (encoding, 'W/"1"')
            assert undo(encoding, answer.body).decode() == TEXT
            plain = await asker.ask("/text")
            assert (plain.body.decode(), plain.headers["etag"]) == (TEXT, '"1"')
            assert "content-encoding" not in plain.headers


async def test_not_modified_says_what_the_whole_would() -> None:
    """``vary``, and the weak tag if that is what the client has: a cache could not update what it keeps by another."""
    app: App[Any] = App(middleware=[Compression(), ETag(weak=False)])
    app.get("/text")(lambda: TEXT)
    async with serving(app) as asker:
        for accepted in ("gzip", "identity"):
            whole = await asker.ask("/text", ("accept-encoding", accepted))
            tag = whole.headers["etag"]
            same = await asker.ask("/text", ("accept-encoding", accepted), ("if-none-match", f'"other", {tag}'))
            assert (same.status, same.headers["etag"]) == (304, tag)
            assert same.headers["vary"] == whole.headers["vary"] == "accept-encoding"
    app = App(middleware=[Compression()])
    app.get("/text")(lambda: Response(status=304))
    async with serving(app) as asker:
        same = await asker.ask("/text", ("if-none-match", "W/, W/None"))
        assert (same.status, "etag" in same.headers) == (304, False)
