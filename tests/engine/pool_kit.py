"""What tests of pools share: a dialler whose outcomes are at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


class Thing:
    """What is dialled."""

    def __init__(self, key: str, number: int) -> None:
        self.key = key
        self.number = number
        self.is_open = True
        self.closed = 0

    def __repr__(self) -> str:
        return f"<Thing {self.key}{self.number}>"


class Dialler:
    """Dials, closes and checks things as it is told."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.error: Exception | None = None
        self.works = True
        self.things: list[Thing] = []
        self.under_way = 0
        self.checks = 0

    async def dial(self, key: str) -> Thing:
        """A new thing, after the delay; or the error."""
        self.under_way += 1
        try:
            await asyncio.sleep(self.delay)
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        thing = Thing(key, len(self.things))
        self.things.append(thing)
        return thing

    def close(self, thing: Thing) -> Awaitable[None]:
        """The end of a thing, at once, though there is something to wait for."""
        thing.closed += 1
        thing.is_open = False
        return asyncio.sleep(0)

    async def check(self, thing: Thing) -> bool:
        """Whether it works."""
        self.checks += 1
        await asyncio.sleep(self.delay)
        return self.works

    def alive(self) -> list[Thing]:
        """What was not closed."""
        return [thing for thing in self.things if not thing.closed]


def numbers(statistics: dict[str, Any], *names: str) -> tuple[Any, ...]:
    """Some of the statistics."""
    return tuple(statistics[name] for name in names)
