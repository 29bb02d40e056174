"""Requests and responses as handlers see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from forebay.http import App, Headers, HTTPServer, MutableHeaders, Request, Response
from tests.support import RawClient, raw_client, running


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[RawClient]:
    """A client of a server that serves ``app``."""
    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        yield client


def test_headers_are_found_in_any_case() -> None:
    """The first value of a name is the value; ``get_all`` gives every one; values are cut to what they hold."""
    headers = Headers([(b"Accept", b" text/html "), (b"X-Tag", b"a"), (b"x-tag", b"b"), (b"X-Name", b"caf\xe9")])
    assert headers["ACCEPT"] == "text/html"
    assert headers["x-Tag"] == "a"
    assert headers.get_all("X-TAG") == ["a", "b"]
    assert headers["x-name"] == "café"
    assert headers.get("none") is None
    assert "x-€" not in headers
    assert list(headers) == ["accept", "x-tag", "x-name"]
    assert len(headers) == 3
    with pytest.raises(KeyError):
        headers["none"]


def test_headers_do_not_show_their_values() -> None:
    """A repr lands in logs, where credentials must not."""
    assert "secret" not in repr(Headers([(b"authorization", b"secret")]))


def test_response_headers_change() -> None:
    """Assigning replaces all values of a name, adding adds one, deleting removes all."""
    headers = MutableHeaders({"A": "1"})
    headers["a"] = "2"
    headers.add("Set-Cookie", "x=1")
    headers.add("set-cookie", "y=2")
    assert headers.encode() == b"a: 2\r\nset-cookie: x=1\r\nset-cookie: y=2\r\n"
    assert list(headers) == ["a", "set-cookie"]
    del headers["SET-COOKIE"]
    assert headers.encode() == b"a: 2\r\n"
    with pytest.raises(KeyError):
        del headers["set-cookie"]


@pytest.mark.parametrize(
    ("name", "value"), [("a\r\nb", "c"), ("a", "b\r\nc: d"), ("a", "b\x00"), ("a", "€"), ("", "b")]
)
def test_headers_that_cannot_be_sent(name: str, value: str) -> None:
    """Whatever could split the response, or is not latin-1, is refused."""
    with pytest.raises(ValueError, match=r"token|control|codec"):
        MutableHeaders({name: value}).encode()


def test_headers_of_the_server_are_left_out() -> None:
    """What frames a response has one owner; a second length or coding would confuse whoever reads it."""
    owned = {"Content-Length": "1", "transfer-encoding": "chunked", "Connection": "close", "date": "x", "Server": "y"}
    assert MutableHeaders({**owned, "x": "z"}).encode() == b"x: z\r\n"


@pytest.mark.parametrize(
    ("content", "body", "content_type", "status"),
    [
        ("é", "é".encode(), "text/plain; charset=utf-8", 200),
        (b"\x00", b"\x00", "application/octet-stream", 200),
        ({"a": [1]}, b'{"a":[1]}', "application/json", 200),
        (None, b"", None, 204),
    ],
)
def test_content_decides_the_type(content: object, body: bytes, content_type: str | None, status: int) -> None:
    """Text, bytes, JSON and nothing each have a default type and status."""
    response = Response(content)
    assert (response.body, response.headers.get("content-type"), response.status) == (body, content_type, status)


def test_a_given_type_and_status_come_first() -> None:
    """Arguments override what the content suggests; a header overrides both."""
    response = Response("<p>", status=201, content_type="text/html")
    assert (response.status, response.headers["content-type"]) == (201, "text/html")
    assert (
        Response("a", headers={"Content-Type": "a/b"}, content_type="c/d").headers.encode() == b"content-type: a/b\r\n"
    )


@pytest.mark.parametrize("status", [0, 101, 199, 600, -1])
def test_a_status_that_is_none(status: int) -> None:
    """Only final statuses make a response."""
    with pytest.raises(ValueError, match="200 to 599"):
        Response("", status=status)


async def test_a_request_tells_what_was_sent() -> None:
    """Method, paths, query, headers, host, scheme, client and the values of the path's parameters."""
    app = App()

    @app.get("/a/{name}/{rest:path}")
    def show(request: Request, name: str, rest: str) -> dict[str, object]:
        return {
            "method": request.method,
            "path": request.path,
            "raw": request.raw_path.decode(),
            "query": request.query,
            "tags": request.headers.get_all("x-tag"),
            "host": request.host,
            "scheme": request.scheme,
            "client": request.client,
            "params": request.path_params,
            "route": request.route,
        }

    async with serving(app) as client:
        status, _, body = await client.get("/a/x%20y/z?q=1+2&q=%C3%A9&r", X_Tag="t")
    assert status == 200
    for part in (b'"path":"/a/x y/z"', b'"raw":"/a/x%20y/z"', '[["q","1 2"],["q","é"],["r",""]]'.encode(), b'["t"]'):
        assert part in body
    assert b'"host":"test","scheme":"http","client":"127.0.0.1"' in body
    assert b'"params":{"name":"x y","rest":"z"},"route":"/a/{name}/{rest:path}"' in body


async def test_content_is_read_as_bytes_text_and_json() -> None:
    """Each way of reading gives the same content, and may follow another."""
    app = App()

    @app.post("/")
    async def read(request: Request) -> dict[str, object]:
        kinds = [await request.json(dict[str, int]), await request.text(), len(await request.body())]
        return {"kinds": kinds, "pieces": [piece.decode() async for piece in request.stream()]}

    @app.post("/twice")
    async def twice(request: Request) -> str:
        async for _ in request.stream():
            pass
        try:
            await request.body()
        except RuntimeError as error:
            return str(error)
        return "read twice"

    async with serving(app) as client:
        head = b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await client.send(head % (b"/", 7) + b'{"a":1}')
        answer = await client.response()
        await client.send(head % (b"/", 2) + b"[]")
        wrong = await client.response()
        await client.send(head % (b"/twice", 2) + b"ab")
        again = await client.response()
    assert answer[2] == b'{"kinds":[{"a":1},"{\\"a\\":1}",7],"pieces":["{\\"a\\":1}"]}'
    assert wrong[0] == 422
    assert again[2] == b"the content of this request was read already"


async def test_content_comes_in_pieces() -> None:
    """A handler sees each piece as it arrives, not only the whole."""
    app = App()

    @app.post("/")
    async def echo(request: Request) -> AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            async for piece in request.stream():
                yield b"<" + piece + b">"

        return pieces()

    async with serving(app) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        for piece in (b"one", b"two"):
            await client.send(b"3\r\n%b\r\n" % piece)
            assert await client.line() == b"5\r\n"
            assert await client.line() == b"<%b>\r\n" % piece
        await client.send(b"0\r\n\r\n")
        assert await client.exactly(5) == b"0\r\n\r\n"


def test_an_element_is_added_to_a_list_of_several_lines() -> None:
    """What the other lines say is not lost, and is looked at as well."""
    headers = MutableHeaders()
    headers.add_to_list("vary", "accept")
    headers.add("Vary", "")
    headers.add("Vary", "Cookie")
    headers.add_to_list("vary", "cookie")
    assert headers.get_all("vary") == ["accept", "", "Cookie"]
    headers.add_to_list("vary", "origin")
    assert headers.get_all("vary") == ["accept, Cookie, origin"]
    empty = MutableHeaders({"vary": ""})
    empty.add_to_list("vary", "origin")
    assert empty.get_all("vary") == ["origin"]


def test_a_copy_of_headers_is_ones_own() -> None:
    """Of what was encoded as of what was added."""
    headers = MutableHeaders.encoded(b"etag: a\r\n")
    headers.add("vary", "origin")
    mine = headers.copy()
    assert mine.encode() == headers.encode()
    mine["etag"] = "b"
    mine.add("x-mine", "1")
    assert headers.encode() == b"etag: a\r\nvary: origin\r\n"
