"""The PROXY protocol: what is read, over any split, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.wire.proxy_fields import inet6_host
from forebay.wire.proxy_header import (
    Endpoint,
    ProxyHeader,
    ProxyHeaderError,
    ProxyHeaderParser,
    ProxyTLS,
    encode_v1,
    encode_v2,
)
from forebay.wire.proxy_v2 import _crc32c

V4 = ProxyHeader.between(("192.0.2.1", 56324), ("192.0.2.11", 443))
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
BLOCK = bytes([192, 0, 2, 1, 192, 0, 2, 11, 0xDC, 0x04, 0x01, 0xBB])


def v2(block: bytes = BLOCK, *, command: int = 0x21, kind: int = 0x11) -> bytes:
    """A header written by hand."""
    return SIGNATURE + bytes((command, kind)) + len(block).to_bytes(2, "big") + block


def tlv(number: int, value: bytes) -> bytes:
    """Type, length, value."""
    return bytes((number,)) + len(value).to_bytes(2, "big") + value


def parse(data: bytes, cuts: list[int] | None = None, maximum: int = 4096) -> tuple[ProxyHeader, bytes] | None:
    """The header, and what came after it. What is held is never more than the maximum."""
    parser = ProxyHeaderParser(maximum)
    edges = [0, *sorted(min(at, len(data)) for at in cuts or []), len(data)]
    for start, end in itertools.pairwise(edges):
        found = parser.feed(data[start:end])
        assert parser.pending <= maximum
        if found is not None:
            assert 0 < found[1] <= end - start
            return found[0], data[start + found[1] :]
    assert parser.pending == len(data)
    return None


PORTS = st.integers(0, 0xFFFF)
V4_ENDS = st.tuples(st.ip_addresses(v=4).map(str), PORTS)
V6_ENDS = st.tuples(st.ip_addresses(v=6).map(lambda address: inet6_host(IPv6Address(address))), PORTS)
PATHS = st.one_of(
    st.just(""),
    st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=100).map(lambda name: "/" + name),
    st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=100).map(
        lambda name: "\0" + name
    ),
)
UNIX_ENDS = st.tuples(PATHS, st.just(0))
TEXT = st.none() | st.text(st.characters(codec="ascii"), max_size=20)
NAMES = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TLS = st.builds(ProxyTLS, st.integers(0, 255), st.integers(0, 2**32 - 1), TEXT, NAMES, TEXT, TEXT, TEXT)
TLVS = st.lists(st.tuples(st.sampled_from([0, 0x30, 0xE0, 0xEA, 0xFF]), st.binary(max_size=40)), max_size=4).map(tuple)


@st.composite
def headers(draw: st.DrawFn) -> ProxyHeader:
    """Headers of version 2 of every kind."""
    family: Any
    ends: Any
    family, ends = draw(st.sampled_from([("inet", V4_ENDS), ("inet6", V6_ENDS), ("unix", UNIX_ENDS)]))
    return ProxyHeader(
        2,
        "proxy",
        family,
        draw(st.sampled_from(["stream", "dgram"])),
        draw(ends),
        draw(ends),
        alpn=draw(st.none() | st.binary(max_size=20)),
        authority=draw(NAMES),
        unique_id=draw(st.none() | st.binary(max_size=128)),
        tls=draw(st.none() | TLS),
        tlvs=draw(TLVS),
    )


CUTS = st.lists(st.integers(0, 600), max_size=6)


@given(V4_ENDS | V6_ENDS, V4_ENDS | V6_ENDS, CUTS, st.binary(max_size=10))
def test_v1_survives_any_cut(source: Endpoint, destination: Endpoint, cuts: list[int], rest: bytes) -> None:
    """What was encoded is parsed, and the client's first bytes are left."""
    found = parse(encode_v1(source, destination) + rest, cuts)
    assert found is not None
    header, after = found
    assert (header.version, header.command, header.transport) == (1, "proxy", "stream")
    assert (header.source, header.destination) == (source, destination)
    assert header.family == ("inet6" if ":" in source[0] + destination[0] else "inet")
    assert after == rest


@given(headers(), st.booleans(), CUTS, st.binary(max_size=10))
def test_v2_survives_any_cut(header: ProxyHeader, checksum: bool, cuts: list[int], rest: bytes) -> None:
    """Every field comes back, with a checksum or without, over any split."""
    found = parse(encode_v2(header, checksum=checksum) + rest, cuts)
    assert found is not None
    assert (found[0].crc32c is not None) == checksum
    assert replace(found[0], crc32c=None) == header
    assert found[1] == rest


@given(headers(), CUTS)
def test_less_than_a_header_is_none_yet(header: ProxyHeader, cuts: list[int]) -> None:
    """Every byte but the last one is waited for, and an end before it is an error."""
    for data in (encode_v2(header), encode_v1(("::1", 1), ("1.2.3.4", 65535))):
        assert parse(data[:-1], cuts) is None
    parser = ProxyHeaderParser()
    parser.feed(data[:-1])
    with pytest.raises(ProxyHeaderError, match=f"after {len(data) - 1} bytes"):
        parser.eof()


def starts() -> st.SearchStrategy[bytes]:
    """Noise after beginnings that get some way into the parser."""
    begin = st.sampled_from(
        [b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", SIGNATURE, SIGNATURE + b"\x21\x11\0\x40"]
    )
    return st.builds(lambda first, noise: first + noise, begin, st.binary(max_size=300))


@given(starts(), CUTS)
def test_any_bytes_are_a_header_or_the_named_error(data: bytes, cuts: list[int]) -> None:
    """Nothing else leaves the parser, and the verdict does not depend on the cut."""
    verdicts = []
    for pieces in ([], cuts):
        try:
            found = parse(data, pieces, 256)
            verdicts.append(found[0] if found else None)
        except ProxyHeaderError as error:
            verdicts.append(str(error))  # type: ignore[arg-type]  # compared, nothing more
    assert verdicts[0] == verdicts[1]


@given(headers(), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=3))
def test_mutated_headers_are_a_header_or_the_named_error(header: ProxyHeader, changes: list[tuple[int, int]]) -> None:
    """Single bytes changed anywhere, in the lengths too. With a checksum, every change of what it covers is noticed."""
    for checksum in (False, True):
        good = encode_v2(header, checksum=checksum)
        data = bytearray(good)
        for at, byte in changes:
            data[at % len(data)] = byte
        try:
            found = parse(bytes(data))
        except ProxyHeaderError:
            continue
        if checksum and found is not None and data != good and found[0].command == "proxy":
            assert found[0].crc32c is None or found[0].source is None


def test_v1_lines() -> None:
    """The examples of the specification, and the longest line there is."""
    assert parse(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n") == (
        ProxyHeader(1, "proxy", "inet", "stream", ("192.168.0.1", 56324), ("192.168.0.11", 443)),
        b"GET / HTTP/1.1\r\n",
    )
    ends = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535"
    found = parse(f"PROXY TCP6 {ends}\r\n".encode())
    assert found is not None
    assert found[0].source == ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535)
    for unknown in (b"PROXY UNKNOWN\r\n", f"PROXY UNKNOWN {ends}\r\n".encode(), b"PROXY UNKNOWN what ever\r\n"):
        assert parse(unknown) == (ProxyHeader(version=1), b"")
    assert len(f"PROXY UNKNOWN {ends}\r\n") == 107
    assert encode_v1() == b"PROXY UNKNOWN\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4  1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rx",
        b"PROXY UNKNOWN \rx\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP6 ::1::1 ::1 1 2\r\n",
        b"PROXY TCP4 1.2.3.\xd9\xa1 1.2.3.4 1 2\r\n",
        b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        b"PROXY UNKNOWN " + b"x" * 93,
    ],
)
def test_bad_v1_lines(line: bytes) -> None:
    """Nothing is tolerated: whole and byte by byte, each is refused."""
    for cuts in ([], list(range(len(line)))):
        with pytest.raises(ProxyHeaderError):
            parse(line, cuts)


@pytest.mark.parametrize("data", [b"G", b"PROXX", b"\r\n\r\n\0\r\nQUIT\r", SIGNATURE + b"\x31", SIGNATURE + b"\x22"])
def test_what_is_no_header_is_known_at_once(data: bytes) -> None:
    """With the first byte that is wrong, not with the last one of a header; and it stays so."""
    parser = ProxyHeaderParser()
    parser.feed(data[:-1])
    with pytest.raises(ProxyHeaderError) as raised:
        parser.feed(data[-1:])
    assert parser.pending == 0
    calls: list[Callable[[], object]] = [lambda: parser.feed(b"PROXY UNKNOWN\r\n"), parser.eof]
    for call in calls:
        with pytest.raises(ProxyHeaderError) as again:
            call()
        assert again.value is raised.value is parser.error


def test_v2_addresses() -> None:
    """The three families, byte for byte, and an IPv4 client of an IPv6 listener is an IPv4 client."""
    assert parse(v2() + b"rest") == (V4, b"rest")
    assert encode_v2(V4) == v2()
    assert parse(v2(kind=0x12)) == (replace(V4, transport="dgram"), b"")
    mapped = ip_address("::ffff:192.0.2.1").packed + ip_address("2001:db8::1").packed + BLOCK[8:]
    found = parse(v2(mapped, kind=0x21))
    assert found is not None
    assert (found[0].family, found[0].source) == ("inet6", ("192.0.2.1", 56324))
    assert found[0].destination == ("2001:db8::1", 443)
    assert encode_v2(found[0]) == v2(mapped, kind=0x21)
    names = b"/run/a.sock".ljust(108, b"\0") + b"\0abstract".ljust(108, b"\0")
    found = parse(v2(names, kind=0x31))
    assert found is not None
    assert (found[0].source, found[0].destination) == (("/run/a.sock", 0), ("\0abstract", 0))
    longest = "/" + "x" * 107
    found = parse(encode_v2(ProxyHeader.between((longest, 0), ("", 0))))
    assert found is not None
    assert (found[0].source, found[0].destination) == ((longest, 0), ("", 0))


@pytest.mark.parametrize("block", [b"", BLOCK, b"\xff" * 30])
def test_connections_of_the_proxy_s_own(block: bytes) -> None:
    """LOCAL and UNSPEC leave the connection's own ends in place, whatever else they hold is skipped."""
    for kind in (0x00, 0x11, 0xFF):
        assert parse(v2(block, command=0x20, kind=kind) + b"rest") == (ProxyHeader(command="local"), b"rest")
    assert parse(v2(block, kind=0x00) + b"rest") == (ProxyHeader(), b"rest")
    assert parse(v2(block, kind=0x10)) == (ProxyHeader(family="inet"), b"")
    assert parse(v2(block, kind=0x01)) == (ProxyHeader(transport="stream"), b"")
    assert encode_v2(ProxyHeader(command="local"), checksum=True) == v2(b"", command=0x20, kind=0)


def test_extras() -> None:
    """The registered types are typed, padding is skipped, and the rest is given as it came, in its order."""
    tls = (
        bytes((0x07, 0, 0, 0, 0))
        + tlv(0x21, b"TLSv1.3")
        + tlv(0x22, "Jörg".encode())
        + tlv(0x23, b"AES")
        + tlv(0x99, b"")
    )
    block = BLOCK + b"".join(
        (
            tlv(0xE1, b"first"), tlv(0x04, b"padding"), tlv(0x01, b"h2"), tlv(0x02, b"example.com"), tlv(0x04, b""),
            tlv(0x05, b"\x01\x02"), tlv(0x20, tls), tlv(0x30, b"blue"), tlv(0xE1, b"again"),
        )
    )  # fmt: skip
    found = parse(v2(block))
    assert found is not None
    header = found[0]
    assert header == replace(
        V4,
        alpn=b"h2",
        authority="example.com",
        unique_id=b"\x01\x02",
        tls=ProxyTLS(7, 0, "TLSv1.3", "Jörg", "AES"),
        tlvs=((0xE1, b"first"), (0x30, b"blue"), (0xE1, b"again")),
    )
    assert header.tls is not None
    assert header.tls.identity == "Jörg"


@pytest.mark.parametrize(
    ("flags", "verify", "verified"),
    [(0x01, 0, False), (0x03, 0, True), (0x05, 0, True), (0x03, 1, False), (0x07, 10, False), (0x00, 0, False)],
)
def test_who_is_verified(flags: int, verify: int, verified: bool) -> None:
    """An identity needs a certificate that was shown, and verified: a verify of 0 alone says neither."""
    tls = ProxyTLS(flags, verify, common_name="device-1")
    assert tls.verified == verified
    assert tls.identity == ("device-1" if verified else None)
    assert tls.encrypted == bool(flags & 1)


def test_checksum() -> None:
    """CRC-32C as in RFC 3720's examples, over the header with zeros in its place, wherever it stands."""
    assert _crc32c(bytes(32)) == 0x8A9136AA
    assert _crc32c(b"\xff" * 32) == 0x62A8AB43
    assert _crc32c(b"123456789") == 0xE3069283
    data = v2(BLOCK + tlv(0x03, bytes(4)) + tlv(0xE0, b"after"))
    right = _crc32c(data).to_bytes(4, "big")
    at = data.index(tlv(0x03, bytes(4))) + 3
    found = parse(data[:at] + right + data[at + 4 :])
    assert found is not None
    assert found[0].crc32c == int.from_bytes(right, "big")
    with pytest.raises(ProxyHeaderError, match="checksum is wrong"):
        parse(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (v2(command=0x11), "version and command"),
        (v2(command=0x2F), "version and command"),
        (v2(kind=0x41), "not assigned"),
        (v2(kind=0x13), "not assigned"),
        (v2(BLOCK[:-1]), "too short for the addresses of inet"),
        (v2(BLOCK, kind=0x21), "too short for the addresses of inet6"),
        (v2(BLOCK, kind=0x31), "too short for the addresses of unix"),
        (v2(BLOCK + b"\x01"), "in the middle of a TLV"),
        (v2(BLOCK + b"\x01\x00\x05h2"), "longer than what holds it"),
        (v2(BLOCK + tlv(1, b"a") + tlv(1, b"b")), "0x01 twice"),
        (v2(BLOCK + tlv(0x20, bytes(5)) * 2), "0x20 twice"),
        (v2(BLOCK + tlv(0x02, b"\xff")), "not valid utf-8"),
        (v2(BLOCK + tlv(0x03, bytes(3))), "not 4 bytes"),
        (v2(BLOCK + tlv(0x05, bytes(129))), "longer than 128"),
        (v2(BLOCK + tlv(0x20, bytes(4))), "TLS information is too short"),
        (v2(BLOCK + tlv(0x20, bytes(5) + b"\x21")), "in the middle of a TLV"),
        (v2(BLOCK + tlv(0x20, bytes(5) + tlv(0x21, b"\xff"))), "not valid ascii"),
        (v2(BLOCK + tlv(0x20, bytes(5) + tlv(0x22, b"a") + tlv(0x22, b"b"))), "0x22 twice"),
        (v2(bytes(4081)), "4097 bytes is longer than 4096"),
    ],
)
def test_bad_v2_headers(data: bytes, words: str) -> None:
    """Each is refused, and told why, whole and byte by byte."""
    for cuts in ([], list(range(len(data)))):
        with pytest.raises(ProxyHeaderError, match=words):
            parse(data, cuts)


def test_the_bound_is_the_header_s() -> None:
    """A header of the maximum passes and one byte more is refused from its length; the client's bytes do not count."""
    block = BLOCK + tlv(0xE0, bytes(256 - 16 - len(BLOCK) - 3))
    assert len(v2(block)) == 256
    found = parse(v2(block) + bytes(1000), maximum=256)
    assert found is not None
    assert found[1] == bytes(1000)
    with pytest.raises(ProxyHeaderError, match="257 bytes is longer than 256"):
        parse(v2(block + b"x")[:16], maximum=256)
    for maximum in (231, 65_552):
        with pytest.raises(ValueError, match="must be 232 to 65551 bytes"):
            ProxyHeaderParser(maximum)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: encode_v1(("localhost", 1), ("::1", 2)), "must be an IP address"),
        (lambda: encode_v1(("::1%lo", 1), ("::1", 2)), "must be an IP address"),
        (lambda: encode_v1(("::1", -1), ("::1", 2)), "port -1"),
        (lambda: encode_v1(("/a", 0), ("/b", 0)), "no UNIX sockets"),
        (lambda: ProxyHeader.between(("/a", 0), ("::1", 2)), "UNIX socket"),
        (lambda: encode_v2(replace(V4, source=None)), "has a source and a destination"),
        (lambda: encode_v2(replace(V4, source=("::1", 1))), "not both IPv4"),
        (lambda: encode_v2(replace(V4, source=("1.2.3.4", 65536))), "port 65536"),
        (lambda: encode_v2(replace(V4, command="local")), "carries nothing else"),
        (lambda: encode_v2(replace(V4, transport="unspec")), "carries nothing else"),
        (lambda: encode_v2(ProxyHeader(alpn=b"h2")), "carries nothing else"),
        (lambda: encode_v2(ProxyHeader.between(("/" + "x" * 108, 0), ("", 0))), "109 bytes"),
        (lambda: encode_v2(ProxyHeader.between(("/a\0b", 0), ("", 0))), "NUL"),
        (lambda: encode_v2(replace(V4, unique_id=bytes(129))), "longer than 128"),
        (lambda: encode_v2(replace(V4, tlvs=((0x20, b""),))), "field of its own"),
        (lambda: encode_v2(replace(V4, tlvs=((256, b""),))), "no byte"),
        (lambda: encode_v2(replace(V4, tlvs=((0xE0, bytes(65_536)),))), "longer than 65535"),
        (lambda: encode_v2(replace(V4, tlvs=((0xE0, bytes(65_535)),))), "do not fit"),
    ],
)
def test_what_cannot_be_written_is_refused(write: Any, words: str) -> None:
    """A sender's mistakes are its own, not the receiver's."""
    with pytest.raises(ValueError, match=words):
        write()
