"""Arguments from a request: where they come from, what does not fit, and signatures nothing provides for."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, NotRequired, TypedDict
from urllib.parse import urlencode
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.errors import HTTPError, ValidationError
from forebay.http import App, HTTPServer, Request
from forebay.http.binding import compile_binding
from forebay.http.encoding import check_json, decode_json, parse_query
from tests.support import raw_client, running


class Color(Enum):
    """An enumeration in a query."""

    RED = "red"
    BLUE = "blue"


class User(msgspec.Struct):
    """A record in a body."""

    name: str
    age: Annotated[int, msgspec.Meta(ge=0)]
    tags: list[str] = []


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """A record that holds records."""

    buyer: User
    lines: list[User]
    counts: dict[int, int] = {}


class Tree(msgspec.Struct):
    """A record without a greatest depth."""

    value: int
    child: Tree | None = None


@dataclass
class Point:
    """A dataclass in a body."""

    x: int
    y: int = 0


class Options(TypedDict):
    """A TypedDict in a body."""

    size: int
    color: NotRequired[str]


Asked = tuple[int, Any]
Ask = Callable[..., Awaitable[Asked]]


async def ask(
    app: App, method: str, target: str, body: bytes = b"", content_type: str | None = "application/json"
) -> Asked:
    """Send one request to ``app`` over a socket; its status and its decoded content."""
    type_line = f"content-type: {content_type}\r\n" if content_type else ""
    head = f"{method} {target} HTTP/1.1\r\nhost: a\r\n{type_line}content-length: {len(body)}\r\n\r\n"
    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        await client.send(head.encode() + body)
        status, _, content = await client.response()
    return status, msgspec.json.decode(content) if content else None


def fields(answer: Asked) -> list[tuple[str, str]]:
    """Places and names of the fields a 422 lists."""
    status, document = answer
    assert status == 422, document
    return [(error["place"], error["name"]) for error in document["errors"]]


async def test_every_source_of_arguments() -> None:
    """Path, query, body and request meet in one signature; the query is converted by annotation."""
    app = App()

    @app.post("/{number:int}/{key:uuid}")
    async def handler(
        number: int,
        key: UUID,
        user: User,
        request: Request,
        day: date,
        color: Color,
        page: Annotated[int, msgspec.Meta(ge=1)] = 1,
        ratio: float = 0.5,
        tag: list[str] | None = None,
        ids: tuple[int, ...] = (),
        verbose: bool = False,
    ) -> dict[str, Any]:
        values = [number, str(key), user.name, request.method, day.isoformat(), color.value]
        return {"values": [*values, page, ratio, tag, list(ids), verbose]}

    key = "12345678-1234-1234-1234-1234567890ab"
    query = "day=2026-01-02&color=blue&page=3&tag=a&tag=b%26&ids=1&ids=2&verbose=true"
    status, content = await ask(app, "POST", f"/7/{key}?{query}", b'{"name":"bob","age":5}')
    assert status == 200
    values = [7, key, "bob", "POST", "2026-01-02", "blue", 3, 0.5, ["a", "b&"], [1, 2], True]
    assert content == {"values": values}


async def test_every_wrong_field_is_listed_at_once() -> None:
    """Path, query and body errors come in one answer, each with its place."""
    app = App()

    @app.post("/{color}")
    async def handler(color: Color, page: int, size: int, order: Order) -> None:
        raise AssertionError("must not be called")

    body = b'{"buyer":{"age":-1},"lines":[{"name":"a","age":1},{"name":2,"age":"x"}],"counts":{"1":2},"nope":1}'
    answer = await ask(app, "POST", "/green?page=x", body)
    assert fields(answer) == [
        ("path", "color"),
        ("query", "page"),
        ("query", "size"),
        ("body", "buyer.name"),
        ("body", "buyer.age"),
        ("body", "lines[1].name"),
        ("body", "lines[1].age"),
        ("body", "nope"),
    ]
    assert "`$" not in str(answer)  # places are told once, in one way


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (User, b'{"age":1}', ["name"]),
        (Point, b'{"y":"z"}', ["x", "y"]),
        (Options, b'{"color":1}', ["size", "color"]),
        (dict[str, int], b'{"a":"b"}', ["a"]),
        (list[Point], b'[{"x":1},{"x":"a"},{}]', ["[1].x", "[2].x"]),
        (Order, b'{"buyer":{"name":"a","age":1},"lines":[],"more":1}', ["more"]),
        (User, b"[]", ["$"]),
        (User, b"null", ["$"]),
    ],
)
def test_fields_of_every_kind_of_record(kind: Any, body: bytes, expected: list[str]) -> None:
    """Structs, dataclasses, TypedDicts and lists of them name the fields that do not fit; a wrong whole is ``$``."""
    with pytest.raises(ValidationError) as caught:
        decode_json(body, msgspec.json.Decoder(kind))
    assert [error.name for error in caught.value.errors] == expected


@pytest.mark.parametrize("depth", [10, 400, 900, 100_000])
def test_a_deep_body(depth: int) -> None:
    """However deep a wrong field is, the answer is a 4xx, and its size is bounded."""
    body = b'{"value":1,"child":' * depth + b'{"value":"x"}' + b"}" * depth
    with pytest.raises(HTTPError) as caught:
        decode_json(body, msgspec.json.Decoder(Tree))
    assert caught.value.status in (400, 422)
    assert len(str(caught.value)) < 1000


def test_a_body_with_very_many_wrong_fields() -> None:
    """The list of errors is bounded."""
    with pytest.raises(ValidationError) as caught:
        decode_json(b"[" + b",".join([b"1"] * 5000) + b"]", msgspec.json.Decoder(list[str]))
    assert len(caught.value.errors) == 100


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"name":"a","age":1} x', b"\xff", b'{"name":"\xff","age":1}', b'{"name":"\\ud800"']
)
async def test_a_body_that_is_not_json(body: bytes) -> None:
    """What is not JSON is a 400, whatever is wrong with it."""
    app = App()
    app.post("/")(_takes_user)
    assert (await ask(app, "POST", "/", body))[0] == 400


async def _takes_user(user: User) -> dict[str, str]:
    return {"name": user.name}


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("text/json+json", 415),
        (None, 415),
    ],
)
async def test_the_content_type_of_a_body(content_type: str | None, status: int) -> None:
    """A body must say that it is JSON (RFC 9110 section 15.5.16)."""
    app = App()
    app.post("/")(_takes_user)
    assert (await ask(app, "POST", "/", b'{"name":"a","age":1}', content_type))[0] == status


def test_a_refused_content_type_names_the_right_one() -> None:
    """A 415 says in ``accept`` what would be taken."""
    with pytest.raises(HTTPError) as caught:
        check_json(b"text/plain")
    assert caught.value.headers == (("accept", "application/json"),)


async def test_bytes_are_the_content_as_it_is() -> None:
    """A ``bytes`` parameter needs no content type, and may be empty."""
    app = App()

    @app.put("/")
    def handler(body: bytes) -> dict[str, int]:
        return {"size": len(body)}

    assert await ask(app, "PUT", "/", b"\xff\x00", None) == (200, {"size": 2})
    assert await ask(app, "PUT", "/", b"", None) == (200, {"size": 0})


async def test_content_that_may_be_missing() -> None:
    """``X | None``, or a default of None, makes a body optional; one that is there must still fit."""
    app = App()

    @app.post("/")
    def handler(user: User | None) -> dict[str, bool]:
        return {"given": user is not None}

    @app.post("/default")
    def default(user: User | None = None) -> dict[str, bool]:
        return {"given": user is not None}

    for path in ("/", "/default"):
        assert await ask(app, "POST", path, b"", None) == (200, {"given": False})
        assert await ask(app, "POST", path, b'{"name":"a","age":1}') == (200, {"given": True})
        assert fields(await ask(app, "POST", path, b'{"name":"a"}')) == [("body", "age")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("n=1", 1),
        ("n=1&n=2", 1),
        ("n=-9223372036854775808", -(2**63)),
        ("m=%2B&n=%31", 1),
        ("n=9223372036854775808", None),
        ("n=" + "9" * 5000, None),
        ("n=", None),
        ("n", None),
        ("n=1.5", None),
        ("n=1_0", None),
        ("n=%D9%A1", None),
        ("n=+1", None),
        ("", None),
        ("n=%FF", None),
    ],
)
async def test_an_integer_in_the_query(query: str, expected: int | None) -> None:
    """Decimal, 64 bits, the first of several; anything else is a 422, never a 500."""
    app = App()

    @app.get("/")
    def handler(n: int) -> dict[str, int]:
        return {"n": n}

    answer = await ask(app, "GET", f"/?{query}")
    if expected is None:
        assert fields(answer) == [("query", "n")]
    else:
        assert answer == (200, {"n": expected})


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "1e999", "x", ""])
async def test_a_number_in_the_query_is_finite(text: str) -> None:
    """What arithmetic cannot go on with is refused."""
    app = App()

    @app.get("/")
    def handler(x: float) -> dict[str, float]:
        return {"x": x}

    assert fields(await ask(app, "GET", f"/?x={text}")) == [("query", "x")]


async def test_a_field_that_may_be_none() -> None:
    """``X | None`` without a default is None when the field is missing, and the empty text is a text."""
    app = App()

    @app.get("/")
    def handler(q: str | None, n: int | None) -> dict[str, Any]:
        return {"q": q, "n": n}

    assert await ask(app, "GET", "/") == (200, {"q": None, "n": None})
    assert await ask(app, "GET", "/?q=&n=2") == (200, {"q": "", "n": 2})
    assert await ask(app, "GET", "/?q=null") == (200, {"q": "null", "n": None})


async def test_a_typed_annotation_of_a_text_parameter() -> None:
    """A path parameter is converted to its annotation where the pattern leaves it text."""
    app = App()

    @app.get("/{number}")
    def handler(number: int) -> dict[str, int]:
        return {"number": number}

    assert await ask(app, "GET", "/5") == (200, {"number": 5})
    assert fields(await ask(app, "GET", "/five")) == [("path", "number")]


async def test_handlers_that_are_not_plain_functions() -> None:
    """Partials, methods and callable objects are bound and awaited like functions."""
    app = App()

    class Thing:
        async def method(self, n: int) -> dict[str, int]:
            return {"n": n}

        async def __call__(self, n: int) -> dict[str, int]:
            return {"n": n + 1}

    async def add(n: int, more: int) -> dict[str, int]:
        return {"n": n + more}

    app.get("/method")(Thing().method)
    app.get("/object")(Thing())
    app.get("/partial")(functools.partial(add, more=10))
    assert await ask(app, "GET", "/method?n=1") == (200, {"n": 1})
    assert await ask(app, "GET", "/object?n=1") == (200, {"n": 2})
    assert await ask(app, "GET", "/partial?n=1") == (200, {"n": 11})


def _missing(other: int) -> None: ...
def _mismatch(number: str) -> None: ...
def _star(number: int, *rest: int) -> None: ...
def _keywords(number: int, **rest: int) -> None: ...
def _positional(number: int, /) -> None: ...
def _two_bodies(number: int, a: User, b: Point) -> None: ...
def _unknown_type(number: int, thing: object) -> None: ...
def _body_default(number: int, user: User = User("a", 1)) -> None: ...  # noqa: B008  # the error is what is tested
def _undefined(number: int, thing: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # likewise


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (_missing, "does not take the path parameter number"),
        (_mismatch, "gives int, but parameter number is annotated str"),
        (_star, "parameter rest must be a plain one"),
        (_keywords, "parameter rest must be a plain one"),
        (_positional, "parameter number must be a plain one"),
        (_two_bodies, "a and b would both be"),
        (_unknown_type, "provides parameter thing"),
        (_body_default, "user is the request's content"),
        (_undefined, "'Nowhere', which is not defined"),
    ],
)
def test_a_signature_nothing_provides_for(handler: Callable[..., Any], message: str) -> None:
    """Registration fails, naming handler, file and line, route and parameter."""
    with pytest.raises(TypeError) as caught:
        App().get("/x/{number:int}")(handler)
    assert message in str(caught.value)
    assert f"{handler.__name__} ({__file__}:{handler.__code__.co_firstlineno}) of route '/x/{{number:int}}'" in str(
        caught.value
    )


class Sent:
    """As much of an exchange as binding looks at."""

    def __init__(self, query: bytes) -> None:
        self.query = query


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c d", "é"]), st.text(max_size=6))))
def test_a_query_says_what_was_written(pairs: list[tuple[str, str]]) -> None:
    """Whatever a form encodes, parsing gives back, and binding never fails in another way than a ValidationError."""
    query = urlencode(pairs, errors="replace").encode()
    expected = [(name, value.encode("utf-8", "replace").decode()) for name, value in pairs]
    assert parse_query(query) == expected

    def handler(a: int, b: str = "-", c: list[float] | None = None) -> None: ...

    binding = compile_binding(handler, "", {})
    texts = [value for name, value in expected if name == "a"]
    fits = bool(texts) and texts[0].isascii() and texts[0].removeprefix("-").isdecimal()
    if fits:
        arguments = binding.bind(Sent(query), None, b"", None, App())  # type: ignore[arg-type]  # a stand-in
        first = next((value for name, value in expected if name == "b"), "-")
        assert arguments == {"a": int(texts[0]), "b": first, "c": None}
        return
    with pytest.raises(ValidationError) as caught:
        binding.bind(Sent(query), None, b"", None, App())  # type: ignore[arg-type]  # a stand-in
    assert [(error.place, error.name) for error in caught.value.errors] == [("query", "a")]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_any_octets_are_some_query(raw: bytes) -> None:
    """No octets make parsing fail."""
    for name, value in parse_query(raw):
        assert isinstance(name, str)
        assert isinstance(value, str)
