"""A clock that only tests move: what takes an hour takes no time, and everything happens in its exact order."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import inf
from sys import _getframe
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from forebay.engine.job_threads import Done, JobThreads
from forebay.testing.virtual_loop import VirtualLoop

__all__ = ["VirtualClock"]

T = TypeVar("T")

_KINDS = ("monotonic", "perf_counter", "time")
_REAL: dict[str, Callable[[], Any]] = {
    name: getattr(time, name) for kind in _KINDS for name in (kind, f"{kind}_ns")
}  # in a dict, where no clock looks for them
_current: list[VirtualClock | None] = [None]
_JOB_THREADS: Any = JobThreads
_one_at_a_time = threading.Lock()
_BLOCKING = ("concurrent.futures.", "multiprocessing.")
"""Of the standard library: what waits in real time in threads of its own, and calls the clock by its name for that."""


class VirtualClock:
    """The time, for tests. Within the block nobody waits for it: it stands still until it is moved, by the test or,
    in :meth:`run`, to the next timer as soon as nothing else can run::

        def test_a_session_ends() -> None:
            with VirtualClock() as clock:
                sessions = Sessions(lifetime=3600)

                async def main() -> None:
                    await sessions.open("x")
                    await clock.elapse(3599)
                    assert "x" in sessions
                    await clock.elapse(1)
                    assert "x" not in sessions

                clock.run(main())

    As a fixture of pytest, for tests that are plain ``def`` functions (one that is ``async def`` runs on a loop of its
    plugin, whose timers know nothing of this clock)::

        @pytest.fixture
        def clock() -> Iterator[VirtualClock]:
            with VirtualClock() as clock:
                yield clock

    What is virtual: ``time.monotonic``, ``time.perf_counter``, ``time.time`` and their ``_ns`` forms, called by these
    names, and every name at the top of a module of Forebay, and of ``packages``, that is one of these functions, such
    as :data:`forebay.engine.now`. The monotonic clock starts at ``start``; the other two go on from where they were,
    and all of them move by the same. When the block ends, everything is as before, in modules imported meanwhile too.
    What is not: ``datetime.now()``, ``time.sleep()``, timeouts of blocking calls, functions that somebody took hold of
    before the block, as default arguments do, and all other processes. Another loop than that of :meth:`run`, such as
    one of ``asyncio.run``, is not moved: its timers never fire.

    Timers of :meth:`run` fire in the order of their times; those of one moment in the order in which they were set.

    The world outside keeps its own time, and is waited for in real time where the loop knows that something will come:

    * While a job of ``loop.run_in_executor`` (``asyncio.to_thread``, the resolution of names), or a thread or a process
      of Forebay's :class:`~forebay.engine.executor.Executor` works, time stands still: a deadline of its own never
      comes for it. For other threads and processes, :meth:`hold` says so.
    * Sockets are real. Once nothing comes from them, for ``autojump`` real seconds where there was something before,
      time goes on. Peers on the same loop, or in a job of an executor, need no more than that. Others, in processes or
      threads of their own, are given the time they need by a larger ``autojump``, or by :meth:`hold`.

    :param start: where the monotonic clock begins, in seconds.
    :param packages: names of modules, or of packages, whose names are replaced as those of Forebay are: that of a test
        that has imported ``now`` itself is ``(__name__,)``.
    :param autojump: real seconds that sockets must be silent before time is moved on.
    :param patience: real seconds after which :meth:`run` raises ``RuntimeError`` when nothing can happen any more, or a
        thread does not come to an end.
    :raises ValueError: a parameter is out of range.
    """

    def __init__(
        self,
        start: float = 1_000.0,
        *,
        packages: Sequence[str] = (),
        autojump: float = 0.001,
        patience: float = 5.0,
    ) -> None:
        if not 0 <= start < 1e9:
            raise ValueError(f"start {start}: must be at least 0 and less than 1e9")
        if not 0 <= autojump < inf:
            raise ValueError(f"autojump {autojump}: must not be negative, and finite")
        if not 0 < patience < inf:
            raise ValueError(f"patience {patience}: must be more than 0, and finite")
        self.start = start
        self.autojump = autojump
        self.patience = patience
        self._at = start
        self._bases: dict[str, float] = {}  # what each kind of clock showed at the start
        self._roots = {"time", "forebay", *packages}
        self._prefixes = ("forebay.", *(f"{name}." for name in packages))
        self._loop: VirtualLoop | None = None
        self._inside = False
        self._known: set[str] = set()
        self._patched: list[ModuleType] = []
        self._threads: tuple[Any, Any] = (None, None)

    def __repr__(self) -> str:
        return f"<VirtualClock {self._at} started at {self.start}{'' if self._inside else ' not in use'}>"

    # Being the time

    def __enter__(self) -> VirtualClock:
        if _running():
            raise RuntimeError("a VirtualClock is entered before its loop runs: in a plain def, which then calls run()")
        if not _one_at_a_time.acquire(blocking=False):
            raise RuntimeError("there is a VirtualClock already: two cannot be the time at once")
        self._inside = True
        self._at = self.start
        self._bases = {name: self.start if name == "monotonic" else _REAL[name]() for name in _KINDS}
        _current[0] = self
        self._known = set(sys.modules)
        try:
            self._patch()
            self._hold_threads()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inside = False
        _current[0] = None
        try:
            if self._threads[0] is not None:
                _JOB_THREADS.run, _JOB_THREADS.close = self._threads
            self._restore()
        finally:
            _one_at_a_time.release()

    def _ours(self, name: str) -> bool:
        return name in self._roots or name.startswith(self._prefixes)

    def _patch(self) -> None:
        """Put the fakes where a module has the real functions at its top."""
        for module in _modules(self._ours):
            self._patched += _exchange(module, _FAKE_FOR)

    def _restore(self) -> None:
        imported_meanwhile = _modules(lambda name: name not in self._known)
        for module in (*self._patched, *imported_meanwhile):
            _exchange(module, _REAL_FOR)
        self._patched.clear()

    def _hold_threads(self) -> None:
        """Let the threads of Forebay's executors keep the time while they work, as those of asyncio do."""
        run, close = self._threads = JobThreads.run, JobThreads.close

        def held_run(threads: JobThreads, call: Callable[[], Any], done: Done) -> None:
            loop = asyncio.get_running_loop()
            if not isinstance(loop, VirtualLoop):
                run(threads, call, done)
                return

            def held_done(result: Any, error: BaseException | None) -> None:
                loop.held -= 1
                done(result, error)

            run(threads, call, held_done)
            loop.held += 1

        async def held_close(threads: JobThreads, timeout: float) -> int:
            loop = asyncio.get_running_loop()
            with loop.hold() if isinstance(loop, VirtualLoop) else nullcontext():
                return await close(threads, timeout)

        _JOB_THREADS.run, _JOB_THREADS.close = held_run, held_close  # until the block ends

    # The time

    def now(self) -> float:
        """The virtual time, in seconds. After the block: what it was at its end."""
        return self._at

    def reading(self, kind: str) -> float:
        """What ``time.monotonic``, ``perf_counter`` or ``time`` returns now."""
        return self._at if kind == "monotonic" else self._bases[kind] + (self._at - self.start)

    def advance(self, seconds: float) -> None:
        """Move the time. That is all: within :meth:`run`, what is due then has its turn when the loop has, late, as if
        the caller had computed for so long.

        :raises ValueError: ``seconds`` is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds {seconds}: time does not go back")
        self._at += seconds

    def _move(self, at: float) -> None:
        self._at = at

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run ``main`` on a new loop to its end, end what it has left running, and return its result.

        May be called again: time goes on from where it was.

        :raises RuntimeError: nothing can happen any more and ``main`` has not ended, which would be a deadlock. The
            message names the tasks and where they wait. Or: not within the block, or a loop runs already.
        """
        if not self._inside or _running() or self._loop is not None:
            main.close()
            where = "while it runs in another thread"
            if not self._inside:
                where = "outside of the clock's block"
            elif _running():
                where = "while a loop runs in this thread"
            raise RuntimeError(f"VirtualClock.run() was called {where}")
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                return runner.run(main)
        finally:
            self._loop = None

    def _new_loop(self) -> VirtualLoop:
        self._loop = VirtualLoop(self.now, self._move, _REAL["monotonic"], self.autojump, self.patience)
        return self._loop

    def _running_loop(self) -> VirtualLoop:
        if self._loop is None:
            raise RuntimeError("this is for coroutines that run in VirtualClock.run()")
        return self._loop

    async def settle(self) -> None:
        """Return when everything has run that can without time passing: tasks, callbacks, what sockets have brought."""
        await self._running_loop().settle()

    async def elapse(self, seconds: float) -> None:
        """Let so much time pass: every timer up to then fires at its time, those of that moment included, and what they
        set off has run. The caller goes on last.

        :raises ValueError: ``seconds`` is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds {seconds}: time does not go back")
        await asyncio.sleep(seconds)
        await self.settle()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the time where it is within the block, for something outside that takes real time: a thread, a process.
        What is awaited then has to come from there."""
        with self._running_loop().hold():
            yield


def _fake(name: str) -> Callable[[], Any]:
    """What stands for the function ``name`` of :mod:`time`. Where somebody has kept it, it is that again when no clock
    is in use, and is virtual again with the next."""
    real, kind = _REAL[name], name.removesuffix("_ns")

    def seconds() -> Any:
        clock = _current[0]
        if clock is None or _getframe(1).f_globals.get("__name__", "").startswith(_BLOCKING):
            return real()
        return clock.reading(kind)

    def nanoseconds() -> Any:
        clock = _current[0]
        return real() if clock is None else round(clock.reading(kind) * 1e9)

    return seconds if name == kind else nanoseconds


def _in_a_child() -> None:
    """A process that was forked within the block has the real time: nobody there moves the other."""
    _current[0] = None


os.register_at_fork(after_in_child=_in_a_child)

_FAKE = {name: _fake(name) for name in _REAL}
_FAKE_FOR = {id(function): _FAKE[name] for name in _REAL for function in (_REAL[name], _FAKE[name])}
_REAL_FOR = {id(fake): _REAL[name] for name, fake in _FAKE.items()}


def _exchange(module: ModuleType, others: dict[int, Callable[[], Any]]) -> list[ModuleType]:
    """Put the others for what a module has at its top. The module, if it had something."""
    space = vars(module)
    names = [name for name, value in space.items() if id(value) in others]
    for name in names:
        space[name] = others[id(space[name])]
    return [module] if names else []


def _modules(where: Callable[[str], bool]) -> list[ModuleType]:
    return [found for name, found in sys.modules.copy().items() if where(name) and isinstance(found, ModuleType)]


def _running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
