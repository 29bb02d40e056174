"""What is unusual, but allowed: annotations at the edges, contents of null, forms that are empty, values that only
Python knows to be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict

import msgspec
import pytest

from forebay.errors import ValidationError
from forebay.http import App
from forebay.http.binding import Body, Cookie, Depends, Form, Header, Query
from forebay.http.encoding import MSGPACK, content_decoder
from forebay.http.forms import FormData
from forebay.http.uploads import UploadFile
from forebay.testing import ClientResponse, TestClient

MaybeId = NewType("MaybeId", Optional[int])  # type: ignore[valid-newtype]  # noqa: UP045  # but some write it
Name = NewType("Name", str)
BOUNDARY = {"content-type": "multipart/form-data; boundary=B"}
LEFT_EMPTY = (
    b'--B\r\ncontent-disposition: form-data; name="f"; filename=""\r\n'
    b"content-type: application/octet-stream\r\n\r\n\r\n--B--\r\n"
)


class Window(msgspec.Struct):
    """A field that must be there."""

    low: int


class Row(msgspec.Struct, array_like=True):
    """Written as a list."""

    a: int
    b: int = 2


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing else."""

    a: int = 1


class Kept(msgspec.Struct, frozen=True):
    """Can be an item of a set, unless it holds a list."""

    of: Any = None


class Entry(TypedDict):
    """What is written like a Struct."""

    title: str


async def ask(handler: Callable[..., Any], url: str = "/", method: str = "GET", **kwargs: Any) -> ClientResponse:
    """One request to an application with this one handler."""
    app = App()
    (app.get if method == "GET" else app.post)("/")(handler)
    async with TestClient(app, raise_errors=False) as client:
        return await client.request(method, url, **kwargs)


def wrong(response: ClientResponse) -> list[tuple[str, str]]:
    """Places and names of a 422."""
    assert response.status == 422, response.body
    return [(error["place"], error["name"]) for error in response.json()["errors"]]


@pytest.mark.parametrize("text", ["253402300800", "9" * 400, "1e300", "-62135596801"])
async def test_a_moment_no_datetime_can_be(text: str) -> None:
    """Of the query, of a form, of a record of either: no value, and no failure."""

    class Times(msgspec.Struct):
        at: datetime

    def query(at: datetime) -> None: ...
    def form(at: Annotated[datetime, Form()]) -> None: ...
    def query_record(times: Annotated[Times, Query()]) -> None: ...
    def form_record(times: Annotated[Times, Form()]) -> None: ...

    for handler in (query, query_record):
        assert wrong(await ask(handler, f"/?at={text}")) == [("query", "at")]
    for handler in (form, form_record):
        assert wrong(await ask(handler, method="POST", form={"at": text})) == [("form", "at")]


@pytest.mark.parametrize(
    ("kind", "item"),
    [(set[Any], {"k": 1}), (frozenset[tuple[Any, ...]], [{"k": 1}]), (set[Kept], {"of": {"k": 1}})],
)
@pytest.mark.parametrize("content_type", ["application/json", MSGPACK])
def test_a_set_of_what_has_no_hash(kind: Any, item: Any, content_type: str) -> None:
    """An object cannot be in a set."""
    holder = msgspec.defstruct("Holder", [("before", int), ("held", kind)])
    encode = msgspec.json.encode if content_type == "application/json" else msgspec.msgpack.encode
    for before, names in (("x", ["before", "held"]), (1, ["held"])):
        with pytest.raises(ValidationError) as caught:
            content_decoder(holder)(encode({"before": before, "held": [item]}), content_type.encode())
        assert [error.name for error in caught.value.errors] == names


def test_a_default_that_fails_is_no_fault_of_the_client() -> None:
    """What the program gets wrong is not told as an error of the content."""

    class Broken(msgspec.Struct):
        n: int = msgspec.field(default_factory=lambda: int([]))  # type: ignore[call-overload]  # it fails

    with pytest.raises(TypeError, match="int\\(\\) argument"):
        content_decoder(Broken)(b"{}", b"application/json")


async def test_a_content_of_null() -> None:
    """None, where the annotation allows that; otherwise an error."""
    json = {"content-type": "application/json"}

    def record(window: Window | None) -> list[Any]:
        return [window]

    def number(n: Annotated[int | None, Body()]) -> list[Any]:
        return [n]

    def needed(window: Window) -> list[Any]:
        return [window]

    def missing(window: Window = None) -> list[Any]:  # type: ignore[assignment]  # as many write it
        return [window]

    for allowing in (record, number):
        assert (await ask(allowing, method="POST", headers=json, content=b"null")).json() == [None]
        assert (await ask(allowing, method="POST")).json() == [None]
    for refusing in (needed, missing):
        assert wrong(await ask(refusing, method="POST", headers=json, content=b"null")) == [("body", "$")]
    assert wrong(await ask(record, method="POST", headers=json, content=b'{"low":"x"}')) == [("body", "low")]

    def raw(content: bytes | None) -> list[bool]:
        return [content is None]

    assert (await ask(raw, method="POST")).json() == [True]
    assert (await ask(raw, method="POST", content=b"a")).json() == [False]


async def test_what_is_read_twice_is_said_once() -> None:
    """A handler and its dependencies may take the same."""

    def low_of(window: Window, page: int = 1) -> int:
        return window.low + page

    def handler(window: Window, low: Annotated[int, Depends(low_of)], page: int = 1) -> int:
        return low

    response = await ask(handler, "/?page=x", "POST", json={"low": "y"})
    assert wrong(response) == [("query", "page"), ("body", "low")]


async def test_every_place_at_once() -> None:
    """Path, query, headers, cookies and content, of the handler and of a dependency."""

    def depended(y: Annotated[int, Header()]) -> int:
        return y

    def handler(
        p: int,
        q: int,
        window: Window,
        x: Annotated[int, Header()],
        c: Annotated[int, Cookie()],
        record: Annotated[Window, Query()],
        d: Annotated[int, Depends(depended)],
    ) -> None: ...

    app = App()
    app.post("/{p}")(handler)
    async with TestClient(app, raise_errors=False) as client:
        found = wrong(await client.post("/x", json={}))
    assert sorted(found) == [
        ("body", "low"),
        ("cookie", "c"),
        ("header", "x"),
        ("header", "y"),
        ("path", "p"),
        ("query", "low"),
        ("query", "q"),
    ]


async def test_records_of_fields_of_every_make() -> None:
    """A Struct that is written as a list, and one that forbids unknown fields."""

    def row(row: Annotated[Row, Query()]) -> list[int]:
        return [row.a, row.b]

    assert (await ask(row, "/?a=5")).json() == [5, 2]

    def other(page: int = 1) -> int:
        return page

    def strict(strict: Annotated[Strict, Query()], q: str = "", other: Annotated[int, Depends(other)] = 0) -> list[Any]:
        return [strict.a, q, other]

    assert (await ask(strict, "/?a=5&q=x&page=2")).json() == [5, "x", 2]
    assert wrong(await ask(strict, "/?a=x&b=1&q=x&b=2")) == [("query", "b"), ("query", "a")]
    many = "&".join(f"x{number}" for number in range(1000))
    assert len(wrong(await ask(strict, f"/?{many}"))) == 100


async def test_a_record_that_may_be_none() -> None:
    """None when nothing of it was sent, without a default being written."""

    def query(window: Annotated[Window | None, Query()]) -> list[Any]:
        return [window]

    def form(window: Annotated[Window | None, Form()]) -> list[Any]:
        return [window]

    assert (await ask(query)).json() == [None]
    assert wrong(await ask(query, "/?low=x")) == [("query", "low")]
    assert (await ask(form, method="POST", form={})).json() == [None]
    assert (await ask(form, method="POST")).json() == [None]
    assert (await ask(form, method="POST", form={"low": "5"})).json() == [{"low": 5}]


async def test_none_in_other_words() -> None:
    """``None`` as a literal, and behind a name."""

    def handler(a: Literal["x", None], b: MaybeId) -> list[Any]:
        return [a, b]

    assert (await ask(handler)).json() == [None, None]
    assert (await ask(handler, "/?a=x&b=5")).json() == ["x", 5]


async def test_a_typed_dict_is_content() -> None:
    """Without a marker, in an application."""

    def handler(entry: Entry) -> list[str]:
        return [entry["title"]]

    assert (await ask(handler, method="POST", json={"title": "a"})).json() == ["a"]
    assert wrong(await ask(handler, method="POST", json={})) == [("body", "title")]

    def anything(content: Any) -> list[Any]:
        return [content]

    assert (await ask(anything, method="POST", json=[1])).json() == [[1]]


@pytest.mark.parametrize("kind", [Annotated[str, msgspec.Meta(min_length=1)], Name, Annotated[str | None, "a note"]])
def test_a_part_of_the_path_that_could_never_fit(kind: Any) -> None:
    """It is found when the route is registered, however it is wrapped."""

    def handler(number: Any) -> None: ...

    handler.__annotations__["number"] = kind
    with pytest.raises(TypeError, match="the path gives int, but parameter number is annotated str"):
        App().get("/{number:int}")(handler)


async def test_inputs_of_a_form_that_were_left_empty() -> None:
    """A browser sends a file without name and content for them: nothing was sent."""

    def maybe(f: UploadFile | None = None) -> list[bool]:
        return [f is None]

    def needed(f: UploadFile) -> None: ...

    def several(f: list[UploadFile] = []) -> int:  # noqa: B006  # copied for each request
        return len(f)

    def text(f: Annotated[str | None, Form()]) -> list[Any]:
        return [f]

    sent: dict[str, Any] = {"method": "POST", "headers": BOUNDARY, "content": LEFT_EMPTY}
    assert (await ask(maybe, **sent)).json() == [True]
    assert wrong(await ask(needed, **sent)) == [("form", "f")]
    assert (await ask(several, **sent)).json() == 0
    assert (await ask(text, **sent)).json() == [None]


async def test_no_content_is_an_empty_form() -> None:
    """Its fields are missing, as they are in a form without them; another content type is 415 all the same."""

    def defaults(a: Annotated[str, Form()] = "x", f: UploadFile | None = None) -> list[Any]:
        return [a, f]

    def needed(a: Annotated[str, Form()], f: UploadFile) -> None: ...

    def whole(form: FormData) -> int:
        return len(form)

    assert (await ask(defaults, method="POST")).json() == ["x", None]
    assert wrong(await ask(needed, method="POST")) == [("form", "a"), ("form", "f")]
    assert (await ask(whole, method="POST")).json() == 0
    assert (await ask(defaults, method="POST", content=b"a=1")).status == 415
    assert (await ask(defaults, method="POST", headers={"content-type": "text/plain"})).status == 415


async def test_a_dataclass_that_refuses_a_query() -> None:
    """What it says of itself is an error of its parameter."""

    @dataclass
    class Span:
        low: int
        high: int = 9

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high")

    def handler(span: Annotated[Span, Query()]) -> list[int]:
        return [span.low, span.high]

    assert (await ask(handler, "/?low=5")).json() == [5, 9]
    response = await ask(handler, "/?low=10")
    assert response.json()["errors"] == [{"place": "query", "name": "span", "message": "low is above high"}]
