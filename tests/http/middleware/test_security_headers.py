"""SecurityHeaders: what is sent by default, over https, with a policy and nonces; handlers' own headers win."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import HTTPError
from forebay.http import App, FileResponse, Request, Response
from forebay.http.messages import Next
from forebay.http.middleware import SecurityHeaders, TrustedProxies
from tests.http.middleware.served import UPGRADE, serving

CSP = "content-security-policy"
HSTS = "strict-transport-security"
DEFAULTS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "strict-origin-when-cross-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    CSP: "frame-ancestors 'none'",
}


def site(*middleware: Any, file: Path | None = None) -> App[Any]:
    """An application with answers of every kind."""
    app: App[Any] = App()
    for layer in middleware:
        app.middleware(layer)

    @app.get("/")
    async def root(request: Request) -> str:
        return str(request.state.get("csp_nonce"))

    @app.get("/own")
    async def own() -> Response:
        return Response("a", headers={"X-Frame-Options": "SAMEORIGIN", "Content-Security-Policy": "own"})

    @app.get("/stream")
    async def stream() -> AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"

        return pieces()

    @app.get("/file")
    async def a_file() -> FileResponse:
        assert file is not None
        return FileResponse(file)

    @app.websocket("/ws")
    async def ws(ws: Any) -> None:
        return None

    return app


async def sent(layer: SecurityHeaders, *headers: tuple[str, str], path: str = "/") -> dict[str, str]:
    """The headers of an answer; over https where the proxy says so."""
    async with serving(site(TrustedProxies(["127.0.0.1"]), layer)) as client:
        return (await client.ask(path, *headers)).headers


async def test_defaults_on_answers_of_every_kind(tmp_path: Path) -> None:
    """Buffered, streamed, files, HEAD, 404, 405, errors of middleware further in."""
    file = tmp_path / "a.txt"
    file.write_text("file")

    async def refuses(request: Request, call_next: Next) -> Response:
        if "x-refuse" in request.headers:
            raise HTTPError(401, "who are you")
        return await call_next(request)

    async with serving(site(SecurityHeaders(), refuses, file=file)) as client:
        for path, method, headers, status in (
            ("/", "GET", [], 200),
            ("/", "HEAD", [], 200),
            ("/stream", "GET", [], 200),
            ("/file", "GET", [], 200),
            ("/nothing", "GET", [], 404),
            ("/", "POST", [], 405),
            ("/", "GET", [("x-refuse", "1")], 401),
        ):
            answer = await client.ask(path, *headers, method=method)
            assert answer.status == status
            assert {name: answer.headers.get(name) for name in DEFAULTS} == DEFAULTS
            assert HSTS not in answer.headers


async def test_hsts_only_over_https() -> None:
    """By the scheme that a trusted proxy says; with its parameters; not at all when it is switched off."""
    over = ("x-forwarded-proto", "https")
    assert (await sent(SecurityHeaders(), over))[HSTS] == "max-age=31536000"
    assert HSTS not in await sent(SecurityHeaders(), ("x-forwarded-proto", "http"))
    assert HSTS not in await sent(SecurityHeaders(hsts=None), over)
    assert (await sent(SecurityHeaders(hsts=0), over))[HSTS] == "max-age=0"
    full = SecurityHeaders(hsts=63_072_000, hsts_subdomains=True, hsts_preload=True)
    assert (await sent(full, over))[HSTS] == "max-age=63072000; includeSubDomains; preload"


async def test_handlers_own_headers_win() -> None:
    """In any case of letters; the others are added."""
    got = await sent(SecurityHeaders(csp="default-src 'self'"), path="/own")
    assert (got["x-frame-options"], got[CSP], got["x-content-type-options"]) == ("SAMEORIGIN", "own", "nosniff")


@pytest.mark.parametrize(
    ("frames", "policy", "old"),
    [
        ("none", "frame-ancestors 'none'", "DENY"),
        ("self", "frame-ancestors 'self'", "SAMEORIGIN"),
        (["'self'", "https://a.example"], "frame-ancestors 'self' https://a.example", None),
        (None, None, None),
    ],
)
async def test_frames(frames: Any, policy: str | None, old: str | None) -> None:
    """Said to new and, where they can be told, to old browsers."""
    got = await sent(SecurityHeaders(frames=frames))
    assert (got.get(CSP), got.get("x-frame-options")) == (policy, old)


@pytest.mark.parametrize(
    ("csp", "policy"),
    [
        ("default-src 'self';\n  img-src *;", "default-src 'self'; img-src *; frame-ancestors 'none'"),
        ({"default-src": [], "img-src": ["*", "data:"]}, "default-src; img-src * data:; frame-ancestors 'none'"),
        ({"upgrade-insecure-requests": []}, "upgrade-insecure-requests; frame-ancestors 'none'"),
        ("frame-ancestors https://a.example", "frame-ancestors https://a.example"),
    ],
)
async def test_a_policy(csp: Any, policy: str) -> None:
    """As text and as mapping; who may frame the page is added, unless it says so itself."""
    assert (await sent(SecurityHeaders(csp=csp)))[CSP] == policy


async def test_a_policy_that_only_reports() -> None:
    """It goes into its own header, and frames stay forbidden."""
    got = await sent(SecurityHeaders(csp="default-src 'self'", csp_report_only=True))
    assert (got[CSP], got[f"{CSP}-report-only"]) == ("frame-ancestors 'none'", "default-src 'self'")


@pytest.mark.parametrize("csp", [{"script-src": ["'nonce'"], "style-src": ["'nonce'"]}, "script-src 'nonce'"])
async def test_nonces(csp: Any) -> None:
    """Each request has its own, the handler sees the one that is sent; without the word there is none."""
    async with serving(site(SecurityHeaders(csp=csp))) as client:
        seen = set()
        for _ in range(3):
            answer = await client.ask("/")
            nonce = answer.body.decode()
            assert re.fullmatch("[A-Za-z0-9_-]{22}", nonce)
            assert set(re.findall(r"'nonce-([^']+)'", answer.headers[CSP])) == {nonce}
            assert "'nonce'" not in answer.headers[CSP]
            seen.add(nonce)
        assert len(seen) == 3
        assert (await client.ask("/own")).headers[CSP] == "own"
    async with serving(site(SecurityHeaders(csp="script-src 'self'"))) as client:
        assert (await client.ask("/")).body == b"None"


async def test_the_smaller_ones() -> None:
    """Permissions as text and as mapping, isolation, and everything switched off."""
    permissions = {"camera": [], "geolocation": ["self", "https://a.example"], "fullscreen": ["*"]}
    got = await sent(SecurityHeaders(permissions=permissions, embedder="require-corp", resource="cross-origin"))
    assert got["permissions-policy"] == 'camera=(), geolocation=(self "https://a.example"), fullscreen=*'
    assert (got["cross-origin-embedder-policy"], got["cross-origin-resource-policy"]) == (
        "require-corp",
        "cross-origin",
    )
    assert (await sent(SecurityHeaders(permissions="camera=()")))["permissions-policy"] == "camera=()"
    off = SecurityHeaders(hsts=None, nosniff=False, frames=None, referrer=None, opener=None, resource=None)
    got = await sent(off)
    assert not set(DEFAULTS) & set(got)


async def test_a_websocket_handshake_is_left_alone() -> None:
    """101 is sent already."""
    async with serving(site(SecurityHeaders())) as client:
        answer = await client.ask("/ws", *UPGRADE)
        assert (answer.status, "x-frame-options" in answer.headers) == (101, False)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hsts": -1}, "0 seconds or more"),
        ({"hsts_preload": True}, "hsts_preload needs"),
        ({"hsts": 60, "hsts_subdomains": True, "hsts_preload": True}, "hsts_preload needs"),
        ({"frames": "deny"}, "must be 'none', 'self'"),
        ({"frames": []}, "must be 'none', 'self'"),
        ({"frames": ["a; b"]}, "must be 'none', 'self'"),
        ({"referrer": "never"}, "must be one of no-referrer"),
        ({"referrer": ""}, "must be one of no-referrer"),
        ({"opener": "none"}, "must be one of unsafe-none"),
        ({"resource": "all"}, "must be one of same-site"),
        ({"embedder": "yes"}, "must be one of unsafe-none"),
        ({"permissions": {"Camera": []}}, "no feature's name"),
        ({"permissions": {"camera": "self"}}, "must be a list"),
        ({"permissions": {"camera": ["a.example"]}}, "self, \\* or an origin"),
        ({"permissions": "a\r\nb"}, "printable ASCII"),
        ({"csp": ""}, "not empty"),
        ({"csp": {"default-src": "'self'"}}, "must be a list"),
        ({"csp": {"default-src": ["'self'; script-src *"]}}, "one source"),
        ({"csp": {"default src": []}}, "no directive's name"),
        ({"csp": "img-src a; img-src b"}, "img-src twice"),
        ({"csp": "default-src é"}, "printable ASCII"),
        ({"csp_report_only": True}, "needs a csp"),
    ],
)
def test_misconfiguration(options: dict[str, Any], match: str) -> None:
    """Each is refused at once, and says what would be valid."""
    with pytest.raises(ValueError, match=match):
        SecurityHeaders(**options)
