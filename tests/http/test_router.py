"""Which route a path takes: order of choices, converters, encodings, methods, and patterns that are none."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.errors import ProtocolError
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
PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")
RANKS = {"int": 1, "float": 2, "uuid": 3, "str": 4, "path": 5}


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
        ("/a/{id}.json", "must be a literal"),
        ("/a/{1}", "must be a literal"),
        ("/a/}{", "must be a literal"),
        ("/a/{}", "must be a literal"),
    ],
)
def test_a_pattern_that_is_none(pattern: str, message: str) -> None:
    """The error says what is wrong, and what would be right."""
    with pytest.raises(ValueError, match=message):
        parameters(pattern)


def reference(patterns: list[str], path: str) -> tuple[str, dict[str, str]] | None:
    """What a plain reading of the rules finds: every pattern that matches, the best one segment by segment."""
    matches = []
    for pattern in patterns:
        rank, values, expression = [], [], ""
        for part in pattern[1:].split("/"):
            parameter = PARAMETER.fullmatch(part)
            if parameter is None:
                rank.append(0)
                expression += "/" + re.escape(part)
                continue
            kind = parameter[2] or "str"
            rank.append(RANKS[kind])
            expression += {"int": "/(-?[0-9]+)", "str": "/([^/]+)", "path": "/((?:[^/].*))"}[kind]
            values.append(parameter[1])
        match = re.fullmatch(expression, path)
        if match is not None:
            matches.append((rank, pattern, dict(zip(values, match.groups(), strict=True))))
    return min(matches)[1:] if matches else None


segments = st.sampled_from(["a", "b", "1", "-2", ""])
pattern_parts = st.sampled_from(["a", "b", "1", "{n:int}", "{s}"])


@st.composite
def patterns_of(draw: st.DrawFn) -> list[str]:
    """Patterns no two of which match the same paths, with parameters named by their position."""
    made: dict[str, None] = {}
    for parts in draw(st.lists(st.lists(pattern_parts, min_size=1, max_size=4), min_size=1, max_size=8)):
        rest = draw(st.booleans())
        named = [part.replace("n:", f"p{i}:").replace("{s}", f"{{p{i}}}") for i, part in enumerate(parts)]
        made["/" + "/".join([*named, "{rest:path}"] if rest else named)] = None
    return list(made)


@settings(max_examples=300, deadline=None)
@given(patterns_of(), st.lists(segments, min_size=1, max_size=5))
def test_against_a_reference(patterns: list[str], parts: list[str]) -> None:
    """For any patterns and path, the router finds what a naive matcher finds."""
    path = "/" + "/".join(parts)
    expected = reference(patterns, path)
    found = router_of(*patterns).find("GET", path.encode())
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert found[0] == expected[0]
    assert {name: str(value) for name, value in (found[1] or {}).items()} == expected[1]
