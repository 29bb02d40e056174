"""The chat that shows the engine: rooms, whispers, heartbeats, and guests that do not read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from examples import chat_tcp
from forebay import TCPServer
from tests.examples.processes import forebay_run
from tests.support import RawClient, eventually, free_port, open_descriptors, raw_client, running

ANYWHERE = "tcp://127.0.0.1:0"

Join = Callable[[], Awaitable[RawClient]]


@asynccontextmanager
async def guests_of(server: TCPServer) -> AsyncIterator[Join]:
    """Lets guests in, and reads what each is told first."""
    async with AsyncExitStack() as stack:

        async def enter() -> RawClient:
            client = await stack.enter_async_context(raw_client(server.addresses[0].port))
            assert (await said(client)).startswith("* welcome, guest-")
            assert (await said(client)).endswith(" joined lobby")
            return client

        yield enter


@pytest.fixture
async def server() -> AsyncIterator[TCPServer]:
    """A chat of its own, on a free port."""
    async with running(chat_tcp.make_server(ANYWHERE)) as fresh:
        yield fresh


@pytest.fixture
async def join(server: TCPServer) -> AsyncIterator[Join]:
    """Lets guests in."""
    async with guests_of(server) as enter:
        yield enter


async def said(client: RawClient) -> str:
    """The next line."""
    return (await client.line()).decode().rstrip("\n")


async def ask(client: RawClient, line: str) -> str:
    """Say ``line``, and read the next one."""
    await client.send(line.encode() + b"\n")
    return await said(client)


async def test_guests_talk_in_rooms(join: Join) -> None:
    """What one says the others in the room read, and nobody elsewhere; who and rooms list what there is."""
    ada, alan = await join(), await join()
    assert await said(ada) == "* guest-2 joined lobby"
    await ada.send(b"/nick ada\r\nhello\n")
    assert [await said(alan), await said(alan)] == ["* guest-1 is now ada", "ada: hello"]
    assert await said(ada) == "* guest-1 is now ada"
    assert await ask(alan, "/join #Music") == "* guest-2 joined music"
    assert await said(ada) == "* guest-2 went to music"
    assert await ask(alan, "/who") == "* 1 in music: guest-2"
    assert await ask(alan, "/rooms") == "* 2 rooms: lobby (1), music (1)"
    await alan.send(b"la la la\n")
    assert await ask(ada, "/who") == "* 1 in lobby: ada"


async def test_a_whisper_is_for_one(join: Join) -> None:
    """/msg reaches one guest, in whichever room, whatever case its name is written in."""
    ada, alan, joan = await join(), await join(), await join()
    assert [await said(ada), await said(ada), await said(alan)] == [
        "* guest-2 joined lobby",
        "* guest-3 joined lobby",
        "* guest-3 joined lobby",
    ]
    await ask(joan, "/join attic")
    assert [await said(ada), await said(alan)] == ["* guest-3 went to attic"] * 2
    assert await ask(ada, "/msg GUEST-3 psst") == "[you to guest-3] psst"
    assert await said(joan) == "[guest-1 to you] psst"
    assert await ask(alan, "/who") == "* 2 in lobby: guest-1, guest-2"  # and heard nothing before
    assert await ask(ada, "/msg nobody psst") == "* nobody has that name"
    assert await ask(ada, "/msg guest-3") == "* write /msg NAME TEXT"


@pytest.mark.parametrize("name", ["", "x" * 21, "аda", "1st", "a b", "a*", "-a", "[you"])
async def test_names_that_could_deceive_are_refused(join: Join, name: str) -> None:
    """A name that is too long, not ASCII or looks like something else changes nothing; nor does one that is taken."""
    ada = await join()
    assert (await ask(ada, f"/nick {name}")).startswith("* a name has 1 to 20")
    assert (await ask(ada, f"/join {name}")).startswith("* a room's name has 1 to 20")
    await join()
    assert await said(ada) == "* guest-2 joined lobby"
    assert await ask(ada, "/nick Guest-2") == "* Guest-2 is taken"
    assert await ask(ada, "/who") == "* 2 in lobby: guest-1, guest-2"


async def test_nobody_writes_on_others_terminals(join: Join) -> None:
    """Escapes, other controls and marks that turn the direction of text do not get through."""
    ada, alan = await join(), await join()
    await said(ada)
    await ada.send("a\x1b[2Jb\x07\u202ec\u0085d\u2028e\n".encode())
    assert await said(alan) == "guest-1: a[2Jbcde"


async def test_a_guest_that_talks_too_much_is_not_heard(join: Join) -> None:
    """Past its rate a guest's lines are dropped, and it is told; others hear what was within it."""
    ada, alan = await join(), await join()
    await said(ada)
    await ada.send(b"spam\n" * 200)
    assert await said(ada) == "* not so fast: that was not said"
    await alan.send(b"/msg guest-2 enough\n")
    heard = []
    while (line := await said(alan)).startswith("guest-1: "):
        heard.append(line)
    assert chat_tcp.LINES_AT_ONCE <= len(heard) < 100


async def test_a_line_that_is_too_long_ends_the_connection(join: Join, server: TCPServer) -> None:
    """A line past the maximum is a framing error for its guest, and nothing to the others."""
    ada, alan = await join(), await join()
    await said(ada)
    await alan.send(b"x" * 5000)
    assert await alan.rest() == b""
    assert await said(ada) == "* guest-2 left"
    assert server.statistics()["closed"] == {"framing": 1}


@pytest.mark.both_loops
async def test_slow_readers_are_evicted_and_hold_up_nobody() -> None:
    """A guest that never reads is closed once its limit is reached; who reads has got every line, in order."""
    fresh = chat_tcp.make_server(ANYWHERE, slow_limit=16 * 1024, lines_per_second=1e6)
    async with running(fresh) as server, guests_of(server) as join:
        ada, alan = await join(), await join()
        await said(ada)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", server.addresses[0].port))
            assert [await said(ada), await said(alan)] == ["* guest-3 joined lobby"] * 2
            for number in range(20_000):
                line = f"{number} " + "x" * 900
                await ada.send(line.encode() + b"\n")
                heard = await said(alan)
                if heard == "* guest-3 left (read too slowly)":
                    break
                assert heard == f"guest-1: {line}"
            assert server.statistics()["closed"] == {"slow-consumer": 1}
            assert await ask(ada, "/who") == "* guest-3 left (read too slowly)"
            assert await said(ada) == "* 2 in lobby: guest-1, guest-2"


@pytest.mark.both_loops
async def test_heartbeats_find_out_who_is_gone() -> None:
    """Guests that answer pings, or say anything, stay; one that does neither is closed and its leave is announced."""
    async with running(chat_tcp.make_server(ANYWHERE, heartbeat_interval=0.3)) as server, guests_of(server) as join:
        ada, alan = await join(), await join()
        assert await said(ada) == "* guest-2 joined lobby"
        begun = asyncio.get_running_loop().time()
        pinged = 0
        while (line := await said(ada)) == "/ping":
            pinged += 1
            await ada.send(b"/pong\n")
        assert line == "* guest-2 left (gone)"
        assert asyncio.get_running_loop().time() - begun >= 5 * 0.3  # four pings, and a last wait
        assert pinged >= 4
        assert server.statistics()["closed"] == {"heartbeat": 1}
        await alan.rest()  # it is over
        assert await ask(ada, "/ping") == "/pong"


@pytest.mark.parametrize("how", ["quit", "close", "abort"])
async def test_leaving_is_announced(join: Join, how: str) -> None:
    """However a guest goes, the room is told, and the name is free again."""
    ada, alan = await join(), await join()
    await said(ada)
    await ask(alan, "/nick alan")
    assert await said(ada) == "* guest-2 is now alan"
    if how == "quit":
        assert await ask(alan, "/quit") == "* bye"
    elif how == "close":
        await alan.close()
    else:
        alan.abort()
    assert await said(ada) == "* alan left"
    assert await ask(ada, "/nick alan") == "* guest-1 is now alan"


async def test_rooms_are_bounded(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are so many rooms and no more; an empty one makes room for another."""
    monkeypatch.setattr(chat_tcp, "MOST_ROOMS", 2)
    ada, alan = await join(), await join()
    await said(ada)
    await ask(ada, "/join attic")
    await said(alan)
    assert await ask(alan, "/join cellar") == "* there are too many rooms; join one of them"
    assert await ask(ada, "/join lobby") == "* guest-1 joined lobby"
    assert await said(alan) == "* guest-1 joined lobby"
    assert await ask(alan, "/join cellar") == "* guest-2 joined cellar"


async def test_nothing_is_left_behind(server: TCPServer) -> None:
    """A hundred guests that came, talked and left leave no descriptor, guest or room."""
    before = open_descriptors()
    async with guests_of(server) as join:
        for _ in range(100):
            guest = await join()
            await guest.send(b"/join attic\n/quit\n")
            await guest.rest()
            await guest.close()
    await eventually(lambda: server.connections == 0)
    assert server.statistics()["closed"] == {"app": 100}
    await eventually(lambda: open_descriptors() <= before + 2)


async def test_it_runs_as_its_docstring_says(tmp_path: Path) -> None:
    """``forebay run`` serves it; SIGTERM tells every guest, closes, and exits with 0."""
    port = free_port()
    run = forebay_run("examples.chat_tcp:server", tmp_path / "log", "--bind", f"tcp://127.0.0.1:{port}")
    async with AsyncExitStack() as stack:
        async with run:
            guest = await stack.enter_async_context(raw_client(port))
            await guest.send(b"/who\n")
            assert [await said(guest) for _ in range(3)][-1] == "* 1 in lobby: guest-1"
        assert await guest.rest() == b"* the chat closes; see you later\n"
