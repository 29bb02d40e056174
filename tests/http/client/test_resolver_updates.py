"""Following a resolver: the last good set counts, whatever comes after it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

from structlog.testing import capture_logs

from forebay.engine.tasks import start_task
from forebay.http.client.resolver import ResolvedTarget, StaticResolver
from forebay.http.client.resolver_updates import ResolverUpdates
from forebay.policy.backoff import Backoff
from forebay.testing.virtual_clock import VirtualClock
from tests.http.client.target_servers import A, B, Told

MODULES = (__name__, "tests.http.client.target_servers")


def names(found: Sequence[ResolvedTarget]) -> list[str]:
    """Of a set."""
    return [target.name for target in found]


def test_what_is_good_is_handed_on_and_what_is_not_changes_nothing() -> None:
    """An error, an empty set, a URL that is none: the set stays, and the resolver is asked anew, later each time."""

    async def main() -> None:
        resolver, sets = Told(), []
        backoff = Backoff(initial=1.0, factor=2.0, cap=30.0, jitter="none")
        follower = ResolverUpdates(resolver, lambda found: sets.append(names(found)), backoff=backoff)
        task = start_task(follower.run())
        resolver.say([A])
        await asyncio.sleep(0.1)
        assert sets == [[A]]
        for number, bad in enumerate((OSError("it is down"), [], ["b:1"], [A, A], [None])):
            resolver.say(bad)  # type: ignore[arg-type]  # that is what it is about
            await asyncio.sleep(2.0**number - 0.2)
            assert (resolver.watches, resolver.closed) == (number + 1, number + 1)
            await asyncio.sleep(0.2)
            assert resolver.watches == number + 2
        assert sets == [[A]]
        assert follower.statistics()["failures"] == 5
        resolver.say([A, B])
        await asyncio.sleep(0.1)
        assert sets == [[A], [A, B]]
        assert (follower.statistics()["failures"], follower.why) == (0, "")
        task.cancel()
        await asyncio.wait([task])
        assert resolver.closed == resolver.watches

    with VirtualClock(packages=MODULES) as clock:
        clock.run(main())


def test_one_that_goes_on_failing_is_not_news() -> None:
    """The first failure is logged, then one a minute, and that it works again."""

    class Down:
        """Fails until it is up."""

        url = "http://orders"
        up = False

        async def watch(self) -> AsyncIterator[Sequence[str]]:
            """See :class:`forebay.http.client.resolver.Resolver`."""
            if not self.up:
                raise OSError("it is down")
            yield [A]

    async def main() -> None:
        resolver = Down()
        follower = ResolverUpdates(resolver, lambda found: None, source=random.Random(1))
        with capture_logs() as logs:
            task = start_task(follower.run())
            await asyncio.sleep(299)
            warnings: list[Any] = [entry for entry in logs if entry["event"] == "resolver failed"]
            assert 3 <= len(warnings) <= 5
            assert warnings[0]["why"] == "OSError: it is down"
            resolver.up = True
            await task
        assert logs[-1]["event"] == "resolver works again"

    with VirtualClock(packages=MODULES) as clock:
        clock.run(main())


async def test_one_that_has_said_all_is_not_asked_again() -> None:
    """A list of URLs, for one."""
    sets: list[list[str]] = []
    await ResolverUpdates(StaticResolver(A, B), lambda found: sets.append(names(found))).run()
    assert sets == [[A, B]]


def test_whatever_is_wrong_with_it_it_is_asked_again() -> None:
    """One that fails before it says anything, that ends and has said nothing, and that fails while it is closed."""

    class Odd:
        """Is odd each time in another way, and good at last."""

        url = "http://orders"

        def __init__(self) -> None:
            self.ways: list[Any] = [self.at_once, self.silent, self.unclosable, self.good]

        def watch(self) -> AsyncIterator[Sequence[str]]:
            """See :class:`forebay.http.client.resolver.Resolver`."""
            found: AsyncIterator[Sequence[str]] = self.ways.pop(0)()
            return found

        def at_once(self) -> AsyncIterator[Sequence[str]]:
            raise OSError("it is down")

        async def silent(self) -> AsyncIterator[Sequence[str]]:
            for number in range(0):
                yield [str(number)]

        async def unclosable(self) -> AsyncIterator[Sequence[str]]:
            try:
                yield []
            finally:
                raise OSError("it does not close")

        async def good(self) -> AsyncIterator[Sequence[str]]:
            yield [A]

    async def main() -> None:
        sets: list[list[str]] = []
        backoff = Backoff(initial=1.0, factor=1.0, cap=1.0, jitter="none")
        follower = ResolverUpdates(Odd(), lambda found: sets.append(names(found)), backoff=backoff)
        task = start_task(follower.run())
        for why in ("OSError: it is down", "it ended and has said no targets", "OSError: it does not close"):
            await asyncio.sleep(0.5)
            assert follower.why == why
            await asyncio.sleep(0.5)
        await task
        assert sets == [[A]]

    with VirtualClock(packages=MODULES) as clock:
        clock.run(main())


def test_one_that_speaks_without_end_does_not_keep_the_loop() -> None:
    """Others have their turns, most of them."""

    class Talker:
        """Never waits."""

        url = "http://orders"

        async def watch(self) -> AsyncIterator[Sequence[str]]:
            """See :class:`forebay.http.client.resolver.Resolver`."""
            for _ in range(100_000):
                yield [A]

    async def main() -> None:
        follower = ResolverUpdates(Talker(), lambda found: None)
        task = start_task(follower.run())
        await asyncio.sleep(1.0)
        assert 1 <= follower.sets <= 101
        task.cancel()
        await asyncio.wait([task])

    with VirtualClock(packages=MODULES) as clock:
        clock.run(main())
