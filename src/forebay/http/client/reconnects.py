"""What clients that stay connected share: when they try again, when they give up, and what they show of it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from math import inf
from typing import Any, Self

import structlog

from forebay.engine.inbox import Inbox
from forebay.engine.loop import now, sleep
from forebay.engine.loop import timeout as within
from forebay.engine.reconnecting import ClientState
from forebay.engine.stack_layers import asked_to_wait
from forebay.engine.tasks import Gate, Tasks
from forebay.errors import ConnectionClosed, DeadlineExceeded, ForebayError, RetryClass, UpstreamStatus
from forebay.policy.backoff import Backoff
from forebay.policy.reconnect import ReconnectSchedule

__all__ = ["LONGEST_WAIT", "OnState", "Reconnects", "may_pass", "shown"]

log = structlog.get_logger("forebay.http")

_USERINFO = re.compile(r"//[^/?#]*@")

LONGEST_WAIT = 600.0
"""Seconds: the most that a server may have us wait (``Retry-After``, or ``retry:`` of an event stream)."""

OnState = Callable[[ClientState, Exception | None], None]
"""Told each state, and why it is not connected."""


def may_pass(error: ForebayError) -> bool:
    """Whether it is worth to try again: the same may succeed at another time. Of statuses, 429 and 5xx blame the
    moment."""
    if isinstance(error, UpstreamStatus):
        return error.answered == 429 or error.answered >= 500
    return error.retry is not RetryClass.NEVER


def shown(url: object) -> str:
    """``url`` for logs and errors: without its query and user, which may be secrets."""
    return _USERINFO.sub("//", str(url).partition("?")[0])


class Reconnects:
    """Runs :meth:`_live` again and again, in a task of its own: one connection each, from the first try to its end.

    ``state`` is what it is doing, ``reason`` why it is not connected; ``connects`` counts the connections there were,
    ``failures`` the tries that brought none.

    :param name: in logs and errors.
    :param backoff: what is waited between tries; what a server asks for comes on top.
    :param attempts: so many tries in a row that brought no good connection, at least 1, and it gives up with the error
        of the last; None: it never does.
    :param good_life: seconds, at least 0, that a connection has to live to be good.
    :param limit: messages that wait to be taken.
    :param on_state: called with each state and reason; it must not block.
    :param source: of randomness for the waits.
    :raises ValueError: a parameter is out of range.
    """

    __slots__ = (
        "_attempts", "_closing", "_decided", "_error", "_failed", "_good", "_good_life", "_inbox", "_on_state",
        "_opened_at", "_room", "_schedule", "_started", "_tasks", "_wait", "connects", "failures", "name", "reason",
        "state",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        *,
        backoff: Backoff,
        attempts: int | None,
        good_life: float,
        limit: int,
        on_state: OnState | None,
        source: random.Random | None,
    ) -> None:
        if attempts is not None and attempts < 1:
            raise ValueError(f"attempts {attempts}: must be at least 1, or None")
        if not 0 <= good_life < inf:
            raise ValueError(f"good_life {good_life}: must be at least 0 seconds, and finite")
        self.name = name
        self.state = ClientState.CLOSED
        self.reason: Exception | None = None
        self.connects = 0
        self.failures = 0
        self._attempts = attempts
        self._failed = 0  # tries in a row
        self._good_life = good_life
        self._on_state = on_state
        self._schedule = ReconnectSchedule(backoff, 0.0, source)  # it is told of good connections only
        self._wait = 0.0  # seconds that the server wants us to wait before each try
        self._opened_at = inf  # when the present connection was ready
        self._good = False  # something good came of it
        self._inbox = Inbox(limit)
        self._room = Gate(is_open=True)
        self._decided = Gate()  # it is connected, or closed for good
        self._error: Exception | None = None  # why it gave up, until that was raised
        self._started = self._closing = False
        self._tasks = Tasks()

    def __repr__(self) -> str:
        why = f" ({self.reason})" if self.reason is not None else ""
        return f"<{type(self).__name__} {self.name} {self.state}{why}>"

    @property
    def connected(self) -> bool:
        """Whether there is a connection, and it is ready."""
        return self.state is ClientState.CONNECTED

    @property
    def reconnects(self) -> int:
        """Connections after the first one."""
        return max(0, self.connects - 1)

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Return when it is connected, at once when it is already.

        :param timeout: seconds; ``None``: as long as it takes.
        :raises DeadlineExceeded: it was not in time; the message says why.
        :raises ConnectionClosed: it is closed, or has given up.
        """
        try:
            async with within(timeout):
                while not self.connected:
                    if self._over:
                        raise self._closed_error()
                    await self._decided.wait()
        except TimeoutError:
            raise self._too_late(timeout) from None

    # Life

    async def __aenter__(self) -> Self:
        if self._started:
            raise RuntimeError(f"{self!r} was started before: each is used once")
        self._started = True
        self._tasks.spawn(self._run(), name=self.name)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, and make none any more. What was not taken is gone. Idempotent."""
        self._finish()
        self._error = None
        self._inbox.messages.clear()
        await self._tasks.cancel()

    async def _run(self) -> None:
        try:
            while not self._closing:
                self._enter(ClientState.CONNECTING, self.reason)
                error = await self._try()
                if error is None or self._closing:
                    return
                if self._gives_up(error):
                    self._error = self.reason = error
                    return
                delay = self._schedule.ended(now()) + self._wait + _asked(error)
                self._enter(ClientState.WAITING, error)
                tell = log.debug if self._schedule.in_a_row > 1 else log.info if self._good else log.warning
                tell("not connected", client=self.name, reason=str(error), retry_in=round(delay, 3))
                await sleep(delay)
        finally:
            self._finish()

    async def _try(self) -> Exception | None:
        """One connection: why it ended or did not come about; None: it is not to be made again."""
        self._opened_at = inf
        self._good = False
        try:
            await self._live()
        except ForebayError as error:
            self.failures += self._opened_at == inf
            return error
        except Exception as error:  # of middleware, or of a parameter: it is for whoever uses this, and repeats itself
            return error
        return None

    async def _live(self) -> None:
        """Connect, call :meth:`_connected`, and take what comes. Returns when there is to be no other connection.

        :raises ForebayError: there is one, or there is none; see :func:`may_pass`.
        """
        raise NotImplementedError  # events and WebSockets have it; this is only a base

    def _connected(self) -> None:
        self.connects += 1
        self._opened_at = now()
        log.info("connected", client=self.name, connects=self.connects)
        self._enter(ClientState.CONNECTED, None)

    def _gives_up(self, error: Exception) -> bool:
        if not isinstance(error, ForebayError) or not may_pass(error):
            return True
        error.with_traceback(None)  # which leads here
        if self._good or now() - self._opened_at >= self._good_life:
            self._schedule.connected(now())
            self._failed = 0
        else:
            self._failed += 1
        return self._attempts is not None and self._failed >= self._attempts

    def _finish(self) -> None:
        """No connection is made any more, and nothing more comes."""
        self._closing = True
        self._inbox.end()
        self._enter(ClientState.CLOSED, self.reason)

    def _enter(self, state: ClientState, reason: Exception | None) -> None:
        """The one place where the state changes."""
        changed = self.state is not state
        self.state = state
        self.reason = reason
        if state is ClientState.CONNECTED or state is ClientState.CLOSED:
            self._decided.open()
        else:
            self._decided.close()
        if changed and self._on_state is not None:
            try:
                self._on_state(state, reason)
            except Exception as error:  # it is anybody's function, and no reason to lose the connection
                log.error("on_state failed", client=self.name, exc_info=error)

    # What comes

    async def _put(self, message: Any, size: int = 0) -> None:
        """Give ``message`` to whoever iterates; when it is full then, wait until it is half empty. ``size``: what the
        inbox cannot see."""
        inbox = self._inbox
        inbox.size += size
        if inbox.put(message):
            self._room.close()
            await self._room.wait()

    def _take(self, size_of: Callable[[Any], int] | None = None) -> Any:
        inbox = self._inbox
        message = inbox.take()
        if size_of is not None:
            inbox.size -= size_of(message)
        if inbox.low:
            self._room.open()
        return message

    async def _next(self) -> None:
        """Wait until there is something to take.

        :raises StopAsyncIteration: there will be nothing.
        :raises Exception: why it gave up, once.
        """
        if not self._started:
            raise RuntimeError(f"{self!r} was not started: use it in async with")
        if not self._inbox.messages and not await self._inbox.wait():
            error, self._error = self._error, None
            if error is not None:
                raise error
            raise StopAsyncIteration

    @property
    def _over(self) -> bool:
        return self._closing or not self._started

    def _closed_error(self) -> ConnectionClosed:
        why = f": {self.reason}" if self.reason is not None else ""
        return ConnectionClosed(f"{self.name} is closed{why}")

    def _too_late(self, timeout: float | None) -> DeadlineExceeded:
        why = f": {self.reason}" if self.reason is not None else ""
        return DeadlineExceeded(f"{self.name} was not connected within {timeout:g} s{why}")


def _asked(error: Exception) -> float:
    """Seconds that the answer, or the error, asks to wait."""
    asked = asked_to_wait(error.response) if isinstance(error, UpstreamStatus) else getattr(error, "retry_after", None)
    return min(asked or 0.0, LONGEST_WAIT)
