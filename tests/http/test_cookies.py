"""Cookies: what clients send, and what they are told to keep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http import App, Request, Response
from forebay.http.binding import Cookie
from forebay.http.cookies import parse_cookies
from forebay.testing import TestClient


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b"a=1"], {"a": "1"}),
        ([b"a=1; b=2;c=3"], {"a": "1", "b": "2", "c": "3"}),
        ([b" a = 1 ;\tb\t=\t2 "], {"a": "1", "b": "2"}),
        ([b"a=1; a=2", b"a=3"], {"a": "1"}),  # the longer path comes first: RFC 6265 section 5.4
        ([b"a=1", b"b=2"], {"a": "1", "b": "2"}),
        ([b"a=b=c"], {"a": "b=c"}),
        ([b'a="quoted; b=2'], {"a": '"quoted', "b": "2"}),
        ([b'a="x"'], {"a": '"x"'}),
        ([b"a=%20"], {"a": "%20"}),
        ([b"a="], {"a": ""}),
        ([b"a; =b; ; =; c=1"], {"c": "1"}),
        ([b"\xe9=\xff"], {"é": "ÿ"}),
        ([b"A=1; a=2"], {"A": "1", "a": "2"}),
        ([b""], {}),
        ([], {}),
    ],
)
def test_what_is_sent(lines: list[bytes], expected: dict[str, str]) -> None:
    """Pairs between semicolons, without a look at what they may mean; the first of a name counts."""
    headers = [(b"Host", b"x"), *((b"CooKie", line) for line in lines), (b"cookie2", b"z=1")]
    assert parse_cookies(headers) == expected


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_octets(lines: list[bytes]) -> None:
    """Nothing makes it fail, and nothing comes out that did not go in."""
    found = parse_cookies([(b"cookie", line) for line in lines])
    whole = b"\n".join(lines).decode("latin-1")
    assert all(name and name in whole and value in whole for name, value in found.items())


def cookie(**options: Any) -> str:
    """The header that sets a cookie."""
    response = Response("x")
    response.set_cookie("a", "1", **options)
    return response.headers["set-cookie"]


def test_what_is_set() -> None:
    """Every attribute, in the words of the RFC; careful by default."""
    assert cookie() == "a=1; Path=/; HttpOnly; SameSite=Lax"
    assert cookie(path=None, httponly=False, samesite=None) == "a=1"
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    assert cookie(
        max_age=60, expires=moment, path="/x", domain="a.example", secure=True, samesite="none", partitioned=True
    ) == (
        "a=1; Max-Age=60; Expires=Fri, 02 Jan 2026 01:04:05 GMT; Domain=a.example; Path=/x; Secure; HttpOnly; "
        "SameSite=None; Partitioned"
    )
    assert cookie(max_age=-5).startswith("a=1; Max-Age=-5;")
    response = Response("x")
    response.set_cookie("a")
    response.set_cookie("b", "2", samesite="strict")
    response.delete_cookie("__Host-c", secure=True, partitioned=True)
    assert response.headers.get_all("set-cookie") == [
        "a=; Path=/; HttpOnly; SameSite=Lax",
        "b=2; Path=/; HttpOnly; SameSite=Strict",
        "__Host-c=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax; Partitioned",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": ""}, "must be a token"),
        ({"name": "a b"}, "must be a token"),
        ({"name": "a=b"}, "must be a token"),
        ({"name": "a\n"}, "must be a token"),
        ({"name": "ä"}, "must be a token"),
        ({"value": "a;b"}, "its value may not have"),
        ({"value": 'a"'}, "its value may not have"),
        ({"value": "a b"}, "its value may not have"),
        ({"value": "a\r\nx: y"}, "its value may not have"),
        ({"value": "a\n"}, "its value may not have"),
        ({"value": "é"}, "its value may not have"),
        ({"value": "x" * 4096}, "4097 bytes of name and value, the most is 4096"),
        ({"path": "/a;b"}, "characters that it cannot have"),
        ({"path": "/a\r\nx: y"}, "characters that it cannot have"),
        ({"path": "/" + "x" * 1024}, "path of 1025 bytes, the most is 1024"),
        ({"domain": "a.example; Secure"}, "characters that it cannot have"),
        ({"samesite": "none"}, "needs secure=True"),
        ({"samesite": "Lax; Domain=x"}, "must be 'strict', 'lax', 'none'"),
        ({"max_age": "5; Domain=x"}, "must be whole seconds"),
        ({"max_age": 1.5}, "must be whole seconds"),
        ({"partitioned": True}, "needs secure=True"),
        ({"name": "__Secure-a"}, "needs secure=True"),
        ({"name": "__host-a"}, "needs secure=True"),
        ({"name": "__Host-a", "secure": True, "path": "/x"}, "needs path='/' and no domain"),
        ({"name": "__Host-a", "secure": True, "domain": "x"}, "needs path='/' and no domain"),
        ({"expires": datetime(2026, 1, 1)}, "must have a time zone"),  # noqa: DTZ001  # that is the error
    ],
)
def test_what_cannot_be_set(arguments: dict[str, Any], said: str) -> None:
    """What a browser would drop, or read as something else, is an error that says so; nothing is set."""
    response = Response("x")
    with pytest.raises(ValueError, match=said):
        response.set_cookie(arguments.pop("name", "a"), **arguments)
    assert "set-cookie" not in response.headers


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='",;\\'), max_size=60),
    st.from_regex(r"[a-zA-Z0-9_!#$%&'*+.^`|~-]{1,20}", fullmatch=True).filter(lambda name: not name.startswith("__")),
)
def test_what_is_set_is_sent_again(value: str, name: str) -> None:
    """A browser sends the pair as it is, and it is read as what was set."""
    response = Response("x")
    response.set_cookie(name, value, expires=datetime(2030, 1, 1, tzinfo=UTC))
    pair = response.headers["set-cookie"].partition("; ")[0]
    assert parse_cookies([(b"cookie", pair.encode("latin-1"))]) == {name: value}
    response.headers.encode()


async def test_from_request_to_request() -> None:
    """Set by one request, there in the next one, gone when it is deleted."""
    app = App()

    @app.get("/")
    def show(request: Request, sid: Annotated[str | None, Cookie()] = None) -> dict[str, Any]:
        return {"sid": sid, "all": dict(request.cookies)}

    @app.post("/")
    def store(sid: str) -> Response:
        response = Response(None)
        response.set_cookie("sid", sid, max_age=60)
        return response

    @app.delete("/")
    def forget() -> Response:
        response = Response(None)
        response.delete_cookie("sid")
        return response

    async with TestClient(app) as client:
        assert (await client.get("/")).json() == {"sid": None, "all": {}}
        await client.post("/?sid=abc")
        assert (await client.get("/")).json() == {"sid": "abc", "all": {"sid": "abc"}}
        await client.delete("/")
        assert (await client.get("/")).json() == {"sid": None, "all": {}}
