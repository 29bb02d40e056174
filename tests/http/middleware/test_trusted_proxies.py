"""TrustedProxies: who is believed, how far, and what hostile or broken headers cannot do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http import App, HTTPServer, Request
from forebay.http.middleware import TrustedProxies
from forebay.http.middleware.trusted_proxies import _last_element
from tests.http.middleware.served import serving
from tests.support import RawClient, running

LOCAL = "127.0.0.1"
Headers = list[tuple[str, str]]


def site(layer: TrustedProxies) -> App[Any]:
    """An application that says who asks, and how."""
    app: App[Any] = App()
    app.middleware(layer)

    @app.get("/")
    async def root(request: Request) -> list[Any]:
        return [request.client, request.scheme, request.host, request.exchange.notes]

    return app


async def seen(layer: TrustedProxies, headers: Headers) -> tuple[str, str, str]:
    """Client, scheme and host of a request with these headers."""
    async with serving(site(layer)) as client:
        answer = await client.ask("/", *headers)
        assert answer.status == 200
        who, scheme, host, notes = msgspec.json.decode(answer.body)
        assert notes == (None if who == LOCAL else {"client": who})
        return who, scheme, host


def x(clients: str = "", proto: str = "", host: str = "") -> Headers:
    """``X-Forwarded-*``, without those that are empty."""
    named = (("X-Forwarded-For", clients), ("X-Forwarded-Proto", proto), ("X-Forwarded-Host", host))
    return [(name, value) for name, value in named if value]


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], (LOCAL, "http", "test")),
        (x("1.2.3.4", "https", "a.example"), ("1.2.3.4", "https", "a.example")),
        (x("9.9.9.9, 1.2.3.4"), ("1.2.3.4", "http", "test")),  # the left one is what the client has sent
        (x("9.9.9.9, 1.2.3.4, 10.1.1.1"), ("1.2.3.4", "http", "test")),
        (x("10.1.1.2, 10.1.1.1"), ("10.1.1.2", "http", "test")),  # all are trusted: whoever comes first
        ([*x("9.9.9.9"), *x("1.2.3.4"), *x("10.1.1.1")], ("1.2.3.4", "http", "test")),  # lines are one list
        (x("1.2.3.4:5678"), ("1.2.3.4", "http", "test")),
        (x("2001:DB8::1"), ("2001:db8::1", "http", "test")),
        (x("[2001:db8::1]"), ("2001:db8::1", "http", "test")),
        (x("[2001:db8::1]:80"), ("2001:db8::1", "http", "test")),
        (x("1.2.3.4, ::ffff:10.1.1.1"), ("1.2.3.4", "http", "test")),
        (x("1.2.3.4, fd00::7"), ("1.2.3.4", "http", "test")),
        # malformed: the walk stops there
        (x("1.2.3.4, nonsense"), (LOCAL, "http", "test")),
        (x("1.2.3.4, unknown, 10.1.1.1"), ("10.1.1.1", "http", "test")),
        (x("1.2.3.4, , 10.1.1.1"), ("10.1.1.1", "http", "test")),
        (x("1.2.3.4,"), (LOCAL, "http", "test")),
        (x("1.2.3.4.5"), (LOCAL, "http", "test")),
        (x("01.2.3.4"), (LOCAL, "http", "test")),
        (x("999.2.3.4"), (LOCAL, "http", "test")),
        (x("[1.2.3.4]"), (LOCAL, "http", "test")),
        (x("fe80::1%eth0"), (LOCAL, "http", "test")),
        (x("unix"), (LOCAL, "http", "test")),
        (x('"1.2.3.4"'), (LOCAL, "http", "test")),
        (x("1" * 5000), (LOCAL, "http", "test")),
        # scheme and host
        (x("", "HTTPS"), (LOCAL, "https", "test")),
        (x("1.2.3.4", "wss"), ("1.2.3.4", "https", "test")),
        (x("1.2.3.4", "ftp"), ("1.2.3.4", "http", "test")),
        (x("1.2.3.4", "https, http"), ("1.2.3.4", "http", "test")),  # the client has sent the first one
        (x("9.9.9.9, 1.2.3.4", "http, https"), ("1.2.3.4", "https", "test")),
        (x("1.2.3.4, 10.1.1.1", "https, http"), ("1.2.3.4", "https", "test")),
        (x("9.9.9.9, 1.2.3.4, 10.1.1.1", "http, https, http"), ("1.2.3.4", "https", "test")),
        (x("1.2.3.4, 10.1.1.1", "https"), ("1.2.3.4", "https", "test")),
        (x("1.2.3.4", "", "a.example:8443"), ("1.2.3.4", "http", "a.example:8443")),
        (x("1.2.3.4", "", "[::1]:80"), ("1.2.3.4", "http", "[::1]:80")),
        (x("1.2.3.4", "", "evil.example, a.example"), ("1.2.3.4", "http", "a.example")),
        (x("1.2.3.4", "", "a.example/path"), ("1.2.3.4", "http", "test")),
        (x("1.2.3.4", "", "a b"), ("1.2.3.4", "http", "test")),
        (x("1.2.3.4", "", "user@a.example"), ("1.2.3.4", "http", "test")),
        # the other kind does not count
        ([("forwarded", "for=1.2.3.4;proto=https")], (LOCAL, "http", "test")),
    ],
)
async def test_x_forwarded(headers: Headers, found: tuple[str, str, str]) -> None:
    """Read from the right, while whoever wrote an element is trusted."""
    assert await seen(TrustedProxies([LOCAL, "10.0.0.0/8", "fd00::/8"]), headers) == found


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], (LOCAL, "http", "test")),
        (["for=1.2.3.4;proto=https;host=a.example"], ("1.2.3.4", "https", "a.example")),
        (["For=1.2.3.4; proto=https"], (LOCAL, "http", "test")),  # no blanks inside of an element
        (["FOR=1.2.3.4;Proto=HTTPS;by=10.0.0.1;ext=a"], ("1.2.3.4", "https", "test")),
        (['for="1.2.3.4:5678"'], ("1.2.3.4", "http", "test")),
        (['for="1.2.3.4:_port"'], ("1.2.3.4", "http", "test")),
        (['for="[2001:DB8::1]"'], ("2001:db8::1", "http", "test")),
        (['for="[2001:db8::1]:47011"'], ("2001:db8::1", "http", "test")),
        (['for="1.2\\.3.4"'], ("1.2.3.4", "http", "test")),  # a quoted pair
        (["for=9.9.9.9, for=1.2.3.4"], ("1.2.3.4", "http", "test")),
        (["for=9.9.9.9", "for=1.2.3.4,for=10.1.1.1"], ("1.2.3.4", "http", "test")),
        (["for=1.2.3.4;proto=https, for=10.1.1.1;proto=http"], ("1.2.3.4", "https", "test")),
        (["for=1.2.3.4, ,, for=10.1.1.1,"], ("1.2.3.4", "http", "test")),  # empty elements are none
        (['for=1.2.3.4;host="a.example:80"'], ("1.2.3.4", "http", "a.example:80")),
        (['for=1.2.3.4;x="a, for=6.6.6.6;y"'], ("1.2.3.4", "http", "test")),  # a comma in a quoted string
        (['for=1.2.3.4;x="a\\", for=6.6.6.6;y=\\"b"'], ("1.2.3.4", "http", "test")),
        # whatever the client has sent on the left, what the proxy has added is read as it is
        (['for="9.9.9.9', "for=1.2.3.4"], ("1.2.3.4", "http", "test")),
        (['for="', 'for=1.2.3.4;host="a.example"'], ("1.2.3.4", "http", "a.example")),
        (['for=9.9.9.9;x="a', 'for="[2001:db8::1]"'], ("2001:db8::1", "http", "test")),
        # nobody, or malformed: the reading ends there
        (["for=1.2.3.4, for=unknown;proto=https"], (LOCAL, "https", "test")),
        (["for=1.2.3.4, for=_hidden"], (LOCAL, "http", "test")),
        (["for=1.2.3.4, proto=https"], (LOCAL, "https", "test")),
        (["for=1.2.3.4, nonsense"], (LOCAL, "http", "test")),
        (["for=1.2.3.4, for=, for=10.1.1.1"], ("10.1.1.1", "http", "test")),
        (["for=[2001:db8::1]"], (LOCAL, "http", "test")),  # must be quoted
        (['for="2001:db8::1"'], (LOCAL, "http", "test")),  # must have brackets
        (["for=1.2.3.4;for=6.6.6.6"], (LOCAL, "http", "test")),  # twice
        (["for=1.2.3.4;proto=https;proto=http"], (LOCAL, "http", "test")),
        (['for="1.2.3.4'], (LOCAL, "http", "test")),
        (['for="1.2.3.4" x'], (LOCAL, "http", "test")),
        (["for = 1.2.3.4"], (LOCAL, "http", "test")),
        (['x="' + "," * 4000], (LOCAL, "http", "test")),
        (['for=1.2.3.4;host="a b"'], ("1.2.3.4", "http", "test")),
    ],
)
async def test_forwarded(values: list[str], found: tuple[str, str, str]) -> None:
    """RFC 7239 section 4, strictly; read from the right; the other kind of header does not count."""
    layer = TrustedProxies([LOCAL, "10.0.0.0/8"], header="forwarded")
    headers = [*x("6.6.6.6", "https", "evil.example"), *(("Forwarded", value) for value in values)]
    assert await seen(layer, headers) == found


@pytest.mark.parametrize("header", ["x-forwarded", "forwarded"])
async def test_from_others_nothing_counts(header: Any) -> None:
    """A peer that is not listed may say what it wants."""
    headers = [*x("1.2.3.4", "https", "evil.example"), ("forwarded", "for=1.2.3.4;proto=https;host=evil.example")]
    for trusted in (["10.0.0.0/8"], ["::1"], ["unix"], ["127.0.0.2"]):
        assert await seen(TrustedProxies(trusted, header=header), headers) == (LOCAL, "http", "test")


async def test_unix_sockets(tmp_path: Path) -> None:
    """Their peers have no address: they are trusted by the word ``unix``, and are the client where nothing is said."""
    for trusted, found in ((["unix"], ["1.2.3.4", "https"]), ([LOCAL], ["unix", "http"])):
        app = site(TrustedProxies(trusted))
        path = tmp_path / trusted[0]
        async with running(HTTPServer(app, bind=f"unix://{path}")):
            client = RawClient(*await asyncio.open_unix_connection(str(path)))
            try:
                _, _, body = await client.get("/", x_forwarded_for="1.2.3.4, unix:", x_forwarded_proto="https")
                assert msgspec.json.decode(body)[0] == "unix"  # what is no address ends the reading
                _, _, body = await client.get("/", x_forwarded_for="1.2.3.4", x_forwarded_proto="https")
                assert msgspec.json.decode(body)[:2] == found
            finally:
                await client.close()


TOKENS = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,8}", fullmatch=True)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12).filter(
    lambda text: text.count(",") < 4
)
QUOTED = TEXTS.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
ELEMENTS = st.dictionaries(TOKENS.map(str.lower), TOKENS | QUOTED, min_size=1, max_size=4)


@given(ELEMENTS, st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40))
def test_what_stands_on_the_left_changes_nothing(pairs: dict[str, str], left: str) -> None:
    """An element is read as it was written, whatever a client has put before it; and the rest is what was before."""
    element = ";".join(f"{name}={value}" for name, value in pairs.items())
    found, rest = _last_element(f"{left}, {element}")
    expected = {
        name: value if value[0] != '"' else value[1:-1].replace('\\"', "\0").replace("\\\\", "\\").replace("\0", '"')
        for name, value in pairs.items()
    }
    if '\\\\"' not in element:  # the plain reading above cannot tell these apart
        assert found == expected
    assert rest == left


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([],), "trusted is empty"),
        (("10.0.0.0/8",), "must be a list"),
        ((["10.0.0.1/8"],), "'10.0.0.1/8' must be an address.*host bits"),
        ((["localhost"],), "'localhost' must be an address"),
        ((["*"],), "must be an address"),
    ],
)
def test_misconfiguration(arguments: Any, match: str) -> None:
    """Each is refused at once, and says what would be valid."""
    with pytest.raises(ValueError, match=match):
        TrustedProxies(*arguments)
    other: Any = "x-real-ip"
    with pytest.raises(ValueError, match="must be 'x-forwarded' or 'forwarded'"):
        TrustedProxies([LOCAL], header=other)
