"""A call that is made a second time when it is slow: the first answer wins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, TypeVar

import structlog

from forebay.engine.loop import now
from forebay.engine.tasks import Task, place_of_task, start_task, unfinished
from forebay.policy.hedge import Hedger

__all__ = ["discard", "hedged"]

log = structlog.get_logger("forebay.engine")

T = TypeVar("T")

_LAST_PATIENCE = 5.0
"""Seconds that a loser may take to end once it is cancelled."""


async def hedged(
    hedger: Hedger, call: Callable[[], Coroutine[Any, Any, T]], *, method: str = "", idempotent: bool | None = None
) -> T:
    """Make a call, and when it is slow another one beside it, as ``hedger`` says; the first answer is returned, and the
    others are cancelled and awaited.

    A try that fails while another is under way leaves it to that one. When all have failed, the error is that of the
    first. A caller that is cancelled cancels them all. An answer that came all the same is let go of (:func:`discard`).

    :param method: and ``idempotent``: see :meth:`forebay.policy.hedge.Hedger.delay`.
    """
    began = now()
    delay = hedger.delay(began, method=method, idempotent=idempotent)
    if delay == inf:
        result = await call()
        ended = now()
        hedger.answered(ended - began, ended)
        return result
    tries = [start_task(call())]
    chosen: Task[T] | None = None
    more = True
    try:
        while True:
            winner = _answered(tries)
            if winner is not None:
                ended = now()
                hedger.answered(ended - began, ended, winner=winner)
                chosen = tries[winner]
                return chosen.result()
            waiting = [task for task in tries if not task.done()]
            if not waiting:
                return tries[0].result()  # raises
            due = began + delay * len(tries)
            wait = max(0.0, due - now()) if more else None
            await asyncio.wait(waiting, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            if more and now() >= due and not any(task.done() for task in waiting):
                more = hedger.hedge(now(), len(tries) - 1) is None
                if more:
                    tries.append(start_task(call()))
    finally:
        await _end(tries, chosen)


def discard(result: Any) -> None:
    """Let go of a response that nobody gets, so that it does not keep its connection: what has a method ``discard``
    and a ``status``, by which it is told from a set."""
    let_go = getattr(result, "discard", None)
    if let_go is not None and isinstance(getattr(result, "status", None), int):
        let_go()


def _answered(tries: list[Task[T]]) -> int | None:
    """The number of the first try that has an answer."""
    for number, task in enumerate(tries):
        if task.done() and not task.cancelled() and task.exception() is None:
            return number
    return None


async def _end(tries: list[Task[T]], chosen: Task[T] | None) -> None:
    """Cancel what is still under way, and see it end; let go of every answer but that of ``chosen``."""
    losers: list[Task[T]] = []
    for task in tries:
        if task is chosen:
            continue
        if task.done():
            _drop(task)
        else:
            losers.append(task)
            task.cancel()
            task.add_done_callback(_drop)
    tries.clear()  # an error of one of them leads to here, by its traceback: it would lead to itself
    if losers:
        try:
            late = await unfinished(losers, _LAST_PATIENCE)
        except BaseException:  # the caller is cancelled now: it does not get the answer either
            if chosen is not None:
                _drop(chosen)
            raise
        for task in late:
            log.warning("hedged call ignores its cancellation", at=place_of_task(task))


def _drop(task: Task[Any]) -> None:
    """Nobody wants its answer. Its error is looked at, so that asyncio does not log it: the answer that was chosen, or
    the error of the first, is what counts."""
    if not task.cancelled() and task.exception() is None:
        discard(task.result())
