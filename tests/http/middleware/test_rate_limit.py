"""How often somebody may come, over a real server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from forebay.http import App, Request, Response
from forebay.http.middleware import RateLimit, Recover
from forebay.testing import TestClient
from tests.http.middleware.served import UPGRADE, Asker, serving


class Clock:
    """Time that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limited(*limits: RateLimit) -> App[Any]:
    """An application whose requests may say who they are from, and where."""
    app: App[Any] = App()

    async def known(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        request.client = request.headers.get("x-client", "192.0.2.1")
        request.identity = request.headers.get("x-user")
        return await call_next(request)

    app.middleware(known)
    for one in limits:
        app.middleware(one)

    @app.get("/")
    async def hello() -> str:
        return "hello"

    @app.websocket("/ws")
    async def talk(ws: Any) -> None:
        await ws.close()

    return app


async def statuses(asker: Asker, *headers: tuple[str, str]) -> list[int]:
    """One request for each header."""
    return [(await asker.ask("/", header)).status for header in headers]


async def test_a_burst_then_the_rate() -> None:
    """The headers count down; then 429 with a time to wait that is right; then again."""
    clock = Clock()
    limit = RateLimit("60/m", burst=2, clock=clock)
    async with serving(limited(limit)) as asker:
        found = [await asker.ask("/") for _ in range(2)]
        assert [one.headers["ratelimit"] for one in found] == ['"default";r=1;t=1', '"default";r=0;t=2']
        assert {one.headers["ratelimit-policy"] for one in found} == {'"default";q=2;w=2'}
        clock.now += 0.25
        with capture_logs() as logs:
            refused = await asker.ask("/")
            await asker.ask("/")
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert refused.headers["ratelimit"] == '"default";r=0;t=2'
        assert msgspec.json.decode(refused.body)["status"] == 429
        assert [entry["event"] for entry in logs] == ["rate limited"]
        clock.now += 0.75
        assert (await asker.ask("/")).status == 200
    assert limit.statistics() == {"allowed": 3, "refused": 2, "keys": 1}


@pytest.mark.parametrize(
    ("rate", "policy"),
    [("100/s", '"default";q=100;w=1'), ("90/m", '"default";q=90;w=60'), ("1000 / h", '"default";q=1000;w=3600')],
)
async def test_rates_as_people_write_them(rate: str, policy: str) -> None:
    """The burst is the number, unless something else is said."""
    async with serving(limited(RateLimit(rate))) as asker:
        assert (await asker.ask("/")).headers["ratelimit-policy"] == policy


async def test_who_shares_a_bucket() -> None:
    """A client; an IPv6 network of 64 bits; an identity; a header; what a function says, None being free."""
    clock = Clock()
    client = [("x-client", one) for one in ("192.0.2.1", "192.0.2.1", "192.0.2.2")]
    networks = [
        ("x-client", one) for one in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.9", "192.0.2.9")
    ]
    users = [("x-user", one) for one in ("ann", "ann", "bob")]
    keys = [("x-key", one) for one in ("a", "a", "b", "c" * 300, "c" * 300, "c" * 301)]
    for key, headers, expected in (
        ("client", client, [200, 429, 200]),
        ("client", networks, [200, 429, 200, 200, 429]),
        ("identity", users, [200, 429, 200]),
        ("identity", client, [200, 429, 200]),
        ("x-key", keys, [200, 429, 200, 200, 429, 200]),
        (
            lambda request: request.headers.get("x-key"),
            [*keys[:2], ("x-user", "x"), ("x-user", "x")],
            [200, 429, 200, 200],
        ),
    ):
        async with serving(limited(RateLimit("1/h", key=key, clock=clock))) as asker:
            assert await statuses(asker, *headers) == expected


async def test_requests_may_cost_more_or_nothing() -> None:
    """Tokens are taken together or not at all; more than the bucket holds takes it whole."""
    clock = Clock()
    limit = RateLimit("1/s", burst=5, cost=lambda request: int(request.headers["x-cost"]), clock=clock)
    async with serving(limited(limit)) as asker:
        asked = [("x-cost", cost) for cost in ("3", "3", "2", "0", "1")]
        assert await statuses(asker, *asked) == [200, 429, 200, 200, 429]
        clock.now += 4
        assert await statuses(asker, ("x-cost", "99")) == [429]
        clock.now += 1
        assert await statuses(asker, ("x-cost", "99"), ("x-cost", "1")) == [200, 429]


async def test_the_table_is_bounded() -> None:
    """A thousand clients leave ten buckets."""
    limit = RateLimit("1/h", max_keys=10, key="x-key", clock=Clock())
    async with serving(limited(limit)) as asker:
        assert set(await statuses(asker, *(("x-key", str(n)) for n in range(200)))) == {200}
    assert limit.statistics()["keys"] == 10


async def test_several_limits_and_websockets() -> None:
    """Each says its own; a handshake counts, and is left as it is."""
    clock = Clock()
    slow, quick = (
        RateLimit("2/h", name="hour", clock=clock),
        RateLimit("5/s", name="second", headers=False, clock=clock),
    )
    async with serving(limited(slow, quick)) as asker:
        assert (await asker.ask("/")).headers["ratelimit"] == '"hour";r=1;t=1800'
        assert (await asker.ask("/ws", *UPGRADE)).status == 101
    assert slow.statistics()["allowed"] == quick.statistics()["allowed"] == 2


@pytest.mark.parametrize("outer", [(), (Recover(),)])
async def test_each_of_several_limits_says_its_own(outer: tuple[Any, ...]) -> None:
    """Whatever other headers the answer has, and whether they are called as hooks or in the midst of others."""
    limits = [RateLimit(rate, name=rate[-1], clock=Clock()) for rate in ("2/h", "3/m")]
    app: App[Any] = App(middleware=[*outer, *limits])

    same = Response("own", headers={"X-Own": "1"})  # sent twice

    @app.get("/")
    async def own() -> Response:
        return same

    async with TestClient(app) as client:
        answer = await client.get("/")
        assert sorted(answer.headers.get_all("ratelimit")) == ['"h";r=1;t=1800', '"m";r=2;t=20']
        answer = await client.get("/")
    assert sorted(answer.headers.get_all("ratelimit")) == ['"h";r=0;t=3600', '"m";r=1;t=40']
    assert sorted(answer.headers.get_all("ratelimit-policy")) == ['"h";q=2;w=3600', '"m";q=3;w=60']


@pytest.mark.parametrize(
    "arguments",
    [{"rate": "100"}, {"rate": "0/s"}, {"rate": "1/d"}, {"rate": "1/s", "burst": 0}, {"rate": "1/s", "cost": -1},
     {"rate": "1/s", "key": "a b"}, {"rate": "1/s", "name": 'a"'}, {"rate": "1/s", "max_keys": 0}],
)  # fmt: skip
def test_nonsense_is_refused(arguments: dict[str, Any]) -> None:
    """Says what would be right."""
    with pytest.raises(ValueError, match="must be"):
        RateLimit(**arguments)
