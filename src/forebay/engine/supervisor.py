"""Keeps worker processes: starts, restarts, replaces, updates, drains and counts them.

The supervisor holds the listening sockets and serves nobody itself. Workers are fresh interpreters, which ask it for
the sockets they need; a worker may die or be replaced while connections stay queued in a socket that is never closed.

Whatever is changed is changed whole or not at all: :meth:`Supervisor.reload` by replacing processes,
:meth:`Supervisor.update` by telling those that run. One change happens at a time.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from forebay.engine.address import Address
from forebay.engine.loop import now
from forebay.engine.process import Process
from forebay.engine.slot import Slot, SlotSettings, WorkerInfo, WorkerState
from forebay.engine.sockets import HeldSockets
from forebay.engine.spec import WorkerSpec
from forebay.engine.tasks import Event, Tasks, start_task
from forebay.errors import ConnectionClosed, CrashLoop, ForebayError, StartError
from forebay.observe.metrics import Family, Sample, merge
from forebay.policy.recycle import Worn
from forebay.policy.restart import RestartPolicy
from forebay.service import State

__all__ = ["Supervisor", "WorkerInfo", "WorkerSpec", "WorkerState"]

log = structlog.get_logger("forebay.engine")


class Supervisor:
    """A service that is several processes.

    :param specs: what to run; names are unique.
    :param drain_timeout: seconds a worker has to finish what is in flight when it is drained or replaced. A worker that
        is still there 2.5 s later is killed.
    :param start_timeout: seconds a worker has to become ready.
    :param update_timeout: seconds all workers together have for each step of a live update.
    :param restart: when a worker that died is started again, and when not.
    """

    def __init__(
        self,
        name: str,
        specs: Sequence[WorkerSpec],
        *,
        drain_timeout: float = 30.0,
        start_timeout: float = 30.0,
        update_timeout: float = 10.0,
        restart: RestartPolicy | None = None,
    ) -> None:
        self.name = name
        self.state = State.NEW
        self.update_timeout = update_timeout
        self._settings = SlotSettings(drain_timeout, start_timeout, restart or RestartPolicy())
        self._specs = _by_name(specs)
        self._slots: list[Slot] = []
        self._sockets = HeldSockets()
        self._ended: list[Family] = []  # what workers that are gone have counted
        self._change = asyncio.Lock()
        self._tasks = Tasks()
        self._renewing: set[Slot] = set()  # whose worker is worn, and being replaced
        self._over = Event()
        self._crash: CrashLoop | None = None

    def __repr__(self) -> str:
        return f"<Supervisor {self.name} {self.state} {self._slots}>"

    @property
    def specs(self) -> list[WorkerSpec]:
        """What is to run, as last changed."""
        return list(self._specs.values())

    @property
    def workers(self) -> list[WorkerInfo]:
        """Every worker, and those that were replaced and still drain."""
        return [info for slot in self._slots for info in slot.infos()]

    # Life cycle

    async def start(self) -> None:
        """Return when all workers are ready.

        :raises StartError: one could not be started, and why, in one line; all others are stopped.
        """
        self.state = State.STARTING
        try:
            await self._start([self._add(spec, index) for spec in self._specs.values() for index in range(spec.size)])
        except BaseException:
            await self.stop()
            raise
        self.state = State.RUNNING

    async def drain(self) -> None:
        """Listen no more, and return when every worker has finished what was in flight, and exited."""
        if self.state is not State.STOPPED:
            self.state = State.DRAINING
        self._sockets.close()
        await asyncio.gather(*(slot.drain() for slot in self._slots))

    async def stop(self) -> None:
        """Cut what is in flight and return when every worker is gone: within about a second, or killed. Idempotent."""
        self.state = State.STOPPED
        self._sockets.close()
        await asyncio.gather(*(slot.stop() for slot in self._slots))
        await self._tasks.cancel()
        self._over.set()

    async def wait(self) -> None:
        """Return when the supervisor is stopped.

        :raises CrashLoop: when a worker died too often. All others still run: to drain and to stop is the owner's turn.
        """
        await self._over.wait()
        if self._crash is not None:
            raise self._crash

    def _add(self, spec: WorkerSpec, index: int) -> Slot:
        slot = Slot(
            spec,
            index,
            self._settings,
            listen=self._listen,
            on_gone=self._keep_counts,
            on_give_up=self._give_up,
            on_worn=self._renew,
        )
        self._slots.append(slot)
        return slot

    async def _start(self, slots: Iterable[Slot]) -> None:
        """Start all; on the first that fails stop all and raise its error."""
        starting = {slot: start_task(slot.start(), f"start {slot.name}") for slot in slots}
        if not starting:
            return
        try:
            await asyncio.wait(starting.values(), return_when=asyncio.FIRST_EXCEPTION)
            failed = [task for task in starting.values() if task.done() and task.exception() is not None]
            if failed:
                failed[0].result()
        except BaseException:
            await self._remove(starting, "stop")
            await asyncio.gather(*starting.values(), return_exceptions=True)
            raise

    async def _remove(self, slots: Iterable[Slot], how: str) -> None:
        slots = list(slots)
        await asyncio.gather(*(slot.drain() if how == "drain" else slot.stop() for slot in slots))
        self._slots = [slot for slot in self._slots if slot not in slots]

    def _give_up(self, error: CrashLoop) -> None:
        if self._crash is None:
            self._crash = error
            self._over.set()

    def _must_run(self) -> None:
        if self.state is not State.RUNNING:
            raise StartError(f"{self.name} cannot be changed, it is {self.state}")

    # Sockets

    def _listen(self, process: Process, address: Address) -> socket.socket:
        sock = self._sockets.give(process, address, may_open=self.state in (State.STARTING, State.RUNNING))
        if sock is None:
            raise StartError(f"cannot listen on {address}: {self.name} is {self.state}")
        return sock

    def _close_unused_sockets(self, *, but_for: Container[Slot] = ()) -> None:
        self._sockets.close(but_for={key for slot in self._slots if slot not in but_for for key in slot.listens()})

    # Change

    async def reload(
        self, specs: Sequence[WorkerSpec] | None = None, *, only: Container[str] | None = None, reason: str
    ) -> None:
        """Replace workers, one at a time: each new one is ready before the old one in its place begins to drain.

        Returns when the new ones do the work; old ones may still drain then.

        :param specs: what is to run from now on, else the same as before. New ones are started, missing ones drained.
        :param only: of those whose spec is unchanged, replace the named ones; ``None``: all.
        :param reason: for the log.
        :raises StartError: a new worker could not be started. Then everything is, or is made to be, as it was. (When
            the caller is cancelled, what is replaced by then stays replaced.)
        """
        async with self._change:
            self._must_run()
            wanted = self._specs if specs is None else _by_name(specs)
            before = list(self._slots)
            added: list[Slot] = []
            rolled: list[tuple[Slot, WorkerSpec]] = []
            try:
                for spec in wanted.values():
                    count = sum(slot.spec.name == spec.name for slot in before)
                    added += [self._add(spec, index) for index in range(count, spec.size)]
                await self._start(added)
                for slot in before:
                    if slot.index >= _count(wanted, slot.spec.name):
                        continue
                    old, new = slot.spec, wanted[slot.spec.name]
                    if replace(old, count=new.count) != new or only is None or new.name in only:
                        await slot.roll(new, reason)
                        rolled.append((slot, old))
                self._must_run()  # a drain may have come in between
            except asyncio.CancelledError:
                log.warning("reload given up half-way", reason=reason, replaced=len(rolled))
                raise
            except StartError as error:
                log.error("reload failed, all stays as it was", reason=reason, error=str(error))
                await self._undo(added, rolled)
                raise
            self._specs = wanted
            surplus = [slot for slot in before if slot.index >= _count(wanted, slot.spec.name)]
            self._close_unused_sockets(but_for=surplus)
            await self._remove(surplus, "drain")
            log.info("reloaded", reason=reason, replaced=len(rolled), started=len(added), ended=len(surplus))

    async def _undo(self, added: Sequence[Slot], rolled: Sequence[tuple[Slot, WorkerSpec]]) -> None:
        for slot, old in reversed(rolled):
            if slot.spec == old or self.state is not State.RUNNING:
                continue
            try:
                await slot.roll(old, "the reload failed")
            except StartError as error:
                log.error("worker not changed back", worker=slot.name, reason=str(error))
        await self._remove(added, "drain")
        self._close_unused_sockets()

    def _renew(self, slot: Slot, worn: Worn) -> None:
        if slot not in self._renewing and not slot.is_draining and self.state is State.RUNNING:
            self._renewing.add(slot)
            self._tasks.spawn(self._roll_worn(slot, slot.current, worn), name=f"renew {slot.name}")

    async def _roll_worn(self, slot: Slot, process: Process | None, worn: Worn) -> None:
        """Replace a worker that is worn, after any other change; if that fails it goes on, and is looked at again."""
        try:
            async with self._change:
                if slot.current is process and self.state is State.RUNNING:
                    await slot.roll(slot.spec, worn.reason, worn.cause)
        except StartError as error:
            if not slot.closing:
                delay = slot.wear.failed(now())
                reason = str(error)
                log.warning("worker not renewed, it goes on", worker=slot.name, reason=reason, retry_in=delay)
        finally:
            self._renewing.discard(slot)

    async def update(self, name: str, payload: Mapping[str, Any], *, args: Mapping[str, Any], reason: str) -> None:
        """Change all workers of a spec while they run: every one prepares, and then all commit, or all roll back.

        A worker that dies meanwhile comes back with what was decided.

        :param name: the spec's.
        :param payload: what the workers' service is given to ``prepare``.
        :param args: the spec's new ``args``, for workers that are started from now on.
        :param reason: for the log.
        :raises ConfigError: a worker refused the payload with it; nothing changed.
        :raises StartError: a worker refused it otherwise, did not answer in time, or there is none; nothing changed.
        """
        async with self._change:
            self._must_run()
            if name not in self._specs:
                raise StartError(f"{self.name} has no workers called {name!r}")
            slots = [slot for slot in self._slots if slot.spec.name == name]
            processes = await self._ready(slots)
            try:
                answers = await self._ask(processes, "prepare", dict(payload))
                if refusal := _refusal(name, answers):
                    raise refusal
            except BaseException as refused:
                log.error("update refused, all stays as it was", workers=name, reason=reason, error=_text(refused))
                for process, failure in (await self._ask(processes, "rollback")).items():
                    if failure is not None:
                        process.lose(f"did not roll back: {failure}")
                raise
            spec = self._specs[name] = replace(self._specs[name], args=args)
            for slot in slots:
                slot.spec = spec
            answers = await self._ask([process for process, error in answers.items() if error is None], "commit")
            for process, error in answers.items():
                if error is None:
                    process.spec = spec
            for slot in slots:
                if slot.current is not None and slot.current.spec is not spec:
                    slot.current.lose(
                        f"did not take the update: {answers.get(slot.current) or 'it came too late for it'}"
                    )
            log.info("updated", workers=name, reason=reason, pids=[process.pid for process in processes])

    async def _ready(self, slots: Iterable[Slot]) -> list[Process]:
        """The processes in place; those which are just being restarted are waited for, for a while."""
        waiting = [start_task(slot.up.wait()) for slot in slots if slot.state is not WorkerState.FAILED]
        if waiting:
            await asyncio.wait(waiting, timeout=self.update_timeout)
        for task in waiting:
            task.cancel()
        return [slot.current for slot in slots if slot.current is not None]

    async def _ask(
        self, processes: Iterable[Process], kind: str, body: object = None
    ) -> dict[Process, Exception | None]:
        """What each answered: ``None``, or its error; :class:`ConnectionClosed` when it died."""

        async def ask(process: Process) -> Exception | None:
            try:
                await process.request(kind, body, timeout=self.update_timeout)
            except ForebayError as error:
                return error
            return None

        processes = list(processes)
        return dict(zip(processes, await asyncio.gather(*map(ask, processes)), strict=True))

    # Metrics

    async def collect(self) -> list[Family]:
        """The metrics of all workers, added up: as they are now, or were last sent by one that does not answer in 2 s.

        What workers that are gone have counted is part of it, so counters never go back. Their gauges are not.
        """
        processes = [process for slot in self._slots for process in slot.processes if process.ready_since is not None]
        await asyncio.gather(*(process.refresh() for process in processes))
        # No wait between here and the end: a process is either among these or in what has ended, never in both.
        live = [process.snapshot() for slot in self._slots for process in slot.processes]
        return merge([self._statistics(), self._ended, *live])

    def _keep_counts(self, process: Process) -> None:
        counts = [family for family in process.snapshot() if family.kind != "gauge"]
        self._ended = merge([self._ended, counts])

    def _statistics(self) -> list[Family]:
        workers = [((("worker", slot.name),), slot) for slot in self._slots]
        ready = [Sample("", labels, slot.current is not None) for labels, slot in workers]
        lag = [Sample("", labels, slot.current.lag) for labels, slot in workers if slot.current]
        memory = [Sample("", labels, slot.current.memory) for labels, slot in workers if slot.current]
        restarts = _by_cause({slot.name: slot.restarts for slot in self._slots})
        replacements = _by_cause({slot.name: slot.replacements for slot in self._slots})
        return [
            Family("forebay_worker_ready", "gauge", "Whether the worker does its work.", ready),
            Family("forebay_worker_restarts", "counter", "Restarts of the worker after a death.", restarts),
            Family("forebay_worker_replacements", "counter", "Replacements of the worker while it ran.", replacements),
            Family("forebay_worker_rss_bytes", "gauge", "Resident memory of the worker.", memory),
            Family("forebay_loop_lag_max_seconds", "gauge", "The worker's longest loop lag in the last second.", lag),
        ]


def _by_cause(counts: Mapping[str, Counter[str]]) -> list[Sample]:
    return [
        Sample("_total", (("worker", name), ("cause", cause)), count)
        for name, causes in counts.items()
        for cause, count in causes.items()
    ]


def _by_name(specs: Sequence[WorkerSpec]) -> dict[str, WorkerSpec]:
    found = {spec.name: spec for spec in specs}
    if len(found) < len(specs):
        raise ValueError(f"names of workers must differ: {', '.join(spec.name for spec in specs)}")
    return found


def _count(specs: Mapping[str, WorkerSpec], name: str) -> int:
    return specs[name].size if name in specs else 0


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _refusal(name: str, answers: Mapping[Process, Exception | None]) -> Exception | None:
    """Why an update must not go on: somebody refused, or nobody is there who could say that it is good."""
    for error in answers.values():
        if error is not None and not isinstance(error, ConnectionClosed):
            return error
    if any(error is None for error in answers.values()):
        return None
    return StartError(f"no worker of {name} is there to try the update")
