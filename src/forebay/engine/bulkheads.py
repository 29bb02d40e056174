"""Waiting for a place in a bulkhead: the doing half of :mod:`forebay.policy.bulkhead`."""

from __future__ import annotations

import asyncio
from functools import partial
from types import TracebackType
from typing import Any

from forebay.engine.loop import call_later, now
from forebay.engine.tasks import current_task
from forebay.errors import DeadlineExceeded, Overloaded, UpstreamTimeout
from forebay.policy.adaptive import Adaptive
from forebay.policy.bulkhead import Bulkhead, Compartment, Verdicts
from forebay.policy.deadline import deadline as scope
from forebay.policy.priority import Priority
from forebay.policy.verdict import Refused

__all__ = ["Slots"]

DROPPED = (TimeoutError, DeadlineExceeded, UpstreamTimeout, Overloaded)
"""Errors that say that whoever was called has too much to do."""

_Place = asyncio.Future[Refused | None]  # what one waits for: None: it has a place


class Slots:
    """A bounded number of calls at once, and bounded waiting, for the tasks of one loop::

        slots = Slots(Bulkhead(limit=20), "orders")

        async with slots:
            await client.get("http://orders/7")

    or, with a priority, or with a deadline on the clock of :func:`~forebay.engine.loop.now`::

        began = await slots.acquire(Priority.HIGH, deadline)
        try:
            ...
        finally:
            slots.release(began)

    Who has a place may take another one, and waits for itself where there is none. A task that is cancelled while it
    waits has no place; if it was given one in that very moment, the next in line gets it.

    With ``async with``, an adaptive limit learns from calls that end without an error, and from those that end in a
    timeout or in :class:`~forebay.errors.Overloaded`. What was cancelled, and other errors, say nothing about load.

    :param name: in errors and in ``repr()``.
    :param enabled: False: everyone gets a place at once. Can be set at any time.
    """

    __slots__ = ("_began", "compartment")

    def __init__(self, rules: Bulkhead, name: str = "bulkhead", *, enabled: bool = True) -> None:
        self.compartment: Compartment[_Place] = Compartment(rules, name, enabled=enabled)
        self._began: dict[asyncio.Task[Any] | None, list[float]] = {}  # where the limit is adaptive

    def __repr__(self) -> str:
        held = self.compartment
        return f"<Slots {held.name} {held.in_flight}/{held.limit} waiting={held.waiting}>"

    @property
    def enabled(self) -> bool:
        """False: everyone gets a place at once. Those who wait get theirs when the next call ends."""
        return self.compartment.enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self.compartment.enabled = value

    async def acquire(self, priority: Priority = Priority.NORMAL, deadline: float | None = None) -> float:
        """Take a place; wait for one where there is none. It does not let other tasks run where there is one.

        :param deadline: when the answer is not wanted any more. It ends the waiting, not the call, and counts for those
            who have to wait. None: the current one (:class:`forebay.policy.deadline`), if there is any.
        :return: the moment at which it had the place, for :meth:`release`.
        :raises Overloaded: there is no place, and no waiting, or it was over. ``retry_after`` is about how long one
            would wait now, ``None`` where that is not known.
        """
        at = now()
        if (deadline is None or at < deadline) and self.compartment.try_enter(at):
            return at
        return await self._wait(priority, deadline, at)

    def release(self, began: float | None = None, *, dropped: bool = False) -> None:
        """Give a place back. The next in line has it from now on.

        :param began: what :meth:`acquire` returned, for an adaptive limit to learn from; ``None``: this call says
            nothing about load.
        :param dropped: whoever was called did not answer in time, or had no place for it.
        :raises RuntimeError: nobody holds a place.
        """
        compartment = self.compartment
        if not compartment.in_flight:
            raise RuntimeError(f"{compartment.name}: released more often than acquired")
        at = now()
        verdicts = compartment.leave(at, at - began if began is not None else -1.0, dropped)
        if verdicts:
            self._tell(verdicts)

    async def __aenter__(self) -> None:
        began = now()
        if not self.compartment.try_enter(began):
            began = await self._wait(Priority.NORMAL, None, began)
        if self.compartment.adaptive is not None:
            self._began.setdefault(current_task(), []).append(began)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        began = None
        if self._began:
            task = current_task()
            if (held := self._began.get(task)) is not None:
                began = held.pop()
            else:  # it began in another task, or before a resize: there are never more of them than calls
                task, held = next(iter(self._began.items()))
                held.pop(0)
            if not held:
                del self._began[task]
        if kind is None:
            self.release(began)
        elif issubclass(kind, DROPPED):
            self.release(began, dropped=True)
        else:
            self.release()

    def resize(self, limit: int | Adaptive) -> None:
        """Let another limit hold from now on. Who has a place keeps it, also where that is too many by now.

        :raises ValueError: it is less than 1.
        """
        self._tell(self.compartment.resize(limit, now()))

    def close(self) -> None:
        """Give nobody a place any more; who waits for one gets :class:`Overloaded`. Who has one keeps it."""
        self._tell(self.compartment.close())

    def statistics(self) -> dict[str, Any]:
        """How many are in flight and wait, the limit, and counts, also of refusals by reason: see
        :class:`~forebay.policy.bulkhead.Compartment`."""
        return self.compartment.statistics()

    async def _wait(self, priority: Priority, deadline: float | None, at: float) -> float:
        compartment = self.compartment
        if deadline is None:
            deadline = scope.current()
        place: _Place = asyncio.get_running_loop().create_future()
        verdict = compartment.enter(place, at, priority, deadline)
        if verdict is None:
            return at
        if isinstance(verdict, Refused):
            raise self._overloaded(verdict)
        if verdict.victim is not None:
            self._tell((verdict.victim,))
        timer = call_later(verdict.expires_at - at, partial(self._expired, place))
        try:
            refused = await place
        except BaseException:
            if not compartment.abandon(place) and not place.cancelled() and place.result() is None:
                self._tell(compartment.give_back(now()))
            raise
        finally:
            timer.cancel()
        if refused is not None:
            raise self._overloaded(refused)
        return now()

    def _expired(self, place: _Place) -> None:
        if not place.done() and (refused := self.compartment.expire(place, now())) is not None:
            place.set_result(refused)

    def _tell(self, verdicts: Verdicts[_Place]) -> None:
        """Wake those who were waiting. A place of one that is cancelled, and has not run since, goes on to the next."""
        left = list(verdicts)
        for place, refused in left:  # grows meanwhile
            if not place.done():
                place.set_result(refused)
            elif refused is None:
                left += self.compartment.give_back(now())

    def _overloaded(self, refused: Refused) -> Overloaded:
        after = refused.retry_after or None
        return Overloaded("bulkhead", str(refused), retry_after=after, reason=refused.reason)
