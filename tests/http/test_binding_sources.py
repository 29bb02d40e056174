"""Where arguments come from: headers, cookies, forms, records of fields, and the shapes annotations may have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NewType, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest

from forebay.http import App, Request
from forebay.http.binding import Body, Cookie, Depends, Form, Header, Path, Query
from forebay.http.forms import FormData
from forebay.http.uploads import UploadFile
from forebay.testing import ClientResponse, TestClient

T = TypeVar("T")
UserId = NewType("UserId", int)
Positive = Annotated[int, msgspec.Meta(gt=0)]
Page = Annotated[Positive, Query(name="p", description="which page")]


class Level(IntEnum):
    """Numbers."""

    LOW = 1
    HIGH = 2


class Color(Enum):
    """Words."""

    RED = "red"
    BLUE = "blue"


class Box(msgspec.Struct, Generic[T]):
    """A record of anything."""

    held: T


class Filter(msgspec.Struct, rename="camel"):
    """The fields of a query."""

    max_size: int
    colors: list[Color] = []
    since: date | None = None
    level: Level = Level.LOW
    needed: str | None = msgspec.field(default="-")


class Maybe(msgspec.Struct):
    """A field that must be said, and may be None."""

    n: int | None
    m: int = 0


class Ordered(msgspec.Struct):
    """A record that checks itself."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is more than high")


@dataclass
class Client:
    """The fields of headers."""

    user_agent: str
    x_ids: list[int] = field(default_factory=list)


class Kept(TypedDict, total=False):
    """The fields of cookies."""

    theme: Literal["dark", "light"]
    visits: int


def app_of(handler: Callable[..., Any], pattern: str = "/", method: str = "GET") -> App:
    """An application with one route."""
    app = App()
    app.route(pattern, [method])(handler)
    return app


async def ask(handler: Callable[..., Any], url: str = "/", pattern: str = "/", **options: Any) -> ClientResponse:
    """One request to one handler."""
    method = "POST" if {"form", "files", "json", "content"} & options.keys() else "GET"
    async with TestClient(app_of(handler, pattern, method)) as client:
        return await client.request(method, url, **options)


def wrong(response: ClientResponse) -> list[tuple[str, str]]:
    """Places and names of what does not fit."""
    assert response.status == 422, response.body
    return [(error["place"], error["name"]) for error in response.json()["errors"]]


async def test_headers() -> None:
    """In any case, with hyphens for underscores, by another name, several of them, and what does not fit."""

    async def handler(
        x_request_id: Annotated[UUID, Header()],
        accept: Annotated[str, Header],
        token: Annotated[str | None, Header("X-Auth-Token")],
        x_n: Annotated[list[Positive], Header()],
        x_day: Annotated[date, Header()] = date(2026, 1, 1),
    ) -> list[Any]:
        return [x_request_id, accept, token, x_n, x_day]

    key = str(UUID(int=3))
    fields = [("X-Request-Id", key), ("ACCEPT", "text/plain"), ("x-n", "1"), ("X-N", " 2 "), ("x-auth-token", "t")]
    assert (await ask(handler, headers=fields)).json() == [key, "text/plain", "t", [1, 2], "2026-01-01"]
    bad = [("x-request-id", "5"), ("x-n", "1"), ("x-n", "0"), ("x-day", "yesterday")]
    assert wrong(await ask(handler, headers=bad)) == [
        ("header", "x-request-id"),
        ("header", "accept"),
        ("header", "x-n"),
        ("header", "x-day"),
    ]


async def test_cookies() -> None:
    """By name, as it is written; the first of a name counts."""

    def handler(
        session_id: Annotated[str, Cookie()],
        n: Annotated[int, Cookie("N")] = 5,
        m: Annotated[int | None, Cookie()] = None,
    ) -> list[Any]:
        return [session_id, n, m]

    assert (await ask(handler, headers={"cookie": "session_id=a=b; N=7; N=8"})).json() == ["a=b", 7, None]
    assert wrong(await ask(handler, headers={"cookie": "session-id=a; N=x; m="})) == [
        ("cookie", "session_id"),
        ("cookie", "N"),
        ("cookie", "m"),
    ]


async def test_records_of_fields() -> None:
    """All fields of a record from one place, by the names they have in documents; each that does not fit is named."""

    def handler(
        chosen: Annotated[Filter, Query()],
        client: Annotated[Client, Header()],
        kept: Annotated[Kept, Cookie()],
        maybe: Annotated[Maybe, Query()],
        page: Page = 1,
    ) -> Any:
        return [chosen, client, kept, maybe, page]

    url = "/?maxSize=5&colors=red&colors=blue&since=2026-01-02&level=2&p=3&m=1&needed="
    headers = [("user-agent", "me"), ("x-ids", "1"), ("x-ids", "2"), ("cookie", "theme=dark; visits=3; other=1")]
    assert (await ask(handler, url, headers=headers)).json() == [
        {"maxSize": 5, "colors": ["red", "blue"], "since": "2026-01-02", "level": 2, "needed": ""},
        {"user_agent": "me", "x_ids": [1, 2]},
        {"theme": "dark", "visits": 3},
        {"n": None, "m": 1},
        3,
    ]
    url = "/?colors=red&colors=green&since=x&level=3&p=0&n=x"
    headers = [("x-ids", "1"), ("x-ids", "y"), ("cookie", "theme=blue; visits=z"), ("user-agent", "me")]
    assert sorted(wrong(await ask(handler, url, headers=headers))) == [
        ("cookie", "theme"),
        ("cookie", "visits"),
        ("header", "x-ids"),
        ("query", "colors"),
        ("query", "level"),
        ("query", "maxSize"),
        ("query", "n"),
        ("query", "p"),
        ("query", "since"),
    ]


async def test_a_record_that_checks_itself() -> None:
    """What it says of itself as a whole is told of the parameter; none of its fields gives the default."""

    def handler(
        span: Annotated[Ordered, Query()],
        other: Annotated[Maybe | None, Header()] = None,
        own: Annotated[Filter, Cookie()] = Filter(1),  # noqa: B008
    ) -> Any:
        return [span, other, own.max_size]

    assert (await ask(handler, "/?low=1&high=2")).json() == [{"low": 1, "high": 2}, None, 1]
    assert wrong(await ask(handler, "/?low=3&high=2")) == [("query", "span")]
    assert wrong(await ask(handler, "/?low=3&high=x")) == [("query", "high")]


async def test_defaults_are_nobody_elses() -> None:
    """What one request does to a default, the next one does not see."""

    def handler(
        n: int,
        tags: list[str] = [],  # noqa: B006
        chosen: Annotated[Filter, Query()] = Filter(1, [Color.RED]),  # noqa: B008
    ) -> Any:
        tags.append("more")
        chosen.colors.append(Color.BLUE)
        return [tags, chosen.colors]

    async with TestClient(app_of(handler)) as client:
        for _ in range(3):
            assert (await client.get("/?n=1")).json() == [["more"], ["red", "blue"]]


async def test_shapes_of_annotations() -> None:
    """Aliases, new types, literals, enumerations of numbers, unions, nested Annotated."""

    def handler(  # type: ignore[no-untyped-def]
        user: UserId,
        level: Level,
        word: Literal["a", "b"],
        number: Literal[1, 2],
        either: int | bool,
        maybe: Annotated[int | None, msgspec.Meta(ge=1)],
        page: Annotated[Page, msgspec.Meta(le=10)],
        listed: Annotated[list[Annotated[str, msgspec.Meta(pattern="^a")]], msgspec.Meta(min_length=2)],
        unique: frozenset[int] = frozenset(),
        pair: tuple[int, str] = (0, ""),
        moment: datetime | None = None,
        clock: time | None = None,
        span: timedelta | None = None,
        price: Decimal = Decimal(1),
        untyped="-",
    ) -> Any:
        assert type(level) is Level
        return [user, level, word, number, either, maybe, page, listed, sorted(unique), pair, moment, clock, span,
                str(price), untyped]  # fmt: skip

    query = "user=5&level=2&word=b&number=1&either=7&p=3&listed=a1&listed=a2&unique=1&unique=1&pair=1&pair=x"
    more = "&moment=2026-01-02T03:04:05Z&clock=10:00:00&span=PT5S&price=1.50&untyped=%C3%A9"
    response = await ask(handler, f"/?{query}{more}")
    assert response.json() == [
        5, 2, "b", 1, 7, None, 3, ["a1", "a2"], [1], [1, "x"], "2026-01-02T03:04:05Z", "10:00:00", "PT5S", "1.50", "é"
    ]  # fmt: skip
    bad = "user=x&level=3&word=c&number=3&either=z&maybe=0&p=11&listed=a&unique=q&pair=1&moment=now&clock=1&span=s"
    names = ["user", "level", "word", "number", "either", "maybe", "p", "listed", "unique", "pair", "moment", "clock",
             "span", "price"]  # fmt: skip
    assert wrong(await ask(handler, f"/?{bad}&price=nan")) == [("query", name) for name in names]
    assert wrong(await ask(handler, f"/?{query}&maybe=null")) == [("query", "maybe")]


async def test_parts_of_the_path() -> None:
    """Converted by their annotation, with its constraints; numbers are finite there as well."""

    def handler(
        n: Annotated[int, msgspec.Meta(ge=10)],
        x: float,
        day: Annotated[date, Path(description="which day")],
        color: Color | None,
        whole: float,
    ) -> list[Any]:
        return [n, x, day, color, whole]

    pattern = "/{n:int}/{x}/{day}/{color}/{whole:int}"
    assert (await ask(handler, "/10/1.5/2026-01-02/red/2", pattern)).json() == [10, 1.5, "2026-01-02", "red", 2.0]
    bad = await ask(handler, "/9/nan/x/green/2", pattern)
    assert wrong(bad) == [("path", "n"), ("path", "x"), ("path", "day"), ("path", "color")]
    assert wrong(await ask(handler, "/10/1e999/2026-01-02/red/2", pattern)) == [("path", "x")]


async def test_forms() -> None:
    """Single fields and files beside each other; what was left empty was not filled in, a ticked box is true."""

    async def handler(
        name: Annotated[str, Form()],
        file: UploadFile,
        age: Annotated[int | None, Form()] = None,
        agreed: Annotated[bool, Form()] = False,
        tags: Annotated[list[str], Form("tag")] = [],  # noqa: B006
        others: list[UploadFile] = [],  # noqa: B006
    ) -> list[Any]:
        return [name, file.filename, age, agreed, tags, [other.filename for other in others]]

    files = {"file": ("a.txt", b"x"), "others": [("b.txt", b"y"), ("c.txt", b"z")]}
    response = await ask(handler, form={"name": "n", "age": "", "agreed": "on", "tag": ["1", "2"]}, files=files)
    assert response.json() == ["n", "a.txt", None, True, ["1", "2"], ["b.txt", "c.txt"]]
    response = await ask(handler, form={"name": ""}, files={"file": ("a.txt", b"x")})
    assert response.json() == ["", "a.txt", None, False, [], []]
    response = await ask(handler, form={"age": "x", "file": "text", "agreed": "maybe"}, files={"tag": ("a", b"x")})
    assert sorted(wrong(response)) == [
        ("form", "age"),
        ("form", "agreed"),
        ("form", "file"),
        ("form", "name"),
        ("form", "tag"),
    ]


async def test_whole_forms() -> None:
    """A record of all its fields, or what there is; a dependency may have it beside the handler."""

    class Entry(msgspec.Struct):
        title: str
        n: int = 1

    def titled(title: Annotated[str, Form()]) -> str:
        return title.upper()

    async def handler(
        entry: Annotated[Entry, Form()], form: FormData, title: Annotated[str, Depends(titled)], q: int = 0
    ) -> list[Any]:
        return [entry, form.get("title"), title, q]

    response = await ask(handler, "/?q=5", form={"title": "a", "n": "2"})
    assert response.json() == [{"title": "a", "n": 2}, "a", "A", 5]
    assert wrong(await ask(handler, "/?q=x", form={"n": "z"})) == [
        ("form", "title"),
        ("query", "q"),
        ("form", "n"),
    ]


async def test_contents() -> None:
    """Generic records, marked scalars, optional ones, bytes; with a dependency that wants the content too."""

    def size(content: bytes) -> int:
        return len(content)

    async def generic(box: Box[list[int]], size: Annotated[int, Depends(size)]) -> list[Any]:
        return [box.held, size]

    def number(n: Annotated[int, Body()]) -> int:
        return n

    def optional(box: Box[int] | None = None) -> Any:
        return box if box is not None else "none"

    assert (await ask(generic, json={"held": [1, 2]})).json() == [[1, 2], len(b'{"held":[1,2]}')]
    assert wrong(await ask(generic, json={"held": [1, "x"]})) == [("body", "held[1]")]
    assert (await ask(number, json=5)).json() == 5
    assert wrong(await ask(number, json="x")) == [("body", "$")]
    assert (await ask(optional, content=b"")).text == "none"
    assert (await ask(optional, json={"held": 1})).json() == {"held": 1}


class State:
    """An application's state."""

    def __init__(self) -> None:
        self.name = "state"


async def test_what_is_no_part_of_a_request() -> None:
    """The request, the application with or without its state's class, and the state, under any name."""

    def handler(self: Request, one: App, two: App[State], three: State, request: str) -> list[Any]:
        return [self.method, one.name, two is one, three.name, request]

    app = App("named", state=State())
    app.get("/")(handler)
    async with TestClient(app) as client:
        assert (await client.get("/?request=r")).json() == ["GET", "named", True, "state", "r"]


async def test_very_many_parameters() -> None:
    """As many as somebody may write."""
    made: dict[str, Any] = {}
    names = [f"p{number}" for number in range(300)]
    exec(
        f"def handler({', '.join(f'{name}: int' for name in names)}) -> list[int]: return list(locals().values())", made
    )
    query = "&".join(f"{name}={number}" for number, name in enumerate(names))
    assert (await ask(made["handler"], f"/?{query}")).json() == list(range(300))
    assert wrong(await ask(made["handler"], "/")) == [("query", name) for name in names]


@pytest.mark.parametrize(
    "name", ["self", "request", "source", "mounted", "function", "arguments", "path", "stack", "app"]
)
async def test_names_that_are_ours_too(name: str) -> None:
    """A parameter may be called anything, wherever it comes from."""
    made: dict[str, Any] = {"Annotated": Annotated, "Depends": Depends, "Header": Header}
    exec(
        f"async def dependency({name}: str):\n yield {name}\n"
        f"async def handler({name}: str, x: Annotated[str, Depends(dependency)]) -> list[str]: return [{name}, x]\n"
        f"def plain({name}: int) -> int: return {name}\n",
        made,
    )
    app = App()
    app.get(f"/p/{{{name}}}")(made["handler"])
    app.get("/q")(made["plain"])
    async with TestClient(app) as client:
        assert (await client.get("/p/v")).json() == ["v", "v"]
        assert (await client.get(f"/q?{name}=5")).json() == 5
    assert app.url_for("handler", **{name: "v"}) == "/p/v"
