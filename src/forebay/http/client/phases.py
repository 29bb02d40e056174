"""What an exchange waits for at each time, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from math import inf
from typing import TYPE_CHECKING

from forebay.engine.alarm import Alarm
from forebay.engine.loop import now
from forebay.errors import DeadlineExceeded, ReadTimeout, WriteTimeout

if TYPE_CHECKING:
    from forebay.engine import Connection
    from forebay.http.client.request import ClientRequest

__all__ = ["Phase", "Watch"]

_EARLY = 0.001  # seconds by which an alarm may be early


class Phase(Enum):
    """What an exchange waits for."""

    IDLE = "idle"  # there is none
    PRODUCING = "producing"  # the program gives more of the content to send
    WRITING = "writing"  # the server takes some of it
    HEAD = "head"  # the server answers
    CONTENT = "content"  # it sends more of the content
    UNASKED = "unasked"  # the program asks for the content
    DISCARDING = "discarding"  # the rest of content that nobody wants is there


class Watch:
    """Watches over the time of one exchange after the other on a connection.

    :param late: called with the error, when something took too long; without one, in the phases that are ours to end:
        ``UNASKED`` and ``DISCARDING``.
    :ivar heard_at: when something came last.
    """

    __slots__ = ("_deadline", "_late", "_request", "_unsent", "alarm", "conn", "heard_at", "phase")

    conn: Connection
    _request: ClientRequest

    def __init__(self, late: Callable[[Exception | None], None]) -> None:
        self.alarm = Alarm(self._rang)
        self.phase = Phase.IDLE
        self.heard_at = 0.0
        self._late = late
        self._deadline = inf
        self._unsent = 0

    def attend(self, request: ClientRequest, deadline: float) -> None:
        """An exchange begins, of which the caller's ``deadline`` is known."""
        self._request = request
        self._deadline = min(request.deadline, deadline)

    def begin(self, phase: Phase, seconds: float | None, at: float | None = None) -> None:
        """From now on it waits for something else, and so long; None: as long as it takes, but for the deadline."""
        if at is None:
            at = now()
        self.phase = phase
        self.heard_at = at
        self.alarm.set(self._deadline if seconds is None else min(at + seconds, self._deadline))

    def begin_writing(self) -> None:
        """It waits until the server takes some of what waits to be sent."""
        self._unsent = self.conn.write_buffer_size()
        self.begin(Phase.WRITING, self._request.timeouts.write)

    def end(self) -> None:
        """The exchange is over."""
        self.phase = Phase.IDLE
        self.alarm.at = inf

    def close(self) -> None:
        """There will be no other exchange; let go of whom it calls."""
        self.end()
        self.alarm.close()
        self._late = _nobody

    def _rang(self) -> None:
        at = now()
        request, phase = self._request, self.phase
        if phase is Phase.IDLE:
            return
        if at >= self._deadline - _EARLY:
            self._late(self._deadline_exceeded(request))
        elif phase is Phase.WRITING:
            if (waiting := self.conn.write_buffer_size()) < self._unsent:
                self._unsent = waiting
                self.begin(Phase.WRITING, request.timeouts.write)
            else:
                self._late(_stalled(request, request.timeouts.write))
        elif phase is Phase.HEAD or phase is Phase.CONTENT:
            self._silent(request, at)
        else:
            self._late(None)

    def _silent(self, request: ClientRequest, at: float) -> None:
        read = request.timeouts.read
        if read is None or (due := self.heard_at + read) > at + _EARLY:
            self.alarm.set(self._deadline if read is None else min(due, self._deadline))
        elif self.phase is Phase.HEAD and self.conn.write_buffer_size():
            self._late(_stalled(request, read))
        else:
            what = "no answer" if self.phase is Phase.HEAD else "nothing more of the content"
            self._late(ReadTimeout(f"{request}: {what} within {read:g} s", target=request.url.origin))

    def _deadline_exceeded(self, request: ClientRequest) -> DeadlineExceeded:
        if self._deadline < request.deadline:
            return DeadlineExceeded(f"{request}: not done by the deadline of the caller", inherited=True)
        return DeadlineExceeded(f"{request}: not done within {request.timeouts.total or 0:g} s")


def _stalled(request: ClientRequest, seconds: float | None) -> WriteTimeout:
    message = f"{request}: the server took nothing of what is sent for {seconds or 0:g} s"
    return WriteTimeout(message, target=request.url.origin)


def _nobody(error: Exception | None) -> None:
    """Who is called by a watch that is closed."""
