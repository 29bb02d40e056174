"""Where a client's cache keeps answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from forebay.http.headers import Headers

__all__ = ["CacheStore", "CachedAnswer", "MemoryStore"]

_OVERHEAD = 512  # bytes that an answer takes beside its text and content
_VARIANTS = 16  # answers of one URL for one owner that differ in what ``vary`` names


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A whole answer, as it was received: plain data, for a store to keep anywhere.

    :param headers: without those of the connection.
    :param content: as it was sent, in its ``content-encoding``.
    :param varying: the names in ``vary``, in lower case and sorted, with what the request had there; None: nothing.
        Those of secret headers are hashes.
    :param requested_at: seconds since the epoch.
    :param received_at: seconds since the epoch, when its head was there, or when it was last found to hold still.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    content: bytes = field(repr=False)
    varying: tuple[tuple[str, str | None], ...] = field(repr=False)
    requested_at: float
    received_at: float

    @property
    def fields(self) -> Headers:
        """The headers, to look things up in."""
        return Headers(self.headers)

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return (
            _OVERHEAD
            + len(self.content)
            + sum(len(name) + len(value) + 64 for name, value in self.headers)
            + sum(len(name) + len(value or "") + 64 for name, value in self.varying)
        )


class CacheStore(Protocol):
    """Keeps answers by URL and owner: those to whom the server may have answered differently. A store that raises is
    passed over, and logged: it never fails a request."""

    async def get(self, url: str, owner: str) -> Sequence[CachedAnswer]:
        """All answers for ``url`` of ``owner``, the newest first."""

    async def put(self, url: str, owner: str, answer: CachedAnswer) -> None:
        """Keep ``answer``, instead of the one that has the same ``varying``."""

    async def remove(self, url: str) -> int:
        """Forget all answers for ``url``, whoever owns them; how many there were."""

    def statistics(self) -> dict[str, int]:
        """Counts, which are added to those of the cache."""


class MemoryStore:
    """Keeps answers in this process's memory. The URL that was asked for the longest ago makes room.

    :param size: bytes, headers and what Python takes included, about; at least 1.
    :param entries: answers, at least 1.
    :raises ValueError: one of them is out of its range.
    """

    __slots__ = ("_bytes", "_count", "_entries", "_groups", "_owners", "_size", "evicted")

    def __init__(self, *, size: int = 32 * 1024 * 1024, entries: int = 4096) -> None:
        if size < 1 or entries < 1:
            raise ValueError(f"MemoryStore size {size}, entries {entries}: must be at least 1")
        self._size = size
        self._entries = entries
        self._groups: dict[tuple[str, str], list[CachedAnswer]] = {}  # the one that was asked for last is last
        self._owners: dict[str, set[str]] = {}
        self._bytes = 0
        self._count = 0
        self.evicted = 0

    def __repr__(self) -> str:
        return f"<MemoryStore {self._count} of {self._entries} answers, {self._bytes} of {self._size} bytes>"

    async def get(self, url: str, owner: str) -> Sequence[CachedAnswer]:
        """See :class:`CacheStore`."""
        key = (url, owner)
        group = self._groups.pop(key, None)
        if group is None:
            return ()
        self._groups[key] = group
        return group

    async def put(self, url: str, owner: str, answer: CachedAnswer) -> None:
        """See :class:`CacheStore`. What is larger than all of it is not kept."""
        key = (url, owner)
        group = self._groups.pop(key, [])
        before = len(group), sum(one.size for one in group)
        group = [answer, *(one for one in group if one.varying != answer.varying)][:_VARIANTS]
        self._groups[key] = group
        self._owners.setdefault(url, set()).add(owner)
        self._count += len(group) - before[0]
        self._bytes += (
            sum(one.size for one in group) + self._text(key) - before[1] - (self._text(key) if before[0] else 0)
        )
        while self._bytes > self._size or self._count > self._entries:
            oldest = next(iter(self._groups))
            if oldest == key and len(group) > 1:
                gone = group.pop()
                self._count -= 1
                self._bytes -= gone.size
                self.evicted += 1
            else:
                self.evicted += self._drop(oldest)

    async def remove(self, url: str) -> int:
        """See :class:`CacheStore`."""
        return sum(self._drop((url, owner)) for owner in tuple(self._owners.get(url, ())))

    def clear(self) -> None:
        """Forget everything."""
        self._groups.clear()
        self._owners.clear()
        self._bytes = self._count = 0

    def statistics(self) -> dict[str, int]:
        """``entries`` and ``bytes`` now, and ``evicted`` since the start."""
        return {"entries": self._count, "bytes": self._bytes, "evicted": self.evicted}

    def _text(self, key: tuple[str, str]) -> int:
        return len(key[0]) + len(key[1]) + _OVERHEAD

    def _drop(self, key: tuple[str, str]) -> int:
        group = self._groups.pop(key)
        self._count -= len(group)
        self._bytes -= sum(one.size for one in group) + self._text(key)
        owners = self._owners[key[0]]
        owners.discard(key[1])
        if not owners:
            del self._owners[key[0]]
        return len(group)
