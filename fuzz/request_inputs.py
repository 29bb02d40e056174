"""Streams of requests to fuzz with: by hypothesis, and to begin with."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from fuzz.target import encode

HOLDS = 1
"""The flag of an input whose heads are held."""

_METHODS = [b"GET", b"POST", b"OPTIONS", b"HEAD", b"CONNECT", b"PURGE", b"get", b"X" * 33, b"G@T", b""]
_TARGETS = [
    b"/", b"/a/b?c=d&e", b"*", b"a", b"//a", b"http://a/b?c", b"HTTP://A?b", b"https://b/", b"http://a", b"http:///",
    b"ftp://a/", b"a:80", b"/../a", b"/a/.", b"/a/..%2f", b"/%2E%2e", b"/...", b"/.a", b"/%", b"/%4", b"/%00", b"/%ff",
    b"/a\\b", b"/a?b\\", b"/a#b", b"/a?b#c", b"/a?%", b"/" + b"a" * 299, b"/" + b"a" * 300, b"/\x80", b"/a b", b"",
]  # fmt: skip
_VERSIONS = [
    b"HTTP/1.1",
    b"HTTP/1.1",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"http/1.1",
    b"HTTP/0.9",
    b"",
]
_NAMES = [
    b"Host", b"hOST", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect", b"TE", b"Trailer",
    b"X", b"Content-Length ", b" Host", b"X\x00", b"", b"Transfer_Encoding", b"Content-Type", b"Cookie", b"X\x80",
]  # fmt: skip
_VALUES = [
    b"a", b"", b"a:80", b"[::1]", b"[::1]:8", b"a:", b"a@b", b"a/b", b"A", b"0", b"3", b" 3\t", b"3, 3", b"+3", b"03",
    b"3\x0b", b"999999999999999999", b"9999999999999999999", b"18446744073709551616", b"chunked", b"Chunked ", b"gzip",
    b"gzip, chunked", b"chunked, chunked", b"\x0bchunked", b"close", b"keep-alive", b"Keep-Alive, X", b"upgrade",
    b"close, upgrade", b"websocket", b"h2c", b"100-continue", b"100-Continue", b"x", b"a\x01", b"a\x7f", b"a\xff",
    b"a\tb", b"a\x0bb", b"a\r b", b"a\r\n b", b"a" * 198,
]  # fmt: skip
_ENDS = [b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b" \r\n", b"\r\n ", b"\n\r\n"]
_CHUNKS = [
    b"3\r\nabc\r\n", b"0003\r\nabc\r\n", b"A\r\n0123456789\r\n", b"a;b\r\n0123456789\r\n", b"1;b=c\r\na\r\n",
    b'1 ; b = "c\\"d;"\r\na\r\n', b"1;\r\na\r\n", b"1 \r\na\r\n", b'1;b="\r\na\r\n', b"1;b=c d\r\na\r\n",
    b"1;b\x00\r\na\r\n", b"1\na\r\n", b"1\r\na\n", b"2\r\na\r\n", b"1\r\nab\r\n", b"-1\r\n", b"0x1\r\na\r\n",
    b"+1\r\na\r\n", b"\r\n", b"g\r\n", b"0000000000000001\r\na\r\n", b"ffffffffffffffff\r\na",
    b"1;" + b"b" * 58 + b"\r\na\r\n", b"1;" + b"b" * 59 + b"\r\na\r\n",
]  # fmt: skip
_LAST = [b"0\r\n", b"0\r\n", b"00\r\n", b"0;a\r\n", b"0\n", b"0 \r\n", b"-0\r\n"]
_TRAILERS = [
    b"A: b\r\n", b"a:\t\r\n", b"Content-Length: 9\r\n", b"Host: b\r\n", b"A : b\r\n", b"A: b\n", b"A: b\x01\r\n",
    b" A: b\r\n", b"A\r\n", b"A: " + b"b" * 117 + b"\r\n", b"A: " + b"b" * 118 + b"\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: x\r\n", b"A: b\r\n c\r\n", b"Cookie: a\r\n",
]  # fmt: skip

WORDS = (
    *(word for word in dict.fromkeys(_METHODS + _TARGETS + _VERSIONS + _VALUES + _CHUNKS + _LAST + _TRAILERS)
      if 0 < len(word) <= 40),
    *(name + b": " for name in _NAMES if name),
    b"\r\n", b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\r\n\t", b"GET / HTTP/1.1\r\nHost: a\r\n", b"0\r\n\r\n",
)  # fmt: skip


@st.composite
def _fields(draw: st.DrawFn) -> bytes:
    """Lines of a head: mostly with the one Host that there has to be, and framing."""
    usual = draw(st.integers(0, 9))
    lines = [b"Host: a"] if usual else []
    if draw(st.booleans()):
        lines.append(draw(st.sampled_from([b"Content-Length: 3", b"Transfer-Encoding: chunked"])))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3, 13]))):
        separator = draw(st.sampled_from([b": "] * 9 + [b":", b" : ", b":\t", b""]))
        lines.insert(
            draw(st.integers(0, len(lines))), draw(st.sampled_from(_NAMES)) + separator + draw(st.sampled_from(_VALUES))
        )
    if not draw(st.integers(0, 4)) and lines:
        lines.append(draw(st.sampled_from(lines)))
    return b"".join(line + draw(st.sampled_from(_ENDS)) for line in lines)


@st.composite
def _content(draw: st.DrawFn, head: bytes) -> bytes:
    if b"chunked" in head.lower() and draw(st.integers(0, 9)):
        chunks = draw(st.lists(st.sampled_from(_CHUNKS[:6]) | st.sampled_from(_CHUNKS), max_size=3))
        trailers = draw(st.lists(st.sampled_from(_TRAILERS[:4]) | st.sampled_from(_TRAILERS), max_size=2))
        return b"".join([*chunks, draw(st.sampled_from(_LAST)), *trailers, draw(st.sampled_from(_ENDS))])
    if b"content-length" in head.lower():
        return draw(st.sampled_from([b"abc", b"abc", b"ab", b"abcd", b"\r\n\r"]))
    return draw(st.sampled_from([b"", b"", b"", b"\r\n", b"\r\n\r\n", b"\n", b"abc", b"0\r\n\r\n"]))


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    rare = not draw(st.integers(0, 2))
    method = draw(st.sampled_from(_METHODS if rare else _METHODS[:4]))
    target = draw(st.sampled_from(_TARGETS))
    version = draw(st.sampled_from(_VERSIONS if rare else _VERSIONS[:4]))
    blank = draw(st.sampled_from([b" "] * 20 + [b"\t", b"  "]))
    head = method + blank + target + b" " + version + draw(st.sampled_from(_ENDS)) + draw(_fields())
    return head + draw(st.sampled_from(_ENDS)) + draw(_content(head))


@st.composite
def inputs(draw: st.DrawFn) -> bytes:
    """Some requests, of which each may come again, changed in a few places."""
    made = draw(st.lists(_requests(), min_size=1, max_size=3))
    stream = bytearray().join(draw(st.permutations(made + made[: draw(st.integers(0, 2))])))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(stream)))
        change = draw(st.sampled_from(["insert", "delete", "replace", "cut"]))
        if change == "insert":
            stream[at:at] = draw(st.sampled_from(WORDS) | st.binary(min_size=1, max_size=3))
        elif change == "delete":
            del stream[at : at + draw(st.integers(1, 8))]
        elif change == "replace":
            stream[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        else:
            del stream[at:]
    places = draw(st.lists(st.integers(0, max(1, len(stream))), max_size=7))
    return encode(draw(st.integers(0, 1)), places, bytes(stream))


def seeds() -> Sequence[bytes]:
    """One request of every kind, most with a second behind it."""
    get, post = b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nHost: a\r\n"
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    streams = [get + b"\r\n" + get + b"\r\n", b"\r\n" + get + b"\r\n", get[:-3], get + b"X: y\r\n" * 13 + b"\r\n"]
    streams += [method + b" / HTTP/1.1\r\nHost: a\r\n\r\n" + get + b"\r\n" for method in _METHODS]
    streams += [b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n" for target in _TARGETS]
    streams += [b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"]
    streams += [b"GET / " + version + b"\r\nHost: a\r\n\r\n" for version in _VERSIONS[2:]]
    streams += [b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n" for value in _VALUES]
    streams += [
        post + name + b": " + value + b"\r\n\r\nabc" + get + b"\r\n"
        for name in _NAMES[2:7]
        for value in _VALUES[9:]
        if value
    ]
    streams += [get + name + b": b\r\n\r\n" for name in _NAMES]
    streams += [get.replace(b"\r\n", end) + end + get + b"\r\n" for end in dict.fromkeys(_ENDS)]
    streams += [
        post + b"Content-Length: 3\r\n" + more + b"\r\n\r\nabc" + get + b"\r\n"
        for more in (b"Content-Length: 3", b"Content-Length: 4", b"Transfer-Encoding: chunked", b"X: y")
    ]
    streams += [chunked + chunk + b"0\r\n\r\n" + get + b"\r\n" for chunk in _CHUNKS]
    streams += [chunked + b"1\r\na\r\n" + last + b"\r\n" + get + b"\r\n" for last in _LAST]
    streams += [chunked + b"0\r\n" + trailer + b"\r\n" + get + b"\r\n" for trailer in _TRAILERS]
    for connection in (b"close", b"keep-alive", b"keep-alive, close", b"upgrade\r\nUpgrade: x"):
        for version in (b"1.0", b"1.1"):
            streams.append(b"GET / HTTP/" + version + b"\r\nHost: a\r\nConnection: " + connection + b"\r\n\r\n" + get)
    streams += [
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
        get + b"Host: a\r\n\r\n",
        get + b"X: " + b"y" * 195 + b"\r\n\r\n",
        get + (b"X: " + b"y" * 190 + b"\r\n") * 6 + b"\r\n",
    ]
    places: tuple[list[int], ...] = ([], [20], [1, 17, 40])
    return [encode(number & 1, places[number % 3], stream) for number, stream in enumerate(streams)]
