"""Lines for a log, written by a thread, so that neither a disk nor the reader of a pipe ever holds up the loop.

The loop puts lines into a bounded queue; a thread takes them out in batches, about ten times a second while there are
any, and gives them to a *sink*: a file, standard output, or a function. A sink that is too slow, or that fails, costs
lines, which are counted; it never costs the loop time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Protocol

import structlog

from forebay.engine.loop import now
from forebay.observe import Sparing

__all__ = ["LineWriter", "LogFile"]

log = structlog.get_logger("forebay.engine")

_BATCH = 1024  # lines that are written at once
_LOOK = 1.0  # seconds between two looks whether the file was rotated away
_POLL = 0.1  # seconds between two looks whether a slow reader is still worth waiting for
_SLACK = 0.25  # seconds the thread has to notice that its time is over
_DROPS = 10.0  # seconds between two warnings of dropped lines
_FAILURES = 60.0  # seconds between two reports of failures
_STDOUT = 1
_MODE = 0o640  # who asked for what is not for everybody
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class _Sink(Protocol):
    """What takes the lines; called by the writer's thread only. ``written`` counts those it has taken."""

    written: int

    def open(self) -> None:
        """Make ready, so that what is wrong is known before the first line. May raise: :meth:`write` tries again."""

    def write(self, lines: Sequence[str], given_up: Callable[[], bool]) -> None:
        """Take ``lines``. May block, and asks ``given_up`` meanwhile; may raise, and loses the rest then."""

    def close(self) -> None:
        """No more lines come."""


class LogFile:
    """Appends lines to a file, to a FIFO, or to standard output (``-``). It blocks: :class:`LineWriter` has a thread.

    Several processes may append to the same file: it is opened with ``O_APPEND``, and each write holds whole lines. To
    a pipe no write is longer than ``PIPE_BUF``, unless a single line is, so their lines do not mix there either.

    A file that was rotated away (its name is gone, or stands for another file by now) is opened anew by the first write
    that comes a second after the last look; what is written in that second still goes to the old file.

    The end of a line that a full disk has cut is lost; the next line begins on a line of its own.
    """

    def __init__(self, path: str | Path) -> None:
        self.written = 0
        self._path = None if str(path) == "-" else os.path.abspath(path)
        self._fd = -1
        self._identity = (0, 0)  # device and inode
        self._regular = False
        self._torn = False  # the last line in the file has no end
        self._look_at = 0.0

    def __repr__(self) -> str:
        return f"<LogFile {self._path or 'stdout'} {'open' if self._fd >= 0 else 'closed'} written={self.written}>"

    def open(self) -> None:
        """Open the file, unless it is open, and is still where its name is.

        :raises OSError: it cannot be opened; a FIFO that nobody reads is such a file.
        """
        if self._fd >= 0 and not self._moved():
            return
        self.close()
        self._fd = fd = _STDOUT if self._path is None else os.open(self._path, _FLAGS, _MODE)
        status = os.fstat(fd)
        identity = (status.st_dev, status.st_ino)
        self._regular = stat.S_ISREG(status.st_mode)
        self._torn = self._torn and identity == self._identity
        self._identity = identity
        self._look_at = now() + _LOOK

    def write(self, lines: Sequence[str], given_up: Callable[[], bool]) -> None:
        """Append ``lines``, which have no line ends.

        :param given_up: asked while the reader of a pipe is awaited: True when it has been long enough.
        :raises OSError: what is not ``written`` is lost. The file is closed; the next write opens it anew.
        :raises TimeoutError: given up.
        """
        try:
            self.open()
            if self._torn:
                self._send(b"\n", given_up)
                self.written -= 1
            self._send(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"), given_up)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. Standard output stays open."""
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._path is not None:
            os.close(fd)

    def _moved(self) -> bool:
        at = now()
        if at < self._look_at or self._path is None:
            return False
        self._look_at = at + _LOOK
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    def _send(self, data: bytes, given_up: Callable[[], bool]) -> None:
        rest = memoryview(data)
        if self._regular:
            while rest:  # once, unless the disk is full: then the second write raises
                rest = rest[self._put(rest) :]
            return
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while rest:  # a pipe takes so many bytes whole or not at all, and does not block after a poll
            size = len(rest)
            if size > select.PIPE_BUF:
                size = bytes(rest[: select.PIPE_BUF]).rfind(b"\n") + 1 or select.PIPE_BUF
            while not poll.poll(_POLL * 1000):
                if given_up():
                    raise TimeoutError(errno.ETIMEDOUT, "its reader is too slow")
            try:
                rest = rest[self._put(rest[:size]) :]
            except BlockingIOError:  # another process was faster
                if given_up():
                    raise

    def _put(self, data: memoryview) -> int:
        count = os.write(self._fd, data)
        taken = bytes(data[:count])
        self.written += taken.count(b"\n")
        self._torn = not taken.endswith(b"\n")
        return count


class _Calls:
    """Gives each line to a function."""

    def __init__(self, call: Callable[[str], object]) -> None:
        self.written = 0
        self._call = call

    def open(self) -> None:
        """There is nothing to make ready."""

    def write(self, lines: Sequence[str], given_up: Callable[[], bool]) -> None:
        """Call the function with each of ``lines``."""
        for line in lines:
            if given_up():
                raise TimeoutError(errno.ETIMEDOUT, "it is too slow")
            self._call(line)
            self.written += 1

    def close(self) -> None:
        """There is nothing to close."""


class LineWriter:
    """A bounded queue of lines, and the thread that empties it into a sink.

    :param target: the path of a file to append to (:class:`LogFile`), ``-`` for standard output, or a function that is
        called with each line, in the thread: it may block, and when it raises, the lines of its batch are lost.
    :param name: for events; default: the path.
    :param max_lines: lines that wait; those past it are dropped.
    :param max_bytes: their size, likewise.
    :param interval: seconds in which lines gather before they are written.
    :raises ValueError: a bound is not above zero.

    Its methods are for the loop's thread. Each line that was put is counted once: ``written``, ``failed`` (the sink did
    not take it), or ``dropped`` (there was no room for it, or no time left to write it).
    """

    def __init__(
        self,
        target: str | Path | Callable[[str], object],
        *,
        name: str | None = None,
        max_lines: int = 65_536,
        max_bytes: int = 8 * 1024 * 1024,
        interval: float = 0.1,
    ) -> None:
        if min(max_lines, max_bytes, interval) <= 0:
            raise ValueError(f"{max_lines=}, {max_bytes=} and {interval=} must be above zero")
        self._sink: _Sink = LogFile(target) if isinstance(target, str | Path) else _Calls(target)
        if name is None:
            name = str(target) if isinstance(target, str | Path) else getattr(target, "__qualname__", repr(target))
        self.name = name
        self.max_lines = max_lines
        self.max_bytes = max_bytes
        self.interval = interval
        self.dropped = 0
        self.failed = 0
        self._lines: deque[str] = deque()
        self._added = 0  # characters that were put: the loop counts them
        self._taken = 0  # and of these are no longer kept: the thread does
        self._awake = True  # the thread is going to look at the queue without being told
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._until = inf  # when the thread gives up
        self._ended = asyncio.Event()
        self._drops = Sparing(_DROPS)
        self._failures = Sparing(_FAILURES)
        self._reported = False  # a failure, since when no batch was written

    def __repr__(self) -> str:
        counts = f"written={self.written} dropped={self.dropped} failed={self.failed}"
        return f"<LineWriter {self.name} waiting={self.waiting} {counts}>"

    @property
    def waiting(self) -> int:
        """Lines in the queue."""
        return len(self._lines)

    @property
    def written(self) -> int:
        """Lines the sink has taken."""
        return self._sink.written

    def put(self, line: str) -> None:
        """Have ``line``, which has no line end, written soon. Never waits, never raises.

        Lines that are put before :meth:`start` wait for it.
        """
        lines = self._lines
        added = self._added + len(line)
        if len(lines) >= self.max_lines or added - self._taken > self.max_bytes:
            self._drop()
            return
        lines.append(line)
        self._added = added
        if not self._awake:
            self._awake = True
            self._wake.set()

    def start(self) -> None:
        """Start the thread. A sink that it cannot open is reported, and tried again with the first line.

        :raises RuntimeError: it is started already, or stuck since before.
        """
        if self._thread is not None:
            raise RuntimeError(f"{self!r} is started already")
        self._until = inf
        self._stop.clear()
        self._ended.clear()
        self._wake.set()
        self._awake = True
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, args=(loop,), name=f"log {self.name}", daemon=True)
        self._thread.start()

    async def close(self, timeout: float = 2.0) -> None:
        """Write what waits, for at most ``timeout`` seconds, and end the thread. What is left is dropped.

        A thread that is stuck in a system call (a dead network file system) is left behind, and ends when that does.
        After any other close the writer may be started again. Closing what is not started does nothing.
        """
        thread = self._thread
        if thread is None:
            return
        self._until = now() + timeout
        self._stop.set()
        self._wake.set()
        try:
            async with asyncio.timeout(timeout + _SLACK):
                await self._ended.wait()
        except TimeoutError:
            log.error("log writer is stuck: left behind", log=self.name, waiting=self.waiting)
        else:
            thread.join()  # it has nothing left to do
            self._thread = None
        if left := self.waiting:
            self._lines.clear()
            self._added = self._taken  # the thread counts no more, or is stuck
            self.dropped += left
            log.warning("log lines dropped: no time left to write them", log=self.name, lines=left)

    def _drop(self) -> None:
        self.dropped += 1
        if self._drops.due("full", now()) is not None:
            log.warning(
                "log lines dropped: they come faster than they are written",
                log=self.name,
                dropped=self.dropped,
                waiting=self.waiting,
            )

    # -- the thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._sink.open()
        except Exception as error:
            self._report(error, 0)
        while not self._stop.is_set() or (self._lines and not self._given_up()):
            self._wake.wait()
            self._stop.wait(self.interval)
            self._wake.clear()
            self._awake = False  # whatever is put from here on wakes us again
            while self._lines and not self._given_up():
                self._write()
        self._sink.close()
        try:
            loop.call_soon_threadsafe(self._ended.set)
        except RuntimeError:
            return  # the loop is closed: nobody waits for us

    def _given_up(self) -> bool:
        return now() >= self._until

    def _write(self) -> None:
        batch = [self._lines.popleft() for _ in range(min(len(self._lines), _BATCH))]
        before = self._sink.written
        try:
            self._sink.write(batch, self._given_up)
        except Exception as error:
            self._report(error, len(batch) - (self._sink.written - before))
        else:
            if self._reported:
                self._reported = False
                log.info("log is written again", log=self.name, failed=self.failed)
        self._taken += sum(map(len, batch))

    def _report(self, error: Exception, lines: int) -> None:
        self.failed += lines
        if self._failures.due("failed", now()) is not None:
            self._reported = True
            log.error("log cannot be written", log=self.name, error=str(error), failed=self.failed)
