"""CORS as browsers use it (Fetch standard, section 3.2): preflights, answers to others, caches, misconfiguration."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.errors import HTTPError
from forebay.http import App, FileResponse, Request, Response
from forebay.http.messages import Next
from forebay.http.middleware import CORS, Recover
from tests.http.middleware.served import UPGRADE, Answer, Asker, serving

A = "https://a.example"
B = "https://b.example:8443"
ALLOW = "access-control-allow-origin"


def site(*middleware: Any, file: Path | None = None) -> App[Any]:
    """An application with answers of every kind; ``ran`` in its state counts the handlers' runs."""
    app: App[Any] = App()
    for layer in middleware:
        app.middleware(layer)
    app.state.ran = 0

    @app.route("/", methods=["GET", "PUT"])
    async def root() -> Response:
        app.state.ran += 1
        return Response("a", headers={"vary": "Accept"})

    @app.options("/own")
    async def own() -> str:
        return "options of the handler"

    @app.get("/set")
    async def sets() -> Response:
        return Response("a", headers={ALLOW: "https://evil.example"})

    @app.get("/stream")
    async def stream() -> AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"ab"
            yield b"c"

        return pieces()

    @app.get("/file")
    async def a_file() -> FileResponse:
        assert file is not None
        return FileResponse(file)

    @app.get("/fault")
    async def fault() -> str:
        raise ValueError("no")

    @app.websocket("/ws")
    async def ws(ws: Any) -> None:
        return None

    return app


async def preflight(client: Asker, origin: str, method: str = "PUT", *names: str, path: str = "/") -> Answer:
    """What a browser asks first."""
    headers = [("origin", origin), ("access-control-request-method", method)]
    if names:
        headers.append(("access-control-request-headers", ",".join(names)))
    return await client.ask(path, *headers, method="OPTIONS")


async def test_a_preflight_is_answered_here() -> None:
    """204 with all that is allowed; neither handlers nor other middleware are asked, and any path will do."""

    async def refuses(request: Request, call_next: Next) -> Response:
        raise HTTPError(401, "who are you")

    layer = CORS(origins=[A, B], headers=["X-Key"], methods=["get", "PUT"], credentials=True, max_age=60)
    app = site(layer, refuses)
    async with serving(app) as client:
        for path in ("/", "/own", "/nothing"):
            answer = await preflight(client, B, "PUT", "x-key", path=path)
            assert (answer.status, answer.body) == (204, b"")
            got = answer.headers
            assert (got[ALLOW], got["access-control-allow-credentials"]) == (B, "true")
            assert (got["access-control-allow-methods"], got["access-control-allow-headers"]) == ("GET, PUT", "x-key")
            assert got["access-control-max-age"] == "60"
            assert got["vary"] == "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
            assert "access-control-expose-headers" not in got
        assert app.state.ran == 0


@pytest.mark.parametrize(
    ("origin", "method", "names", "says"),
    [
        ("https://b.example", "PUT", (), "this origin"),
        ("http://a.example", "PUT", (), "this origin"),
        ("https://a.example:444", "PUT", (), "this origin"),
        ("https://a.example.evil.example", "PUT", (), "this origin"),
        ("null", "PUT", (), "this origin"),
        ("", "PUT", (), "this origin"),
        (A, "DELETE", (), "method DELETE is not one of GET, PUT"),
        (A, "put", (), "method put is not one of GET, PUT"),
        (A, "P T", (), "not a method"),
        (A, "PUT", ("x-key", "x-other"), "header x-other may not be sent"),
        (A, "PUT", ("x key",), "not a list of header names"),
    ],
)
async def test_a_refused_preflight_says_why(origin: str, method: str, names: tuple[str, ...], says: str) -> None:
    """403 with a problem document, and nothing that would allow anything."""
    async with serving(site(CORS(origins=[A], methods=["GET", "PUT"], headers=["x-key"]))) as client:
        answer = await preflight(client, origin, method, *names)
        assert answer.status == 403
        assert says in answer.detail
        assert answer.headers["vary"].startswith("Origin")
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_an_options_request_that_is_no_preflight() -> None:
    """Without Origin, or without a method that is asked for, it is the application's."""
    async with serving(site(CORS(origins=[A]))) as client:
        assert (await client.ask("/own", method="OPTIONS")).body == b"options of the handler"
        assert (await client.ask("/own", ("origin", A), method="OPTIONS")).headers[ALLOW] == A
        answer = await client.ask("/", ("access-control-request-method", "PUT"), method="OPTIONS")
        assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, PUT")


async def test_answers_of_every_kind(tmp_path: Path) -> None:
    """Buffered, streamed, files, HEAD, 404, 405, faults behind Recover: all may be read by the allowed origin only."""
    file = tmp_path / "a.txt"
    file.write_text("file")
    app = site(CORS(origins=[A], expose=["X-Count"], credentials=True), Recover(), file=file)
    async with serving(app) as client:
        for path, method, status, body in (
            ("/", "GET", 200, b"a"),
            ("/", "PUT", 200, b"a"),
            ("/", "HEAD", 200, b""),
            ("/stream", "GET", 200, b"abc"),
            ("/file", "GET", 200, b"file"),
            ("/set", "GET", 200, b"a"),
            ("/nothing", "GET", 404, None),
            ("/", "DELETE", 405, None),
            ("/fault", "GET", 500, None),
        ):
            with capture_logs():
                answer = await client.ask(path, ("Origin", A), method=method)
            got = answer.headers
            assert answer.status == status
            assert body is None or answer.body == body
            assert (got[ALLOW], got["access-control-allow-credentials"]) == (A, "true")
            assert got["access-control-expose-headers"] == "X-Count"
            assert got["vary"] == ("Accept, Origin" if path == "/" and status == 200 else "Origin")
            assert "access-control-allow-methods" not in got


async def test_other_origins_and_requests_without_one() -> None:
    """They are handled as ever, without permission, but with ``vary``: a cache must not mix them up."""
    async with serving(site(CORS(origins=[A, "null"]))) as client:
        for headers in ([], [("origin", B)], [("origin", "")], [("origin", f"{A}, {B}")]):
            answer = await client.ask("/", *headers)
            assert (answer.status, answer.body, answer.headers["vary"]) == (200, b"a", "Accept, Origin")
            assert ALLOW not in answer.headers
        assert (await client.ask("/", ("origin", "null"))).headers[ALLOW] == "null"


async def test_all_origins() -> None:
    """``*`` on every answer, and no ``vary``: it is the same for all (section 3.2.5). No credentials."""
    for origins in ("*", ["*"]):
        async with serving(site(CORS(origins=origins))) as client:
            for headers in ([], [("origin", A)], [("origin", "null")]):
                answer = await client.ask("/", *headers)
                assert (answer.headers[ALLOW], answer.headers["vary"]) == ("*", "Accept")
                assert "access-control-allow-credentials" not in answer.headers
            answer = await preflight(client, A)
            assert (answer.status, answer.headers[ALLOW]) == (204, "*")
            assert "Origin" not in answer.headers["vary"].replace("Access-Control", "").split(", ")


@pytest.mark.parametrize(
    "origins",
    [
        re.compile(r"https://[a-z]+\.a\.example"),
        lambda origin: origin.endswith(".a.example"),
    ],
)
async def test_patterns_and_functions(origins: Any) -> None:
    """A pattern must match the whole origin; neither is asked about ``null`` or what is no origin."""
    async with serving(site(CORS(origins=origins, credentials=True))) as client:
        assert (await client.ask("/", ("origin", "https://x.a.example"))).headers[ALLOW] == "https://x.a.example"
        assert (await preflight(client, "https://x.a.example")).status == 204
        for origin in ("https://x.a.example.evil", "https://x.a.example/", "null", "evil.a.example", "a b.a.example"):
            assert ALLOW not in (await client.ask("/", ("origin", origin))).headers
            assert (await preflight(client, origin)).status == 403
    async with serving(site(CORS(origins=lambda origin: True))) as client:
        for origin in ("null", "a\xe9://x", "https://a.example/path", "https://a b"):
            assert ALLOW not in (await client.ask("/", ("origin", origin))).headers


async def test_any_method_and_any_header() -> None:
    """What was asked for is allowed, by name: ``*`` itself would not cover ``authorization``, or credentials."""
    async with serving(site(CORS(origins=[A], methods="*", headers="*", credentials=True, max_age=None))) as client:
        got = await preflight(client, A, "PURGE", "Authorization", " X-B ")
        assert (got.status, got.headers["access-control-allow-methods"]) == (204, "PURGE")
        assert got.headers["access-control-allow-headers"] == "authorization, x-b"
        assert "access-control-max-age" not in got.headers
        assert (await preflight(client, A, "PUT", "x b")).status == 403
        assert "access-control-allow-headers" not in (await preflight(client, A)).headers


async def test_safelisted_headers_need_no_mention() -> None:
    """Browsers ask for them where their values are unusual, as JSON's content type is."""
    async with serving(site(CORS(origins=[A], headers=["x-a"]))) as client:
        got = await preflight(client, A, "PUT", "content-type")
        assert (got.status, got.headers["access-control-allow-headers"]) == (204, "x-a, content-type")


async def test_of_a_group() -> None:
    """The preflight requests of its routes are answered by it, those of others are not."""
    app = site()
    group = app.group("/api", middleware=[CORS(origins=[A])])

    @group.put("/things")
    async def things() -> str:
        return "things"

    async with serving(app) as client:
        answer = await preflight(client, A, path="/api/things")
        assert (answer.status, answer.headers[ALLOW]) == (204, A)
        assert (await client.ask("/api/things", ("origin", A), method="PUT")).headers[ALLOW] == A
        assert ALLOW not in (await preflight(client, A)).headers


async def test_private_networks() -> None:
    """Allowed where that was said, refused where it was not."""
    asks = (("origin", A), ("access-control-request-method", "GET"), ("access-control-request-private-network", "true"))
    async with serving(site(CORS(origins=[A]))) as client:
        answer = await client.ask("/", *asks, method="OPTIONS")
        assert (answer.status, "private network" in answer.detail) == (403, True)
    async with serving(site(CORS(origins=[A], private_network=True))) as client:
        answer = await client.ask("/", *asks, method="OPTIONS")
        assert (answer.status, answer.headers["access-control-allow-private-network"]) == (204, "true")
        assert answer.headers["vary"].endswith("Access-Control-Request-Private-Network")
        assert "access-control-allow-private-network" not in (await preflight(client, A)).headers


async def test_errors_of_middleware_further_in_can_be_read() -> None:
    """A page must be able to read why it was refused."""

    async def refuses(request: Request, call_next: Next) -> Response:
        raise HTTPError(401, "who are you")

    async with serving(site(CORS(origins=[A]), refuses)) as client:
        answer = await client.ask("/", ("origin", A))
        assert (answer.status, answer.headers[ALLOW], answer.detail) == (401, A, "who are you")


async def test_a_websocket_handshake_is_left_alone() -> None:
    """It has an origin as well, but is not subject to CORS."""
    async with serving(site(CORS(origins="*"))) as client:
        answer = await client.ask("/ws", ("origin", "http://test"), *UPGRADE)
        assert (answer.status, ALLOW in answer.headers) == (101, False)


async def _coroutine(origin: str) -> bool:
    return True


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"origins": []}, "origins is empty"),
        ({"origins": A}, "must be a list"),
        ({"origins": [A + "/"]}, "never matches"),
        ({"origins": ["https://A.example"]}, "never matches"),
        ({"origins": ["a.example"]}, "never matches"),
        ({"origins": ["https://a.example:443"]}, "never matches"),
        ({"origins": ["http://a.example:80"]}, "never matches"),
        ({"origins": ["https://*.a.example"]}, "never matches"),
        ({"origins": [A, "*"]}, "never matches"),
        ({"origins": _coroutine}, "plain function"),
        ({"origins": "*", "credentials": True}, "any page act as the user"),
        ({"origins": ["null"], "credentials": True}, "any page act as the user"),
        ({"origins": [A], "credentials": True, "expose": "*"}, "list the headers"),
        ({"origins": [A], "max_age": -1}, "0 to 86400"),
        ({"origins": [A], "max_age": 100_000}, "0 to 86400"),
        ({"origins": [A], "methods": "GET"}, "must be a list"),
        ({"origins": [A], "headers": ["x a"]}, "'x a' is not a name"),
        ({"origins": [A], "expose": ["a", ""]}, "is not a name"),
    ],
)
def test_misconfiguration(options: dict[str, Any], match: str) -> None:
    """Each is refused at once, and says what would be valid."""
    with pytest.raises(ValueError, match=match):
        CORS(**options)
