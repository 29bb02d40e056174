"""RequestId: made or taken, sent back, noted, and bound for logs."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest
import structlog

from forebay.errors import HTTPError
from forebay.http import App, Request, Response
from forebay.http.messages import Next
from forebay.http.middleware import RequestId
from forebay.http.middleware.request_id import make_id
from tests.http.middleware.served import UPGRADE, serving


def site(*middleware: Any) -> App[Any]:
    """An application that answers with the request's id and notes, or fails."""
    app: App[Any] = App()
    for layer in middleware:
        app.middleware(layer)

    @app.get("/")
    async def root(request: Request) -> dict[str, Any]:
        return {"id": request.id, "notes": request.exchange.notes}

    @app.get("/own")
    async def own() -> Response:
        return Response("a", headers={"x-request-id": "of the handler"})

    @app.get("/log")
    async def log() -> dict[str, Any]:
        return structlog.contextvars.get_contextvars()

    @app.websocket("/ws")
    async def ws(ws: Any) -> None:
        return None

    return app


async def test_each_request_gets_an_id_of_its_own() -> None:
    """32 hexadecimal digits, in request, response and access log; what clients send is not taken."""
    async with serving(site(RequestId())) as client:
        seen = set()
        for _ in range(3):
            answer = await client.ask("/", ("x-request-id", "mine"))
            name = answer.headers["x-request-id"]
            assert answer.body == b'{"id":"%b","notes":{"request_id":"%b"}}' % (name.encode(), name.encode())
            assert len(name) == 32
            assert set(name) <= set("0123456789abcdef")
            seen.add(name)
        assert len(seen) == 3


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("abc-123", True),
        ("0af7651916cd43dd8448eb211c80319c", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("a b", False),
        ("a\tb", False),
        ('a"b', False),
        ("a,b", False),
        ("<script>", False),
        ("${jndi:ldap://a}", False),
        ("\xe9", False),
    ],
)
async def test_a_trusted_id_is_checked(sent: str, taken: bool) -> None:
    """Only short ones of harmless characters are taken, all others replaced."""
    async with serving(site(RequestId(trust=True))) as client:
        got = (await client.ask("/", ("X-Request-ID", sent))).headers["x-request-id"]
        assert (got == sent) is taken
        assert taken or len(got) == 32


async def test_options() -> None:
    """Another header, another maker, a shorter bound, no response header."""
    made = RequestId(header="X-Correlation-Id", trust=True, max_length=4, make=lambda: "made")
    async with serving(site(made)) as client:
        assert (await client.ask("/", ("x-correlation-id", "abcd"))).headers["x-correlation-id"] == "abcd"
        assert (await client.ask("/", ("x-correlation-id", "abcde"))).headers["x-correlation-id"] == "made"
        assert (await client.ask("/", ("x-request-id", "a"))).headers["x-correlation-id"] == "made"
    async with serving(site(RequestId(respond=False, make=lambda: "quiet"))) as client:
        answer = await client.ask("/")
        assert ("x-request-id" in answer.headers, b"quiet" in answer.body) == (False, True)


async def test_it_is_on_errors_and_replaces_the_handlers_own() -> None:
    """404, 405, errors that middleware further in raises; one value, whatever the handler has set."""

    async def refuses(request: Request, call_next: Next) -> Response:
        if "x-refuse" in request.headers:
            raise HTTPError(401, "who are you")
        return await call_next(request)

    async with serving(site(RequestId(), refuses)) as client:
        for path, headers, method, status in (
            ("/nothing", [], "GET", 404),
            ("/", [], "DELETE", 405),
            ("/", [("x-refuse", "1")], "GET", 401),
            ("/own", [], "GET", 200),
            ("/own", [], "HEAD", 200),
        ):
            answer = await client.ask(path, *headers, method=method)
            assert (answer.status, len(answer.headers["x-request-id"])) == (status, 32)


async def test_binding_for_logs() -> None:
    """Off by default; on, what the handler logs has the id, and the next request another one."""
    async with serving(site(RequestId())) as client:
        assert (await client.ask("/log")).body == b"{}"
    async with serving(site(RequestId(bind=True))) as client:
        for _ in range(2):
            answer = await client.ask("/log")
            assert answer.body == b'{"request_id":"%b"}' % answer.headers["x-request-id"].encode()
    assert "request_id" not in structlog.contextvars.get_contextvars()


async def test_a_websocket_handshake_is_left_alone() -> None:
    """101 is sent already."""
    async with serving(site(RequestId())) as client:
        answer = await client.ask("/ws", *UPGRADE)
        assert (answer.status, "x-request-id" in answer.headers) == (101, False)


def test_made_ids_differ_and_are_not_shared_with_a_child() -> None:
    """Thousands without one twice; a process that was forked makes others than its parent."""
    assert len({make_id() for _ in range(2000)}) == 2000
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have left threads; the child needs none
        child = os.fork()
    if not child:
        os.write(writing, "".join(make_id() for _ in range(300)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    theirs = {text[at : at + 32] for at in range(0, len(text), 32)}
    assert len(theirs) == 300
    assert not theirs & {make_id() for _ in range(600)}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"header": "x request"}, "must be a header's name"),
        ({"header": ""}, "must be a header's name"),
        ({"max_length": 0}, "1 to 1024"),
        ({"max_length": 2000}, "1 to 1024"),
        ({"make": "uuid"}, "must be a function"),
    ],
)
def test_misconfiguration(options: dict[str, Any], match: str) -> None:
    """Each is refused at once, and says what would be valid."""
    with pytest.raises(ValueError, match=match):
        RequestId(**options)
