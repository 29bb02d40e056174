"""The shop's chat, over TCP."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from examples.shop import chat
from forebay import TCPServer
from forebay.engine import parse_address
from tests.support import RawClient, raw_client, running

Join = Callable[[], Awaitable[RawClient]]


@pytest.fixture
async def server() -> AsyncIterator[TCPServer]:
    """The chat as its module makes it, empty, on a free port."""
    fresh: TCPServer = importlib.reload(chat).server
    fresh.bind = [parse_address("tcp://127.0.0.1:0")]
    async with running(fresh):
        yield fresh


@pytest.fixture
async def join(server: TCPServer) -> AsyncIterator[Join]:
    """Lets somebody in, and reads what everybody is told first."""
    async with AsyncExitStack() as stack:

        async def enter() -> RawClient:
            client = await stack.enter_async_context(raw_client(server.addresses[0].port))
            assert (await said(client)).startswith("* welcome, guest-")
            assert (await said(client)).endswith(" joined lobby")
            return client

        yield enter


async def said(client: RawClient) -> str:
    """The next line."""
    return (await client.line()).decode().rstrip("\r\n")


async def test_two_guests_talk(join: Join) -> None:
    """What one says the other reads, under the name it chose; the speaker does not read it again."""
    ada, alan = await join(), await join()
    assert await said(ada) == "* guest-2 joined lobby"
    await ada.send(b"/nick ada\r\nhello\n")
    assert [await said(alan), await said(alan)] == ["* guest-1 is now ada", "ada: hello"]
    await alan.send("grüß dich\n".encode())
    assert [await said(ada), await said(ada)] == ["* guest-1 is now ada", "guest-2: grüß dich"]


async def test_rooms_keep_to_themselves(join: Join) -> None:
    """Going to a room is announced in both; what is said in one is not heard in the other; who lists the room."""
    ada, alan = await join(), await join()
    await said(ada)
    await alan.send(b"/join #Music\nanybody?\n/who\n")
    assert await said(ada) == "* guest-2 went to music"
    assert [await said(alan), await said(alan)] == ["* guest-2 joined music", "* 1 in music: guest-2"]
    await ada.send(b"/join music\n/who\n")
    assert [await said(ada), await said(ada)] == ["* guest-1 joined music", "* 2 in music: guest-1, guest-2"]


@pytest.mark.parametrize("how", ["quit", "close", "abort"])
async def test_leaving_is_announced(join: Join, how: str) -> None:
    """However a guest goes, the room is told, and the name is free again."""
    ada, alan = await join(), await join()
    await said(ada)
    await alan.send(b"/nick alan\n")
    assert await said(ada) == "* guest-2 is now alan"
    if how == "quit":
        await alan.send(b"/quit\n")
        assert (await alan.rest()).endswith(b"* bye\n")
    elif how == "close":
        alan.send_eof()
    else:
        alan.abort()
    assert await said(ada) == "* alan left"
    await ada.send(b"/nick alan\n")
    assert await said(ada) == "* guest-1 is now alan"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"/nick guest-1", "* guest-1 is taken"),
        (b"/nick GUEST-1", "* GUEST-1 is taken"),
        (b"/nick", "* a name has 1 to 20 letters, digits, _ and -"),
        (b"/nick two words", "* a name has 1 to 20 letters, digits, _ and -"),
        (b"/nick " + b"x" * 21, "* a name has 1 to 20 letters, digits, _ and -"),
        (b"/join ../..", "* a room's name has 1 to 20 letters, digits, _ and -"),
        (b"/join lobby", "* you are in lobby"),
        (b"/dance", "* there is no /dance; /help lists the commands"),
        (b"/help", "* anything you type is said to the room; commands:"),
    ],
)
async def test_commands_answer_only_who_asked(join: Join, line: bytes, answer: str) -> None:
    """What cannot be done is explained to the guest, and nobody else hears of it."""
    ada, alan = await join(), await join()
    await said(ada)
    await alan.send(line + b"\n")
    assert await said(alan) == answer
    await alan.send(b"still here\n")
    assert await said(ada) == "guest-2: still here"


async def test_control_characters_are_dropped(join: Join) -> None:
    """No guest can move the cursor on another's terminal; a line of nothing else says nothing."""
    ada, alan = await join(), await join()
    await said(ada)
    await alan.send(b"\x1b\n\x1b[2Jhello\x07\n")
    assert await said(ada) == "guest-2: [2Jhello"


async def test_rooms_are_bounded(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the most rooms none is made, and leaving an empty room makes place for another."""
    monkeypatch.setattr(chat, "MOST_ROOMS", 2)
    ada, alan = await join(), await join()
    await said(ada)
    await ada.send(b"/join one\n")
    assert await said(ada) == "* guest-1 joined one"
    assert await said(alan) == "* guest-1 went to one"
    await alan.send(b"/join two\n")
    assert await said(alan) == "* there are too many rooms; join one of them"
    await ada.send(b"/join lobby\n")
    assert await said(alan) == "* guest-1 joined lobby"
    await alan.send(b"/join two\n")
    assert await said(alan) == "* guest-2 joined two"


async def test_a_line_that_is_too_long_ends_its_connection_only(join: Join) -> None:
    """The guest is cut off; the others are told that it left, and stay."""
    ada, alan = await join(), await join()
    await said(ada)
    await alan.send(b"x" * (chat.LONGEST_LINE + 2) + b"\n")
    assert await said(ada) == "* guest-2 left"
    assert (await alan.rest()).startswith(b"* goodbye: ")


async def test_nothing_said_leaves_its_line(join: Join) -> None:
    """Neither control characters nor those that turn the direction of writing reach another's terminal."""
    ada, alan = await join(), await join()
    await said(ada)
    await alan.send("a\x1b[2J\x9b\u202eb\u2028\u2066c\n".encode())
    assert await said(ada) == "guest-2: a[2Jbc"


async def test_a_slow_reader_does_not_hold_up_the_room(join: Join, server: TCPServer) -> None:
    """While one guest does not read, the others talk on; it is told how much it missed when it reads again."""
    slow, ada, alan = await join(), await join(), await join()
    await said(ada)
    slow.reader._transport.pause_reading()  # type: ignore[attr-defined]  # private; there is no other way to not read
    guest = next(iter(chat.chat._guests.values()))
    line = b"x" * 900 + b"\n"
    heard = 0
    while not guest.missed:
        await ada.send(line * 100)
        for _ in range(100):
            assert len(await said(alan)) > 900
        heard += 100
        assert heard < 100_000, "its buffer never filled up"
    slow.reader._transport.resume_reading()  # type: ignore[attr-defined]  # as above
    while not guest.conn.writable:
        await slow.line()
    missed = guest.missed
    await ada.send(b"are you there?\n")
    while "missed" not in (told := await said(slow)):
        assert told, "the connection ended"
    assert told == f"* you missed {missed} lines"
    assert await said(slow) == "guest-2: are you there?"
