"""Everything that runs is a :class:`Service`; a :class:`Group` runs several as one.

Life cycle: ``new -> starting -> running -> draining -> stopped``. Owners call ``start`` once, then ``drain`` at most
once, then ``stop``; ``stop`` may come at any moment, more than once, and without ``drain``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import structlog

__all__ = ["Group", "Service", "State"]

log = structlog.get_logger("forebay.service")


class State(StrEnum):
    """Where a service is in its life."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


@runtime_checkable
class Service(Protocol):
    """Something that is started, drained and stopped."""

    @property
    def name(self) -> str:
        """Says in logs and metrics which service this is."""

    async def start(self) -> None:
        """Return when the service does its work. On an error it has cleaned up after itself and raises."""

    async def drain(self) -> None:
        """Take no new work and return when what is in flight is finished.

        The owner cancels it at the deadline; work still in flight then is cut by :meth:`stop`.
        """

    async def stop(self) -> None:
        """Release everything, now: whatever still runs is cut. Idempotent, and right in any state."""


class Group:
    """Several services as one: started in order, drained and stopped in reverse.

    :param drain_timeout: seconds all members together have to drain.
    :param stop_timeout: seconds each member has to stop.

    A member that fails to drain or to stop is logged, and does not keep the others from theirs.
    """

    def __init__(
        self, name: str, members: Sequence[Service], *, drain_timeout: float = 30.0, stop_timeout: float = 5.0
    ) -> None:
        self.name = name
        self.members = tuple(members)
        self.drain_timeout = drain_timeout
        self.stop_timeout = stop_timeout
        self.state = State.NEW
        self._started: list[Service] = []

    def __repr__(self) -> str:
        return f"<Group {self.name} {self.state} {[member.name for member in self.members]}>"

    async def start(self) -> None:
        """Start every member. When one fails, those started before are stopped, in reverse, and its error is raised."""
        self.state = State.STARTING
        for member in self.members:
            self._started.append(member)  # before the await: a start that is cancelled half-way is stopped as well
            try:
                await member.start()
            except BaseException:
                await self.stop()
                raise
        self.state = State.RUNNING

    async def drain(self) -> None:
        """Drain every member in reverse order; return when all are idle or the deadline is reached."""
        self.state = State.DRAINING
        draining = ""
        try:
            async with asyncio.timeout(self.drain_timeout):
                for member in reversed(self._started):
                    draining = member.name
                    try:
                        await member.drain()
                    except Exception:
                        log.exception("drain failed", group=self.name, service=draining)
        except TimeoutError:
            log.warning("drain deadline reached", group=self.name, service=draining, seconds=self.drain_timeout)

    async def stop(self) -> None:
        """Stop every member that was started, in reverse order, each within ``stop_timeout``."""
        self.state = State.STOPPED
        while self._started:
            member = self._started.pop()
            try:
                async with asyncio.timeout(self.stop_timeout):
                    await member.stop()
            except TimeoutError:
                log.error("stop took too long", group=self.name, service=member.name, seconds=self.stop_timeout)
            except Exception:
                log.exception("stop failed", group=self.name, service=member.name)
