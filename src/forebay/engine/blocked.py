"""What blocks the event loop, with its line: reported from a thread that looks at it.

The thread looks at the stack of the loop's thread twice per threshold. Where a call of the loop is at work, it
asks the loop for a sign of life, which comes before the loop makes another call of the same coroutine; when the same
call is still at work at the next looks, and there was no sign, it blocks. An idle loop is not woken for that, and on a
busy one it costs a callback per look and a few beats of a timer: a thread can wait for the interpreter's lock for as
long as the loop makes short turns, and only the beats tell that from one long call.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from types import CodeType, FrameType
from typing import Any

import structlog

from forebay.engine.loop import now
from forebay.engine.watchdog import blocked_at
from forebay.observe.sparing import Sparing

__all__ = ["BlockedLoopReporter"]

log = structlog.get_logger("forebay.engine")

_LOOKS = 2  # per threshold: waking up is what it costs, and more often than that costs more than it is worth
_CLOSE_LOOKS = 5  # where a call was found at work
_DEEPEST = 40  # frames of a stack that are told
_RATE = 10.0  # seconds between two reports about the same line
_IDLE = 0.1  # of its time that a loop is at work which needs no beats
_LATE = 0.02  # seconds that a look may be late without a reason to ask why


class _Suspect:
    """A call of the loop that was at work at a look."""

    __slots__ = ("alive_at", "at", "frame", "since", "told")

    def __init__(self, frame: FrameType, since: float) -> None:
        self.frame = frame  # held, so that no other can have its identity
        self.since = since
        self.alive_at: float | None = None  # when the loop gave its sign of life
        self.at = ""
        self.told = False


class BlockedLoopReporter:
    """Reports calls that block the running loop for longer than ``threshold``.

    Each is logged once while it lasts, as ``event loop blocked`` with ``at`` (the innermost line of the program itself,
    as ``FILE:LINE in FUNCTION``), ``seconds`` until then and ``stack`` (innermost frame first); and when it is over,
    as ``event loop runs again``, with ``at`` and all ``seconds``. The same line is reported at most every 10 seconds;
    ``left_out`` says how often it was not. ``count`` and ``seconds`` count them all.

    What lasts less than the threshold is never reported; from 1.5 thresholds on it always is. Time in which the whole
    process stood still does not count: it was stopped by a signal, or its machine was. A call into C that keeps the
    interpreter's lock is reported once it gives it back, with the line where it did, which is right behind the call.

    :param threshold: seconds, at least 0.01.
    :raises ValueError: it is less.
    """

    __slots__ = (
        "_base", "_beaten_at", "_busy", "_cpu_clock", "_ident", "_loop", "_seen_cpu", "_sparing", "_stopped",
        "_suspect", "_thread", "_timer", "count", "seconds", "threshold",
    )  # fmt: skip

    def __init__(self, threshold: float = 0.25) -> None:
        if not threshold >= 0.01:
            raise ValueError(f"BlockedLoopReporter threshold {threshold}: must be at least 0.01 seconds")
        self.threshold = threshold
        self.count = 0
        self.seconds = 0.0
        self._sparing = Sparing(_RATE)
        self._thread: threading.Thread | None = None
        self._stopped = threading.Lock()  # held until it is to end: to wait for that costs less than for an Event
        self._suspect: _Suspect | None = None
        self._base: CodeType | None = None
        self._seen_cpu = 0.0
        self._busy = False  # at the last look, or before it
        self._beaten_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "stopped" if self._thread is None else "running"
        return f"<BlockedLoopReporter {state} threshold={self.threshold:g} count={self.count}>"

    def start(self) -> None:
        """Look at the running loop from now on, from a thread of its own. Nothing happens when it does already."""
        if self._thread is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._ident = threading.get_ident()
        clock = getattr(time, "pthread_getcpuclockid", None)
        self._cpu_clock: int | None = None if clock is None else clock(self._ident)
        self._suspect = None
        self._base = None
        self._loop.call_soon(self._learn)
        self._stopped = threading.Lock()
        self._stopped.acquire()
        self._thread = threading.Thread(target=self._watch, args=(self._stopped,), name="blocked loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; what was found by then has been reported. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopped.release()
            thread.join(1.0)  # it does not wait for anything else
            self._busy = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def statistics(self) -> dict[str, Any]:
        """How often the loop was blocked, and for how many seconds altogether."""
        return {"threshold": self.threshold, "count": self.count, "seconds": self.seconds}

    # -- on the loop

    def _learn(self) -> None:
        """Remember the function below all calls of the loop: of asyncio's, which runs one; or that which runs uvloop,
        which shows none of its own."""
        self._base = sys._getframe(1).f_code

    def _sign(self) -> None:
        """A sign of life, and the first of the beats, unless there are any."""
        self._beaten_at = at = now()
        suspect = self._suspect
        if suspect is not None and suspect.alive_at is None:
            suspect.alive_at = at
        if self._timer is None and self._busy:
            self._timer = self._loop.call_later(self.threshold / _CLOSE_LOOKS, self._beat)

    def _beat(self) -> None:
        self._timer = None
        self._sign()

    # -- in the thread

    def _watch(self, stopped: threading.Lock) -> None:
        self._seen_cpu = self._cpu()
        wait = self.threshold / _LOOKS
        due = now() + wait
        try:
            while not stopped.acquire(timeout=max(0.0, due - now())):
                at = now()
                self._look(at, self._late(at - due, wait))
                wait = self.threshold / (_LOOKS if self._suspect is None else _CLOSE_LOOKS)
                due = now() + wait
            self._look(now(), 0.0)
        except RuntimeError:
            return  # the loop is closed
        except Exception:
            log.exception("blocked loop reporter failed")
        finally:
            self._suspect = None

    def _late(self, late: float, wait: float) -> float:
        """Why was this look late? When the loop's thread has been at work, it has kept the interpreter's lock: the
        seconds that this took, above zero. Else the whole process stood still: the seconds, below zero."""
        before, self._seen_cpu = self._seen_cpu, self._cpu()
        worked = self._seen_cpu - before
        self._busy = worked > wait * _IDLE
        if late < _LATE:
            return 0.0
        worked -= wait  # at least; it may have been at work while we meant to wait
        return late if worked >= late / 4 else -late  # a quarter: others may want the processor, too

    def _cpu(self) -> float:
        """Seconds that the loop's thread was at work."""
        return time.process_time() if self._cpu_clock is None else time.clock_gettime(self._cpu_clock)

    def _look(self, at: float, late: float) -> None:
        suspect = self._suspect
        if suspect is not None:
            if late < 0:
                suspect.since -= late
            if suspect.alive_at is None and suspect.frame is self._call(self._stack()):
                if not suspect.told and at - suspect.since >= self.threshold:
                    self._report(suspect, at)
                return
            if suspect.alive_at is None and suspect.told:
                return  # it is over, but the loop has not come round yet: its end is when that does
            if suspect.alive_at is not None:
                self._over(suspect, suspect.alive_at)
            self._suspect = None
        frame = self._call(self._stack())
        if frame is not None:
            self._busy = True
            self._suspect = suspect = _Suspect(frame, max(at - max(0.0, late), self._beaten_at))
            if at - suspect.since >= self.threshold:
                self._report(suspect, at)
        if frame is not None or (self._busy and self._timer is None):
            self._loop.call_soon_threadsafe(self._sign)

    def _stack(self) -> FrameType | None:
        return sys._current_frames().get(self._ident)

    def _call(self, frame: FrameType | None) -> FrameType | None:
        """The outermost frame of the call that the loop is in; None: it waits."""
        found = None
        base = self._base
        while base is not None and frame is not None:
            back = frame.f_back
            if back is not None and back.f_code is base:
                found = frame
            frame = back
        return found

    def _report(self, suspect: _Suspect, at: float) -> None:
        stack = _told(self._stack(), self._base)
        suspect.told = True
        suspect.at = blocked_at(stack, os.getcwd())
        self.count += 1
        left_out = self._sparing.due(suspect.at, at)
        if left_out is None:
            suspect.at = ""  # nor is its end
            return
        log.warning(
            "event loop blocked",
            at=suspect.at,
            seconds=round(at - suspect.since, 3),
            threshold=self.threshold,
            stack=stack,
            left_out=left_out,
        )

    def _over(self, suspect: _Suspect, ended: float) -> None:
        if not suspect.told:
            return
        seconds = max(0.0, ended - suspect.since)
        self.seconds += seconds
        if suspect.at:
            log.warning("event loop runs again", at=suspect.at, seconds=round(seconds, 3))


def _told(frame: FrameType | None, base: CodeType | None) -> str:
    """The frames of a call, the innermost first, as :mod:`faulthandler` writes them."""
    lines: list[str] = []
    while frame is not None and frame.f_code is not base and len(lines) < _DEEPEST:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
        frame = frame.f_back
    return "\n".join(lines)
