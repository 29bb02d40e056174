"""Jobs in other processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from forebay.engine.executor import Executor
from forebay.engine.job_process import JobProcess, pack
from forebay.errors import DeadlineExceeded, ExecutorStopped, NotTransferable, ProcessDied, RetryClass
from tests.engine import process_jobs as jobs
from tests.engine.support import open_sockets
from tests.support import eventually, running


def children() -> set[int]:
    """The processes this one has started and not yet waited for."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            continue
    return found


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # also when it ends while it is being looked at
        return False


@asynccontextmanager
async def executing(**options: Any) -> AsyncIterator[Executor]:
    """An executor that runs; at its end no thread, process or socket is left of it."""
    before = threading.active_count(), children(), open_sockets()
    executor = Executor("test", **options)
    async with running(executor):
        yield executor
    assert (threading.active_count(), children(), open_sockets()) == before


@pytest.mark.both_loops
async def test_jobs_share_processes() -> None:
    """One process per place, each for many jobs; arguments and results of some size, and failures, go across."""
    async with executing(concurrency=2) as executor:
        pids = await asyncio.gather(*(executor.run(jobs.pid, kind="process") for _ in range(20)))
        assert os.getpid() not in pids
        assert len(set(pids)) <= 2
        assert await executor.run(jobs.double, 21, kind="process") == 42
        big = os.urandom(1 << 20) * 8
        assert await executor.run(jobs.length, big, kind="process") == (8 << 20, big)
        with pytest.raises(ZeroDivisionError) as caught:
            await executor.run(jobs.divide, 0, kind="process")
        assert "process_jobs.py" in caught.value.__notes__[0]
        assert executor.statistics()["processes"] <= 2
        assert set(await asyncio.gather(*(executor.run(jobs.pid, kind="process") for _ in range(5)))) <= set(pids)
        assert executor.statistics()["failed"] == 1


async def test_what_cannot_be_sent_is_an_error_of_its_job() -> None:
    """Arguments at once, results and exceptions by name; the process goes on."""
    async with executing(concurrency=1) as executor:
        pid = await executor.run(jobs.pid, kind="process")
        for submission in (
            executor.run(lambda: 1, kind="process"),
            executor.run(jobs.double, threading.Lock(), kind="process"),  # type: ignore[call-overload]  # what is tested
        ):
            with pytest.raises(NotTransferable, match="cannot be sent to another process"):
                await submission
        assert executor.statistics()["submitted"] == 1
        with pytest.raises(NotTransferable, match="its result, a lock, cannot be sent: TypeError"):
            await executor.run(jobs.unpicklable, kind="process")
        with pytest.raises(NotTransferable, match="it raised Picky: 1 and 2, which cannot be sent") as caught:
            await executor.run(jobs.raise_picky, kind="process")
        assert "raise Picky(1, 2)" in caught.value.__notes__[0]
        with pytest.raises(NotTransferable, match="it raised SystemExit: 3"):
            await executor.run(jobs.leave, kind="process")
        with pytest.raises(TypeError, match="coroutine function"):
            await executor.run(asyncio.sleep, 0, kind="process")
        assert await executor.run(jobs.interrupt_self, kind="process") == "still here"
        assert await executor.run(jobs.pid, kind="process") == pid


async def test_a_process_that_dies_fails_its_own_job_and_no_other() -> None:
    """However it dies; the next job gets a new one."""
    async with executing(concurrency=2) as executor:
        others = [asyncio.create_task(executor.run(jobs.double, n, kind="process")) for n in range(10)]
        with pytest.raises(ProcessDied, match="exit code 7") as caught:
            await executor.run(jobs.exit_at_once, 7, kind="process")
        assert caught.value.retry is RetryClass.MAYBE
        with pytest.raises(ProcessDied, match="signal 9"):
            await executor.run(jobs.kill_self, kind="process")
        assert await asyncio.gather(*others) == [2 * n for n in range(10)]
        assert await executor.run(jobs.double, 4, kind="process") == 8


async def test_kill_9_of_a_process_at_work_and_of_an_idle_one(tmp_path: Path) -> None:
    """The job at work fails; a job that meets a dead process gets another, and never knows."""
    async with executing(concurrency=1) as executor:
        file = tmp_path / "pid"
        handle = executor.submit_nowait(jobs.hang, str(file), kind="process")
        pid = int(await eventually(lambda: file.exists() and file.read_text()))
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ProcessDied, match="signal 9"):
            await asyncio.wait_for(handle, 5)
        for _ in range(3):
            idle = await executor.run(jobs.pid, kind="process")
            os.kill(idle, signal.SIGKILL)
            assert await executor.run(jobs.double, 4, kind="process") == 8
        assert executor.statistics()["failed"] == 1


async def test_past_its_deadline_the_process_is_killed(tmp_path: Path) -> None:
    """Also when what it forked holds its socket; cancelling does the same, and the place is free again."""
    async with executing(concurrency=1) as executor:
        file = tmp_path / "pid"
        await executor.run(jobs.pid, kind="process")  # it has started, and imported what it needs
        with pytest.raises(DeadlineExceeded, match="not finished by its deadline"):
            await asyncio.wait_for(executor.run(jobs.hang_with_a_child, str(file), kind="process", deadline=0.5), 5)
        pid = int(await eventually(lambda: file.exists() and file.read_text()))
        await eventually(lambda: not alive(pid), 2)
        await eventually(lambda: executor.busy == 0, 2)
        file.unlink()
        handle = executor.submit_nowait(jobs.hang, str(file), kind="process")
        pid = int(await eventually(lambda: file.exists() and file.read_text()))
        assert handle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handle
        await eventually(lambda: not alive(pid), 2)
        assert await executor.run(jobs.double, 4, kind="process") == 8
        stats = executor.statistics()
        assert (stats["expired"], stats["cancelled"], stats["finished"], stats["abandoned"]) == (1, 1, 2, 0)


async def test_cancelled_before_the_process_has_started() -> None:
    """A job that is cut in any moment of its process's start leaves nothing behind."""
    async with executing(concurrency=4) as executor:
        for turns in range(6):
            handles = [executor.submit_nowait(jobs.double, n, kind="process") for n in range(2)]
            for _ in range(turns):
                await asyncio.sleep(0.002)
            for handle in handles:
                handle.cancel()
            await asyncio.wait_for(asyncio.gather(*handles, return_exceptions=True), 5)
        await asyncio.wait_for(executor.drain(), 5)


async def test_stop_kills_what_is_at_work(tmp_path: Path) -> None:
    """And its awaiter learns that the executor was stopped."""
    async with executing(concurrency=2) as executor:
        file = tmp_path / "pid"
        idle = await executor.run(jobs.pid, kind="process")
        handle = executor.submit_nowait(jobs.hang, str(file), kind="process")
        pid = int(await eventually(lambda: file.exists() and file.read_text()))
        await executor.stop()
        with pytest.raises(ExecutorStopped):
            await handle
        assert not alive(pid)
        assert not alive(idle)


def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is the job's error, and leaves no socket open."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    before = open_sockets()
    with pytest.raises(ProcessDied, match="could not be started"):
        JobProcess().call(pack(jobs.pid, ()))
    assert open_sockets() == before


PROGRAM = """
import asyncio, os, sys, time
from forebay.engine.executor import Executor

class Point:
    def __init__(self, x): self.x = x

def shifted(point): return Point(point.x + 1)

def hang(): print(os.getpid(), flush=True); time.sleep(600)

async def main():
    executor = Executor("main", concurrency=1)
    await executor.start()
    point = await executor.run(shifted, Point(1), kind="process")
    assert type(point) is Point and point.x == 2
    if len(sys.argv) > 1:
        executor.submit_nowait(hang, kind="process")
        await asyncio.sleep(600)
    await executor.stop()

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_functions_and_classes_of_the_main_program(tmp_path: Path) -> None:
    """Are found in the other process, though `__main__` is another module there."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_main_program_without_a_guard_says_so(tmp_path: Path) -> None:
    """Instead of starting processes without end."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.replace('if __name__ == "__main__":\n    ', ""))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "guard it by its __name__" in done.stderr


async def test_a_process_whose_owner_is_killed_ends(tmp_path: Path) -> None:
    """In the middle of a job: there are no orphans."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, script, "hang"], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert alive(pid)
        owner.kill()
    await eventually(lambda: not alive(pid))
