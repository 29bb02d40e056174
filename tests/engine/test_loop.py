"""The loop's choice, its allocator, and the one timer that drives all deadlines."""

from __future__ import annotations

import asyncio
import resource
from math import inf

import pytest
import uvloop
from structlog.testing import capture_logs

from forebay.engine import now, run, tune_allocator
from forebay.engine.loop import ticker


class Deadline:
    """An entry that notes when it expired."""

    def __init__(self, error: Exception | None = None) -> None:
        self.expires_at = self.due_at = inf
        self.expired = asyncio.Event()
        self.error = error
        self.at = 0.0

    def on_expired(self) -> None:
        self.at = now()
        self.expired.set()
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("forced", [False, True])
def test_run_picks_the_loop(monkeypatch: pytest.MonkeyPatch, forced: bool) -> None:
    """uvloop where it is, the standard loop when it is asked for; the result comes back."""
    monkeypatch.setenv("FOREBAY_LOOP", "asyncio" if forced else "")

    async def main() -> bool:
        return isinstance(asyncio.get_running_loop(), uvloop.Loop)

    assert run(main()) is not forced


def test_run_raises_the_descriptor_limit() -> None:
    """From the soft limit to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> tuple[int, int]:
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        assert run(main()) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_tune_allocator() -> None:
    """It takes effect on glibc, any number of times."""
    assert tune_allocator()
    assert tune_allocator()


@pytest.mark.both_loops
async def test_deadlines_are_kept_and_never_early() -> None:
    """Entries expire at their time, each loop has one ticker, and one that fails does not stop the others."""
    assert ticker() is ticker()
    broken, fine = Deadline(ValueError("no")), Deadline()
    begin = now()
    with capture_logs() as logs:
        ticker().arm(broken, 0.05)
        ticker().arm(fine, 0.15)
        async with asyncio.timeout(5):
            await fine.expired.wait()
    assert broken.at - begin >= 0.05
    assert 0.15 <= fine.at - begin < 2
    assert [entry["event"] for entry in logs] == ["timer failed"]


@pytest.mark.both_loops
async def test_the_ticker_rests_and_wakes() -> None:
    """When nothing is left it stops; armed again much later, the deadline counts from then."""
    deadline = Deadline()
    ticker().arm(deadline, 0.01)
    async with asyncio.timeout(5):
        await deadline.expired.wait()
        while ticker()._ticking:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.25)  # the clock of a wheel that rests stands still
        deadline.expired.clear()
        begin = now()
        ticker().arm(deadline, 0.1)
        await deadline.expired.wait()
    assert deadline.at - begin >= 0.1
