"""The queue between a connection and its coroutine."""

from __future__ import annotations

import asyncio

import pytest

from forebay.engine.inbox import Inbox, Nap
from forebay.errors import FramingError


def test_full_and_low() -> None:
    """Full at its limit of messages, low again at half of it."""
    inbox = Inbox(4)
    assert [inbox.put(text) for text in "abcd"] == [False, False, False, True]
    assert not inbox.low
    assert [inbox.take(), inbox.take()] == ["a", "b"]
    assert inbox.low


def test_chunks_count_by_their_bytes() -> None:
    """A few large chunks fill it as well."""
    inbox = Inbox(1000)
    assert not inbox.put(b"x" * 200_000)
    assert inbox.put(b"x" * 200_000)
    inbox.take()
    assert not inbox.low
    inbox.take()
    assert inbox.low


async def test_the_end_comes_after_what_is_queued() -> None:
    """What was put before the end is read, what is put after it is not; the first end's error counts."""
    inbox = Inbox(4)
    inbox.put("a")
    inbox.end(FramingError("bad"))
    inbox.end()
    inbox.put("b")
    assert await inbox.wait()
    assert inbox.take() == "a"
    with pytest.raises(FramingError, match="bad"):
        await inbox.wait()


async def test_one_reader() -> None:
    """A second one that waits at the same time is told so; a cancelled one leaves the place free."""
    inbox = Inbox(4)
    reader = asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    assert inbox.awaited
    with pytest.raises(RuntimeError, match="two tasks"):
        await inbox.wait()
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    waiting = asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    inbox.end()
    assert await waiting is False


async def test_a_cancelled_reader_is_in_nobodys_way() -> None:
    """Who cancels a reader may receive at once, without waiting for the end of it; and no wake-up goes astray."""
    inbox = Inbox(4)
    reader = asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    reader.cancel()
    inbox_waits = asyncio.create_task(inbox.wait())
    waiting = inbox.wait()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert inbox.awaited
    with pytest.raises(RuntimeError, match="two tasks"):
        await waiting
    inbox.put("a")
    assert await asyncio.wait_for(inbox_waits, 5)
    assert inbox.take() == "a"


async def test_a_nap_that_is_cancelled_within_a_step() -> None:
    """The Task is told at its next wait instead: asyncio does that for a cancel that says False."""
    inbox = Inbox(4)
    nap = inbox.nap = Nap(inbox)
    inbox.resting = inbox.stepping = True
    assert not nap.cancel()
    assert nap.done()
    assert not nap.cancelled()
    assert not inbox.resting
    inbox.stepping = False
    nap = inbox.nap = Nap(inbox)
    inbox.resting = True
    assert nap.cancel()
    assert nap.cancelled()
    assert not inbox.resting
