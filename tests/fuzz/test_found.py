"""What fuzzing has found, and stays found."""

from __future__ import annotations

import pytest

from forebay.wire.websocket import encode_frame
from fuzz import frames, requests
from fuzz.request_readings import LIMITS
from fuzz.target import encode
from tests.wire.websockets_reference import SMALL

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
HELLO = encode_frame(1, bytes.fromhex("f248cdc9c90700"), rsv1=True)  # RFC 7692 section 7.2.3.1
TOO_MUCH = encode_frame(1, bytes.fromhex("626018054486000100"), fin=False, rsv1=True)  # 330 zeros
TRAILER = b"A: " + b"b" * (LIMITS["max_trailers"] - 3)


@pytest.mark.parametrize(
    ("place", "stream"),
    [
        pytest.param(19, GET, id="the first piece ends three bytes after the request line"),
        pytest.param(2, b"GET / HTTP/1.0\r\n\r\n\r\n", id="an empty line after a head without fields"),
        pytest.param(2, b"GET / HTTP/1.0\r\n\r\n" + GET, id="a request that is not read after a head without fields"),
        pytest.param(2, b"\r\n\r\n" + GET, id="empty lines before a request, each in its own piece"),
        pytest.param(-5, CHUNKED + b"0\r\n" + TRAILER + b"\r\n\r\n", id="between CR and LF of the longest trailer"),
        pytest.param(-1, CHUNKED + b"0\r\n" + TRAILER + b"\r\n\r\n", id="between CR and LF after the longest trailers"),
    ],
)
def test_a_request_that_was_refused_when_it_was_cut_there(place: int, stream: bytes) -> None:
    """However it is cut, it is one request, and the next one is read behind it."""
    at = place if place > 0 else len(stream) + place
    assert requests.check(encode(0, [at], stream + GET)) in ([], ["empty-line"])


@pytest.mark.parametrize(
    ("reasons", "stream"),
    [
        pytest.param(["dropped-unread"], CHUNKED + b"0\r\nContent-Length: x\r\n\r\n" + GET, id="a length in trailers"),
        pytest.param(
            ["blank-before-extension"], CHUNKED + b"1 ;a\r\nb\r\n0\r\n\r\n" + GET, id="blank before an extension"
        ),
    ],
)
def test_a_request_that_h11_refuses(reasons: list[str], stream: bytes) -> None:
    """The written reason is the one that fits."""
    assert requests.check(encode(0, [], stream)) == reasons


@pytest.mark.parametrize(
    ("reasons", "data"),
    [
        pytest.param(["long-length"], b"\x01\x00\x01\x8a~\x00\x00\x00\x00\x00\x00\x00\x00", id="pong of a long length"),
        pytest.param(
            ["last-block"],
            b"\x20B\x00\x80\x01\x00B\x09K\xcb/J" + bytes(11) + b" @\x80\xfe" + bytes(5),
            id="a reserved bit after a last block",
        ),
        pytest.param(
            ["no-bytes"],
            encode(1 << 1, [], HELLO + encode_frame(1, b"", rsv1=True) + HELLO),
            id="compressed text of no bytes, and a context",
        ),
        pytest.param(
            ["control-frame-counted"],
            encode(0, [], encode_frame(2, bytes(SMALL), fin=False) + encode_frame(9, b"ping") + encode_frame(0, b"")),
            id="a ping within a message of the longest size",
        ),
        pytest.param(
            [],
            b"\x18A\x80\0\0\0\0\0\x80\0\0\0\0\0\x87\0\0\0\0c`\x18\x05\xa3!0\x80\x87",
            id="a message that inflates to too much before its last fragment",
        ),
        pytest.param(
            ["inflated-size"],
            encode(1 << 1, [], TOO_MUCH + encode_frame(0, b"")),
            id="a message that inflates to too much, of which zlib holds back a part",
        ),
    ],
)
def test_frames_on_which_websockets_differs(reasons: list[str], data: bytes) -> None:
    """The same."""
    assert frames.check(data) == reasons
