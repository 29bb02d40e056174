"""Workers whose event loop is blocked: what is found out about them, and what becomes of them."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine import watchdog
from forebay.engine.supervisor import Supervisor, WorkerSpec, WorkerState
from forebay.engine.watchdog import DUMP_SIGNAL, StackFile, allow_dumps, blocked_at
from tests.engine import entries
from tests.engine.supervision import SLOW, only, port_of, ready_again, sum_of, supervised
from tests.engine.test_slot import is_alive
from tests.support import RawClient, eventually, raw_client

pytestmark = pytest.mark.usefixtures("workers_environment")

LINES = Path(entries.__file__).read_text().splitlines()


def blocking(watchdog: float | None = 1.0, **args: Any) -> WorkerSpec:
    """A worker that blocks when it is asked to."""
    return WorkerSpec("b", "tests.engine.entries:blocking", args, watchdog=watchdog)


async def block(supervisor: Supervisor, how: str) -> RawClient:
    """Have the worker block."""
    client = await RawClient.connect(port_of(supervisor))
    await client.send(how.encode() + b"\n")
    return client


async def answered_by(port: int) -> int:
    """The pid of the worker that answers."""
    async with raw_client(port) as client:
        await client.send(b"hello\n")
        return int(await client.line(SLOW))


def event(logs: Any, name: str) -> Any:
    """The only log entry of this name."""
    (found,) = [entry for entry in logs if entry["event"] == name]
    return found


@pytest.mark.parametrize(
    ("how", "function"), [("sleep", "block_in_sleep"), ("busy", "block_busily"), ("c", "block_in_c")]
)
async def test_a_blocked_worker_is_dumped_and_replaced(how: str, function: str) -> None:
    """The dump names the line that blocks, and shows the other threads; the supervisor says why it restarts it."""
    async with supervised(blocking()) as supervisor:
        port, pid = port_of(supervisor), only(supervisor).pid
        with capture_logs() as logs:
            client = await block(supervisor, how)
            info = await ready_again(supervisor, pid)
        assert await answered_by(port) == info.pid
        assert await client.rest() == b""
        await client.close()
        entry = event(logs, "worker does not respond")
        place, _, called = entry["where"].partition(" in ")
        file, _, line = place.rpartition(":")
        begin = LINES.index(f"def {function}({'seconds: float' if how == 'sleep' else ''}) -> None:")
        assert (file, called, begin < int(line) <= begin + 6) == ("tests/engine/entries.py", function, True)
        assert entry["stacks"].startswith("Current thread 0x")
        assert "in wait_in_a_thread" in entry["stacks"]
        assert (entry["pid"], entry["log_level"], entry["seconds"] >= 1) == (pid, "error", True)
        assert info.last_exit.startswith("did not respond for 1.")
        assert info.last_exit.endswith(f" s, blocked at {entry['where']}")
        assert event(logs, "worker died")["reason"] == info.last_exit
        assert event(logs, "worker ended")["exit"] == "signal 9 (SIGKILL)"
        (restarts,) = [f for f in await supervisor.collect() if f.name == "forebay_worker_restarts"]
        assert {dict(sample.labels)["cause"]: sample.value for sample in restarts.samples} == {
            "crash": 0,
            "watchdog": 1,
        }


async def test_a_stopped_worker_is_replaced_without_a_dump() -> None:
    """It cannot dump anything, and nobody waits for that."""
    async with supervised(blocking()) as supervisor:
        pid = only(supervisor).pid
        os.kill(pid, signal.SIGSTOP)
        info = await ready_again(supervisor, pid)
        assert info.last_exit.startswith("did not respond for 1.")
        assert info.last_exit.endswith(" s, no dump: it is stopped")
        await eventually(lambda: not is_alive(pid))


async def test_a_worker_that_cannot_dump_is_replaced_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for its stacks ends; it is told in which state it was."""
    monkeypatch.setattr(watchdog, "DUMP_SIGNAL", signal.SIGWINCH)  # which does nothing
    async with supervised(blocking()) as supervisor:
        pid = only(supervisor).pid
        client = await block(supervisor, "sleep")
        info = await ready_again(supervisor, pid)
        assert info.last_exit.endswith(" s, no dump: it did not answer within 1 s (state S)")
        await client.close()


@pytest.mark.both_loops
async def test_a_supervisor_that_was_asleep_itself_kills_nobody() -> None:
    """What it did not hear while it did not listen is not held against its workers."""
    async with supervised(blocking(0.5)) as supervisor:
        pid = only(supervisor).pid
        (process,) = supervisor._slots[0].processes
        for _ in range(3):
            time.sleep(1.5)  # blocks the supervisor's loop
            heard_at = process.heard_at
            await eventually(lambda: process.heard_at != heard_at)  # noqa: B023  # awaited here
        info = only(supervisor)
        assert (info.pid, info.state, info.restarts) == (pid, WorkerState.READY, 0)


async def test_without_a_watchdog_a_worker_may_block() -> None:
    """It is left alone, and its lag shows for how long it has been blocked, and then how long that was."""
    async with supervised(blocking(None)) as supervisor:
        pid = only(supervisor).pid
        client = await block(supervisor, "sleep 2.5")
        await eventually(lambda: only(supervisor).lag > 1)
        assert int(await client.line(SLOW)) == pid
        await client.close()
        (process,) = supervisor._slots[0].processes
        await eventually(lambda: process.beat.lag > 1)
        families = await supervisor.collect()
        assert sum_of(families, "forebay_loop_lag_max_seconds") > 1
        (lag,) = [family for family in families if family.name == "forebay_loop_lag_seconds"]
        assert sum(sample.value for sample in lag.samples if sample.suffix == "_sum") > 2
        assert sum_of(families, "forebay_worker_rss_bytes") == only(supervisor).memory > 2**20


async def test_a_slow_start_is_not_watched() -> None:
    """Imports may take their time; start_timeout is for them."""
    async with supervised(blocking(0.3, start=1.5)) as supervisor:
        assert await answered_by(port_of(supervisor)) == only(supervisor).pid
        assert only(supervisor).restarts == 0


async def test_a_blocked_worker_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    """The kernel sets an alarm in it when the supervisor dies; nothing of the worker has to run for that."""
    program = tmp_path / "program.py"
    program.write_text(
        "from forebay.engine.loop import run, sleep\n"
        "from forebay.engine.supervisor import Supervisor, WorkerSpec\n"
        "async def main():\n"
        "    supervisor = Supervisor('test', [WorkerSpec('b', 'tests.engine.entries:blocking')])\n"
        "    await supervisor.start()\n"
        "    (worker,) = supervisor.workers\n"
        "    print(worker.pid, worker.addresses[0].port, flush=True)\n"
        "    await sleep(60)\n"
        "run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, str(program), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    found: list[int] = []
    while not found:  # the log goes there too
        line = await asyncio.wait_for(process.stdout.readline(), SLOW)
        assert line, "it did not start"
        with suppress(ValueError):
            found = [int(word) for word in line.split()]
    pid, port = found
    client = await RawClient.connect(port)
    await client.send(f"orphan {tmp_path / 'blocked'}\n".encode())
    await eventually((tmp_path / "blocked").exists, timeout=SLOW)
    process.kill()
    await process.wait()
    await eventually(lambda: not is_alive(pid), timeout=SLOW)
    await asyncio.wait_for(process.stdout.read(), SLOW)  # the worker had it, too
    await client.close()


@pytest.fixture
async def stacks() -> AsyncIterator[StackFile]:
    """A file that this process dumps its own stacks to."""
    file = StackFile()
    allow_dumps(file.fd)
    yield file
    faulthandler.unregister(DUMP_SIGNAL)
    file.close()
    file.close()


async def test_one_dump_after_the_other(stacks: StackFile) -> None:
    """A second one does not hold what the first one did."""
    for _ in range(2):
        dump, missing = await stacks.take(os.getpid(), lambda number: os.kill(os.getpid(), number))
        assert missing == ""
        assert dump.count("Current thread") == 1
        assert dump.startswith("Current thread")


async def test_a_long_dump_is_cut(stacks: StackFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread is what is kept."""
    monkeypatch.setattr(watchdog, "_LONGEST_DUMP", 40)
    dump, _ = await stacks.take(os.getpid(), lambda number: os.kill(os.getpid(), number))
    first, last = dump.split("\n")[0], dump.split("\n")[-1]
    assert first.startswith("Current thread")
    assert last.endswith("characters more")
    assert len(dump) < 40 + 40


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (["/srv/app/shop.py 3 f", "{ours}/engine/connection.py 4 data_received"], "app/shop.py:3 in f"),
        (["{stdlib}/socket.py 9 recv", "/srv/app/shop.py 3 f"], "app/shop.py:3 in f"),
        (["{stdlib}/site-packages/orm.py 7 query", "/opt/shop.py 3 f"], "/opt/shop.py:3 in f"),
        (["{stdlib}/socket.py 9 recv", "/v/site-packages/orm.py 7 query"], "/v/site-packages/orm.py:7 in query"),
        (["<frozen importlib._bootstrap> 1 _find", "/srv/a b.py 2 <module>"], "a b.py:2 in <module>"),
        (["{stdlib}/socket.py 9 recv", "{ours}/engine/loop.py 5 run"], "{stdlib}/socket.py:9 in recv"),
        ([], ""),
    ],
)
def test_where_it_is_blocked(frames: list[str], expected: str) -> None:
    """The innermost frame that is the application's, else somebody else's, else any."""
    folders = {"ours": str(Path(watchdog.__file__).parent.parent), "stdlib": str(Path(asyncio.__file__).parent.parent)}
    lines = ["Current thread 0x0000 (most recent call first):"]
    for frame in frames:
        file, line, function = frame.format(**folders).rsplit(" ", 2)
        lines.append(f'  File "{file}", line {line} in {function}')
    dump = "\n".join(lines) + '\n\nThread 0x0001 (most recent call first):\n  File "/other.py", line 1 in run'
    assert blocked_at(dump, "/srv") == expected.format(**folders)
