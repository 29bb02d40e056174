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
_LOOK = 0.05  # seconds between two looks at what the server has taken: loops do not say


class Phase(Enum):
    """What an exchange waits for."""

    IDLE = "idle"  # there is none
    PRODUCING = "producing"  # the program gives more of the content to send
    WRITING = "writing"  # the server takes some of it
    FLUSHING = "flushing"  # it takes the last of it
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

    __slots__ = ("_deadline", "_late", "_request", "_taken_at", "_unsent", "alarm", "conn", "heard_at", "phase")

    conn: Connection
    _request: ClientRequest

    def __init__(self, late: Callable[[Exception | None], None]) -> None:
        self.alarm = Alarm(self._rang)
        self.phase = Phase.IDLE
        self.heard_at = 0.0
        self._late = late
        self._deadline = inf
        self._unsent = 0
        self._taken_at = 0.0  # when some of it was seen to be taken

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
        self._watch_writing(Phase.WRITING, now())

    def begin_answer(self, at: float | None = None) -> None:
        """All was written: it waits until the server has taken that, and answers."""
        if at is None:
            at = now()
        if self.conn.write_buffer_size():
            self._watch_writing(Phase.FLUSHING, at)
        else:
            self.begin(Phase.HEAD, self._request.timeouts.read, at)

    def _watch_writing(self, phase: Phase, at: float) -> None:
        self._unsent = self.conn.write_buffer_size()
        self._taken_at = at
        self.begin(phase, _LOOK, at)

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
        elif phase is Phase.WRITING or phase is Phase.FLUSHING:
            self._look(request, phase, at)
        elif phase is Phase.HEAD or phase is Phase.CONTENT:
            self._silent(request, at)
        else:
            self._late(None)

    def _look(self, request: ClientRequest, phase: Phase, at: float) -> None:
        waiting = self.conn.write_buffer_size()
        write = request.timeouts.write
        if phase is Phase.FLUSHING and not waiting:
            self.begin(Phase.HEAD, request.timeouts.read, at)
            return
        if waiting < self._unsent:
            self._unsent, self._taken_at = waiting, at
        elif write is not None and at - self._taken_at >= write - _EARLY:
            message = f"{request}: the server took nothing of what is sent for {write:g} s"
            self._late(WriteTimeout(message, target=request.url.origin))
            return
        self.alarm.set(min(at + _LOOK, self._deadline))

    def _silent(self, request: ClientRequest, at: float) -> None:
        read = request.timeouts.read
        if read is None or (due := self.heard_at + read) > at + _EARLY:
            self.alarm.set(self._deadline if read is None else min(due, self._deadline))
        else:
            what = "no answer" if self.phase is Phase.HEAD else "nothing more of the content"
            self._late(ReadTimeout(f"{request}: {what} within {read:g} s", target=request.url.origin))

    def _deadline_exceeded(self, request: ClientRequest) -> DeadlineExceeded:
        if self._deadline < request.deadline:
            return DeadlineExceeded(f"{request}: not done by the deadline of the caller", inherited=True)
        return DeadlineExceeded(f"{request}: not done within {request.timeouts.total or 0:g} s")


def _nobody(error: Exception | None) -> None:
    """Who is called by a watch that is closed."""
