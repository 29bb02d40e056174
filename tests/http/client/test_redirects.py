"""Redirects: RFC 9110 section 15.4 as tables, and what other origins are not told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import UpstreamProtocolError
from forebay.http.client.content import EMPTY, Content, Streamed
from forebay.http.client.endpoint import Endpoint, unix_endpoint
from forebay.http.client.redirects import Redirects, redirected
from forebay.http.client.request import ClientRequest
from forebay.http.client.url import URL, parse_url
from forebay.http.headers import MutableHeaders

RULES = Redirects()
HERE = "https://a.example/dir/page?q=1"


def request_of(
    method: str = "GET",
    url: str = HERE,
    headers: dict[str, str] | None = None,
    content: Content = EMPTY,
    **more: Any,
) -> ClientRequest:
    """A request that is answered with a redirect."""
    return ClientRequest(method, parse_url(url), MutableHeaders(headers), content, **more)


def follow(
    request: ClientRequest, status: int = 302, location: str | None = "/next", rules: Redirects = RULES
) -> ClientRequest:
    """The request that follows, which there is."""
    found = redirected(request, status, location, rules, request.url)
    assert found is not None
    return found


METHODS = [
    # status, method; then, and whether it keeps its content
    (301, "GET", "GET", True),
    (301, "HEAD", "HEAD", True),
    (301, "POST", "GET", False),
    (301, "PUT", "PUT", True),
    (301, "DELETE", "DELETE", True),
    (302, "GET", "GET", True),
    (302, "HEAD", "HEAD", True),
    (302, "POST", "GET", False),
    (302, "PUT", "PUT", True),
    (302, "PATCH", "PATCH", True),
    (303, "GET", "GET", False),
    (303, "HEAD", "HEAD", False),
    (303, "POST", "GET", False),
    (303, "PUT", "GET", False),
    (303, "DELETE", "GET", False),
    (307, "GET", "GET", True),
    (307, "HEAD", "HEAD", True),
    (307, "POST", "POST", True),
    (307, "PUT", "PUT", True),
    (308, "GET", "GET", True),
    (308, "POST", "POST", True),
    (308, "DELETE", "DELETE", True),
    (308, "QUERY", "QUERY", True),
]


@pytest.mark.parametrize(("status", "method", "then", "keeps"), METHODS)
def test_methods(status: int, method: str, then: str, keeps: bool) -> None:
    """Which method follows; the content goes with its fields, or both stay."""
    headers = {"Content-Type": "text/plain", "content-language": "en", "accept": "*/*", "idempotency-key": "1"}
    content = Content(b"abc", "text/plain")
    found = follow(request_of(method, headers=headers, content=content, idempotent=True, expect_continue=True), status)
    assert (found.method, found.content is content) == (then, keeps)
    assert found.expect_continue is keeps
    assert found.idempotent is (True if keeps else None)
    kept = ["Content-Type", "content-language"] if keeps else []
    assert [name for name, _ in found.headers.pairs()] == [*kept, "accept", "idempotency-key"]


@pytest.mark.parametrize(
    ("status", "location"),
    [
        *((status, "/next") for status in (200, 201, 300, 304, 305, 306, 309, 399, 400, 404, 503)),
        *((status, None) for status in (301, 302, 303, 307, 308)),
        (302, ""),
    ],
)
def test_what_is_not_followed(status: int, location: str | None) -> None:
    """Other statuses, a 201 with its ``location`` too, and redirects that do not say where to."""
    assert redirected(request_of(), status, location, RULES, parse_url(HERE)) is None


PLACES = [
    # location, from HERE: where it leads, and the fragment
    ("https://b.example/x", "https://b.example/x", ""),
    ("https://b.example", "https://b.example/", ""),
    ("//b.example/x", "https://b.example/x", ""),
    ("/x?y", "https://a.example/x?y", ""),
    ("x", "https://a.example/dir/x", ""),
    ("../x", "https://a.example/x", ""),
    ("../../../x", "https://a.example/x", ""),
    ("?y=2", "https://a.example/dir/page?y=2", ""),
    ("#top", "https://a.example/dir/page?q=1", "top"),
    ("/x#", "https://a.example/x", ""),
    ("HTTPS://B.Example:443/x", "https://b.example/x", ""),
    ("https://b.example:8443/x", "https://b.example:8443/x", ""),
    ("/a b", "https://a.example/a%20b", ""),
    ("/\xc3\xbc", "https://a.example/%C3%BC", ""),  # UTF-8, as the octets that headers are
    ("/\xfc", "https://a.example/%FC", ""),  # latin-1, which stays that
    ("/\x85", "https://a.example/%85", ""),
    ("/ü€", "https://a.example/%C3%BC%E2%82%AC", ""),  # of an answer without a server
    ("/%zz", "https://a.example/%25zz", ""),
    ("https://b\xc3\xbccher.example/", "https://xn--bcher-kva.example/", ""),
]


@pytest.mark.parametrize(("location", "url", "fragment"), PLACES)
def test_places(location: str, url: str, fragment: str) -> None:
    """References are resolved; what a URL cannot hold is encoded."""
    found = follow(request_of(), location=location)
    assert (str(found.url), found.url.fragment) == (url, fragment)


@pytest.mark.parametrize(
    ("location", "fragment"), [("/x", "here"), ("/x#there", "there"), ("/x#", ""), ("https://b.example/", "here")]
)
def test_fragments_are_inherited(location: str, fragment: str) -> None:
    """Unless the redirect has one (RFC 9110 section 10.2.2)."""
    assert follow(request_of(url=f"{HERE}#here"), location=location).url.fragment == fragment


@pytest.mark.parametrize(
    "location",
    [
        "ftp://b.example/",
        "javascript:alert(1)",
        "data:text/plain,a",
        "file:///etc/passwd",
        "unix:///run/app.sock",
        "https://",
        "https:///x",
        "https://b.example:0/",
        "https://b.example:99999/",
        "https://user:secret@b.example/",
        "https://b example/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "/x\r\nhost: b.example",
        "/x\0",
        " ",
    ],
)
def test_leading_nowhere(location: str) -> None:
    """What is no URL of HTTP is an error that names both, and tells no password."""
    with pytest.raises(
        UpstreamProtocolError, match=r"^GET https://a\.example/dir/page\?q=1: redirected with 302 to"
    ) as e:
        follow(request_of(), location=location)
    assert "secret" not in str(e.value)


HEADERS = {
    "Accept": "*/*",
    "Accept-Language": "en",
    "User-Agent": "x",
    "Range": "bytes=0-",
    "If-None-Match": '"1"',
    "Cache-Control": "no-cache",
    "Content-Type": "text/plain",
    "traceparent": "00-0-0-0",
    "tracestate": "a=b",
    "Authorization": "Bearer secret",
    "Cookie": "a=secret",
    "Proxy-Authorization": "Basic secret",
    "X-API-Key": "secret",
    "X-Request-ID": "1",
    "Referer": "https://a.example/?secret",
    "Origin": "https://a.example",
    "Host": "other.example",
    "Acceptance": "secret",
    "iffy": "secret",
}
PASSING = list(HEADERS)[:9]


@pytest.mark.parametrize(
    ("location", "all_of_them"),
    [
        ("/x", True),
        ("https://a.example/x", True),
        ("https://A.EXAMPLE:443/x", True),
        ("https://b.example/x", False),
        ("https://x.a.example/x", False),
        ("https://a.example:8443/x", False),
        ("http://a.example/x", False),
        ("http://a.example:443/x", False),
        ("https://a.example./x", False),
    ],
)
def test_what_another_origin_is_told(location: str, all_of_them: bool) -> None:
    """Another scheme, host or port gets what is on the list, and no credentials."""
    found = follow(request_of(headers=HEADERS), 307, location, Redirects(allow_downgrade=True))
    assert [name for name, _ in found.headers.pairs()] == (list(HEADERS) if all_of_them else PASSING)
    assert found.foreign is not all_of_them
    assert all_of_them or "secret" not in str(found.headers.pairs())


def test_headers_that_are_to_be_kept() -> None:
    """By their names, in any case, each value of them."""
    request = request_of(headers={"x-request-id": "1", "x-other": "2"})
    request.headers.add("X-Request-ID", "3")
    found = follow(request, location="https://b.example/", rules=Redirects(keep_headers=["X-Request-Id"]))
    assert found.headers.pairs() == [("x-request-id", "1"), ("X-Request-ID", "3")]


def test_back_to_the_first_origin() -> None:
    """What was left behind does not come back, and it stays foreign: another has chosen where to."""
    first = request_of(headers={"authorization": "secret", "accept": "*/*"})
    second = follow(first, location="https://b.example/")
    third = redirected(second, 302, "https://a.example/transfer", RULES, first.url)
    assert third is not None
    assert third.foreign
    assert third.headers.pairs() == [("accept", "*/*")]


def test_no_downgrade() -> None:
    """From https to http only where that was allowed; the other way always."""
    with pytest.raises(UpstreamProtocolError, match=r"^GET https://a.*to http://a\.example/, from https to http"):
        follow(request_of(), location="http://a.example/")
    assert follow(request_of(), location="http://a.example/", rules=Redirects(allow_downgrade=True)).url.port == 80
    assert follow(request_of(url="http://a.example/"), location="https://a.example/").url.secure


def test_who_knows_a_server_by_another_name() -> None:
    """Says where it leads, before it is asked whether that is another origin; and whether its host was named."""
    there, asked = unix_endpoint("/run/a.sock"), []

    def find(url: URL, named: bool) -> tuple[URL, Endpoint | None]:
        asked.append((str(url), named))
        return parse_url(HERE).with_target(url.target), there

    request = request_of(headers=HEADERS, tried=["a"])
    for location in ("http://inside:81/x", "//inside:81/x", "/x", "x", "?a=//b"):
        found = redirected(request, 302, location, RULES, request.url, find)
        assert found is not None
        assert [name for name, _ in found.headers.pairs()] == list(HEADERS)
        assert (found.url.origin, found.endpoint, found.tried, found.foreign) == ("https://a.example", there, [], False)
    assert [named for _, named in asked] == [True, True, False, False, False]
    assert asked[0][0] == "http://inside:81/x"


async def _pieces() -> AsyncIterator[bytes]:
    yield b"a"


def test_content_that_cannot_be_sent_again() -> None:
    """Is an error where it would have to be, and nothing where it is left behind."""
    for status in (307, 308):
        with pytest.raises(
            UpstreamProtocolError, match=f"with {status} to https://a.example/next, but its content cannot"
        ):
            follow(request_of("POST", content=Streamed(_pieces())), status)
    for status in (301, 302, 303):
        assert follow(request_of("POST", content=Streamed(_pieces())), status).content is EMPTY


def test_the_request_is_not_changed() -> None:
    """It is in the history as it was."""
    request = request_of("POST", headers=dict(HEADERS), content=Content(b"a"))
    follow(request, 302, "https://b.example/")
    assert (request.method, str(request.url), request.content.data) == ("POST", HERE, b"a")
    assert request.headers.pairs() == list(HEADERS.items())
    assert not request.foreign


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"limit": -1}, "limit -1: must be 0 to 100"),
        ({"limit": 101}, "limit 101: must be 0 to 100"),
        ({"keep_headers": "x-id"}, "must be a list of names"),
        ({"keep_headers": ["x id"]}, "'x id': must be the name of a header field"),
        *(
            ({"keep_headers": [name]}, "is of one origin")
            for name in ("Authorization", "cookie", "proxy-authorization", "x-api-key", "host")
        ),
    ],
)
def test_rules_that_make_no_sense(options: dict[str, Any], match: str) -> None:
    """Are refused by name, as are credentials for everybody."""
    with pytest.raises(ValueError, match=match):
        Redirects(**options)


@given(st.text(), st.sampled_from([301, 302, 303, 307, 308]))
def test_any_location(location: str, status: int) -> None:
    """Leads somewhere, or is an error of the server's; what is sent then is one line."""
    try:
        found = redirected(request_of(), status, location, RULES, parse_url(HERE))
    except UpstreamProtocolError:
        return
    if found is not None:
        assert found.url.target.isprintable()
        assert found.url.target.isascii()
        assert not {" ", "\r", "\n"} & set(found.url.target + found.url.authority)
