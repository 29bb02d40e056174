"""The reader of multipart bodies beside python-multipart: ``python -m fuzz.parts``."""

from __future__ import annotations

from fuzz.command import command
from fuzz.part_inputs import BOUNDARIES, WORDS, inputs, seeds
from fuzz.part_readings import Part, Reading, Theirs, ours, we_refuse_at
from fuzz.part_reasons import BEHIND, EMPTY_PART, NAMES, REASONS, place_of
from fuzz.target import Disagreement, Target, byte_by_byte, decode


def check(data: bytes) -> list[str]:
    """Read an input in several ways. See :class:`fuzz.target.Target`."""
    flags, pieces = decode(data)
    boundary = BOUNDARIES[flags % len(BOUNDARIES)]
    body = b"".join(pieces)
    mine = ours(pieces, boundary)
    for way, others in (("whole", [body]), ("byte by byte", byte_by_byte(body))):
        other = ours(others, boundary)
        if other != mine:
            raise Disagreement(f"two readings in pieces {pieces} and {way}: {mine} and {other}")
    return _compared(body, boundary, mine, Theirs(boundary).read(body))


def _compared(body: bytes, boundary: bytes, mine: Reading, theirs: Reading) -> list[str]:
    shown = f"we: {mine}; python-multipart: {theirs}"
    reasons: list[str] = []
    both = 0
    we_refuse = mine.status is not None
    at = we_refuse_at(body, boundary) if we_refuse else theirs.at
    place = None if at is None else place_of(body, at, boundary)
    if we_refuse and place is not None and place.kind == BEHIND and mine.parts:
        mine.parts[-1].cut_by_refusal = True
    for our, their in zip(mine.parts, theirs.parts, strict=False):
        if our.complete and not our.content and their.content.startswith(b"--" + boundary):
            return [*reasons, EMPTY_PART]
        if our.cut_by_refusal or not (our.complete and their.complete):
            if not (their.content.startswith(our.content) or our.content.startswith(their.content)):
                raise Disagreement(f"part {both + 1} differs: {shown}")
            break
        if (our.headers, our.content) != (their.headers, their.content):
            raise Disagreement(f"part {both + 1} differs: {shown}")
        if (our.name, our.filename) != (their.name, their.filename):
            reasons.append(_why_named(our, shown))
        both += 1
    if place is None and len(mine.parts) != len(theirs.parts):
        raise Disagreement(f"parts differ: {shown}")
    if place is None or (we_refuse and theirs.status is not None):
        return reasons
    read = mine if we_refuse else theirs
    if sum(part.complete and not part.cut_by_refusal for part in read.parts) != both:
        raise Disagreement(f"parts differ before byte {at}: {shown}")
    for reason in REASONS:
        if (reason.we_refuse, reason.kind) == (we_refuse, place.kind) and reason.test(place):
            return [*reasons, reason.name]
    who = "we refuse" if we_refuse else "python-multipart refuses"
    raise Disagreement(f"{who} byte {at}, at {place}, and the other does not: {shown}")


def _why_named(part: Part, shown: str) -> str:
    value = dict(part.headers)[b"content-disposition"]
    for reason in NAMES:
        if reason.test(value):
            return reason.name
    raise Disagreement(f"names differ: {shown}")


TARGET = Target("fuzz.parts", check, inputs(), seeds, WORDS)

if __name__ == "__main__":
    command(TARGET)
