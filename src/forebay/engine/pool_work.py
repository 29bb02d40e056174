"""The work of a pool: it dials, checks and closes as its plan says."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from contextvars import Context
from math import inf
from typing import Any, Generic, TypeVar

import structlog

from forebay.engine.holders import Holder, Taken, line_taken, longest_held
from forebay.engine.loop import now, ticker
from forebay.engine.pool_refusals import refused
from forebay.engine.tasks import Gate, Tasks
from forebay.errors import ConnectFailed, ConnectTimeout
from forebay.observe.sparing import Sparing
from forebay.policy.pool import PoolPlan
from forebay.policy.pool_actions import (
    Action,
    Check,
    Close,
    ClosedBecause,
    Dial,
    Give,
    Place,
    PlaceState,
    Refuse,
    RefusedBecause,
    Warn,
)
from forebay.policy.pool_settings import PoolSettings

__all__ = ["PoolWaiter", "PoolWork"]

log = structlog.get_logger("forebay.engine")

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

_HELD = PlaceState.HELD
_RATE = 10.0  # seconds between two warnings about the same line
_TOLD = 10  # holders that an error names
_PARTED = 1000  # resources that were taken from under their holders, and may still be released


class PoolWaiter:
    """Somebody who waits in :meth:`Pool.acquire <forebay.engine.pool.Pool.acquire>`."""

    __slots__ = ("by_deadline", "outcome", "taken", "timer")

    def __init__(self, outcome: asyncio.Future[Place | BaseException], taken: Taken, by_deadline: bool) -> None:
        self.outcome = outcome
        self.taken = taken
        self.by_deadline = by_deadline  # it is that which ends the wait
        self.timer: asyncio.TimerHandle | None = None


class PoolWork(Generic[K, R]):
    """The half of a :class:`~forebay.engine.pool.Pool` that nobody sees. It is an entry of the timer wheel."""

    __slots__ = (
        "_check",
        "_close",
        "_closings",
        "_context",
        "_dial",
        "_doing",
        "_is_open",
        "_loop",
        "_parted",
        "_places",
        "_plan",
        "_quiet",
        "_sparing",
        "_tasks",
        "_todo",
        "due_at",
        "expires_at",
        "name",
    )

    def __init__(
        self,
        dial: Callable[[K], Awaitable[R]],
        close: Callable[[R], Awaitable[object] | None],
        check: Callable[[R], Awaitable[bool]] | None,
        settings: PoolSettings,
        name: str,
        is_open: Callable[[R], bool] | None,
        enabled: bool,
    ) -> None:
        self.name = name
        self._context: Context  # both from the start on
        self._loop: asyncio.AbstractEventLoop
        self._dial = dial
        self._close = close
        self._check = check
        self._is_open = is_open
        self._plan = PoolPlan(settings, checks=check is not None, enabled=enabled)
        self._places = self._plan.places
        self._tasks = Tasks()  # that dial and check
        self._closings = Tasks()
        self._quiet = Gate()  # nothing is in flight any more
        self._todo: deque[Action] = deque()
        self._doing = False
        self._parted: dict[int, R] = {}  # what was taken from under its holder; kept, so that no other has its id
        self._sparing = Sparing(_RATE)
        self.expires_at = self.due_at = inf  # see policy.timers.Timed

    # Doing what is decided

    def _do(self, actions: Sequence[Action]) -> None:
        """Do all of ``actions``, and what comes of them, in order."""
        todo = self._todo
        todo.extend(actions)
        if self._doing:
            return  # whoever does already, does these too
        self._doing = True
        try:
            while todo:
                self._act(todo.popleft())
        finally:
            self._doing = False
            if todo:  # something let go what is no Exception: the others must have their turn all the same
                asyncio.get_running_loop().call_soon(self._do, ())
        if self._plan.total and self.due_at == inf:
            self._look_after(now() + self._plan.settings.horizon)
        if self._plan.draining and not self._plan.total and not self._plan.waiting:
            self._quiet.open()

    def _act(self, action: Action) -> None:
        match action:
            case Give(waiter, place):
                if waiter.outcome.done():  # cancelled in this very turn
                    self.put_back(place, reusable=True)
                else:
                    place.holder = waiter.taken
                    waiter.outcome.set_result(place)
            case Dial(place):
                self._spawn(self._dial_for(place), "dials")
            case Check(place):
                self._spawn(self._check_of(place), "checks")
            case Close(place, why, held):
                self._close_one(place, why, held)
            case Refuse(waiter):
                if not waiter.outcome.done():
                    waiter.outcome.set_result(self._error(action))
            case Warn(place, seconds):
                self._warn(place, seconds)

    def _spawn(self, coro: Coroutine[Any, Any, None], what: str) -> None:
        self._tasks.spawn(coro, name=f"pool {self.name} {what}", context=self._context.copy())

    async def _dial_for(self, place: Place) -> None:
        """Dial, and tell the plan what came of it."""
        limit = self._plan.settings.dial_timeout
        error: BaseException
        try:
            async with asyncio.timeout(limit) as timer:
                resource = await self._dial(place.key)
        except Exception as raised:  # the dial is the program's: its errors go to who it was for
            error = raised
            if isinstance(raised, TimeoutError) and timer.expired():
                error = ConnectTimeout(f"{self.name}: dialling {place.key} took more than {limit:g} s")
            untold = place.waiting is None and place.state is not PlaceState.GONE
            self._do(self._plan.dial_failed(place, error, now()))
            if untold:
                log.debug("dial failed", pool=self.name, key=str(place.key), reason=str(error))
            del error  # its traceback has this frame: who gets it is to be the last that knows of it
        except BaseException:
            error = ConnectFailed(f"{self.name}: dialling {place.key} was cancelled")
            self._do(self._plan.dial_failed(place, error, now()))
            raise
        else:
            self._dialled(place, resource)

    def _dialled(self, place: Place, resource: R) -> None:
        if id(resource) in self._places:
            error = RuntimeError(f"pool {self.name}: dial has returned {resource!r:.100}, which the pool has already")
            self._do(self._plan.dial_failed(place, error, now()))
            return
        self._parted.pop(id(resource), None)
        self._do(self._plan.dialled(place, resource, now()))

    async def _check_of(self, place: Place) -> None:
        assert self._check is not None
        works = False
        try:
            async with asyncio.timeout(self._plan.settings.check_timeout):
                works = bool(await self._check(place.resource))
        except Exception as error:  # the check is the program's: whatever it raises means the same
            log.debug("check failed", pool=self.name, key=str(place.key), reason=repr(error))
        finally:
            self._do(self._plan.checked(place, works, now()))

    def _close_one(self, place: Place, why: ClosedBecause, held: bool) -> None:
        if held:
            if why is ClosedBecause.RECLAIMED and place.holder is not None:
                log.warning("resource reclaimed", pool=self.name, key=str(place.key), at=line_taken(place.holder))
            self._parted[id(place.resource)] = place.resource
            if len(self._parted) > _PARTED:
                del self._parted[next(iter(self._parted))]
        place.holder = None
        try:
            closing = self._close(place.resource)
        except (Exception, asyncio.CancelledError):  # close is the program's
            log.exception("close failed", pool=self.name, key=str(place.key))
            return
        if closing is not None:
            self._closings.spawn(self._closing(closing), name=f"pool {self.name} closes", context=self._context.copy())

    async def _closing(self, closing: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(self._plan.settings.close_timeout):
                await closing
        except TimeoutError:
            log.warning("close took too long", pool=self.name, seconds=self._plan.settings.close_timeout)

    def _open(self, place: Place) -> bool:
        """What ``is_open`` says; one for which it raises is not."""
        assert self._is_open is not None
        try:
            return self._is_open(place.resource)
        except (Exception, asyncio.CancelledError):  # is_open is the program's
            log.exception("is_open failed", pool=self.name, key=str(place.key))
            return False

    # Coming back

    def _release(self, place: Place, reusable: bool) -> None:
        why = None
        if not reusable:
            why = ClosedBecause.USED_UP
        elif self._is_open is not None and not self._open(place):
            why = ClosedBecause.ENDED
        actions = self._plan.release(place, now(), why)
        if actions:
            self._do(actions)

    def put_back(self, place: Place, reusable: bool) -> None:
        """As :meth:`release`, for those who know the place, and that they hold it unless it is gone."""
        if place.state is _HELD:
            self._release(place, reusable)
        else:
            self._parted.pop(id(place.resource), None)

    # Looking after it

    def on_expired(self) -> None:
        """See :class:`~forebay.policy.timers.Timed`."""
        self._do(self._plan.tick(now()))
        self._look_after(self._plan.due)

    def _look_after(self, at: float) -> None:
        """Come again at ``at``."""
        self.expires_at = at
        if at < inf or self.due_at < inf:  # what is never due leaves the wheel, so that it is put there anew
            ticker().hold(self)

    # Telling

    def holders(self, at_most: int = _TOLD) -> list[Holder]:
        """Who holds something now, the longest first."""
        at = now()
        held = ((at - one.since, one.key, one.holder) for one in self._places.values() if one.holder is not None)
        return longest_held(held, at_most)

    def _warn(self, place: Place, seconds: float) -> None:
        if place.holder is None:
            return
        holder = Holder.of(place.key, place.holder, seconds)
        left_out = self._sparing.due(holder.at, now())
        if left_out is not None:
            log.warning(
                "resource held for long",
                pool=self.name,
                key=holder.key,
                at=holder.at,
                task=holder.task,
                seconds=round(seconds, 3),
                left_out=left_out,
            )

    def _error(self, refusal: Refuse) -> BaseException:
        """What who is refused is told."""
        if refusal.why is RefusedBecause.DIAL_FAILED:
            error: BaseException = refusal.error
            return error
        return refused(self.name, self._plan, refusal, refusal.waiter.by_deadline, self.holders())
