"""Routes as people write and read them: their parameters, the paths made from them, why one takes a request or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import ProtocolError
from forebay.http.converters import Converter
from forebay.http.router import Router, build_path, parameters
from forebay.wire.http1 import RequestRules

IDENTITY = "12345678-1234-1234-1234-1234567890ab"
DAY = Converter(date.fromisoformat, date.isoformat, date)


def test_parameters_of_a_route() -> None:
    """Their names and converters, those of the host first; own converters are known when they are given."""
    assert parameters("/") == {}
    assert parameters("/{a}/{b:int}/{c:path}") == {"a": "str", "b": "int", "c": "path"}
    assert parameters("/{a:day}", {"day": DAY}, "{tenant}.example.com") == {"tenant": "str", "a": "day"}
    with pytest.raises(ValueError, match="no converter 'day'; there are int, float, uuid, str, path"):
        parameters("/{a:day}")
    with pytest.raises(ValueError, match="there are int, float, uuid, str, path, day"):
        parameters("/{a:night}", {"day": DAY})
    with pytest.raises(ValueError, match=r"'/\{a\}' of host '\{a\}\.example' has two parameters called a"):
        parameters("/{a}", None, "{a}.example")


# -- paths that are built


@pytest.mark.parametrize(
    ("pattern", "params", "path"),
    [
        ("/", {}, "/"),
        ("/users/", {}, "/users/"),
        ("/a b/50%/%41/é", {}, "/a%20b/50%25/%2541/%C3%A9"),
        ("/a?b#c/d", {}, "/a%3Fb%23c/d"),
        ("/users/{id:int}/posts", {"id": -7}, "/users/-7/posts"),
        ("/{v:float}", {"v": 2}, "/2.0"),
        ("/{v:float}", {"v": 1e300}, "/1e+300"),
        ("/{v:uuid}", {"v": UUID(IDENTITY)}, f"/{IDENTITY}"),
        ("/{v}", {"v": "a/b c?é"}, "/a%2Fb%20c%3F%C3%A9"),
        ("/{v}", {"v": "a:b@c!$&'()*+,;=~.-_"}, "/a:b@c!$&'()*+,;=~.-_"),
        ("/{v}", {"v": "..."}, "/..."),
        ("/f/{v:path}", {"v": "a/b c//%"}, "/f/a/b%20c//%25"),
        ("/{a:day}/{b}", {"b": "x", "a": date(2024, 1, 2)}, "/2024-01-02/x"),
    ],
)
def test_a_path_that_is_built(pattern: str, params: dict[str, Any], path: str) -> None:
    """Percent-encoded as far as it must be; ``path`` keeps its slashes."""
    assert build_path(pattern, params, {"day": DAY}) == path


@pytest.mark.parametrize(
    ("pattern", "params", "message"),
    [
        ("/{a}/{b}/{c}", {"b": "x"}, "needs the parameter a, c"),
        ("/{a}", {"a": "x", "b": 1, "c": 2}, "has no parameter b, c; it has a"),
        ("/", {"b": 1}, "has no parameter b; it has none"),
        ("/{a:int}", {"a": "7"}, "parameter a does not fit: '7' is not an integer of 64 bits"),
        ("/{a:int}", {"a": True}, "True is not an integer"),
        ("/{a:int}", {"a": 2**63}, "is not an integer of 64 bits"),
        ("/{a:int}", {"a": 1.0}, "is not an integer of 64 bits"),
        ("/{a:float}", {"a": math.inf}, "inf is not a finite number"),
        ("/{a:float}", {"a": math.nan}, "nan is not a finite number"),
        ("/{a:float}", {"a": 2**53 + 1}, "is not a finite number of 64 bits"),
        ("/{a:float}", {"a": 10**400}, "is not a finite number"),
        ("/{a:float}", {"a": "1.5"}, "'1.5' is not a finite number"),
        ("/{a:float}", {"a": False}, "False is not a finite number"),
        ("/{a:uuid}", {"a": IDENTITY}, "is not a UUID"),
        ("/{a}", {"a": 7}, "7 is not a str"),
        ("/{a}", {"a": ""}, "must have a character"),
        ("/{a}", {"a": None}, "None is not a str"),
        ("/{a}", {"a": ".."}, r"no segment \. or \.\."),
        ("/{a}", {"a": "x/.."}, r"no segment \. or \.\."),
        ("/{a}", {"a": "a\0b"}, "no NUL"),
        ("/{a}", {"a": "\ud800"}, "parameter a does not fit"),
        ("/{a:path}", {"a": ""}, "must have a character"),
        ("/{a:path}", {"a": "/etc"}, "begins without a slash"),
        ("/{a:path}", {"a": "x/./y"}, r"no segment \. or \.\."),
        ("/{a:path}", {"a": 7}, "7 is not a str"),
        ("/{a:day}", {"a": "2024-01-02"}, "parameter a does not fit"),
        ("/{a:odd}", {"a": 3}, "its converter wrote int, not str"),
        ("/{a:lossy}", {"a": 3}, "parameter a does not fit: Invalid isoformat string: '3'"),
        ("/{a:none}", {"a": 3}, "no converter 'none'"),
    ],
)
def test_a_path_that_cannot_be_built(pattern: str, params: dict[str, Any], message: str) -> None:
    """The error names the route and the parameter."""
    wrong: Callable[[Any], Any] = abs
    own = {"day": DAY, "odd": Converter(int, wrong, int), "lossy": Converter(date.fromisoformat, str, date)}
    with pytest.raises(ValueError, match=message) as raised:
        build_path(pattern, params, own)
    assert repr(pattern) in str(raised.value)


VALUES = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "uuid": st.uuids(),
    "str": st.text(min_size=1, max_size=12),
    "path": st.text(st.sampled_from("a/.%é \\"), min_size=1, max_size=12),
    "day": st.dates(),
}


@given(st.data())
def test_what_is_built_is_found_again(data: st.DataObject) -> None:
    """For any parameters, the path that is built is one our server takes, and binds just these; or is refused."""
    kinds = data.draw(st.lists(st.sampled_from(["int", "float", "uuid", "str", "day", "x/é", ""]), max_size=4))
    kinds += data.draw(st.sampled_from([[], ["path"]]))
    pattern = "".join(f"/{{p{i}:{kind}}}" if kind in VALUES else f"/{kind}" for i, kind in enumerate(kinds)) or "/"
    params = {f"p{i}": data.draw(VALUES[kind]) for i, kind in enumerate(kinds) if kind in VALUES}
    try:
        path = build_path(pattern, params, {"day": DAY})
    except ValueError:
        texts = [value for value in params.values() if isinstance(value, str)]
        assert any("\0" in text or {".", ".."} & set(text.split("/")) or text[0] == "/" for text in texts)
        return
    (_, _, raw_path, query), _ = RequestRules().read(f"GET {path} HTTP/1.1".encode(), b"Host: a\r\n\r\n")
    assert (raw_path.decode(), query) == (path, b"")
    router: Router[int] = Router({"day": DAY})
    router.add("GET", pattern, 1)
    found = router.find("GET", raw_path)
    assert found is not None
    assert repr(found[1] or {}) == repr(params)


# -- why


def reasons(router: Router[str], method: str, path: str, host: str = "") -> dict[str, str]:
    """Why each route does not take a request; empty for the one that does."""
    verdicts = router.explain(method, path.encode(), host.encode()).verdicts
    return {verdict.entry.value: verdict.reason for verdict in verdicts}


def test_why_a_route_takes_no_request() -> None:
    """One sentence for each route, which names what stands in the way."""
    router: Router[str] = Router({"day": DAY})
    for pattern in (
        "/users/{id:int}",
        "/users/{name}",
        "/users/me",
        "/users/me/",
        "/users/{at:day}",
        "/users/{name}/posts/{post:int}",
        "/users",
        "/{rest:path}",
        "/groups/{rest:path}",
    ):
        router.add("GET", pattern, pattern)
    router.add("POST", "/users/me", "POST")
    router.add("*", "/users/me", "*")
    router.add("GET", "/users/me", "hosted", "*.example.com")
    assert reasons(router, "GET", "/users/me") == {
        "/users/{id:int}": "segment 2 'me' is not an int",
        "/users/{name}": "comes after /users/me, which is more specific",
        "/users/me": "",
        "/users/me/": "it ends in a slash, which the path does not",
        "/users/{at:day}": "segment 2 'me' is not a day",
        "/users/{name}/posts/{post:int}": "longer than the path, which has no segment 3 for 'posts'",
        "/users": "shorter than the path, whose segment 2 'me' it does not take",
        "/{rest:path}": "comes after /users/me, which is more specific",
        "/groups/{rest:path}": "segment 1 'users' is not 'groups'",
        "POST": "method GET is not POST",
        "*": "comes after the GET route of the same pattern, which is more specific",
        "hosted": "no host, it wants *.example.com",
    }
    near = {verdict.entry.value for verdict in router.explain("GET", b"/users/me").near}
    assert near == set(reasons(router, "GET", "/users/me")) - {"/users/me", "/users/{name}/posts/{post:int}"}
    hosted = reasons(router, "GET", "/users/me", "a.example.com")
    assert hosted["hosted"] == ""
    assert hosted["/users/me"] == "comes after /users/me of host *.example.com, whose host is more specific"
    assert reasons(router, "GET", "/users/me", "b.example")["hosted"] == "host 'b.example' is not *.example.com"
    assert reasons(router, "PUT", "/users/me")["*"] == ""
    empty = reasons(router, "GET", "/users/")
    assert empty["/users/{name}"] == "segment 2 is empty, which {name} never is"
    assert empty["/users"] == "the path ends in a slash, which it does not"
    assert empty["/users/me"] == "segment 2 '' is not 'me'"
    assert empty["/{rest:path}"] == ""
    assert (
        reasons(router, "GET", "/users")["/users/{id:int}"] == "longer than the path, which has no segment 2 for {id}"
    )


def test_an_explanation() -> None:
    """It has the route that takes the request, what it binds, and those that come near; or none."""
    router: Router[str] = Router()
    for pattern in ("/a/{id:int}", "/a/{name}", "/b/c/d"):
        router.add("GET", pattern, pattern)
    explanation = router.explain("GET", b"/a/7")
    assert explanation.taken == ("GET", None, "/a/{id:int}", "/a/{id:int}")
    assert explanation.params == {"id": 7}
    assert [verdict.entry.pattern for verdict in explanation.near] == ["/a/{name}"]
    assert len(explanation.verdicts) == 3
    nothing = router.explain("GET", b"/x/y/z")
    assert (nothing.taken, nothing.params, nothing.near) == (None, {}, [])
    with pytest.raises(ProtocolError, match="UTF-8"):
        router.explain("GET", b"/%ff")
