"""Opaque tokens, over a real server."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.http import App, Request
from forebay.http.middleware import BearerAuth
from tests.http.middleware.served import serving

GOOD, SCARCE = "good-token-0123456789", "scarce-token-0123456789"
TOKENS = {GOOD: {"name": "ann", "scopes": ["read", "write"]}, SCARCE: {"name": "bob", "scope": "read"}}


def guarded(auth: BearerAuth) -> App[Any]:
    """An application that says who asks."""
    app: App[Any] = App()
    app.middleware(auth)

    @app.get("/")
    async def who(request: Request) -> str:
        return request.identity["name"] if request.identity else "nobody"

    return app


def bearer(token: str) -> tuple[str, str]:
    """The header of a client."""
    return "authorization", f"bearer {token}"


async def test_tokens_are_let_in_and_refused_as_rfc_6750_has_it() -> None:
    """200; 401 without an error where nothing was sent; invalid_token; invalid_request; insufficient_scope."""
    auth = BearerAuth(TOKENS, scopes=["read", "write"], realm="api")
    async with serving(guarded(auth)) as asker:
        with capture_logs() as logs:
            assert (await asker.ask("/", bearer(GOOD))).body == b"ann"
            for headers, status, challenge in (
                ([], 401, 'Bearer realm="api", scope="read write"'),
                ([bearer("x" * 30)], 401, 'Bearer realm="api", error="invalid_token", scope="read write"'),
                ([bearer("x" * 9000)], 401, 'Bearer realm="api", error="invalid_token", scope="read write"'),
                ([bearer("a b")], 400, 'Bearer realm="api", error="invalid_request"'),
                ([bearer("")], 400, 'Bearer realm="api", error="invalid_request"'),
                ([bearer(SCARCE)], 403, 'Bearer realm="api", error="insufficient_scope", scope="read write"'),
            ):
                answer = await asker.ask("/", *headers)
                assert (answer.status, answer.headers["www-authenticate"]) == (status, challenge)
                assert answer.headers["content-type"] == "application/problem+json"
            assert (await asker.ask(f"/?access_token={GOOD}")).status == 401
        assert SCARCE not in str(logs)
    assert auth.statistics() == {"accepted": 1, "missing": 2, "malformed": 2, "invalid": 2, "scope": 1}


async def test_a_check_may_wait() -> None:
    """A coroutine function, scopes found by a function of one's own; optional for those without."""

    async def check(token: str) -> Any:
        return {"name": token, "rights": "read"} if token.startswith("good") else None

    auth = BearerAuth(check, scopes=["read"], scopes_of=lambda who: [who["rights"]], optional=True)
    async with serving(guarded(auth)) as asker:
        assert (await asker.ask("/", bearer("good"))).body == b"good"
        assert (await asker.ask("/")).body == b"nobody"
        assert (await asker.ask("/", bearer("bad"))).status == 401
    assert auth.security() == ("bearerAuth", {"type": "http", "scheme": "bearer"})
    assert repr(auth) == "BearerAuth(..., realm='restricted', scopes=['read'], optional=True)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({"short": 1},), "at least 16"),
        (({},), "at least one token"),
        (({GOOD: None},), "stands for nobody"),
        ((3,), "must be callable"),
    ],
)
def test_tokens_that_are_none(arguments: Any, words: str) -> None:
    """Says what would be right, and not what was given."""
    with pytest.raises(ValueError, match=words) as caught:
        BearerAuth(*arguments)
    assert "short" not in str(caught.value).replace("too short", "")


def test_scopes_that_cannot_be_sent() -> None:
    """A blank would make two of one."""
    with pytest.raises(ValueError, match="scope 'a b'"):
        BearerAuth(TOKENS, scopes=["a b"])
