"""Work after the response: what a request has begun, and nobody waits for. Bounded, counted, and never silently lost.

::

    @app.post("/orders")
    async def order(request: Request, order: Order) -> Order:
        request.after(send_mail, order.customer)
        return order

The bound is felt where it can still be answered: :meth:`BackgroundWork.reserve`, before the response, raises
``Overloaded``, which the client is told as a 503. What has its place is done, late if there is much to do. At shutdown
it has a grace; what is left then is logged by name, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from functools import partial
from inspect import isasyncgen, isgenerator
from math import inf
from typing import Any

import structlog

from forebay.engine.executor import Executor
from forebay.engine.jobs import Handle, JobState, kind_of
from forebay.engine.loop import Cancelled, now, timeout
from forebay.engine.tasks import Tasks
from forebay.errors import ExecutorStopped, Overloaded
from forebay.observe.metrics import Family, Sample
from forebay.observe.sparing import Sparing
from forebay.policy.deadline import deadline

__all__ = ["BackgroundWork"]

log = structlog.get_logger("forebay.http")

_NAMED = 20  # pieces of work at most in a log line
_SHOWN = 5  # and in a repr


class _Work:
    """One call that is to be made."""

    __slots__ = ("handle", "kind", "name", "place", "request_id")

    def __init__(self, function: Callable[..., Any], request_id: str) -> None:
        bare = function
        while isinstance(bare, partial):
            bare = bare.func
        self.name: str = getattr(bare, "__qualname__", "") or type(bare).__qualname__
        code = getattr(bare, "__code__", None) or getattr(getattr(bare, "__call__", None), "__code__", None)  # noqa: B004  # that of a callable object
        self.place = "" if code is None else f"{code.co_filename}:{code.co_firstlineno}"
        self.kind = kind_of(bare)
        self.request_id = request_id
        self.handle: Handle[Any] | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.place})" if self.place else self.name


class BackgroundWork:
    """Runs what is to be done after responses. A :class:`~forebay.service.Service`, which may be started again.

    Coroutine functions run as Tasks on the loop, all others in threads; both see the context variables of the request.
    An error is logged, with the function and its place, and counted. To be used from one loop.

    :param name: in logs and metrics: the application's.
    :param concurrency: calls that run at once; as many threads are started at most.
    :param queue: calls that wait, in addition. Past both, :meth:`reserve` and :meth:`submit` refuse.
    :param grace: seconds that :meth:`drain` waits for what is under way and what waits. 0: none.
    :raises ValueError: a number makes no sense.
    """

    __slots__ = (
        "_executor", "_followers", "_reserved", "_sparing", "_totals", "_works", "concurrency", "grace",
        "name", "queue",
    )  # fmt: skip

    def __init__(self, name: str, *, concurrency: int = 64, queue: int = 1000, grace: float = 10.0) -> None:
        if concurrency < 1:
            raise ValueError(f"BackgroundWork concurrency {concurrency}: must be at least 1")
        if queue < 0:
            raise ValueError(f"BackgroundWork queue {queue}: must be 0 or more")
        if not grace >= 0:
            raise ValueError(f"BackgroundWork grace {grace}: must be 0 seconds or more")
        self.name = name
        self.concurrency = concurrency
        self.queue = queue
        self.grace = grace
        self._executor = self._new_executor()
        self._followers = Tasks()
        self._works: dict[_Work, None] = {}
        self._reserved = 0
        self._totals = dict.fromkeys(("submitted", "finished", "failed", "cut", "refused"), 0)
        self._sparing = Sparing()

    def _new_executor(self) -> Executor:
        # Places are counted here, those that are only reserved among them: so its own queue is never too short.
        return Executor(f"{self.name} background", concurrency=self.concurrency, queue=self.concurrency + self.queue)

    def __len__(self) -> int:
        """Calls that run or wait."""
        return len(self._works)

    def __repr__(self) -> str:
        running = [str(work) for work in self._works if work.handle and work.handle.state is JobState.RUNNING]
        more = f", and {len(running) - _SHOWN} more" if len(running) > _SHOWN else ""
        shown = f": {', '.join(running[:_SHOWN])}{more}" if running else ""
        queued = len(self._works) - len(running)
        return (
            f"<BackgroundWork {self.name} {self._executor.state} running={len(running)}/{self.concurrency} "
            f"queued={queued}/{self.queue}{shown}>"
        )

    # -- life

    async def start(self) -> None:
        """Take work."""
        if self._executor.state != "new":
            self._executor = self._new_executor()
        await self._executor.start()

    async def drain(self) -> None:
        """Finish what there is, in at most ``grace`` seconds, and refuse what comes. Called when no request is left."""
        try:
            async with timeout(self.grace):
                await self._executor.drain()
                await self._followers.join()
        except TimeoutError:
            return  # what is left is said by `stop`

    async def stop(self) -> None:
        """Cut what is left, say what that is, and count it. Coroutines are cancelled; a thread cannot be stopped, and
        is left to itself. Idempotent."""
        if self._works:
            names = [
                f"{work}, of request {work.request_id}" if work.request_id else str(work)
                for work in list(self._works)[:_NAMED]
            ]
            log.error("background work cut", app=self.name, count=len(self._works), work=names)
        await self._executor.stop()
        await self._followers.join()

    # -- work

    def reserve(self) -> None:
        """Keep a place for one call of :meth:`submit` with ``reserved=True``, or of :meth:`release`. Called before the
        response, which can still say so when there is none.

        :raises Overloaded: there is none; ``limit`` is ``background``.
        """
        self._check_place("")
        self._reserved += 1

    def release(self) -> None:
        """Give back a place that was reserved: there will be no call.

        :raises RuntimeError: none is reserved.
        """
        if not self._reserved:
            raise RuntimeError(f"{self!r}: no place is reserved")
        self._reserved -= 1

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        request_id: str = "",
        *,
        context: Context | None = None,
        reserved: bool = False,
    ) -> None:
        """Call ``function(*args, **kwargs)``, soon. Nobody gets to know what it returns.

        :param request_id: in the log, when it fails.
        :param context: what it sees a copy of; None: of the current one.
        :param reserved: it has a place, by :meth:`reserve`.
        :raises Overloaded: it has none, and there is none; ``limit`` is ``background``. Counted and logged, too.
        :raises ExecutorStopped: it is too late, the work is drained or stopped. Counted and logged, too.
        :raises RuntimeError: it was not started; or no place is reserved.
        """
        work = _Work(function, request_id)
        if reserved:
            self.release()
        else:
            self._check_place(str(work))
        call = partial(function, *args, **(kwargs or {}))
        context = copy_context() if context is None else context.copy()  # of our own: nobody is in it
        context.run(deadline.begin, inf)  # that of the request was for its answer
        try:
            work.handle = context.run(partial(self._executor.submit_nowait, call, kind=work.kind))
        except ExecutorStopped:
            self._totals["refused"] += 1
            log.error("background work refused", app=self.name, work=str(work), request=request_id, reason="it drains")
            raise
        self._totals["submitted"] += 1
        self._works[work] = None
        self._followers.spawn(self._follow(work, work.handle), name=f"{self.name} background {work.name}")

    def _check_place(self, what: str) -> None:
        most = self.concurrency + self.queue
        taken = len(self._works) + self._reserved
        if taken < most:
            return
        self._totals["refused"] += 1
        if (left_out := self._sparing.due("full", now())) is not None:
            log.warning("background work refused", app=self.name, work=what, taken=taken, left_out=left_out)
        raise Overloaded(
            "background", f"{self.name}: {taken} pieces of background work are under way, the most is {most}"
        )

    async def _follow(self, work: _Work, handle: Handle[Any]) -> None:
        end = "failed"
        try:
            made = await handle.result()
            if isgenerator(made) or isasyncgen(made):
                raise TypeError(f"{work} is a generator function: nobody would run what it has made")
            end = "finished"
        except ExecutorStopped:
            end = "cut"  # said by `stop`
        except Cancelled:
            log.error("background work was cancelled", app=self.name, work=str(work), request=work.request_id)
        except Exception as error:
            log.error("background work failed", app=self.name, work=str(work), request=work.request_id, exc_info=error)
        finally:
            self._totals[end] += 1
            del self._works[work]

    # -- what can be seen

    def statistics(self) -> dict[str, Any]:
        """Counts since it was made, and the state now: every piece of work submitted is in exactly one of ``running``,
        ``queued``, ``finished``, ``failed`` and ``cut``; ``refused`` never were. ``work`` names what runs."""
        running = [str(work) for work in self._works if work.handle and work.handle.state is JobState.RUNNING]
        return {
            "state": str(self._executor.state),
            "running": len(running),
            "queued": len(self._works) - len(running),
            "reserved": self._reserved,
            **self._totals,
            "work": running[:_NAMED],
        }

    def collect(self) -> list[Family]:
        """As metrics, labelled with the application's name."""
        app = ("app", self.name)
        ended = [
            Sample("_total", (app, ("end", end)), self._totals[end]) for end in ("finished", "failed", "cut", "refused")
        ]
        now_there = [
            Sample("", (app, ("state", state)), self.statistics()[state]) for state in ("running", "queued", "reserved")
        ]
        return [
            Family("forebay_background_ended", "counter", "Work after responses that came to an end, by which.", ended),
            Family("forebay_background_places", "gauge", "Places taken by work after responses.", now_there),
        ]
