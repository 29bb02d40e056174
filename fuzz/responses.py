"""The reader of responses beside h11: ``python -m fuzz.responses``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fuzz.command import command
from fuzz.request_reasons import chunk_line, without_framing
from fuzz.response_inputs import ENDS, WORDS, inputs, seeds
from fuzz.response_readings import ASKED, Reading, Theirs, ours, theirs
from fuzz.response_reasons import (
    BLANKS,
    CHUNK_LINES,
    DROPPED,
    DROPPED_UNREAD,
    HEADS,
    KEPT_ALIVE,
    NOT_IN_TRAILERS,
    SOONER,
    TRAILERS,
    heads,
)
from fuzz.target import Disagreement, Target, byte_by_byte, decode

_END = b"\r\n\r\n"  # completes a head, a chunk line or trailers


def check(data: bytes) -> list[str]:
    """Read an input in several ways. See :class:`fuzz.target.Target`."""
    flags, pieces = decode(data)
    asked, ends = ASKED[flags & 3], bool(flags & ENDS)
    stream = b"".join(pieces)
    mine = ours(asked, pieces, ends=ends)
    for way, reading in (
        ("whole", ours(asked, [stream], ends=ends)),
        ("byte by byte", ours(asked, byte_by_byte(stream), ends=ends)),
        ("again", ours(asked, pieces, ends=ends)),  # the head is remembered by now
    ):
        _same(mine, reading, f"in pieces {pieces} and {way}")
    return list(_compare(asked, mine, theirs(asked, pieces, ends=ends), stream, ends=ends))


def _same(mine: Reading, other: Reading, how: str) -> None:
    """Whatever was refused, what came before it may have been told in part."""
    if bool(mine.refusal) != bool(other.refusal):
        raise Disagreement(f"two readings {how}: {mine} and {other}")
    keep_alive = mine.keep_alive if mine.excess and mine.complete else other.keep_alive
    same = replace(other, refused_at=mine.refused_at, why=mine.why, refusal=mine.refusal, keep_alive=keep_alive)
    if mine != (replace(same, content=mine.content) if mine.refusal else same):
        raise Disagreement(f"two readings {how}: {mine} and {other}")


def _compare(asked: str, mine: Reading, other: Reading, stream: bytes, *, ends: bool) -> Iterable[str]:
    if mine.interim != other.interim[: len(mine.interim)] and len(mine.interim) <= len(other.interim):
        raise Disagreement(f"interim: {mine.interim} and {other.interim}")
    if mine.final is not None and other.final is not None and mine.final != other.final:
        raise Disagreement(f"head: {mine.final} and {other.final}")
    shorter = min(len(mine.content), len(other.content))
    if mine.content[:shorter] != other.content[:shorter]:
        raise Disagreement(f"content: {mine.content!r} and {other.content!r}")
    if mine.refusal and other.refusal:
        return
    if mine.refusal:
        yield _why_refused(asked, mine, stream, ends=ends)
    elif other.refusal:
        reason = _why_they_refuse(asked, stream, ends=ends)
        if reason:
            yield reason
        elif mine.complete or not ours(asked, [stream, _END], ends=False).refusal:
            raise Disagreement(f"h11 refuses what we take: {other.refusal}; we: {mine}")
    else:
        yield from _compare_ends(mine, other)


def _compare_ends(mine: Reading, other: Reading) -> Iterable[str]:
    """Neither refused anything: both came as far, to the byte."""
    for part in ("interim", "final", "content", "complete", "rest", "excess"):
        if getattr(mine, part) != getattr(other, part):
            raise Disagreement(f"{part}: {mine} and {other}")
    if not mine.complete:
        return
    kept = [(name, value) for name, value in other.trailers if name not in NOT_IN_TRAILERS]
    if mine.trailers != kept:
        raise Disagreement(f"trailers: {mine.trailers} and {other.trailers}")
    if kept != other.trailers:
        yield DROPPED
    if not other.excess and mine.keep_alive is not other.keep_alive:
        assert mine.final
        options = b",".join(value for name, value in mine.final.headers if name == b"connection").lower()
        if not mine.keep_alive or mine.final.http11 or b"keep-alive" not in options or b"close" in options.split(b","):
            raise Disagreement(f"keep_alive: {mine} and {other}")
        yield KEPT_ALIVE


def _why_refused(asked: str, mine: Reading, stream: bytes, *, ends: bool) -> str:
    """We refused what h11 takes or waits for; there has to be a reason."""
    assert mine.why
    says = mine.why.reason
    if mine.final is None:
        number = len(mine.interim)
        found = [each for each in heads(stream) if each[0] < each[1]]
        if number >= len(found):
            raise Disagreement(f"we refuse what h11 waits for: {mine}")
        start, end = found[number]
        head = stream[start:end]
        for each in HEADS:
            if says in each.says and each.test(head, number):
                return each.name
        late = Theirs(asked)  # what we refuse at once, h11 may refuse when it is complete
        for piece in (stream, _END):
            late.feed(piece)
        if not late.reading.refusal:
            raise Disagreement(f"we refuse what h11 takes: {mine}; the head: {head!r}")
        return SOONER
    content = stream[heads(stream)[-1][1] :]
    at = ours(asked, byte_by_byte(stream), ends=ends).refused_at - (len(stream) - len(content))
    kind, text = chunk_line(content + _END, at)
    reasons = {"line": CHUNK_LINES, "trailers": TRAILERS}.get(kind, ())
    for reason in reasons:
        if says in reason.says and reason.test(text):
            return reason.name
    late = Theirs(asked)
    for piece in (stream, _END):
        late.feed(piece)
    if not late.reading.refusal:
        raise Disagreement(f"we refuse content that h11 takes: {mine}; {kind}: {text!r}")
    return SOONER


def _why_they_refuse(asked: str, stream: bytes, *, ends: bool) -> str:
    """The reason for which h11 refused chunks, or trailers, that are fine; empty: none."""
    again, at = Theirs(asked), -1
    while not again.reading.refusal and at < len(stream):
        at += 1
        again.feed(stream[at : at + 1])
    if again.reading.final is None:
        return ""
    content_at = heads(stream)[-1][1]
    kind, text = chunk_line(stream[content_at:], at - content_at)
    if kind == "line":
        return BLANKS.name if BLANKS.test(text) else ""
    without = without_framing(text)
    if kind != "trailers" or without == text:
        return ""
    return "" if theirs(asked, [stream[: at + 1 - len(text)] + without], ends=False).refusal else DROPPED_UNREAD


TARGET = Target("fuzz.responses", check, inputs(), seeds, WORDS)

if __name__ == "__main__":
    command(TARGET)
