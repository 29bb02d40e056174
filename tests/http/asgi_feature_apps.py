"""One application with what the framework offers beyond plain requests, to be served by our server and by others."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from forebay.errors import HTTPError
from forebay.http import (
    App,
    Cookie,
    Depends,
    Events,
    EventStream,
    Form,
    Header,
    OpenAPI,
    Request,
    RequestHook,
    Response,
    StaticFiles,
    UploadFile,
    WebSocket,
    blocking,
    last_event_id,
)
from forebay.http.middleware import BearerAuth, Compression, RequestId, Sessions, Timeout

LOG = os.environ.get("FACE_LOG", "")


def note(line: str) -> None:
    """Something that a test looks for when the process has ended."""
    if LOG:
        with open(LOG, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")


class Stamp(RequestHook):
    """Refuses some requests, and marks all answers."""

    words = (b"x-stamp",)

    def before(self, request: Request) -> Response | bytes | None:
        if request.headers.get("x-region") == "moon":
            return Response("there is nobody here", status=421)
        return b"x-stamp: hooked\r\n"


class Point(msgspec.Struct):
    """A record."""

    x: int
    y: int


class Counts:
    """What happened, for tests to ask."""

    def __init__(self) -> None:
        self.open = 0  # dependencies of requests
        self.after = 0


@asynccontextmanager
async def pool() -> AsyncIterator[str]:
    """A dependency of the application."""
    note("pool opened")
    yield "pool"
    note("pool closed")


async def session(pool: Annotated[str, Depends(pool, scope="app")]) -> AsyncIterator[str]:
    """A dependency of each request."""
    counts.open += 1
    try:
        yield f"session of the {pool}"
    finally:
        counts.open -= 1


def guest(token: Annotated[str, Header("x-token")] = "") -> str:
    """Denies those without a token."""
    if token != "good":
        raise HTTPError(401, "no token", headers=[("www-authenticate", "Bearer")])
    return "ada"


Session = Annotated[str, Depends(session)]
Guest = Annotated[str, Depends(guest)]

counts = Counts()
feed = Events(history=10)
app = App(
    "features",
    body_limit=1_000_000,
    threads=2,
    middleware=[RequestId(), Stamp(), Compression()],
    openapi=OpenAPI("Features", "1"),
)
private = app.group("/private", middleware=[BearerAuth({"a-token-of-some-length": "ada"})])
hasty = app.group("/hasty", middleware=[Timeout(0.3)])
shop = app.group("/shop", middleware=[Sessions("a key of at least thirty-two bytes")])


@app.get("/counts")
def show() -> dict[str, int]:
    """What happened."""
    return {
        "open": counts.open,
        "after": counts.after,
        "subscribers": len(feed),
    }


@app.get("/fail")
async def fail() -> None:
    """An error that is not meant."""
    raise RuntimeError("a secret")


@app.get("/slow", timeout=0.2)
async def slow(session: Session) -> None:
    """Has too little time, and a dependency."""
    await asyncio.Event().wait()


@hasty.get("/slow")
async def slow_in_group() -> None:
    """The same by middleware."""
    await asyncio.Event().wait()


@app.get("/session")
async def with_session(session: Session) -> str:
    """What the dependency gave."""
    return session


@app.get("/blocking")
@blocking
def in_thread() -> bool:
    """Whether it has a thread of its own."""
    return threading.current_thread() is not threading.main_thread()


@app.get("/long")
def long() -> str:
    """Worth compressing."""
    return "water finds its level\n" * 1000


@app.get("/point")
def point() -> Point:
    """JSON or MessagePack."""
    return Point(1, 2)


@app.get("/link", name="link")
def link(request: Request) -> str:
    """The path of a route."""
    return request.url_for("link")


@private.get("/who")
def who(request: Request) -> str:
    """Who it is."""
    return str(request.identity)


@shop.post("/visits")
def visit(request: Request) -> int:
    """Counted in a signed cookie."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return int(request.session["visits"])


# Server-sent events


@app.get("/events")
def events(request: Request) -> EventStream:
    """All that is published."""
    return EventStream(feed.subscribe(last_event_id(request)), retry=1, heartbeat=0.2)


@app.post("/events", status=202)
def publish(point: Point) -> None:
    """To all."""
    feed.publish(point, event="point")


# Uploads


@app.post("/form")
async def form(title: Annotated[str, Form()], files: list[UploadFile]) -> list[Any]:
    """Fields and files."""
    return [title, [[file.filename, file.content_type, file.size, len(await file.read())] for file in files]]


# Work after the response


async def count_after(times: int) -> None:
    """On the loop."""
    counts.after += times


def late(line: str) -> None:
    """In a thread, when the process is about to end."""
    note(line)


@app.post("/after", status=202)
def after(request: Request, times: int = 1) -> None:
    """Both kinds."""
    request.after(count_after, times)
    request.after(late, "done after")


async def last_words() -> None:
    """Is not done when the server ends."""
    await asyncio.sleep(0.3)
    note("last words")


@app.post("/at-the-end", status=202)
def at_the_end(request: Request) -> None:
    """What is waited for at shutdown."""
    request.after(last_words)


# WebSockets


@app.websocket("/ws/{room}/{seat:int}")
async def ws_bound(
    ws: WebSocket,
    room: str,
    seat: int,
    guest: Guest,
    session: Session,
    times: Annotated[int, msgspec.Meta(ge=1, le=3)] = 1,
    theme: Annotated[str, Cookie()] = "plain",
) -> None:
    """All that a handler may ask for."""
    await ws.send(msgspec.json.encode([room, seat, guest, session, times, theme]).decode())
    async for message in ws:
        for _ in range(times):
            await ws.send(message)


@private.websocket("/ws")
async def ws_private(ws: WebSocket, request: Request) -> None:
    """Behind authentication."""
    await ws.send(str(request.identity))


# Mounts


@asynccontextmanager
async def inner_lifespan(app: App[Any]) -> AsyncIterator[None]:
    """Of the mounted application."""
    note("inner started")
    yield
    note("inner stopped")


inner = App("inner", lifespan=inner_lifespan)


@inner.get("/things/{thing}", name="thing")
def inner_thing(thing: str, request: Request, session: Session) -> list[str]:
    """Knows where it is."""
    return [thing, request.url_for("thing", thing="x"), session]


@inner.websocket("/ws")
async def inner_ws(ws: WebSocket, word: str) -> None:
    """In the mounted application."""
    await ws.send(word)


app.mount("/inner", inner)
app.mount("/static", StaticFiles(Path(__file__).parent))
