"""The virtual clock: timers fire at once and in their order, and the real world is waited for all the same."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import forebay.engine.loop
from forebay.engine import TCPServer
from forebay.engine.executor import Executor
from forebay.engine.loop import RESOLUTION, now, ticker
from forebay.testing.virtual_clock import VirtualClock
from forebay.wire.framing import Lines
from tests.support import RawClient, running

REAL = time.monotonic, time.perf_counter, time.time, time.monotonic_ns, time.perf_counter_ns, time.time_ns
real_monotonic = [time.monotonic]  # in a list, where no clock looks for it


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """A clock that is the time of this module too."""
    with VirtualClock(packages=(__name__,)) as clock:
        yield clock


@pytest.fixture
def at_once() -> Iterator[None]:
    """The test takes no real time that could be meant by what it waits for."""
    begin = real_monotonic[0]()
    yield
    assert real_monotonic[0]() - begin < 10


# What is the time


def test_all_clocks_stand_still_until_they_are_moved(clock: VirtualClock) -> None:
    """Two calls give the same; then all have moved by the same, and the wall clock is near the real one."""
    first = [function() for function in _named()]
    assert [function() for function in _named()] == first
    assert abs(first[2] - REAL[2]()) < 60
    clock.advance(2.5)
    moved = [after - before for before, after in zip(first, [function() for function in _named()], strict=True)]
    assert moved == pytest.approx([2.5, 2.5, 2.5, 2_500_000_000, 2_500_000_000, 2_500_000_000], abs=1e-5)
    assert now() == forebay.engine.loop.now() == time.monotonic() == clock.now() == 1_002.5


def _named() -> list[Any]:
    return [time.monotonic, time.perf_counter, time.time, time.monotonic_ns, time.perf_counter_ns, time.time_ns]


def test_everything_is_restored_after_an_exception() -> None:
    """Also when the block raised: the functions, the names in modules, and a clock can be made again."""
    with pytest.raises(LookupError), VirtualClock(packages=(__name__,)):
        assert now() == 1_000
        raise LookupError
    assert tuple(_named()) == REAL
    assert now is REAL[0]
    assert forebay.engine.loop.now is REAL[0]
    with VirtualClock(start=5) as clock:
        assert time.monotonic() == 5
    assert "not in use" in repr(clock)


def test_only_names_of_forebay_and_of_given_packages_are_replaced() -> None:
    """This module's own is the real one when it is not named."""
    with VirtualClock():
        assert now is REAL[0]
        assert forebay.engine.loop.now() == 1_000
        assert threading.current_thread().is_alive()  # the threading module has taken hold of the real one


def test_modules_imported_meanwhile_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that binds the function while it is virtual has the real one afterwards, in whatever package it is."""
    (tmp_path / "imported_meanwhile.py").write_text("from time import monotonic as moment, time\n")
    monkeypatch.syspath_prepend(tmp_path)
    with VirtualClock():
        module = importlib.import_module("imported_meanwhile")
        assert module.moment() == 1_000
    del sys.modules["imported_meanwhile"]
    assert (module.moment, module.time) == (REAL[0], REAL[2])


def test_who_has_kept_the_virtual_function_gets_the_real_time_afterwards() -> None:
    """A function that outlives the block in somebody's attribute does not stand still for ever."""
    with VirtualClock() as clock:
        kept, kept_ns = time.monotonic, time.monotonic_ns
        clock.advance(1)
        assert (kept(), kept_ns()) == (1_001, 1_001_000_000_000)
    assert abs(kept() - REAL[0]()) < 5
    assert abs(kept_ns() - REAL[3]()) < 5e9
    assert clock.now() == 1_001


def test_a_virtual_function_that_is_left_in_a_module_is_virtual_again() -> None:
    """Where a test undoes a patch after the block only; the next clock drives it, and puts the real one there."""
    with pytest.MonkeyPatch.context() as patch, VirtualClock():
        patch.setattr(forebay.engine.loop, "now", lambda: 7.0)
    with VirtualClock(start=3):
        assert forebay.engine.loop.now() == 3
    assert forebay.engine.loop.now is REAL[0]


def test_what_a_test_has_replaced_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is something else by the end of the block stays that."""
    with VirtualClock():
        monkeypatch.setattr(forebay.engine.loop, "now", lambda: 7.0)
    assert forebay.engine.loop.now() == 7.0


def test_a_clock_begins_anew_with_each_block() -> None:
    """At its start, and the wall clock near the real one, however far it was moved before."""
    clock = VirtualClock()
    for _ in range(2):
        with clock:
            assert time.monotonic() == 1_000
            assert abs(time.time() - REAL[2]()) < 60
            clock.advance(3_600)


def test_a_process_that_is_forked_has_the_real_time() -> None:
    """What stands still there would do so for ever."""
    with VirtualClock():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if not (child := os.fork()):
                theirs.sendall(repr(time.monotonic()).encode())
                os._exit(0)
            os.waitpid(child, 0)
            assert abs(float(ours.recv(100)) - REAL[0]()) < 60


def test_blocking_calls_of_the_standard_library_take_real_time() -> None:
    """Those that look at the clock themselves would never end, and spin."""
    ours, theirs = multiprocessing.Pipe()
    with VirtualClock(), ours, theirs:
        for _ in range(3):
            assert not ours.poll(0)
        assert not ours.poll(0.01)
        with pytest.raises(TimeoutError):
            list(concurrent.futures.as_completed([concurrent.futures.Future()], timeout=0.01))


def test_there_is_one_clock_at_a_time() -> None:
    """A second one is refused, in any thread, and does not disturb the first."""
    errors: list[RuntimeError] = []

    def second() -> None:
        try:
            with VirtualClock():
                pass
        except RuntimeError as error:
            errors.append(error)

    with VirtualClock() as clock:
        second()
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        clock.advance(1)
        assert time.monotonic() == 1_001
    assert [str(error)[:34] for error in errors] == ["there is a VirtualClock already: t"] * 2


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"start": -1}, "start -1: must be at least 0"),
        ({"start": float("nan")}, "start nan: must be"),
        ({"autojump": -1}, "autojump -1: must not be negative"),
        ({"autojump": inf}, "autojump inf: must not be negative, and finite"),
        ({"autojump": nan}, "autojump nan"),
        ({"patience": 0}, "patience 0: must be more than 0"),
        ({"patience": inf}, "patience inf: must be more than 0, and finite"),
        ({"patience": nan}, "patience nan"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    """With the name of what is wrong."""
    with pytest.raises(ValueError, match=message):
        VirtualClock(**parameters)


def test_misuse_is_told() -> None:
    """Outside of the block, within a loop, time that goes back."""
    clock = VirtualClock()
    with pytest.raises(RuntimeError, match="outside of the clock's block"):
        clock.run(asyncio.sleep(0))
    with clock:
        with pytest.raises(ValueError, match="seconds -1: time does not go back"):
            clock.advance(-1)

        async def main() -> None:
            with pytest.raises(RuntimeError, match="while a loop runs in this thread"):
                clock.run(asyncio.sleep(0))
            with pytest.raises(ValueError, match="seconds -1"):
                await clock.elapse(-1)

        clock.run(main())
        with pytest.raises(RuntimeError, match=r"that run in VirtualClock.run\(\)"), clock.hold():
            pass

        async def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="while it runs in another thread"):
                await asyncio.to_thread(clock.run, asyncio.sleep(0))
            await clock.settle()

        clock.run(elsewhere())


async def test_it_is_not_entered_while_a_loop_runs() -> None:
    """That loop's timers would stand still: the test has to be a plain function."""
    with pytest.raises(RuntimeError, match="in a plain def"), VirtualClock():
        pass


# Timers


def test_sleeping_takes_no_time(clock: VirtualClock, at_once: None) -> None:
    """A year of it; the result comes back, and the next run goes on where this one ended."""

    async def main(seconds: float) -> float:
        begin = now()
        await asyncio.sleep(seconds)
        assert asyncio.get_running_loop().time() == now()
        return now() - begin

    assert clock.run(main(30)) == 30
    assert clock.run(main(365 * 86_400)) == 365 * 86_400
    assert clock.now() == 1_030 + 365 * 86_400


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.data())
def test_timers_fire_in_the_order_of_their_times(delays: list[int], data: st.DataObject) -> None:
    """At exactly their time, those of one moment in the order in which they were set; cancelled ones do not."""
    cancelled = data.draw(st.sets(st.integers(0, len(delays) - 1)))
    fired: list[tuple[float, int]] = []
    with VirtualClock() as clock:

        async def main() -> None:
            loop = asyncio.get_running_loop()

            def note(number: int) -> None:
                fired.append((clock.now() - 1_000, number))

            timers = [loop.call_later(delay, partial(note, number)) for number, delay in enumerate(delays)]
            for number in cancelled:
                timers[number].cancel()
            await clock.elapse(max(delays))

        clock.run(main())
    kept = [(float(delay), number) for number, delay in enumerate(delays) if number not in cancelled]
    assert fired == sorted(kept)


def test_timers_that_set_timers(clock: VirtualClock) -> None:
    """A thousand in a row, each from the one before: the time does not drift, where floats are coarse neither."""
    clock.advance(1e12)
    times: list[float] = []

    async def main() -> None:
        for _ in range(1_000):
            await asyncio.sleep(0.25)
            times.append(now())

    clock.run(main())
    assert times == [1e12 + 1_000 + 0.25 * number for number in range(1, 1_001)]


@pytest.mark.parametrize("start", [1_000.0, 1e7, 5e8])
def test_what_is_due_at_once_fires(start: float, at_once: None) -> None:
    """Also where floats are coarse, before time has moved, and after the test has moved it."""
    fired: list[float] = []
    with VirtualClock(start) as clock:

        async def main() -> None:
            for seconds in (0, 1e9):
                clock.advance(seconds)
                asyncio.get_running_loop().call_later(0, lambda: fired.append(clock.now() - start))
                await clock.settle()

        clock.run(main())
    assert fired == [0, 1e9]


def test_a_timeout_that_never_comes() -> None:
    """Time does not go on to its end: with nothing else to wait for, that is a deadlock."""
    with VirtualClock(patience=0.05) as clock:

        async def main() -> None:
            await asyncio.wait_for(asyncio.sleep(5), inf)
            async with asyncio.timeout(inf):
                await asyncio.get_running_loop().create_future()

        with pytest.raises(RuntimeError, match="nothing can happen any more"):
            clock.run(main())
        assert clock.now() == 1_005


def test_a_task_group_with_a_timeout(clock: VirtualClock) -> None:
    """What is quicker ends, what is not is cancelled, at the very second."""
    ends: list[tuple[str, float]] = []

    async def work(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            ends.append((name, now() - 1_000))

    async def main() -> None:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(work("slow", 60))
            group.create_task(work("quick", 10))
            group.create_task(work("even", 20))  # set later than the timeout, which is first therefore

    with pytest.raises(TimeoutError):
        clock.run(main())
    assert ends[0] == ("quick", 10.0)
    assert sorted(ends[1:]) == [("even", 20.0), ("slow", 20.0)]


def test_the_ticker_of_forebay(clock: VirtualClock, at_once: None) -> None:
    """Its deadlines come after their time, by two ticks at most; an hour is nothing."""
    expired: list[float] = []

    class Entry:
        expires_at = due_at = inf

        def on_expired(self) -> None:
            expired.append(now() - 1_000)

    async def main() -> None:
        for seconds in (3_600, 0.5, 7):
            ticker().arm(Entry(), seconds)
        await clock.elapse(3_601)

    clock.run(main())
    for seconds, at in zip((0.5, 7, 3_600), expired, strict=True):
        assert seconds <= at <= seconds + 2 * RESOLUTION + 1e-6


def test_advance_makes_timers_late(clock: VirtualClock) -> None:
    """As a computation that takes so long: nothing runs meanwhile, and all that is due runs afterwards."""
    fired: list[float] = []

    async def main() -> None:
        asyncio.get_running_loop().call_later(1, lambda: fired.append(now()))
        clock.advance(5)
        assert not fired
        await clock.settle()

    clock.run(main())
    assert fired == [1_005]


def test_settle_lets_everything_run_but_the_time(clock: VirtualClock) -> None:
    """A chain of tasks and callbacks ends; a timer that is due fires, one that is not waits. Two may settle."""
    seen: list[str] = []

    async def chain(depth: int) -> None:
        if depth:
            await asyncio.create_task(chain(depth - 1))
        else:
            seen.append("end of the chain")

    async def main() -> None:
        tasks = [asyncio.create_task(chain(50))]
        loop = asyncio.get_running_loop()
        loop.call_later(0, seen.append, "due")
        loop.call_later(0.001, seen.append, "not due")
        await asyncio.gather(clock.settle(), clock.settle())
        assert sorted(seen) == ["due", "end of the chain"]
        assert clock.now() == 1_000
        await asyncio.gather(*tasks)

    clock.run(main())


def test_elapse_runs_what_is_due_up_to_then(clock: VirtualClock) -> None:
    """Timers of the last moment included, also those that are set in it; the caller goes on last."""
    seen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(10, lambda: loop.call_later(0, seen.append, "set at the end"))
        waiting = asyncio.create_task(clock.elapse(10))
        await clock.settle()
        loop.call_later(10, seen.append, "set after it")
        loop.call_later(10.5, seen.append, "too late")
        await waiting
        assert sorted(seen) == ["set after it", "set at the end"]

    clock.run(main())


# The world outside


def test_a_server_closes_an_idle_connection(clock: VirtualClock, at_once: None) -> None:
    """Real sockets on one loop: 90 virtual seconds after its last message, and not before."""

    async def main() -> float:
        async def echo(conn: Any) -> None:
            async for message in conn:
                await conn.send(message)

        server = TCPServer(echo, bind="tcp://127.0.0.1:0", framing=Lines(), idle_timeout=90)
        async with running(server):
            client = await RawClient.connect(server.addresses[0].port)
            for _ in range(2):
                await client.send(b"hello\n")
                assert await client.line() == b"hello\n"
                await clock.elapse(80)
            begin = now() - 80
            assert await client.rest(timeout=1_000) == b""
            took = now() - begin
            await client.close()
            return took

    assert 90 <= clock.run(main()) <= 90 + 4 * RESOLUTION


def test_an_answer_comes_before_a_timeout(clock: VirtualClock) -> None:
    """A peer on the same loop is quicker than any timeout, each of a thousand times."""

    async def main() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(line)
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        client = await RawClient.connect(server.sockets[0].getsockname()[1])
        begin = now()
        for _ in range(1_000):
            await client.send(b"x\n")
            await client.line(timeout=0.001)
        assert now() == begin
        await client.close()
        server.close()
        await server.wait_closed()

    clock.run(main())


def test_time_waits_for_a_job_of_an_executor(clock: VirtualClock) -> None:
    """A thread that works in real time is not overtaken by a timer; a blocking client in one is served."""

    async def main() -> None:
        fired: list[float] = []
        asyncio.get_running_loop().call_later(1, lambda: fired.append(now()))
        gate = threading.Event()
        threading.Timer(0.05, gate.set).start()
        assert await asyncio.to_thread(gate.wait, 5)
        assert (now(), fired) == (1_000, [])

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)

        def client() -> bytes:
            with socket.create_connection(server.sockets[0].getsockname(), timeout=5) as sock:
                sock.sendall(b"from a thread\n")
                return sock.recv(100)

        async with asyncio.timeout(0.5):
            assert await asyncio.to_thread(client) == b"from a thread\n"
        server.close()
        await server.wait_closed()
        await clock.elapse(1)
        assert fired == [1_001]

    clock.run(main())


def test_time_waits_for_the_threads_of_an_executor_of_forebay(clock: VirtualClock) -> None:
    """While its thread works, and while its threads end; its deadlines of coroutines come at once."""

    async def main() -> None:
        gate = threading.Event()
        executor = Executor("e", concurrency=2)
        async with running(executor):
            handle = executor.submit_nowait(gate.wait, 5, deadline=1)
            asyncio.get_running_loop().call_later(0, threading.Timer(0.05, gate.set).start)
            assert await handle
            assert now() == 1_000
            late = executor.submit_nowait(asyncio.sleep, 60, deadline=20)
            with pytest.raises(Exception, match="deadline"):
                await late
            assert now() == 1_020
        assert now() == 1_020

    clock.run(main())


def test_hold_keeps_the_time_for_a_thread_of_ones_own(clock: VirtualClock) -> None:
    """What a thread brings by call_soon_threadsafe comes before a timer that is due in no time."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        threading.Timer(0.05, lambda: loop.call_soon_threadsafe(future.set_result, "brought")).start()
        with clock.hold():
            async with asyncio.timeout(0.001):
                assert await future == "brought"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()

    clock.run(main())


def test_autojump_gives_a_peer_elsewhere_its_time() -> None:
    """A peer in a thread that answers after 20 real milliseconds is waited for, where that is asked for."""
    ours, theirs = socket.socketpair()

    def peer() -> None:
        data = theirs.recv(100)
        threading.Event().wait(0.02)
        theirs.sendall(data)

    with VirtualClock(autojump=2.0) as clock, ours, theirs:

        async def main() -> bytes:
            loop = asyncio.get_running_loop()
            ours.setblocking(False)
            thread = threading.Thread(target=peer)
            thread.start()
            await loop.sock_sendall(ours, b"ping")
            async with asyncio.timeout(1):
                answer = await loop.sock_recv(ours, 100)
            thread.join()
            return answer

        assert clock.run(main()) == b"ping"
        assert clock.now() == 1_000


# When nothing can happen any more


def test_a_deadlock_is_told_with_the_tasks_that_wait() -> None:
    """By name and place, soon, and they are ended in an orderly way."""
    ended: list[str] = []

    async def stuck() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("stuck")

    async def main() -> None:
        await asyncio.create_task(stuck(), name="the one that waits")

    with VirtualClock(patience=0.05) as clock:
        with pytest.raises(
            RuntimeError, match=r"nothing can happen.*the one that waits at .*test_virtual_clock.py:\d+"
        ):
            clock.run(main())
        assert ended == ["stuck"]
        assert clock.run(asyncio.sleep(1, "the next run is fine")) == "the next run is fine"


def test_a_thread_that_does_not_end_is_told() -> None:
    """Time stands still for it, so its timeout would never come: an error says so."""
    gate = threading.Event()

    async def main() -> None:
        try:
            async with asyncio.timeout(1):
                await asyncio.to_thread(gate.wait)
        finally:
            gate.set()

    with VirtualClock(patience=0.05) as clock, pytest.raises(RuntimeError, match="a thread that the loop waits for"):
        clock.run(main())


def test_what_a_run_leaves_behind_is_ended(clock: VirtualClock) -> None:
    """Tasks are cancelled, the executor is shut down, and time does not run away over it."""
    ended: list[str] = []

    async def lingers() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.append("lingers")

    kept: list[asyncio.Task[None]] = []

    async def main() -> None:
        kept.append(asyncio.create_task(lingers()))
        await asyncio.to_thread(lambda: None)

    clock.run(main())
    assert ended == ["lingers"]
    assert clock.now() == 1_000
