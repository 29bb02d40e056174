"""What a process has to do: the connections it accepted, and how late its event loop is."""

from __future__ import annotations

import asyncio

from forebay.engine.loop import now
from forebay.observe.metrics import Family, Histogram, Sample

__all__ = ["Accepted", "LoopLag", "accepted", "collect_load"]


class Accepted:
    """How many connections this process has accepted, over all servers. They count it up: ``accepted.count += 1``."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


accepted = Accepted()
"""This process's."""


class LoopLag:
    """Measures how late timers fire on the running loop: how long whatever else runs on it keeps everything waiting.

    ``histogram`` has every measurement. A block that is shorter than a period may fall between two. ``samples`` is what
    it was when :meth:`sum_up` was last called.
    """

    __slots__ = ("_due", "_timer", "_worst", "histogram", "samples")

    PERIOD = 0.1
    """Seconds between two measurements."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.samples: list[Sample] = []
        self._worst = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to measure."""
        self._due = now() + self.PERIOD
        self._timer = asyncio.get_running_loop().call_later(self.PERIOD, self._tick)

    def stop(self) -> None:
        """Measure no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def sum_up(self) -> None:
        """Let ``samples`` be what the histogram is now."""
        self.samples = self.histogram.samples()

    def take_worst(self) -> float:
        """The longest lag in seconds since this was last called."""
        worst, self._worst = self._worst, 0.0
        return worst

    def _tick(self) -> None:
        late = max(0.0, now() - self._due)
        self.histogram.observe(late)
        self._worst = max(self._worst, late)
        self.start()


def collect_load(lag: LoopLag, worker: str) -> list[Family]:
    """Both as metrics; of the lag, what was summed up."""
    count = [Sample("_total", (("worker", worker),), accepted.count)]
    return [
        Family("forebay_loop_lag_seconds", "histogram", "How late timers fired.", lag.samples),
        Family("forebay_worker_accepted", "counter", "Connections the worker accepted.", count),
    ]
