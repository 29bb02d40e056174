"""What the client's guide (docs/client.md) talks to: users, a file, events, and a few things that go wrong.

Run it, and try the guide's examples in another terminal::

    forebay run examples.client_server:app
    forebay fetch http://127.0.0.1:8000/old
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from msgspec import Struct

from forebay import App
from forebay.engine import sleep
from forebay.errors import HTTPError
from forebay.http import Cookie, Event, EventStream, FileResponse, Form, Request, Response, UploadFile, WebSocket
from forebay.http.middleware import BasicAuth, BearerAuth
from forebay.http.sse import last_event_id
from forebay.policy import deadline

FILE_SIZE = 1024 * 1024  # bytes


class User(Struct):
    """Somebody."""

    id: int
    name: str


class State:
    """What the server remembers."""

    def __init__(self) -> None:
        self.users = {1: User(1, "Ada"), 2: User(2, "Grace")}
        self.flaky = 0
        self.file = Path()


@asynccontextmanager
async def lifespan(app: App[State]) -> AsyncIterator[None]:
    """The file is there while the application runs."""
    with TemporaryDirectory() as folder:
        app.state.file = Path(folder, "file.bin")
        app.state.file.write_bytes(bytes(range(256)) * (FILE_SIZE // 256))
        yield


def make_app() -> App[State]:
    """A server of its own."""
    state = State()
    app = App("client-guide", state=state, lifespan=lifespan)
    add_users(app, state)
    add_content(app, state)
    add_trouble(app, state)
    add_secrets(app)
    return app


def add_users(app: App[State], state: State) -> None:
    """What one reads and writes as JSON."""

    @app.get("/users")
    def users(limit: int = 20) -> list[User]:
        return list(state.users.values())[:limit]

    @app.get("/users/{id:int}")
    def user(id: int) -> User:  # noqa: A002 - the name in the URL
        if id not in state.users:
            raise HTTPError(404, f"there is no user {id}")
        return state.users[id]

    @app.post("/users", status=201)
    async def add(new: User) -> User:
        state.users[new.id] = new
        return new

    @app.post("/search")
    async def search(name: Annotated[str, Form()]) -> list[User]:
        return [user for user in state.users.values() if user.name == name]


def add_content(app: App[State], state: State) -> None:
    """What is large, or goes on."""

    @app.post("/pictures", status=201)
    async def pictures(picture: UploadFile, title: Annotated[str, Form()] = "") -> dict[str, str | int]:
        return {"name": picture.filename, "size": picture.size, "title": title}

    @app.post("/upload")
    async def upload(request: Request) -> dict[str, str | int]:
        size, digest = 0, hashlib.sha256()
        async for piece in request.stream():
            size += len(piece)
            digest.update(piece)
        return {"size": size, "sha256": digest.hexdigest()}

    @app.get("/file")
    def file() -> FileResponse:
        return FileResponse(state.file)

    @app.get("/lines")
    def lines() -> Response:
        async def told() -> AsyncIterator[str]:
            for number in range(1, 4):
                yield f'{{"line": {number}}}\n'
                await sleep(0.01)

        return Response(told(), content_type="application/x-ndjson")

    @app.get("/prices")
    def prices(request: Request) -> EventStream:
        """Two prices, and then the connection ends: who comes back gets the next two."""
        first = int(last_event_id(request) or 0) + 1

        async def told() -> AsyncIterator[Event]:
            for number in range(first, first + 2):
                yield Event({"price": number}, event="price", id=str(number))

        return EventStream(told())

    @app.websocket("/echo")
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)


def add_trouble(app: App[State], state: State) -> None:
    """What does not answer at once, or not well."""

    @app.get("/old")
    def old() -> Response:
        return Response(status=302, headers={"location": "/users/1"})

    @app.get("/round")
    def around() -> Response:
        return Response(status=302, headers={"location": "/round"})

    @app.get("/slow")
    async def slow(seconds: float = 1.0) -> dict[str, float]:
        await sleep(seconds)
        return {"seconds": seconds}

    @app.get("/time-left")
    async def time_left() -> dict[str, float]:
        return {"seconds": deadline.remaining()}

    @app.get("/flaky")
    def flaky() -> Response:
        """Every other request fails."""
        state.flaky += 1
        return Response({"try": state.flaky}, status=503 if state.flaky % 2 else 200)

    @app.get("/report")
    def report() -> Response:
        return Response({"report": "all is well"}, headers={"cache-control": "max-age=60"})

    @app.get("/livez")
    def livez() -> str:
        return "ok"


def add_secrets(app: App[State]) -> None:
    """What not everybody is told."""

    @app.get("/sign-in")
    def sign_in() -> Response:
        return Response(headers={"set-cookie": "session=s1; Path=/; HttpOnly"})

    @app.get("/me")
    def me(session: Annotated[str, Cookie()] = "") -> dict[str, str]:
        return {"session": session}

    users = {"t0ken": "ada"}
    tokens = app.group("/private", middleware=[BearerAuth(users.get)])
    passwords = app.group("/basic", middleware=[BasicAuth(lambda user, password: password == "engines")])

    @tokens.get("")
    def private(request: Request) -> dict[str, str]:
        return {"hello": request.identity}

    @passwords.get("")
    def basic(request: Request) -> dict[str, str]:
        return {"hello": request.identity}


app = make_app()
