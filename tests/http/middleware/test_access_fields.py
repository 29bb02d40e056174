"""AccessFields: notes in the access log, which never cost a request anything."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.errors import HTTPError
from forebay.http import AccessLog, App, Request, Response
from forebay.http.messages import Next
from forebay.http.middleware import AccessFields
from tests.http.middleware.served import UPGRADE, Asker, serving
from tests.support import eventually


@asynccontextmanager
async def logging(*middleware: Any) -> AsyncIterator[tuple[Asker, Callable[[int], Awaitable[list[dict[str, Any]]]]]]:
    """A client, and what gives the notes of all lines once they are written."""
    app: App[Any] = App()
    for layer in middleware:
        app.middleware(layer)

    @app.get("/")
    async def root(request: Request) -> Response:
        request.identity = "bob"
        return Response("a", headers={"x-cache": "HIT"})

    @app.get("/fault")
    async def fault() -> str:
        raise ValueError("no")

    @app.websocket("/ws")
    async def ws(ws: Any) -> None:
        return None

    lines: list[str] = []
    async with serving(app, access_log=AccessLog(lines.append, "json")) as client:

        async def notes(count: int) -> list[dict[str, Any]]:
            await eventually(lambda: len(lines) >= count)
            return [json.loads(line)["notes"] for line in lines]

        yield client, notes


async def test_fields_of_every_kind() -> None:
    """Headers of request and response, functions; what has no value is left out."""
    fields = AccessFields(
        {
            "tenant": "X-Tenant",
            "agent": "request:user-agent",
            "cache": "response:x-cache",
            "user": lambda request, response: request.identity,
            "status": lambda request, response: response.status,
            "big": lambda request, response: response.status > 299,
            "none": lambda request, response: None,
            "list": lambda request, response: [1],
        }
    )
    async with logging(fields) as (client, notes):
        await client.ask("/", ("x-tenant", "acme"))
        await client.ask("/nothing")
        assert await notes(2) == [
            {"tenant": "acme", "cache": "HIT", "user": "bob", "status": 200, "big": False, "list": "[1]"},
            {"status": 404, "big": True, "list": "[1]"},
        ]


async def test_a_field_that_fails_costs_the_field_only() -> None:
    """The request is answered, the other fields are there; each is logged once, however often it fails."""

    def broken(request: Request, response: Response) -> str:
        raise LookupError("no such thing")

    class Unspeakable:
        def __str__(self) -> str:
            raise TypeError("no text")

    fields = AccessFields({"a": broken, "b": lambda request, response: Unspeakable(), "c": lambda *_: "fine"})
    async with logging(fields) as (client, notes):
        with capture_logs() as logged:
            for _ in range(3):
                assert (await client.ask("/")).status == 200
        assert await notes(3) == [{"c": "fine"}] * 3
        failed = [entry for entry in logged if entry["event"] == "access field failed"]
        assert [(entry["field"], entry["route"]) for entry in failed] == [("a", "/"), ("b", "/")]


async def test_bounds_and_hostile_values() -> None:
    """A client decides on its headers: they are cut, and stay one line of valid JSON."""
    async with logging(AccessFields({"a": "x-a", "b": lambda *_: "b" * 9}, max_length=4)) as (client, notes):
        await client.ask("/", ("x-a", 'é"\\' + "x" * 1000))
        assert await notes(1) == [{"a": 'é"\\x', "b": "bbbb"}]


async def test_errors_of_middleware_and_of_handlers() -> None:
    """An error further in is a response here; with an unexpected one the request's headers are noted."""

    async def refuses(request: Request, call_next: Next) -> Response:
        if "x-refuse" in request.headers:
            raise HTTPError(401, "who are you")
        return await call_next(request)

    fields = AccessFields({"tenant": "x-tenant", "status": lambda request, response: response.status})
    async with logging(fields, refuses) as (client, notes):
        assert (await client.ask("/", ("x-tenant", "a"), ("x-refuse", "1"))).status == 401
        with capture_logs():
            assert (await client.ask("/fault", ("x-tenant", "b"))).status == 500
        assert await notes(2) == [{"tenant": "a", "status": 401}, {"tenant": "b"}]


async def test_a_websocket_handshake() -> None:
    """Its line has the request's headers."""
    async with logging(AccessFields({"tenant": "x-tenant", "x": "response:x-cache"})) as (client, notes):
        assert (await client.ask("/ws", ("x-tenant", "a"), *UPGRADE)).status == 101
        assert await notes(1) == [{"tenant": "a"}]


async def _coroutine(request: Request, response: Response) -> str:
    return "a"


@pytest.mark.parametrize(
    ("fields", "options", "match"),
    [
        ({}, {}, "no fields"),
        ({"a b": "x"}, {}, "field 'a b'"),
        ({"a]": "x"}, {}, "field 'a]'"),
        ({"": "x"}, {}, "1 to 64 characters"),
        ({"a": "x y"}, {}, "is no header's name"),
        ({"a": "cookie:x"}, {}, "is no header's name"),
        ({"a": 3}, {}, "header's name or a plain function"),
        ({"a": _coroutine}, {}, "plain function"),
        ({"a": "x"}, {"max_length": 0}, "at least 1"),
    ],
)
def test_misconfiguration(fields: Any, options: dict[str, Any], match: str) -> None:
    """Each is refused at once, and says what would be valid."""
    with pytest.raises(ValueError, match=match):
        AccessFields(fields, **options)
