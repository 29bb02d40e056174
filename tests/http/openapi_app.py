"""An application with everything in it that an OpenAPI document can say, for tests of it and of the docs page."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pydantic
from openapi_spec_validator import OpenAPIV31SpecValidator

from forebay.errors import HTTPError
from forebay.http import App, FileResponse, Request, Response, WebSocket
from forebay.http.binding import Body, Cookie, Depends, Form, Header, Path, Query, blocking
from forebay.http.form_data import FormData
from forebay.http.group import Group
from forebay.http.middleware import CSRF, BasicAuth, BearerAuth, RateLimit
from forebay.http.openapi import OpenAPI, build_document, install
from forebay.http.sse import EventStream
from forebay.http.uploads import UploadFile

__all__ = ["HOSTILE", "PLAIN", "SETTINGS", "TOKEN", "checked", "everything", "json_of", "schema_of"]

TOKEN = "a-token-of-at-least-thirty-two-characters"
HOSTILE = '<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>'

SETTINGS = OpenAPI(
    "Orchard",
    "2.1.0",
    description="""What grows in the orchard, who picks it, and where it goes.

    Every answer that is no success is a problem document; `errors` lists **every** field that does not fit.
    """,
    tags={"trees": "All that grows.", "pickers": "Who works here."},
)


PLAIN = OpenAPI("A", "1")


def checked(app: App[Any], openapi: OpenAPI = PLAIN) -> dict[str, Any]:
    """The document of an application, which is valid."""
    document = build_document(app, openapi)
    OpenAPIV31SpecValidator(document).validate()
    return document


def schema_of(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What a schema refers to."""
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def json_of(operation: dict[str, Any], status: str = "200") -> dict[str, Any]:
    """The schema of a JSON answer."""
    found: dict[str, Any] = operation["responses"][status]["content"]["application/json"]["schema"]
    return found


class Kind(enum.Enum):
    """What a tree bears."""

    APPLE = "apple"
    PEAR = "pear"
    PLUM = "plum"


class Position(msgspec.Struct):
    """Where something stands, in metres from the gate."""

    east: Annotated[float, msgspec.Meta(ge=-500, le=500)]
    north: Annotated[float, msgspec.Meta(ge=-500, le=500)]


class NewTree(msgspec.Struct, forbid_unknown_fields=True):
    """A tree that is to be planted."""

    name: Annotated[
        str, msgspec.Meta(min_length=1, max_length=40, description="What it is called.", examples=["Old Ida"])
    ]
    kind: Kind
    position: Position
    planted: date | None = None
    labels: Annotated[list[str], msgspec.Meta(max_length=8)] = []
    notes: dict[str, str] = {}


class Tree(NewTree, kw_only=True):
    """A tree that stands here."""

    id: UUID
    parent: Tree | None = None


class Page(msgspec.Struct):
    """Which part of a list is wanted; fields of the query."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=100, description="How many at most.")] = 20
    after: Annotated[str | None, msgspec.Meta(description="The last one of the page before.")] = None


@dataclass
class Harvest:
    """What was picked; a dataclass."""

    tree: UUID
    kilograms: Annotated[float, msgspec.Meta(gt=0)]
    at: datetime


class Weather(TypedDict):
    """A TypedDict."""

    degrees: float
    wind: NotRequired[int]


class Picker(pydantic.BaseModel):
    """Who picks; a model of pydantic."""

    name: str = pydantic.Field(min_length=2, description="As on the badge.")
    age: int = pydantic.Field(ge=16, le=99)
    wage: Decimal = Decimal("12.50")
    boss: Picker | None = None


class Photo(msgspec.Struct):
    """A form with a file."""

    caption: Annotated[str, msgspec.Meta(min_length=1)]
    picture: UploadFile
    taken: date | None = None


def other_position() -> type:
    """Another class of a name that is taken."""

    class Position(msgspec.Struct):
        """A place in a list."""

        index: int

    return Position


OtherPosition: Any = other_position()


async def caller(
    x_trace: Annotated[str | None, Header(description="Shows up in the log.")] = None,
    debug: Annotated[bool, Query(deprecated=True)] = False,
) -> str:
    """What all of the trees' handlers depend on."""
    return x_trace or ""


Caller = Annotated[str, Depends(caller)]


def everything() -> App[Any]:
    """The application, with its document and its page."""
    app: App[Any] = App("orchard")
    trees = Group("/trees", tags=["trees"])
    guarded = Group("/pickers", tags=["pickers"], middleware=[BearerAuth({TOKEN: "ida"}), RateLimit("1000/s")])
    _trees(trees)
    _pickers(guarded)
    _rest(app)
    app.include(trees)
    app.include(guarded)

    barn: App[Any] = App("barn")

    @barn.get("/tools/{name}", tags=["tools"])
    def tool(name: str) -> dict[str, str]:
        """One tool."""
        return {"name": name}

    app.mount("/barn", barn)
    install(app, SETTINGS)
    return app


def _trees(trees: Group) -> None:
    @trees.get("")
    def list_trees(
        who: Caller,
        page: Annotated[Page, Query()],
        kind: Annotated[list[Kind] | None, Query(description="Only these.")] = None,
        planted_after: date | None = None,
        order: Literal["name", "age"] = "name",
    ) -> list[Tree]:
        """List the trees.

        In the order that is asked for, one page after the other. A filter that is not there lets everything through:

        - `kind` may be there several times.
        """
        return []

    @trees.post("", status=201, responses={409: "There is a tree of that name."})
    def plant_tree(tree: NewTree, who: Caller) -> Tree:
        """Plant a tree."""
        values = {name: getattr(tree, name) for name in tree.__struct_fields__}
        return Tree(**values, id=UUID(int=7))

    @trees.get("/{tree_id:uuid}", responses={404: "There is no such tree."})
    def get_tree(tree_id: Annotated[UUID, Path(description="Of the tree.")], who: Caller) -> Tree:
        """Get one tree."""
        raise HTTPError(404, "there is no such tree")

    @trees.delete("/{fell:uuid}")
    def fell_tree(fell: UUID) -> None:
        """Fell a tree."""

    @trees.get("/{name}", deprecated=True)
    def find_tree(name: Annotated[str, msgspec.Meta(max_length=40)]) -> Tree | None:
        """Find a tree by its name."""
        return None

    @trees.post("/{tree_id:uuid}/photos", status=201, responses={201: "Stored."})
    async def add_photo(tree_id: UUID, photo: Annotated[Photo, Form()]) -> dict[str, Any]:
        """Add a photo."""
        return {"caption": photo.caption, "size": photo.picture.size, "filename": photo.picture.filename}

    @trees.post("/harvests")
    def record_harvest(
        harvest: Annotated[
            Harvest,
            Body(
                description="One basket.",
                examples=[
                    {"tree": "00000000-0000-0000-0000-000000000007", "kilograms": 12.5, "at": "2024-09-01T10:00:00Z"}
                ],
            ),
        ],
    ) -> tuple[Harvest, int]:
        """Record what was picked."""
        return harvest, 201


def _pickers(guarded: Group) -> None:
    @guarded.get("")
    def list_pickers() -> list[Picker]:
        """List who works here."""
        return [Picker(name="Ida", age=44)]

    @guarded.post("", middleware=[CSRF(keys=["a-key-of-at-least-thirty-two-characters"])])
    def hire(picker: Picker) -> Picker:
        """Hire somebody."""
        return picker


def _rest(app: App[Any]) -> None:
    @app.get("/weather", middleware=[BasicAuth(lambda user, password: user, optional=True)])
    def weather(session: Annotated[str | None, Cookie()] = None) -> Weather:
        """The weather now."""
        return {"degrees": 17.5}

    @app.get("/report", timeout=5)
    @blocking
    def report() -> str:
        """A text."""
        return "all is well"

    @app.put("/raw")
    def raw(content: bytes) -> bytes:
        """Bytes in, bytes out."""
        return content

    @app.post("/login")
    async def login(
        user: Annotated[str, Form(description="Who.")],
        password: Annotated[str, Form()],
        remember: Annotated[bool, Form()] = False,
    ) -> dict[str, Any]:
        """Log in by a form."""
        return {"user": user, "remember": remember}

    @app.post("/survey")
    async def survey(form: FormData) -> dict[str, int]:
        """Any form."""
        return {"fields": len(form)}

    @app.post("/files")
    async def upload(files: list[UploadFile], note: Annotated[str, Form()] = "") -> list[str]:
        """Several files."""
        return [one.filename for one in files]

    @app.get("/download/{path:path}")
    def download(path: str) -> FileResponse:
        """A file."""
        raise HTTPError(404)

    @app.get("/events")
    def events() -> EventStream:
        """What happens."""
        return EventStream(_numbers())

    @app.get("/stream")
    def stream() -> AsyncIterator[bytes]:
        """A stream."""
        return _pieces()

    @app.route("/both", methods=["GET", "POST", "PURGE"])
    def both(position: Annotated[int, Query()] = 3) -> OtherPosition:
        """Two methods, and one that OpenAPI does not know."""
        return OtherPosition(position)

    @app.get("/redirect", responses={307: "To somewhere else."})
    def redirect() -> Response:
        """Elsewhere."""
        return Response(status=307, headers={"location": "/report"})

    @app.get("/secret", hidden=True)
    def secret() -> str:
        """Not shown."""
        return ""

    @app.get("/hostile", tags=[HOSTILE], description=HOSTILE, summary=HOSTILE, responses={418: HOSTILE})
    def hostile(text: Annotated[str, Query(description=HOSTILE, examples=[HOSTILE])] = HOSTILE) -> str:
        """Replaced."""
        return HOSTILE

    @app.get("/echo")
    def echo(
        request: Request,
        q: str,
        flag: bool = False,
        number: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1,
        at: datetime | None = None,
        x_list: Annotated[list[int] | None, Header()] = None,
        theme: Annotated[str | None, Cookie()] = None,
    ) -> dict[str, Any]:
        """What was sent."""
        return {"q": q, "flag": flag, "number": number, "at": at, "list": x_list, "theme": theme}

    @app.get("/fails")
    def fails() -> dict[str, str]:
        """An answer other than success."""
        raise HTTPError(403, "not today")

    tenants = app.group("", host="{tenant}.example.com")

    @tenants.get("/home")
    def home(tenant: str) -> str:
        """The home of one tenant."""
        return tenant

    @app.websocket("/chat/{room}", tags=["live"])
    async def chat(ws: WebSocket, room: str, nick: str = "somebody") -> None:
        """Talk to others."""


async def _numbers() -> AsyncIterator[int]:
    yield 1


async def _pieces() -> AsyncIterator[bytes]:
    yield b"a"
