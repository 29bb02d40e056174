"""A timer that is moved far more often than it goes off."""

from __future__ import annotations

from math import inf

from forebay.engine.alarm import Alarm
from forebay.engine.loop import now, sleep
from forebay.testing import VirtualClock


def test_it_rings_once_and_on_time() -> None:
    """At the moment it was set to, and not again."""

    async def main() -> list[float]:
        rung: list[float] = []
        alarm = Alarm(lambda: rung.append(now()))
        began = now()
        alarm.set(began + 2.0)
        await sleep(10)
        return [at - began for at in rung]

    with VirtualClock(packages=(__name__,)) as clock:
        (after,) = clock.run(main())
    assert 2.0 <= after < 2.01


def test_it_can_be_moved_both_ways() -> None:
    """Later costs no timer, earlier takes effect; each time it rings at the last moment it was given."""

    async def main() -> list[float]:
        rung: list[float] = []
        alarm = Alarm(lambda: rung.append(now()))
        began = now()
        alarm.set(began + 1.0)
        alarm.set(began + 5.0)
        await sleep(4)
        assert rung == []
        alarm.set(began + 20.0)
        alarm.set(began + 7.0)
        await sleep(20)
        alarm.set(began + 30.0)
        await sleep(20)
        return [round(at - began, 1) for at in rung]

    with VirtualClock(packages=(__name__,)) as clock:
        assert clock.run(main()) == [7.0, 30.0]


def test_one_that_is_switched_off_does_not_ring() -> None:
    """By ``inf`` for now, by ``close`` for good."""

    async def main() -> int:
        rung: list[float] = []
        alarm = Alarm(lambda: rung.append(now()))
        alarm.set(now() + 1.0)
        alarm.set(inf)
        await sleep(3)
        alarm.set(now() + 1.0)
        alarm.close()
        await sleep(3)
        return len(rung)

    with VirtualClock(packages=(__name__,)) as clock:
        assert clock.run(main()) == 0


def test_it_may_be_set_anew_when_it_rings() -> None:
    """By whom it calls."""

    async def main() -> list[float]:
        rung: list[float] = []
        began = now()

        def ring() -> None:
            rung.append(now())
            if len(rung) < 3:
                alarm.set(now() + 1.0)

        alarm = Alarm(ring)
        alarm.set(began + 1.0)
        await sleep(10)
        return [round(at - began, 1) for at in rung]

    with VirtualClock(packages=(__name__,)) as clock:
        assert clock.run(main()) == [1.0, 2.0, 3.0]
