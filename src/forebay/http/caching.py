"""Results of coroutine functions, kept for a while::

@cached(ttl=60, stale=600)
async def prices(country: str) -> dict[str, float]:
    ...

await prices("at")
prices.invalidate("at")
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Hashable
from types import MethodType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import structlog

from forebay.engine.loop import now
from forebay.engine.single_flight import SingleFlight
from forebay.engine.tasks import Tasks

__all__ = ["Cached", "cached"]

log = structlog.get_logger("forebay.http")

P = ParamSpec("P")
R = TypeVar("R")

_RETRY = 1.0  # seconds until a refresh that failed is tried again, while the old result still does


class _Entry(Generic[R]):
    __slots__ = ("fresh_until", "refresh_at", "usable_until", "value")

    def __init__(self, value: R, at: float, ttl: float, stale: float) -> None:
        self.value = value
        self.fresh_until = self.refresh_at = at + ttl
        self.usable_until = self.fresh_until + stale


class Cached(Generic[P, R]):
    """A coroutine function whose results are kept: see :func:`cached`."""

    __name__: str

    def __init__(
        self,
        function: Callable[P, Awaitable[R]],
        ttl: float,
        key: Callable[..., Hashable] | None,
        size: int,
        stale: float,
        clock: Callable[[], float],
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._name = getattr(function, "__qualname__", repr(function))
        self._ttl = ttl
        self._make_key = key
        self._size = size
        self._stale = stale
        self._clock = clock
        self._signature = inspect.signature(function)
        self._plain = [p.name for p in self._signature.parameters.values() if p.kind in _POSITIONAL]
        self._simple = len(self._plain) == len(self._signature.parameters)
        self._entries: dict[Hashable, _Entry[R]] = {}  # the one that was asked for last is last
        self._calls: SingleFlight[R] = SingleFlight()
        self._valid: dict[Hashable, object] = {}  # by key: the call under way whose result may be kept
        self._refreshes = Tasks()
        self._hits = self._stale_hits = self._misses = self._failures = self._evicted = 0

    def __repr__(self) -> str:
        return f"<Cached {self._name} {len(self._entries)} of {self._size} results>"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        key = self._key(*args, **kwargs)
        entry = self._entries.get(key)
        if entry is not None:
            at = self._clock()
            if at < entry.fresh_until:
                self._hits += 1
                self._touch(key, entry)
                return entry.value
            if at < entry.usable_until:
                self._stale_hits += 1
                self._touch(key, entry)
                if at >= entry.refresh_at:
                    entry.refresh_at = at + _RETRY
                    self._refreshes.spawn(self._refresh(key, args, kwargs), name=f"refresh of {self._name}")
                return entry.value
        self._misses += 1
        return await self._calls.run(key, lambda: self._compute(key, args, kwargs))

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the result for these arguments; whether there was one. What is being computed for them is given to
        those who wait for it, and not kept."""
        key = self._key(*args, **kwargs)
        self._drop(key)
        return self._entries.pop(key, None) is not None

    def clear(self) -> None:
        """Forget all results, those that are being computed as well."""
        for key in [*self._entries, *self._valid]:
            self._drop(key)
        self._entries.clear()

    async def close(self) -> None:
        """Forget all results, and end the refreshes in the background. It may be used again."""
        self.clear()
        await self._refreshes.cancel()

    def statistics(self) -> dict[str, int]:
        """Counts since the start, and ``entries`` and ``computing`` now. Every call is one of ``hits``, ``stale_hits``
        and ``misses``; ``shared`` of these waited for another's computation."""
        return {
            "hits": self._hits,
            "stale_hits": self._stale_hits,
            "misses": self._misses,
            "shared": self._calls.shared,
            "failures": self._failures,
            "evicted": self._evicted,
            "entries": len(self._entries),
            "computing": len(self._calls),
        }

    def _key(self, *args: P.args, **kwargs: P.kwargs) -> Hashable:
        if self._make_key is not None:
            made = self._make_key(*args, **kwargs)
        elif self._simple and not kwargs and len(args) == len(self._plain):
            made = (args, tuple(map(type, args)))  # 1, 1.0 and True are equal
        else:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            named = tuple(sorted(bound.kwargs.items()))
            made = (bound.args, tuple(map(type, bound.args)), named, tuple(type(value) for _, value in named))
            made = made if named else made[:2]
        try:
            hash(made)
        except TypeError as error:
            raise TypeError(f"@cached {self._name}: {error}: give key=, which makes a key of its arguments") from None
        return made

    def _touch(self, key: Hashable, entry: _Entry[R]) -> None:
        del self._entries[key]
        self._entries[key] = entry

    def _drop(self, key: Hashable) -> None:
        self._valid.pop(key, None)
        self._calls.forget(key)

    async def _compute(self, key: Hashable, args: Any, kwargs: Any) -> R:
        ours = self._valid[key] = object()
        try:
            value = await self._function(*args, **kwargs)
        except Exception:
            self._failures += 1
            raise
        else:
            if self._valid.get(key) is ours:
                self._entries.pop(key, None)
                self._entries[key] = _Entry(value, self._clock(), self._ttl, self._stale)
                if len(self._entries) > self._size:
                    del self._entries[next(iter(self._entries))]
                    self._evicted += 1
            return value
        finally:
            if self._valid.get(key) is ours:
                del self._valid[key]

    async def _refresh(self, key: Hashable, args: Any, kwargs: Any) -> None:
        try:
            await self._calls.run(key, lambda: self._compute(key, args, kwargs))
        except Exception as error:
            log.warning("refresh failed, the old result is kept", function=self._name, exc_info=error)


class _Decorator(Protocol):
    """Keeps what it says of a function's parameters and result."""

    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Cached[P, R]: ...


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def cached(
    *,
    ttl: float,
    key: Callable[..., Hashable] | None = None,
    size: int = 1024,
    stale: float = 0,
    clock: Callable[[], float] = now,
) -> _Decorator:
    """Keep what a coroutine function returns, for its arguments, in this process.

    Concurrent calls with the same arguments become one (:class:`~forebay.engine.single_flight.SingleFlight`); it sees
    the context variables of the first caller. Errors are not kept: the next call tries again. Results are shared, not
    copied: do not change them. A method's results are kept per object, which lives as long as they do.

    :param ttl: seconds a result is given for, from the moment it was there.
    :param key: from the arguments to what tells them apart; default: the arguments and their types, which must be
        hashable. Arguments may be given by place or by name.
    :param size: results kept; past it the one that was asked for the longest ago is forgotten.
    :param stale: seconds past ``ttl`` in which the old result is still given, while a new one is made in the
        background. A refresh that fails is logged, and tried again a second later at the earliest.
    :param clock: seconds.
    :raises ValueError: a number is out of its range.
    :raises TypeError: the function is no coroutine function. When called: the arguments are not hashable.
    """
    if not ttl > 0:
        raise ValueError(f"@cached: ttl {ttl}: must be more than 0 seconds")
    if size < 1:
        raise ValueError(f"@cached: size {size}: must be at least 1 result")
    if not stale >= 0:
        raise ValueError(f"@cached: stale {stale}: must be 0 seconds or more")

    def decorate(function: Callable[P, Awaitable[R]], /) -> Cached[P, R]:
        called = getattr(function, "__call__", None)  # noqa: B004  # that of a callable object
        if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(called):
            raise TypeError(f"@cached: {function!r} must be a coroutine function (async def)")
        return Cached(function, ttl, key, size, stale, clock)

    return decorate
