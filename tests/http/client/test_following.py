"""Following a resolver: the last good set counts, whatever comes after it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

from structlog.testing import capture_logs

from forebay.engine.tasks import start_task
from forebay.http.client.following import Follower
from forebay.http.client.resolver import ResolvedTarget, StaticResolver
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
        follower = Follower(resolver, lambda found: sets.append(names(found)), backoff=backoff)
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
        follower = Follower(resolver, lambda found: None, source=random.Random(1))
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
    await Follower(StaticResolver(A, B), lambda found: sets.append(names(found))).run()
    assert sets == [[A, B]]
