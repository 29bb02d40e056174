"""Supervised worker processes: real ones, started, replaced, updated and counted."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine import process as process_module
from forebay.engine.supervisor import Supervisor, WorkerSpec, WorkerState
from forebay.errors import ConfigError, CrashLoop, StartError
from forebay.policy.restart import RestartPolicy
from tests.engine.supervision import (
    SLOW,
    Hammer,
    answers,
    ask,
    eventually_total,
    only,
    port_of,
    ready_again,
    supervised,
    total,
)
from tests.support import RawClient, eventually, free_port, open_descriptors

pytestmark = pytest.mark.usefixtures("workers_environment")


# Start


@pytest.mark.both_loops
async def test_workers_start_serve_and_drain() -> None:
    """Two workers share a socket; drained, they finish what is in flight and nobody listens any more."""
    async with supervised(answers(count=2)) as supervisor:
        infos = supervisor.workers
        assert [(info.name, info.index, info.state) for info in infos] == [
            ("a", 0, WorkerState.READY),
            ("a", 1, WorkerState.READY),
        ]
        assert infos[0].addresses == infos[1].addresses
        assert os.getpid() not in {info.pid for info in infos}
        port = port_of(supervisor)
        asking = asyncio.create_task(ask(port, b"later\n"))
        await eventually_total(supervisor, "test_clients", 1)
        draining = asyncio.create_task(supervisor.drain())
        version, pid = await asking
        assert (version, pid in {info.pid for info in infos}) == ("v1", True)
        await asyncio.wait_for(draining, SLOW)
        assert {info.state for info in supervisor.workers} == {WorkerState.STOPPED}
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(port)
    await supervisor.wait()


async def test_a_worker_that_cannot_start_stops_all() -> None:
    """The error names the worker and the reason in one line; no process and no descriptor is left."""
    before = open_descriptors()
    supervisor = Supervisor("test", [answers("good"), WorkerSpec("users", "nosuch:make")], start_timeout=SLOW)
    with pytest.raises(StartError) as caught:
        await supervisor.start()
    assert str(caught.value) == "worker users#0: cannot import nosuch: No module named 'nosuch'"
    assert supervisor.workers == []
    await supervisor.stop()
    await supervisor.wait()
    assert open_descriptors() == before


async def test_an_address_in_use_is_told() -> None:
    """The supervisor's own failure to listen reaches the caller through the worker that asked."""
    async with supervised(answers()) as first:
        taken = f"tcp://127.0.0.1:{port_of(first)}"
        with pytest.raises(StartError, match=rf"^worker b#0: cannot listen on {taken}: address already in use$"):
            await Supervisor("other", [answers("b", bind=taken)]).start()


async def test_a_worker_that_hangs_at_start_is_killed() -> None:
    """After start_timeout, which the error names."""
    supervisor = Supervisor(
        "test", [WorkerSpec("h", "tests.engine.entries:hangs", {"where": "start"})], start_timeout=1
    )
    with pytest.raises(StartError, match=r"^worker h#0: not ready within 1 s, killed$"):
        await supervisor.start()


async def test_a_worker_that_dies_at_start_is_told() -> None:
    """A death without a word is told by its exit code."""
    with pytest.raises(StartError, match=r"^worker d#0: died before it was ready: exit code 7$"):
        await Supervisor("test", [WorkerSpec("d", "os:_exit", {"status": 7})], start_timeout=SLOW).start()


async def test_args_that_cannot_be_sent_are_told() -> None:
    """Before any process is started."""
    with pytest.raises(StartError, match=r"^worker a#0: its args cannot be sent"):
        await Supervisor("test", [answers(version=object())]).start()


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    """Neither a process nor a descriptor, and soon."""
    before = open_descriptors()
    hangs = WorkerSpec("h", "tests.engine.entries:hangs", {"where": "start"}, 2)
    supervisor = Supervisor("test", [hangs], start_timeout=SLOW)
    starting = asyncio.create_task(supervisor.start())
    await eventually(lambda: sum(len(slot.processes) for slot in supervisor._slots) == 2)
    processes = [process for slot in supervisor._slots for process in slot.processes]
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(starting, SLOW / 2)
    assert all(process.gone.is_set() for process in processes)
    assert open_descriptors() == before


async def test_a_drain_that_is_cancelled_is_cut_by_stop() -> None:
    """The owner's deadline: what is in flight is cut, in an orderly way."""
    with capture_logs() as logs:
        async with supervised(answers(), drain_timeout=60) as supervisor:
            client = await RawClient.connect(port_of(supervisor))
            await eventually_total(supervisor, "test_clients", 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(supervisor.drain(), 0.2)
            assert only(supervisor).state is WorkerState.DRAINING
            await asyncio.wait_for(supervisor.stop(), 5)
            assert await client.rest() == b""
            await client.close()
    assert [entry["exit"] for entry in logs if entry["event"] == "worker ended"] == ["exit code 0"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: WorkerSpec("a", "module"),
        lambda: WorkerSpec("a", "module:"),
        lambda: WorkerSpec("a", "m:f", count=0),
        lambda: Supervisor("s", [WorkerSpec("a", "m:f"), WorkerSpec("a", "m:g")]),
    ],
)
async def test_nonsense_is_refused(make: Any) -> None:
    """Before anything is started."""
    with pytest.raises(ValueError, match=r"expected module:function|must be at least 1|must differ"):
        make()


# Reload


@pytest.mark.both_loops
async def test_a_rolling_reload_fails_no_connection() -> None:
    """While clients connect all the time, every worker is replaced, twice, and all is counted."""
    with capture_logs() as logs:
        async with supervised(answers(count=2)) as supervisor:
            pids = {info.pid for info in supervisor.workers}
            async with Hammer.on(port_of(supervisor)) as hammer:
                await supervisor.reload(reason="SIGHUP")
                await supervisor.reload([answers(count=2, version="v2")], reason="file changed")
                answered = hammer.answered
                await eventually(lambda: hammer.answered > answered + 20)
            assert {version for version, _ in hammer.seen} == {"v1", "v2"}
            assert not pids & {info.pid for info in supervisor.workers}
            assert {info.last_exit for info in supervisor.workers} <= {"replaced (file changed)"}
            await eventually(lambda: len(supervisor.workers) == 2, timeout=SLOW)
            assert await total(supervisor, "test_answers") == hammer.answered
            assert await total(supervisor, "test_clients") == 0
    replaced = [(entry["worker"], entry["reason"]) for entry in logs if entry["event"] == "worker replaced"]
    assert replaced == [("a#0", "SIGHUP"), ("a#1", "SIGHUP"), ("a#0", "file changed"), ("a#1", "file changed")]


async def test_a_death_while_a_reload_is_under_way_loses_no_queued_connection() -> None:
    """A worker that dies while its replacement starts: whoever is queued gets an answer."""
    async with supervised(answers()) as supervisor:
        port, pid = port_of(supervisor), only(supervisor).pid
        reloading = asyncio.create_task(supervisor.reload(reason="SIGHUP"))
        await eventually(lambda: len(supervisor._slots[0].processes) == 2)
        os.kill(pid, signal.SIGKILL)
        answered = await asyncio.gather(*(ask(port) for _ in range(5)))
        await reloading
        assert pid not in {answer[1] for answer in answered}
        await eventually(lambda: len(supervisor._slots[0].processes) == 1, timeout=SLOW)
        assert only(supervisor).state is WorkerState.READY
        assert (await ask(port))[1] == only(supervisor).pid


async def test_a_death_is_not_kept_waiting_by_a_replacement_that_hangs() -> None:
    """The worker is restarted while the reload still waits for its replacement, which then fails."""
    async with supervised(answers(), start_timeout=4) as supervisor:
        port, pid = port_of(supervisor), only(supervisor).pid
        hangs = WorkerSpec("a", "tests.engine.entries:hangs", {"where": "start"})
        reloading = asyncio.create_task(supervisor.reload([hangs], reason="SIGHUP"))
        await eventually(lambda: len(supervisor._slots[0].processes) == 2)
        os.kill(pid, signal.SIGKILL)
        version, new_pid = await ask(port)
        assert (version, new_pid != pid, reloading.done()) == ("v1", True, False)
        with pytest.raises(StartError, match="not ready within 4 s"):
            await reloading
        assert await ask(port) == ("v1", new_pid)


async def test_a_bad_replacement_keeps_what_is_there() -> None:
    """The error says why; nothing was replaced, and what runs is still what will be restarted."""
    async with supervised(answers()) as supervisor:
        port, pid = port_of(supervisor), only(supervisor).pid
        with capture_logs() as logs, pytest.raises(StartError, match=r"^worker a#0: cannot import nosuch"):
            await supervisor.reload([WorkerSpec("a", "nosuch:make")], reason="SIGHUP")
        assert any(entry["event"] == "reload failed, all stays as it was" for entry in logs)
        assert await ask(port) == ("v1", pid)
        assert supervisor.specs == [answers()]
        os.kill(pid, signal.SIGKILL)
        assert (await ask(port))[0] == "v1"


async def test_a_reload_that_fails_half_way_is_undone(tmp_path: Path) -> None:
    """Workers that were replaced before the failure, and those that were added, are changed back."""
    async with supervised(answers(count=2)) as supervisor:
        new = answers(count=2, version="v2", only_first=str(tmp_path / "x"))
        with pytest.raises(StartError, match="somebody was faster"):
            await supervisor.reload([new, answers("b")], reason="SIGHUP")
        await eventually(lambda: len(supervisor.workers) == 2, timeout=SLOW)
        assert {info.name for info in supervisor.workers} == {"a"}
        assert supervisor.specs == [answers(count=2)]
        assert {(await ask(port_of(supervisor)))[0] for _ in range(20)} == {"v1"}
        assert len(supervisor._sockets) == 1


async def test_a_reload_starts_new_specs_and_drains_missing_ones() -> None:
    """Unchanged ones are left alone when they are not named; sockets nobody needs any more are closed."""
    ports = [free_port() for _ in range(3)]
    one, two, three = (answers(name, bind=f"tcp://127.0.0.1:{port}") for name, port in zip("abc", ports, strict=True))
    async with supervised(one, two) as supervisor:
        pid = supervisor.workers[0].pid
        asking = asyncio.create_task(ask(ports[1], b"later\n"))
        await eventually_total(supervisor, "test_clients", 1)
        await supervisor.reload([one, three], only=(), reason="file changed")
        assert (await asking)[0] == "v1"
        assert [(info.name, info.state) for info in supervisor.workers] == [
            ("a", WorkerState.READY),
            ("c", WorkerState.READY),
        ]
        assert await ask(ports[0]) == ("v1", pid)
        assert (await ask(ports[2]))[0] == "v1"
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(ports[1])
        assert await total(supervisor, "test_answers") == 3


async def test_the_count_of_workers_can_change() -> None:
    """More are started, fewer are drained; those that stay are not touched."""
    async with supervised(answers()) as supervisor:
        pid = only(supervisor).pid
        await supervisor.reload([answers(count=2)], only=(), reason="file changed")
        assert [info.index for info in supervisor.workers] == [0, 1]
        await supervisor.reload([answers(count=1)], only=(), reason="file changed")
        assert only(supervisor).pid == pid


async def test_a_drain_ends_a_reload() -> None:
    """Whoever drains does not wait for a replacement, and none is left running."""
    async with supervised(answers()) as supervisor:
        hangs = WorkerSpec("a", "tests.engine.entries:hangs", {"where": "start"})
        reloading = asyncio.create_task(supervisor.reload([hangs], reason="SIGHUP"))
        await eventually(lambda: len(supervisor._slots[0].processes) == 2)
        await asyncio.wait_for(supervisor.drain(), SLOW / 2)
        with pytest.raises(StartError, match="being stopped"):
            await reloading
        assert only(supervisor).state is WorkerState.STOPPED
        with pytest.raises(StartError, match="draining"):
            await supervisor.reload(reason="SIGHUP")


async def test_a_dead_end_is_left_by_a_reload() -> None:
    """A worker that was given up runs again once what it runs is mended."""
    dies = WorkerSpec("a", "tests.engine.entries:dies")
    async with supervised(dies, restart=RestartPolicy(deaths=1)) as supervisor:
        with pytest.raises(CrashLoop):
            await asyncio.wait_for(supervisor.wait(), SLOW)
        await supervisor.reload([answers()], reason="SIGHUP")
        assert (await ask(port_of(supervisor)))[0] == "v1"


# Update


async def test_an_update_changes_all_workers_in_place() -> None:
    """No process is replaced; those that are started later come up with the new args."""
    async with supervised(answers(count=2)) as supervisor:
        port, pids = port_of(supervisor), {info.pid for info in supervisor.workers}
        async with Hammer.on(port) as hammer:
            await supervisor.update("a", {"version": "v2"}, args={"version": "v2"}, reason="file changed")
            answered = hammer.answered
            await eventually(lambda: hammer.answered > answered + 8)  # what was in flight is through
            hammer.seen.clear()
            await eventually(lambda: len(hammer.seen) == 2, timeout=SLOW)
        assert hammer.seen == {("v2", pid) for pid in pids}
        assert {info.pid for info in supervisor.workers} == pids
        assert supervisor.specs == [answers(count=2, version="v2")]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert (await ask(port))[0] == "v2"


@pytest.mark.parametrize(
    ("payload", "error", "text"),
    [
        ({"refuse": "no good"}, ConfigError, "test.toml: line 3: answers.version: no good"),
        ({"raise": "a bug"}, StartError, "worker a#0: ValueError: a bug"),
        ({"hang": True}, StartError, "worker a#0: no answer to prepare within 0.5 s"),
        ({"die": True}, StartError, "no worker of a is there to try the update"),
    ],
)
async def test_a_refused_update_changes_nothing(payload: dict[str, Any], error: type[Exception], text: str) -> None:
    """Whatever goes wrong in prepare, the old version goes on, also after a restart; the next update may succeed."""
    async with supervised(answers(), update_timeout=0.5) as supervisor:
        port = port_of(supervisor)
        with pytest.raises(error) as caught:
            await supervisor.update("a", payload, args={"version": "v2"}, reason="file changed")
        assert str(caught.value) == text
        assert supervisor.specs == [answers()]
        assert (await ask(port))[0] == "v1"
        await eventually(lambda: only(supervisor).state is WorkerState.READY, timeout=SLOW)
        await supervisor.update("a", {"version": "v3"}, args={"version": "v3"}, reason="again")
        assert (await ask(port))[0] == "v3"


async def test_a_worker_that_dies_in_an_update_comes_back_updated(tmp_path: Path) -> None:
    """The others have decided for it."""
    async with supervised(answers(count=2)) as supervisor:
        payload = {"die_once": str(tmp_path / "x"), "version": "v2"}
        await supervisor.update("a", payload, args={"version": "v2"}, reason="file changed")
        await eventually(lambda: sum(info.restarts for info in supervisor.workers) == 1, timeout=SLOW)
        assert {await ask(port_of(supervisor)) for _ in range(20)} <= {("v2", info.pid) for info in supervisor.workers}


async def test_a_worker_that_fails_to_commit_is_replaced() -> None:
    """It was decided, so a worker that cannot follow makes room for one that starts that way."""
    async with supervised(answers()) as supervisor:
        pid = only(supervisor).pid
        payload = {"version": "v2", "fail_commit": True}
        await supervisor.update("a", payload, args={"version": "v2"}, reason="file changed")
        info = await ready_again(supervisor, pid)
        assert await ask(port_of(supervisor)) == ("v2", info.pid)
        assert info.last_exit == "did not take the update: worker a#0: RuntimeError: commit went wrong"


async def test_an_update_waits_for_a_worker_that_is_being_restarted() -> None:
    """A death a moment before does not refuse a change, nor let it pass untried."""
    async with supervised(answers()) as supervisor:
        pid = only(supervisor).pid
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: only(supervisor).state is not WorkerState.READY)
        await supervisor.update("a", {"version": "v2"}, args={"version": "v2"}, reason="file changed")
        assert (await ask(port_of(supervisor)))[0] == "v2"
        with pytest.raises(StartError, match="no workers called 'b'"):
            await supervisor.update("b", {}, args={}, reason="file changed")


# Metrics


async def test_a_worker_that_does_not_answer_shows_its_last_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process costs a scrape some time, and nothing else."""
    monkeypatch.setattr(process_module, "_COLLECT_TIMEOUT", 0.1)
    async with supervised(answers()) as supervisor:
        await ask(port_of(supervisor))
        await eventually_total(supervisor, "test_answers", 1)
        pid = only(supervisor).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            with capture_logs() as logs:
                assert await total(supervisor, "test_answers") == 1
        finally:
            os.kill(pid, signal.SIGCONT)
        assert any(entry["event"] == "metrics are not fresh" for entry in logs)
