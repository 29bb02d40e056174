"""Routes one by one: patterns and hosts that are none, converters, methods, slashes, and what is there already.

What takes which request is in test_router_table.py; any routes and requests are in test_router_reference.py.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import pytest

from forebay.errors import ProtocolError
from forebay.http.converters import Converter
from forebay.http.router import Router, parameters

PATTERNS = [
    "/",
    "/users",
    "/users/",
    "/users/me",
    "/users/{id:int}",
    "/users/{id:uuid}",
    "/users/{name}",
    "/users/{id:int}/posts",
    "/users/{name}/files/{rest:path}",
    "/price/{value:float}",
    "/a/b/c",
    "/a/{x}/d",
    "/{top}/b/e",
    "/static/{rest:path}",
    "/static/x/y",
]
IDENTITY = "12345678-1234-1234-1234-1234567890ab"
DAY = Converter(date.fromisoformat, date.isoformat, date)
WORD = Converter(str, str, str)


def router_of(*patterns: str, method: str = "GET") -> Router[str]:
    """A router with ``patterns``, each registered as its own value."""
    router: Router[str] = Router()
    for pattern in patterns:
        assert router.add(method, pattern, pattern) is None
    return router


@pytest.mark.parametrize(
    ("path", "pattern", "values"),
    [
        ("/", "/", {}),
        ("/users", "/users", {}),
        ("/users/", "/users/", {}),
        ("/users/me", "/users/me", {}),
        ("/us%65rs/m%65", "/users/me", {}),
        ("/users/7", "/users/{id:int}", {"id": 7}),
        ("/users/-7", "/users/{id:int}", {"id": -7}),
        ("/users/9223372036854775807", "/users/{id:int}", {"id": 2**63 - 1}),
        ("/users/-9223372036854775808", "/users/{id:int}", {"id": -(2**63)}),
        ("/users/9223372036854775808", "/users/{name}", {"name": "9223372036854775808"}),
        ("/users/" + "9" * 5000, "/users/{name}", {"name": "9" * 5000}),
        ("/users/%D9%A1", "/users/{name}", {"name": "\u0661"}),
        ("/users/1_0", "/users/{name}", {"name": "1_0"}),
        (f"/users/{IDENTITY}", "/users/{id:uuid}", {"id": UUID(IDENTITY)}),
        ("/users/" + IDENTITY.replace("-", ""), "/users/{name}", {"name": IDENTITY.replace("-", "")}),
        ("/users/bob", "/users/{name}", {"name": "bob"}),
        ("/users/a%2Fb", "/users/{name}", {"name": "a/b"}),
        ("/users/%C3%A9", "/users/{name}", {"name": "é"}),
        ("/users/a+b", "/users/{name}", {"name": "a+b"}),
        ("/users/7/posts", "/users/{id:int}/posts", {"id": 7}),
        ("/users/7/files/x/y", "/users/{name}/files/{rest:path}", {"name": "7", "rest": "x/y"}),
        ("/price/1.5", "/price/{value:float}", {"value": 1.5}),
        ("/price/-2", "/price/{value:float}", {"value": -2.0}),
        ("/a/b/c", "/a/b/c", {}),
        ("/a/b/d", "/a/{x}/d", {"x": "b"}),
        ("/a/b/e", "/{top}/b/e", {"top": "a"}),
        ("/static/x/y", "/static/x/y", {}),
        ("/static/x/z", "/static/{rest:path}", {"rest": "x/z"}),
        ("/static/x//z", "/static/{rest:path}", {"rest": "x//z"}),
    ],
)
def test_the_best_route_takes_a_path(path: str, pattern: str, values: dict[str, Any]) -> None:
    """A literal comes before typed parameters, then ``str``, then the rest; choices that lead nowhere are undone."""
    found = router_of(*PATTERNS).find("GET", path.encode())
    assert found is not None
    assert found[0] == pattern
    assert (found[1] or {}) == values


@pytest.mark.parametrize(
    "path",
    ["/nothing/here", "/users//", "/users//posts", "//", "/users/7/", "/users/7/posts/", "/price/nan", "/price/1e999"],
)
def test_no_route_takes_a_path(path: str) -> None:
    """Slashes count, parameters are never empty, and numbers are finite."""
    assert router_of(*PATTERNS).find("GET", path.encode()) is None


def test_a_path_that_is_not_utf8() -> None:
    """Octets that are not UTF-8 are the client's error, not a crash."""
    with pytest.raises(ProtocolError, match="UTF-8"):
        router_of(*PATTERNS).find("GET", b"/users/%ff")
    with pytest.raises(ProtocolError, match="UTF-8"):
        router_of(*PATTERNS).find("GET", b"/users/\xff")


def test_a_route_without_the_method_leads_nowhere() -> None:
    """The next best route takes a request whose method the best one does not."""
    router = router_of("/users/me", "/users/{name}")
    assert router.add("DELETE", "/users/{id:int}", "delete by id") is None
    assert router.add("DELETE", "/users/{name}", "delete by name") is None
    assert router.find("DELETE", b"/users/me") == ("delete by name", {"name": "me"})
    assert router.find("GET", b"/users/5") == ("/users/{name}", {"name": "5"})
    assert router.find("PUT", b"/users/me") is None
    assert router.allowed(b"/users/me") == ["DELETE", "GET", "HEAD", "OPTIONS"]
    assert router.allowed(b"/elsewhere") == []


def test_head_falls_back_to_get() -> None:
    """GET routes answer HEAD, unless there is one for HEAD."""
    router = router_of("/users/{name}", "/plain")
    assert router.find("HEAD", b"/plain") == ("/plain", None)
    assert router.find("HEAD", b"/users/x") == ("/users/{name}", {"name": "x"})
    router.add("HEAD", "/users/{name}", "own")
    assert router.find("HEAD", b"/users/x") == ("own", {"name": "x"})


def test_the_same_pattern_twice() -> None:
    """Patterns that match the same paths are the same, whatever their parameters are called; the first one stays."""
    router = router_of("/users/{id}")
    assert router.add("GET", "/users/{name}", "second") == "/users/{id}"
    assert router.add("POST", "/users/{name}", "third") is None
    assert router.find("GET", b"/users/x") == ("/users/{id}", {"id": "x"})
    assert router.find("POST", b"/users/x") == ("third", {"name": "x"})


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("users", "must begin with a slash"),
        ("", "must begin with a slash"),
        ("/a/{id:number}", "int, float, uuid, str, path"),
        ("/a/{rest:path}/b", "must be last"),
        ("/a/{id}/{id}", "two parameters called id"),
        ("/a/x{id}", "must be a literal"),
        ("/a/{id}.json", "text beside a parameter in one segment is not supported"),
        ("/a/{id}{b}", "must be a literal"),
        ("/a/{id:INT}", "must be a literal"),
        ("/a/{1}", "must be a literal"),
        ("/a/}{", "must be a literal"),
        ("/a/{}", "must be a literal"),
        ("/a/../b", "no request has the segment '..'"),
        ("/.", "no request has the segment '.'"),
        ("/a\0b", "no request has the segment"),
        ("/a/\udc80", "no request has the segment"),
    ],
)
def test_a_pattern_that_is_none(pattern: str, message: str) -> None:
    """The error says what is wrong, and what would be right."""
    with pytest.raises(ValueError, match=message):
        parameters(pattern)
    router: Router[int] = Router()
    with pytest.raises(ValueError, match=message):
        router.add("GET", pattern, 0)
    assert list(router.entries()) == []


# -- converters


def test_own_converters_are_tried_in_their_order() -> None:
    """Behind the built-in typed ones and before ``str``, as they were given."""
    both = {"b": WORD, "a": WORD}
    for converters, first in ((both, "/{v:b}"), (dict(reversed(both.items())), "/{v:a}")):
        router: Router[str] = Router(converters)
        for pattern in ("/{v}", "/{v:a}", "/{v:b}", "/{v:uuid}"):
            router.add("GET", pattern, pattern)
        assert router.find("GET", b"/x") == (first, {"v": "x"})
        assert router.find("GET", f"/{IDENTITY}".encode()) == ("/{v:uuid}", {"v": UUID(IDENTITY)})
        assert list(router.converters) == ["int", "float", "uuid", *converters, "str", "path"]


@pytest.mark.parametrize("name", ["int", "float", "uuid", "str", "path"])
def test_built_in_converters_stay(name: str) -> None:
    """A name that is built in cannot be given again."""
    with pytest.raises(ValueError, match=f"converter '{name}' is built in already"):
        Router({name: WORD})


@pytest.mark.parametrize("name", ["", "Day", "1day", "a-b", "a b", "_day", "tag\n"])
def test_names_of_converters(name: str) -> None:
    """A name that no pattern could have is refused."""
    with pytest.raises(ValueError, match="a name is a small letter"):
        Router({name: WORD})


def test_what_is_no_converter() -> None:
    """A bare function has no way back: the error says what is wanted."""
    wrong: Any = {"day": date.fromisoformat}
    with pytest.raises(TypeError, match="converter 'day' must be a Converter, not builtin_function_or_method"):
        Router(wrong)


def test_a_defect_in_a_converter_is_not_hidden() -> None:
    """Only ``ValueError`` means that it does not match."""
    router: Router[int] = Router({"money": Converter(Decimal, str, Decimal)})
    router.add("GET", "/{v:money}", 1)
    assert router.find("GET", b"/1.50") == (1, {"v": Decimal("1.50")})
    with pytest.raises(InvalidOperation):
        router.find("GET", b"/x")


# -- hosts


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*",
        "*.",
        "{t}",
        "{t}.",
        "a.*.example",
        "a.{t}.example",
        "{t}.{u}.example",
        "{t:int}.example",
        "x{t}.example",
        "*x.example",
        "example.com:80",
        "http://example.com",
        "example.com/",
        "example.com.",
        ".example.com",
        "a..example",
        "-a.example",
        "a-.example",
        "bücher.example",
        "\u212aelvin.example",
        "*.bücher.example",
        "*.[::1]",
        "::1",
        "a b.example",
        "a." * 127 + "example",
        "*." + "a." * 126 + "b",
        "a" * 64 + ".example",
    ],
)
def test_a_host_that_is_none(host: str) -> None:
    """The error says what would be right, and nothing is registered."""
    router: Router[int] = Router()
    with pytest.raises(ValueError, match=r"must be a name like api\.example\.com, \*\.example\.com or \{tenant\}"):
        router.add("GET", "/", 1, host)
    assert list(router.entries()) == []
    assert repr(router) == "<Router routes=0 hosts=0>"


def test_the_same_host_twice() -> None:
    """Neither case nor the names of parameters make two hosts; host and path may not bind the same name."""
    router: Router[int] = Router()
    assert router.add("GET", "/{a}", 1, "{t}.example.com") is None
    assert router.add("GET", "/{b}", 2, "{u}.EXAMPLE.com") == 1
    assert router.add("POST", "/{b}", 3, "{u}.example.com") is None
    assert router.add("GET", "/{a}", 4, "*.example.com") is None
    assert router.add("GET", "/{a}", 5, "x.example.com") is None
    assert router.add("GET", "/{a}", 6, "X.example.com") == 5
    assert router.find("POST", b"/p", b"q.example.com") == (3, {"u": "q", "b": "p"})
    with pytest.raises(ValueError, match="two parameters called t"):
        router.add("GET", "/{t}", 7, "{t}.example.com")
    assert repr(router) == "<Router routes=4 hosts=3>"


def test_hosts_of_any_length() -> None:
    """What is longer than a name can be matches no host pattern, and costs nothing."""
    router: Router[int] = Router()
    router.add("GET", "/", 1, "*.example.com")
    router.add("GET", "/", 2)
    assert router.find("GET", b"/", b"a." * 120 + b"example.com") == (1, None)
    assert router.find("GET", b"/", b"a." * 121 + b"example.com:65535") == (1, None)
    assert router.find("GET", b"/", b"a." * 122 + b"example.com") == (2, None)
    assert router.find("GET", b"/", b"a." * 500_000 + b"example.com") == (2, None)
    assert router.find("GET", b"/", b"\xff\xfe.example.com") == (1, None)


def test_a_router_with_hosts_without_a_host() -> None:
    """Calls without a host see the routes for every host, before and after the first host pattern."""
    router = router_of("/a", "/{x}")
    assert router.find("GET", b"/a") == ("/a", None)
    router.add("GET", "/a", "hosted", "a.example")
    router.add("GET", "/b", "late")
    assert router.find("GET", b"/a") == ("/a", None)
    assert router.find("GET", b"/b") == ("late", None)
    assert router.find("GET", b"/a", b"a.example") == ("hosted", None)
    with pytest.raises(ProtocolError, match="UTF-8"):
        router.find("GET", b"/\xff", b"a.example")


# -- every method


def test_every_method() -> None:
    """``*`` takes what no other route of its pattern does, is registered once, and is not listed."""
    router = router_of("/a", method="*")
    assert router.add("*", "/a", "again") == "/a"
    assert router.add("GET", "/a", "get") is None
    assert router.find("HEAD", b"/a") == ("get", None)
    assert router.find("*", b"/a") == ("/a", None)
    assert router.find("PROPFIND", b"/a") == ("/a", None)
    assert router.allowed(b"/a") == ["GET", "HEAD", "OPTIONS"]
    assert router_of("/a", method="*").allowed(b"/a") == []


def test_head_goes_where_get_goes() -> None:
    """However the path is written, a HEAD request takes the route of its GET, not a less specific one for HEAD."""
    router = router_of("/{rest:path}", method="HEAD")
    for pattern in ("/plain", "/int/{id:int}"):
        router.add("GET", pattern, pattern)
    for path in (b"/plain", b"/pl%61in"):
        assert router.find("HEAD", path) == ("/plain", None)
    assert router.find("HEAD", b"/int/1") == ("/int/{id:int}", {"id": 1})
    assert router.find("HEAD", b"/int/x") == ("/{rest:path}", {"rest": "int/x"})


def test_entries() -> None:
    """What is registered, in that order; what was refused is not."""
    router: Router[int] = Router()
    for number, (method, pattern, host) in enumerate(
        [
            ("POST", "/b", None),
            ("GET", "/a", "*.x.example"),
            ("GET", "/a", None),
            ("GET", "/a", None),
            ("*", "/a", None),
        ]
    ):
        router.add(method, pattern, number, host)
    assert [tuple(entry) for entry in router.entries()] == [
        ("POST", None, "/b", 0),
        ("GET", "*.x.example", "/a", 1),
        ("GET", None, "/a", 2),
        ("*", None, "/a", 4),
    ]


# -- slashes


@pytest.mark.parametrize(
    ("method", "path", "other"),
    [
        ("GET", b"/with", b"/with/"),
        ("HEAD", b"/with", b"/with/"),
        ("POST", b"/with", None),
        ("GET", b"/w%69th", b"/w%69th/"),
        ("GET", b"/without/", b"/without"),
        ("GET", b"/without//", None),
        ("GET", b"/p/x/", b"/p/x"),
        ("GET", b"/p/x", None),
        ("GET", b"/host", None),
        ("GET", b"/nothing", None),
        ("GET", b"/", None),
        ("GET", b"", None),
        ("GET", b"*", None),
        ("GET", b"//evil.example/", None),
        ("GET", b"/%2Fevil.example/", b"/%2Fevil.example"),
        ("GET", b"/\\evil.example/", None),
        ("GET", b"/\t/evil.example/", None),
        ("GET", b"/x\r\ny/", None),
    ],
)
def test_the_other_slash(method: str, path: bytes, other: bytes | None) -> None:
    """Given where some route takes it, and never as what a browser takes for another host."""
    router: Router[int] = Router()
    for pattern in ("/with/", "/without", "/p/{name}", "//{x}", "/{x}", "/{x}/evil.example"):
        router.add("GET", pattern, 0)
    router.add("GET", "/host/", 0, "a.example")
    assert router.other_slash(method, path) == other


def test_the_other_slash_of_a_host() -> None:
    """The host counts as it does in ``find``."""
    router: Router[int] = Router()
    router.add("GET", "/x/", 1, "a.example")
    assert router.other_slash("GET", b"/x", b"a.example:80") == b"/x/"
    assert router.other_slash("GET", b"/x", b"b.example") is None
