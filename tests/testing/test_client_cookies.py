"""TestClient: cookies and redirects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from forebay.errors import UpstreamProtocolError
from forebay.http import App, Request, Response
from forebay.testing import TestClient


def make_app() -> App[Any]:
    """Sets the cookies it is asked for, redirects, and tells what it was asked."""
    app: App[Any] = App()

    @app.post("/set")
    async def put(request: Request) -> Response:
        response = Response()
        for line in (await request.text()).splitlines():
            response.headers.add("set-cookie", line)
        return response

    async def tell(request: Request) -> dict[str, Any]:
        return {
            "method": request.method,
            "cookie": request.headers.get("cookie"),
            "authorization": request.headers.get("authorization"),
            "host": request.host,
            "kind": request.headers.get("content-type"),
            "content": (await request.body()).decode(),
        }

    async def move(request: Request, status: int) -> Response:
        return Response(status=status, headers={"location": dict(request.query)["to"], "set-cookie": "moved=1; Path=/"})

    @app.get("/round")
    def round_and_round() -> Response:
        return Response(status=302, headers={"location": "/round"})

    for method in ("GET", "POST", "PUT"):
        app.route("/tell", (method,))(tell)
        app.route("/a/tell", (method,))(tell)
        app.route("/move/{status:int}", (method,))(move)
    return app


@pytest.fixture
async def client() -> AsyncIterator[TestClient]:
    """A client of that application."""
    async with TestClient(make_app()) as found:
        yield found


async def test_cookies_are_kept_and_sent(client: TestClient) -> None:
    """From one request to the next; those of a request come beside them, and are not kept."""
    response = await client.post("/set", content="a=1; Path=/\nb=2; HttpOnly; Path=/a")
    assert response.cookies == {"a": "1", "b": "2"}
    assert dict.fromkeys(client.cookies) == {"a": None, "b": None}
    assert (await client.get("/tell")).json()["cookie"] == "a=1"
    assert (await client.get("/a/tell")).json()["cookie"] == "b=2; a=1"
    assert (await client.get("/tell", cookies={"a": "3", "c": "4"})).json()["cookie"] == "a=3; c=4"
    assert (await client.get("/tell", headers={"cookie": "own=1"})).json()["cookie"] == "own=1"
    assert (await client.get("/tell")).json()["cookie"] == "a=1"
    await client.post("/set", content="a=; Max-Age=0; Path=/")
    assert (await client.get("/tell")).json()["cookie"] is None
    client.cookies.set("by-hand", "1")
    assert (await client.get("http://other.example/tell")).json()["cookie"] == "by-hand=1"
    client.cookies.clear()
    assert len(client.cookies) == 0


@pytest.mark.parametrize(
    "cookies", [{"a": "b; admin=1"}, {"a; admin": "1"}, {"a=b": "c"}, {"": "a"}, {"a": "b\r\nx: y"}]
)
async def test_a_cookie_is_one_cookie(client: TestClient, cookies: dict[str, str]) -> None:
    """As with the client for programs: nothing in it becomes another."""
    with pytest.raises(ValueError, match="cookie"):
        await client.get("/tell", cookies=cookies)


async def test_secure_cookies(client: TestClient) -> None:
    """They go over https only."""
    await client.post("https://testserver/set", content="s=1; Secure; Path=/")
    assert (await client.get("/tell")).json()["cookie"] is None
    assert (await client.get("https://testserver/tell")).json()["cookie"] == "s=1"


# Redirects


async def test_redirects_are_not_followed_by_themselves(client: TestClient) -> None:
    """Unless the client or the request says so."""
    response = await client.get("/move/302?to=/tell")
    assert (response.status, response.history) == (302, [])
    response = await client.get("/move/302?to=/tell", follow_redirects=True)
    assert response.status == 200
    assert [(one.status, one.url) for one in response.history] == [(302, "http://testserver/move/302?to=/tell")]
    assert response.url == "http://testserver/tell"
    assert response.json()["cookie"] == "moved=1"
    async with TestClient(make_app(), follow_redirects=True) as other:
        assert (await other.get("/move/307?to=tell/../../tell")).status == 200
        assert (await other.get("/move/307?to=/tell", follow_redirects=False)).status == 307


@pytest.mark.parametrize(
    ("method", "status", "then", "keeps"),
    [
        ("POST", 301, "GET", False),
        ("POST", 302, "GET", False),
        ("PUT", 302, "PUT", True),
        ("POST", 303, "GET", False),
        ("PUT", 303, "GET", False),
        ("POST", 307, "POST", True),
        ("PUT", 308, "PUT", True),
    ],
)
async def test_methods_and_content(client: TestClient, method: str, status: int, then: str, keeps: bool) -> None:
    """RFC 9110 section 15.4: 303 asks with GET, as 301 and 302 do after POST; the others repeat the request."""
    response = await client.request(method, f"/move/{status}?to=/tell", json={"a": 1}, follow_redirects=True)
    told = response.json()
    assert told["method"] == then
    assert (told["content"], told["kind"]) == (('{"a":1}', "application/json") if keeps else ("", None))


async def test_head_stays_head(client: TestClient) -> None:
    """Whatever the status."""
    for status in (301, 302, 303, 307, 308):
        response = await client.head(f"/move/{status}?to=/tell", follow_redirects=True)
        assert (response.status, response.method, response.body) == (200, "HEAD", b"")


async def test_what_another_origin_is_told(client: TestClient) -> None:
    """Neither authorization nor the request's own cookies, nor those that are kept of the first."""
    options: Any = {"headers": {"authorization": "secret"}, "cookies": {"own": "1"}, "follow_redirects": True}
    told = (await client.get("/move/302?to=/tell", **options)).json()
    assert (told["authorization"], told["cookie"]) == ("secret", "moved=1; own=1")
    told = (await client.get("/move/302?to=http://other.example/tell", **options)).json()
    assert (told["authorization"], told["cookie"], told["host"]) == (None, None, "other.example")


async def test_too_many_and_impossible_redirects(client: TestClient) -> None:
    """Loops end after ten; content from an iterable is not sent twice; elsewhere is nowhere."""
    with pytest.raises(UpstreamProtocolError, match="more than 10 redirects"):
        await client.get("/round", follow_redirects=True)

    async def content() -> AsyncIterator[bytes]:
        yield b"x"

    with pytest.raises(UpstreamProtocolError, match="cannot be sent twice"):
        await client.post("/move/307?to=/tell", content=content(), follow_redirects=True)
    with pytest.raises(ValueError, match="must be like http"):
        await client.get("/move/302?to=mailto:a@b", follow_redirects=True)
    response = await client.post("/move/303?to=/tell", content=content(), follow_redirects=True)
    assert response.json()["method"] == "GET"
