"""What admin needs to know of a running system; the runtime provides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from forebay.observe import Family

__all__ = ["System", "Worker"]


class Worker(Protocol):
    """One worker process, or the place of one that is being restarted; also one that was replaced, while it drains."""

    @property
    def name(self) -> str:
        """What it runs: ``users@7001``, ``gateway``."""

    @property
    def index(self) -> int:
        """Which one of those that run the same, from 0."""

    @property
    def pid(self) -> int:
        """Its process; 0 while there is none."""

    @property
    def state(self) -> str:
        """``ready`` when it does its work; anything else says what it does instead."""

    @property
    def restarts(self) -> int:
        """How often it was started again after it died."""

    @property
    def started_at(self) -> float:
        """When its process was started, in seconds of UNIX time."""

    @property
    def last_exit(self) -> str:
        """How its last process ended; empty while none has."""


class System(Protocol):
    """What is shown."""

    @property
    def name(self) -> str:
        """The system's name."""

    @property
    def state(self) -> str:
        """``starting``, ``running``, ``draining`` or ``stopped``."""

    @property
    def workers(self) -> Sequence[Worker]:
        """All worker processes there should be."""

    @property
    def started_at(self) -> float:
        """When it was started, in seconds of UNIX time."""

    @property
    def last_reload(self) -> str:
        """What was last reloaded and how that went; empty when nothing was."""

    def unready(self) -> list[str]:
        """Why no traffic should come, one reason each; empty when it should."""

    def now(self) -> float:
        """UNIX time in seconds."""

    async def collect(self) -> list[Family]:
        """The metrics of all processes, merged. Bounded in time: a worker that does not answer is left out."""
