"""Content that is kept while it is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from forebay.http.client.response import ClientResponse

__all__ = ["keep_content"]

Keep = Callable[[bytes], Awaitable[None]]


async def keep_content(response: ClientResponse, most: int, keep: Keep) -> bool:
    """Have ``keep`` called with the content of ``response``, as it was sent, once all of it is there: now, or when its
    reader has come to its end. Content that is longer than ``most`` bytes, is left or breaks off is not kept. Nothing
    is read that the reader does not ask for.

    :return: whether it is kept, or may be.
    """
    return await response.tap(_Keeper(most, keep))


class _Keeper:
    __slots__ = ("_keep", "_left", "_parts")

    def __init__(self, most: int, keep: Keep) -> None:
        self._keep = keep
        self._left = most
        self._parts: list[bytes] | None = []

    def piece(self, data: bytes) -> None:
        """Keep it, unless that is too much."""
        if self._parts is not None:
            self._parts.append(data)
            self._left -= len(data)
            if self._left < 0:
                self._parts = None

    async def end(self) -> None:
        """All of it is there."""
        parts, self._parts = self._parts, None
        if parts is not None:
            await self._keep(parts[0] if len(parts) == 1 else b"".join(parts))
