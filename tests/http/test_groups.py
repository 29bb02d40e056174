"""Groups of routes: prefixes, hosts, tags, the order of middleware, names, and what no route takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any, Literal
from uuid import UUID

import pytest

from forebay.http import App, Request, Response
from forebay.http.converters import Converter
from forebay.http.group import Group
from forebay.http.messages import HTTPMiddleware
from forebay.testing import TestClient


def noting(name: str) -> HTTPMiddleware:
    """A middleware that says in a header that it was there."""

    async def layer(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-seen"] = f"{name} {response.headers.get('x-seen', '')}".strip()
        return response

    return layer


def hello() -> str:
    """A handler."""
    return "hello"


async def test_prefixes_and_the_order_of_middleware() -> None:
    """Prefixes are put together, layers go from the outside in, also those that are registered later."""
    app = App(middleware=[noting("app")])
    outer = Group("/outer", middleware=[noting("outer")], tags=["o"])
    inner = outer.group("/{tenant}", middleware=[noting("inner")], tags=["i"])

    @inner.get("/x/{n:int}", middleware=[noting("route"), noting("route2")], tags=["r", "o"])
    def handler(tenant: str, n: int) -> str:
        return f"{tenant} {n}"

    inner.get("")(fitted)
    inner.get("/")(fitted)
    outer.middleware(noting("outer2"))
    app.include(outer)
    app.middleware(noting("app2"))
    inner.middleware(noting("inner2"))

    @inner.get("/late")
    def late(tenant: str) -> str:
        return f"late {tenant}"

    assert [route.pattern for route in app.routes] == [
        "/outer/{tenant}/x/{n:int}", "/outer/{tenant}", "/outer/{tenant}/", "/outer/{tenant}/late"
    ]  # fmt: skip
    assert app.routes[0].tags == ("o", "i", "r")
    async with TestClient(app) as client:
        response = await client.get("/outer/me/x/5")
        assert response.text == "me 5"
        assert response.headers["x-seen"] == "app app2 outer outer2 inner inner2 route route2"
        assert (await client.get("/outer/me")).headers["x-seen"] == "app app2 outer outer2 inner inner2"
        assert (await client.get("/outer/me/")).text == "me"
        assert (await client.get("/outer/me/late")).text == "late me"
        assert (await client.get("/nowhere")).headers["x-seen"] == "app app2"


def fitted(tenant: str) -> str:
    """A handler below a parameter."""
    return tenant


def test_a_group_is_part_of_one_thing() -> None:
    """Including it twice is refused, naming the first place; so are circles and applications."""
    app, group, other = App(), Group("/a"), Group("/b")
    app.include(group)
    with pytest.raises(ValueError, match=rf"is part of an application or group already, at {__file__}:\d+"):
        other.include(group)
    with pytest.raises(ValueError, match="already"):
        app.include(group)
    with pytest.raises(ValueError, match="already"):
        other.include(other)
    inner = other.group("/c")
    with pytest.raises(ValueError, match="already"):
        inner.include(other)
    with pytest.raises(ValueError, match=rf"is an application: mount\(prefix, app\) takes it, at {__file__}:\d+"):
        app.include(App())
    with pytest.raises(ValueError, match="already"):
        App().include(inner)


async def test_hosts_of_requests() -> None:
    """A group's routes answer for its host only, the nearest one counts, and its parameter is an argument; case, port
    and the dot at the end do not matter."""
    app = App()
    app.get("/")(lambda: "any")
    app.group(host="api.example.com").get("/")(lambda: "api")
    tenants = Group(host="{tenant}.example.com")

    @tenants.get("/of/{n:int}")
    def of_tenant(tenant: str, n: int) -> str:
        return f"{tenant} {n}"

    app.include(tenants)
    tenants.group("/deep", host="deep.example.com").get("")(lambda: "deep")
    with pytest.raises(TypeError, match="does not take the path parameter tenant"):
        tenants.get("/not")(hello)
    async with TestClient(app) as client:

        async def ask(path: str, host: str) -> tuple[int, str]:
            response = await client.get(path, headers={"host": host})
            return response.status, response.text if response.status == 200 else ""

        assert await ask("/", "API.example.com.:80") == (200, "api")
        assert await ask("/", "example.com") == (200, "any")
        assert await ask("/of/5", "Acme.Example.Com") == (200, "acme 5")
        assert await ask("/of/5", "a.b.example.com") == (404, "")
        assert await ask("/of/x", "acme.example.com") == (404, "")
        assert await ask("/deep", "deep.example.com") == (200, "deep")
        assert await ask("/deep", "acme.example.com") == (404, "")


async def test_what_no_route_takes_is_answered_inside_the_group() -> None:
    """405 and OPTIONS run through the middleware of the group whose path it is; own OPTIONS routes come first."""
    app = App(middleware=[noting("app")])
    group = app.group("/g", middleware=[noting("group")])
    group.get("/x")(hello)
    group.post("/x")(lambda: "posted")
    group.options("/own")(lambda: "mine")
    app.get("/y")(hello)
    async with TestClient(app) as client:
        options = await client.options("/g/x")
        assert (options.status, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
        assert options.headers["x-seen"] == "app group"
        wrong = await client.delete("/g/x")
        assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
        assert wrong.headers["x-seen"] == "app group"
        assert (await client.options("/g/own")).text == "mine"
        assert (await client.delete("/y")).headers["x-seen"] == "app"
        head = await client.head("/g/x")
        assert (head.status, head.headers["content-length"], head.body) == (200, "5", b"")
        assert (await client.options("*")).status == 204
        assert (await client.get("/g/none")).headers["x-seen"] == "app"


@pytest.mark.parametrize("slashes", ["strict", "redirect"])
async def test_slashes(slashes: Literal["strict", "redirect"]) -> None:
    """Redirected with the query and the method, where that is asked for; never to another host."""
    app = App(slashes=slashes)
    app.get("/users")(hello)
    app.post("/items/")(hello)
    app.get("/deep/{name}/")(lambda name: name)
    async with TestClient(app) as client:
        for asked, location in (
            ("/users/?a=1&b=%2F", "/users?a=1&b=%2F"),
            ("/users/?", "/users"),
            ("/deep/a%2Fb", "/deep/a%2Fb/"),
        ):
            response = await client.get(asked)
            if slashes == "strict":
                assert response.status == 404
            else:
                assert (response.status, response.headers["location"]) == (308, location)
        posted = await client.post("/items", content=b"x", follow_redirects=True)
        assert posted.status == (404 if slashes == "strict" else 200)
        for evil in ("//users/", "//evil.example/users/", "/users//", "/%5Cevil.example/"):
            response = await client.get(evil)
            assert response.status == 404, evil
    with pytest.raises(ValueError, match="must be 'strict' or 'redirect'"):
        App(slashes="maybe")  # type: ignore[arg-type]


async def test_a_redirect_below_a_parameter() -> None:
    """What stands where an application is mounted cannot make a location of another host."""
    app, sub = App(), App("sub", slashes="redirect")
    sub.get("/x/")(hello)
    app.group("/{anything}").mount("/app", sub)
    async with TestClient(app) as client:
        response = await client.get("/a%2F/app/x?q=1")
        assert (response.status, response.headers["location"]) == (308, "/a%2F/app/x/?q=1")
        assert (await client.get("//evil.example/app/x")).status == 404
        for evil in ("/%5Cevil.example/app/x", "/%09/app/x"):
            location = (await client.get(evil)).headers.get("location", "/app/x/")
            assert location.startswith("/%") or location == "/app/x/"


def test_paths_of_routes() -> None:
    """``url_for`` writes what the router reads, by the name of the route or of its handler."""
    day = Converter(parse=date.fromisoformat, format=date.isoformat, kind=date)
    app = App(converters={"day": day})
    group = app.group("/g/{tenant}")

    @group.get("/users/{n:int}/{key:uuid}", name="user")
    def user(tenant: str, n: int, key: UUID) -> str:
        return ""

    @app.get("/days/{when:day}")
    def of_day(when: date) -> str:
        return ""

    @app.get("/files/{rest:path}")
    def file(rest: str) -> str:
        return ""

    app.get("/same")(hello)
    app.post("/same")(hello)
    key = UUID(int=5)
    assert app.url_for("user", tenant="a b/c", n=7, key=key) == f"/g/a%20b%2Fc/users/7/{key}"
    assert app.url_for("of_day", when=date(2026, 1, 2)) == "/days/2026-01-02"
    assert app.url_for("file", rest="a/b c.txt") == "/files/a/b%20c.txt"
    assert app.url_for("hello") == "/same"
    cases: list[tuple[Callable[[], str], str]] = [
        (lambda: app.url_for("nobody"), "no route is called 'nobody'; there are"),
        (lambda: app.url_for("user", tenant="a", n=7), "needs the parameter key"),
        (lambda: app.url_for("user", tenant="a", n=7, key=key, more=1), "has no parameter more"),
        (lambda: app.url_for("user", tenant="a", n="7", key=key), "parameter n does not fit"),
        (lambda: app.url_for("user", tenant="..", n=7, key=key), "parameter tenant does not fit"),
    ]
    for wrong, said in cases:
        with pytest.raises(ValueError, match=said):
            wrong()


async def test_a_route_of_several_methods() -> None:
    """In any case; ``*`` is every method, behind those that are named."""
    app = App()

    @app.route("/x", ["get", "PoSt", "REPORT"])
    def some(request: Request) -> str:
        return request.method

    app.route("/x", ["*"])(lambda: "any")
    async with TestClient(app) as client:
        for method, text in (
            ("GET", "GET"),
            ("POST", "POST"),
            ("REPORT", "REPORT"),
            ("PUT", "any"),
            ("OPTIONS", "any"),
        ):
            assert (await client.request(method, "/x")).text == text
