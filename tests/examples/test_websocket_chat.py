"""The chat in the browser: its page, rooms, and guests that are not to be waited for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from examples import websocket_chat
from forebay.engine import now, timeout
from forebay.errors import ConnectionClosed
from forebay.http import HTTPServer, WebSocket
from forebay.http.websocket_client import connect
from forebay.testing import TestClient
from tests.examples.processes import forebay_run
from tests.support import eventually, free_port, raw_client, running

Join = Callable[..., Awaitable[WebSocket]]


@pytest.fixture
async def server() -> AsyncIterator[HTTPServer]:
    """A chat of its own, on a free port."""
    async with running(HTTPServer(websocket_chat.make_app(), bind="http://127.0.0.1:0")) as fresh:
        yield fresh


@pytest.fixture
async def join(server: HTTPServer) -> AsyncIterator[Join]:
    """Lets guests in."""
    async with AsyncExitStack() as stack:

        async def enter(query: str = "", room: str = "lobby") -> WebSocket:
            url = f"ws://127.0.0.1:{server.addresses[0].port}/rooms/{room}{query}"
            return await stack.enter_async_context(connect(url))

        yield enter


async def heard(ws: WebSocket) -> tuple[str, str]:
    """Who said what; nobody where it is about the room."""
    while (what := json.loads(await ws.receive(timeout=5)))["kind"] not in ("said", "notice"):
        continue
    return what.get("name", ""), what["text"]


async def next_of(ws: WebSocket, kind: str) -> dict[str, Any]:
    """The next message of this kind."""
    while True:
        what: dict[str, Any] = json.loads(await ws.receive(timeout=5))
        if what["kind"] == kind:
            return what


async def test_guests_talk_in_rooms(join: Join) -> None:
    """All in the room hear who comes, what is said, and who leaves; nobody elsewhere does."""
    ada = await join("?name=Ada")
    assert await heard(ada) == ("", "Ada joined")
    other = await join("?name=Eve", room="kitchen")
    assert await heard(other) == ("", "Eve joined")
    guest = await join()
    assert [await heard(ada), await heard(guest)] == [("", "guest-1 joined")] * 2
    await ada.send("grüße")
    assert [await heard(ada), await heard(guest)] == [("Ada", "grüße")] * 2
    await guest.close()
    assert await heard(ada) == ("", "guest-1 left")
    await other.send("anybody?")
    assert await heard(other) == ("Eve", "anybody?")


async def test_all_know_who_is_there(join: Join) -> None:
    """A guest is told its name first; with each one that comes or goes all get the names of those who are there."""
    ada = await join("?name=Ada")
    assert json.loads(await ada.receive(timeout=5)) == {"kind": "welcome", "name": "Ada", "room": "lobby"}
    assert await next_of(ada, "people") == {"kind": "people", "count": 1, "names": ["Ada"]}
    alan = await join("?name=Alan")
    assert await next_of(ada, "people") == {"kind": "people", "count": 2, "names": ["Ada", "Alan"]}
    await alan.close()
    assert (await next_of(ada, "people"))["names"] == ["Ada"]


async def test_who_comes_hears_what_was_said(join: Join) -> None:
    """A new guest gets what is kept; one that comes back what was said behind the message it had last."""
    ada = await join("?name=Ada")
    for text in ("one", "two", "three"):
        await ada.send(text)
    said = [await next_of(ada, "said") for _ in range(3)]
    late = await join()
    assert [await next_of(late, "said") for _ in range(3)] == said
    back = await join(f"?last={said[0]['id']}")
    assert [(await next_of(back, "said"))["text"] for _ in range(2)] == ["two", "three"]
    up_to_date = await join(f"?last={said[2]['id']}")
    await ada.send("four")
    assert (await next_of(up_to_date, "said"))["text"] == "four"


async def test_only_so_much_is_kept(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last messages, also where a guest had one that is forgotten, and when nobody was there meanwhile."""
    monkeypatch.setattr(websocket_chat, "HISTORY", 2)
    ada = await join("?name=Ada")
    for text in ("one", "two", "three"):
        await ada.send(text)
    first = await next_of(ada, "said")
    await next_of(ada, "said")
    await next_of(ada, "said")
    await ada.close()
    back = await join(f"?last={first['id']}")
    assert [(await next_of(back, "said"))["text"] for _ in range(2)] == ["two", "three"]


async def test_a_room_has_so_many_guests(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, with a reason."""
    monkeypatch.setattr(websocket_chat, "MOST_GUESTS", 1)
    ada = await join()
    await heard(ada)
    with pytest.raises(ConnectionClosed, match=r"1013: the room is full"):
        await (await join()).receive(timeout=5)


async def test_rooms_with_guests_are_listed() -> None:
    """The fullest first; those that are empty are not."""
    async with TestClient(websocket_chat.make_app()) as client:
        async with (
            client.websocket("/rooms/kitchen"),
            client.websocket("/rooms/lobby"),
            client.websocket("/rooms/lobby") as ada,
        ):
            await next_of(ada, "people")
            rooms = [{"name": "lobby", "guests": 2}, {"name": "kitchen", "guests": 1}]
            assert (await client.get("/rooms")).json() == rooms

        async with timeout(5):
            while (await client.get("/rooms")).json():
                continue


async def test_names_and_messages_have_no_control_characters(join: Join) -> None:
    """They are left out, and what is nothing then is not said; names are cut."""
    ada = await join("?name=%1b[1mAda%0a" + 50 * "a")
    name = "[1mAda" + 14 * "a"
    assert await heard(ada) == ("", f"{name} joined")
    await ada.send("\x1b\n")
    await ada.send("\x00well")
    assert await heard(ada) == (name, "well")


async def test_who_says_too_much_is_told_so(join: Join) -> None:
    """Past the burst nothing is said, and only the one who talks is told."""
    ada, began = await join("?name=Ada"), now()
    for _ in range(websocket_chat.MESSAGES_AT_ONCE + 20):
        await ada.send("again")
    names = [(await heard(ada))[0] for _ in range(1 + websocket_chat.MESSAGES_AT_ONCE + 20)]
    most = websocket_chat.MESSAGES_AT_ONCE + websocket_chat.MESSAGES_PER_SECOND * (now() - began) + 1
    assert websocket_chat.MESSAGES_AT_ONCE <= names.count("Ada") <= most


async def test_only_text_is_taken(join: Join) -> None:
    """Who sends binary is closed with 1003."""
    ada = await join()
    await next_of(ada, "people")
    await ada.send(b"\x00")
    with pytest.raises(ConnectionClosed, match=r"1003: text only"):
        await ada.receive(timeout=5)


async def test_there_are_so_many_rooms(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, with a reason, until one that is empty makes room."""
    monkeypatch.setattr(websocket_chat, "MOST_ROOMS", 1)
    ada = await join()
    await heard(ada)
    late = await join(room="kitchen")
    with pytest.raises(ConnectionClosed, match=r"1013: there are too many rooms"):
        await late.receive(timeout=5)
    await ada.close()
    later = await join(room="kitchen")
    assert await heard(later) == ("", "guest-2 joined")


async def test_a_drain_closes_all(server: HTTPServer, join: Join) -> None:
    """Guests are told that the server goes away."""
    ada = await join()
    await next_of(ada, "people")
    await server.drain()
    with pytest.raises(ConnectionClosed, match="1001"):
        await ada.receive(timeout=5)
    await eventually(lambda: server.connections == 0)


async def test_it_runs_as_its_docstring_says(tmp_path: Path) -> None:
    """``forebay run`` serves the page, and the rooms it connects to; it exits with 0 at a SIGTERM."""
    port = free_port()
    target = "examples.websocket_chat:app"
    async with forebay_run(target, tmp_path / "log", "--bind", f"http://127.0.0.1:{port}"):
        async with raw_client(port) as browser:
            status, headers, content = await browser.get("/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert content == websocket_chat.PAGE.read_bytes()
        origin = [("origin", f"http://127.0.0.1:{port}")]
        async with connect(f"ws://127.0.0.1:{port}/rooms/lobby?name=Ada", headers=origin) as ada:
            assert await heard(ada) == ("", "Ada joined")
