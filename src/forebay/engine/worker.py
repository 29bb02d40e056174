"""A worker process: ``python -m forebay.engine.worker FD NAME STACKS``, started by a supervisor and by nobody else.

It is told over its channel, the inherited descriptor FD, what it is; it builds that, starts it, and says ``ready``, or
``failed`` and why. STACKS is another one: the file its stacks are dumped into. From then on:

* ``drain``, ``SIGTERM`` and the end of the channel (the supervisor died) all make it finish what is in flight and exit
  with 0, within its drain timeout. After ``SIGTERM`` it also says ``leaving``, and the supervisor replaces it at once.
* ``stop`` cuts a drain short.
* ``collect`` is answered with the metrics as they are. Without being asked it pushes them whenever they have changed,
  every 50 ms at most, so that they survive whatever kills it.
* ``prepare``, ``commit`` and ``rollback`` are passed on to the service.
* It says ``beat`` about once a second, so that the supervisor knows that its event loop runs, and how well. When none
  comes any more, it is made to dump its stacks; see :mod:`forebay.engine.watchdog`.

``SIGINT`` and ``SIGHUP`` reach the whole process group when they come from a terminal. They are ignored: the supervisor
decides what they mean.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import structlog

from forebay.engine.address import Address
from forebay.engine.blocked import BlockedLoopReporter
from forebay.engine.control import Assignment, Beat, ControlChannel, Failure, Message
from forebay.engine.listener import set_socket_source
from forebay.engine.load import LoopLag, accepted, collect_load
from forebay.engine.loop import now, run, sleep, tune_allocator
from forebay.engine.tasks import Event, Task, Tasks, start_task
from forebay.engine.watchdog import allow_dumps, end_with_supervisor
from forebay.errors import ConnectionClosed, ForebayError, FramingError, StartError
from forebay.observe.metrics import Collector
from forebay.service import Group, Service

__all__ = ["Worker", "main"]

T = TypeVar("T")

log = structlog.get_logger("forebay.engine")

PUSH_INTERVAL = 0.05
"""Seconds between two looks at the metrics. What was counted since the last look is lost when the worker is killed."""

PUSH_SHARE = 0.01
"""The part of a worker's time that looking may take: with 10,000 connections to add up, the looks are further apart."""

_ASSIGNMENT_TIMEOUT = 30.0
_LISTEN_TIMEOUT = 10.0
_STOP_TIMEOUT = 1.0
_FLUSH_TIMEOUT = 1.0
_EXIT_FAILED = 3


class Worker:
    """What runs in a worker process, from its assignment to its end."""

    def __init__(self, sock: socket.socket) -> None:
        self._channel = ControlChannel(sock, self._on_message, who="the supervisor")
        self._tasks = Tasks()
        self._assignment: Assignment | None = None
        self._assigned = Event()
        self._service: Service | None = None
        self._leave = Event()
        self._cut = Event()
        self._update: Task[None] | None = None
        self._pushed = b""
        self._lag = LoopLag()
        self._blocked = _blocked_reporter()

    async def run(self) -> int:
        """Return the exit code, when all is over."""
        self._tasks.spawn(self._watch_supervisor(), name="watch supervisor")
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._on_sigterm)
        set_socket_source(self._listen)
        try:
            return await self._serve()
        finally:
            set_socket_source(None)
            self._lag.stop()
            if self._blocked is not None:
                self._blocked.stop()
            await self._tasks.cancel()
            self._channel.close()

    async def _serve(self) -> int:
        try:
            async with asyncio.timeout(_ASSIGNMENT_TIMEOUT):
                await self._assigned.wait()
        except TimeoutError:
            log.error("worker was not told what it is", seconds=_ASSIGNMENT_TIMEOUT)
            return _EXIT_FAILED
        assignment = self._assignment
        if assignment is None:  # the supervisor died before
            return 0
        if assignment.core is not None:
            _stay_on(assignment.core)
        try:
            group = await _unless(self._leave, self._start(assignment))
        except StartError as error:
            self._tell("failed", Failure.of(error))
            await self._channel.flush(_FLUSH_TIMEOUT)
            return _EXIT_FAILED
        if group is None:
            return 0
        self._lag.start()
        if self._blocked is not None:
            self._blocked.start()
        self._tell("ready")
        telling = [
            self._tasks.spawn(self._push(), name="push metrics"),
            self._tasks.spawn(self._beat(assignment.beat), name="beat"),
        ]
        await self._leave.wait()
        await _unless(self._cut, group.drain())
        await group.stop()
        for task in telling:
            task.cancel()
        self._tell_metrics()
        await self._channel.flush(_FLUSH_TIMEOUT)
        return 0

    async def _start(self, assignment: Assignment) -> Group:
        service = await _build(assignment.entry, assignment.args)
        group = Group(assignment.name, [service], drain_timeout=assignment.drain_timeout, stop_timeout=_STOP_TIMEOUT)
        try:
            await group.start()
        except Exception as error:
            raise StartError(_told(f"cannot start {service.name}", error)) from error
        self._service = service
        return group

    # The supervisor

    def _tell(self, kind: str, body: object = None) -> None:
        try:
            self._channel.send(kind, body)
        except ConnectionClosed as error:
            log.debug("supervisor not told", kind=kind, reason=str(error))

    async def _watch_supervisor(self) -> None:
        await self._channel.ended.wait()
        seconds = self._assignment.drain_timeout if self._assignment else 0.0
        if not self._leave.is_set():
            log.warning("supervisor is gone, draining", reason=self._channel.reason, seconds=seconds)
        # Nobody is left to kill us if we hang. The kernel does: nothing handles this signal.
        signal.setitimer(signal.ITIMER_REAL, seconds + 2 * _STOP_TIMEOUT)
        self._assigned.set()
        self._leave.set()

    def _on_sigterm(self) -> None:
        if not self._leave.is_set():
            self._tell("leaving", "SIGTERM")
            self._leave.set()

    def _on_message(self, message: Message) -> None:
        match message.kind:
            case "assign":
                self._assignment = message.decode(Assignment)
                self._assigned.set()
            case "drain":
                self._leave.set()
            case "stop":
                self._leave.set()
                self._cut.set()
            case "collect":
                self._channel.reply(message, failure=self._tell_metrics())
            case "prepare" | "commit" | "rollback":
                self._on_update(message)
            case unknown:
                raise FramingError(f"unknown message {unknown!r}")

    async def _listen(self, address: Address) -> socket.socket:
        try:
            sock = await self._channel.request_socket(
                "listen", (address.scheme, address.host, address.port), timeout=_LISTEN_TIMEOUT
            )
        except (TimeoutError, ConnectionClosed) as error:
            raise StartError(f"cannot listen on {address}: the supervisor does not answer") from error
        sock.setblocking(False)
        return sock

    # Metrics

    def _snapshot(self) -> msgspec.Raw:
        service, assignment = self._service, self._assignment
        families = list(service.collect()) if isinstance(service, Collector) else []
        if assignment is not None:
            families += collect_load(self._lag, assignment.name)
        return msgspec.Raw(msgspec.msgpack.encode(families))

    async def _push(self) -> None:
        while True:
            begun = now()
            snapshot = self._snapshot()
            took = now() - begun
            if snapshot != self._pushed:
                try:
                    self._channel.post("metrics", snapshot)
                except ConnectionClosed:
                    return
                self._pushed = bytes(snapshot)
            await sleep(max(PUSH_INTERVAL, took / PUSH_SHARE))

    async def _beat(self, interval: float) -> None:
        while True:
            await sleep(interval)
            self._lag.sum_up()  # no more often: metrics that differ are sent
            beat = Beat(self._lag.take_worst(), accepted.count)
            try:
                self._channel.post("beat", msgspec.Raw(msgspec.msgpack.encode(beat)))
            except ConnectionClosed:
                return

    def _tell_metrics(self) -> Failure | None:
        self._lag.sum_up()
        try:
            snapshot = self._snapshot()
        except Exception as error:
            log.exception("collect failed")
            return Failure.of(error)
        self._channel.unpost("metrics")  # it is older than this one, and would be sent after it
        self._tell("metrics", snapshot)
        return None

    # Live updates

    def _on_update(self, request: Message) -> None:
        previous = self._update
        if previous is not None and request.kind == "rollback":
            previous.cancel()  # a prepare that takes too long; no effect on one that is done
        self._update = self._tasks.spawn(self._pass_on(request, previous), name=request.kind)

    async def _pass_on(self, request: Message, previous: Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait({previous})
        try:
            method: Callable[..., Any] | None = getattr(self._service, request.kind, None)
            if method is not None:
                result = method(request.decode(dict[str, Any])) if request.kind == "prepare" else method()
                if inspect.isawaitable(result):
                    await result
            elif request.kind != "rollback":
                raise StartError("it takes no live updates")
        except Exception as error:
            if not isinstance(error, ForebayError):
                log.exception("update failed", step=request.kind)
            self._channel.reply(request, failure=Failure.of(error))
        else:
            self._channel.reply(request)


def _stay_on(core: int) -> None:
    try:
        os.sched_setaffinity(0, {core})
    except (OSError, AttributeError) as error:  # it went offline, or there is no such thing on this system
        log.warning("worker not kept on its core", core=core, reason=str(error))


def _blocked_reporter() -> BlockedLoopReporter | None:
    """What reports calls that block the loop: for longer than ``FOREBAY_BLOCKED_AFTER`` seconds, 0.25 unless it says
    otherwise; 0 switches it off."""
    said = os.environ.get("FOREBAY_BLOCKED_AFTER", "")
    try:
        threshold = float(said or 0.25)
        return BlockedLoopReporter(threshold) if threshold else None
    except ValueError:
        log.error("FOREBAY_BLOCKED_AFTER must be 0, or seconds from 0.01 on", found=said)
        return BlockedLoopReporter()


async def _unless(event: Event, coro: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``coro``; ``None`` when ``event`` is set before, and then it is cancelled."""
    work, watch = start_task(coro), start_task(event.wait())
    await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
    watch.cancel()
    if not work.done():
        work.cancel()
        await asyncio.wait({work})
    return None if work.cancelled() else work.result()


async def _build(entry: str, args: dict[str, Any]) -> Service:
    """Call ``entry``, "module:function", with ``args`` as keyword arguments, for a service."""
    module_name, _, function_name = entry.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise StartError(_told(f"cannot import {module_name}", error)) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise StartError(f"module {module_name} has no function {function_name!r}")
    try:
        made = function(**args)
        if inspect.isawaitable(made):
            made = await made
    except StartError:
        raise
    except (Exception, SystemExit) as error:
        raise StartError(_told(f"{entry} failed", error)) from error
    if not isinstance(made, Service):
        kind = type(made).__name__
        raise StartError(f"{entry} returned {kind}, which is no service: that has a name, start(), drain() and stop()")
    return made


def _told(what: str, error: BaseException) -> str:
    """One line on ``error``. If it was not made to be read, it is also logged in full, and told where it was raised."""
    if isinstance(error, ForebayError):
        return str(error)
    if isinstance(error, ImportError):
        return f"{what}: {error}"
    log.error(what, exc_info=error)
    where = ""
    frames = traceback.extract_tb(error.__traceback__)
    if frames and frames[-1].filename != __file__ and not frames[-1].filename.startswith("<"):
        where = f" ({frames[-1].filename} line {frames[-1].lineno})"
    return f"{what}: {type(error).__name__}: {error}{where}"


async def _run(sock: socket.socket) -> int:
    return await Worker(sock).run()


def main() -> int:
    """The process: its exit code is 0 after a drain, and 3 when it could not start."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if len(sys.argv) not in (3, 4) or not sys.argv[1].isdigit():
        print("a worker is started by its supervisor; to start a program, run forebay", file=sys.stderr)
        return 2
    end_with_supervisor()
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)  # else a child of this worker would keep the channel open after its death
    if len(sys.argv) == 4:
        allow_dumps(int(sys.argv[3]))
    tune_allocator()
    if sys.path[:1] != [os.getcwd()]:
        sys.path.insert(0, os.getcwd())
    code = run(_run(sock))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # we are exiting already
    return code


if __name__ == "__main__":
    sys.exit(main())
