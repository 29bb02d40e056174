"""Asking a loop for something from anywhere."""

from __future__ import annotations

import asyncio
import threading

from forebay.engine.soon import Soon


async def test_it_is_done_by_the_loop_and_later() -> None:
    """Whichever thread asks, and never within the call."""
    soon = Soon()
    done: list[threading.Thread] = []
    soon.call(lambda: done.append(threading.current_thread()))
    assert done == []
    await asyncio.sleep(0.001)
    await asyncio.to_thread(soon.call, lambda: done.append(threading.current_thread()))
    await asyncio.sleep(0.001)
    assert done == [threading.main_thread()] * 2
    assert not soon.over


def test_a_loop_that_is_closed_does_nothing() -> None:
    """And nobody is bothered with that."""

    async def made() -> Soon:
        return Soon()

    soon = asyncio.run(made())
    soon.call(lambda: None)
    assert soon.over
