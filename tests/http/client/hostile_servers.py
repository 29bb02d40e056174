"""Servers that mean harm, as a table: what each sends, and how a client has to see it."""

from __future__ import annotations

import asyncio
import gzip
import os
import struct
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import brotli  # type: ignore[import-untyped]
import zstandard

from forebay.errors import (
    ContentTooLarge,
    ContentUndecodable,
    DeadlineExceeded,
    ForebayError,
    ReadTimeout,
    TooManyRedirects,
    UpstreamClosed,
    UpstreamProtocolError,
)
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Limits, Timeouts
from tests.http.client.kit import Peer, Play, answering

MIB = 1024 * 1024
LIMITS = Limits(head=8192, fields=50, interim=8, body=MIB, decompressed=4 * MIB, buffer=65536)
TIMEOUTS = Timeouts(connect=2.0, tls=2.0, pool=2.0, write=0.5, read=0.3, total=1.5)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Use = Callable[[ClientResponse], Awaitable[Any]]


async def read(response: ClientResponse) -> bytes:
    """The whole content."""
    return await response.read()


async def stream(response: ClientResponse) -> int:
    """The whole content, of which nothing is kept. Its length."""
    size = 0
    async for piece in response.stream():
        size += len(piece)
    return size


async def stream_a_little(response: ClientResponse) -> None:
    """Enough of the content to know what it is like, and then no more."""
    size = 0
    async for piece in response.stream():
        size += len(piece)
        if size > 2 * MIB:
            break


@dataclass(frozen=True)
class Case:
    """One server.

    ``play`` is what it does; ``error`` what the client gets, and ``says`` a pattern that its message has; None: it gets
    an answer. ``reused``: whether the connection is used for the next request; None: it may be, or not. ``memory``: how
    much the client may take at its most; 0: it is not looked at.
    """

    name: str
    play: Play
    error: type[ForebayError] | tuple[type[ForebayError], ...] | None
    says: str = ""
    use: Use = read
    reused: bool | None = False
    memory: int = 0
    method: str = "GET"


def sent(name: str, data: bytes, error: Any, says: str = "", **more: Any) -> Case:
    """A server that answers with ``data`` and keeps the connection open."""
    return Case(name, answering(data), error, says, **more)


def ended(name: str, data: bytes, error: Any, says: str = "", **more: Any) -> Case:
    """A server that answers with ``data`` and closes."""
    return Case(name, answering(data, end=True), error, says, **more)


def then_for_ever(begin: bytes, again: bytes) -> Play:
    """Answer with ``begin`` and go on with ``again``."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(begin)
        await peer.say_for_ever(again)

    return play


def dripping(begin: bytes, again: bytes, pause: float = 0.05) -> Play:
    """Answer with ``begin`` and go on with ``again``, slowly, but never so slowly that nothing comes for too long."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(begin)
        while True:
            await peer.say(again)
            await asyncio.sleep(pause)

    return play


# -- what grows when it is unpacked

ZEROS = bytes(4 * MIB)


def _by(compressor: Any, pieces: int = 32) -> bytes:
    return b"".join([*(compressor.compress(ZEROS) for _ in range(pieces)), compressor.flush()])


class _Brotli:
    """As the other compressors are called."""

    def __init__(self) -> None:
        self._one = brotli.Compressor(quality=3)

    def compress(self, data: bytes) -> bytes:
        found: bytes = self._one.process(data)
        return found

    def flush(self) -> bytes:
        found: bytes = self._one.finish()
        return found


@cache
def bomb(coding: str) -> bytes:
    """128 MiB of zeros in a coding, or in several."""
    if coding == "gzip":
        return _by(zlib.compressobj(9, wbits=31))
    if coding == "deflate":
        return _by(zlib.compressobj(9, wbits=15))
    if coding == "raw deflate":
        return _by(zlib.compressobj(9, wbits=-15))
    if coding == "br":
        return _by(_Brotli())
    if coding == "zstd":
        return _by(zstandard.ZstdCompressor(3).compressobj())
    if coding == "gzip members":
        return gzip.compress(ZEROS, 9) * 32
    if coding == "zstd frames":
        return zstandard.ZstdCompressor(3).compress(ZEROS) * 32
    inner, _, outer = coding.rpartition(", ")
    data = bomb(inner)
    packed_again: bytes = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstandard.compress}[outer](data)
    return packed_again


def packed(name: str, coding: str, data: bytes, error: Any, says: str, **more: Any) -> Case:
    """An answer that says it is in that coding."""
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    return sent(name, head + data, error, says, **{"reused": None, "memory": 12 * MIB, **more})


def _wide_window() -> bytes:
    """A zstd frame whose header asks for a window of 2 GiB (RFC 8878 section 3.1.1.1.2)."""
    block = struct.pack("<I", (1 << 3 | 1) | (10 << 3))[:3]
    return struct.pack("<I", 0xFD2FB528) + bytes([0b00000000, 21 << 3]) + block + b"x" * 10


def bombs() -> list[Case]:
    """In each coding, read and streamed."""
    cases = []
    for name in ("gzip", "deflate", "raw deflate", "br", "zstd", "gzip members", "zstd frames"):
        data, coding = bomb(name), name.removeprefix("raw ").split(" ")[0]
        cases.append(packed(f"{name} bomb, read", coding, data, ContentTooLarge, "1048576|1 MiB"))
        cases.append(packed(f"{name} bomb, streamed", coding, data, ContentTooLarge, "4194304|4 MiB", use=stream))
    for name in ("gzip, gzip", "zstd, br", "br, gzip, zstd"):
        cases.append(packed(f"bomb in {name}", name, bomb(name), (ContentTooLarge, ContentUndecodable), ""))
    small = gzip.compress(b"hello")
    many = ", ".join(["gzip"] * 500)
    cases += [
        packed("five hundred codings", many, small, (ContentUndecodable, UpstreamProtocolError), "coding"),
        packed("truncated gzip", "gzip", small[:-4], ContentUndecodable, "gzip"),
        packed("truncated br", "br", brotli.compress(b"hello" * 99)[:-2], ContentUndecodable, "br"),
        packed("truncated zstd", "zstd", zstandard.compress(b"hello" * 99)[:-2], ContentUndecodable, "zstd"),
        packed("gzip with another checksum", "gzip", small[:-8] + b"abcdefgh", ContentUndecodable, "gzip"),
        packed("what is not gzip", "gzip", b"<html>hello</html>", ContentUndecodable, "gzip"),
        packed("what is not br", "br", b"<html>hello</html>", ContentUndecodable, "br"),
        packed("what is not zstd", "zstd", b"<html>hello</html>", ContentUndecodable, "zstd"),
        packed("what is not deflate", "deflate", b"<html>hello</html>", ContentUndecodable, "deflate"),
        packed("zstd with a window of 2 GiB", "zstd", _wide_window(), ContentUndecodable, "zstd", memory=16 * MIB),
        packed("nothing in gzip", "gzip", b"", None, "", reused=True),
    ]
    return cases


# -- what does not end

TERA = 10**12
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


async def _say_nothing(peer: Peer) -> None:
    await peer.asked()
    await peer.reader.read()


async def _continue_and_nothing(peer: Peer) -> None:
    await peer.asked()
    await peer.say(b"HTTP/1.1 100 Continue\r\n\r\n")
    await peer.reader.read()


async def _half_a_body_and_nothing(peer: Peer) -> None:
    await peer.asked()
    await peer.say(SIZED % 10 + b"hello")
    await peer.reader.read()


LATE = (ReadTimeout, DeadlineExceeded)


def endless() -> list[Case]:
    """Whatever has no end."""
    return [replace(case, memory=12 * MIB) for case in _endless()]


def _endless() -> list[Case]:
    head = b"HTTP/1.1 200 OK\r\n"
    return [
        Case("a terabyte, read", then_for_ever(SIZED % TERA, ZEROS[:65536]), ContentTooLarge, "1048576|1 MiB"),
        Case("a terabyte, and nothing", then_for_ever(SIZED % TERA, b""), ContentTooLarge, "1048576|1 MiB"),
        Case("a terabyte, streamed", then_for_ever(SIZED % TERA, ZEROS[:65536]), None, use=stream_a_little),
        Case("endless chunks, read", then_for_ever(CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n"), ContentTooLarge, "10"),
        Case(
            "endless tiny chunks, read", then_for_ever(CHUNKED, b"1\r\nx\r\n" * 999), ContentTooLarge, "1048576|1 MiB"
        ),
        Case(
            "endless chunks, streamed",
            then_for_ever(CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n"),
            None,
            use=stream_a_little,
        ),
        Case("endless until the end", then_for_ever(head + b"\r\n", ZEROS[:65536]), ContentTooLarge, "1048576|1 MiB"),
        Case(
            "endless header fields", then_for_ever(head, b"X-A: b\r\n"), UpstreamProtocolError, "50 header fields|8192"
        ),
        Case("endless header line", then_for_ever(head + b"X-A: ", b"b" * 1024), UpstreamProtocolError, "8192"),
        Case("endless header name", then_for_ever(head, b"b" * 1024), UpstreamProtocolError, "8192"),
        Case("endless status line", then_for_ever(b"HTTP/1.1 200 ", b"b" * 1024), UpstreamProtocolError, "8192"),
        Case("endless empty lines", then_for_ever(b"", b"\r\n" * 512), UpstreamProtocolError, "status line"),
        Case("endless chunk extension", then_for_ever(CHUNKED + b"1;", b"b" * 1024), UpstreamProtocolError, ""),
        Case("endless chunk size", then_for_ever(CHUNKED, b"0" * 1024), UpstreamProtocolError, ""),
        Case("endless trailers", then_for_ever(CHUNKED + b"0\r\n", b"X-A: b\r\n"), UpstreamProtocolError, "50|8192"),
        Case("endless trailer line", then_for_ever(CHUNKED + b"0\r\nX: ", b"b" * 1024), UpstreamProtocolError, "8192"),
        Case("endless 100", then_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), UpstreamProtocolError, "8"),
        Case("endless 103", then_for_ever(b"", b"HTTP/1.1 103 X\r\nLink: <a>\r\n\r\n"), UpstreamProtocolError, "8"),
        Case("endless 199", dripping(b"", b"HTTP/1.1 199 X\r\n\r\n", 0.01), UpstreamProtocolError, "8"),
        Case("silence", _say_nothing, ReadTimeout, "0.3"),
        Case("100 and silence", _continue_and_nothing, ReadTimeout, "0.3"),
        Case("silence within the content", _half_a_body_and_nothing, ReadTimeout, "0.3"),
        Case("a head by drops", dripping(head, b"X"), LATE, "1.5"),
        Case("fields by drops", dripping(head, b"X: y\r\n"), (*LATE, UpstreamProtocolError), "1.5|50"),
        Case("content by drops", dripping(SIZED % 100000, b"x"), LATE, "1.5"),
        Case("chunks by drops", dripping(CHUNKED, b"1\r\nx\r\n"), LATE, "1.5"),
        Case("content by drops, streamed", dripping(SIZED % 100000, b"x"), LATE, "1.5", use=stream),
        sent("more fields than are taken", head + b"A: b\r\n" * 51 + b"\r\n", UpstreamProtocolError, "50"),
        sent("a longer head than is taken", head + b"A: " + b"b" * 8192 + b"\r\n\r\n", UpstreamProtocolError, "8192"),
        sent(
            "more trailers than are taken",
            CHUNKED + b"0\r\n" + b"A: b\r\n" * 51 + b"\r\n",
            UpstreamProtocolError,
            "50",
        ),
    ]


# -- what is not HTTP, or lies about where it ends


def _framed(*lines: str, body: bytes = b"hello") -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1") + body


PROTOCOL = UpstreamProtocolError
CLOSED = UpstreamClosed
TE = "Transfer-Encoding: chunked"


def lies() -> list[Case]:
    """Framing that contradicts itself, or what follows."""
    wrong_lengths = ("-1", "+5", "0x5", "5 5", "5,5", "5, 6", "five", "", "5.0", "18446744073709551621", "9" * 40, "٥")
    cases = [
        sent(f"a length of {length[:12]!r}", _framed_utf8(f"Content-Length: {length}"), PROTOCOL)
        for length in wrong_lengths
    ]
    wrong_codings = (
        "gzip",
        "chunked, gzip",
        "gzip, chunked",
        "identity",
        "chunkedd",
        "xchunked",
        "chunked, chunked",
        "",
    )
    chunk = b"5\r\nhello\r\n0\r\n\r\n"
    cases += [
        sent(f"a transfer coding of {coding!r}", _framed(f"Transfer-Encoding: {coding}", body=chunk), PROTOCOL)
        for coding in wrong_codings
    ]
    wrong_chunks = {
        "no number": b"zz\r\nhello\r\n0\r\n\r\n",
        "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
        "a size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
        "a size of 17 digits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        "a size that overflows": b"FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "a size that is too small": b"4\r\nhello\r\n0\r\n\r\n",
        "a size with a blank before it": b" 5\r\nhello\r\n0\r\n\r\n",
        "no size": b"\r\nhello\r\n0\r\n\r\n",
        "a bare LF behind its size": b"5\nhello\r\n0\r\n\r\n",
        "a bare LF behind its data": b"5\r\nhello\n0\r\n\r\n",
        "a bare CR behind its size": b"5\rhello\r\n0\r\n\r\n",
        "nothing behind its data": b"5\r\nhello0\r\n\r\n",
        "NUL in its extension": b"5;a=\0\r\nhello\r\n0\r\n\r\n",
        "a broken trailer": b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        "a bare LF at its end": b"5\r\nhello\r\n0\r\n\n",
    }
    cases += [sent(f"a chunk with {what}", CHUNKED + data, PROTOCOL) for what, data in wrong_chunks.items()]
    wrong_fields = {
        "a blank before the colon": b"X-A : b",
        "no colon": b"X-A",
        "no name": b": b",
        "a name that is none": b"X A: b",
        "a name with NUL": b"X\0A: b",
        "a value with NUL": b"X-A: b\0c",
        "a value with a bare CR": b"X-A: b\rc",
        "a bare LF": b"X-A: b\nSet-Cookie: a=b",
        "a folded line": b"X-A: b\r\n c",
        "a folded first line": b" X-A: b",
        "a name of other bytes": b"X-\xe9: b",
    }
    cases += [
        sent(f"a field with {what}", b"HTTP/1.1 200 OK\r\n" + line + b"\r\nContent-Length: 2\r\n\r\nok", PROTOCOL)
        for what, line in wrong_fields.items()
    ]
    wrong_lines = (
        b"HTTP/1.1 099 X",
        b"HTTP/1.1 000 X",
        b"HTTP/1.1 600 X",
        b"HTTP/1.1 999 X",
        b"HTTP/1.1 1000 X",
        b"HTTP/1.1 20 X",
        b"HTTP/1.1 2x0 X",
        b"HTTP/1.1 -20 X",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1  200 X",
        b"HTTP/1.1\t200 X",
        b" HTTP/1.1 200 X",
        b"http/1.1 200 X",
        b"HTTP/2.0 200 X",
        b"HTTP/0.9 200 X",
        b"HTTP/1.2 200 X",
        b"HTTP/11 200 X",
        b"HTTP/1.10 200 X",
        b"HTTPS/1.1 200 X",
        b"ICY 200 OK",
        b"RTSP/1.0 200 OK",
        b"GET / HTTP/1.1",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 O\rK",
    )
    cases += [
        sent(f"a status line of {line.decode()!r}", line + b"\r\nContent-Length: 2\r\n\r\nok", PROTOCOL)
        for line in wrong_lines
    ]
    return [
        *cases,
        sent("length and chunks", _framed("Content-Length: 5", TE, body=chunk), PROTOCOL),
        sent("chunks and length", _framed(TE, "Content-Length: 5", body=chunk), PROTOCOL),
        sent("two lengths", _framed("Content-Length: 5", "Content-Length: 6"), PROTOCOL),
        sent("chunks in HTTP/1.0", _framed(TE, body=chunk).replace(b"1.1", b"1.0", 1), (PROTOCOL, ReadTimeout)),
        sent("two codings", _framed(TE, TE, body=chunk), PROTOCOL),
        ended("less content than it says", _framed("Content-Length: 6"), CLOSED, "5 of 6|5 bytes|6"),
        ended("chunks without the last", CHUNKED + b"5\r\nhello\r\n", CLOSED),
        ended("chunks without the last line", CHUNKED + b"5\r\nhello\r\n0\r\n", CLOSED),
        ended("half a chunk", CHUNKED + b"5\r\nhe", CLOSED),
        ended("nothing", b"", CLOSED),
        ended("half a head", b"HTTP/1.1 200 OK\r\nConte", CLOSED),
        ended("100 and the end", b"HTTP/1.1 100 Continue\r\n\r\n", CLOSED),
        ended("HTTP/0.9", b"<html>hello</html>", PROTOCOL),
        sent("HTTP/2's settings", b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\x10\0\0\0\x06\0\0@\0", PROTOCOL),
        sent("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", PROTOCOL),
        sent("a TLS alert", bytes.fromhex("15030100020228"), PROTOCOL),
        sent("a TLS handshake", bytes.fromhex("16030300580200005403035f") + os.urandom(75), PROTOCOL),
        sent("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", PROTOCOL),
        sent("SMTP", b"220 mail.example.org ESMTP\r\n", PROTOCOL),
        sent("zeros", bytes(1000), PROTOCOL),
        sent("101 that nobody asked for", b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", PROTOCOL),
        sent("more content than it says", _framed("Content-Length: 2", body=b"ok" * 500), None),
        sent("two answers", OK + OK, None),
        sent("an answer and half a one", OK + b"HTTP/1.1 200 OK\r\n", None),
        sent("an answer and an empty line", OK + b"\r\n", None, reused=None),
        sent("content behind 204", b"HTTP/1.1 204 X\r\n\r\nhello", None),
        sent("content behind 304", b"HTTP/1.1 304 X\r\n\r\nhello", None),
        sent("content behind HEAD", OK, None, method="HEAD"),
        sent("a good one", OK, None, reused=True),
        sent("a good one in chunks", CHUNKED + chunk, None, reused=True),
    ]


def _framed_utf8(line: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + line.encode() + b"\r\n\r\nhello"


# -- where to go next


def redirecting(*places: str, status: int = 302) -> Play:
    """Redirect each path to the next of ``places``, and the last to the first."""

    async def play(peer: Peer) -> None:
        while (asked := await peer.asked()) is not None:
            here = places.index(asked.target) if asked.target in places else -1
            await peer.answer(b"moved", status, f"Location: {places[(here + 1) % len(places)]}\r\n")

    return play


def growing(peer_target: str = "x") -> Play:
    """Redirect each path to a longer one."""

    async def play(peer: Peer) -> None:
        while (asked := await peer.asked()) is not None:
            await peer.answer(b"", 302, f"Location: {asked.target}{peer_target}\r\n")

    return play


def located(location: str) -> Case:
    """A redirect to somewhere that is nowhere."""
    data = b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: " + location.encode() + b"\r\n\r\n"
    return sent(f"a location of {location[:30]!r}", data, PROTOCOL, "redirected|not well-formed", reused=None)


def redirects() -> list[Case]:
    """Redirects that lead nowhere."""
    nowhere = (
        "http://[::1",
        "http://:80/",
        "http://a:99999/",
        "http://a b/",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http:///path",
        "http://a\x7f/",
        "//",
    )
    return [
        Case("redirects to itself", redirecting("/"), TooManyRedirects, "redirect", reused=True),
        Case("redirects to and fro", redirecting("/a", "/b"), TooManyRedirects, "redirect", reused=True),
        Case("redirects by 307", redirecting("/a", "/b", status=307), TooManyRedirects, "redirect", reused=True),
        Case("redirects without an end", growing(), TooManyRedirects, "redirect", reused=True),
        *map(located, nowhere),
    ]


ALL: tuple[Callable[[], list[Case]], ...] = (bombs, endless, lies, redirects)
