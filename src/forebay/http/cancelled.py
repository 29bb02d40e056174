"""Handlers that were cancelled because their client has gone, until they have ended."""

from __future__ import annotations

import structlog

from forebay.engine.loop import call_later
from forebay.engine.tasks import Task, place_of_task, unfinished

__all__ = ["PATIENCE", "CancelledHandlers"]

log = structlog.get_logger("forebay.http")

PATIENCE = 2.0
"""Seconds a handler has to end after it was cancelled, before it is reported."""
LAST_PATIENCE = 3.0
"""Seconds that those which still run have when the application is shut down."""


class CancelledHandlers:
    """Keeps handlers from being forgotten, and reports those that ignore their cancellation.

    ``ignored`` counts these.
    """

    __slots__ = ("_tasks", "ignored", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ignored = 0
        self._tasks: set[Task[None]] = set()

    def add(self, task: Task[None], method: str, route: str) -> None:
        """Keep ``task``, which was cancelled just now."""

        def look() -> None:
            self.ignored += 1
            log.warning(
                "handler ignores its cancellation",
                app=self.name,
                method=method,
                route=route,
                seconds=PATIENCE,
                at=place_of_task(task),
            )

        def ended(task: Task[None]) -> None:
            self._tasks.discard(task)
            timer.cancel()  # it would keep alive what the handler had

        timer = call_later(PATIENCE, look)
        self._tasks.add(task)
        task.add_done_callback(ended)

    async def join(self) -> None:
        """Return when all have ended. Those that still have not after some seconds are given up, and reported."""
        for task in await unfinished(self._tasks, LAST_PATIENCE):
            log.error("handler given up", app=self.name, seconds=LAST_PATIENCE, at=place_of_task(task))
