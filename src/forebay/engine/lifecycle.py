"""A program's life: start a service, run it until a signal comes, drain it, stop it."""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

import structlog

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
        self.code = 0

    async def run(self) -> int:
        """The whole of it."""
        loop = asyncio.get_running_loop()
        tasks = Tasks()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            if await self._start():
                tasks.spawn(self._reload_on_demand(), name="reload")
                if isinstance(self.service, Waitable):
                    tasks.spawn(self._watch(self.service), name="wait for the service")
                await self.ending.wait()
                await tasks.cancel()  # a reload that is half-way would start what is to be drained
                await self._drain()
        finally:
            await tasks.cancel()
            try:
                await self.service.stop()
            finally:
                for number in _SIGNALS:
                    loop.remove_signal_handler(number)
        log.info("stopped", service=self.service.name, exit_code=self.code)
        return self.code

    def _signalled(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self.reload_wanted.set()
        elif not self.ending.is_set():
            log.info("draining", service=self.service.name, reason=number.name, seconds=self.drain_timeout)
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
            log.info("draining", service=self.service.name, reason="the service has ended")
        except ForebayError as error:
            log.error("giving up", service=self.service.name, reason=str(error))
            self.code = 1
        except Exception:
            log.exception("giving up", service=self.service.name)
            self.code = 1
        self.ending.set()

    async def _reload_on_demand(self) -> None:
        while True:
            await self.reload_wanted.wait()
            self.reload_wanted.clear()
            if self.on_reload is None:
                log.warning("reload ignored", reason="there is nothing to reload")
                continue
            try:
                result = self.on_reload()
                if inspect.isawaitable(result):
                    await result
            except ForebayError as error:
                log.error("reload failed", reason=str(error))
            except Exception:
                log.exception("reload failed")
