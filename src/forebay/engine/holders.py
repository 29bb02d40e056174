"""Who holds something: the task, for how long, and the line that took it. Cheap to note, costly only to tell."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nlargest
from operator import itemgetter
from types import CodeType, FrameType
from typing import Any

__all__ = ["PROGRAM_FILES", "Holder", "Taken", "line_taken", "longest_held", "outside"]

Taken = tuple[CodeType, int, "asyncio.Task[Any] | None"]
"""Where something was taken (a code object, and an offset in it, of which the line is found when it is told), and the
task that took it; None: a callback of the loop did."""

PROGRAM_FILES: set[str] = set()
"""Files that are known to be of the program itself: their frames need no :func:`outside`."""

_MAX_FILES = 1000  # past it all are forgotten: code that is made at run time may have a file name of its own each time
_FOREBAY = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
_ASYNCIO = os.path.join(os.path.dirname(asyncio.__file__), "")
_OURS: set[str] = set()  # files whose frames are left out


def outside(frame: FrameType) -> tuple[CodeType, int]:
    """The code and the offset of the innermost frame, from ``frame`` on, that is not of Forebay or contextlib, which
    only pass on what the program wants. Where the loop comes first, those of ``frame``."""
    found: FrameType | None = frame
    while found is not None:
        file = found.f_code.co_filename
        if file not in _OURS and (file in PROGRAM_FILES or not _is_ours(file)):
            if file.startswith(_ASYNCIO):
                break
            if len(PROGRAM_FILES) >= _MAX_FILES:
                PROGRAM_FILES.clear()
            PROGRAM_FILES.add(file)
            return found.f_code, found.f_lasti
        found = found.f_back
    return frame.f_code, frame.f_lasti


def _is_ours(file: str) -> bool:
    """Whether it is one of Forebay's or contextlib; remembered, as each request may ask for half a dozen."""
    if file != contextlib.__file__ and not file.startswith(_FOREBAY):
        return False
    _OURS.add(file)
    return True


def line_taken(taken: Taken) -> str:
    """``FILE:LINE in FUNCTION``, the file relative to the working directory where it is below it."""
    code, offset, _ = taken
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= offset < end and number is not None:
            line = number
    file = code.co_filename
    with contextlib.suppress(OSError):  # the working directory was removed
        file = file.removeprefix(os.path.join(os.getcwd(), ""))
    return f"{file}:{line} in {code.co_name}"


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who holds something of a pool now.

    :ivar key: of what is held, as text.
    :ivar task: the name of the task that took it.
    :ivar seconds: for how long it is held.
    :ivar at: the line that took it, as ``FILE:LINE in FUNCTION``.
    """

    key: str
    task: str
    seconds: float
    at: str

    def __str__(self) -> str:
        return f"{self.at}, by {self.task}, {self.seconds:.1f} s ago, for {self.key}"

    @classmethod
    def of(cls, key: Any, taken: Taken, seconds: float) -> Holder:
        """Tell who has taken something of ``key``."""
        task = taken[2]
        return cls(str(key), "no task" if task is None else f"task {task.get_name()}", seconds, line_taken(taken))


def longest_held(held: Iterable[tuple[float, Any, Taken]], at_most: int) -> list[Holder]:
    """Who holds something for longest, the longest first.

    :param held: for how many seconds each is held, its key, and who took it.
    """
    return [Holder.of(key, taken, seconds) for seconds, key, taken in nlargest(at_most, held, key=itemgetter(0))]
