"""The chat in the browser: its page, rooms, and guests that are not to be waited for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from examples import websocket_chat
from forebay.engine import now
from forebay.errors import ConnectionClosed
from forebay.http import HTTPServer, WebSocket
from forebay.http.websocket_client import connect
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
    said = json.loads(await ws.receive(timeout=5))
    return said["name"], said["text"]


async def test_guests_talk_in_rooms(join: Join) -> None:
    """All in the room hear who comes, what is said, and who leaves; nobody elsewhere does."""
    ada = await join("?name=Ada")
    assert await heard(ada) == ("", "Ada joined lobby")
    other = await join("?name=Eve", room="kitchen")
    assert await heard(other) == ("", "Eve joined kitchen")
    guest = await join()
    assert [await heard(ada), await heard(guest)] == [("", "guest-1 joined lobby")] * 2
    await ada.send("grüße")
    assert [await heard(ada), await heard(guest)] == [("Ada", "grüße")] * 2
    await guest.close()
    assert await heard(ada) == ("", "guest-1 left")
    await other.send("anybody?")
    assert await heard(other) == ("Eve", "anybody?")


async def test_names_and_messages_have_no_control_characters(join: Join) -> None:
    """They are left out, and what is nothing then is not said; names are cut."""
    ada = await join("?name=%1b[1mAda%0a" + 50 * "a")
    name = "[1mAda" + 14 * "a"
    assert await heard(ada) == ("", f"{name} joined lobby")
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
    await heard(ada)
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
    assert await heard(later) == ("", "guest-2 joined kitchen")


async def test_a_drain_closes_all(server: HTTPServer, join: Join) -> None:
    """Guests are told that the server goes away."""
    ada = await join()
    await heard(ada)
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
            assert await heard(ada) == ("", "Ada joined lobby")
