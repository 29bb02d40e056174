"""Prices as server-sent events: what those get who look on, and those who come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from examples import ticker
from forebay.http import App
from forebay.testing import TestClient
from tests.examples.processes import forebay_run
from tests.support import free_port, raw_client


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App[ticker.Market]:
    """A ticker of its own, whose prices move when a test says so."""
    monkeypatch.setattr(ticker, "STEP", 3600.0)
    return ticker.make_app()


@pytest.fixture
async def client(app: App[ticker.Market]) -> AsyncIterator[TestClient]:
    """Asks it."""
    async with TestClient(app) as client:
        yield client


async def test_a_price_that_moves_is_an_event(app: App[ticker.Market], client: TestClient) -> None:
    """Who looks on gets it, and it is what the list says from now on."""
    async with client.stream("GET", "/events") as response:
        events = response.events()
        app.state.move()
        event = await anext(events)
        assert event.event == "price"
        moved = msgspec.json.decode(event.data, type=ticker.Price)
    assert moved in (await client.get("/prices")).json(list[ticker.Price])


async def test_who_comes_back_gets_what_it_missed(app: App[ticker.Market], client: TestClient) -> None:
    """Every event behind the one it had last, once."""
    for _ in range(3):
        app.state.move()
    async with client.stream("GET", "/events") as response:
        app.state.move()
        last = await anext(response.events())
    for _ in range(2):
        app.state.move()
    async with client.stream("GET", "/events", headers={"last-event-id": last.id}) as response:
        events = response.events()
        ids = [(await anext(events)).id for _ in range(2)]
    assert [int(one.rpartition("-")[2]) for one in ids] == [5, 6]


async def test_who_was_away_for_too_long_is_told(app: App[ticker.Market], client: TestClient) -> None:
    """What is not kept any more, or was another process's, is missed: the page asks for all prices then."""
    async with client.stream("GET", "/events") as response:
        app.state.move()
        last = await anext(response.events())
    for _ in range(ticker.HISTORY + 1):
        app.state.move()
    for gone in (last.id, "0badc0de-7"):
        async with client.stream("GET", "/events", headers={"last-event-id": gone}) as response:
            assert (await anext(response.events())).event == "missed"


async def test_prices_move_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the application runs, also when it is started again."""
    monkeypatch.setattr(ticker, "STEP", 0.001)
    app = ticker.make_app()
    for _ in range(2):
        async with TestClient(app) as client, client.stream("GET", "/events") as response:
            assert (await anext(response.events())).event == "price"


async def test_it_runs_as_its_docstring_says(tmp_path: Path) -> None:
    """``forebay run`` serves the page and the events; a stream that is open does not hold up the end."""
    port = free_port()
    async with forebay_run("examples.ticker:app", tmp_path / "log", "--bind", f"http://127.0.0.1:{port}"):
        async with raw_client(port) as browser:
            status, headers, content = await browser.get("/")
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert content == ticker.PAGE.read_bytes()
        stream = raw_client(port)
        browser = await stream.__aenter__()
        await browser.send(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
        while b"event: price" not in await browser.line():
            continue
    await stream.__aexit__(None, None, None)
