"""What is wrong with routes is found when they are registered, and says where: both sides, with file and line."""
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import functools
import inspect
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, NoReturn

import msgspec
import pytest

from forebay.http import App, Request, Response, StaticFiles, WebSocket
from forebay.http.binding import Body, Cookie, Depends, Form, Header, Path, Query, blocking
from forebay.http.forms import FormData
from forebay.http.group import Group
from forebay.http.uploads import UploadFile
from forebay.testing import TestClient


class Foreign:
    """A class that no encoder knows."""


class Half(Enum):
    """An enumeration that no text can become."""

    ONE = 1.5


class User(msgspec.Struct):
    """A record."""

    name: str


@dataclass
class Holder:
    """A record with something in it that cannot be sent."""

    inner: list[Foreign]


class Odd(msgspec.Struct):
    """A record of a query with a field that no query has."""

    inner: dict[str, int]


def line(found: Any) -> str:
    """``file:line`` of the definition of a function or class."""
    return f"{__file__}:{inspect.getsourcelines(inspect.unwrap(found))[1]}"


def below(call: str) -> int:
    """The line of the caller's function in which ``call`` stands, once."""
    lines, first = inspect.getsourcelines(sys._getframe(1).f_code)
    (found,) = [number for number, text in enumerate(lines, first) if call in text and "below(" not in text]
    return found


# -- routes that stand in each other's way


async def first() -> None:
    """One handler."""


async def second() -> None:
    """Another one."""


def taken(message: str, one: Any, other: Any) -> None:
    """The message names both handlers with their places, and both places of registration."""
    for handler in (one, other):
        assert f"{handler.__qualname__} ({line(handler)}, registered at {__file__}:" in message


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/a", "/a"),
        ("/a/{x}", "/a/{y}"),
        ("/a/{x:int}/b", "/a/{y:int}/b"),
        ("/{rest:path}", "/{other:path}"),
    ],
)
def test_two_routes_of_one_method_and_shape(before: str, after: str) -> None:
    """The names of parameters make no difference."""
    app = App()

    async def one(request: Request, x: Any = None, rest: Any = None) -> None: ...
    async def two(request: Request, y: Any = None, other: Any = None) -> None: ...

    app.get(before)(fitted(one, before))
    with pytest.raises(ValueError, match="is taken already") as caught:
        app.get(after)(fitted(two, after))
    assert before in str(caught.value)
    assert after in str(caught.value)
    assert str(caught.value).count(f"{__file__}:") == 4
    app.post(after)(fitted(two, after))  # another method


def fitted(handler: Callable[..., Any], pattern: str) -> Callable[..., Any]:
    """A handler that takes just the parameters of ``pattern``."""
    names = re.findall(r"{(\w+)", pattern)
    made: dict[str, Any] = {}
    exec(f"async def {handler.__name__}({', '.join(names)}) -> None: ...", made)
    made[handler.__name__].__code__ = made[handler.__name__].__code__.replace(co_filename=__file__)
    return made[handler.__name__]  # type: ignore[no-any-return]


def test_both_places_of_a_conflict() -> None:
    """Handlers and registrations are named with their very lines."""
    app = App()
    app.get("/x")(first)
    with pytest.raises(ValueError, match="is taken already") as caught:
        app.route("/x", ["PUT", "GET"])(second)
    message = str(caught.value)
    at_first, at_second = below('app.get("/x")(first)'), below('app.route("/x", ["PUT"')
    assert f"GET /x of second ({line(second)}, registered at {__file__}:{at_second})" in message
    assert f"by /x of first ({line(first)}, registered at {__file__}:{at_first})" in message


def test_conflicts_between_groups() -> None:
    """The whole pattern counts, wherever its parts come from; also when groups are included."""
    app = App()
    app.get("/a/b")(first)
    group = Group("/a")
    inner = group.group("/b")
    inner.get("")(second)
    with pytest.raises(ValueError, match="is taken already") as caught:
        app.include(group)
    taken(str(caught.value), first, second)
    assert f"registered at {__file__}:{below('inner.get')}" in str(caught.value)  # not where it was included


def test_conflicts_between_hosts() -> None:
    """The same path of another host is another route; host patterns of one shape are the same."""
    app = App()
    app.get("/")(first)
    app.group(host="a.example").get("/")(first)
    app.group(host="b.example").get("/")(first)

    async def tenant(one: str) -> None: ...
    async def other(two: str) -> None: ...

    app.group(host="{one}.example").get("/")(tenant)
    with pytest.raises(ValueError, match="is taken already") as caught:
        app.group(host="{two}.example").get("/")(other)
    taken(str(caught.value), tenant, other)
    with pytest.raises(ValueError, match="is taken already"):
        app.group(host="A.example").get("/")(second)


def test_conflicts_between_mounts() -> None:
    """Two mounts at one prefix; an application in itself, and in what it mounts."""
    app, sub, other = App("main"), App("sub"), App("other")
    app.mount("/x", sub)
    with pytest.raises(ValueError, match="is taken already") as caught:
        app.mount("/x", other)
    assert str(caught.value).count(f"registered at {__file__}:") == 2
    assert "app.py" not in str(caught.value)  # where App itself is defined helps nobody
    with pytest.raises(TypeError, match="a part of itself"):
        sub.mount("/y", sub)
    sub.mount("/z", other)
    with pytest.raises(TypeError, match="a part of itself") as circle:
        other.mount("/w", app)
    assert f"{__file__}:{below('other.mount')}" in str(circle.value)
    nothing: Any = 5
    with pytest.raises(TypeError, match="must be an App, something with respond"):
        app.mount("/n", nothing)
    for kind in (App, StaticFiles):
        with pytest.raises(TypeError, match=f"'/c': {kind.__name__} is a class: an instance of it is wanted"):
            app.mount("/c", kind)


def test_names() -> None:
    """A name that was given twice is refused; that of a handler is not one that was given."""
    app = App()
    app.get("/a", name="here")(first)
    app.get("/b")(first)
    app.get("/c")(first)
    with pytest.raises(ValueError, match="name 'here' of") as caught:
        app.get("/d", name="here")(second)
    taken(str(caught.value), first, second)
    assert app.url_for("here") == "/a"
    with pytest.raises(ValueError, match="is the name of 2 routes"):
        app.url_for("first")


# -- signatures nothing provides for


def plain() -> int:
    """A dependency."""
    return 1


async def reads_query(q: int) -> int:
    """A dependency that needs a request."""
    return q


async def needs_query(inner: Annotated[int, Depends(reads_query)]) -> int:
    """A dependency of the application that must not."""
    return inner


async def with_request(request: Request) -> str:
    """A dependency that needs the request."""
    return request.method


@blocking
def in_a_thread() -> int:
    """A dependency that blocks."""
    return 1


async def round_a(b: Annotated[int, Depends(lambda: round_b)]) -> int:
    """Replaced below, by what goes round."""
    return b


async def round_b(a: Annotated[int, Depends(round_a)]) -> int:
    """The other half of the circle."""
    return a


async def to_itself(again: Annotated[int, Depends(lambda: 1)]) -> int:
    """Replaced below, by itself."""
    return again


round_a.__annotations__["b"] = Annotated[int, Depends(round_b)]
to_itself.__annotations__["again"] = Annotated[int, Depends(to_itself)]


async def takes_form(note: Annotated[str, Form()]) -> str:
    """A dependency with a form."""
    return note


async def takes_nothing_known(thing: Foreign) -> int:
    """A dependency that nothing provides for."""
    return 1


def handlers() -> dict[str, tuple[Callable[..., Any], str, list[Any]]]:
    """Handlers of ``/p/{part}``, what is said of them, and what else is named with its place."""

    async def nobody_takes_it() -> None: ...
    async def foreign(part: str, thing: Foreign) -> None: ...
    async def foreign_list(part: str, things: list[Foreign]) -> None: ...
    async def foreign_query(part: str, thing: Annotated[Foreign, Query()]) -> None: ...
    async def foreign_cookie(part: str, thing: Annotated[dict[str, int], Cookie()]) -> None: ...
    async def odd(part: str, odd: Annotated[Odd, Query()]) -> None: ...
    async def two_contents(part: str, a: User, b: Annotated[int, Body()]) -> None: ...
    async def form_and_json(part: str, a: User, note: Annotated[str, Form()]) -> None: ...
    async def form_and_json_apart(part: str, a: User, note: Annotated[str, Depends(takes_form)]) -> None: ...
    async def file_and_json(part: str, a: bytes, file: UploadFile) -> None: ...
    async def whole_form_and_json(part: str, a: dict[str, int], form: FormData) -> None: ...
    async def default_marker(part: str, q: int = Query()) -> None: ...  # type: ignore[assignment]
    async def default_depends(part: str, q: int = Depends(plain)) -> None: ...  # type: ignore[assignment]
    async def two_markers(part: str, q: Annotated[int, Query(), Header()]) -> None: ...
    async def not_in_path(part: str, other: Annotated[int, Path()]) -> None: ...
    async def path_in_query(part: Annotated[str, Query()]) -> None: ...
    async def path_list(part: list[int]) -> None: ...
    async def half(part: str, half: Half) -> None: ...
    async def ambiguous(part: str, day: date | datetime) -> None: ...
    async def bad_meta(part: str, n: Annotated[int, msgspec.Meta(min_length=1)]) -> None: ...
    async def goes_round(part: str, a: Annotated[int, Depends(round_a)]) -> None: ...
    async def itself(part: str, a: Annotated[int, Depends(to_itself)]) -> None: ...
    async def app_query(part: str, a: Annotated[int, Depends(reads_query, scope="app")]) -> None: ...
    async def app_indirect(part: str, a: Annotated[int, Depends(needs_query, scope="app")]) -> None: ...
    async def app_request(part: str, a: Annotated[str, Depends(with_request, scope="app")]) -> None: ...
    async def app_blocks(part: str, a: Annotated[int, Depends(in_a_thread, scope="app")]) -> None: ...
    async def two_scopes(
        part: str, a: Annotated[int, Depends(plain)], b: Annotated[int, Depends(plain, scope="app")]
    ) -> None: ...
    async def no_scope(part: str, a: Annotated[int, Depends(plain, "x")]) -> None: ...
    async def below_unknown(part: str, a: Annotated[int, Depends(takes_nothing_known)]) -> None: ...
    async def depends_on_nothing(part: str, a: Annotated[int | None, Depends()]) -> None: ...
    async def depends_on_builtin(part: str, a: Annotated[dict[str, int], Depends(dict)]) -> None: ...
    async def attribute(part: str, a: msgspec.Nowhere) -> None: ...  # type: ignore[name-defined]

    return {
        "nobody takes it": (nobody_takes_it, "does not take the path parameter part", []),
        "foreign": (foreign, "nothing in a request provides parameter thing", []),
        "foreign list": (
            foreign_list,
            "nothing in a request provides parameter things .* which holds Foreign",
            [Foreign],
        ),
        "foreign query": (foreign_query, "parameter thing of type .*Foreign.* cannot be a field of the query", []),
        "foreign cookie": (foreign_cookie, "parameter thing of type .* cannot be a field of the cookie", []),
        "record": (odd, "inner of Odd .* cannot be a field of the query", [Odd]),
        "two contents": (two_contents, "parameters a and b would both be the request's content", []),
        "form and json": (form_and_json, "cannot be a form and something else", []),
        "form and json apart": (form_and_json_apart, "cannot be a form and something else", [takes_form]),
        "file and bytes": (file_and_json, "cannot be a form and something else", []),
        "form data": (whole_form_and_json, "cannot be a form and something else", []),
        "default marker": (default_marker, r"write q: Annotated\[..., Query\(...\)\], not a default", []),
        "default depends": (default_depends, r"write q: Annotated\[..., Depends\(...\)\], not a default", []),
        "two markers": (two_markers, "parameter q has two markers: Query.* and Header", []),
        "not in path": (not_in_path, "other is marked as a part of the path, which has no {other}", []),
        "path in query": (path_in_query, "does not take the path parameter part", []),
        "path list": (path_list, "part of type .* cannot be a part of the path", []),
        "half": (half, "parameter half: Enums must contain", []),
        "ambiguous": (ambiguous, "parameter day: Type unions may not", []),
        "constraint": (bad_meta, "parameter n: Can only set `min_length`", []),
        "circle": (goes_round, "dependency cycle: round_a .* -> round_b .* -> round_a", [round_a, round_b]),
        "itself": (itself, "dependency cycle: to_itself .* -> to_itself", [to_itself]),
        "app query": (app_query, "made when the application starts, it cannot have q of a request", [reads_query]),
        "app indirect": (
            app_indirect,
            "a dependency of the application cannot depend on reads_query",
            [needs_query, reads_query],
        ),
        "app request": (app_request, "cannot have request of a request", [with_request]),
        "app blocking": (app_blocks, "it cannot be blocking", [in_a_thread]),
        "two scopes": (two_scopes, "plain .* is used with another scope than 'app' elsewhere", [plain]),
        "no scope": (no_scope, "scope 'x': must be 'request' or 'app'", []),
        "below": (below_unknown, "nothing in a request provides parameter thing", [takes_nothing_known]),
        "nothing": (depends_on_nothing, r"parameter a: Depends\(\) needs a function or a class", []),
        "builtin": (depends_on_builtin, "its parameters cannot be found out", []),
        "attribute": (attribute, "its annotations cannot be read", []),
    }


@pytest.mark.parametrize("case", handlers())
def test_a_signature_that_cannot_be(case: str) -> None:
    """It is refused with the places of the handler, of its registration, and of what does not go with it."""
    handler, said, others = handlers()[case]
    app, settled = App(), Group()
    with pytest.raises(TypeError, match=said) as caught:
        app.get("/p/{part}")(handler)
    message = str(caught.value)
    if "cycle" not in message:
        assert f"{handler.__qualname__} ({__file__}:{handler.__code__.co_firstlineno})" in message
    for other in others:
        assert f"{other.__qualname__} ({line(other)})" in message
    assert message.endswith(f"(registered at {__file__}:{below('app.get')})")

    settled.get("/p/{part}")(handler)  # in a group it is seen when that is included, and says the same
    with pytest.raises(TypeError, match=said) as later:
        App().include(settled)
    assert str(later.value).endswith(f"(registered at {__file__}:{below('settled.get')})")


def test_a_cycle_names_who_leads_into_it() -> None:
    """It is the registration that is named: nobody else knows the way into the circle."""
    with pytest.raises(TypeError, match="dependency cycle") as caught:
        App().get("/")(round_b)
    assert "round_b" in str(caught.value)
    assert line(round_a) in str(caught.value)


# -- what cannot be sent


def results() -> dict[str, tuple[Callable[..., Any], Any]]:
    """Handlers whose results cannot be sent, and the class for whose sake."""

    def one() -> Foreign: ...
    def in_list() -> list[Foreign]: ...
    def in_dict() -> dict[str, Foreign]: ...
    def in_union() -> User | Foreign: ...
    def in_tuple() -> tuple[Foreign, int]: ...
    def with_headers() -> tuple[Foreign, int, dict[str, str]]: ...
    def in_optional() -> Foreign | None: ...
    def deep() -> dict[str, list[tuple[int, Foreign]]]: ...
    def in_record() -> Holder: ...
    def in_records() -> list[Holder]: ...
    def noted() -> Annotated[list[Foreign], "note"]: ...

    found = (one, in_list, in_dict, in_union, in_tuple, with_headers, in_optional, deep, in_record, in_records, noted)
    return {handler.__name__: (handler, Foreign) for handler in found}


@pytest.mark.parametrize("case", results())
def test_a_result_that_cannot_be_sent(case: str) -> None:
    """Its class is named with its place, as is the handler."""
    handler, wrong = results()[case]
    app = App()
    with pytest.raises(TypeError, match="cannot be sent") as caught:
        app.get("/")(handler)
    message = str(caught.value)
    assert f"{handler.__qualname__} ({line(handler)}) of route '/' returns Foreign ({line(wrong)})" in message
    assert message.endswith(f"(registered at {__file__}:{below('app.get')})")


def test_results_that_can_be_sent() -> None:
    """What a handler may well say that it returns."""
    app = App()

    def never() -> NoReturn: ...
    def anything() -> Any: ...
    def response() -> Response | tuple[User, int] | None: ...
    async def stream() -> AsyncIterator[bytes]:
        yield b""

    def status() -> tuple[list[User], int, dict[str, str]]: ...
    def records() -> dict[str, list[User]]: ...

    for number, handler in enumerate((never, anything, response, stream, status, records)):
        app.get(f"/{number}")(handler)
    assert len(app.routes) == 6


# -- WebSockets


def test_websockets_that_cannot_be() -> None:
    """No content, no form, no plain function, and the parameters of the path are taken."""
    app = App()

    async def content(ws: WebSocket, user: User) -> None: ...
    async def form(ws: WebSocket, note: Annotated[str, Form()]) -> None: ...
    async def below_it(ws: WebSocket, note: Annotated[str, Depends(takes_form)]) -> None: ...
    async def lonely(ws: WebSocket) -> None: ...
    async def no_socket(n: int) -> None: ...
    def plainly(ws: WebSocket) -> None: ...

    cases: list[tuple[Any, str, str]] = [
        (content, "/", "has no content"),
        (form, "/", "has no content"),
        (below_it, "/", "has no content"),
        (lonely, "/{x}", "does not take the path parameter x"),
        (no_socket, "/", r"must be like async def handler\(ws: WebSocket\)"),
        (plainly, "/", "must be a coroutine function"),
    ]
    for handler, pattern, said in cases:
        with pytest.raises(TypeError, match=said) as caught:
            app.websocket(pattern)(handler)
        assert f"{handler.__qualname__} ({line(handler)})" in str(caught.value)
        assert str(caught.value).endswith(f"(registered at {__file__}:{below('app.websocket')})")
    other = App()
    other.get("/ws")(first)
    with pytest.raises(ValueError, match="is taken already"):
        other.websocket("/ws")(plain_socket)


async def plain_socket(ws: WebSocket) -> None:
    """A WebSocket's handler."""


# -- what may be registered


async def test_everything_that_can_be_called() -> None:
    """Methods, partials, objects and classes; what a partial has given is no parameter, and clients cannot set it."""

    class Thing:
        def __init__(self, factor: int = 2) -> None:
            self.factor = factor

        async def method(self, n: int) -> dict[str, int]:
            return {"n": n * self.factor}

        def __call__(self, n: int) -> dict[str, int]:
            return {"n": -n}

        def plain(self, n: int) -> dict[str, Any]:
            return {"n": n * self.factor, "thread": threading.current_thread() is not threading.main_thread()}

        @classmethod
        async def of_class(cls, n: int) -> dict[str, str]:
            return {"n": f"{cls.__name__}{n}"}

        @staticmethod
        def static(n: int, self: int, request: int, source: int, function: int, mounted: int) -> list[int]:
            return [n, self, request, source, function, mounted]

    async def add(n: int, more: int, secret: Foreign) -> dict[str, Any]:
        return {"n": n + more, "secret": type(secret).__name__}

    def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return [await function(*args, **kwargs)]

        return wrapper

    app = App()
    app.get("/method")(Thing(3).method)
    app.get("/object")(Thing())
    app.get("/class")(Thing.of_class)
    app.get("/static")(Thing.static)
    app.get("/partial", name="p")(functools.partial(add, more=10, secret=Foreign()))
    app.get("/wrapped")(wrapping(Thing(5).method))
    app.get("/blocking")(blocking(Thing.static))
    app.get("/blocking-method")(blocking(Thing(7).plain))
    async with TestClient(app) as client:

        async def ask(path: str) -> Any:
            response = await client.get(path)
            assert response.status == 200, (path, response.body)
            return response.json()

        assert await ask("/method?n=2") == {"n": 6}
        assert await ask("/object?n=2") == {"n": -2}
        assert await ask("/class?n=2") == {"n": "Thing2"}
        names = "n=1&self=2&request=3&source=4&function=5&mounted=6"
        assert await ask(f"/static?{names}") == [1, 2, 3, 4, 5, 6]
        assert await ask(f"/blocking?{names}") == [1, 2, 3, 4, 5, 6]
        assert await ask("/blocking-method?n=2") == {"n": 14, "thread": True}
        assert await ask("/partial?n=1&more=99") == {"n": 11, "secret": "Foreign"}
        assert await ask("/wrapped?n=1") == [{"n": 5}]
    assert app.routes[0].signature is not None
    assert f"({line(Thing.method)})" in app.routes[0].signature.where
    assert f"({line(add)})" in app.routes[4].signature.where  # type: ignore[union-attr]
    assert f"({line(Thing.method)})" in app.routes[5].signature.where  # type: ignore[union-attr]


def made_elsewhere() -> tuple[Group, Callable[..., Any]]:
    """A group whose handlers name classes that nobody else can see, and a dependency like that."""

    class Hidden(msgspec.Struct):
        name: str

    async def who(x_name: Annotated[str, Header()]) -> Hidden:
        return Hidden(x_name)

    group = Group("/hidden")

    @group.post("")
    async def add(hidden: Hidden, by: Annotated[Hidden, Depends(who)]) -> list[Hidden]:
        return [hidden, by]

    return group, who


async def test_names_that_are_local() -> None:
    """Annotations are found where they were written: also when a group is included elsewhere, and when everything is
    compiled again for overrides, which have their own names."""
    group, who = made_elsewhere()
    app = App()
    app.include(group)

    class Hidden(msgspec.Struct):
        other: int

    async def instead(n: Annotated[Hidden, Query()]) -> Hidden:
        return n

    async with TestClient(app) as client:
        response = await client.post("/hidden", json={"name": "a"}, headers={"x-name": "b"})
        assert response.json() == [{"name": "a"}, {"name": "b"}]
    async with TestClient(app, overrides={who: instead}) as client:
        response = await client.post("/hidden?other=5", json={"name": "a"})
        assert response.json() == [{"name": "a"}, {"other": 5}]
    async with TestClient(app) as client:
        response = await client.post("/hidden", json={"name": "a"}, headers={"x-name": "c"})
        assert response.json() == [{"name": "a"}, {"name": "c"}]


def test_a_name_that_is_not_there() -> None:
    """It is named, with the handler."""

    async def lost(thing: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="name 'Nowhere', which is not defined there") as caught:
        App().get("/")(lost)
    assert line(lost) in str(caught.value)
    with pytest.raises(TypeError, match="its parameters cannot be found out"):
        App().get("/")(dict)


def test_too_late() -> None:
    """Once the application serves, nothing can be registered, in its groups neither."""
    app = App()
    group = app.group("/g")
    app.freeze()
    for late in (
        lambda: app.get("/")(first),
        lambda: group.get("/")(first),
        lambda: group.middleware(lambda request, call_next: call_next(request)),
        lambda: app.include(Group("/h")),
        lambda: app.mount("/m", App()),
        lambda: group.group("/i"),
    ):
        with pytest.raises(RuntimeError, match="serves already"):
            late()


def test_a_pattern_in_a_group_names_its_place() -> None:
    """Of what is wrong with a pattern, also when the group is included somewhere else."""
    for group, pattern in ((Group("/a"), "/{id:nosuch}"), (Group("/a/{rest:path}"), "/b"), (Group("/{id}"), "/{id}")):
        group.get(pattern)(first)
        with pytest.raises(ValueError, match=re.escape(f"(registered at {__file__}:{below('group.get(pattern)')})")):
            App().include(group)


def test_options_that_cannot_be() -> None:
    """Numbers out of bounds, no methods, prefixes and patterns that are not well-formed."""
    app = App()
    for wrong in (
        lambda: app.get("/", status=99),
        lambda: app.get("/", timeout=0.0),
        lambda: app.get("/", timeout=float("inf")),
        lambda: app.route("/", []),
        lambda: app.route("/", "GET"),
        lambda: Group("x"),
        lambda: Group("/x/"),
        lambda: app.mount("/x/", App()),
        lambda: app.mount("x", App()),
        lambda: app.get("x")(first),
        lambda: app.get("")(first),
        lambda: app.group(host="a b").get("/")(first),
        lambda: app.group(host="a:80").get("/")(first),
        lambda: Group(host="http://a.example"),
    ):
        with pytest.raises(ValueError, match=r"must|route"):
            wrong()
