"""RFC 6455 section by section over real sockets: the opening handshake (sections 1.3, 3, 4, 9.1, 10.2 and 11.3), of our
server and of our client. A case's name begins with its section."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any

import pytest

from forebay.errors import UpstreamProtocolError
from forebay.http import App, HTTPServer
from forebay.http.websocket import WebSocket, WebSocketSettings
from forebay.http.websocket_client import connect
from tests.http.raw_websocket import GUID, TEXT, Peer, accepting, closing, frame, server
from tests.support import RawClient, raw_client, running

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # section 1.3
GOOD = {
    "Host": "example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def handshake(line: str = "GET /chat HTTP/1.1", *more: tuple[str, str], without: str = "", **other: str) -> bytes:
    """A client's request. ``other`` values stand for those of GOOD, ``_`` in a name for ``-``; ``more`` are added."""
    fields = {name: value for name, value in GOOD.items() if name != without}
    fields.update({name.replace("_", "-"): value for name, value in other.items()})
    return "".join([f"{line}\r\n", *(f"{n}: {v}\r\n" for n, v in (*fields.items(), *more)), "\r\n"]).encode("latin-1")


@asynccontextmanager
async def chat(**settings: Any) -> AsyncIterator[int]:
    """An App with a WebSocket at /chat, which first says who asked for it, then echoes; its port."""
    app = App()

    @app.websocket("/chat", WebSocketSettings(**settings))
    async def join(ws: WebSocket) -> None:
        await ws.send(f"{ws.host} {ws.path} {ws.query} {ws.subprotocol}")
        async for message in ws:
            await ws.send(message)

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as site:
        yield site.addresses[0].port


async def answer(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """The answer to one request."""
    async with raw_client(port) as raw:
        await raw.send(data)
        return await raw.response()


# -- 4.2.2: what the server answers to what it accepts


async def test_1_3_and_4_2_2_the_answer() -> None:
    """1.3, 4.2.2-5: the status line, Upgrade, Connection, and the SHA-1 of the key and the GUID; no content."""
    async with chat() as port, raw_client(port) as raw:
        await raw.send(handshake() + closing())
        lines = (await raw.rest()).partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
        assert lines[0] == "http/1.1 101 switching protocols"
        assert sorted(lines[1:]) == [
            "connection: upgrade",
            "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
            "upgrade: websocket",
        ]


async def test_4_2_2_every_key_has_its_own_answer() -> None:
    """4.2.2-5.4: whatever the 16 bytes are; the key is not decoded for it."""
    async with chat() as port:
        for key in (b64encode(os.urandom(16)), b64encode(bytes(16)), b64encode(b"\xff" * 16), b"A" * 21 + b"B=="):
            _, headers, _ = await answer(port, handshake(Sec_WebSocket_Key=key.decode()))
            assert headers["sec-websocket-accept"] == b64encode(sha1(key + GUID).digest()).decode()


ACCEPTED: dict[str, bytes] = {
    "1.2 field names in lower case": handshake().replace(b"Sec-WebSocket-", b"sec-websocket-"),
    "1.2 field names in upper case": handshake().replace(b"Upgrade:", b"UPGRADE:").replace(b"Host:", b"HOST:"),
    "4.1 fields in any order": b"\r\n".join([b"GET /chat HTTP/1.1", *handshake().split(b"\r\n")[-3:0:-1], b"", b""]),
    "4.1-11 other fields, such as cookies": handshake(
        "GET /chat HTTP/1.1", ("Cookie", "a=b"), ("Authorization", "Basic YTpi"), ("X-Any", "thing")
    ),
    "4.2.1-1 the absolute form of the target": handshake("GET http://example.com/chat HTTP/1.1"),
    "4.2.1-3 Upgrade in any case": handshake(Upgrade="WebSocket"),
    "4.2.1-3 Upgrade in upper case": handshake(Upgrade="WEBSOCKET"),
    "4.2.1-3 Upgrade lists more (RFC 9110 7.8)": handshake(Upgrade="h2c, websocket"),
    "4.2.1-4 Connection in any case": handshake(Connection="UPGRADE"),
    "4.2.1-4 Connection in lower case": handshake(Connection="upgrade"),
    "4.2.1-4 Connection lists more": handshake(Connection="keep-alive,\t Upgrade"),
    "4.2.1-4 Connection in two fields": handshake(
        "GET /chat HTTP/1.1", ("Connection", "Upgrade"), Connection="keep-alive"
    ),
    "4.2.1-5 blanks around the key": handshake(Sec_WebSocket_Key=f" \t{KEY}\t "),
    "4.2.1-9 an extension nobody knows": handshake("GET /chat HTTP/1.1", ("Sec-WebSocket-Extensions", "x-frob; a=1")),
    "4.2.1-7 no Origin": handshake(),
    "10.2 an Origin of this host": handshake("GET /chat HTTP/1.1", ("Origin", "http://example.com")),
}


@pytest.mark.parametrize("case", ACCEPTED)
async def test_handshakes_that_are_accepted(case: str) -> None:
    """4.2.1, 4.2.2: and what was not asked for, or is not known, is not in the answer."""
    async with chat() as port:
        status, headers, _ = await answer(port, ACCEPTED[case])
        assert status == 101
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert not headers.keys() & {"sec-websocket-extensions", "sec-websocket-protocol", "content-length"}


LINE = "GET /chat HTTP/1.1"
REFUSED: dict[str, tuple[bytes, int]] = {
    "4.1-2 POST": (handshake("POST /chat HTTP/1.1", ("Content-Length", "0")), 405),
    "4.1-2 PUT": (handshake("PUT /chat HTTP/1.1", ("Content-Length", "0")), 405),
    "4.1-2 HTTP/1.0": (handshake("GET /chat HTTP/1.0"), 426),
    "4.1-2 HTTP/2 in plain text": (handshake("GET /chat HTTP/2.0"), 505),
    "4.2.1-1 a path that is no WebSocket": (handshake("GET /other HTTP/1.1"), 404),
    "4.2.1-2 no Host": (handshake(without="Host"), 400),
    "4.2.1-2 two Hosts": (handshake(LINE, ("Host", "example.com")), 400),
    "4.2.1-3 no Upgrade": (handshake(without="Upgrade"), 426),
    "4.2.1-3 Upgrade to something else": (handshake(Upgrade="h2c"), 426),
    "4.2.1-3 Upgrade to nearly this": (handshake(Upgrade="websockets"), 426),
    "4.2.1-3 Upgrade without a value": (handshake(Upgrade=""), 426),
    "4.2.1-4 no Connection": (handshake(without="Connection"), 426),
    "4.2.1-4 Connection without upgrade": (handshake(Connection="keep-alive"), 426),
    "4.2.1-4 Connection with nearly upgrade": (handshake(Connection="upgraded"), 426),
    "4.2.1-5 no key": (handshake(without="Sec-WebSocket-Key"), 400),
    "4.2.1-5 an empty key": (handshake(Sec_WebSocket_Key=""), 400),
    "4.2.1-5 a key of 15 bytes": (handshake(Sec_WebSocket_Key=b64encode(bytes(15)).decode()), 400),
    "4.2.1-5 a key of 17 bytes": (handshake(Sec_WebSocket_Key=b64encode(bytes(17)).decode()), 400),
    "4.2.1-5 a key that is no base64": (handshake(Sec_WebSocket_Key="dGhl!HNhbXBsZSBub25jZQ=="), 400),
    "4.2.1-5 a key without its padding": (handshake(Sec_WebSocket_Key=KEY[:-2]), 400),
    "4.2.1-5 a key of another alphabet": (handshake(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25j-_=="), 400),
    "11.3.1 two keys": (handshake(LINE, ("Sec-WebSocket-Key", KEY)), 400),
    "4.2.1-6 no version": (handshake(without="Sec-WebSocket-Version"), 426),
    "4.4 version 0": (handshake(Sec_WebSocket_Version="0"), 426),
    "4.4 version 8": (handshake(Sec_WebSocket_Version="8"), 426),
    "4.4 version 14": (handshake(Sec_WebSocket_Version="14"), 426),
    "4.4 version 255": (handshake(Sec_WebSocket_Version="255"), 426),
    "4.3 a version with a leading zero": (handshake(Sec_WebSocket_Version="013"), 426),
    "4.4 a list of versions": (handshake(Sec_WebSocket_Version="8, 13"), 426),
    "11.3.5 two versions": (handshake(LINE, ("Sec-WebSocket-Version", "13")), 400),
    "4.3 subprotocols: none in the list": (handshake(LINE, ("Sec-WebSocket-Protocol", "")), 400),
    "4.3 subprotocols: no token": (handshake(LINE, ("Sec-WebSocket-Protocol", "chat room")), 400),
    "4.3 subprotocols: a separator in one": (handshake(LINE, ("Sec-WebSocket-Protocol", "chat, a/b")), 400),
    "9.1 extensions: none in the list": (handshake(LINE, ("Sec-WebSocket-Extensions", "")), 400),
    "9.1 extensions: no token": (handshake(LINE, ("Sec-WebSocket-Extensions", "permessage deflate")), 400),
    "9.1 extensions: a parameter without a name": (handshake(LINE, ("Sec-WebSocket-Extensions", "a; =1")), 400),
    "9.1 extensions: a value that is no token": (handshake(LINE, ("Sec-WebSocket-Extensions", 'a; b="c d"')), 400),
    "9.1 extensions: malformed in a second field": (
        handshake(LINE, ("Sec-WebSocket-Extensions", "a"), ("Sec-WebSocket-Extensions", "b;")),
        400,
    ),
    "10.2 an Origin of another host": (handshake(LINE, ("Origin", "http://evil.example")), 403),
    "10.2 an Origin of another port": (handshake(LINE, ("Origin", "http://example.com:8080")), 403),
    "10.2 an Origin that ends as ours": (handshake(LINE, ("Origin", "http://not-example.com")), 403),
    "10.2 an Origin that begins as ours": (handshake(LINE, ("Origin", "http://example.com.evil.example")), 403),
    "10.2 an opaque Origin": (handshake(LINE, ("Origin", "null")), 403),
    "10.2 two Origins": (handshake(LINE, ("Origin", "http://example.com"), ("Origin", "http://example.com")), 400),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_handshakes_that_are_refused(case: str) -> None:
    """4.2.1: with an HTTP status; the request is no WebSocket. 4.4: the one of another version is told ours. RFC 9110
    section 15.5.22 and 7.8: 426 comes with Upgrade, and Upgrade with Connection."""
    data, expected = REFUSED[case]
    async with chat() as port:
        async with raw_client(port) as raw:
            await raw.send(data)
            head = await raw.reader.readuntil(b"\r\n\r\n")
        status, lines = int(head.split()[1]), head.lower().splitlines()
        connections = [line for line in lines if line.startswith(b"connection")]
        headers = dict(line.split(b": ", 1) for line in lines[1:-1])
        assert status == expected
        assert b"sec-websocket-accept" not in headers
        if status == 426:
            assert headers[b"upgrade"] == b"websocket"
            assert connections[0].lower() == b"connection: upgrade"
        if status == 426 and "ersion" in case:
            assert headers[b"sec-websocket-version"] == b"13"


async def test_4_4_a_client_may_try_again_with_our_version() -> None:
    """4.4: on the same connection, once it knows which version it is."""
    async with chat() as port, raw_client(port) as raw:
        await raw.send(handshake(Sec_WebSocket_Version="14"))
        status, headers, _ = await raw.response()
        assert status == 426
        await raw.send(handshake(Sec_WebSocket_Version=headers["sec-websocket-version"]))
        assert (await raw.response())[0] == 101


async def test_4_2_1_content_in_the_request() -> None:
    """4.2.1, RFC 9110 section 7.8: it would stand where the frames are to begin. It is not a handshake then."""
    async with chat() as port:
        status, _, _ = await answer(port, handshake(LINE, ("Content-Length", "2")) + b"hi")
        assert status == 426


async def test_4_2_2_frames_may_be_right_behind_the_request() -> None:
    """5.1: data may be sent once the handshake is complete; what comes in the same segment is not lost."""
    async with chat() as port, raw_client(port) as raw:
        await raw.send(handshake() + frame(TEXT, b"early"))
        assert (await raw.response())[0] == 101
        assert (await Peer(raw).next()).payload.startswith(b"example.com /chat")
        assert (await Peer(raw).next()).payload == b"early"


async def test_4_2_1_a_handshake_byte_by_byte() -> None:
    """However it is cut into segments."""
    async with chat() as port, raw_client(port) as raw:
        await Peer(raw).send(*(handshake()[at : at + 1] for at in range(len(handshake()))))
        assert (await raw.response())[0] == 101


async def test_3_and_4_2_1_the_resource_that_was_asked_for() -> None:
    """3, 4.2.2-3: host, path and query are the application's to know; the query is no part of the path."""
    async with chat() as port, raw_client(port) as raw:
        await raw.send(handshake("GET /chat?room=a%20b&x HTTP/1.1", Host="example.com:81"))
        assert (await raw.response())[0] == 101
        got = (await Peer(raw).next()).payload.decode()
        assert got == "example.com:81 /chat [('room', 'a b'), ('x', '')] None"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["chat"], "chat"),
        (["chat, superchat"], "superchat"),
        (["superchat,chat"], "superchat"),
        (["unknown, chat"], "chat"),
        (["unknown", "chat"], "chat"),
        ([" ,chat,, "], "chat"),
        (["unknown"], None),
        (["CHAT"], None),
        ([], None),
    ],
)
async def test_4_2_2_subprotocols(offered: list[str], chosen: str | None) -> None:
    """4.2.2-4, 11.3.4: one of those that the client offered, in one field or several, by the server's preference; the
    answer has the field once, or not at all. They are compared as they are (1.9)."""
    async with chat(subprotocols=("superchat", "chat")) as port, raw_client(port) as raw:
        await raw.send(handshake(LINE, *(("Sec-WebSocket-Protocol", value) for value in offered)))
        head = (await raw.reader.readuntil(b"\r\n\r\n")).decode().lower()
        lines = [line for line in head.split("\r\n") if line.startswith("sec-websocket-protocol")]
        assert lines == ([] if chosen is None else [f"sec-websocket-protocol: {chosen}"])
        assert (await Peer(raw).next()).payload.decode().endswith(f" {chosen}")


# -- 4.1: what the client sends, and what it takes for an answer


async def asked(url_path: str = "", **options: Any) -> tuple[str, dict[str, str]]:
    """The request line and the fields that our client sends."""
    heads: list[bytes] = []

    async def script(peer: Peer, head: bytes) -> None:
        heads.append(head)
        await peer.send(accepting(head), b"\x88\x00")

    async with server(script) as url:
        ws = await connect(url.removesuffix("/") + url_path, **options)
        await ws.close()
    line, *lines = heads[0].decode().split("\r\n")[:-2]
    fields = dict(each.split(": ", 1) for each in lines)
    assert len(fields) == len(lines), "each field is there once"
    return line, fields


async def test_4_1_the_request() -> None:
    """4.1-1 to 4.1-9: GET, HTTP/1.1, Host with its port, Upgrade, Connection, a key of 16 bytes, version 13."""
    line, fields = await asked("/chat?a=b%20c")
    assert line == "GET /chat?a=b%20c HTTP/1.1"
    host, _, port = fields["host"].partition(":")
    assert host == "127.0.0.1"
    assert port.isdigit()
    assert fields["upgrade"].lower() == "websocket"
    assert fields["connection"].lower() == "upgrade"
    assert len(b64decode(fields["sec-websocket-key"], validate=True)) == 16
    assert fields["sec-websocket-version"] == "13"
    assert not fields.keys() & {"origin", "sec-websocket-protocol"}


async def test_4_1_7_each_connection_has_a_key_of_its_own() -> None:
    """4.1-7: a nonce, chosen at random for each."""
    assert len({(await asked())[1]["sec-websocket-key"] for _ in range(5)}) == 5


async def test_3_a_url_without_a_path() -> None:
    """3: the path is then a slash, and a query stands behind it."""
    assert (await asked(""))[0] == "GET / HTTP/1.1"
    assert (await asked("?q"))[0] == "GET /?q HTTP/1.1"


async def test_4_1_10_subprotocols_are_offered_in_order() -> None:
    """4.1-10: as they are preferred; and 4.1-12: other fields, such as Origin, are sent as they are given."""
    _, fields = await asked(subprotocols=("b", "a"), headers=[("Origin", "http://here")], settings=WebSocketSettings())
    assert fields["sec-websocket-protocol"] == "b, a"
    assert fields["origin"] == "http://here"


@pytest.mark.parametrize("wrong", [("a b",), ("a,b",), ("",), ("a", "a"), "chat", ("ü",)])
def test_4_1_10_what_cannot_be_a_subprotocol(wrong: Any) -> None:
    """4.1-10: tokens, each of them once; refused before anything is sent."""
    with pytest.raises(ValueError, match="subprotocol"):
        connect("ws://a/", subprotocols=wrong)
    with pytest.raises(ValueError, match="WebSocketSettings subprotocol"):
        WebSocketSettings(subprotocols=wrong)


TAKEN: dict[str, Callable[[bytes], bytes]] = {
    "4.1 the fields in any case": lambda head: accepting(head).replace(b"upgrade: w", b"UPGRADE: W"),
    "4.1 Connection lists more": lambda head: accepting(head, "connection: keep-alive, upgrade"),
    "4.1-4 blanks around the accepted key": lambda head: accepting(head).replace(b"accept: ", b"accept: \t "),
    "4.1-6 a subprotocol that was offered": lambda head: accepting(head, "sec-websocket-protocol: chat"),
    "4.1 fields nobody asked for": lambda head: accepting(head, "set-cookie: a=b", "date: today", "server: x"),
    "4.2.2 any reason phrase": lambda head: accepting(head).replace(b"Switching Protocols", b"Fine"),
    "RFC 9110 15.2 interim answers before it": lambda head: b"HTTP/1.1 102 Processing\r\n\r\n" * 3 + accepting(head),
}


@pytest.mark.parametrize("case", TAKEN)
async def test_answers_that_open_a_websocket(case: str) -> None:
    """4.1: a message that comes right behind is received."""

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(TAKEN[case](head) + frame(TEXT, b"welcome", mask=None) + closing(mask=None))
        assert (await peer.next()).code == 1000

    async with server(script) as url, connect(url, subprotocols=["chat"]) as ws:
        assert await ws.receive(timeout=5) == "welcome"


NOT_TAKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "4.1-1 status 200": (lambda head: accepting(head).replace(b"101 Switching Protocols", b"200 OK"), "200 OK"),
    "4.1-1 status 401": (lambda head: b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n", "401"),
    "4.1-1 a redirection": (lambda head: b"HTTP/1.1 301 Moved Permanently\r\nLocation: /\r\n\r\n", "301"),
    "4.1-1 status 426": (lambda head: b"HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 8\r\n\r\n", "426"),
    "4.1-2 no Upgrade": (lambda head: accepting(head, leave_out="upgrade"), "upgrade header"),
    "4.1-2 Upgrade to something else": (lambda head: accepting(head, "upgrade: h2c"), "upgrade header"),
    "4.1-3 no Connection": (lambda head: accepting(head, leave_out="connection"), "connection header"),
    "4.1-3 Connection without upgrade": (lambda head: accepting(head, "connection: close"), "opens no WebSocket"),
    "4.1-4 no accepted key": (lambda head: accepting(head, leave_out="sec-websocket-accept"), "does not fit the key"),
    "4.1-4 the key itself": (lambda head: accepting(head, f"sec-websocket-accept: {KEY}"), "does not fit the key"),
    "4.1-4 the accepted key in another case": (
        lambda head: accepting(head).replace(b"accept: ", b"accept: a"),
        "does not fit the key",
    ),
    "11.3.3 the accepted key twice": (
        lambda head: accepting(head).replace(b"\r\nup", b"\r\nsec-websocket-accept: x\r\nup"),
        "does not fit the key",
    ),
    "4.1-5 an extension that was not offered": (lambda head: accepting(head, "sec-websocket-extensions: x"), "must be"),
    "4.1-6 a subprotocol that was not offered": (
        lambda head: accepting(head, "sec-websocket-protocol: other"),
        "'other' was not offered",
    ),
    "4.1-6 a subprotocol in another case": (
        lambda head: accepting(head, "sec-websocket-protocol: CHAT"),
        "'CHAT' was not offered",
    ),
    "4.1-6 two subprotocols": (lambda head: accepting(head, "sec-websocket-protocol: chat, v2"), "was not offered"),
    "4.1-6 an empty subprotocol": (lambda head: accepting(head, "sec-websocket-protocol: "), "'' was not offered"),
    "4.1 no HTTP": (lambda head: b"\x81\x02hi" * 10, "opens no WebSocket"),
    "4.1 a head without end": (lambda head: accepting(head)[:-2] + b"x: y\r\n" * 20000, "opens no WebSocket"),
}


@pytest.mark.parametrize("case", NOT_TAKEN)
async def test_answers_that_open_none(case: str) -> None:
    """4.1: the client fails the connection, which it ends, and sends no frame. It says what is wrong."""
    made, words = NOT_TAKEN[case]
    rest: list[bytes] = []

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(made(head))
        rest.append(await peer.raw.rest())

    async with server(script) as url:
        with pytest.raises(UpstreamProtocolError) as caught:
            await connect(url, subprotocols=["chat", "v2"])
        assert words in str(caught.value)
    assert rest in ([b""], [])


async def test_4_2_the_connection_is_http_until_it_is_accepted() -> None:
    """4.2: what is refused, the connection can be used for the next request."""
    app = App()

    @app.websocket("/chat")
    async def join(ws: WebSocket) -> None:
        """Close at once."""

    @app.get("/")
    async def index() -> str:
        return "here"

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as site:
        raw = await RawClient.connect(site.addresses[0].port)
        await raw.send(handshake(Sec_WebSocket_Key="x") + b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n" + handshake())
        assert [(await raw.response())[0] for _ in range(3)] == [400, 200, 101]
        assert (await Peer(raw).next()).code == 1000
        await raw.close()
