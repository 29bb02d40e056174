"""A loop that is blocked for real: found, with its line; and what only looks like it is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine.blocked import BlockedLoopReporter
from tests.support import eventually

pytestmark = pytest.mark.alone

THRESHOLD = 0.1
Logs = list[Any]


@contextlib.contextmanager
def reporting(threshold: float = THRESHOLD) -> Iterator[tuple[BlockedLoopReporter, Logs]]:
    """A reporter at work on the running loop, and what it logs."""
    with capture_logs() as logs:
        reporter = BlockedLoopReporter(threshold)
        reporter.start()
        try:
            yield reporter, logs
        finally:
            reporter.stop()


def of(logs: Logs, event: str) -> Logs:
    return [entry for entry in logs if entry["event"] == event]


def sleep_for(seconds: float) -> None:
    time.sleep(seconds)  # line A


def spin_for(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass  # line B


def keep_the_lock(seconds: float) -> None:
    """A call into C that does not return to the interpreter: a hopeless regular expression, made to last."""
    subject = "a" * 20
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        began = time.monotonic()
        subject += "a"
        re.match(r"(a+)+$", subject + "b")


def line_of(mark: str) -> int:
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if line.endswith(f"# line {mark}\n"))


async def settled() -> None:
    """A few turns of the loop, in which the reporter has learnt what it looks at."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.both_loops
@pytest.mark.parametrize(("block", "mark"), [(sleep_for, "A"), (spin_for, "B")])
async def test_a_blocked_loop_is_reported_with_its_line(block: Any, mark: str) -> None:
    """Once while it lasts, and once when it is over, with all its seconds."""
    with reporting() as (reporter, logs):
        await settled()
        block(0.6)
        assert of(logs, "event loop blocked"), "it was not reported while it lasted"
        await eventually(lambda: of(logs, "event loop runs again"))
        (blocked,) = of(logs, "event loop blocked")
        assert blocked["at"].startswith("tests/engine/test_blocked.py:")
        assert blocked["at"].endswith(f" in {block.__name__}")
        if mark == "A":
            assert f":{line_of(mark)} " in blocked["at"]
        assert THRESHOLD <= blocked["seconds"] < 0.6
        assert (blocked["log_level"], blocked["threshold"], blocked["left_out"]) == ("warning", THRESHOLD, 0)
        frames = blocked["stack"].splitlines()
        assert f"in {block.__name__}" in frames[0]
        assert "in test_a_blocked_loop_is_reported_with_its_line" in frames[1]
        (over,) = of(logs, "event loop runs again")
        assert over["at"] == blocked["at"]
        assert 0.5 <= over["seconds"] < 5
        assert reporter.count == 1
        assert reporter.statistics()["seconds"] == pytest.approx(over["seconds"], abs=0.01)


@pytest.mark.both_loops
async def test_a_callback_is_found_as_well() -> None:
    """Not only what a Task does."""
    with reporting() as (_, logs):
        await settled()
        asyncio.get_running_loop().call_soon(sleep_for, 0.4)
        await eventually(lambda: of(logs, "event loop runs again"))
        assert of(logs, "event loop blocked")[0]["at"].endswith(" in sleep_for")


@pytest.mark.both_loops
async def test_what_is_short_or_shared_is_not_reported() -> None:
    """Many short calls keep a loop busy, and so does one that lets others have their turn; neither blocks it."""
    with reporting(0.2) as (reporter, logs):
        await settled()
        sleep_for(0.1)
        until = time.monotonic() + 0.8
        while time.monotonic() < until:
            spin_for(0.005)
            await asyncio.sleep(0)
        for _ in range(60):
            asyncio.get_running_loop().call_soon(spin_for, 0.01)  # all in one turn, 0.6 s
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert (reporter.count, logs) == (0, [])


async def test_a_call_that_keeps_the_interpreter_is_reported() -> None:
    """Afterwards, since nothing else can run meanwhile."""
    with reporting() as (_, logs):
        await settled()
        keep_the_lock(0.3)
        await eventually(lambda: of(logs, "event loop blocked"))
        (blocked, *_) = of(logs, "event loop blocked")
        assert blocked["at"].startswith("tests/engine/test_blocked.py:")
        assert blocked["at"].endswith(" in keep_the_lock")


async def test_the_same_line_is_reported_at_most_every_ten_seconds() -> None:
    """All are counted."""
    with reporting(0.05) as (reporter, logs):
        for count in (1, 2, 3):
            await settled()
            sleep_for(0.25)
            until = time.monotonic() + 5
            while reporter.count < count:
                assert time.monotonic() < until
                await asyncio.sleep(0.01)
        await eventually(lambda: reporter.seconds >= 0.5)
        assert len(of(logs, "event loop blocked")) == 1
        assert len(of(logs, "event loop runs again")) == 1


STOPPED = """
import asyncio, os, sys, time
from forebay.engine.blocked import BlockedLoopReporter
from forebay.engine.loop import run

async def main():
    reporter = BlockedLoopReporter(0.6)
    reporter.start()
    await asyncio.sleep(0.1)
    print("ready", flush=True)
    if sys.argv[1] == "idle":
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    else:
        sys.stdin.readline()  # blocks the loop
    await asyncio.sleep(0.3)
    reporter.stop()
    print("count", reporter.count, flush=True)

run(main())
"""


@pytest.mark.parametrize(("doing", "count"), [("idle", b"count 0\n"), ("blocked", b"count 0\n")])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_process_that_was_stopped_is_not_one_that_was_blocked(doing: str, count: bytes, loop: str) -> None:
    """Whatever it was doing: the time in which it was stopped does not count."""
    program = subprocess.Popen(
        [sys.executable, "-c", STOPPED, doing],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "FOREBAY_LOOP": loop},
    )
    with program:
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            while (line := program.stdout.readline()) != b"ready\n":
                assert line, "it ended"
            time.sleep(0.35)  # it is found at work
            program.send_signal(signal.SIGSTOP)
            time.sleep(1.0)  # the fault: it stands still for so long
            program.send_signal(signal.SIGCONT)
            time.sleep(0.15)  # both are less than the threshold, but enough for a look
            program.stdin.write(b"go on\n")
            program.stdin.flush()
            lines = program.stdout.readlines()
            assert lines[-1] == count, lines
        finally:
            program.kill()


async def test_it_can_be_stopped_and_started_again() -> None:
    """Both any number of times; what blocks in between is not reported."""
    with reporting() as (reporter, logs):
        await settled()
        reporter.start()
        assert "running" in repr(reporter)
        reporter.stop()
        reporter.stop()
        assert "stopped" in repr(reporter)
        sleep_for(0.3)
        assert logs == []
        reporter.start()
        await settled()
        sleep_for(0.4)
        assert len(of(logs, "event loop blocked")) == 1


@pytest.mark.parametrize("threshold", [0, 0.001, -1, float("nan")])
def test_the_threshold_is_checked(threshold: float) -> None:
    """With what would be right."""
    with pytest.raises(ValueError, match=r"must be at least 0\.01 seconds"):
        BlockedLoopReporter(threshold)
