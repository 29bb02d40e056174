"""Objects that are costly to make, used again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

__all__ = ["ObjectPool"]

T = TypeVar("T")


class ObjectPool(Generic[T]):
    """Keeps objects that are not in use, for who needs one next: buffers, parsers::

        buffers = ObjectPool(lambda: bytearray(1 << 20), max_size=8)
        with buffers.borrow() as buffer:
            ...

    Nobody ever waits: where none is kept one is made, and where ``max_size`` are kept already one that comes back is
    dropped. The one that came back last is lent first: it is the most likely to be in the processor's caches.

    It pays for what costs more to make than about a microsecond, and only there; ``python -m benchmarks.object_pool``
    says what that is. Objects that carry no state from one use to the next need no pool: they are shared.

    Whoever has given an object back must not use it any more. To be used from one thread.

    :param make: makes one.
    :param reset: called with each one that is given back, before it is kept, so that nothing of one use is seen by the
        next. One for which it returns False (and nothing else: None is no objection) is dropped: a buffer that has
        grown. Where it raises, the object is dropped too, and ``give`` raises.
    :param max_size: objects kept at most, at least 1.
    :raises ValueError: ``max_size`` is out of range.
    """

    __slots__ = ("_free", "_make", "_reset", "dropped", "given", "made", "max_size", "reused")

    def __init__(self, make: Callable[[], T], reset: Callable[[T], object] | None = None, max_size: int = 64) -> None:
        if not max_size >= 1:
            raise ValueError(f"max_size {max_size}: must be at least 1")
        self._make = make
        self._reset = reset
        self.max_size = max_size
        self._free: dict[int, T] = {}  # by identity: objects need not be hashable, and equal ones are not the same
        self.made = self.reused = self.given = self.dropped = 0

    def __len__(self) -> int:
        """How many objects are kept, and not in use."""
        return len(self._free)

    def __bool__(self) -> bool:
        """True, also when nothing is kept: a pool is not a container."""
        return True

    def __repr__(self) -> str:
        return f"<ObjectPool {len(self._free)}/{self.max_size} made={self.made} reused={self.reused}>"

    def take(self) -> T:
        """One for the caller alone, who gives it back. One that never comes back is only not used again."""
        if self._free:
            self.reused += 1
            return self._free.popitem()[1]
        made = self._make()
        self.made += 1
        return made

    def give(self, item: T) -> None:
        """Give one back.

        :raises ValueError: it was given back already.
        """
        free = self._free
        key = id(item)
        if key in free:
            raise ValueError(f"this {type(item).__name__} was given back already")
        self.given += 1
        if len(free) >= self.max_size:
            self.dropped += 1
            return
        if self._reset is not None:
            self.dropped += 1  # if it raises
            if self._reset(item) is False:
                return
            self.dropped -= 1
        free[key] = item

    def borrow(self) -> AbstractContextManager[T]:
        """One for a ``with`` block. It comes back when the block has ended, also by an error."""
        return _Borrowed(self)

    def clear(self) -> None:
        """Drop what is kept."""
        self.dropped += len(self._free)
        self._free.clear()

    def statistics(self) -> dict[str, Any]:
        """Counts since it was made, and the state now: ``in_use`` counts those that never came back too."""
        return {
            "size": len(self._free),
            "max_size": self.max_size,
            "in_use": self.made + self.reused - self.given,
            "made": self.made,
            "reused": self.reused,
            "dropped": self.dropped,
        }


class _Borrowed(Generic[T]):
    __slots__ = ("_item", "_pool")

    def __init__(self, pool: ObjectPool[T]) -> None:
        self._pool = pool

    def __enter__(self) -> T:
        self._item = self._pool.take()
        return self._item

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.give(self._item)
        del self._item
