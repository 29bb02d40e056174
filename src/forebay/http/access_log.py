"""The access log: a line for each request, written without ever holding up the server.

Formats (:mod:`forebay.http.access_format` escapes what clients have sent):

``common``, ``combined``
    Apache's. The user is the note ``user``; the time is local. Of answers without content the size is ``-``.
``json``
    One object a line, always with all of: ``time`` (RFC 3339, UTC, milliseconds), ``client``, ``method``, ``path`` and
    ``query`` (as received), ``protocol``, ``status``, ``request_bytes`` and ``response_bytes`` (of content),
    ``duration`` (seconds, from the end of the request's head), ``scheme``, ``tls_version``, ``host``, ``user_agent``,
    ``referer``, ``request_id`` (the request's ``x-request-id``), ``notes`` (an object: what the application has put
    into ``exchange.notes``). What is not there is null.
a format string
    Such as ``'{client} {method} {path} {status} {duration_ms:.1f} "{header[user-agent]}" {note[user]}'``. Its fields
    are those of ``json``, and ``target``, ``time_clf`` (as in ``common``), ``time_unix`` (seconds), ``duration_ms``,
    ``header[NAME]``, ``note[NAME]``. What is not there is ``-``. A client may put blanks into headers and notes: quote
    them where they must not look like another field.
a function
    ``function(exchange, at)`` gives the line; ``at`` is loop time.

The time is when the answer was complete, or cut. A request whose client left before its answer was begun has the
status 499.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from random import random
from typing import TYPE_CHECKING

import structlog

from forebay.engine.log_file import LineWriter
from forebay.engine.loop import now
from forebay.http.access_format import LineFormat, compile_format
from forebay.observe import Family, Sample, Sparing

if TYPE_CHECKING:
    from forebay.http.exchange import Exchange

__all__ = ["AccessLog"]

log = structlog.get_logger("forebay.http")


class AccessLog:
    """A line for each request.

    :param target: a path, ``-`` for standard output, or a function that is called with each line, in a thread.
        Several processes may write to one file, and it may be rotated by renaming it
        (:class:`forebay.engine.log_file.LogFile`).
    :param format: ``common``, ``combined``, ``json``, a format string, or a function; see the module.
    :param skip: paths (as received, without the query) that are not logged, or a function that says whether an exchange
        is not.
    :param sample: the share of requests that are logged, above 0 up to 1. Those with a status from 400 on always are.
    :param name: for events and metrics; default: the target's.
    :param max_lines: lines that wait to be written; past it they are dropped, and counted.
    :param max_bytes: their size, likewise.
    :raises ValueError: the format has an error, or a number is out of bounds.

    Several servers may share it: what the first one starts, the last one closes. ``skipped`` counts what ``skip`` and
    ``sample`` left out, ``errors`` lines that could not be made, because a function or a note failed.
    """

    def __init__(
        self,
        target: str | Path | Callable[[str], object],
        format: str | LineFormat = "combined",  # noqa: A002 - the word for it
        *,
        skip: Iterable[str] | Callable[[Exchange], bool] = (),
        sample: float = 1.0,
        name: str | None = None,
        max_lines: int = 65_536,
        max_bytes: int = 8 * 1024 * 1024,
    ) -> None:
        if not 0 < sample <= 1:
            raise ValueError(f"access log: sample={sample} must be above 0, and at most 1")
        self._line = compile_format(format)
        self._skips = _skips(skip, sample)
        self._writer = LineWriter(target, name=name, max_lines=max_lines, max_bytes=max_bytes)
        self._put = self._writer.put
        self._servers = 0
        self._sparing = Sparing(10.0)
        self.skipped = 0
        self.errors = 0

    def __repr__(self) -> str:
        return f"<AccessLog {self._writer.name} {self.statistics()}>"

    def record(self, exchange: Exchange, at: float) -> None:
        """Log ``exchange``, which has finished at loop time ``at``. Never waits, never raises."""
        try:
            if self._skips is not None and self._skips(exchange):
                self.skipped += 1
            else:
                self._put(self._line(exchange, at))
        except Exception as error:
            self.errors += 1
            if self._sparing.due("error", now()) is not None:
                log.error("access log: no line", log=self._writer.name, errors=self.errors, exc_info=error)

    def start(self) -> None:
        """Start writing. What cannot be written is reported and tried again: it does not keep a server from serving.

        :raises RuntimeError: what was started before is stuck in a system call since its :meth:`close`.
        """
        if not self._servers:
            self._writer.start()
        self._servers += 1

    async def close(self, timeout: float = 2.0) -> None:
        """Write what waits, for at most ``timeout`` seconds, and stop. Without a :meth:`start` it does nothing."""
        if self._servers == 1:
            await self._writer.close(timeout)
        self._servers = max(0, self._servers - 1)

    def statistics(self) -> dict[str, int]:
        """The counters as they are now."""
        writer = self._writer
        return {
            "lines": writer.written,
            "waiting": writer.waiting,
            "dropped": writer.dropped,
            "failed": writer.failed,
            "skipped": self.skipped,
            "errors": self.errors,
        }

    def collect(self) -> list[Family]:
        """As metrics."""
        writer = self._writer
        return [
            self._family("lines", "Lines written.", writer.written),
            self._family("dropped", "Lines dropped: they came faster than they were written.", writer.dropped),
            self._family("failed", "Lines lost because writing failed.", writer.failed),
            self._family("skipped", "Requests left out by configuration.", self.skipped),
            self._family("errors", "Lines that could not be made.", self.errors),
        ]

    def _family(self, name: str, text: str, value: int) -> Family:
        sample = Sample("_total", (("log", self._writer.name),), value)
        return Family(f"forebay_access_log_{name}", "counter", text, [sample])


def _skips(skip: Iterable[str] | Callable[[Exchange], bool], sample: float) -> Callable[[Exchange], bool] | None:
    """Whether an exchange is left out; None: none is."""
    by_rule: Callable[[Exchange], bool] | None
    if callable(skip):
        by_rule = skip
    else:
        if isinstance(skip, str):
            raise ValueError(f"access log: skip={skip!r} must be a list of paths, such as [{skip!r}]")
        paths = frozenset(path.encode() for path in skip)
        by_rule = (lambda exchange: exchange.raw_path in paths) if paths else None
    if sample == 1:
        return by_rule
    return lambda exchange: (
        (by_rule is not None and by_rule(exchange)) or (0 < exchange.status < 400 and random() >= sample)  # noqa: S311
    )
