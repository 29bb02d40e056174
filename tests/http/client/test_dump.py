"""Dumps: the exact bytes, without secrets, and bounded."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http.client.client import Client
from forebay.http.client.dump import dump_request, dump_response, leg_of, masked_url, render
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.secret_fields import SECRETS, Secrets
from forebay.http.client.trace import Step, Trace
from forebay.http.client.url import parse_url
from forebay.http.headers import MutableHeaders
from tests.http.client.kit import Peer, answering, playing

SECRET = "hunter2-Zq8"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


def kept(sent: bytes, received: bytes = b"", keep: int = 1 << 20) -> Trace:
    """A trace of one exchange of these bytes."""
    trace = Trace(keep_bytes=keep)
    trace.mark(Step.GOT_CONNECTION)
    trace.note_sent(sent)
    trace.note_received(received)
    return trace


# -- what is exact


async def test_exact_bytes() -> None:
    """What is dumped is what went over the wire, chunks as they were."""
    arrived = bytearray()

    async def play(peer: Peer) -> None:
        arrived.extend(await peer.reader.readuntil(b"0\r\n\r\n"))
        await peer.say(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + ANSWER)

    async def content() -> Any:
        yield b"one"
        yield b"\0\xff"

    async with playing(play) as server, Client() as client:
        response = await client.post(server.url + "/x?a=1", content=content(), trace=Trace(keep_bytes=10_000))
        assert await response.text() == "ok"
    sent = dump_request(response)
    assert sent == arrived
    assert sent.endswith(b"\r\n\r\n3\r\none\r\n2\r\n\0\xff\r\n0\r\n\r\n")
    assert dump_response(response) == b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + ANSWER
    assert dump_request(response.request) == sent


async def test_redirects_are_told_apart() -> None:
    """A response has the bytes that led to it; the trace has all."""

    async def play(peer: Peer) -> None:
        while (asked := await peer.asked()) is not None:
            if asked.target == "/old":
                await peer.answer(b"gone", 302, "Location: /new\r\n")
            else:
                await peer.answer(b"here")

    async with playing(play) as server, Client() as client:
        response = await client.get(server.url + "/old", trace=Trace(keep_bytes=10_000))
        await response.read()
    assert dump_request(response).startswith(b"GET /new ")
    assert dump_response(response).endswith(b"here")
    assert dump_request(response.history[0]).startswith(b"GET /old ")
    assert dump_response(response.history[0]).endswith(b"gone")
    assert response.trace is not None
    assert dump_request(response.trace) == dump_request(response.history[0]) + dump_request(response)


async def test_the_answer_is_not_that_of_a_try_that_was_given_up() -> None:
    """The first of two tries has won, and the second began last."""
    trace = Trace(keep_bytes=1000)
    trace.mark(Step.GOT_CONNECTION, 0.0)
    trace.note_sent(b"GET /1 HTTP/1.1\r\n\r\n")
    other = trace.fork()
    other.mark(Step.RETRY, 1.0, attempt=2, hedge=True)
    other.mark(Step.GOT_CONNECTION, 1.0)
    other.note_sent(b"GET /2 HTTP/1.1\r\n\r\n")
    trace.note_received(b"HTTP/1.1 200 OK\r\n\r\n")
    trace.mark(Step.HEAD, 2.0, status=200)
    other.mark(Step.FAILED, 3.0, error="given up")
    assert leg_of(trace, 0) == 0
    request = ClientRequest("GET", parse_url("http://a.test/"), MutableHeaders(), trace=trace)
    response = ClientResponse.made(request, 200)
    assert dump_request(response) == b"GET /1 HTTP/1.1\r\n\r\n"
    assert dump_response(response) == b"HTTP/1.1 200 OK\r\n\r\n"


async def test_without_kept_bytes() -> None:
    """Heads are made anew, and it is said that they were."""
    async with playing(answering(ANSWER)) as server, Client() as client:
        response = await client.get(server.url + "/a", headers={"authorization": "Bearer " + SECRET})
        await response.read()
    sent = dump_request(response)
    assert sent.startswith(f"GET /a HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\n".encode())
    assert b"authorization: Bearer ***\r\n" in sent
    assert sent.endswith(b"\r\n\r\n\n[made from the request: no bytes were kept]\n")
    assert b"content-type: text/plain\r\n" in dump_response(response).lower()
    assert b"nothing was kept" in dump_request(Trace())
    assert b"nothing was kept" in dump_response(Trace())


# -- what is bounded


def test_bounds() -> None:
    """What is left out is counted, whether it was not kept or is not shown."""
    trace = kept(b"x" * 150, keep=100)
    assert dump_request(trace) == b"x" * 100 + b"\n[50 bytes more are left out]\n"
    assert dump_request(trace, limit=30) == b"x" * 30 + b"\n[120 bytes more are left out]\n"
    with pytest.raises(ValueError, match="limit 0: must be at least 1"):
        dump_request(trace, limit=0)


# -- what is secret


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer ***"),
        (f"authorization: {SECRET} x", "authorization: ***"),
        (f"Proxy-Authorization:Basic {SECRET}", "Proxy-Authorization:Basic ***"),
        (f"Cookie: a={SECRET}; b={SECRET}", "Cookie: a=***; b=***"),
        (f"Cookie: {SECRET}", "Cookie: ***"),
        (f"Set-Cookie: sid={SECRET}; Path=/; {SECRET}; HttpOnly", "Set-Cookie: sid=***; Path=/; ***; HttpOnly"),
        (f"X-API-Key: {SECRET}", "X-API-Key: ***"),
        (f"x-auth-token:   {SECRET}", "x-auth-token:   ***"),
        (
            f"Location: https://u:{SECRET}@a.example/?b=1&access_token={SECRET}&c=2",
            "Location: https://***@a.example/?b=1&access_token=***&c=2",
        ),
        (f"Authorization: Digest a,\r\n  {SECRET}", "Authorization: Digest ***"),
        ("Accept: text/html;q=0.9", "Accept: text/html;q=0.9"),
    ],
)
def test_headers(line: str, masked: str) -> None:
    """Values of secret fields are masked; what tells what they were stays."""
    answer = f"HTTP/1.1 200 OK\r\nserver: x\r\n{line}\r\ncontent-length: 0\r\n\r\n".encode()
    expected = f"HTTP/1.1 200 OK\r\nserver: x\r\n{masked}\r\ncontent-length: 0\r\n\r\n".encode()
    assert dump_response(kept(b"", answer)) == expected
    assert dump_response(kept(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer)).endswith(expected)


BOUNDARY = "xx"
CONTENTS = {
    "form": ("application/x-www-form-urlencoded", f"a=1&pass%77ord={SECRET}&b=2", "a=1&pass%77ord=***&b=2"),
    "json": ("application/json", f'{{"a": 1, "api_key": "{SECRET}", "b": 2}}', '{"a": 1, "api_key": "***", "b": 2}'),
    "json escaped": ("application/json", f'{{"pass\\u0077ord":"{SECRET}\\""}}', '{"pass\\u0077ord":"***"}'),
    "json nested": ("", f'[{{"tokens": ["{SECRET}", {{"x": "{SECRET}"}}], "b": 1}}]', '[{"tokens": ***, "b": 1}]'),
    "multipart": (
        f"multipart/form-data; boundary={BOUNDARY}",
        f'--xx\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        f'--xx\r\nContent-Disposition: form-data; name="password"\r\n\r\n{SECRET}\r\n--xx--\r\n',
        '--xx\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        '--xx\r\nContent-Disposition: form-data; name="password"\r\n\r\n***\r\n--xx--\r\n',
    ),
    "text": ("text/html", f'<a href="/x?token={SECRET}">', '<a href="/x?token=***">'),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENTS)
def test_content(name: str) -> None:
    """Fields of forms, JSON, multipart and URLs in text, and nothing beside them."""
    kind, content, masked = CONTENTS[name]
    head = f"POST / HTTP/1.1\r\ncontent-type: {kind}\r\n\r\n"
    assert dump_request(kept((head + content).encode())) == (head + masked).encode()


def test_secrets_of_ones_own() -> None:
    """Names can be added, and a set of one's own be given."""
    secrets = SECRETS.plus("X-Internal", "shoe_size")
    sent = kept(b"GET /?shoe_size=43 HTTP/1.1\r\nx-internal: 7\r\ncookie: a=b\r\n\r\n")
    assert dump_request(sent, secrets=secrets) == (
        b"GET /?shoe_size=*** HTTP/1.1\r\nx-internal: ***\r\ncookie: a=***\r\n\r\n"
    )
    bare = Secrets(frozenset(("x-internal",)), frozenset(), frozenset())
    assert b"cookie: a=b\r\n" in dump_request(sent, secrets=bare)
    with pytest.raises(ValueError, match="word 'A-b': must be lower-case letters and digits"):
        Secrets(words=frozenset(("A-b",)))
    with pytest.raises(ValueError, match="header 'X': must be in lower case"):
        Secrets(headers=frozenset(("X",)))
    assert masked_url("https://u:p@h/?sig=1&a=2") == "https://***@h/?sig=***&a=2"


# letters that nothing else in a message has, so that half of one is recognized
SECRETS_OF_ALL_KINDS = st.text("ØÆÅŁÐ", min_size=4, max_size=12).map(lambda text: quote(text))
NAMES = st.sampled_from(["token", "PassWord", "client_secret", "api-key", "x_access_token"])


def chunked(data: bytes, sizes: list[int]) -> bytes:
    """``data`` in chunks of these sizes, by turns."""
    out, at, turn = b"", 0, 0
    while at < len(data):
        piece = data[at : at + sizes[turn % len(sizes)]]
        out += b"%x\r\n%b\r\n" % (len(piece), piece)
        at, turn = at + len(piece), turn + 1
    return out + b"0\r\nx-token: trailer\r\n\r\n"


@given(SECRETS_OF_ALL_KINDS, NAMES, st.sampled_from(["form", "json", "multipart"]),
       st.lists(st.integers(1, 9), min_size=1), st.booleans(), st.integers(0, 1000), st.integers(1, 1000))  # fmt: skip
def test_a_secret_never_appears(
    secret: str, name: str, form: str, sizes: list[int], in_chunks: bool, cut: int, limit: int
) -> None:
    """Wherever it is, however it is cut into chunks, and wherever the bytes end: not even a piece of it is there."""
    kinds = {
        "form": ("application/x-www-form-urlencoded", f"a=1&{name}={secret}&b=2"),
        "json": ("application/json; charset=utf-8", json.dumps({"a": 1, name: secret, "b": 2})),
        "multipart": ("multipart/form-data; boundary=xx",
                      f'--xx\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{secret}\r\n--xx--\r\n'),
    }  # fmt: skip
    kind, content = kinds[form]
    head = (
        f"POST /?{name}={secret}&x=1 HTTP/1.1\r\ncontent-type: {kind}\r\nauthorization: Bearer {secret}\r\n"
        f"cookie: sid={secret}\r\n{'transfer-encoding: chunked' if in_chunks else 'x: y'}\r\n\r\n"
    )
    body = chunked(content.encode(), sizes) if in_chunks else content.encode()
    trace = kept(head.encode() + body, keep=max(1, len(head) + len(body) - cut))
    for dump in (dump_request(trace), dump_request(trace, limit=limit)):
        assert b"%" not in dump  # each letter of the secret has some, and nothing else has
        assert b"trailer" not in dump


@given(st.binary(max_size=400), st.binary(max_size=100))
def test_any_bytes_can_be_dumped(data: bytes, more: bytes) -> None:
    """What is not HTTP, too; and the text of it has nothing that a terminal would obey."""
    for sent in (data, b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + data, more + b"\r\n\r\n" + data):
        text = render(dump_request(kept(sent)))
        assert not any(ord(char) < 32 and char not in "\n\t" for char in text)


# -- for people


def test_render() -> None:
    """Heads and text as they are, the rest as a hexdump; the note at the end."""
    head = b"HTTP/1.1 200 OK\r\nx: \x1b[2J\r\n\r\n"
    shown = "HTTP/1.1 200 OK\nx: \\x1b[2J\n\n"
    assert render(head + "grün\r\nx\t1".encode()) == shown + "grün\nx\t1"
    assert render(head) == shown
    dump = dump_response(kept(b"", head + bytes(range(20)), keep=len(head) + 18))
    assert render(dump) == (
        shown + "00000000  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f  |................|\n"
        "00000010  10 11                                            |..|\n"
        "[2 bytes more are left out]\n"
    )
    assert render("grün".encode()[:3]) == "gr\ufffd"
