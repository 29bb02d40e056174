"""The life of an ASGI application around its serving: the ``lifespan`` scope (ASGI lifespan protocol 2.0)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import structlog

from forebay.engine.loop import timeout
from forebay.engine.tasks import Gate, Task, place_of_task, start_task, unfinished
from forebay.errors import StartError
from forebay.http.asgi_scope import ASGI, Message

__all__ = ["Lifespan"]

log = structlog.get_logger("forebay.http")

_CANCEL_TIMEOUT = 0.5  # seconds for an application that does not end its lifespan to heed its cancellation


class _Step(StrEnum):
    """Where the application is: NEW -> STARTING (it took ``lifespan.startup``) -> RUNNING -> STOPPING (it took
    ``lifespan.shutdown``) -> OVER. FAILED and OVER come from anywhere."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"
    OVER = "over"


class Lifespan:
    """One start and end of an application. It runs in one Task from start to end, as its context managers need it.

    :param name: of the application, in errors and logs.
    :param state: what the application is given to put into; every scope gets a copy of it.
    :param required: whether an application that knows no lifespan is refused.
    :param startup_timeout: seconds for its startup; ``None``: any time.
    :param shutdown_timeout: seconds for its shutdown.
    """

    def __init__(
        self,
        app: ASGI,
        state: dict[str, Any],
        *,
        name: str,
        required: bool,
        startup_timeout: float | None,
        shutdown_timeout: float,
    ) -> None:
        self._app = app
        self._state = state
        self._name = name
        self._required = required
        self._startup_timeout = startup_timeout
        self._shutdown_timeout = shutdown_timeout
        self._step = _Step.NEW
        self._misused = False  # it sent what has no place in a lifespan: it takes every scope for a request
        self._given_up = False  # it was cancelled by us
        self._error: BaseException | None = None
        self._reason: str | None = None  # what it said of its failure
        self._news = Gate()  # it has started, or it will not
        self._ending = Gate()  # it is to end
        self._over = Gate()  # it has ended, or said so
        self._task: Task[None] | None = None

    async def startup(self) -> None:
        """Return when the application is ready.

        An application that knows no lifespan is ready at once: one that returns, or raises before it has asked for the
        first message, or answers that with something else than a lifespan message.

        :raises StartError: it failed, or took too long.
        """
        self._task = start_task(self._run(), f"lifespan of {self._name}")
        try:
            async with timeout(self._startup_timeout):
                await self._news.wait()
        except TimeoutError:
            await self._cancel()
            raise StartError(
                f"{self._name}: the application's startup took more than {self._startup_timeout:g} s"
            ) from None
        except BaseException:
            await self._cancel()
            raise
        if self._step is _Step.RUNNING:
            log.info("application started", app=self._name)
            return
        error = self._error
        if self._reason is not None:
            log.error("application startup failed", app=self._name, reason=self._reason)
            await self._cancel()
            raise StartError(f"{self._name}: the application's startup failed: {_last_line(self._reason)}")
        if self._step is _Step.FAILED and not self._misused:
            log.error("application startup failed", app=self._name, exc_info=error)
            why = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise StartError(f"{self._name}: the application's startup failed: {why}") from error
        if self._required:
            raise StartError(f"{self._name}: the application has no lifespan, which it was required to have")
        log.info("application has no lifespan", app=self._name)

    async def shutdown(self) -> None:
        """Let the application end, in its time; then cut it. Safe in any state."""
        task = self._task
        if task is None or task.done():
            return
        self._ending.open()
        try:
            async with timeout(self._shutdown_timeout):
                await self._over.wait()
        except TimeoutError:
            log.error("application shutdown took too long", app=self._name, seconds=self._shutdown_timeout)
        finally:
            await self._cancel()

    async def _cancel(self) -> None:
        """End the Task. One that has said all it had to say is mostly about to end by itself."""
        task = self._task
        if task is None:
            return
        if self._step is not _Step.OVER:
            self._given_up = True
            task.cancel()
        if await unfinished([task], _CANCEL_TIMEOUT):
            log.error("application ignores the end of its lifespan", app=self._name, place=place_of_task(task))

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as error:  # SystemExit too: whoever waits for the startup says that it failed, and why
            if not self._given_up:
                self._failed(error)
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            if self._step is not _Step.FAILED:
                self._step = _Step.OVER
            self._news.open()
            self._over.open()

    def _failed(self, error: BaseException) -> None:
        self._error = error
        if self._step in (_Step.RUNNING, _Step.STOPPING):
            log.error("application failed in its lifespan", app=self._name, exc_info=error)
        if self._step is not _Step.NEW:
            self._step = _Step.FAILED

    async def _receive(self) -> Message:
        if self._step is _Step.NEW:
            self._step = _Step.STARTING
            return {"type": "lifespan.startup"}
        await self._ending.wait()
        if self._step is not _Step.RUNNING:
            raise RuntimeError(f"there is no further lifespan message: the application is {self._step}")
        self._step = _Step.STOPPING
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        step = self._step
        if kind == "lifespan.startup.complete" and step in (_Step.NEW, _Step.STARTING):
            self._step = _Step.RUNNING
            self._news.open()
        elif kind == "lifespan.startup.failed" and step in (_Step.NEW, _Step.STARTING):
            self._reason = str(message.get("message") or "it gave no reason")
            self._step = _Step.FAILED
            self._news.open()
        elif kind == "lifespan.shutdown.complete" and step is _Step.STOPPING:
            self._step = _Step.OVER
            self._over.open()
        elif kind == "lifespan.shutdown.failed" and step is _Step.STOPPING:
            log.error("application shutdown failed", app=self._name, reason=message.get("message", ""))
            self._step = _Step.OVER
            self._over.open()
        else:
            self._misused = self._misused or not kind.startswith("lifespan.")
            raise RuntimeError(f"{kind} was sent, but the application is {step} in its lifespan")


def _last_line(reason: str) -> str:
    """Of a traceback, the line that says what happened."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"
