"""TestClient: what requests carry, and how much of it is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest

from forebay.errors import DeadlineExceeded
from forebay.testing import TestClient
from tests.support import eventually
from tests.testing.client_app import Events, make_app

pytestmark = pytest.mark.both_loops

MEGABYTE = bytes(range(256)) * 4096


@pytest.fixture
async def client() -> AsyncIterator[TestClient]:
    """A client of the application of these tests."""
    async with TestClient(make_app()) as found:
        yield found


async def pieces_of(data: bytes, size: int) -> AsyncIterator[bytes]:
    """``data``, piece by piece."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize(
    ("options", "kind", "content"),
    [
        ({"json": {"a": [1, "ü"]}}, "application/json", '{"a":[1,"ü"]}'.encode()),
        ({"json": None}, "application/json", b"null"),
        ({"msgpack": {"a": 1}}, "application/msgpack", b"\x81\xa1a\x01"),
        ({"content": b"\x00\xff"}, None, b"\x00\xff"),
        ({"content": "ü"}, "text/plain; charset=utf-8", "ü".encode()),
        ({"json": 1, "headers": {"content-type": "application/x+json"}}, "application/x+json", b"1"),
        ({"form": {}}, "application/x-www-form-urlencoded", b""),
        ({}, None, b""),
    ],
)
async def test_kinds_of_content(client: TestClient, options: Any, kind: str | None, content: bytes) -> None:
    """Each is encoded, says its type and its length."""
    told = (await client.post("/mirror", **options)).json()
    assert told["content"].encode("latin-1") == content
    assert told["headers"].get("content-type") == (None if kind is None else [kind])
    assert told["headers"]["content-length"] == [str(len(content))]


async def test_a_struct_is_json(client: TestClient) -> None:
    """Whatever msgspec encodes can be sent."""

    class Point(msgspec.Struct):
        x: int
        y: int

    told = (await client.post("/mirror", json=Point(1, 2))).json()
    assert told["content"] == '{"x":1,"y":2}'


async def test_a_form(client: TestClient) -> None:
    """Values become text; a list is several of its name."""
    told = (await client.post("/mirror", form={"a": [1, 2], "b&": "x y", "c": True, "d": None})).json()
    fields = parse_qsl(told["content"], keep_blank_values=True)
    assert fields == [("a", "1"), ("a", "2"), ("b&", "x y"), ("c", "true"), ("d", "")]


async def test_files(client: TestClient) -> None:
    """Fields and files are parts of ``multipart/form-data``, with their names and types; content is not changed."""
    told = (
        await client.post(
            "/mirror",
            form={"title": "ü"},
            files={"one": ('a"b.txt', b"--x\r\n\x00", "text/plain"), "many": [b"1", ("two.bin", b"2")]},
        )
    ).json()
    head = f"content-type: {told['headers']['content-type'][0]}\r\n\r\n".encode()
    message: Any = BytesParser(policy=HTTP).parsebytes(head + told["content"].encode("latin-1"))
    parts = [
        (part.get_param("name", header="content-disposition"), part.get_filename(), part.get_content_type())
        for part in message.iter_parts()
    ]
    assert parts == [
        ("title", None, "text/plain"),
        ("one", "a%22b.txt", "text/plain"),
        ("many", "many", "application/octet-stream"),
        ("many", "two.bin", "application/octet-stream"),
    ]
    contents = [part.get_payload(decode=True) for part in message.iter_parts()]
    assert contents == ["ü".encode(), b"--x\r\n\x00", b"1", b"2"]


async def test_one_content_only(client: TestClient) -> None:
    """Two kinds are refused, as is what is no content."""
    with pytest.raises(ValueError, match="was given json and form or files"):
        await client.post("/mirror", json=1, form={})
    with pytest.raises(TypeError, match="content of type int"):
        await client.post("/mirror", content=5)  # type: ignore[arg-type]  # that is the point
    for file in ("text", ("a.txt", "text"), ("a.txt", "text", "text/plain")):
        with pytest.raises(TypeError, match="file 'a': its content must be bytes, not str"):
            await client.post("/mirror", files={"a": file})  # type: ignore[dict-item]  # what is refused


async def test_an_option_that_is_none(client: TestClient) -> None:
    """It is refused by name, and not left out: content would be missing without a word."""
    with pytest.raises(TypeError, match="POST /mirror: there is no option data; there are params, headers, cookies"):
        await client.post("/mirror", data={"a": 1})  # type: ignore[call-arg]  # what is refused
    with pytest.raises(TypeError, match="there is no option auth, verify"):
        async with client.stream("GET", "/mirror", auth=1, verify=2):  # type: ignore[call-arg]  # what is refused
            pass


async def test_a_megabyte_both_ways(client: TestClient) -> None:
    """It comes back unchanged, from memory and from an iterable, streamed by the server."""
    response = await client.post("/echo", content=MEGABYTE)
    assert response.body == MEGABYTE
    assert response.headers["transfer-encoding"] == "chunked"
    assert (await client.post("/echo", content=pieces_of(MEGABYTE, 10_000))).body == MEGABYTE


async def test_content_piece_by_piece(client: TestClient) -> None:
    """It is sent in chunks, or with the length that is said; text as UTF-8; empty pieces are none."""

    async def texts() -> AsyncIterator[str]:
        for piece in ("ü", "", "b"):
            yield piece

    told = (await client.post("/mirror", content=texts())).json()
    assert told["headers"]["transfer-encoding"] == ["chunked"]
    assert told["content"].encode("latin-1") == "üb".encode()
    told = (await client.post("/mirror", content=texts(), headers={"content-length": "3"})).json()
    assert "transfer-encoding" not in told["headers"]
    assert told["content"].encode("latin-1") == "üb".encode()


async def test_a_slow_reader_holds_the_upload_back() -> None:
    """While the handler reads nothing, no more is taken of the iterable than the buffers between hold."""
    events = Events()
    given = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(256):
            given += 16384
            yield bytes(16384)

    async with TestClient(make_app(events)) as client:
        asking = asyncio.create_task(client.post("/slow-reader", content=pieces()))
        await asyncio.wait_for(events.began.wait(), 5)
        last = -1
        while last != given:  # until nothing moves
            last = given
            for _ in range(50):
                await asyncio.sleep(0)
        assert given < 1024 * 1024
        events.go.set()
        assert (await asking).json() == {"received": 4 * 1024 * 1024}
        assert given == 4 * 1024 * 1024


async def test_an_upload_that_outlives_a_pause_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not read for longer than it looks after its client does not take it for gone."""
    monkeypatch.setattr("forebay.http.connection._LOOK_EVERY", 0.01)
    events = Events()
    async with TestClient(make_app(events)) as client:
        asking = asyncio.create_task(client.post("/slow-reader", content=bytes(1 << 20)))
        await asyncio.wait_for(events.began.wait(), 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asking), 0.5)  # it looks twice, at least
        events.go.set()
        assert (await asking).json() == {"received": 1 << 20}


async def test_a_source_that_fails(client: TestClient) -> None:
    """What the iterable raises is raised by the request, and the connection is cut."""

    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await client.post("/echo", content=failing())
    await eventually(lambda: client.server.connections == 0)
    assert (await client.get("/users/1")).status == 200


async def test_a_source_that_waits(client: TestClient) -> None:
    """The request's timeout ends it, and the iterable is closed."""
    closed = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await asyncio.Event().wait()
        finally:
            closed.set()

    with pytest.raises(DeadlineExceeded, match="no response came"):
        await client.post("/mirror", content=waiting(), timeout=0.05)
    assert closed.is_set()


async def test_an_answer_before_the_end_of_the_upload(client: TestClient) -> None:
    """The response counts; the rest is not sent, and the source is closed."""
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1000)
        finally:
            closed.set()

    response = await client.post("/nothing", content=endless())
    assert response.status == 404
    assert closed.is_set()
    response = await client.post("/mirror", content=endless())
    assert response.status == 413
