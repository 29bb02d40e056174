"""Sessions in a signed cookie, over a real server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.errors import HTTPError
from forebay.http import App, Next, Request, Response
from forebay.http.middleware import Sessions
from forebay.http.signing import Signer
from tests.http.middleware.served import UPGRADE, Answer, serving
from tests.support import eventually

KEY, NEXT_KEY = "k" * 32, "n" * 32


class Clock:
    """Seconds since the epoch, as set."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def shop(*sessions: Sessions) -> App[Any]:
    """An application that keeps a cart."""
    app: App[Any] = App()
    for one in sessions or (Sessions(KEY),):
        app.middleware(one)

    @app.get("/add/{item}")
    async def add(item: str, request: Request) -> list[str]:
        request.session.setdefault("cart", [])
        request.session["cart"].append(item)
        cart: list[str] = request.session["cart"]
        return cart

    @app.get("/show")
    async def show(request: Request) -> dict[str, Any]:
        return dict(request.session)

    @app.get("/clear")
    async def clear(request: Request) -> str:
        request.session.clear()
        return "gone"

    @app.get("/plain")
    async def plain() -> str:
        return "no session here"

    @app.get("/public")
    async def public(request: Request) -> Response:
        return Response(str(len(request.session)), headers={"cache-control": "max-age=60", "vary": "accept"})

    @app.get("/big")
    async def big(request: Request) -> str:
        request.session["small"] = 1
        request.session["big"] = "x" * 4000
        return "too big"

    @app.get("/odd")
    async def odd(request: Request) -> str:
        request.session["odd"] = object()
        return "not JSON"

    @app.get("/late")
    async def late(request: Request) -> AsyncIterator[str]:
        async def pieces() -> AsyncIterator[str]:
            yield "a"
            request.session["late"] = 1

        return pieces()

    @app.websocket("/ws")
    async def talk(ws: Any) -> None:
        await ws.close()

    return app


def cookie_of(answer: Answer) -> tuple[str, str]:
    """The cookie an answer sets, as a client sends it back."""
    return "cookie", answer.headers["set-cookie"].partition(";")[0]


async def test_a_session_lives_from_request_to_request() -> None:
    """What was put in is there the next time, changes within a value too, and the cookie has its attributes."""
    async with serving(shop()) as asker:
        first = await asker.ask("/add/a")
        name, _, rest = first.headers["set-cookie"].partition("=")
        assert name == "__Host-session"
        assert rest.partition("; ")[2] == "Max-Age=1209600; Path=/; Secure; HttpOnly; SameSite=Lax"
        second = await asker.ask("/add/b", cookie_of(first))
        third = await asker.ask("/show", cookie_of(second))
        assert third.body == b'{"cart":["a","b"]}'
        assert "set-cookie" not in third.headers


async def test_who_does_not_look_pays_nothing() -> None:
    """No cookie, no vary; who looks and changes nothing makes the answer private, and no cookie."""
    async with serving(shop()) as asker:
        cookie = cookie_of(await asker.ask("/add/a"))
        plain = await asker.ask("/plain", cookie)
        assert not {"set-cookie", "vary", "cache-control"} & plain.headers.keys()
        looked = await asker.ask("/show")
        assert (looked.headers["vary"], looked.headers["cache-control"]) == ("cookie", "private, no-cache")
        assert "set-cookie" not in looked.headers
        public = await asker.ask("/public", cookie)
        assert (public.headers["vary"], public.headers["cache-control"]) == ("accept, cookie", "max-age=60, private")


async def test_a_cleared_session_is_forgotten() -> None:
    """The client is told to drop its cookie; without one there is nothing to drop."""
    async with serving(shop()) as asker:
        cookie = cookie_of(await asker.ask("/add/a"))
        gone = await asker.ask("/clear", cookie)
        assert gone.headers["set-cookie"].startswith("__Host-session=; Max-Age=0; Path=/; Secure")
        assert "set-cookie" not in (await asker.ask("/clear")).headers


async def test_forged_and_expired_sessions_are_empty() -> None:
    """Neither is an error, and both are in the debug log, without their content."""
    clock = Clock()
    async with serving(shop(Sessions(KEY, max_age=60, clock=clock))) as asker:
        name, cookie = cookie_of(await asker.ask("/add/a"))
        with capture_logs() as logs:
            forged = cookie.replace("=", "=e30", 1)
            assert (await asker.ask("/show", (name, forged))).body == b"{}"
            assert (await asker.ask("/show", (name, "__Host-session=rubbish"))).body == b"{}"
            clock.now += 61
            assert (await asker.ask("/show", (name, cookie))).body == b"{}"
        refused = [entry for entry in logs if entry["event"] == "session refused"]
        assert [(entry["log_level"], entry["reason"]) for entry in refused] == [
            ("debug", "signature"),
            ("debug", "malformed"),
            ("debug", "expired"),
        ]


@pytest.mark.parametrize("payload", [b"not JSON", b"[1]", b"\xff"])
async def test_what_is_signed_but_no_session_is_empty(payload: bytes) -> None:
    """Else its client would get a 500 until the cookie has expired; a change takes its place."""
    signed = Signer(KEY).sign("__Host-session", payload, time.time())
    async with serving(shop()) as asker:
        cookie = ("cookie", f"__Host-session={signed}")
        with capture_logs() as logs:
            assert (await asker.ask("/show", cookie)).body == b"{}"
        assert [entry["event"] for entry in logs] == ["session is not JSON, it begins empty"]
        changed = await asker.ask("/add/tea", cookie)
        assert (await asker.ask("/show", cookie_of(changed))).body == b'{"cart":["tea"]}'


async def test_a_cookie_of_another_name_is_no_session() -> None:
    """The name is part of what is signed."""
    async with serving(shop(Sessions(KEY, name="a"))) as asker:
        value = cookie_of(await asker.ask("/add/x"))[1].partition("=")[2]
    async with serving(shop(Sessions(KEY, name="b"))) as asker:
        assert (await asker.ask("/show", ("cookie", f"b={value}"))).body == b"{}"


async def test_rolling_sessions_start_anew() -> None:
    """Renewed once a tenth of their time is over, by any request, and not before; fixed ones end in time."""
    for rolling in (True, False):
        clock = Clock()
        async with serving(shop(Sessions(KEY, max_age=100, rolling=rolling, clock=clock))) as asker:
            first = cookie_of(await asker.ask("/add/a"))
            clock.now += 9
            assert "set-cookie" not in (await asker.ask("/plain", first)).headers
            clock.now += 1
            renewed = await asker.ask("/plain", first)
            assert ("set-cookie" in renewed.headers, "vary" in renewed.headers) == (rolling, rolling)
            clock.now += 95
            cookie = cookie_of(renewed) if rolling else first
            assert (await asker.ask("/show", cookie)).body == (b'{"cart":["a"]}' if rolling else b"{}")


async def test_a_rotated_key_is_replaced() -> None:
    """A session of the old key is read, and sent anew with the new one."""
    async with serving(shop()) as asker:
        old = cookie_of(await asker.ask("/add/a"))
    async with serving(shop(Sessions([NEXT_KEY, KEY]))) as asker:
        answer = await asker.ask("/show", old)
        assert answer.body == b'{"cart":["a"]}'
    async with serving(shop(Sessions(NEXT_KEY))) as asker:
        assert (await asker.ask("/show", cookie_of(answer))).body == b'{"cart":["a"]}'
        assert (await asker.ask("/show", old)).body == b"{}"


async def test_an_answer_that_is_sent_again_has_no_cookie_of_others() -> None:
    """A handler may return the same object each time."""
    app, same = shop(), Response("let in")

    @app.get("/login/{name}")
    async def login(name: str, request: Request) -> Response:
        request.session["user"] = name
        return same

    @app.get("/same")
    async def again() -> Response:
        return same

    async with serving(app) as asker:
        assert b"ann" in (await asker.ask("/show", cookie_of(await asker.ask("/login/ann")))).body
        other = await asker.ask("/same")
        assert (other.status, other.body) == (200, b"let in")
        assert not {"set-cookie", "vary", "cache-control"} & set(other.headers)
        assert b"bob" in (await asker.ask("/show", cookie_of(await asker.ask("/login/bob")))).body
    assert not same.headers.get_all("set-cookie")


async def test_a_refusal_of_other_middleware_keeps_what_was_changed() -> None:
    """Further in, by an error: the way back after a login, for example."""
    app = shop()

    @app.middleware
    async def login(request: Request, call_next: Next) -> Response:
        if request.path == "/plain" and "user" not in request.session:
            request.session["next"] = request.path
            raise HTTPError(401, "log in first")
        return await call_next(request)

    async with serving(app) as asker:
        refused = await asker.ask("/plain")
        assert (refused.status, refused.headers["vary"]) == (401, "cookie")
        assert (await asker.ask("/show", cookie_of(refused))).body == b'{"next":"/plain"}'


async def test_what_cannot_be_kept_is_an_error_that_says_why() -> None:
    """Too large: says by how much and what is large; not JSON: says so. Values are not in the log."""
    async with serving(shop()) as asker:
        with capture_logs() as logs:
            assert (await asker.ask("/big")).status == 500
            assert (await asker.ask("/odd")).status == 500
    said = [str(entry["exc_info"]) for entry in logs if "exc_info" in entry]
    assert "the most is 4096: keep less in it ('big' has 4002 bytes" in said[0]
    assert "xxx" not in said[0]
    assert "session cannot be kept as JSON" in said[1]


async def test_changes_that_come_too_late_are_logged() -> None:
    """A stream's, after the head was sent; a WebSocket's handshake's."""
    app = shop()

    async def marks(request: Request, call_next: Any) -> Response:
        request.session["seen"] = 1
        response: Response = await call_next(request)
        return response

    app.middleware(marks)
    async with serving(app) as asker:
        with capture_logs() as logs:
            late = await asker.ask("/late")
            assert late.body == b"a"
            assert "set-cookie" in late.headers  # that of the middleware, in time
            await eventually(lambda: logs)
            assert (logs[0]["event"], logs[0]["reason"]) == (
                "session changed too late, the change is lost",
                "the answer was sent",
            )
            logs.clear()
            switched = await asker.ask("/ws", *UPGRADE)
            assert switched.status == 101
            await eventually(lambda: [entry for entry in logs if entry.get("reason") == "a WebSocket was accepted"])


def test_options_that_contradict_are_refused() -> None:
    """Short keys, prefixes that need TLS, unknown samesite; the key is not shown."""
    for options, words in (
        ({"keys": "short"}, "must be at least 32"),
        ({"keys": KEY, "max_age": 0}, "max_age 0"),
        ({"keys": KEY, "secure": False, "samesite": "none"}, "needs secure"),
        ({"keys": KEY, "secure": False, "name": "__Host-s"}, "needs secure"),
        ({"keys": KEY, "samesite": "maybe"}, "must be strict, lax or none"),
    ):
        with pytest.raises(ValueError, match=words):
            Sessions(**options)
    assert repr(Sessions(KEY, secure=False)) == "Sessions(..., name='session', max_age=1209600, samesite='lax')"
