"""A resource of a pool for the length of a block."""

from __future__ import annotations

from collections.abc import Hashable
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from forebay.policy.pool_actions import Place, PlaceState

if TYPE_CHECKING:
    from forebay.engine.pool import Pool

__all__ = ["Borrowed"]

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Borrowed(Generic[K, R]):
    """See :meth:`Pool.borrow <forebay.engine.pool.Pool.borrow>`. It is for one block."""

    __slots__ = ("_arguments", "_entering", "_holder", "_place", "_pool")

    def __init__(
        self, pool: Pool[K, R], key: K, timeout: float | None, deadline: float | None, code: CodeType, offset: int
    ) -> None:
        self._pool = pool
        self._arguments = (key, timeout, deadline, code, offset)
        self._place: Place | None = None
        self._entering = False
        self._holder: Any = None

    async def __aenter__(self) -> R:
        if self._place is not None or self._entering:
            raise RuntimeError("a loan of a pool is for one block")
        self._entering = True
        try:
            place = self._place = await self._pool.obtain(*self._arguments)
        finally:
            self._entering = False
        self._holder = place.holder
        resource: R = place.resource
        return resource

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        place, self._place = self._place, None
        assert place is not None
        if place.state is PlaceState.GONE or place.holder is self._holder:
            self._pool.put_back(place, kind is None)
        else:  # it was released in the block, and is idle, or another's by now
            raise RuntimeError(f"{place.resource!r:.100} of pool {self._pool.name} was released within its block")
