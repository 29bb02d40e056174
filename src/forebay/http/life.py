"""What surrounds the serving of an application: entered when it starts, and left when it stops, both in one Task."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import structlog

from forebay.engine.loop import Cancelled
from forebay.engine.tasks import Gate, Task, start_task
from forebay.http.binding.app_scope import enter_app_scope

if TYPE_CHECKING:
    from forebay.http.app import App

__all__ = ["Life"]

log = structlog.get_logger("forebay.http")


class Life:
    """The lifespan of an application and its dependencies with ``scope="app"``. A task group or a cancel scope among
    them has to be left by the Task that has entered it, and cancels that one: it is a Task of their own."""

    __slots__ = ("_app", "_begun", "_lifespan", "_over", "_ready", "_task")

    def __init__(self, app: App[Any], lifespan: Callable[[App[Any]], AbstractAsyncContextManager[None]] | None) -> None:
        self._app = app
        self._lifespan = lifespan
        self._ready = Gate()  # entered, or failed to
        self._over = Gate()
        self._begun = False
        self._task: Task[None] | None = None

    async def begin(self) -> None:
        """Enter all. Context variables that are set by that are set for the caller, too, and so for what it starts.

        Raises what that raises; what was entered has been left then.
        """
        context = copy_context()
        task = start_task(self._live(), f"life of {self._app.name}", context)
        try:
            await self._ready.wait()
        except Cancelled:
            task.cancel()
            with suppress(BaseException):
                await task
            raise
        if not self._begun:
            await task
        self._task = task
        task.add_done_callback(self._ended)
        for variable, value in context.items():
            if variable.get(None) is not value:
                variable.set(value)

    async def end(self) -> None:
        """Leave what was entered; raises what that raises. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        self._over.open()
        await task

    async def _live(self) -> None:
        app = self._app
        try:
            async with AsyncExitStack() as stack:
                if self._lifespan is not None:
                    await stack.enter_async_context(self._lifespan(app))
                app.scoped = await enter_app_scope(app, [route.binding for route in app.routes], stack)
                self._begun = True
                self._ready.open()
                await self._over.wait()
        finally:
            self._ready.open()

    def _ended(self, task: Task[None]) -> None:
        if self._task is None:
            return  # `end` has asked for it
        self._task = None
        error = None if task.cancelled() else task.exception()
        log.error("lifespan ended while the application serves", app=self._app.name, exc_info=error)
