"""Results of coroutine functions, kept for a while."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.http.caching import cached
from tests.support import eventually


class Clock:
    """Time that is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_results_live_for_their_time() -> None:
    """Within ttl the function is not called again, after it, it is."""
    clock, calls = Clock(), []

    @cached(ttl=10, clock=clock)
    async def double(x: int) -> int:
        """Twice."""
        calls.append(x)
        return 2 * x

    assert (await double(1), await double(1), await double(2)) == (2, 2, 4)
    clock.now += 9.9
    await double(1)
    assert calls == [1, 2]
    clock.now += 0.1
    await double(1)
    assert calls == [1, 2, 1]
    assert (double.__name__, double.__doc__) == ("double", "Twice.")
    assert double.statistics()["hits"] == 2


async def test_arguments_are_told_apart_and_spellings_are_not() -> None:
    """By place, by name and by default is the same; 1, 1.0 and True are not."""
    calls: list[Any] = []

    @cached(ttl=10)
    async def of(x: Any, y: int = 0, *, z: int = 0) -> None:
        calls.append((x, y, z))

    for call in (of(1), of(x=1), of(1, 0), of(1, y=0, z=0)):
        await call
    assert len(calls) == 1
    for value in (1.0, True, "1"):
        await of(value)
    assert len(calls) == 4
    with pytest.raises(TypeError, match=r"of: .*unhashable.*give key="):
        await of([1])


async def test_a_key_of_ones_own() -> None:
    """Only what the key says counts, also for what is not hashable."""
    calls = []

    @cached(ttl=10, key=lambda user, options: user)
    async def of(user: str, options: dict[str, int]) -> int:
        calls.append(user)
        return len(calls)

    assert [await of("a", {}), await of("a", {"x": 1}), await of("b", {})] == [1, 1, 2]
    assert of.invalidate("a", {})
    assert not of.invalidate("a", {})
    assert await of("a", {}) == 3


async def test_concurrent_calls_are_one() -> None:
    """A hundred at once call the function once."""
    go, calls = asyncio.Event(), []

    @cached(ttl=10)
    async def slow(x: int) -> int:
        calls.append(x)
        await go.wait()
        return x

    tasks = [asyncio.create_task(slow(7)) for _ in range(100)]
    await eventually(lambda: slow.statistics()["shared"] == 99)
    go.set()
    assert await asyncio.gather(*tasks) == [7] * 100
    assert calls == [7]


async def test_errors_are_not_kept() -> None:
    """The call after one that failed tries again."""
    outcomes: list[Any] = [LookupError("no"), "yes"]

    @cached(ttl=10)
    async def tries() -> str:
        found = outcomes.pop(0)
        if isinstance(found, Exception):
            raise found
        return str(found)

    with pytest.raises(LookupError):
        await tries()
    assert (await tries(), await tries()) == ("yes", "yes")
    assert tries.statistics()["failures"] == 1


async def test_the_least_recently_asked_for_makes_room() -> None:
    """No more results than size; the one that was used stays."""
    calls = []

    @cached(ttl=10, size=2)
    async def of(x: int) -> int:
        calls.append(x)
        return x

    for x in (1, 2, 1, 3, 1, 2):
        await of(x)
    assert calls == [1, 2, 3, 2]
    assert (of.statistics()["entries"], of.statistics()["evicted"]) == (2, 2)


async def test_stale_results_are_given_while_a_new_one_is_made() -> None:
    """Past ttl the old result comes at once, and one call makes the new one; past stale everybody waits for it."""
    clock, gates = Clock(), [asyncio.Event() for _ in range(3)]
    calls = 0

    @cached(ttl=10, stale=5, clock=clock)
    async def version() -> int:
        nonlocal calls
        calls += 1
        await gates[calls - 1].wait()
        return calls

    gates[0].set()
    assert await version() == 1
    clock.now += 12
    assert [await version() for _ in range(5)] == [1] * 5
    await eventually(lambda: calls == 2)
    gates[1].set()
    await eventually(lambda: not version.statistics()["computing"])
    assert await version() == 2
    clock.now += 15
    gates[2].set()
    assert await version() == 3
    assert version.statistics()["stale_hits"] == 5


async def test_a_refresh_that_fails_is_logged_and_tried_again_later() -> None:
    """The old result stays; the next try comes a second later and not before."""
    clock, calls = Clock(), 0

    @cached(ttl=10, stale=60, clock=clock)
    async def version() -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise LookupError("gone")
        return calls

    await version()
    clock.now += 11
    with capture_logs() as logs:
        assert [await version(), await version()] == [1, 1]
        await eventually(lambda: logs)
        assert await version() == 1
        assert calls == 2
        clock.now += 1
        assert await version() == 1
        await eventually(lambda: calls == 3)
    assert logs[0]["event"] == "refresh failed, the old result is kept"
    await version.close()


@pytest.mark.parametrize("forget", ["invalidate", "clear"])
async def test_what_is_invalidated_while_it_is_made_is_not_kept(forget: str) -> None:
    """Who waited gets it; the next one asks anew."""
    go, calls = asyncio.Event(), 0

    @cached(ttl=10)
    async def slow() -> int:
        nonlocal calls
        calls += 1
        number = calls
        await go.wait()
        return number

    task = asyncio.create_task(slow())
    await eventually(lambda: calls)
    getattr(slow, forget)()
    go.set()
    assert await task == 1
    assert [await slow(), await slow()] == [2, 2]


async def test_methods_are_kept_per_object() -> None:
    """Two objects do not share results."""

    class Table:
        def __init__(self, name: str) -> None:
            self.name = name
            self.calls = 0

        @cached(ttl=10)
        async def read(self, row: int) -> str:
            self.calls += 1
            return f"{self.name}{row}"

    a, b = Table("a"), Table("b")
    assert [await a.read(1), await a.read(1), await b.read(1)] == ["a1", "a1", "b1"]
    assert (a.calls, b.calls) == (1, 1)


@pytest.mark.parametrize("options", [{"ttl": 0}, {"ttl": 1, "size": 0}, {"ttl": 1, "stale": -1}])
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    """Numbers out of their range."""
    with pytest.raises(ValueError, match="must be"):
        cached(**options)


def test_plain_functions_are_refused() -> None:
    """There is nothing to await."""
    with pytest.raises(TypeError, match="must be a coroutine function"):
        cached(ttl=1)(lambda: 1)  # type: ignore[arg-type, return-value]  # the point of it
