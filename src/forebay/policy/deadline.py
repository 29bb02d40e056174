"""How long a piece of work may take, known to all that is done for it.

A deadline is a moment on the monotonic clock. It is kept in a context variable, so that everything that is called on
the way sees it, and it travels to other processes as the milliseconds that are left (:data:`HEADER`): their clocks need
not agree.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from math import inf, isfinite

__all__ = ["CURRENT", "HEADER", "deadline", "encode_header", "parse_header"]

HEADER = "request-timeout-ms"
"""The header that carries the milliseconds that are left, a decimal integer. Unlike a moment it needs no common clock;
the time on the wire is lost, which is nothing beside the timeouts that people set."""

_DIGITS = 9  # eleven days
CURRENT: ContextVar[float] = ContextVar("forebay.deadline", default=inf)
"""What :meth:`deadline.current` returns, for those who cannot afford to call it."""


class deadline:  # noqa: N801 - a word that reads as one in a with statement, like contextlib's suppress
    """The time that everything within has: what is called there sees it, and sends what is left of it along.

    ::

        with deadline(2.0):
            await client.get("http://orders/7")  # has what is left of the 2 s, or of the deadline around it

    Nested, the earliest counts: within a deadline there is never more time than it leaves. The block itself is not
    interrupted, calls that know deadlines are; :class:`forebay.engine.fail_after` interrupts it, too.

    :param seconds: at least 0; ``inf``: no deadline of its own.
    :param now: when it begins, on the clock of :func:`time.monotonic`; now when not given. This is the one place of
        ``policy`` that reads a clock: for people, who would otherwise have to in each with statement.
    :raises ValueError: ``seconds`` is negative or not a number.
    """

    __slots__ = ("_token", "at")

    def __init__(self, seconds: float, *, now: float | None = None) -> None:
        if not seconds >= 0:
            raise ValueError(f"deadline in {seconds} seconds: must be at least 0")
        self.at = min((time.monotonic() if now is None else now) + seconds, CURRENT.get())
        self._token: Token[float] | None = None

    @classmethod
    def until(cls, at: float) -> deadline:
        """The deadline at the moment ``at``, or the current one where that is earlier."""
        self = cls.__new__(cls)
        self.at = min(at, CURRENT.get())
        self._token = None
        return self

    def __repr__(self) -> str:
        return f"<deadline {'active ' if self._token is not None else ''}at={self.at:.3f}>"

    def __enter__(self) -> deadline:
        if self._token is not None:
            raise RuntimeError(f"{self!r} was entered already")
        self._token = CURRENT.set(self.at)
        return self

    def __exit__(self, *_: object) -> None:
        token, self._token = self._token, None
        if token is not None:
            CURRENT.reset(token)

    @staticmethod
    def current() -> float:
        """The moment at which the time is over, on the clock of :func:`time.monotonic`; ``inf``: there is none."""
        return CURRENT.get()

    @staticmethod
    def begin(at: float) -> Token[float]:
        """Make ``at`` the deadline of the current context, whatever it was, to its end or to :meth:`end`. For those who
        have made a context for a piece of work; else the ``with`` statement is what is wanted."""
        return CURRENT.set(at)

    @staticmethod
    def end(begun: Token[float]) -> None:
        """Undo what :meth:`begin` returned ``begun`` for, in the same context."""
        CURRENT.reset(begun)

    @staticmethod
    def remaining(now: float | None = None) -> float:
        """Seconds that are left: 0.0 when it is over, ``inf`` where there is no deadline."""
        at = CURRENT.get()
        return at if at == inf else max(0.0, at - (time.monotonic() if now is None else now))

    @staticmethod
    def header(now: float | None = None) -> tuple[tuple[str, str], ...]:
        """What tells the next process: the header :data:`HEADER` with the time that is left, or nothing."""
        left = deadline.remaining(now)
        return () if left == inf else ((HEADER, encode_header(left)),)


def encode_header(seconds: float) -> str:
    """The value of :data:`HEADER` for so many seconds, rounded down: rather too little time than too much."""
    return str(min(int(seconds * 1000), 10**_DIGITS - 1)) if isfinite(seconds) else "9" * _DIGITS


def parse_header(value: str | bytes) -> float | None:
    """The seconds that a value of :data:`HEADER` says. None: it is not 1 to 9 digits, and says nothing."""
    if not 0 < len(value) <= _DIGITS or not value.isdigit() or (isinstance(value, str) and not value.isascii()):
        return None
    return int(value) / 1000
