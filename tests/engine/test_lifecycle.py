"""A program's life, driven by real signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.engine import inherited, serve_until_signalled
from forebay.engine.inherited import Inherited
from forebay.errors import ConfigError, CrashLoop, Problem, StartError
from tests.support import eventually

pytestmark = pytest.mark.both_loops


class Fake:
    """A service that notes its life; its drain takes until ``finish`` is set."""

    name = "fake"

    def __init__(self, *, fail: Exception | None = None, slow_start: bool = False, busy: bool = False) -> None:
        self.life: list[str] = []
        self.fail = fail
        self.slow_start = slow_start
        self.finish = asyncio.Event()
        if not busy:
            self.finish.set()

    async def start(self) -> None:
        self.life.append("start")
        if self.slow_start:
            await asyncio.Event().wait()
        if self.fail is not None:
            raise self.fail

    async def drain(self) -> None:
        self.life.append("drain")
        await self.finish.wait()
        self.life.append("drained")

    async def stop(self) -> None:
        self.life.append("stop")


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


async def started(service: Fake, **options: object) -> asyncio.Task[int]:
    """The program, running."""
    task = asyncio.create_task(serve_until_signalled(service, **options))  # type: ignore[arg-type]  # passed on as is
    await eventually(lambda: service.life or task.done())
    await asyncio.sleep(0.01)
    return task


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(number: signal.Signals) -> None:
    """It is told first, then drained, then stopped; the exit code is 0 and the signal handlers are gone."""
    service = Fake()
    names: list[str] = []
    task = await started(service, on_signal=names.append)
    send(number)
    assert await asyncio.wait_for(task, 5) == 0
    assert service.life == ["start", "drain", "drained", "stop"]
    assert names == [number.name]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


async def test_the_drain_deadline_cuts_and_says_so() -> None:
    """What is left at the deadline is cut, that is logged, and the exit code is 1."""
    service = Fake(busy=True)
    with capture_logs() as logs:
        task = await started(service, drain_timeout=0.1)
        send(signal.SIGTERM)
        assert await asyncio.wait_for(task, 5) == 1
    assert service.life == ["start", "drain", "stop"]
    assert any("drain deadline reached" in entry["event"] for entry in logs)


async def test_a_service_that_cuts_by_itself_has_longer() -> None:
    """What is logged is the deadline for what is in flight, not when we would lose patience with the service."""
    service = Fake(busy=True)
    with capture_logs() as logs:
        task = await started(service, drain_timeout=0.05, cut_timeout=5.0)
        send(signal.SIGTERM)
        await asyncio.sleep(0.2)
        service.finish.set()
        assert await asyncio.wait_for(task, 5) == 0
    assert service.life == ["start", "drain", "drained", "stop"]
    assert [entry["seconds"] for entry in logs if entry["event"] == "draining"] == [0.05]


async def test_a_second_sigint_forces() -> None:
    """The second one does not wait; a second SIGTERM changes nothing."""
    service = Fake(busy=True)
    task = await started(service)
    send(signal.SIGTERM)
    await eventually(lambda: "drain" in service.life)
    send(signal.SIGTERM)
    await asyncio.sleep(0.05)
    assert not task.done()
    send(signal.SIGINT)
    assert await asyncio.wait_for(task, 5) == 1
    assert service.life == ["start", "drain", "stop"]


async def test_start_that_fails() -> None:
    """The error comes out as it is, after the service was stopped."""
    service = Fake(fail=StartError("cannot listen"))
    with pytest.raises(StartError, match="cannot listen"):
        await asyncio.wait_for(serve_until_signalled(service), 5)
    assert service.life == ["start", "stop"]


async def test_a_signal_while_starting() -> None:
    """It gives the start up; there is nothing to drain."""
    service = Fake(slow_start=True)
    task = await started(service)
    send(signal.SIGTERM)
    assert await asyncio.wait_for(task, 5) == 0
    assert service.life == ["start", "stop"]


async def test_a_drain_that_fails() -> None:
    """It is logged, the service is stopped, and the exit code is 1."""

    class Broken(Fake):
        async def drain(self) -> None:
            raise ValueError("broken")

    service = Broken()
    with capture_logs() as logs:
        task = await started(service)
        send(signal.SIGTERM)
        assert await asyncio.wait_for(task, 5) == 1
    assert service.life == ["start", "stop"]
    assert "drain failed" in [entry["event"] for entry in logs]


async def test_reload() -> None:
    """SIGHUP calls it, one call at a time; signals that come meanwhile make one more; failures are logged."""
    calls: list[int] = []
    go = asyncio.Event()

    async def reload() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            await go.wait()
            raise ConfigError("x.toml", [Problem("nonsense")])
        if len(calls) == 2:
            raise ValueError("broken")

    service = Fake()
    with capture_logs() as logs:
        task = await started(service, on_reload=reload)
        send(signal.SIGHUP)
        await eventually(lambda: calls)
        for _ in range(3):
            send(signal.SIGHUP)
            await asyncio.sleep(0.01)
        assert calls == [0]
        go.set()
        await eventually(lambda: len(calls) == 2)
        await asyncio.sleep(0.01)
        send(signal.SIGHUP)
        await eventually(lambda: len(calls) == 3)
        send(signal.SIGTERM)
        assert await asyncio.wait_for(task, 5) == 0
    failures = [entry for entry in logs if entry["event"] == "reload failed"]
    assert failures[0]["reason"] == "x.toml: nonsense"
    assert failures[1]["exc_info"] is True
    assert len(failures) == 2


async def test_a_reload_that_hangs_does_not_keep_from_draining() -> None:
    """It is cancelled before the drain begins."""
    reloading = asyncio.Event()

    async def reload() -> None:
        reloading.set()
        await asyncio.Event().wait()

    service = Fake()
    task = await started(service, on_reload=reload)
    send(signal.SIGHUP)
    await asyncio.wait_for(reloading.wait(), 5)
    send(signal.SIGTERM)
    assert await asyncio.wait_for(task, 5) == 0


async def test_sighup_without_a_reload() -> None:
    """It does not end the program, which it would by default."""
    service = Fake()
    task = await started(service)
    send(signal.SIGHUP)
    await asyncio.sleep(0.05)
    assert not task.done()
    send(signal.SIGTERM)
    assert await asyncio.wait_for(task, 5) == 0


@pytest.mark.parametrize("error", [CrashLoop("worker a died 5 times"), None])
async def test_a_service_that_ends_by_itself(error: Exception | None) -> None:
    """One that gives up is drained and stopped, with exit code 1 and its reason; one that just ends, with 0."""

    class Ending(Fake):
        async def wait(self) -> None:
            if error is not None:
                raise error

    service = Ending()
    with capture_logs() as logs:
        assert await asyncio.wait_for(serve_until_signalled(service), 5) == (0 if error is None else 1)
    assert service.life == ["start", "drain", "drained", "stop"]
    if error is not None:
        assert [entry["reason"] for entry in logs if entry["event"] == "giving up"] == ["worker a died 5 times"]


# The service manager


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What the program has told its service manager so far, which wants to hear from it every 0.1 s."""
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

        def receive() -> list[str]:
            while True:
                try:
                    said.append(manager.recv(4096).decode())
                except BlockingIOError:
                    return said

        yield receive


def states(said: list[str]) -> list[str]:
    """Without the watchdog's pings; a message is shown without what changes from call to call."""
    found = [message.split("\n") for message in said if message != "WATCHDOG=1"]
    return [" ".join(line for line in lines if not line.startswith("MONOTONIC")) for lines in found]


def pings(said: list[str]) -> int:
    return said.count("WATCHDOG=1")


async def test_the_manager_is_told(told: Callable[[], list[str]]) -> None:
    """Ready once it is started, reloading and ready again, stopping; pings from the start to the end of the drain."""
    outcomes: list[Exception | None] = [None, StartError("no worker"), ValueError("broken")]

    async def reload() -> None:
        assert states(told())[-1] == "RELOADING=1 STATUS=reloading"
        if (error := outcomes.pop(0)) is not None:
            raise error

    service = Fake(busy=True)
    task = await started(service, on_reload=reload)
    assert states(told()) == ["READY=1 STATUS=running"]
    for count, words in enumerate(("reloaded", "the last reload failed: no worker", "ValueError: broken"), 1):
        send(signal.SIGHUP)
        await eventually(lambda wanted=1 + 2 * count: len(states(told())) == wanted)  # type: ignore[misc]
        assert states(told())[-1].startswith("READY=1 STATUS=running; ")
        assert states(told())[-1].endswith(words)
    before = pings(told())
    await eventually(lambda: pings(told()) > before + 2)
    send(signal.SIGTERM)
    await eventually(lambda: "drain" in service.life)
    assert states(told())[-1] == "STOPPING=1 STATUS=draining for up to 30 s: SIGTERM"
    before = pings(told())
    await eventually(lambda: pings(told()) > before + 2)
    service.finish.set()
    assert await asyncio.wait_for(task, 5) == 0
    assert len(states(told())) == 8
    assert "NOTIFY_SOCKET" not in os.environ


async def test_no_pings_while_the_loop_is_stuck(told: Callable[[], list[str]]) -> None:
    """A handler that blocks it is what the watchdog is for."""
    task = await started(Fake())
    await eventually(lambda: pings(told()) > 1)
    before = pings(told())
    time.sleep(0.3)  # on purpose
    assert pings(told()) == before
    await eventually(lambda: pings(told()) > before)
    send(signal.SIGTERM)
    assert await asyncio.wait_for(task, 5) == 0


async def test_no_pings_once_the_service_has_given_up(told: Callable[[], list[str]]) -> None:
    """The manager hears why, and may cut the drain short."""

    class GivingUp(Fake):
        async def wait(self) -> None:
            await eventually(lambda: pings(told()) > 1)
            raise CrashLoop("worker a died 5 times")

    service = GivingUp(busy=True)
    task = await started(service)
    await eventually(lambda: "drain" in service.life)
    before = pings(told())
    await asyncio.sleep(0.2)
    assert pings(told()) == before
    assert states(told())[-1] == "STOPPING=1 STATUS=draining for up to 30 s: giving up: worker a died 5 times"
    service.finish.set()
    assert await asyncio.wait_for(task, 5) == 1


async def test_a_start_that_fails_is_never_ready(told: Callable[[], list[str]]) -> None:
    """Nor one that is given up; the manager learns it from the exit."""
    with pytest.raises(StartError):
        await asyncio.wait_for(serve_until_signalled(Fake(fail=StartError("cannot listen"))), 5)
    assert states(told()) == []


async def test_inherited_sockets_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are logged: connections to them are never answered."""
    there = Inherited({}, os.getpid())
    there.names = {3: "web", 4: "old"}
    monkeypatch.setattr(inherited, "_inherited", there)

    class User(Fake):
        async def start(self) -> None:
            there.find("web")
            await super().start()

    with capture_logs() as logs:
        task = await started(User())
        send(signal.SIGTERM)
        assert await asyncio.wait_for(task, 5) == 0
    found = [(entry["descriptor"], entry["name"]) for entry in logs if entry["event"] == "inherited socket not used"]
    assert found == [(4, "old")]
