"""The driver of active checks: when targets are asked, and that nothing a check does can end it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from math import nan
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine import ConnectionHandler, TCPServer, now
from forebay.engine.health_checks import CheckTiming, HealthChecks, Unwell, tcp_check
from forebay.errors import ConnectFailed
from forebay.testing.virtual_clock import VirtualClock
from tests.support import eventually, free_port, running

STEADY = CheckTiming(interval=10.0, timeout=2.0, jitter=0.0)


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """The time, which begins at 1000."""
    with VirtualClock(packages=(__name__,)) as clock:
        yield clock


class Reports:
    """What was reported of whom, and when."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, float]] = []

    def __call__(self, target: str, why: str, at: float) -> None:
        self.all.append((target, why, at))

    def of(self, target: str) -> list[str]:
        """The reasons of one."""
        return [why for name, why, _ in self.all if name == target]

    def times(self, target: str) -> list[float]:
        """When one was reported, since 1000."""
        return [at - 1000.0 for name, _, at in self.all if name == target]


class Half(random.Random):
    """No chance: always a half, which is no jitter."""

    def random(self) -> float:
        return 0.5


async def well(target: str) -> None:
    """A check that finds everybody well."""


def driver(
    check: Callable[[str], Awaitable[None]], reports: Reports, timing: CheckTiming = STEADY, **options: Any
) -> HealthChecks[str]:
    """A driver without chance."""
    return HealthChecks(check, reports, timing, source=Half(), **options)


def test_checked_at_once_and_then_every_interval(clock: VirtualClock) -> None:
    """The second time after a part of the interval, from then on steadily, however long a check takes."""
    reports = Reports()

    async def check(target: str) -> None:
        await asyncio.sleep(1.5)

    async def main() -> None:
        checks = driver(check, reports)
        checks.start(["a"])
        assert reports.all == []
        await clock.elapse(30)
        assert reports.times("a") == [1.5, 6.5, 16.5, 26.5]
        assert reports.of("a") == [""] * 4
        assert checks.statistics() == {
            "enabled": True,
            "targets": 1,
            "running": 0,
            "checks": 4,
            "good": 4,
            "bad": 0,
            "timed_out": 0,
            "stuck": 0,
        }
        await checks.cancel()
        await clock.elapse(30)
        assert len(reports.all) == 4

    clock.run(main())


def test_checks_spread(clock: VirtualClock) -> None:
    """Targets that began together are asked one by one: no tenth of the interval sees more than its share by far."""
    at: list[float] = []

    async def check(target: int) -> None:
        at.append(now() - 1000.0)

    async def main() -> None:
        timing = CheckTiming(interval=10.0, jitter=0.1, at_once=1000)
        checks = HealthChecks(check, lambda *_: None, timing, source=random.Random(7))
        checks.start(range(500))
        await clock.elapse(60)
        await checks.cancel()

    clock.run(main())
    assert at[:500] == [0.0] * 500
    for first in range(20, 60):
        assert 25 <= sum(first <= when < first + 1 for when in at) <= 80


def test_jitter_stays_within_its_part() -> None:
    """Each interval is between 9 and 11 s, and not always the same."""
    at: list[float] = []

    async def check(target: str) -> None:
        at.append(now())

    async def main(clock: VirtualClock) -> None:
        checks = HealthChecks(check, lambda *_: None, CheckTiming(interval=10.0, jitter=0.1))
        checks.start(["a"])
        await clock.elapse(500)
        await checks.cancel()

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(main(clock))
    between = [later - earlier for earlier, later in pairwise(at[1:])]
    assert 44 <= len(between) <= 55
    assert all(9.0 <= seconds <= 11.0 for seconds in between)
    assert max(between) - min(between) > 0.5


class Oops(BaseException):
    """Not even an Exception."""


class Speechless(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (Unwell("status 503"), "status 503"),
        (Unwell(), "Unwell"),
        (ConnectFailed("connection refused"), "connection refused"),
        (ValueError("no such thing"), "ValueError: no such thing"),
        (TimeoutError(), "TimeoutError"),
        (asyncio.CancelledError(), "the check was cancelled"),
        (Oops("what"), "Oops: what"),
        (Speechless(), "Speechless"),
    ],
)
def test_whatever_a_check_raises_is_a_result(clock: VirtualClock, error: BaseException, why: str) -> None:
    """With its reason; the target is asked again, and others are not disturbed."""
    reports = Reports()

    async def check(target: str) -> None:
        if target == "bad":
            raise error

    async def main() -> None:
        checks = driver(check, reports)
        checks.start(["bad", "good"])
        await clock.elapse(26)
        assert reports.of("bad") == [why] * 4
        assert reports.of("good") == [""] * 4
        await checks.cancel()

    clock.run(main())


def test_one_that_is_not_a_coroutine_function_is_a_result_too(clock: VirtualClock) -> None:
    """It raises before there is anything to await, or returns something else."""
    reports = Reports()

    def check(target: str) -> Any:
        if target == "raises":
            raise KeyError("x")

    async def main() -> None:
        checks = driver(check, reports)
        checks.start(["raises", "none"])
        await clock.elapse(1)
        assert reports.of("raises") == ["KeyError: 'x'"]
        assert reports.of("none")[0].startswith("TypeError: ")
        await checks.cancel()

    clock.run(main())


def test_a_check_that_hangs(clock: VirtualClock) -> None:
    """After its timeout it is cancelled, and that is the reason; one that then cleans up quickly is asked again."""
    reports = Reports()
    cleaned: list[float] = []

    async def check(target: str) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(now() - 1000.0)

    async def main() -> None:
        checks = driver(check, reports)
        checks.start(["a"])
        await clock.elapse(16)
        assert reports.of("a") == ["no answer within 2 s"] * 2
        assert reports.times("a") == pytest.approx([2.01, 7.01])
        assert cleaned == pytest.approx([2.01, 7.01])
        assert checks.statistics()["timed_out"] == 2
        await checks.cancel()
        assert checks.statistics()["running"] == 0

    clock.run(main())


def test_a_check_that_cannot_be_cancelled(clock: VirtualClock) -> None:
    """Its target has bad results until it ends, it is not asked twice at a time, others have their turn, and cancel()
    does not wait for it for ever, but says where it is."""
    reports = Reports()
    release = asyncio.Event()
    asked: list[str] = []

    async def check(target: str) -> None:
        asked.append(target)
        while target == "deaf" and not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async def main() -> None:
        checks = driver(check, reports, CheckTiming(10.0, 2.0, 0.0, at_once=1))
        checks.start(["deaf", "a"])
        await clock.elapse(26)
        assert reports.of("deaf") == ["no answer within 2 s"] + ["the check before this one has not ended"] * 3
        assert reports.of("a") == [""] * 4
        assert asked.count("deaf") == 1
        assert checks.statistics()["stuck"] == 3
        release.set()
        await clock.elapse(10)
        assert reports.of("deaf")[-1] == ""
        release.clear()
        await clock.elapse(9)
        with capture_logs() as logs:
            await checks.cancel()
        (entry,) = logs
        assert (entry["event"], entry["task"]) == ("health check does not end", "health check of deaf")
        assert f"{__file__}:" in entry["place"]
        release.set()

    clock.run(main())


def test_at_most_so_many_at_once(clock: VirtualClock) -> None:
    """The others wait for their turn, and have it."""
    reports = Reports()
    running_now = most = 0

    async def check(target: str) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(1)
        running_now -= 1

    async def main() -> None:
        checks = driver(check, reports, CheckTiming(100.0, 2.0, 0.0, at_once=3))
        names = [f"t{n}" for n in range(10)]
        checks.start(names)
        await clock.elapse(4)
        assert [len(reports.of(name)) for name in names] == [1] * 10
        assert [at for _, _, at in reports.all] == [1001.0] * 3 + [1002.0] * 3 + [1003.0] * 3 + [1004.0]
        await checks.cancel()

    clock.run(main())
    assert most == 3


def test_update_begins_and_ends(clock: VirtualClock) -> None:
    """New ones at once, those that stay keep their turn, of those that go nothing more is heard, though one is just
    being asked."""
    reports = Reports()

    async def check(target: str) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        checks = driver(check, reports)
        checks.start(["a", "b"])
        await clock.elapse(0.5)
        checks.update(["b", "c", "c"])
        await clock.elapse(0.6)
        assert [name for name, _, _ in reports.all] == ["b"]
        await clock.elapse(30)
        assert reports.of("a") == []
        assert reports.times("b") == [1.0, 6.0, 16.0, 26.0]
        assert reports.times("c") == [1.5, 6.5, 16.5, 26.5]
        assert checks.statistics()["running"] == 0
        await checks.cancel()
        checks.start(["a"])
        await clock.elapse(1)
        assert len(reports.of("a")) == 1
        await checks.cancel()

    clock.run(main())


def test_a_report_that_fails_or_ends_its_own_target(clock: VirtualClock) -> None:
    """The first is logged, and the target asked again; the second is as any update."""
    told: list[str] = []

    def report(target: str, why: str, at: float) -> None:
        told.append(target)
        if target == "last":
            checks.update(["fails"])
        else:
            raise RuntimeError("cannot take it")

    async def main() -> None:
        checks.start(["fails", "last"])
        with capture_logs() as logs:
            await clock.elapse(6)
        assert told == ["fails", "last", "fails"]
        assert [entry["event"] for entry in logs] == ["health check could not be reported"] * 2
        await checks.cancel()

    checks = HealthChecks(well, report, STEADY, source=Half())
    clock.run(main())


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Oops("what")])
def test_whatever_a_report_raises_ends_nothing(clock: VirtualClock, error: BaseException) -> None:
    """A target that is not asked any more would stay as it is for ever."""
    told: list[str] = []

    def report(target: str, why: str, at: float) -> None:
        told.append(target)
        raise error

    async def main() -> None:
        checks = HealthChecks(well, report, STEADY, source=Half())
        checks.start(["a"])
        with capture_logs() as logs:
            await clock.elapse(6)
        assert told == ["a", "a"]
        assert [entry["event"] for entry in logs] == ["health check could not be reported"] * 2
        await checks.cancel()

    clock.run(main())


@pytest.mark.parametrize("cancelled", [True, False])
def test_on_one_loop_after_the_other(cancelled: bool) -> None:
    """Nothing is left of the one before, though its targets waited for each other, and may never have been given up."""
    reports = Reports()

    async def check(target: str) -> None:
        await asyncio.sleep(1)

    checks = driver(check, reports, CheckTiming(10.0, 2.0, 0.0, at_once=1))

    async def main(clock: VirtualClock) -> None:
        checks.start(["a", "b", "c"])
        await clock.elapse(4)
        if cancelled:
            await checks.cancel()

    for times in (1, 2):
        with VirtualClock(packages=(__name__,)) as clock:
            clock.run(main(clock))
        assert [name for name, _, _ in reports.all] == ["a", "b", "c"] * times


def test_the_unwell_are_asked_at_their_own_interval(clock: VirtualClock) -> None:
    """More often here, so that one that is well again is found soon."""
    reports = Reports()

    async def check(target: str) -> None:
        if now() < 1012:
            raise Unwell("not yet")

    async def main() -> None:
        checks = driver(check, reports, CheckTiming(10.0, 2.0, 0.0, unhealthy_interval=2.0))
        checks.start(["a"])
        await clock.elapse(35)
        assert reports.times("a") == [0.0, 1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 23.0, 33.0]
        await checks.cancel()

    clock.run(main())


def test_switched_off_nobody_is_asked(clock: VirtualClock) -> None:
    """And asked again when it is on."""
    reports = Reports()

    async def main() -> None:
        checks = driver(well, reports, enabled=False)
        checks.start(["a"])
        await clock.elapse(20)
        assert reports.all == []
        checks.enabled = True
        await clock.elapse(10)
        assert reports.times("a") == [25.0]
        await checks.cancel()

    clock.run(main())


def test_switched_off_while_somebody_is_asked(clock: VirtualClock) -> None:
    """What comes of it is not reported: a target that it took out would stay out."""
    reports = Reports()

    async def check(target: str) -> None:
        await asyncio.sleep(1)
        raise Unwell("status 503")

    async def main() -> None:
        checks = driver(check, reports)
        checks.start(["a"])
        await clock.elapse(0.5)
        checks.enabled = False
        await clock.elapse(20)
        assert reports.all == []
        await checks.cancel()

    clock.run(main())


async def test_tcp_check() -> None:
    """Well is who takes a connection; nothing is left of it. Otherwise the reason is what dialling says."""
    server = TCPServer(ConnectionHandler, bind="tcp://127.0.0.1:0")
    async with running(server):
        await tcp_check(server.addresses[0])
        await tcp_check(str(server.addresses[0]))
        await eventually(lambda: server.statistics()["accepted"] == 2 and not server.connections)
    with pytest.raises(ConnectFailed, match="refused"):
        await tcp_check(f"tcp://127.0.0.1:{free_port()}")


async def test_the_driver_with_real_sockets() -> None:
    """A server that goes is found out, and one that comes too."""
    reports = Reports()
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    checks = HealthChecks(tcp_check, reports, CheckTiming(0.02, 1.0))
    checks.start([address])
    await eventually(lambda: "refused" in " ".join(reports.of(address)))
    async with running(TCPServer(ConnectionHandler, bind=address)):
        await eventually(lambda: reports.of(address)[-1] == "")
    await eventually(lambda: "refused" in reports.of(address)[-1])
    await checks.cancel()
    before = len(reports.all)
    await asyncio.sleep(0)
    assert len(reports.all) == before
    assert repr(checks) == "<HealthChecks targets=0 running=0>"


@pytest.mark.parametrize(
    "timing",
    [
        {"interval": 0},
        {"interval": nan},
        {"timeout": 0},
        {"timeout": nan},
        {"jitter": 1},
        {"jitter": -0.1},
        {"unhealthy_interval": 0},
        {"unhealthy_interval": nan},
        {"at_once": 0},
    ],
)
def test_nonsense_is_refused(timing: dict[str, Any]) -> None:
    """With the name of what makes no sense."""
    with pytest.raises(ValueError, match=f"{next(iter(timing))} .*: must be"):
        CheckTiming(**timing)
