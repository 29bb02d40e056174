"""A program's life: start a service, run it until a signal comes, drain it, stop it."""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

import structlog

from forebay.engine.inherited import take_inherited
from forebay.engine.notify import Notifier
from forebay.engine.tasks import Task, Tasks, start_task
from forebay.errors import ForebayError
from forebay.service import Service

__all__ = ["Waitable", "serve_until_signalled"]

log = structlog.get_logger("forebay.engine")

Reload = Callable[[], Awaitable[None] | None]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@runtime_checkable
class Waitable(Protocol):
    """A service that can end by itself."""

    async def wait(self) -> None:
        """Return when the service has stopped; raise when it has given up."""


async def serve_until_signalled(
    service: Service,
    *,
    drain_timeout: float = 30.0,
    cut_timeout: float = 0.0,
    on_reload: Reload | None = None,
    on_signal: Callable[[str], None] | None = None,
) -> int:
    """Start ``service``, run it until SIGTERM or SIGINT (or until it ends by itself), drain it and stop it.

    A service manager that started this process is told when it is ready, reloads and stops, and gets its watchdog's
    pings for as long as the loop runs and the service has not given up (:mod:`forebay.engine.notify`). Sockets it
    passed on which nothing listens are logged (:mod:`forebay.engine.inherited`).

    :param drain_timeout: seconds the service has to finish what is in flight; what is left then is cut.
    :param cut_timeout: seconds past that for a service that keeps the deadline itself, and then cuts what is left.
    :param on_reload: called on SIGHUP, one call at a time; signals that come meanwhile make one more. What it raises is
        logged, and the service runs on. Without it SIGHUP does nothing.
    :param on_signal: called with the name of the first signal that ends the service, before it drains.
    :return: the program's exit code: 0 when it was drained; 1 when the service gave up, failed to drain, was cut at the
        deadline, or when a second SIGINT forced it.
    :raises StartError: the service did not start; it has been stopped.
    """
    return await _Life(service, drain_timeout, cut_timeout, on_reload, on_signal).run()


class _Life:
    """One service's way from start to stop."""

    def __init__(
        self,
        service: Service,
        drain_timeout: float,
        cut_timeout: float,
        on_reload: Reload | None,
        on_signal: Callable[[str], None] | None,
    ) -> None:
        self.service = service
        self.drain_timeout = drain_timeout
        self.cut_timeout = cut_timeout
        self.on_reload = on_reload
        self.on_signal = on_signal
        self.ending = asyncio.Event()
        self.forced = asyncio.Event()
        self.reload_wanted = asyncio.Event()
        self.ending_because = ""
        self.gave_up = False
        self.notifier = Notifier.of_this_process()
        self.code = 0

    async def run(self) -> int:
        """The whole of it."""
        loop = asyncio.get_running_loop()
        tasks, pulse = Tasks(), Tasks()
        inherited = take_inherited()  # now, so that no child is told of them
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            if await self._start():
                for descriptor, name in inherited.unused().items():
                    log.warning("inherited socket not used", descriptor=descriptor, name=name)
                self.notifier.ready("running")
                pulse.spawn(self._prove_alive(), name="watchdog pings")
                tasks.spawn(self._reload_on_demand(), name="reload")
                if isinstance(self.service, Waitable):
                    tasks.spawn(self._watch(self.service), name="wait for the service")
                await self.ending.wait()
                self.notifier.stopping(f"draining for up to {self.drain_timeout:g} s: {self.ending_because}")
                await tasks.cancel()  # a reload that is half-way would start what is to be drained
                await self._drain()
        finally:
            await tasks.cancel()
            try:
                await self.service.stop()
            finally:
                await pulse.cancel()
                self.notifier.close()
                for number in _SIGNALS:
                    loop.remove_signal_handler(number)
        log.info("stopped", service=self.service.name, exit_code=self.code)
        return self.code

    def _signalled(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self.reload_wanted.set()
        elif not self.ending.is_set():
            log.info("draining", service=self.service.name, reason=number.name, seconds=self.drain_timeout)
            self.ending_because = number.name
            self.ending.set()
            if self.on_signal is not None:
                self.on_signal(number.name)
        elif number == signal.SIGINT:
            self.forced.set()

    async def _start(self) -> bool:
        """Whether it was started; a signal that comes meanwhile gives it up."""
        starting = start_task(self.service.start(), "start")
        if await self._first(starting, self.ending):
            await starting  # raises what it raised
            return True
        return False

    async def _drain(self) -> None:
        draining = start_task(self.service.drain(), "drain")
        try:
            async with asyncio.timeout(self.drain_timeout + self.cut_timeout):
                finished = await self._first(draining, self.forced)
        except TimeoutError:
            log.warning("drain deadline reached, cutting what is left", seconds=self.drain_timeout)
            self.code = 1
            return
        if not finished:
            log.warning("drain given up", reason="second SIGINT")
            self.code = 1
        elif (error := draining.exception()) is not None:
            log.error("drain failed", service=self.service.name, exc_info=error)
            self.code = 1

    async def _first(self, work: Task[None], event: asyncio.Event) -> bool:
        """Wait for either. Whether the work has ended; when it has not it is cancelled, and has ended as well."""
        waiting = start_task(event.wait())
        try:
            await asyncio.wait((work, waiting), return_when=asyncio.FIRST_COMPLETED)
            return work.done()
        finally:
            for task in (work, waiting):
                task.cancel()
            await asyncio.wait((work, waiting))
            if not work.cancelled():
                work.exception()  # it is looked at above, or it came too late to matter

    async def _watch(self, service: Waitable) -> None:
        try:
            await service.wait()
            self.ending_because = "the service has ended"
            log.info("draining", service=self.service.name, reason=self.ending_because)
        except Exception as error:
            self.code = 1
            self.gave_up = True
            self.ending_because = f"giving up: {error}"
            if isinstance(error, ForebayError):
                log.error("giving up", service=self.service.name, reason=str(error))
            else:
                log.exception("giving up", service=self.service.name)
        self.ending.set()

    async def _prove_alive(self) -> None:
        """The watchdog's pings. A loop that is stuck sends none; one that has work to drain still does."""
        interval = self.notifier.watchdog_interval
        while interval is not None and not self.gave_up:
            self.notifier.alive()
            await asyncio.sleep(interval)

    async def _reload_on_demand(self) -> None:
        while True:
            await self.reload_wanted.wait()
            self.reload_wanted.clear()
            self.notifier.reloading()
            failure = await self._reload()
            self.notifier.ready(f"running; the last reload failed: {failure}" if failure else "running; reloaded")

    async def _reload(self) -> str:
        """Why it failed; empty when it did not."""
        if self.on_reload is None:
            log.warning("reload ignored", reason="there is nothing to reload")
            return "there is nothing to reload"
        try:
            result = self.on_reload()
            if inspect.isawaitable(result):
                await result
        except ForebayError as error:
            log.error("reload failed", reason=str(error))
            return str(error)
        except Exception as error:
            log.exception("reload failed")
            return f"{type(error).__name__}: {error}"
        return ""
