"""The heads that leave the gateway."""

from __future__ import annotations

import pytest

from forebay.gateway.heads import RequestHeads, encode_response_headers
from forebay.wire.http1 import HeaderPairs


def encode(
    headers: HeaderPairs, *, trusted: tuple[str, ...] = (), client: str = "10.1.2.3", scheme: str = "http"
) -> dict[str, str]:
    """The fields of a request's head, which must not repeat."""
    head = RequestHeads(trusted).encode("GET", b"/", b"shop", headers, client, b"", scheme)
    assert head.startswith(b"GET / HTTP/1.1\r\nhost: shop\r\n")
    assert head.endswith(b"\r\n\r\n")
    pairs = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2]]
    fields = {name.lower(): value for name, value in pairs}
    assert len(fields) == len(pairs)
    return fields


def test_hop_by_hop_fields_stay_here() -> None:
    """RFC 9110 section 7.6.1, the fields Connection names, and the framing; everything else goes on."""
    fields = encode(
        [
            (b"Host", b"other"),
            (b"Connection", b"close, X-Mine"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Proxy-Connection", b"x"),
            (b"Proxy-Authorization", b"x"),
            (b"TE", b"trailers"),
            (b"Trailer", b"x"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Content-Length", b"5"),
            (b"Upgrade", b"websocket"),
            (b"Expect", b"100-continue"),
            (b"x-mine", b"1"),
            (b"X-Other", b"2"),
        ]
    )
    assert set(fields) == {"host", "x-other", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}


def test_connection_cannot_name_our_own_fields_away() -> None:
    """What the gateway says of the client is said whatever the client's Connection field names."""
    fields = encode([(b"Connection", b"x-forwarded-for, host"), (b"X-Forwarded-For", b"1.1.1.1")])
    assert fields["x-forwarded-for"] == "10.1.2.3"
    assert fields["host"] == "shop"


@pytest.mark.parametrize("spelling", [b"X-Forwarded-For", b"x_forwarded_for", b"X-FORWARDED_FOR"])
def test_strangers_cannot_say_who_they_are(spelling: bytes) -> None:
    """Forwarding fields of a client that is not trusted are replaced, in any spelling a backend may take for them."""
    fields = encode(
        [(spelling, b"1.1.1.1"), (b"X-Forwarded-Proto", b"https"), (b"Forwarded", b"for=1.1.1.1"), (b"X-A", b"1")],
        trusted=("192.168.0.0/16",),
    )
    assert fields == {
        "host": "shop",
        "x-a": "1",
        "x-forwarded-for": "10.1.2.3",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "shop",
    }


def test_trusted_proxies_are_believed() -> None:
    """Theirs are kept, and their own address is added."""
    fields = encode(
        [
            (b"X-Forwarded-For", b"1.1.1.1, 2.2.2.2"),
            (b"X-Forwarded-For", b"3.3.3.3"),
            (b"X-Forwarded-Proto", b"https"),
            (b"X-Forwarded-Host", b"www.example"),
            (b"X-Forwarded-Port", b"443"),
        ],
        trusted=("10.0.0.0/8",),
    )
    assert fields["x-forwarded-for"] == "1.1.1.1, 2.2.2.2, 3.3.3.3, 10.1.2.3"
    assert fields["x-forwarded-proto"] == "https"
    assert fields["x-forwarded-host"] == "www.example"
    assert fields["x-forwarded-port"] == "443"


def test_the_same_headers_again() -> None:
    """A block that the reader has remembered gives the same head, for each client its own."""
    heads = RequestHeads()
    headers = ((b"Accept", b"*/*"), (b"X-Forwarded-For", b"9.9.9.9"))
    first = heads.encode("GET", b"/", b"a", headers, "10.0.0.1", b"", "http")
    again = heads.encode("GET", b"/", b"a", headers, "10.0.0.1", b"", "http")
    other = heads.encode("GET", b"/", b"a", headers, "10.0.0.2", b"", "http")
    assert first == again
    assert b"Accept: */*" in first
    assert other == first.replace(b"10.0.0.1", b"10.0.0.2")
    secure = heads.encode("GET", b"/", b"a", headers, "10.0.0.1", b"", "https")
    assert secure == first.replace(b"-proto: http", b"-proto: https")


def test_the_scheme_is_that_of_the_connection_unless_a_trusted_proxy_knows_better() -> None:
    """Who ends TLS in front of us says so; anybody else's word does not count."""
    headers = [(b"X-Forwarded-Proto", b"http")]
    assert encode([], scheme="https")["x-forwarded-proto"] == "https"
    assert encode(headers, scheme="https")["x-forwarded-proto"] == "https"
    assert encode(headers, scheme="https", trusted=("10.0.0.0/8",))["x-forwarded-proto"] == "http"
    chain = [(b"X-Forwarded-For", b"1.1.1.1")]
    assert encode(chain, scheme="https", trusted=("10.0.0.0/8",))["x-forwarded-proto"] == "https"


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (b"1.1.1.1", "1.1.1.1"),
        (b"9.9.9.9, 1.1.1.1, 10.0.0.7", "1.1.1.1"),
        (b"10.0.0.8, 10.0.0.7", "10.0.0.8"),
        (b"1.1.1.1, rubbish", "10.1.2.3"),
        (b"", "10.1.2.3"),
    ],
)
def test_the_client_behind_proxies(chain: bytes, client: str) -> None:
    """The last address that is not a trusted proxy's; strangers in front of it may have written anything."""
    headers = [(b"x-forwarded-for", chain)]
    assert RequestHeads(["10.0.0.0/8"]).client_ip("10.1.2.3", headers) == client
    assert RequestHeads(["10.0.0.0/8"]).client_ip("8.8.8.8", headers) == "8.8.8.8"
    assert RequestHeads().client_ip("10.1.2.3", headers) == "10.1.2.3"


def test_answers_lose_what_was_for_the_gateway() -> None:
    """Hop-by-hop fields and framing go, the rest stays as it is, repeated fields too."""
    lines = encode_response_headers(
        [
            (b"Server", b"x"),
            (b"Connection", b"keep-alive, X-Hop"),
            (b"X-Hop", b"1"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Set-Cookie", b"a=1"),
            (b"Set-Cookie", b"b=2"),
        ]
    )
    assert lines == b"Server: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"


def test_what_is_no_network_is_refused() -> None:
    """At start, not at the first request."""
    with pytest.raises(ValueError, match="nonsense"):
        RequestHeads(["nonsense"])
