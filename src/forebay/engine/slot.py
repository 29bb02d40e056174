"""The place of one worker: keeps exactly one process doing its work in it, whatever dies, hangs or is replaced.

A restart after a death and a replacement by a reload may go on at the same time. Each starts its process on its own;
neither waits for the other, so a replacement that hangs keeps nobody from restarting the worker that died meanwhile. A
restarted process that finds its place taken when it is ready, or its spec outdated, drains.

The process in place is watched: one that is not heard of any more is killed and restarted, and the slot's owner is told
of one that is worn.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import structlog

from forebay.engine.address import Address
from forebay.engine.cores import core_for
from forebay.engine.loop import now, sleep
from forebay.engine.process import ListenSource, Process, SocketKey
from forebay.engine.spec import WorkerSpec
from forebay.engine.tasks import Gate, Task, Tasks
from forebay.engine.watchdog import blocked_at
from forebay.errors import CrashLoop, StartError
from forebay.policy.recycle import Wear, Worn
from forebay.policy.restart import RestartHistory, RestartPolicy
from forebay.policy.silence import Silence

__all__ = ["Slot", "SlotSettings", "WorkerInfo", "WorkerState"]

log = structlog.get_logger("forebay.engine")


class WorkerState(StrEnum):
    """What goes on in a slot."""

    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"  # it died, and is started again in a moment
    FAILED = "failed"  # it died too often, and is not
    DRAINING = "draining"
    STOPPED = "stopped"


_NEXT: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STARTING: frozenset(set(WorkerState) - {WorkerState.STARTING}),
    WorkerState.READY: frozenset(set(WorkerState) - {WorkerState.STARTING}),  # READY again: replaced
    WorkerState.BACKOFF: frozenset(WorkerState),  # READY at once: a reload filled the place
    WorkerState.FAILED: frozenset({WorkerState.READY, WorkerState.DRAINING, WorkerState.STOPPED}),  # READY: by a reload
    WorkerState.DRAINING: frozenset({WorkerState.DRAINING, WorkerState.STOPPED}),
    WorkerState.STOPPED: frozenset({WorkerState.STOPPED}),
}


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as an operator sees it."""

    name: str  # its spec's
    index: int
    pid: int  # 0: there is no process now
    state: WorkerState
    restarts: int  # in this place, after deaths; replacements do not count
    started_at: float  # UNIX time in seconds; 0 without a process
    last_exit: str  # why the process before this one ended; "" for the first
    addresses: tuple[Address, ...] = ()  # where it listens
    last_replacement: str = ""  # why a worker here was replaced last; "" when none was
    lag: float = 0.0  # seconds: the longest of its event loop in the last second; while it is blocked, since when
    memory: int = 0  # resident bytes


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """What all slots of a supervisor have in common.

    :param drain_timeout: seconds a worker has to finish what is in flight.
    :param start_timeout: seconds a worker has to become ready.
    """

    drain_timeout: float = 30.0
    start_timeout: float = 30.0
    restart: RestartPolicy = field(default_factory=RestartPolicy)


class Slot:
    """One worker's place.

    :param listen: as for :class:`~forebay.engine.process.Process`.
    :param on_gone: called with each process that ended, once its metrics are final.
    :param on_give_up: called when the worker keeps dying.
    :param on_worn: called with the slot while its worker is worn, again and again until it is replaced.

    ``current`` is the process that does the work, and ``None`` while there is none. ``up`` is open while there is.
    ``processes`` are all that live: also those being started, and those that drain.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        index: int,
        settings: SlotSettings,
        *,
        listen: ListenSource,
        on_gone: Callable[[Process], None],
        on_give_up: Callable[[CrashLoop], None],
        on_worn: Callable[[Slot, Worn], None],
    ) -> None:
        self.spec = spec
        self.index = index
        self.name = f"{spec.name}#{index}"
        self.state = WorkerState.STARTING
        self.current: Process | None = None
        self.up = Gate()
        self.processes: set[Process] = set()
        self.restarts = Counter({"crash": 0, "watchdog": 0})  # by cause
        self.replacements = Counter({"reload": 0, "recycle": 0, "memory": 0})
        self.last_exit = ""
        self.last_replacement = ""
        self.wear = Wear()
        self.closing = False
        self._listens: dict[SocketKey, Address] = {}
        self._settings = settings
        self._history = RestartHistory(settings.restart)
        self._listen = listen
        self._on_gone = on_gone
        self._on_give_up = on_give_up
        self._on_worn = on_worn
        self._tasks = Tasks()
        self._retiring: set[Process] = set()
        self._reviving: Task[None] | None = None
        self._watching: Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Slot {self.name} {self.state} {self.current} processes={len(self.processes)}>"

    def infos(self) -> list[WorkerInfo]:
        """The worker, and after it those it replaced that still drain."""
        current = self.current
        return [self._info(current, self.state)] + [
            self._info(process, WorkerState.DRAINING) for process in self._retiring if process is not current
        ]

    def _info(self, process: Process | None, state: WorkerState) -> WorkerInfo:
        return WorkerInfo(
            name=self.spec.name,
            index=self.index,
            pid=process.pid if process else 0,
            state=state,
            restarts=self.restarts.total(),
            started_at=process.started_at if process else 0.0,
            last_exit=self.last_exit,
            addresses=tuple(process.listens.values()) if process else (),
            last_replacement=self.last_replacement,
            lag=process.lag if process else 0.0,
            memory=process.memory if process else 0,
        )

    def listens(self) -> set[SocketKey]:
        """The sockets this place needs: those of its worker, be it dead at the moment, and of one being started."""
        keys = set(self._listens)
        for process in self.processes - self._retiring:
            keys |= process.listens.keys()
        return keys

    def _to(self, state: WorkerState) -> None:
        if state not in _NEXT[self.state]:
            raise RuntimeError(f"worker {self.name} cannot go from {self.state} to {state}")
        self.state = state

    # Start and replace

    async def start(self) -> None:
        """Start its first worker.

        :raises StartError: in one line, why it could not be.
        """
        self._install(await self._launch(self.spec))

    @property
    def is_draining(self) -> bool:
        """Whether a worker that was here before still drains."""
        return bool(self._retiring)

    async def roll(self, spec: WorkerSpec, reason: str, cause: str = "reload") -> None:
        """Start a worker of ``spec``; once it is ready it takes the place, and the one it replaces drains.

        :param cause: the reason in a word: ``reload``, ``recycle`` or ``memory``.
        :raises StartError: it could not be started; the one in place stays.
        """
        for process in tuple(self._retiring):  # at most one drains, however often this is called
            await process.gone.wait()
        process = await self._launch(spec)
        old = self.current
        self.spec = spec
        self._install(process, cause)
        self.replacements[cause] += 1
        self.last_replacement = reason
        log.info("worker replaced", worker=self.name, reason=reason, pid=process.pid, old_pid=old.pid if old else None)
        if old is not None:
            self.last_exit = f"replaced ({reason})"
            self._retire(old)

    async def _launch(self, spec: WorkerSpec) -> Process:
        self._must_be_open()
        settings = self._settings
        core = core_for(self.index) if spec.affinity else None
        process = Process(self.name, spec, drain_timeout=settings.drain_timeout, listen=self._listen, core=core)
        self.processes.add(process)
        self._tasks.spawn(self._follow(process), name=f"follow {self.name}")
        try:
            await process.start(settings.start_timeout)
            self._must_be_open()
        except StartError:
            self._tasks.spawn(process.stop(), name=f"stop {self.name}")
            self._must_be_open()
            raise
        return process

    def _must_be_open(self) -> None:
        if self.closing:
            raise StartError(f"worker {self.name}: not started, it is being stopped")

    def _install(self, process: Process, because: str = "") -> None:
        self._to(WorkerState.READY)
        self.current = process
        self._listens = process.listens
        self.up.open()
        log.info("worker started", worker=self.name, pid=process.pid)
        spec = process.spec
        self.wear.renewed(spec.recycle, spec.memory_limit, now=now(), random=random.random(), because=because)  # noqa: S311  # no secret
        self._watch_no_more()
        self._watching = self._tasks.spawn(self._watch(process), name=f"watch {self.name}")
        if process.lost.is_set():  # so early that nobody knew it was the current one
            self._on_lost(process)

    # Watch

    async def _watch(self, process: Process) -> None:
        """Look after the process in place, until it is that no more."""
        tick = process.beat_interval / 2
        limit = process.spec.watchdog
        silence = Silence(limit, tick, now()) if limit is not None else None
        heard_at = process.heard_at
        while process is self.current:
            await sleep(tick)
            if silence is not None and silence.tick(now(), heard=process.heard_at != heard_at):
                await self._end_blocked(process, silence.seconds)
                return
            heard_at = process.heard_at
            if worn := self.wear.verdict(now(), accepted=process.beat.accepted, memory=process.memory):
                self._on_worn(self, worn)

    async def _end_blocked(self, process: Process, seconds: float) -> None:
        stacks, missing = await process.stacks()
        where = blocked_at(stacks, os.getcwd())
        log.error(
            "worker does not respond",
            worker=self.name,
            pid=process.pid,
            seconds=round(seconds, 1),
            where=where or "unknown",
            stacks=stacks or f"no dump: {missing}",
        )
        more = f"blocked at {where}" if where else "no frame in its dump" if stacks else f"no dump: {missing}"
        process.lose(f"did not respond for {seconds:.1f} s, {more}", "watchdog")
        process.kill()

    def _watch_no_more(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    # Death

    async def _follow(self, process: Process) -> None:
        await process.lost.wait()
        if process is self.current:
            self._on_lost(process)
        await process.gone.wait()
        self.processes.discard(process)
        self._retiring.discard(process)
        self._on_gone(process)
        died = process.told and process.ready_since is not None and process.exit != "exit code 0"
        say = log.warning if died else log.info  # what it had in flight is lost
        say("worker ended", worker=self.name, pid=process.pid, exit=process.exit)

    def _on_lost(self, process: Process) -> None:
        self.current = None
        self.up.close()
        if self.closing:
            return
        self._to(WorkerState.BACKOFF)
        self.last_exit = process.why
        if not process.gone.is_set():
            self._retire(process)
        why, uptime = process.why, process.uptime
        if self._reviving is None or self._reviving.done():
            self._reviving = self._tasks.spawn(self._revive(why, uptime, process.cause), name=f"restart {self.name}")
        else:  # of the one before; a reload had filled the place meanwhile
            log.warning("worker died", worker=self.name, reason=why, uptime=round(uptime, 3), restart_in="under way")

    def _retire(self, process: Process) -> None:
        self._retiring.add(process)
        self._tasks.spawn(process.drain(), name=f"drain {self.name}")

    async def _revive(self, why: str, uptime: float, cause: str) -> None:
        while True:
            verdict = self._history.died(now(), uptime)
            if not verdict.restart:
                self._give_up(why, verdict.deaths, verdict.span)
                return
            log.warning("worker died", worker=self.name, reason=why, uptime=round(uptime, 3), restart_in=verdict.delay)
            self._to(WorkerState.BACKOFF)
            await sleep(verdict.delay)
            if self._taken():
                return
            self._to(WorkerState.STARTING)
            try:
                process = await self._launch_latest()
            except StartError as error:
                if self.closing or self._taken():
                    return
                why, uptime = str(error), 0.0
                self.last_exit = why
                continue
            self._reviving = None
            if self._taken():
                self._retire(process)
            else:
                self.restarts[cause] += 1
                self._install(process)
            return

    async def _launch_latest(self) -> Process:
        """Launch by the spec as it is when the worker is ready, not as it was when it began to start."""
        while True:
            spec = self.spec
            process = await self._launch(spec)
            if self.spec == spec or self._taken():
                return process
            self._retire(process)

    def _taken(self) -> bool:
        """Whether there is a worker in place: while we waited, a reload may have put one there."""
        return self.current is not None

    def _give_up(self, why: str, deaths: int, span: float) -> None:
        self._to(WorkerState.FAILED)
        error = CrashLoop(f"worker {self.name} died {deaths} times within {span:.1f} s, giving up; last: {why}")
        log.error("crash loop", worker=self.name, deaths=deaths, seconds=round(span, 1), last=why)
        self._on_give_up(error)

    # End

    async def drain(self) -> None:
        """Let the worker, and those that drain already, finish; return when nothing is left."""
        self._close()
        await asyncio.gather(*(process.drain() for process in tuple(self.processes)))
        await self._ended()

    async def stop(self) -> None:
        """Cut everything; return when nothing is left."""
        self._close()
        await asyncio.gather(*(process.stop() for process in tuple(self.processes)))
        await self._ended()

    def _close(self) -> None:
        if not self.closing:
            self.closing = True
            self._to(WorkerState.DRAINING)
        if self._reviving is not None:
            self._reviving.cancel()
        self._watch_no_more()

    async def _ended(self) -> None:
        await self._tasks.join()
        if self.state is not WorkerState.STOPPED:
            self._to(WorkerState.STOPPED)
