"""Asking the loop for something from anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Soon"]


class Soon:
    """Has the loop that runs where this is made call something in its next turn, whoever asks: a finalizer, which the
    garbage collector may call in the middle of anything and on any thread, or a program whose loop is closed."""

    __slots__ = ("_loop",)

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    @property
    def over(self) -> bool:
        """Whether the loop is closed."""
        return self._loop.is_closed()

    def call(self, callback: Callable[[], object]) -> None:
        """Call ``callback``, unless the loop is closed: what was on it is gone by then."""
        with suppress(RuntimeError):  # that it is closed
            self._loop.call_soon_threadsafe(callback)
