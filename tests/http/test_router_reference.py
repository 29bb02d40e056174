"""The router against a naive reading of its rules, for any routes and requests; and how much work it does."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from itertools import product
from types import FrameType
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.http.converters import Converter
from forebay.http.route_table import MAX_SEGMENTS
from forebay.http.router import Router
from tests.http.test_router_table import even

KINDS = ("literal", "int", "float", "even", "word", "str", "path")  # in the order in which they are tried
PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")


def word(text: str) -> str:
    """Letters."""
    if not text.isalpha():
        raise ValueError("not letters")
    return text


OWN = {"even": Converter(even, str, int), "word": Converter(word, str, str)}


class Route(NamedTuple):
    """What is registered; it is its own value."""

    method: str
    host: str | None
    pattern: str


class Request(NamedTuple):
    """What is looked up."""

    method: str
    path: str
    host: str


def router_of(routes: list[Route]) -> Router[Route]:
    """A router with all of them."""
    router: Router[Route] = Router(OWN)
    for route in routes:
        assert router.add(route.method, route.pattern, route, route.host) is None
    return router


# -- the reference: every route is tried, in the order of how specific it is


def kind_of(part: str) -> str:
    """What stands in one segment of a pattern."""
    match = PARAMETER.fullmatch(part)
    return "literal" if match is None else match[2] or "str"


def specific(route: Route, method: str) -> tuple[Any, ...]:
    """What comes first is less."""
    host = (4, 0) if route.host is None else {"*": (3, -len(route.host)), "{": (2, 0)}.get(route.host[0], (1, 0))
    path = [KINDS.index(kind_of(part)) for part in route.pattern.split("/")[1:]]
    return host, path, [method, "GET", "*"].index(route.method)


def by_host(wanted: str | None, host: str) -> dict[str, Any] | None:
    """What a route's host binds; None if it is for others."""
    if wanted is None:
        return {}
    host = re.sub(r"\.?(:\d*)?$", "", host.lower())
    label = "[^.]+"
    if wanted[0] == "*":
        match = re.fullmatch(rf"(?:{label}\.)+" + re.escape(wanted[2:]), host)
    elif wanted[0] == "{":
        name, _, suffix = wanted[1:].partition("}")
        match = re.fullmatch(rf"(?P<{name}>{label})" + re.escape(suffix), host)
    else:
        match = re.fullmatch(re.escape(wanted), host)
    return None if match is None else match.groupdict()


def plain(kind: type) -> Callable[[str], Any]:
    """Numbers without the plus that Python allows."""
    return lambda text: kind("no" if text.startswith("+") else text)


def by_path(pattern: str, path: str) -> dict[str, Any] | None:
    """What a pattern binds; None if it does not match."""
    parts, segments = pattern.split("/")[1:], [unquote(segment) for segment in path.split("/")[1:]]
    if kind_of(parts[-1]) == "path":
        if segments[len(parts) - 1 : len(parts)] == [""]:
            return None
        segments[len(parts) - 1 :] = ["/".join(segments[len(parts) - 1 :])]
    if len(parts) != len(segments):
        return None
    bound: dict[str, Any] = {}
    converters: dict[str, Callable[[str], Any]] = {"int": plain(int), "float": plain(float), "even": even, "word": word}
    for part, segment in zip(parts, segments, strict=True):
        kind, match = kind_of(part), PARAMETER.fullmatch(part)
        if match is None:
            if part != segment:
                return None
            continue
        if not segment:
            return None
        try:
            bound[match[1]] = converters.get(kind, str)(segment)
        except ValueError:
            return None
    return bound


def matches(routes: list[Route], request: Request) -> Iterator[tuple[Route, dict[str, Any]]]:
    """The routes whose host and path match, whatever their method, and what they bind."""
    for route in routes:
        host, path = by_host(route.host, request.host), by_path(route.pattern, request.path)
        if host is not None and path is not None:
            yield route, {**host, **path}


def reference(routes: list[Route], request: Request) -> tuple[Route, dict[str, Any]] | None:
    """What takes a request, and what it binds."""
    methods = (request.method, "GET", "*") if request.method == "HEAD" else (request.method, "*")
    takers = [(route, bound) for route, bound in matches(routes, request) if route.method in methods]
    takers.sort(key=lambda taker: specific(taker[0], request.method))
    return takers[0] if takers else None


def reference_allowed(routes: list[Route], request: Request) -> list[str]:
    """The methods of all that match, with those that come by themselves."""
    methods = {route.method for route, _ in matches(routes, request)} - {"*"}
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods | {"OPTIONS"}) if methods else []


# -- what is compared

literals = st.sampled_from(["a", "b", "1", "4", "é", "%61", "a/b", ""])
parts = st.one_of(
    literals.filter(lambda text: "/" not in text),
    st.sampled_from(["int", "float", "even", "word", "str"]).map(lambda kind: f"{{:{kind}}}"),
)
segments = st.sampled_from(["a", "b", "1", "4", "-2", "1.5", "+4", "%61", "%2561", "a%2Fb", "%2Fa", "%C3%A9", ""])
hosts = st.sampled_from([None, "x.test", "a.x.test", "{t}.test", "{t}.x.test", "*.test", "*.x.test"])
called = st.sampled_from(
    ["", "test", "x.test", "X.Test:80", "y.test", "a.x.test", "b.x.test.", "b.x.test.:1", "a.b.x.test", "a..x.test"]
)


@st.composite
def routes_of(draw: st.DrawFn) -> list[Route]:
    """Routes no two of which are the same, with parameters named by their position."""
    made: dict[Route, None] = {}
    for chosen in draw(st.lists(st.lists(parts, min_size=1, max_size=4), min_size=1, max_size=10)):
        rest = ["{rest:path}"] if draw(st.integers(0, 4)) == 0 else []
        named = [part.replace("{:", f"{{p{i}:").replace(":str", "") for i, part in enumerate(chosen)]
        method = draw(st.sampled_from(["GET", "GET", "POST", "HEAD", "*"]))
        made[Route(method, draw(hosts), "/" + "/".join(named + rest))] = None
    return list(made)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Route], Request]:
    """Routes, and a request: any, or one that begins as some route does."""
    routes = draw(routes_of())
    path = draw(st.lists(segments, min_size=1, max_size=5))
    if draw(st.booleans()):
        given = draw(st.sampled_from(routes)).pattern.split("/")[1:]
        path = [part.replace("%", "%25") if part[:1] != "{" else draw(segments) for part in given]
    method = draw(st.sampled_from(["GET", "GET", "POST", "HEAD", "PUT", "OPTIONS"]))
    return routes, Request(method, "/" + "/".join(path), draw(called))


@settings(max_examples=600)
@given(cases())
def test_against_the_reference(case: tuple[list[Route], Request]) -> None:
    """For any routes and request, ``find``, ``allowed`` and ``explain`` say what a naive matcher says."""
    routes, request = case
    router = router_of(routes)
    asked = request.method, request.path.encode(), request.host.encode()
    expected = reference(routes, request)
    found = router.find(*asked)
    explanation = router.explain(*asked)
    assert router.allowed(*asked[1:]) == reference_allowed(routes, request)
    assert [verdict.entry.value for verdict in explanation.verdicts] == routes
    if expected is None:
        assert found is None
        assert (explanation.taken, explanation.params) == (None, {})
    else:
        assert found is not None
        assert explanation.taken is not None
        assert found[0] == explanation.taken.value == expected[0]
        assert repr(found[1] or {}) == repr(explanation.params) == repr(expected[1])
        assert found[1] != {}, "no parameters are None"
    matching = {route for route, _ in matches(routes, request)}
    for verdict in explanation.verdicts:
        route = verdict.entry.value
        assert (verdict.reason == "") == (expected is not None and route == expected[0])
        if verdict.reason:
            wrong = by_host(route.host, request.host) is None, by_path(route.pattern, request.path) is None
            start = "host|no host" if wrong[0] else "segment|longer|shorter|it ends|the path ends" if wrong[1] else None
            assert re.match(start or "method|comes after", verdict.reason), verdict
            assert verdict.near or route not in matching


@settings(max_examples=300)
@given(cases())
def test_the_other_slash_against_the_reference(case: tuple[list[Route], Request]) -> None:
    """The path with or without its last slash is given just when some route takes it."""
    routes, request = case
    path = request.path
    other = path[:-1] if path.endswith("/") else path + "/"
    given = router_of(routes).other_slash(request.method, path.encode(), request.host.encode())
    taken = other[:2] not in ("", "/", "//") and reference(routes, request._replace(path=other)) is not None
    assert given == (other.encode() if taken else None)


# -- how much work it is


def work(call: Callable[..., object], *arguments: object) -> int:
    """How many bytecodes a call executes: the same on every machine, at any load."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call(*arguments)  # from Python 3.12 on, code that was asked for its bytecodes tells them from its next call on
        count = 0
        call(*arguments)
    finally:
        sys.settrace(before)
    return count


SHAPES = (
    ("GET", None, "/"),
    ("GET", None, "/users"),
    ("POST", None, "/users"),
    ("GET", None, "/users/{id:int}"),
    ("GET", None, "/users/{name}"),
    ("GET", None, "/users/{id:int}/posts/{post:int}"),
    ("GET", None, "/users/{name}/files/{rest:path}"),
    ("GET", "api{n}.test", "/users/{id:int}"),
    ("GET", "{{tenant}}.zone{n}.test", "/users"),
    ("GET", "*.wide{n}.test", "/{rest:path}"),
)
ASKED = (
    ("GET", "/s0"),
    ("GET", "/s0/users"),
    ("PUT", "/s0/users"),
    ("GET", "/s0/users/42"),
    ("HEAD", "/s0/users/bob"),
    ("GET", "/s0/users/42/posts/7"),
    ("GET", "/s0/users/42/files/a/b"),
    ("GET", "/s0/users/42/none"),
    ("GET", "/none"),
    ("GET", "/s0/x/y/z"),
)


def table(groups: int, *, hosted: bool) -> Router[int]:
    """A router with ten routes for each group, each group below its own beginning, or three of them its own hosts."""
    router: Router[int] = Router()
    for group in range(groups):
        for number, (method, host, pattern) in enumerate(SHAPES):
            path = f"/s{group}{pattern.removesuffix('/')}"
            if host is not None and not hosted:
                path, host = f"/s{group}/h{number}{pattern}", None
            name = None if host is None else host.replace("{n}", str(group)).replace("{{", "{").replace("}}", "}")
            assert router.add(method, path, number, name) is None
    return router


@pytest.mark.parametrize("host", [None, b"", b"api0.test", b"a.zone0.test:80", b"a.b.wide0.test", b"none.test"])
def test_ten_thousand_routes_are_as_quick_as_ten(host: bytes | None) -> None:
    """The work of a look-up does not depend on how many other routes there are."""
    few, many = table(1, hosted=host is not None), table(1000, hosted=host is not None)
    assert (len(list(few.entries())), len(list(many.entries()))) == (10, 10_000)
    for method, path in ASKED:
        asked = method, path.encode(), host or b""
        last = method, path.replace("s0", "s999").encode(), (host or b"").replace(b"0.test", b"999.test")
        assert few.find(*asked) == many.find(*asked) == many.find(*last)
        for at in (asked, last):
            assert work(many.find, *at) <= 2 * work(few.find, *asked)
            assert work(many.allowed, *at[1:]) <= 2 * work(few.allowed, *asked[1:])


class Counted:
    """A converter that takes all there is, and counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, text: str) -> str:
        """Count."""
        self.count += 1
        return text


def counting() -> tuple[Router[int], Counted]:
    """A router with two converters that take everything, ``x`` and ``y``."""
    counted = Counted()
    one = Converter(counted, str, str)
    return Router({"x": one, "y": one}), counted


def beginnings(patterns: list[list[str]]) -> int:
    """How many different ones there are: the nodes of the tree, but for its root."""
    return len({tuple(pattern[:size]) for pattern in patterns for size in range(1, len(pattern) + 1)})


def check_work(patterns: list[list[str]], path: str) -> None:
    """No beginning of a pattern is tried twice, whatever fails behind it."""
    router, counted = counting()
    for number, pattern in enumerate(patterns):
        named = [f"{{p{i}:{part}}}" if part in ("x", "y") else part for i, part in enumerate(pattern)]
        router.add("POST", "/" + "/".join(named), number)
    assert router.find("GET", path.encode()) is None
    assert counted.count <= beginnings(patterns)
    counted.count = 0
    router.allowed(path.encode())
    assert counted.count <= beginnings(patterns)


def test_every_choice_at_every_level() -> None:
    """1024 routes with one of two converters at each of ten levels: as many tries as the tree has nodes, no more."""
    patterns = [list(choice) for choice in product("xy", repeat=10)]
    assert beginnings(patterns) == 2**11 - 2
    check_work(patterns, "/a" * 10)
    check_work([[*pattern, "end"] for pattern in patterns], "/a" * 10 + "/other")


def test_few_routes_cannot_make_choices_multiply() -> None:
    """A literal beside two converters at each of 60 levels: the square of 60 tries, where 2 to the 60 never ends."""
    size = 60
    patterns = [["x"] * at + [part] + ["y"] * (size - at - 1) for at in range(size) for part in ("a", "y")]
    assert beginnings(patterns) <= 2 * size * size
    check_work(patterns, "/a" * size)
    check_work([[*pattern, "end"] for pattern in patterns], "/a" * size + "/other")


@given(
    st.lists(st.lists(st.sampled_from(["x", "y", "a"]), min_size=1, max_size=8), min_size=1, max_size=30),
    st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=9),
)
def test_the_work_of_any_routes_is_bounded(patterns: list[list[str]], path: list[str]) -> None:
    """For any routes and path, each beginning of a pattern is tried at most once."""
    check_work(patterns, "/" + "/".join(path))


@pytest.mark.parametrize("segment", ["/a", "/1", "/", "/%61", "/%2F"])
def test_long_paths_cost_their_length(segment: str) -> None:
    """A path of any length goes no deeper than the patterns, and is looked at once."""
    router: Router[int] = Router()
    for at in range(MAX_SEGMENTS):
        router.add("GET", "/" + "/".join(["a"] * at + [f"{{p{i}}}" for i in range(at, MAX_SEGMENTS)]), at)
        router.add("POST", "/" + "/".join([*["a"] * at, "{rest:path}"]), at)
    deep = [(segment * size).encode() for size in (1000, 10_000)]
    for path in deep:
        assert router.find("GET", path) is None
    shorter, longer = (work(router.find, "GET", path) for path in deep)
    assert longer <= 11 * shorter
    with pytest.raises(ValueError, match="65 segments; the most is 64"):
        router.add("GET", "/a" * (MAX_SEGMENTS + 1), 0)
