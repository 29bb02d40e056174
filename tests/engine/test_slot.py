"""A worker that is killed, hangs, loops or leaves: what its place makes of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.engine import process as process_module
from forebay.engine.supervisor import WorkerSpec, WorkerState
from forebay.errors import CrashLoop
from forebay.policy.backoff import Backoff
from forebay.policy.restart import RestartPolicy
from tests.engine.supervision import (
    SLOW,
    answers,
    ask,
    eventually_total,
    only,
    port_of,
    ready_again,
    sum_of,
    supervised,
    total,
)
from tests.support import RawClient, eventually

pytestmark = pytest.mark.usefixtures("workers_environment")


@pytest.mark.both_loops
async def test_killed_workers_come_back_and_queued_connections_wait() -> None:
    """kill -9, twice: who connects meanwhile is answered by the next worker, and everything that was counted stays."""
    async with supervised(answers()) as supervisor:
        port = port_of(supervisor)
        asked = 0
        for restarts in (1, 2):
            for _ in range(5):
                await ask(port)
            asked += 5
            await eventually_total(supervisor, "test_answers", asked)
            pid = only(supervisor).pid
            os.kill(pid, signal.SIGKILL)
            version, new_pid = await ask(port)
            asked += 1
            assert (version, new_pid == pid) == ("v1", False)
            info = await ready_again(supervisor, pid)  # it may answer a moment before it is known to be ready
            assert (info.pid, info.restarts, info.last_exit) == (new_pid, restarts, "signal 9 (SIGKILL)")
            assert await total(supervisor, "test_answers") == asked
        await eventually_total(supervisor, "test_clients", 0)
        assert await total(supervisor, "forebay_worker_restarts") == 2
        assert await total(supervisor, "forebay_worker_ready") == 1


async def test_what_was_pushed_survives_a_kill_without_anybody_asking() -> None:
    """Counters of a killed worker are kept up to 50 ms before its death; its gauges are not."""
    async with supervised(answers(), restart=RestartPolicy(backoff=Backoff(SLOW, cap=SLOW))) as supervisor:
        client = await RawClient.connect(port_of(supervisor))
        for _ in range(7):
            await client.send(b"x\n")
            await client.line()
        (process,) = supervisor._slots[0].processes
        await eventually(lambda: sum_of(process.snapshot(), "test_answers") == 7)
        os.kill(process.pid, signal.SIGKILL)
        await eventually(lambda: only(supervisor).state is WorkerState.BACKOFF)
        await client.close()
        families = await supervisor.collect()
        assert sum_of(families, "test_answers") == 7
        assert "test_clients" not in {family.name for family in families}


async def test_a_crash_loop_is_given_up() -> None:
    """wait() tells who died how often, and how."""
    policy = RestartPolicy(deaths=3, backoff=Backoff(0.01))
    dies = WorkerSpec("d", "tests.engine.entries:dies", {"code": 9})
    with capture_logs() as logs:
        async with supervised(answers(), dies, restart=policy) as supervisor:
            with pytest.raises(
                CrashLoop, match=r"^worker d#0 died 3 times within \S+ s, giving up; last: exit code 9$"
            ):
                await asyncio.wait_for(supervisor.wait(), SLOW)
            assert {info.name: info.state for info in supervisor.workers} == {
                "a": WorkerState.READY,
                "d": WorkerState.FAILED,
            }
            await ask(port_of(supervisor))
    died = [entry for entry in logs if entry["event"] == "worker died"]
    assert [(entry["worker"], entry["reason"], entry["restart_in"]) for entry in died] == [
        ("d#0", "exit code 9", 0.01),
        ("d#0", "exit code 9", 0.02),
    ]
    assert [entry["worker"] for entry in logs if entry["event"] == "crash loop"] == ["d#0"]


async def test_a_restart_that_fails_is_tried_again(tmp_path: Path) -> None:
    """A worker that cannot start any more is a worker that keeps dying, with its own reason."""
    policy = RestartPolicy(deaths=2, backoff=Backoff(0.01))
    async with supervised(answers(only_first=str(tmp_path / "x")), restart=policy) as supervisor:
        os.kill(only(supervisor).pid, signal.SIGKILL)
        with pytest.raises(CrashLoop, match=r"last: worker a#0: somebody was faster$"):
            await asyncio.wait_for(supervisor.wait(), SLOW)


async def test_sigterm_to_a_worker_drains_and_replaces_it() -> None:
    """It finishes what it has begun while the next one already serves, and the log says why."""
    async with supervised(answers()) as supervisor:
        port, pid = port_of(supervisor), only(supervisor).pid
        client = await RawClient.connect(port)
        await eventually_total(supervisor, "test_clients", 1)
        with capture_logs() as logs:
            os.kill(pid, signal.SIGTERM)
            info = await ready_again(supervisor, pid)
            assert await ask(port) == ("v1", info.pid)
            draining = only(supervisor, WorkerState.DRAINING)
            assert draining.pid == pid
            await client.send(b"x\n")
            assert await client.line() == f"v1 {pid}\n".encode()
            await eventually(lambda: len(supervisor.workers) == 1)
        await client.close()
        assert info.last_exit == "left on its own after SIGTERM"
        assert {
            "event": "worker ended",
            "worker": "a#0",
            "pid": pid,
            "exit": "exit code 0",
            "log_level": "info",
        } in logs
        assert any(entry["event"] == "worker died" and "SIGTERM" in entry["reason"] for entry in logs)


async def test_a_worker_that_hangs_in_drain_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past drain timeout and grace, and the log says so."""
    monkeypatch.setattr(process_module, "DRAIN_GRACE", 0.2)
    hangs = WorkerSpec("h", "tests.engine.entries:hangs", {"where": "drain"})
    with capture_logs() as logs:
        async with supervised(hangs, drain_timeout=0.1) as supervisor:
            pid = only(supervisor).pid
            await asyncio.wait_for(supervisor.drain(), SLOW)
    killed = [entry for entry in logs if entry["event"] == "worker killed"]
    assert [(entry["pid"], entry["reason"]) for entry in killed] == [(pid, "still there 0.3 s after drain")]


async def test_a_death_while_draining_is_told() -> None:
    """What it had in flight is lost, which an orderly end would not say."""
    with capture_logs() as logs:
        async with supervised(answers(), drain_timeout=SLOW) as supervisor:
            client = await RawClient.connect(port_of(supervisor))
            await client.send(b"x")
            await client.line(SLOW)
            await client.send(b"later\n")
            draining = asyncio.create_task(supervisor.drain())
            await eventually(lambda: only(supervisor).state is WorkerState.DRAINING)
            os.kill(only(supervisor).pid, signal.SIGKILL)
            await asyncio.wait_for(draining, SLOW)
            await client.close()
    ended = [(entry["log_level"], entry["exit"]) for entry in logs if entry["event"] == "worker ended"]
    assert ended == [("warning", "signal 9 (SIGKILL)")]


async def test_a_worker_with_a_broken_channel_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that talks nonsense cannot be kept: it is drained, and the next one takes its place."""
    monkeypatch.setattr(process_module, "_LAST_WORDS", 0.1)
    async with supervised(answers()) as supervisor:
        (process,) = supervisor._slots[0].processes
        assert process._channel is not None
        process._channel.close("test")
        info = await ready_again(supervisor, process.pid)
        assert await ask(port_of(supervisor)) == ("v1", info.pid)
        await eventually(process.gone.is_set, timeout=SLOW)


async def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    """Its workers notice, and exit."""
    program = tmp_path / "program.py"
    program.write_text(
        "import time\n"
        "from forebay.engine.loop import run, sleep\n"
        "from forebay.engine.supervisor import Supervisor, WorkerSpec\n"
        "async def main():\n"
        "    supervisor = Supervisor('test', [WorkerSpec('a', 'tests.engine.entries:answers', {}, 2)])\n"
        "    await supervisor.start()\n"
        "    print(*[worker.pid for worker in supervisor.workers], flush=True)\n"
        "    await sleep(60)\n"
        "run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, str(program), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    pids: list[int] = []
    while not pids:  # the log goes there too
        line = await asyncio.wait_for(process.stdout.readline(), SLOW)
        assert line, "it did not start"
        with suppress(ValueError):
            pids = [int(word) for word in line.split()]
    assert len(pids) == 2
    process.kill()
    await process.wait()
    await eventually(lambda: not any(map(is_alive, pids)), timeout=SLOW)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
