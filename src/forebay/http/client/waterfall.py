"""The picture of a trace in text: which part of a request took how long, and what had to wait for what."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log10
from typing import Any, NamedTuple

from forebay.http.client.secret_fields import SECRETS
from forebay.http.client.trace import GIVEN_UP, Leg, Step, Trace
from forebay.wire.heads import STATUS_PHRASES

__all__ = ["Span", "waterfall", "waterfall_lines"]

Span = tuple[str, str]
"""A piece of a line, and its style as ``rich`` names styles; empty: plain."""

_KEPT = "connection"
_LABELS = 18  # columns
_TIMES = 11
_LEAST_WIDTH, _MOST_WIDTH = 50, 400
_MOST_LEGS = 50
_LEAST_TIME = 1e-6  # seconds
_APART = 9  # columns between two marks of the scale, at least
_MOST_LINES = 3  # of an error

_IDLE = "bright_black"
_STYLES = {
    "DNS lookup": "cyan",
    "get ready": _IDLE,
    "connect": "yellow",
    "proxy tunnel": "yellow",
    "TLS handshake": "magenta",
    "send request": "blue",
    "send head": "blue",
    "send content": "blue",
    "receive answer": "bright_blue",
}
_WAITING = "green"
_BAD = "red"


class _Phase(NamedTuple):
    """One line of the picture. ``waits``: for somebody else, and nothing is done meanwhile."""

    label: str
    start: float
    end: float
    note: str = ""
    failed: bool = False
    waits: bool = False
    style: str = ""
    point: bool = False  # it takes no time


class _Signs(NamedTuple):
    """What is drawn with."""

    full: str
    left: str
    right: str
    waits: str
    rule: str
    mark: str
    grid: str
    bad: str
    onward: str
    again: str
    cut: str
    open: str
    ascii_only: bool


_UNICODE = _Signs("█", "▌", "▐", "░", "─", "┬", "┊", "✗", "↪", "↻", "…", "…", False)
_ASCII = _Signs("#", "#", "#", ".", "-", "+", ":", "x", "->", "again:", "~", "...", True)


def waterfall(trace: Trace, width: int = 80, *, ascii_only: bool = False) -> str:
    """The picture as plain text: a section for each leg, a line for each part of it, all on one scale of time.

    Solid bars are work, light ones are waiting for somebody else.

    :param width: columns, at least 50; no line is longer.
    :param ascii_only: for terminals and files that know nothing else.
    :raises ValueError: ``width`` is too small.
    """
    lines = waterfall_lines(trace, width, ascii_only=ascii_only)
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def waterfall_lines(trace: Trace, width: int = 80, *, ascii_only: bool = False) -> list[list[Span]]:
    """The same as lines of styled pieces, which ``rich.text.Text.assemble`` takes.

    :raises ValueError: ``width`` is too small.
    """
    if width < _LEAST_WIDTH:
        raise ValueError(f"width {width}: must be at least {_LEAST_WIDTH} columns")
    legs = trace.legs
    if not legs:
        return [[("nothing has happened yet", "")]]
    return list(_Picture(trace, legs, min(width, _MOST_WIDTH), _ASCII if ascii_only else _UNICODE).lines())


class _Picture:
    """One picture, while it is drawn."""

    def __init__(self, trace: Trace, legs: tuple[Leg, ...], width: int, signs: _Signs) -> None:
        self.trace = trace
        self.legs = legs
        self.width = width
        self.signs = signs
        self.start = min(leg.started for leg in legs)
        self.total = max(leg.ended for leg in legs) - self.start
        if self.total < _LEAST_TIME:
            self.total = 0.0  # nothing can be told apart
        self.columns = width - _LABELS - _TIMES
        self.halves = 2 * self.columns / self.total if self.total else 0.0
        self.clock = _Clock(self.total)
        self.marks = self.clock.marks(self.columns)
        self.grid = "".join(signs.grid if column in self.marks and column else " " for column in range(self.columns))

    def lines(self) -> Iterator[list[Span]]:
        yield from self.scale()
        before = ""
        for number, leg in enumerate(self.legs[:_MOST_LEGS]):
            if number:
                yield []
            yield self.title(leg, before)
            before = leg.url or before
            for phase in _phases(leg, self.signs, 1 / self.halves if self.halves else 0.0):
                start = max(phase.start, leg.started)  # a connection may have been on its way before
                yield from self.phase(phase._replace(start=start, end=max(phase.end, start)))
            if leg.error and leg.error != GIVEN_UP:
                yield from self.error(leg.error)
        if (left := len(self.legs) - _MOST_LEGS) > 0:
            yield [(f"and {left} more", _IDLE)]
        if len(self.legs) > 1:
            yield []
            yield [("total".ljust(self.width - _TIMES), "bold"), (self.time(self.total), "bold")]
        if self.trace.left_out:
            yield [(f"{self.trace.left_out} events are left out: there were too many", _IDLE)]

    def scale(self) -> Iterator[list[Span]]:
        """Two lines: what the marks mean, and the marks."""
        words = [" "] * self.columns
        for column, text in self.marks.items():
            start = max(0, min(column - len(text) // 2 if column else 0, self.columns - len(text)))
            words[start : start + len(text)] = text
        rule = "".join(self.signs.mark if column in self.marks else self.signs.rule for column in range(self.columns))
        yield [(" " * _LABELS, ""), ("".join(words), _IDLE)]
        yield [(" " * _LABELS, ""), (rule, _IDLE)]

    def title(self, leg: Leg, before: str) -> list[Span]:
        """What was asked, what came, and how long it took."""
        why = self.why(leg)
        url = self.clean(SECRETS.url(leg.url)) if leg.url and (leg.url != before or not why) else ""
        method = self.clean(leg.method) if url or not why else ""
        asked = " ".join(part for part in (method, url) if part)
        came = _status(leg.status) if leg.status else ("failed" if leg.error else "no answer")
        good = 0 < leg.status < 400
        if leg.error == GIVEN_UP:
            came = GIVEN_UP
        room = self.width - _TIMES - len(came) - 1
        if why:
            why = _shorter(f"{why}{': ' if asked else ''}", room, self.signs)
        asked = _shorter(asked or ("" if why else "request"), room - len(why), self.signs)
        return [
            (why, _IDLE),
            (asked, "bold"),
            (" " * (room - len(why) - len(asked) + 1), ""),
            (came, _IDLE if came == GIVEN_UP else "green" if good else _BAD),
            (self.time(leg.ended - leg.started), "bold"),
        ]

    def why(self, leg: Leg) -> str:
        """Why there is one more leg; empty for the first."""
        if (cause := leg.cause) is None:
            return ""
        detail = cause.detail
        said = detail.get("error") or (f"status {detail['status']}" if detail.get("status") else "")
        reason = self.clean(SECRETS.url(str(said)))
        match cause.step:
            case Step.REDIRECT:
                return f"{self.signs.onward} redirected"
            case Step.REPLAY:
                return f"{self.signs.again} sent again, the kept connection was dead"
            case _:
                number = f"try {detail['attempt']}" if detail.get("attempt") else "another try"
                if detail.get("hedge"):
                    return f"{self.signs.again} {number}, beside one that took long"
                return f"{self.signs.again} {number}{f', since {reason}' if reason else ''}"

    def phase(self, phase: _Phase) -> Iterator[list[Span]]:
        """One line; two where its note finds no room beside its bar."""
        first, last = self.place(phase)
        bar = self.bar(phase, first, last)
        start = first // 2
        note = self.clean(phase.note)
        if phase.failed and note:
            note = f"{self.signs.bad} {note}"
        style = _BAD if phase.failed else phase.style or (_WAITING if phase.waits else _STYLES.get(phase.label, ""))
        label: Span = (f"  {phase.label}".ljust(_LABELS), "")
        if phase.failed and not note:
            label = (f"{self.signs.bad} {phase.label}".ljust(_LABELS), _BAD)
        time: Span = (self.time(phase.end - phase.start) if not phase.point else "", "")
        said: Span = (note, _BAD if phase.failed else _IDLE)
        after = start + len(bar)
        if not bar:
            yield [label, (_shorter(note, self.columns + _TIMES, self.signs), _IDLE)]
        elif not note:
            yield [label, *self.blank(0, start), (bar, style), *self.blank(after, self.columns), time]
        elif (end := after + 2 + len(note)) <= self.columns + 1:
            said = (f" {note} "[: self.columns - after], said[1])
            yield [label, *self.blank(0, start), (bar, style), said, *self.blank(end, self.columns), time]
        elif (begin := start - 2 - len(note)) >= -1:
            said = (f" {note} "[-start:], said[1])
            yield [label, *self.blank(0, begin), said, (bar, style), *self.blank(after, self.columns), time]
        else:
            yield [label, *self.blank(0, start), (bar, style), *self.blank(after, self.columns), time]
            yield [(" " * _LABELS, ""), (_shorter(note, self.columns, self.signs), said[1])]

    def blank(self, start: int, end: int) -> list[Span]:
        """Where there is no bar."""
        return [(self.grid[max(0, start) : max(0, end)], _IDLE)]

    def place(self, phase: _Phase) -> tuple[int, int]:
        """The first half column of its bar, and the one behind its last: one at least."""
        first = max(0, min(round((phase.start - self.start) * self.halves), 2 * self.columns - 1))
        last = max(round((phase.end - self.start) * self.halves), first + 1)
        return first, min(last, 2 * self.columns)

    def bar(self, phase: _Phase, first: int, last: int) -> str:
        if phase.label == _KEPT:
            return ""
        cells = range(first // 2, ceil(last / 2))
        if phase.waits:
            return self.signs.waits * len(cells)
        drawn = []
        for cell in cells:
            has_left, has_right = first <= 2 * cell, last >= 2 * cell + 2
            drawn.append(
                self.signs.full if has_left and has_right else self.signs.left if has_left else self.signs.right
            )
        return "".join(drawn)

    def error(self, text: str) -> Iterator[list[Span]]:
        """Why a leg failed, in as many lines as it needs, and not in too many."""
        room = self.width - 4
        words, line, lines = self.clean(SECRETS.url(text)).split(" "), "", []
        for word in words:
            if line and len(line) + 1 + len(word) > room:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
        if len(lines) > _MOST_LINES:
            lines = [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1]} {self.signs.cut}"]
        for number, line in enumerate(lines):
            lead = f"  {self.signs.bad} " if number == 0 else "    "
            yield [(lead + _shorter(line, room, self.signs), _BAD)]

    def clean(self, text: str) -> str:
        """Without what a terminal would obey: names, places and reasons come from servers."""
        text = "".join(char if char.isprintable() else "?" for char in text)
        return text.encode("ascii", "replace").decode() if self.signs.ascii_only else text

    def time(self, seconds: float) -> str:
        return self.clock.text(seconds).rjust(_TIMES)


class _Clock:
    """One unit and one number of decimals for all times of a picture, so that they can be compared at a glance."""

    def __init__(self, total: float) -> None:
        self.total = total
        self.unit, self.factor = ("s", 1.0) if total >= 10 else ("ms", 1000.0)
        self.decimals = 2 if total >= 10 or total < 0.01 else 1 if total < 1 else 0

    def text(self, seconds: float) -> str:
        return f"{seconds * self.factor:.{self.decimals}f} {self.unit}"

    def marks(self, columns: int) -> dict[int, str]:
        """The columns of round times, and how they read."""
        whole = self.total * self.factor
        if whole <= 0:
            return {0: f"0 {self.unit}"}
        least = whole * _APART / columns
        power = 10.0 ** int(log10(least) // 1)
        step = next(size * power for size in (1, 2, 5, 10) if size * power >= least)
        count = int(whole / step + 1e-9)
        decimals = max(0, -int(log10(step) // 1))
        found = {}
        for number in range(count + 1):
            column = min(round(number * step / whole * columns), columns - 1)
            found[column] = f"{number * step:.{decimals}f}" if number else f"0 {self.unit}"
        return found


def _phases(leg: Leg, signs: _Signs, least: float) -> Iterator[_Phase]:
    """The lines of a leg, in the order in which they began, without pauses that are shorter than ``least`` seconds."""
    end = leg.ended
    failed = bool(leg.error) and leg.error != GIVEN_UP
    asked, dialled = leg.at(Step.POOL_WAIT), leg.at(Step.DIAL_START)
    times = leg.times
    if leg.cause is not None and asked is not None and asked - leg.started >= least:
        yield _Phase("pause", leg.started, asked, waits=True, style=_IDLE)
    got = leg.event(Step.GOT_CONNECTION)
    reached = leg.reached
    waited = reached if dialled is None else dialled
    if asked is not None and waited is None:
        yield _Phase("pool wait", asked, end, "no connection" if failed else signs.open, failed, waits=True)
    elif asked is not None and waited is not None and waited - asked >= least:
        unsaid = dialled is None and not times.reused  # which connections by other means than dialling are
        yield _Phase("pool wait", asked, waited, "and getting ready to connect" if unsaid else "", waits=True)
    if dialled is not None and (reached is None or reached - dialled >= least):
        note = "" if reached is not None or leg.error else signs.open
        yield _Phase("get ready", dialled, end if reached is None else reached, note, failed and reached is None)
    yield from _connecting(leg, signs)
    if got is None:
        return
    if times.reused:
        idle = f", unused for {_span(times.idle_for)}" if times.idle_for else ""
        note = f"{times.address} kept from before{idle}".strip()
        yield _Phase(_KEPT, got.at, got.at, note, point=True)
    yield from _exchange(leg, got.at, signs)


def _connecting(leg: Leg, signs: _Signs) -> Iterator[_Phase]:
    """From a name to a connection that requests can be sent over."""
    failed = bool(leg.error) and leg.error != GIVEN_UP
    if (begun := leg.event(Step.DNS_START)) is not None:
        done = leg.event(Step.DNS_DONE)
        if done is None:
            yield _Phase("DNS lookup", begun.at, leg.ended, "" if leg.error else signs.open, failed)
        else:
            error = str(done.detail.get("error") or "")
            yield _Phase("DNS lookup", begun.at, done.at, error or _found(done.detail), bool(error))
    attempts = leg.attempts
    won = next((one.ended for one in attempts if one.ended is not None and not one.error), None)
    for one in attempts:
        note, bad = one.address, False
        if one.error and one.error != GIVEN_UP:
            note, bad = f"{one.address} {one.error}", True
        elif (one.error or one.ended is None) and won is not None:
            note = f"{one.address} given up, another was faster"
        elif one.error or one.ended is None:
            note, bad = f"{one.address} no answer", failed
        yield _Phase("connect", one.started, one.ended or won or leg.ended, note.strip(), bad)
    if (begun := leg.event(Step.TUNNEL_START)) is not None:
        done = leg.event(Step.TUNNEL_DONE)
        error = "" if done is None else str(done.detail.get("error") or "")
        note = error or f"by proxy {begun.detail.get('proxy', '')}"
        yield _Phase(
            "proxy tunnel",
            begun.at,
            leg.ended if done is None else done.at,
            note,
            failed if done is None else bool(error),
        )
    if (begun := leg.event(Step.TLS_START)) is not None:
        done = leg.event(Step.TLS_DONE)
        if done is None:
            yield _Phase("TLS handshake", begun.at, leg.ended, "" if leg.error else signs.open, failed)
        else:
            error = str(done.detail.get("error") or "")
            yield _Phase("TLS handshake", begun.at, done.at, error or str(done.detail.get("version", "")), bool(error))


def _exchange(leg: Leg, got: float, signs: _Signs) -> Iterator[_Phase]:
    """From a connection to the end of the answer."""
    failed = bool(leg.error) and leg.error != GIVEN_UP
    head, content, asked = leg.at(Step.WROTE_HEADERS), leg.event(Step.WROTE_BODY), leg.at(Step.CONTINUE)
    written, first = leg.written, leg.answered
    note = _size(content.detail.get("bytes")) if content is not None else ""
    if asked is not None and head is not None:
        yield _Phase("send head", got, head)
        yield _Phase("wait for 100", head, asked, "the server asks for the content", waits=True)
        got, label = asked, "send content"
    else:
        label = "send request"
    if written is None or written < got:
        yield _Phase(label, got, leg.ended, "" if leg.error else signs.open, failed and first is None)
        written = None
    else:
        yield _Phase(label, got, written, note)
    for event in leg.events:
        if event.step is Step.INTERIM:
            note = _status(int(event.detail.get("status") or 100))
            yield _Phase("early answer", event.at, event.at, note, point=True)
    if written is not None:
        if first is None:
            yield _Phase("wait for answer", written, leg.ended, "" if leg.error else signs.open, failed, waits=True)
        else:
            yield _Phase("wait for answer", min(written, first), first, waits=True)
    if first is not None:
        done = leg.event(Step.DONE)
        if done is not None:
            yield _Phase("receive answer", first, done.at, _size(done.detail.get("bytes")))
        else:
            yield _Phase("receive answer", first, leg.ended, "" if leg.error else "not read to its end", failed)


def _found(detail: dict[str, Any]) -> str:
    addresses = detail.get("addresses")
    if not isinstance(addresses, int):
        return ""
    return f"{addresses} address{'' if addresses == 1 else 'es'}{', remembered' if detail.get('cached') else ''}"


def _size(count: object) -> str:
    if not isinstance(count, int) or count == 0:
        return ""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size >= 1024:
            size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "under 1 ms"


def _status(status: int) -> str:
    return f"{status} {STATUS_PHRASES.get(status, '')}".rstrip()


def _shorter(text: str, room: int, signs: _Signs) -> str:
    """``text`` in ``room`` columns: a piece of its middle is left out, since both ends tell something."""
    if len(text) <= room:
        return text
    if room < 8:
        return text[: max(0, room)]
    kept = room - 1
    return text[: kept - kept // 3] + signs.cut + text[len(text) - kept // 3 :]
