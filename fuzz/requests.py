"""The reader of requests beside h11: ``python -m fuzz.requests``."""

from __future__ import annotations

from collections.abc import Iterable

from forebay.errors import ProtocolError
from forebay.wire.http1 import RequestRules
from fuzz.command import command
from fuzz.request_inputs import HOLDS, WORDS, inputs, seeds
from fuzz.request_readings import LIMITS, OurReading, OurRequest, TheirRequest, Theirs, ours, theirs
from fuzz.request_reasons import (
    BLANKS,
    CHUNK_LINES,
    DROPPED,
    DROPPED_UNREAD,
    EMPTY_LINES,
    HEADS,
    KEPT_ALIVE,
    NOT_IN_TRAILERS,
    TRAILERS,
    chunk_line,
    may_keep_alive,
    without_framing,
)
from fuzz.target import Disagreement, Target, byte_by_byte, decode

_END = b"\r\n\r\n"  # completes a head, a chunk line or trailers
_REMEMBERED = 64  # inputs that share what is remembered


class _Memory:
    """Rules that remember the heads of inputs before this one, which must not change what it means."""

    def __init__(self) -> None:
        self.inputs: list[bytes] = []
        self.rules = RequestRules(**LIMITS)

    def add(self, data: bytes) -> None:
        if len(self.inputs) == _REMEMBERED:
            self.inputs = []
            self.rules = RequestRules(**LIMITS)
        self.inputs.append(data)


_memory = _Memory()


def check(data: bytes) -> list[str]:
    """Read an input in several ways. See :class:`fuzz.target.Target`."""
    flags, pieces = decode(data)
    stream = b"".join(pieces)
    mine = ours(pieces)
    for way, reading in (
        ("whole", ours([stream])),
        ("byte by byte", ours(byte_by_byte(stream))),
        ("with every head held", ours(pieces, holds=True) if flags & HOLDS else mine),
    ):
        _same(mine, reading, f"in pieces {pieces} and {way}")
    _memory.add(data)
    for time in ("first", "second", "third"):
        before = f"after heads that were remembered, the {time} time; all inputs: {_memory.inputs}"
        _same(mine, ours(pieces, _memory.rules), before)
    return list(_compare(mine, theirs(pieces), stream))


def _same(mine: OurReading, other: OurReading, how: str) -> None:
    if mine.requests != other.requests or (mine.refusal is None) is not (other.refusal is None):
        raise Disagreement(f"two readings {how}: {mine} and {other}")


def _compare(mine: OurReading, other: Theirs, stream: bytes) -> Iterable[str]:
    if other.empty_lines:
        yield EMPTY_LINES
    for my_request, their_request in zip(mine.requests, other.requests, strict=False):
        yield from _compare_requests(my_request, their_request)
        if not my_request.keep_alive and my_request.complete:
            return  # whatever follows is not read
        if not (my_request.complete and their_request.complete):
            break
    if mine.refusal is None and not other.refusal and _same_content(mine, other):
        return
    their_progress = _progress(other)
    if other.refusal and their_progress <= _progress(mine) and (reason := _why_they_refuse_content(other, stream)):
        yield reason
        return
    if mine.refusal is None and _progress(mine) <= their_progress:
        mine = ours([stream, _END])
    if mine.refusal is None or _progress(mine) > their_progress:
        raise Disagreement(f"we wait for more, or go on: {mine}; h11: {_shown(other)}")
    if not other.refusal and _progress(mine) == their_progress:
        other.feed(_END)
    yield from _why_refused(mine, mine.refusal, other, stream)


def _progress(reading: OurReading | Theirs) -> tuple[int, int]:
    """How far it came: requests that are complete, and those whose head is."""
    return sum(request.complete for request in reading.requests), len(reading.requests)


def _same_content(mine: OurReading, other: Theirs) -> bool:
    """Whether both came as far, to the byte."""
    if not mine.requests or not other.requests:
        return not mine.requests and not other.requests
    return _progress(mine) == _progress(other) and mine.requests[-1].content == other.requests[-1].content


def _shown(other: Theirs) -> str:
    return f"{other.requests}, {f'refused: {other.refusal}' if other.refusal else 'not refused'}"


def _compare_requests(mine: OurRequest, other: TheirRequest) -> Iterable[str]:
    """Everything that both say of a request, as far as both have read it."""
    for part in ("method", "target", "headers", "http11", "expects", "length"):
        if getattr(mine, part) != getattr(other, part):
            raise Disagreement(f"{part}: {getattr(mine, part)} and {getattr(other, part)} of {other.head!r}")
    _check_own_parts(mine, other)
    shorter = min(len(mine.content), len(other.content))
    if mine.content[:shorter] != other.content[:shorter]:
        raise Disagreement(f"content: {mine.content!r} and {other.content!r}")
    if not (mine.complete and other.complete):
        return
    if mine.content != other.content:
        raise Disagreement(f"content: {mine.content!r} and {other.content!r}")
    kept = [(name, value) for name, value in other.trailers if name not in NOT_IN_TRAILERS]
    if mine.trailers != kept:
        raise Disagreement(f"trailers: {mine.trailers} and {other.trailers}")
    if kept != other.trailers:
        yield DROPPED
    if mine.keep_alive is not other.keep_alive:
        if not may_keep_alive(mine, other):
            raise Disagreement(f"keep_alive: {mine.keep_alive} and {other.keep_alive} after {other.head!r}")
        yield KEPT_ALIVE


def _check_own_parts(mine: OurRequest, other: TheirRequest) -> None:
    """What h11 does not say follows from what it does."""
    headers = other.headers
    authority, path = b"", mine.target
    if not path.startswith(b"/") and path != b"*":
        rest = path.partition(b"://")[2]
        cut = min(at for at in (rest.find(b"/"), rest.find(b"?"), len(rest)) if at >= 0)
        authority, path = rest[:cut], rest[cut:]
        path = path if path.startswith(b"/") else b"/" + path
    expected = path.partition(b"?")[::2]
    if (mine.path, mine.query) != expected:
        raise Disagreement(f"path and query: {mine.path!r}, {mine.query!r} of {mine.target!r}")
    if mine.host != (authority or dict(headers).get(b"host", b"")):
        raise Disagreement(f"host: {mine.host!r} of {other.head!r}")
    options = {
        option.strip().lower() for name, value in headers if name == b"connection" for option in value.split(b",")
    }
    upgrades = [value.lower() for name, value in headers if name == b"upgrade"]
    may = mine.http11 and mine.length == 0 and b"upgrade" in options and b"close" not in options
    if mine.upgrade != (upgrades[-1] if may and upgrades else b""):
        raise Disagreement(f"upgrade: {mine.upgrade!r} of {other.head!r}")


def _why_refused(mine: OurReading, refusal: ProtocolError, other: Theirs, stream: bytes) -> Iterable[str]:
    """We refused a request: the first one that is not complete. So must they, or there is a reason."""
    at = len(mine.requests) - (not mine.requests[-1].complete if mine.requests else 0)
    if at >= len(other.requests):
        if not other.refusal:
            raise Disagreement(f"we refuse what h11 waits for: {refusal} ({refusal.reason}) in {stream!r}")
        return
    request = other.requests[at]
    if at == len(mine.requests):
        found = [each.name for each in HEADS if refusal.reason in each.says and each.test(request)]
    elif other.refusal and not request.complete:
        return
    else:
        found = _why_content_refused(refusal, request, stream)
    if not found:
        raise Disagreement(f"we refuse what h11 takes: {refusal} ({refusal.reason}); h11: {request}")
    yield found[0]


def _why_content_refused(refusal: ProtocolError, request: TheirRequest, stream: bytes) -> list[str]:
    stream += _END
    at = ours(byte_by_byte(stream)).refused_at - request.content_at
    kind, text = chunk_line(stream[request.content_at :], at)
    reasons = {"line": CHUNK_LINES, "trailers": TRAILERS}.get(kind, ())
    return [each.name for each in reasons if refusal.reason in each.says and each.test(text)]


def _why_they_refuse_content(other: Theirs, stream: bytes) -> str | None:
    """The reason for which h11 refused chunks, or trailers, that are fine."""
    if not (other.refusal and other.requests) or other.requests[-1].complete or other.requests[-1].length is not None:
        return None
    again, at = Theirs(), -1
    while not again.refusal:
        at += 1
        again.feed(stream[at : at + 1])
    request = again.requests[-1]
    kind, text = chunk_line(stream[request.content_at :], at - request.content_at)
    if kind == "line":
        return BLANKS.name if BLANKS.test(text) else None
    without = without_framing(text)
    if kind != "trailers" or without == text or theirs([stream[: at + 1 - len(text)] + without]).refusal:
        return None
    return DROPPED_UNREAD


TARGET = Target("fuzz.requests", check, inputs(), seeds, WORDS)

if __name__ == "__main__":
    command(TARGET)
